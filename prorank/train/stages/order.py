"""Stage `order`: reinforcement learning on rankings, the measure itself as the reward.

No text is written and no score is an action: the action is the whole order that a query's scores make by chance, and its
expected reward has an exact gradient (see `orders`), from the one forward that the score stage makes, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ...data.examples import Group
from ...engine.packing import Batch
from ...engine.sampling import rng_of_key
from ...prompts.prompt import AnyPromptEncoder
from ..dev_set import Dev
from ..objectives.plackett_luce import expected_reward, order_kl, order_log_probs, placed_rewards, policy_weights, sample_orders
from ..reference_policy import Reference
from ..settings.stage_settings import Order
from .score import ListExample, ScoreStage, lists_of
from .thought_cache import ThoughtCache

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class OrderStage(ScoreStage):
    """Units are those of stage `score`; the loss is its supervised losses, less the reward, plus the divergence.

    Args:
        model: the policy; its state now is the reference.
        others: see ScoreStage.
    """

    settings: Order

    def __init__(
        self, groups: list[Group], bound: AnyPromptEncoder, settings: Order, model: PreTrainedModel, dev: Dev | None, bf16: bool =
        False,
        thoughts: ThoughtCache | None = None,
    ) -> None:  # fmt: skip
        super().__init__(groups, bound, settings, dev, bf16, thoughts)
        self.reference = Reference(model, settings, bf16, self.logits) if settings.kl_coef else None

    def extra_loss(
        self, model: PreTrainedModel, batch: Batch, units: list[ListExample], scores: tuple[torch.Tensor, ...]
    ) -> tuple[torch.Tensor, dict[str, float]]:
        s = self.settings
        before = self._before(model, batch, units)
        gain, divergence = scores[0].new_zeros(()), scores[0].new_zeros(())
        reward, greedy = 0.0, 0.0
        keys = [key for unit in units for key in unit.keys]
        for place, (key, group, row) in enumerate(zip(keys, lists_of(units), scores)):
            grades = torch.tensor(group.labels, device=row.device)
            now = row / s.temperature
            more, mean = self.policy_objective(now, grades, key)
            gain, reward = gain + more / len(keys), reward + mean / len(keys)
            best = row.detach().argsort(descending=True)[None].cpu()
            greedy += float(placed_rewards(grades, best, s.reward, s.depth, s.gain).sum()) / len(keys)
            if before:
                divergence = divergence + order_kl(now, before[place] / s.temperature, s.depth) / len(keys)
        figures = {"reward": reward, "reward_sorted": greedy}
        if before:
            figures["kl"] = float(divergence.detach())
        return s.kl_coef * divergence - s.reward_weight * gain, figures

    def policy_objective(self, scores: torch.Tensor, grades: torch.Tensor, key: str) -> tuple[torch.Tensor, float]:
        """(what to raise, the mean reward) for the scores [n] of one list."""
        s = self.settings
        if s.advantage == "exact":
            expected = expected_reward(scores, grades, s.reward, s.depth, s.gain)
            return expected, float(expected.detach())
        orders = sample_orders(scores, s.group_size, rng_of_key(f"order/{s.seed}/{key}"))
        rewards = placed_rewards(grades, orders, s.reward, s.depth, s.gain)
        weights = policy_weights(rewards, s.advantage).to(scores.device)
        logs = order_log_probs(scores, orders.to(scores.device), s.depth)
        return (weights * logs).sum() / s.group_size, float(rewards.sum(-1).mean())

    def _before(self, model: PreTrainedModel, batch: Batch, units: list[ListExample]) -> tuple[torch.Tensor, ...]:
        """The reference's scores of each list; none without a divergence."""
        if not self.reference:
            return ()
        with self.reference.of(model) as (reference, forward):
            return self.scores(forward(reference, batch), units)
