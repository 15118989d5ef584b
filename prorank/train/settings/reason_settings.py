"""Settings of stage `reason`, in the words of Rerank-R0's own configuration file.

`ppo` and `grpo` are blocks side by side, so one file serves both: `algorithm=grpo` on the command line is all that
changes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ...evaluate.gains import check_gain
from ...prompts.list_encoder import MAX_DOCUMENTS
from ...rewards.list_rules import REARANK_GAIN
from ...rewards.rules import Rules, rules_of
from .common_settings import Settings, check_list_size, require


@dataclass
class Ppo:
    """PPO with a value head on the last hidden state. Advantages are whitened over the batch (mean 0, variance 1).

    Attributes:
        num_ppo_epochs: passes over each batch, an optimiser step each.
        cliprange, cliprange_value: bounds of the policy ratio and of a value's move.
        vf_coef: weight of the value loss.
        gamma, lam: discount and decay of generalised advantage estimation, by token.
        whiten_rewards: scale the tokens' rewards to variance 1 first.
    """

    num_ppo_epochs: int = 2
    cliprange: float = 0.2
    cliprange_value: float = 0.2
    vf_coef: float = 0.2
    gamma: float = 1.0
    lam: float = 0.95
    whiten_rewards: bool = False


@dataclass
class Grpo:
    """GRPO: completions of a prompt compete with each other.

    Attributes:
        group_size: completions a prompt.
        scale: what advantages are divided by: "group" (the group's standard deviation), "batch" (that of all rewards), "none".
        loss: what a token counts, "grpo", "dr_grpo" or "dapo", see `returns.weights_of`.
        num_iterations: passes over each batch. cliprange: bound of the policy ratio.
        bias_correction_kl: the KL term times the policy ratio, as TRL has it by default.
    """

    group_size: int = 8
    scale: str = "group"
    loss: str = "grpo"
    num_iterations: int = 1
    cliprange: float = 0.2
    bias_correction_kl: bool = False


@dataclass
class Reason(Settings):
    """Reinforcement learning of thoughts with rule rewards (Rerank-R0 stage A; with a prompt of several documents Rank-R1).

    Attributes:
        algorithm: "ppo" or "grpo"; the block of the other one is not looked at.
        kl_coef: weight of the divergence from the model the stage starts from: in the tokens' rewards (ppo), in the loss (grpo).
        max_new_tokens: most tokens of a completion. temperature, top_p: of sampling.
        max_think_tokens: the thought's budget; a longer one is closed in writing, here and in ranking (the tokens put in are not
            learned from).
        missing_eos_penalty: taken off the reward of a completion that was cut.
        system_prompt: text of the system turn, in place of the prompt's.
        reward: weights and bounds, see `prorank.rewards.rules.Rules`; for prompts of one document.
        list_size: documents of a prompt that shows several, or [least, most] to draw from.
        list_reward: for prompts of several documents: "rank-r1" (1 for the form and the right label, else 0), or "rearank" (what
            the order gains in nDCG@10, and its form).
        gain: of a grade in that nDCG: "exponential", as REARANK has it, or "linear", as evaluation prints it.
        ppo, grpo: see Ppo and Grpo.
        completions_every: batches between those that are written to `completions.jsonl` (0: none).
    """

    stage: str = "reason"
    prompt: str | dict = "rerank-r0"
    algorithm: str = "ppo"
    kl_coef: float = 0.02
    max_new_tokens: int = 256
    temperature: float = 0.7
    top_p: float = 1.0
    max_think_tokens: int = 200
    missing_eos_penalty: float = 0.5
    system_prompt: str | None = None
    reward: dict = field(default_factory=dict)
    list_size: int | list[int] = 5
    list_reward: str = "rank-r1"
    gain: str = REARANK_GAIN
    ppo: Ppo = field(default_factory=Ppo)
    grpo: Grpo = field(default_factory=Grpo)
    completions_every: int = 10

    @property
    def rules(self) -> Rules:
        """The reward's weights and bounds."""
        return rules_of({"reward": self.reward, "missing_eos_penalty": self.missing_eos_penalty})

    @property
    def group(self) -> int:
        """Completions a prompt."""
        return self.grpo.group_size if self.algorithm == "grpo" else 1

    @property
    def updates(self) -> int:
        """Passes over each batch."""
        return self.grpo.num_iterations if self.algorithm == "grpo" else self.ppo.num_ppo_epochs

    @property
    def cliprange(self) -> float:
        """Bound of the policy ratio."""
        return self.grpo.cliprange if self.algorithm == "grpo" else self.ppo.cliprange

    def check(self) -> None:
        super().check()
        require(self.algorithm in ("ppo", "grpo"), "algorithm", "must be ppo or grpo")
        require(self.kl_coef >= 0, "kl_coef", "must not be negative")
        for key in ("max_new_tokens", "max_think_tokens"):
            require(getattr(self, key) >= 1, key, "must be at least 1")
        require(self.temperature > 0, "temperature", "must be above 0: without chance there is nothing to choose from")
        require(0 < self.top_p <= 1, "top_p", "must lie in 0..1, without 0")
        check_list_size(self.list_size, MAX_DOCUMENTS)
        require(self.list_reward in ("rank-r1", "rearank"), "list_reward", "must be rank-r1 or rearank")
        check_gain(self.gain, "key 'gain'")
        require(self.completions_every >= 0, "completions_every", "must not be negative")
        for key in ("num_ppo_epochs", "cliprange", "cliprange_value", "gamma", "lam"):
            require(getattr(self.ppo, key) > 0, f"ppo.{key}", "must be above 0")
        for key in ("gamma", "lam"):
            require(getattr(self.ppo, key) <= 1, f"ppo.{key}", "must not be above 1")
        require(self.ppo.vf_coef >= 0, "ppo.vf_coef", "must not be negative")
        require(self.grpo.group_size >= 2, "grpo.group_size", "must be at least 2")
        require(self.grpo.scale in ("group", "batch", "none"), "grpo.scale", "must be group, batch or none")
        require(self.grpo.loss in ("grpo", "dr_grpo", "dapo"), "grpo.loss", "must be grpo, dr_grpo or dapo")
        require(self.grpo.num_iterations >= 1 and self.grpo.cliprange > 0, "grpo", "needs num_iterations and cliprange above 0")
        self.rules.check()
