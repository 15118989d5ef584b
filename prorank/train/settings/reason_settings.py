"""Settings of stage `reason`.

`ppo` and `grpo` are separate blocks, so one file is valid for both, and `algorithm=grpo` on the command line switches.
"""

from __future__ import annotations

from dataclasses import field

from pydantic.dataclasses import dataclass

from ...evaluate.gains import check_gain
from ...prompts.list_encoder import MAX_DOCUMENTS
from ...rewards.list_rules import REARANK_GAIN
from ...rewards.rules import Rules, rules_of
from ...utils.config_files import STRICT, Number, Text
from .common_settings import Settings, check_list_size, require


@dataclass(config=STRICT)
class Ppo:
    """PPO (arXiv 1707.06347) with a value head on the last hidden state. Advantages are whitened over the batch."""

    num_ppo_epochs: int = 2
    """Passes over each batch, one optimiser step each."""
    epsilon: Number = 0.2
    """Clip range of the policy ratio: 1 - epsilon to 1 + epsilon."""
    epsilon_value: Number = 0.2
    """Clip range of a value's change."""
    vf_coef: Number = 0.2
    """Weight of the value loss."""
    gamma: Number = 1.0
    """Discount per token of generalised advantage estimation (arXiv 1506.02438)."""
    lam: Number = 0.95
    """Decay per token of generalised advantage estimation."""
    whiten_rewards: bool = False
    """Scale the token rewards to variance 1 before advantages are estimated."""


@dataclass(config=STRICT)
class Grpo:
    """GRPO (arXiv 2402.03300): the completions of a prompt are compared with each other."""

    num_generations: int = 8
    """Completions per prompt."""
    scale_rewards: Text = "group"
    """Divisor of advantages: group (the group's standard deviation), batch (that of all rewards) or none."""
    loss: Text = "grpo"
    """Weight of a token in the loss: grpo (1 / completion length), dapo (1 / batch tokens, arXiv 2503.14476) or dr_grpo
    (constant, arXiv 2503.20783)."""
    num_iterations: int = 1
    """Passes over each batch, one optimiser step each."""
    epsilon: Number = 0.2
    """Clip range of the policy ratio: 1 - epsilon to 1 + epsilon."""
    epsilon_high: Number | None = None
    """Upper clip range in place of epsilon, so that rare tokens can gain probability (clip-higher, arXiv 2503.14476); null takes
    epsilon."""
    dynamic_sampling: int = 0
    """Rounds, at most, in which prompts whose completions all have the same reward are replaced by others (arXiv 2503.14476); 0
    keeps them."""
    bias_correction_kl: bool = False
    """Multiply the KL term by the policy ratio, as TRL does by default."""


