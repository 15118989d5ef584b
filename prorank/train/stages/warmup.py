"""Stage `warmup`: teach a model to answer "0" or "1", and the right one, by reinforcement (ProRank stage 1).

One forward of the prompt and one backward serve a whole group, where a general GRPO trainer pays for G prefills, G
reference forwards and G forwards and backwards (reference: ProRank sec. stage 1; TRL's GRPOTrainer for comparison).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ...data.examples import Group, balanced_pairs, list_groups, sample_lists
from ...engine.flat_attention import is_flat
from ...engine.packing import Batch, collate, pack
from ...prompts.prompt import AnyPromptEncoder, Encoded, ListPromptEncoder
from ..dev_set import Dev
from ..forward import Logits
from ..micro_batches import comes_again
from ..objectives.one_token_grpo import (
    Rewards,
    advantages,
    class_log_probs,
    clipped,
    draw,
    exact_kl,
    expected_weights,
    forced,
    near_tokens,
    token_rewards,
    valid_answers,
)
from ..reference_policy import Reference
from ..settings.stage_settings import Warmup

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CACHED_REFERENCES = 4096  # rows of reference logits kept in memory, when prompts come again


@dataclass(frozen=True)
class WarmupExample:
    """One prompt with its label, the place of the right answer among `answers`; `key` is its place in the run, `row` its place in
    the data (-1: a list, drawn anew each time)."""

    key: int
    row: int
    prompt: Encoded
    label: int
    answers: int = 2

    @property
    def length(self) -> int:
        return len(self.prompt.ids)


class WarmupStage:
    """Units are balanced (query, document, label) prompts, or lists of documents whose best one's label is the right answer; the
    loss is the negated exact or sampled group objective plus KL.

    Args:
        groups: training data.
        bound: the prompt, of one document or of several.
        settings: see Warmup.
        model: the policy; its state now is the reference.
        dev: dev set, or None.
        bf16: products in bf16, and the reference kept in it.
    """

    cpu_units = 8

    def __init__(
        self, groups: list[Group], bound: AnyPromptEncoder, settings: Warmup, model: PreTrainedModel, dev: Dev | None, bf16: bool
    ) -> None:
        self.listed = isinstance(bound, ListPromptEncoder)
        self.lists = list_groups(groups) if self.listed else []
        self.pairs = [] if self.listed else balanced_pairs(groups, settings.seed)
        self.bound, self.settings, self.dev = bound, settings, dev
        self.logits = Logits(settings, bf16)
        self.rewards = Rewards(settings.format_reward, settings.relevance_reward, settings.near)
        self.near = near_tokens(bound.tokenizer, bound.answer_ids)
        self.reference = Reference(model, settings, bf16, self.logits) if settings.kl else None
        again = not self.listed and comes_again(settings, len(self), settings.updates)
        self.keeps_reference = again and len(self) <= CACHED_REFERENCES
        self._known: dict[int, torch.Tensor] = {}
        self._old: dict[int, torch.Tensor] = {}
        self._pass: tuple[int, list[Group]] = (-1, [])

    def __len__(self) -> int:
        return len(self.lists or self.pairs)

    def unit(self, index: int) -> WarmupExample:
        epoch, row = divmod(index, len(self))
        if isinstance(self.bound, ListPromptEncoder):
            group = self._drawn(epoch)[row]
            shown = self.bound.encode(group.query, list(group.documents)).whole
            return WarmupExample(index, -1, shown, group.labels.index(max(group.labels)), len(group.documents))
        query, document, label = self.pairs[row]
        return WarmupExample(index, row, self.bound.encode(query, document), int(label > 0))

    def _drawn(self, epoch: int) -> list[Group]:
        """The lists of a pass."""
        if self._pass[0] != epoch:
            self._pass = (epoch, sample_lists(self.lists, self.settings.list_size, self.settings.seed, epoch))
        return self._pass[1]

    def loss(self, model: PreTrainedModel, units: list[WarmupExample]) -> tuple[torch.Tensor, dict[str, float]]:
        """Mean loss over prompts and what it was made of."""
        device = next(model.parameters()).device
        packs = [pack([u.prompt], [i], share=False) for i, u in enumerate(units)]
        batch = collate(packs, self.bound.tokenizer.pad_token_id, is_flat(model)).to(device)
        logits = self.logits(model, batch)  # [B, V]
        labels = torch.tensor([u.label for u in units], device=device)
        counts = torch.tensor([u.answers for u in units], device=device)
        log_p = class_log_probs(logits, labels, self.bound.answer_ids, self.near, counts)  # [B, 4]
        values = self.rewards.of_classes().to(device)
        if self.settings.advantage == "exact":
            objective, idle = self._exact(units, log_p, values, counts)
        else:
            objective, idle = self._sampled(units, logits, labels, values, counts)
        figures = self._figures(logits, log_p, values, labels, counts) | {"zero_variance": idle}
        loss = -objective
        if self.reference:
            divergence = exact_kl(logits, self._reference_logits(self.reference, model, units, batch)).mean()
            loss = loss + self.settings.kl * divergence
            figures["kl"] = float(divergence.detach())
        documents = sum(u.answers if u.row < 0 else 1 for u in units) / len(units)
        return loss, figures | {"loss_policy": float(-objective.detach()), "documents": documents}

    def _exact(
        self, units: list[WarmupExample], log_p: torch.Tensor, values: torch.Tensor, counts: torch.Tensor
    ) -> tuple[torch.Tensor, float]:
        """Expected group objective, and the chance that a group has no variance."""
        s = self.settings
        old = self._old_policy(units, log_p.detach())
        policy = forced(old, s.force, counts)
        weights = expected_weights(policy, values, s.group_size, s.scaling)
        idle = float((policy.exp() ** s.group_size).sum(1).mean()) if s.group_size else 0.0
        return clipped(log_p, old, weights, s.clip).sum(1).mean(), idle

    def _sampled(
        self, units: list[WarmupExample], logits: torch.Tensor, labels: torch.Tensor, values: torch.Tensor, counts: torch.Tensor
    ) -> tuple[torch.Tensor, float]:
        """Objective of drawn groups, and the share of groups without variance."""
        s = self.settings
        ids = self.bound.answer_ids
        rows = [draw(row, s.group_size, _generator(s.seed, u.key), ids[: u.answers], s.force) for row, u in zip(logits, units)]
        if s.updates > 1:  # later passes look at the tokens that the first pass drew
            rows = [self._old.setdefault(-1 - u.key, tokens) for u, tokens in zip(units, rows)]
        tokens = torch.stack(rows)
        rewards = token_rewards(tokens, labels, ids, self.near, values, counts)
        gains = advantages(rewards, s.scaling).to(logits.device)
        now = logits.log_softmax(-1).gather(1, tokens.to(logits.device))  # [B, G]
        old = self._old_policy(units, now.detach())
        idle = float((rewards.std(-1) == 0).float().mean())
        return clipped(now, old, gains, s.clip).mean(1).mean(), idle

    def _old_policy(self, units: list[WarmupExample], now: torch.Tensor) -> torch.Tensor:
        """Log-probabilities [B, ...] of the policy that a batch was first seen by; later updates on it compare with these."""
        if self.settings.updates == 1:
            return now
        horizon = min(u.key for u in units) - 2 * self.settings.batch_size
        self._old = {key: value for key, value in self._old.items() if (key if key >= 0 else -1 - key) >= horizon}
        return torch.stack([self._old.setdefault(u.key, row) for u, row in zip(units, now)])

    def _figures(
        self, logits: torch.Tensor, log_p: torch.Tensor, values: torch.Tensor, labels: torch.Tensor, counts: torch.Tensor
    ) -> dict[str, float]:
        with torch.no_grad():
            p, ids = log_p.exp(), list(self.bound.answer_ids)
            likeliest = logits[:, ids].masked_fill(~valid_answers(ids, counts, logits), -torch.inf).argmax(-1)
            answered = torch.isin(logits.argmax(-1), torch.tensor(ids, device=logits.device))
            logs = logits.log_softmax(-1)
            return {
                "reward": float((p * values).sum(1).mean()),
                "reward_format": float((p[:, 0] + p[:, 1]).mean() * values[1]),
                "reward_relevance": float(p[:, 0].mean() * (values[0] - values[1])),
                "format_rate": float(answered.float().mean()),
                "accuracy": float((likeliest == labels).float().mean()),
                "entropy": float(-(logs.exp() * logs).sum(-1).mean()),
            }

    def _reference_logits(self, kept: Reference, model: PreTrainedModel, units: list[WarmupExample], batch: Batch) -> torch.Tensor:
        """Logits [B, V] of the policy as it was before the stage; kept when the data are small enough to come again."""
        missing = [u.row for u in units if u.row < 0 or u.row not in self._known]
        if not missing:
            return torch.stack([self._known[u.row] for u in units]).to(batch.rows.device).float()
        with kept.of(model) as (reference, forward):
            logits = forward(reference, batch)
        if self.keeps_reference:
            self._known.update({u.row: row.half().cpu() for u, row in zip(units, logits)})
        return logits

    def evaluate(self, model: PreTrainedModel) -> dict[str, float]:
        if not self.dev:
            return {}
        found = self.dev.measure(model)
        # The stage is about form and binary judgement: weights are best where both are.
        return found | {"score": found["ndcg@10"] if self.listed else found["format_rate"] + found["accuracy"]}


def _generator(seed: int, key: int) -> torch.Generator:
    """Randomness of one prompt in one pass: it does not depend on batch, process or what was drawn before."""
    return torch.Generator().manual_seed((seed * 1_000_003 + key) % 2**63)
