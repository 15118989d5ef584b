"""Stage `order`: reinforcement learning on rankings, with a ranking measure as the reward.

The action is an order of a query's documents, distributed by their scores (Plackett-Luce). Its expected reward has an exact
gradient (see `plackett_luce`), which needs a single forward pass, as in stage `score`. No text is generated.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ...data.examples import Group
from ...engine.packing import Batch
from ...engine.sampling import rng_of_key
from ...prompts.prompt import AnyPromptEncoder
from ..dev_set import DevSet
from ..objectives.plackett_luce import expected_reward, order_kl, order_log_probs, placed_rewards, policy_weights, sample_orders
from ..reference_policy import Reference
from ..settings.stage_settings import Order
from ..training_data import read_ranking_data
from .list_examples import ListExample, lists_of
from .score import ScoreStage
from .score_inputs import bind_scored, check_list_data, dev_lists, taught_lists, thoughts_of
from .stage_spec import StageInputs, StageSpec
from .thought_cache import ThoughtCache

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class OrderStage(ScoreStage):
    """Examples are those of stage `score`; the loss is the supervised losses minus the reward plus the KL divergence.

    Args:
        model: the policy; its initial weights are the reference.
        groups, encoder, settings, dev, bf16, thoughts: see ScoreStage.
    """

    settings: Order

    def __init__(
        self, groups: list[Group], encoder: AnyPromptEncoder, settings: Order, model: PreTrainedModel, dev: DevSet | None,
        bf16: bool = False, thoughts: ThoughtCache | None = None,
    ) -> None:  # fmt: skip
        super().__init__(groups, encoder, settings, dev, bf16, thoughts)
        self.reference = Reference(model, settings, bf16, self.logits) if settings.beta else None

    def extra_loss(
        self, model: PreTrainedModel, batch: Batch, examples: list[ListExample], scores: tuple[torch.Tensor, ...]
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """See `ScoreStage.extra_loss`: minus the reward, plus the KL divergence."""
        s = self.settings
        before = self._reference_scores(model, batch, examples)
        objective, divergence = scores[0].new_zeros(()), scores[0].new_zeros(())
        reward, greedy = 0.0, 0.0
        keys = [key for example in examples for key in example.keys]
        for place, (key, group, row) in enumerate(zip(keys, lists_of(examples), scores)):
            grades = torch.tensor(group.labels, device=row.device)
            now = row / s.temperature
            part, mean = self.policy_objective(now, grades, key)
            objective, reward = objective + part / len(keys), reward + mean / len(keys)
            best = row.detach().argsort(descending=True)[None].cpu()
            greedy += float(placed_rewards(grades, best, s.reward, s.depth, s.gain).sum()) / len(keys)
            if before:
                divergence = divergence + order_kl(now, before[place] / s.temperature, s.depth) / len(keys)
        figures = {"reward": reward, "reward_sorted": greedy}
        if before:
            figures["kl"] = float(divergence.detach())
        return s.beta * divergence - s.reward_weight * objective, figures

    def policy_objective(self, scores: torch.Tensor, grades: torch.Tensor, key: str) -> tuple[torch.Tensor, float]:
        """Return (objective to maximise, mean reward) of one list.

        Args:
            scores: scores [n] of its documents.
            grades: grades [n] of its documents.
            key: seed of the sampling.
        """
        s = self.settings
        if s.advantage == "exact":
            expected = expected_reward(scores, grades, s.reward, s.depth, s.gain)
            return expected, float(expected.detach())
        orders = sample_orders(scores, s.num_generations, rng_of_key(f"order/{s.seed}/{key}"))
        rewards = placed_rewards(grades, orders, s.reward, s.depth, s.gain)
        weights = policy_weights(rewards, s.advantage).to(scores.device)
        logs = order_log_probs(scores, orders.to(scores.device), s.depth)
        return (weights * logs).sum() / s.num_generations, float(rewards.sum(-1).mean())

    def _reference_scores(
        self, model: PreTrainedModel, batch: Batch, examples: list[ListExample]
    ) -> tuple[torch.Tensor, ...]:  # fmt: skip
        """Return the reference's scores of each list; empty without KL divergence."""
        if not self.reference:
            return ()
        with self.reference.of(model) as (reference, forward):
            return self.scores(forward(reference, batch), examples)


def _build(inputs: StageInputs) -> OrderStage:
    dev, groups = dev_lists(inputs), taught_lists(inputs)
    s, model = inputs.settings, inputs.model
    return OrderStage(groups, inputs.train_encoder, s, model, dev, inputs.bf16, thoughts_of(inputs))


ORDER = StageSpec(Order, read_ranking_data, check_list_data, bind_scored, _build)
