"""Stage `reason`: reinforcement learning of thoughts with rule rewards, by PPO or GRPO (Rerank-R0 stage A, Rank-R1).

The old log-probabilities are those of the first pass over a rollout, made by the same forward in the same step, so the
policy ratio there is exactly 1; a batch is one optimiser step a pass, so no row is ever older than its pass says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch

from ...data.examples import Group
from ...engine.flat_attention import is_flat
from ...engine.heads import logits_of_hidden
from ...engine.modules import body
from ...engine.packing import Batch, collate, pack_completions
from ...prompts.prompt import AnyPromptEncoder
from ..forward import Logits
from ..objectives.one_token_grpo import advantages, clipped
from ..objectives.ppo_grpo import clip_binds, estimated_kl, gae, mask_of, padded, token_rewards, value_loss, weights_of, whitened
from ..reference_policy import Reference
from ..settings.stage_settings import Reason
from .reason_tasks import DEV_PROMPTS, RolloutPrompt, task_of
from .rollouts import Episode, Rollouts, figures_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CHUNK = 2**26  # logits held at once with their gradient, in numbers


class ReasonStage:
    """Units are prompts of a task, see `tasks`; each has `group_size` completions, written and judged before the first pass over
    its batch.

    Args:
        groups: training data.
        bound: a thinking prompt.
        settings: see Reason.
        model: the policy; its state now is the reference. For PPO it gets a value head.
        dev: held-out groups; may be empty.
        bf16: products in bf16, writing and reference too.
    """

    def __init__(
        self, groups: list[Group], bound: AnyPromptEncoder, settings: Reason, model: PreTrainedModel, dev: list[Group], bf16: bool
    ) -> None:
        self.task = task_of(groups, bound, settings)
        self.dev = task_of(dev, bound, settings) if dev else None
        self.bound, self.settings = bound, settings
        self.rollouts = Rollouts(bound, settings, self.task, bf16)
        self.flat, self.device = is_flat(model), next(model.parameters()).device
        self.logits = Logits(settings, bf16)
        # The reference knows no value head, which comes after.
        self.reference = Reference(model, settings, bf16, self.logits) if settings.kl_coef else None
        if settings.algorithm == "ppo" and not hasattr(model, "value_head"):
            model.value_head = value_head(model)
        self.cpu_units = 4 if settings.group == 1 else 1
        self._batch: tuple[int, dict[int, Episode]] = (-1, {})

    def __len__(self) -> int:
        return len(self.task)

    def unit(self, index: int) -> RolloutPrompt:
        return self.task.unit(index)

    def loss(self, model: PreTrainedModel, units: list[RolloutPrompt]) -> tuple[torch.Tensor, dict[str, float]]:
        """The part of the batch's loss that these prompts have, times the number of parts, and figures."""
        episodes = [self._episodes(model, units[0].key)[u.key] for u in units]
        batch, targets, sizes = self._laid(episodes)
        hidden = self.logits.hidden(model, batch)  # [N, H], N drawn tokens of all rows
        now, entropy = token_log_probs(model, hidden, targets, self.settings.temperature)
        for episode, rows in zip(episodes, _by(now.detach(), sizes, episodes)):
            episode.old = episode.old or rows
        old = torch.cat([row for e in episodes for row in e.old])
        gains = torch.cat([row for e in episodes for row in e.gains]).to(now.device)
        weights = self._weights(sizes, units[0].key).to(now.device).repeat_interleave(torch.tensor(sizes, device=now.device))
        parts = {"loss_policy": -(clipped(now, old, gains, self.settings.cliprange) * weights).sum()}
        if self.settings.algorithm == "ppo":
            before, wanted = (torch.cat([row for e in episodes for row in getattr(e, n)]) for n in ("values", "returns"))
            errors = value_loss(values_of(model, hidden), before, wanted, self.settings.ppo.cliprange_value)
            parts["loss_value"] = self.settings.ppo.vf_coef * (errors * weights).sum()
        elif self.reference:
            divergence = estimated_kl(now, torch.cat([row for e in episodes for row in e.reference]))
            if self.settings.grpo.bias_correction_kl:
                divergence = divergence * (now - old).exp()
            parts["loss_kl"] = self.settings.kl_coef * (divergence * weights).sum()
        shares = self.settings.batch_size / len(units)  # the trainer averages the parts of a batch
        loss = shares * sum(parts.values(), start=now.new_zeros(()))
        held = clip_binds(now.detach(), old, gains, self.settings.cliprange)
        figures = figures_of(episodes) | {name: float(part.detach()) * shares for name, part in parts.items()}
        return loss, figures | {
            "clip_share": float(held.float().mean()),
            "ratio": float((now.detach() - old).exp().mean()),
            "entropy": float(entropy.mean()),
            "documents": 1.0,
            "tokens": sum(map(len, batch.inputs["input_ids"])) / len(units),
        }

    def evaluate(self, model: PreTrainedModel) -> dict[str, float]:
        """Figures of one completion for each held-out prompt, drawn as in training; the reward is the score."""
        if not self.dev:
            return {}
        units = [self.dev.unit(i) for i in range(min(len(self.dev), DEV_PROMPTS))]
        found = figures_of(self.rollouts.write(model, units, 1, "dev"))
        return found | {"score": found["reward"]}

    def _laid(self, episodes: list[Episode]) -> tuple[Batch, torch.Tensor, list[int]]:
        """(the episodes as one forward, the drawn tokens [N], how many of each row)."""
        packs = [pack_completions(e.prompt, *e.rows, places=e.drawn) for e in episodes]
        targets = torch.tensor([row[i] for e in episodes for row, places in zip(e.rows, e.drawn) for i in places])
        sizes = [len(places) for e in episodes for places in e.drawn]
        return collate(packs, self.bound.tokenizer.pad_token_id, self.flat).to(self.device), targets.to(self.device), sizes

    def _weights(self, sizes: list[int], key: int) -> torch.Tensor:
        """What each row's tokens count in the loss [R]; PPO counts every token of the batch the same."""
        everyone = [len(places) for e in self._batch[1].values() for places in e.drawn]
        kind = "dapo" if self.settings.algorithm == "ppo" else self.settings.grpo.loss
        return weights_of(kind, sizes, sum(everyone), len(everyone), self.settings.max_new_tokens)

    def _episodes(self, model: PreTrainedModel, key: int) -> dict[int, Episode]:
        """Episodes of the batch that `key` belongs to, written and judged when it is first met."""
        number = key // self.settings.batch_size
        if self._batch[0] != number:
            units = [self.unit(number * self.settings.batch_size + i) for i in range(self.settings.batch_size)]
            episodes = self.rollouts.write(model, units, self.settings.group, "train", number, self._look)
            self._gains(episodes)
            self._batch = (number, {unit.key: episode for unit, episode in zip(units, episodes)})
            self.rollouts.log(episodes, units, number * self.settings.updates + 1)
        return self._batch[1]

    @torch.no_grad()
    def _look(self, model: PreTrainedModel, episodes: list[Episode]) -> None:
        """What the policy and the reference make of what was written: log-probabilities and values, before any step."""
        wants_policy = self.settings.algorithm == "ppo"
        if not (wants_policy or self.reference):
            return
        for at in range(0, len(episodes), self.cpu_units):
            some = episodes[at : at + self.cpu_units]
            batch, targets, sizes = self._laid(some)
            if wants_policy:
                hidden = self.logits.hidden(model, batch)
                now, _ = token_log_probs(model, hidden, targets, self.settings.temperature)
                self._give(some, sizes, now=now, values=values_of(model, hidden))
            if self.reference:
                with self.reference.of(model) as (reference, forward):
                    hidden = forward.hidden(reference, batch)
                    then, _ = token_log_probs(reference, hidden, targets, self.settings.temperature)
                self._give(some, sizes, reference=then)

    def _gains(self, episodes: list[Episode]) -> None:
        """Advantages of all drawn tokens of a batch (and returns, for PPO)."""
        rewards = torch.tensor([[v.reward for v in e.verdicts] for e in episodes])  # [P, G]
        sizes = [len(places) for e in episodes for places in e.drawn]
        if self.settings.algorithm == "grpo":
            each = advantages(rewards, self.settings.grpo.scale).flatten()
            self._give(episodes, sizes, gains=each.repeat_interleave(torch.tensor(sizes)))
            return
        ppo = self.settings.ppo
        flat = {name: torch.cat([row.cpu() for e in episodes for row in getattr(e, name)]) for name in ("now", "values")}
        flat["reference"] = torch.cat([row.cpu() for e in episodes for row in e.reference]) if self.reference else flat["now"]
        rows = {name: padded(values, sizes) for name, values in flat.items()}
        mask = mask_of(sizes)
        each = token_rewards(rewards.flatten(), rows["now"], rows["reference"], mask, self.settings.kl_coef)
        each = whitened(each, mask, shift=False) if ppo.whiten_rewards else each
        gains, returns = gae(each, rows["values"], mask, ppo.gamma, ppo.lam)
        self._give(episodes, sizes, gains=whitened(gains, mask)[mask > 0], returns=returns[mask > 0])

    def _give(self, episodes: list[Episode], sizes: list[int], **figures: torch.Tensor) -> None:
        """Set figures [sum of sizes] of all drawn tokens in their episodes."""
        for name, flat in figures.items():
            for episode, rows in zip(episodes, _by(flat.to(self.device), sizes, episodes)):
                setattr(episode, name, rows)