@dataclass(config=STRICT)
class Reason(Settings):
    """Reinforcement learning of reasoning with rule rewards (Rerank-R0 stage A; with a prompt of several documents, Rank-R1)."""

    stage: Text = "reason"
    prompt: Text | dict = "rerank-r0"
    algorithm: Text = "ppo"
    """Algorithm: ppo or grpo; the block of the other one is ignored."""
    beta: Number = 0.02
    """Weight of the KL divergence from the starting model: in the token rewards (ppo) or in the loss (grpo)."""
    max_new_tokens: int = 256
    """Maximum tokens of a completion."""
    temperature: Number = 0.7
    """Sampling temperature."""
    top_p: Number = 1.0
    """Nucleus sampling: the probability mass that tokens are sampled from."""
    max_think_tokens: int = 200
    """Maximum tokens of a thought, in training and in ranking; longer thoughts are closed by forced tokens, which are not trained
    on.
    """
    balance_weight: Number = 0.0
    """Weight of the cross-entropy between equal shares of both answers and their mean behind the thoughts of a batch, as in stage
    warmup; for prompts of one document. 0 turns it off."""
    missing_eos_penalty: Number = 0.5
    """Subtracted from the reward of a completion that was truncated before its end-of-sequence token."""
    system_prompt: Text | None = None
    """Text of the system turn, which replaces the prompt's."""
    reward: dict = field(default_factory=dict)
    """Weights and limits of the Rerank-R0 reward, for prompts of one document."""
    list_size: int | list[int] = 5
    """Number of documents in a prompt that shows several, or [minimum, maximum] to sample from."""
    list_reward: Text = "rank-r1"
    """Reward for prompts of several documents: rank-r1 (1 for the right format and label, else 0) or rearank (gain in nDCG@10, and
    format).
    """
    gain: Text = REARANK_GAIN
    """Gain of a label in that nDCG: exponential (2^label - 1, as in REARANK) or linear (the label, as prorank evaluate counts)."""
    ppo: Ppo = field(default_factory=Ppo)
    """Settings of PPO."""
    grpo: Grpo = field(default_factory=Grpo)
    """Settings of GRPO."""
    completions_every: int = 10
    """Write the completions of every n-th batch to completions.jsonl; 0 writes none."""

    @property
    def rules(self) -> Rules:
        """The reward's weights and limits."""
        return rules_of({"reward": self.reward, "missing_eos_penalty": self.missing_eos_penalty})

    @property
    def num_generations(self) -> int:
        """Completions per prompt."""
        return self.grpo.num_generations if self.algorithm == "grpo" else 1

    @property
    def updates(self) -> int:
        """Passes over each batch."""
        return self.grpo.num_iterations if self.algorithm == "grpo" else self.ppo.num_ppo_epochs

    @property
    def epsilon(self) -> float:
        """Clip range of the policy ratio."""
        return self.grpo.epsilon if self.algorithm == "grpo" else self.ppo.epsilon

    @property
    def epsilon_high(self) -> float:
        """Upper clip range of the policy ratio."""
        high = self.grpo.epsilon_high if self.algorithm == "grpo" else None
        return self.epsilon if high is None else high

    @property
    def dynamic_rounds(self) -> int:
        """Rounds in which prompts without variance of rewards are replaced."""
        return self.grpo.dynamic_sampling if self.algorithm == "grpo" else 0

    def check(self) -> None:
        """See `Settings.check`."""
        super().check()
        require(self.balance_weight >= 0, "balance_weight", "must not be negative")
        require(self.algorithm in ("ppo", "grpo"), "algorithm", "must be ppo or grpo")
        require(self.beta >= 0, "beta", "must not be negative")
        for key in ("max_new_tokens", "max_think_tokens"):
            require(getattr(self, key) >= 1, key, "must be at least 1")
        require(self.temperature > 0, "temperature", "must be above 0, because completions must differ")
        require(0 < self.top_p <= 1, "top_p", "must be above 0 and at most 1")
        check_list_size(self.list_size, MAX_DOCUMENTS)
        require(self.list_reward in ("rank-r1", "rearank"), "list_reward", "must be rank-r1 or rearank")
        check_gain(self.gain, "key 'gain'")
        require(self.completions_every >= 0, "completions_every", "must not be negative")
        self._check_algorithms()
        self.rules.check()

    def _check_algorithms(self) -> None:
        for key in ("num_ppo_epochs", "epsilon", "epsilon_value", "gamma", "lam"):
            require(getattr(self.ppo, key) > 0, f"ppo.{key}", "must be above 0")
        for key in ("gamma", "lam"):
            require(getattr(self.ppo, key) <= 1, f"ppo.{key}", "must not be above 1")
        require(self.ppo.vf_coef >= 0, "ppo.vf_coef", "must not be negative")
        grpo = self.grpo
        require(grpo.num_generations >= 2, "grpo.num_generations", "must be at least 2")
        require(grpo.scale_rewards in ("group", "batch", "none"), "grpo.scale_rewards", "must be group, batch or none")
        require(grpo.loss in ("grpo", "dr_grpo", "dapo"), "grpo.loss", "must be grpo, dr_grpo or dapo")
        high = grpo.epsilon_high
        require(high is None or high >= grpo.epsilon, "grpo.epsilon_high", "must be at least grpo.epsilon")
        require(grpo.dynamic_sampling >= 0, "grpo.dynamic_sampling", "must not be negative")
        require(grpo.num_iterations >= 1 and grpo.epsilon > 0, "grpo", "needs num_iterations and epsilon above 0")
