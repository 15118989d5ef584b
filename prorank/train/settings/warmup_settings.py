"""Settings of stage `warmup`."""

from __future__ import annotations

from pydantic.dataclasses import dataclass

from ...evaluate.gains import LINEAR, check_gain
from ...prompts.list_encoder import MAX_DOCUMENTS
from ...utils.config_files import STRICT, Number, Text
from .common_settings import Settings, check_list_size, require


@dataclass(config=STRICT)
class Warmup(Settings):
    """Prompt warm-up by one-token GRPO (ProRank stage 1, arXiv 2506.03487)."""

    stage: Text = "warmup"
    advantage: Text = "exact"
    """How a group enters the loss: exact (its expectation in closed form) or sampled (tokens are drawn)."""
    num_generations: int = 8
    """Samples per prompt; 0, with advantage exact only, is the limit of large groups."""
    scale_rewards: Text = "none"
    """Scaling of advantages: group (divide by the group's standard deviation), none, or leave-one-out."""
    format_reward: Number = 0.5
    """Reward of a token that is one of the answers."""
    relevance_reward: Number = 1.0
    """Additional reward of the labelled answer."""
    near_miss_reward: Number = 0.5
    """Share of format_reward for a token that differs from an answer by blanks only, such as " 1"."""
    exploration_rate: Number = 0.0
    """Share of samples that are replaced by a random answer, for a base that never answers in form."""
    balance_weight: Number = 2.0
    """Weight of the cross-entropy between equal shares of both answers and their mean in a batch, so that the model does not give
    every prompt the same answer; not for prompts of several documents."""
    entropy_weight: Number = 0.2
    """Weight of the mean entropy of the two answers, so that their log-odds grow with the probability of relevance, and no answer
    becomes certain; not for prompts of several documents."""
    beta: Number = 0.02
    """Weight of the exact KL divergence from the starting model at the answer; 0 saves the reference's forward pass."""
    updates: int = 1
    """Optimiser steps on each batch."""
    epsilon: Number = 0.2
    """Clip range of the policy ratio, which matters where updates is above 1."""
    list_size: int | list[int] = 5
    """Documents of a prompt that shows several, or [minimum, maximum] to draw from."""
    gain: Text = LINEAR
    """Gain of a label in the dev set's nDCG: linear (the label, as prorank evaluate counts) or exponential (2^label - 1)."""

    def check(self) -> None:
        super().check()
        check_gain(self.gain, "key 'gain'")
        exact, size = self.advantage == "exact", self.num_generations
        require(self.advantage in ("exact", "sampled"), "advantage", "must be exact or sampled")
        known = self.scale_rewards in ("group", "none", "leave-one-out")
        require(known, "scale_rewards", "must be group, none or leave-one-out")
        fits = size >= 2 or (size == 0 and exact)
        require(fits, "num_generations", "must be at least 2 (0, the limit, only with advantage exact)")
        require(not exact or size <= 32, "num_generations", "above 32 is costly to sum out; use 0")
        require(0 <= self.exploration_rate < 1, "exploration_rate", "must lie in 0..1")
        require(self.updates >= 1, "updates", "must be at least 1")
        require(self.beta >= 0, "beta", "must not be negative")
        require(self.balance_weight >= 0, "balance_weight", "must not be negative")
        require(self.entropy_weight >= 0, "entropy_weight", "must not be negative")
        pairs = not self.balance_weight or self.micro_batch != 1
        require(pairs, "micro_batch", "must be above 1 with balance_weight, which compares the prompts of a micro-batch")
        require(0 < self.epsilon < 1, "epsilon", "must lie between 0 and 1")
        check_list_size(self.list_size, MAX_DOCUMENTS)