def _by(flat: torch.Tensor, sizes: list[int], episodes: list[Episode]) -> list[list[torch.Tensor]]:
    """Values [sum of sizes] as rows of each episode."""
    rows = iter(flat.split(sizes))
    return [[next(rows) for _ in e.rows] for e in episodes]


def value_head(model: PreTrainedModel) -> torch.nn.Linear:
    """A linear map of the last hidden state to the value of what is still to come, 0 everywhere at first."""
    head = torch.nn.Linear(model.config.hidden_size, 1, device=next(model.parameters()).device)
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.zeros_(head.bias)
    return head


def values_of(model: PreTrainedModel, hidden: torch.Tensor) -> torch.Tensor:
    """Values [N] fp32 at hidden states [N, H]."""
    head = cast(torch.nn.Linear, getattr(model, "module", model).value_head)
    with torch.autocast(hidden.device.type, enabled=False):
        return torch.nn.functional.linear(hidden.float(), head.weight.float(), head.bias.float())[:, 0]


def token_log_probs(
    model: PreTrainedModel, hidden: torch.Tensor, targets: torch.Tensor, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """(log-probabilities of targets [N] after hidden states [N, H] at the sampling temperature, entropies [N] without gradient)."""

    def some(part: torch.Tensor, wanted: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = logits_of_hidden(model, part) / temperature
        total = logits.logsumexp(-1)
        with torch.no_grad():
            entropy = total - ((logits - total[:, None]).exp() * logits).sum(-1)
        return logits.gather(1, wanted[:, None])[:, 0] - total, entropy

    rows = max(1, CHUNK // len(body(model)[1].weight))
    if len(hidden) <= rows:
        return some(hidden, targets)
    parts: list[tuple[torch.Tensor, torch.Tensor]] = []
    for part, wanted in zip(hidden.split(rows), targets.split(rows)):
        # Long batches make their logits again in the backward: they would not fit into memory side by side.
        parts.append(torch.utils.checkpoint.checkpoint(some, part, wanted, use_reentrant=False))
    return torch.cat([logs for logs, _ in parts]), torch.cat([entropies for _, entropies in parts])
