"""Stage `reason`: reinforcement learning of thoughts with rule rewards, by PPO or GRPO (Rerank-R0 stage A, Rank-R1).

The old log-probabilities are computed in the first pass over a rollout by the same forward pass, so the policy ratio is exactly 1
there. A pass over a batch is one optimiser step, so all rows of a pass use the same weights.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from ...data.balanced_pairs import balanced_pairs
from ...data.examples import Group
from ...engine.flat_attention import is_flat
from ...engine.packing import Batch, collate, pack_completions
from ...prompts.prompt import AnyPromptEncoder, PairPromptEncoder, Prompt
from ..forward import Logits
from ..micro_batches import by_length
from ..objectives.one_token_grpo import advantages, clipped_surrogate
from ..objectives.ppo_grpo import (
    estimated_kl,
    gae,
    is_clipped,
    mask_of,
    padded,
    token_rewards,
    value_loss,
    weights_of,
    whitened,
)
from ..reference_policy import Reference
from ..settings.common_settings import require
from ..settings.stage_settings import Reason
from ..training_data import bind_thinking, read_ranking_data
from ..value_head import PolicyWithValue, policy_of, values_of
from .reason_balance import AnswerBalance
from .reason_tasks import MAX_DEV_PROMPTS, RolloutPrompt, task_of
from .rollouts import Episode, Rollouts, accuracy_by_label, by_episode, concatenated, figures_of
from .stage_spec import StageInputs, StageSpec
from .token_log_probs import token_log_probs

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class ReasonStage:
    """Examples are prompts of a task, see `reason_tasks`.

    Each prompt has `num_generations` completions, which are generated and rewarded before the first pass over its batch.

    Args:
        groups: training data.
        encoder: a thinking prompt.
        settings: see Reason.
        model: the policy, in a PolicyWithValue for PPO; its initial weights are the reference.
        dev: held-out groups; may be empty.
        bf16: compute products in bf16, including generation and reference.
    """

    arrange = staticmethod(by_length)

    def __init__(
        self, groups: list[Group], encoder: AnyPromptEncoder, settings: Reason, model: torch.nn.Module, dev: list[Group], bf16: bool
    ) -> None:
        policy = policy_of(model)
        self.task = task_of(groups, encoder, settings)
        self.dev = task_of(dev, encoder, settings) if dev else None
        self.encoder, self.settings = encoder, settings
        self.rollouts = Rollouts(encoder, settings, self.task, bf16)
        self.flat, self.device = is_flat(policy), next(policy.parameters()).device
        self.logits = Logits(settings, bf16)
        self.reference = Reference(policy, settings, bf16, self.logits) if settings.beta else None
        self.cpu_examples = 4 if settings.num_generations == 1 else 1
        self.balance = AnswerBalance(encoder) if settings.balance_weight and isinstance(encoder, PairPromptEncoder) else None
        self._batch: tuple[int, dict[int, Episode]] = (-1, {})  # index of the batch, its episodes by key of the example
        self._batch_figures: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self.task)

    def example(self, index: int) -> RolloutPrompt:
        """See `Stage.example`."""
        return self.task.example(index)

    def loss(self, model: torch.nn.Module, examples: list[RolloutPrompt]) -> tuple[torch.Tensor, dict[str, float]]:
        """Return (these prompts' part of the batch's loss, times the number of parts; figures)."""
        s, policy = self.settings, policy_of(model)
        episodes = [self._episodes(model, examples[0].key)[example.key] for example in examples]
        batch, targets, sizes = self._collated(episodes)
        hidden = self.logits.hidden(policy, batch)  # [N, H], N sampled tokens of all completions
        now, entropy = token_log_probs(policy, hidden, targets, s.temperature)
        for episode, rows in zip(episodes, by_episode(now.detach(), sizes, episodes)):
            episode.old = episode.old or rows
        old = torch.cat([row for e in episodes for row in e.old])
        gains = torch.cat([row for e in episodes for row in e.advantages]).to(now.device)
        weights = self._weights(sizes).to(now.device).repeat_interleave(torch.tensor(sizes, device=now.device))
        parts = {"loss_policy": -(clipped_surrogate(now, old, gains, s.epsilon, s.epsilon_high) * weights).sum()}
        if self.balance:
            parts["loss_balance"] = s.balance_weight * self.balance.loss(policy, episodes, hidden)
        if s.algorithm == "ppo":
            parts["loss_value"] = self._value_loss(values_of(model, hidden), episodes, weights)
        elif self.reference:
            parts["loss_kl"] = self._kl_loss(now, old, episodes, weights)
        shares = s.batch_size / len(examples)  # the trainer averages the parts of a batch
        loss = shares * sum(parts.values(), start=now.new_zeros(()))
        clipped = is_clipped(now.detach(), old, gains, s.epsilon, s.epsilon_high)
        figures = figures_of(episodes) | {name: float(part.detach()) * shares for name, part in parts.items()}
        return loss, figures | self._batch_figures | {
            "clip_share": float(clipped.float().mean()),
            "ratio": float((now.detach() - old).exp().mean()),
            "entropy": float(entropy.mean()),
            "documents": 1.0,
            "tokens": sum(map(len, batch.inputs["input_ids"])) / len(examples),
        }

    def _value_loss(self, values: torch.Tensor, episodes: list[Episode], weights: torch.Tensor) -> torch.Tensor:
        """Return the weighted loss of values [N] with the returns as targets."""
        old, returns = (torch.cat([row for e in episodes for row in rows(e)]) for rows in (lambda e: e.values, lambda e: e.returns))
        errors = value_loss(values, old, returns, self.settings.ppo.epsilon_value)
        return self.settings.ppo.vf_coef * (errors * weights).sum()

    def _kl_loss(self, now: torch.Tensor, old: torch.Tensor, episodes: list[Episode], weights: torch.Tensor) -> torch.Tensor:
        """Return the weighted KL divergence from the reference, from log-probabilities [N]."""
        divergence = estimated_kl(now, torch.cat([row for e in episodes for row in e.reference]))
        if self.settings.grpo.bias_correction_kl:
            divergence = divergence * (now - old).exp()
        return self.settings.beta * (divergence * weights).sum()

    def evaluate(self, model: torch.nn.Module) -> dict[str, float]:
        """Return figures of one sampled completion per held-out prompt; the score is the reward."""
        if not self.dev:
            return {}
        examples = [self.dev.example(i) for i in range(min(len(self.dev), MAX_DEV_PROMPTS))]
        episodes = self.rollouts.generate(model, examples, 1, "dev")
        figures = figures_of(episodes) | accuracy_by_label(episodes)
        return figures | {"score": figures["reward"]}

    def _collated(self, episodes: list[Episode]) -> tuple[Batch, torch.Tensor, list[int]]:
        """Return (the episodes as one batch, the sampled tokens [N], the number of sampled tokens of each completion)."""
        packs = [pack_completions(e.prompt, *e.rows, places=e.drawn) for e in episodes]
        targets = torch.tensor([row[i] for e in episodes for row, places in zip(e.rows, e.drawn) for i in places])
        sizes = [len(places) for e in episodes for places in e.drawn]
        return collate(packs, self.encoder.tokenizer.pad_token_id, self.flat).to(self.device), targets.to(self.device), sizes

    def _weights(self, sizes: list[int]) -> torch.Tensor:
        """Return the weight of each completion's tokens in the loss [R]; with PPO all tokens of the batch have equal weight."""
        of_batch = [len(places) for e in self._batch[1].values() for places in e.drawn]
        kind = "dapo" if self.settings.algorithm == "ppo" else self.settings.grpo.loss
        return weights_of(kind, sizes, sum(of_batch), len(of_batch), self.settings.max_new_tokens)

    def _episodes(self, model: torch.nn.Module, key: int) -> dict[int, Episode]:
        """Return the episodes of the batch that contains example `key`, generated and rewarded on first use."""
        s, number = self.settings, key // self.settings.batch_size
        if self._batch[0] != number:
            keys = range(number * s.batch_size, (number + 1) * s.batch_size)
            examples = [self.example(key) for key in keys]
            episodes = self.rollouts.generate(model, examples, s.num_generations, "train", number, self._add_log_probs)
            replaced = self.rollouts.replace_equal(model, examples, episodes, number, self._add_log_probs)
            self._add_advantages(episodes)
            self._batch = (number, dict(zip(keys, episodes)))
            self._batch_figures = accuracy_by_label(episodes)
            if s.dynamic_rounds:
                self._batch_figures["prompts_replaced"] = replaced / len(keys)
            if self.balance:
                self.balance.begin_batch(policy_of(model), episodes, self._hidden_of_batch(model, episodes))
                self._batch_figures["balance"] = self.balance.value
            self.rollouts.log(episodes, examples, number * s.updates + 1)
        return self._batch[1]

    @torch.no_grad()
    def _hidden_of_batch(self, model: torch.nn.Module, episodes: list[Episode]) -> list[torch.Tensor]:
        """Return the policy's hidden states [N, H] of each episode's sampled tokens."""
        return [self.logits.hidden(policy_of(model), self._collated([episode])[0]) for episode in episodes]

    @torch.no_grad()
    def _add_log_probs(self, model: torch.nn.Module, episodes: list[Episode]) -> None:
        """Add log-probabilities under policy and reference, and values, before any step."""
        s, policy, uses_values = self.settings, policy_of(model), self.settings.algorithm == "ppo"
        if not (uses_values or self.reference):
            return
        for start in range(0, len(episodes), self.cpu_examples):
            chunk = episodes[start : start + self.cpu_examples]
            batch, targets, sizes = self._collated(chunk)
            if uses_values:
                hidden = self.logits.hidden(policy, batch)
                now, _ = token_log_probs(policy, hidden, targets, s.temperature)
                self._assign(chunk, sizes, now=now, values=values_of(model, hidden))
            if self.reference:
                with self.reference.of(policy) as (reference, forward):
                    hidden = forward.hidden(reference, batch)
                    then, _ = token_log_probs(reference, hidden, targets, s.temperature)
                self._assign(chunk, sizes, reference=then)

    def _add_advantages(self, episodes: list[Episode]) -> None:
        """Add advantages of all sampled tokens of a batch (and returns, for PPO)."""
        s = self.settings
        rewards = torch.tensor([[v.reward for v in e.verdicts] for e in episodes])  # [P, G]
        sizes = [len(places) for e in episodes for places in e.drawn]
        if s.algorithm == "grpo":
            each = advantages(rewards, s.grpo.scale_rewards).flatten()
            self._assign(episodes, sizes, advantages=each.repeat_interleave(torch.tensor(sizes)))
            return
        now, values = (concatenated(episodes, name) for name in ("now", "values"))
        reference = concatenated(episodes, "reference") if self.reference else now
        now, values, reference = (padded(flat, sizes) for flat in (now, values, reference))  # [R, T]
        mask = mask_of(sizes)
        each = token_rewards(rewards.flatten(), now, reference, mask, s.beta)
        each = whitened(each, mask, shift=False) if s.ppo.whiten_rewards else each
        gains, returns = gae(each, values, mask, s.ppo.gamma, s.ppo.lam)
        self._assign(episodes, sizes, advantages=whitened(gains, mask)[mask > 0], returns=returns[mask > 0])

    def _assign(self, episodes: list[Episode], sizes: list[int], **tensors: torch.Tensor) -> None:
        """Set tensors [sum of sizes] of all sampled tokens in their episodes."""
        for name, flat in tensors.items():
            for episode, rows in zip(episodes, by_episode(flat.to(self.device), sizes, episodes)):
                setattr(episode, name, rows)


def _check(examples: list[Group], dev_examples: list[Group], settings: Reason) -> None:
    balanced_pairs(examples, settings.seed)


def _trainable(model: PreTrainedModel, settings: Reason) -> torch.nn.Module:
    return PolicyWithValue(model) if settings.algorithm == "ppo" else model


def _build(inputs: StageInputs) -> ReasonStage:
    s, dev = inputs.settings, inputs.dev_examples
    return ReasonStage(inputs.examples, inputs.train_encoder, s, inputs.model, dev, inputs.bf16)


def _bind(prompt: Prompt, tokenizer: Any, settings: Reason) -> AnyPromptEncoder:
    """Return the encoder of a thinking prompt. Raises ConfigError for settings that need a prompt of one document."""
    require(not (prompt.lists and settings.balance_weight), "balance_weight", f"is for prompts of one document, not {prompt.name}")
    return bind_thinking(prompt, tokenizer, settings)


REASON = StageSpec(Reason, read_ranking_data, _check, _bind, _build, trainable=_trainable)
