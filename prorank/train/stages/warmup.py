"""Stage `warmup`: teach a model to answer "0" or "1", and the right one, by reinforcement (ProRank stage 1, arXiv 2506.03487).

One forward pass of the prompt and one backward pass serve a whole group, where a general GRPO trainer pays for G prefills, G
reference passes, and G forward and backward passes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ...data.balanced_pairs import balanced_pairs
from ...data.examples import Group, list_groups, sample_lists
from ...engine.flat_attention import is_flat
from ...engine.packing import Batch, collate, pack
from ...prompts.prompt import AnyPromptEncoder, Encoded, ListPromptEncoder
from ..dev_set import DevSet, check_dev, dev_of
from ..forward import Logits
from ..micro_batches import comes_again, labels_in_turn
from ..objectives.answer_balance import answer_entropy, answer_shares, balance_advantages, balance_loss, label_weights
from ..objectives.one_token_grpo import (
    Rewards,
    advantages,
    class_log_probs,
    clipped_surrogate,
    exact_kl,
    expected_weights,
    exploration_policy,
    near_miss_tokens,
    rewards_of_tokens,
    sample_tokens,
    valid_answers,
)
from ..reference_policy import Reference
from ..settings.stage_settings import Warmup
from ..training_data import bind_direct, read_ranking_data
from .old_policy import OldPolicy
from .stage_spec import StageInputs, StageSpec

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MAX_CACHED_REFERENCES = 4096  # rows of reference logits kept in memory when prompts come again


@dataclass(frozen=True)
class WarmupExample:
    """One prompt with its label.

    Attributes:
        key: place in the run.
        row: place in the data (-1: a list, drawn anew each time).
        prompt: the encoded prompt.
        label: index of the right answer.
        answers: number of answers that the prompt has.
    """

    key: int
    row: int
    prompt: Encoded
    label: int
    answers: int = 2

    @property
    def length(self) -> int:
        return len(self.prompt.ids)


class WarmupStage:
    """Examples are balanced (query, document, label) prompts, or lists whose best document is the right answer.

    The loss is the negated exact or sampled group objective, plus the balance term, plus the KL divergence.

    Args:
        groups: training data.
        encoder: the prompt, of one document or of several.
        settings: see Warmup.
        model: the policy; its present state is the reference.
        dev: dev set, or None.
        bf16: compute products in bf16, and keep the reference in bf16.
    """

    cpu_examples = 16
    arrange = staticmethod(labels_in_turn)

    def __init__(
        self, groups: list[Group], encoder: AnyPromptEncoder, settings: Warmup, model: PreTrainedModel, dev: DevSet | None,
        bf16: bool,
    ) -> None:  # fmt: skip
        self.listwise = isinstance(encoder, ListPromptEncoder)
        self.lists = list_groups(groups) if self.listwise else []
        self.pairs = [] if self.listwise else balanced_pairs(groups, settings.seed)
        self.encoder, self.settings, self.dev = encoder, settings, dev
        self.logits = Logits(settings, bf16)
        self.rewards = Rewards(settings.format_reward, settings.relevance_reward, settings.near_miss_reward)
        self.near_miss = near_miss_tokens(encoder.tokenizer, encoder.answer_ids)
        self.reference = Reference(model, settings, bf16, self.logits) if settings.beta else None
        again = not self.listwise and comes_again(settings, len(self), settings.updates)
        self.caches_reference = again and len(self) <= MAX_CACHED_REFERENCES
        self._reference_rows: dict[int, torch.Tensor] = {}
        self._old = OldPolicy(settings)
        self._pass: tuple[int, list[Group]] = (-1, [])

    def __len__(self) -> int:
        return len(self.lists or self.pairs)

    def example(self, index: int) -> WarmupExample:
        epoch, row = divmod(index, len(self))
        if isinstance(self.encoder, ListPromptEncoder):
            group = self._lists_of(epoch)[row]
            prompt = self.encoder.encode(group.query, list(group.documents)).whole
            return WarmupExample(index, -1, prompt, group.labels.index(max(group.labels)), len(group.documents))
        query, document, label = self.pairs[row]
        return WarmupExample(index, row, self.encoder.encode(query, document), int(label > 0))

    def _lists_of(self, epoch: int) -> list[Group]:
        """The lists of a pass over the data."""
        if self._pass[0] != epoch:
            self._pass = (epoch, sample_lists(self.lists, self.settings.list_size, self.settings.seed, epoch))
        return self._pass[1]

    def loss(self, model: PreTrainedModel, examples: list[WarmupExample]) -> tuple[torch.Tensor, dict[str, float]]:
        """Mean loss over prompts, and its parts."""
        device = next(model.parameters()).device
        packs = [pack([example.prompt], [i], share=False) for i, example in enumerate(examples)]
        batch = collate(packs, self.encoder.tokenizer.pad_token_id, is_flat(model)).to(device)
        logits = self.logits(model, batch)  # [B, V]
        labels = torch.tensor([example.label for example in examples], device=device)
        counts = torch.tensor([example.answers for example in examples], device=device)
        log_p = class_log_probs(logits, labels, self.encoder.answer_ids, self.near_miss, counts)  # [B, 4]
        values = self.rewards.of_classes().to(device)
        if self.settings.advantage == "exact":
            objective, idle = self._exact_objective(examples, log_p, values, counts)
        else:
            objective, idle = self._sampled_objective(examples, logits, labels, values, counts)
        figures = self._figures(logits, log_p, values, labels, counts) | {"zero_variance": idle}
        loss = -objective
        if not self.listwise:
            balance = balance_loss(answer_shares(logits, self.encoder.answer_ids), label_weights(labels))
            entropy = answer_entropy(logits, self.encoder.answer_ids)
            figures |= {"balance": float(balance.detach()), "answer_entropy": float(entropy.detach())}
            loss = loss - self.settings.entropy_weight * entropy
            if self.settings.advantage == "exact":
                loss = loss + self.settings.balance_weight * balance
        if self.reference:
            divergence = exact_kl(logits, self._reference_logits(self.reference, model, examples, batch)).mean()
            loss = loss + self.settings.beta * divergence
            figures["kl"] = float(divergence.detach())
        documents = sum(example.answers if example.row < 0 else 1 for example in examples) / len(examples)
        return loss, figures | {"loss_policy": float(-objective.detach()), "documents": documents}

    def _exact_objective(
        self, examples: list[WarmupExample], log_p: torch.Tensor, values: torch.Tensor, counts: torch.Tensor
    ) -> tuple[torch.Tensor, float]:
        """(expected group objective, probability that a group has no variance)."""
        s, keys = self.settings, [example.key for example in examples]
        old = self._old.log_probs(keys, log_p.detach())
        sampling = exploration_policy(old, s.exploration_rate, counts)
        weights = expected_weights(sampling, values, s.num_generations, s.scale_rewards)
        idle = float((sampling.exp() ** s.num_generations).sum(1).mean()) if s.num_generations else 0.0
        return clipped_surrogate(log_p, old, weights, s.epsilon).sum(1).mean(), idle

    def _sampled_objective(
        self, examples: list[WarmupExample], logits: torch.Tensor, labels: torch.Tensor, values: torch.Tensor, counts: torch.Tensor
    ) -> tuple[torch.Tensor, float]:
        """(objective of sampled groups, share of groups without variance)."""
        s, ids, keys = self.settings, self.encoder.answer_ids, [example.key for example in examples]
        sampled = [
            sample_tokens(row, s.num_generations, _generator(s.seed, example.key), ids[: example.answers], s.exploration_rate)
            for row, example in zip(logits, examples)
        ]
        tokens = self._old.tokens(keys, sampled)
        rewards = rewards_of_tokens(tokens, labels, ids, self.near_miss, values, counts)
        gains = advantages(rewards, s.scale_rewards).to(logits.device)
        if not self.listwise:
            gains = gains + s.balance_weight * balance_advantages(tokens, logits, ids, label_weights(labels))
        now = logits.log_softmax(-1).gather(1, tokens.to(logits.device))  # [B, G]
        old = self._old.log_probs(keys, now.detach())
        idle = float((rewards.std(-1) == 0).float().mean())
        return clipped_surrogate(now, old, gains, s.epsilon).mean(1).mean(), idle

    def _figures(
        self, logits: torch.Tensor, log_p: torch.Tensor, values: torch.Tensor, labels: torch.Tensor, counts: torch.Tensor
    ) -> dict[str, float]:
        with torch.no_grad():
            p, ids = log_p.exp(), list(self.encoder.answer_ids)
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

    def _reference_logits(
        self, reference: Reference, model: PreTrainedModel, examples: list[WarmupExample], batch: Batch
    ) -> torch.Tensor:
        """Logits [B, V] of the policy as it was before the stage; cached if the data are few enough to come again."""
        rows = self._reference_rows
        if all(example.row in rows for example in examples):
            return torch.stack([rows[example.row] for example in examples]).to(batch.rows.device).float()
        with reference.of(model) as (frozen, forward):
            logits = forward(frozen, batch)
        if self.caches_reference:
            rows.update({example.row: row.half().cpu() for example, row in zip(examples, logits)})
        return logits

    def evaluate(self, model: PreTrainedModel) -> dict[str, float]:
        if not self.dev:
            return {}
        measures = self.dev.measure(model)
        # The stage teaches form and binary judgement: weights are best where both are.
        score = measures["ndcg@10"] if self.listwise else measures["format_rate"] + measures["accuracy"]
        return measures | {"score": score}


def _generator(seed: int, key: int) -> torch.Generator:
    """Random numbers of one example: independent of batch, process and what was drawn before."""
    return torch.Generator().manual_seed((seed * 1_000_003 + key) % 2**63)


def _check(examples: list[Group], dev_examples: list[Group], settings: Warmup) -> None:
    balanced_pairs(examples, settings.seed)
    check_dev(dev_examples, settings.gain)


def _build(inputs: StageInputs) -> WarmupStage:
    dev = dev_of(inputs.dev_examples, inputs.encoder, inputs.bf16, inputs.settings.gain)
    return WarmupStage(inputs.examples, inputs.train_encoder, inputs.settings, inputs.model, dev, inputs.bf16)


WARMUP = StageSpec(Warmup, read_ranking_data, _check, bind_direct, _build)
