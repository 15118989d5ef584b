"""Settings of the stages: dataclasses that YAML, `key=value` on the command line and Python fill alike.

Every value that cannot work is refused by `check`, before data and weights are read.
"""

from __future__ import annotations

import logging
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ...errors import ConfigError, nearest
from ...evaluate.gains import LINEAR, check_gain
from ...prompts.list_encoder import MAX_DOCUMENTS
from ...utils.config_files import fill, override, read_values
from ..objectives.plackett_luce import MOST_EXACT, REWARDS
from ..objectives.ranking_losses import LOSSES, TAUGHT
from .common_settings import BUDGETS, Lora, Settings, check_list_size, largest, require, teachers_of
from .reason_settings import Grpo, Ppo, Reason

log = logging.getLogger("prorank")

__all__ = [
    "Grpo", "Lora", "Order", "Ppo", "Reason", "Score", "Settings", "Sft", "Warmup", "dump_settings", "load_settings",
    "make_settings",
]  # fmt: skip


@dataclass
class Warmup(Settings):
    """Prompt warm-up: one-token GRPO (ProRank stage 1).

    Attributes:
        advantage: "exact" sums the group out in closed form; "sampled" draws it.
        group_size: G; with "exact" 0 takes the limit of large groups.
        scaling: "group", "none" or "leave-one-out".
        format_reward, relevance_reward: weights of the two rewards; near: share of the format reward for " 1" and the like.
        force: share of draws that is an answer token at random (for a model that never answers in form).
        kl: weight of the exact KL to the reference, the model the stage starts from.
        updates: optimiser passes over each batch; clip: of the policy ratio when there are several.
        list_size: documents of a prompt that shows several, or [least, most] to draw from.
        gain: of a label in the dev set's nDCG: "linear", the label, or "exponential", 2^label - 1.
    """

    stage: str = "warmup"
    advantage: str = "exact"
    group_size: int = 8
    scaling: str = "group"
    format_reward: float = 0.5
    relevance_reward: float = 1.0
    near: float = 0.5
    force: float = 0.0
    kl: float = 0.02
    updates: int = 1
    clip: float = 0.2
    list_size: int | list[int] = 5
    gain: str = LINEAR

    def check(self) -> None:
        super().check()
        check_gain(self.gain, "key 'gain'")
        require(self.advantage in ("exact", "sampled"), "advantage", "must be exact or sampled")
        require(self.scaling in ("group", "none", "leave-one-out"), "scaling", "must be group, none or leave-one-out")
        fits = self.group_size >= 2 or (self.group_size == 0 and self.advantage == "exact")
        require(fits, "group_size", "must be at least 2 (0, the limit, only with advantage exact)")
        require(self.advantage == "sampled" or self.group_size <= 32, "group_size", "above 32 is costly to sum out; use 0")
        require(0 <= self.force < 1, "force", "must lie in 0..1")
        require(self.updates >= 1, "updates", "must be at least 1")
        require(self.kl >= 0, "kl", "must not be negative")
        require(0 < self.clip < 1, "clip", "must lie between 0 and 1")
        check_list_size(self.list_size, MAX_DOCUMENTS)


@dataclass
class Score(Settings):
    """Fine-grained score learning (ProRank stage 2).

    Attributes:
        loss: weights of `bce`, `softmax`, `kl`, `ranknet`, `lambdarank`, `margin-mse`.
        list_size: documents of a query in one step, or [least, most] to draw from.
        keep_answers: weight of -log(p("0") + p("1")), which holds the form the warm-up taught.
        teacher: for `kl` and `margin-mse`: "data" (scores in the data), "query-likelihood", "bm25", "bi-encoder:FOLDER",
            "reranker:FOLDER", or the mean of several: "bm25 + bi-encoder:FOLDER".
        teacher_temperature: divides teacher scores before their softmax.
        plain: the step as other trainers make it, each prompt a padded row with the query of its own, through transformers'
            layers, logits at every position; to compare speed.
        thoughts: score behind the model's own thoughts; for a thinking checkpoint.
        refresh_thoughts: write them anew, by the weights of then, every so many passes over the data (0: never).
        gain: of a label in nDCG, in the losses `softmax` and `lambdarank` and in dev measures: "linear", the label, or
            "exponential", 2^label - 1.
    """

    stage: str = "score"
    loss: dict = field(default_factory=lambda: {"softmax": 1.0, "bce": 0.3})
    learning_rate: float = 5e-5
    batch_size: int = 4
    list_size: int | list[int] = 6
    keep_answers: float = 0.1
    teacher: str | None = None
    teacher_temperature: float = 1.0
    plain: bool = False
    thoughts: bool = False
    refresh_thoughts: int = 0
    gain: str = LINEAR

    def check(self) -> None:
        super().check()
        check_gain(self.gain, "key 'gain'")
        require(bool(self.loss) or self.stage == "order", "loss", "names no loss")
        for key, weight in self.loss.items():
            require(key in LOSSES, f"loss.{key}", f"is no known loss{nearest(key, LOSSES)}")
            fits = isinstance(weight, (int, float)) and 0 <= weight < math.inf
            require(fits, f"loss.{key}", "needs a weight of 0 or more")
        check_list_size(self.list_size)
        for key in sorted(TAUGHT & set(self.loss)):
            require(bool(self.teacher), "teacher", f"is needed by loss {key} (data, query-likelihood, bm25)")
        kinds, plain = ("bi-encoder:", "reranker:"), ("query-likelihood", "bm25")
        computed = all(part.startswith(kinds) or part in plain for part in teachers_of(self.teacher))
        known = computed or self.teacher in (None, "data")
        valid = "data, query-likelihood, bm25, bi-encoder:FOLDER, reranker:FOLDER"
        require(known, "teacher", f"'{self.teacher}' is not known; valid: {valid}")
        require(self.teacher_temperature > 0, "teacher_temperature", "must be above 0")
        require(not (self.compile is True and self.plain), "compile", "does not go with plain")
        require(self.refresh_thoughts >= 0, "refresh_thoughts", "must not be negative")
        require(self.thoughts or not self.refresh_thoughts, "refresh_thoughts", "needs thoughts: true")


@dataclass
class Order(Score):
    """Reinforcement learning on rankings: the policy gradient of the order that scores make.

    Attributes:
        reward: of an order, at `depth`: "ndcg", "rr" (reciprocal rank), "ap" (average precision), "rearank" (what nDCG gains on
            the order shown; REARANK's own has gain: exponential).
        reward_weight: of the reward beside the supervised losses in `loss`, which may be none.
        advantage: "exact" (the expectation over all orders, at most 12 documents), "leave-one-out" or "group" of sampled orders.
        group_size: orders sampled a query.
        temperature: divides scores before they become the chances of orders.
        kl_coef: weight of the divergence of the orders from those of the model the stage starts from.
    """

    stage: str = "order"
    loss: dict = field(default_factory=dict)
    learning_rate: float = 2e-5
    reward: str = "ndcg"
    depth: int = 10
    reward_weight: float = 1.0
    advantage: str = "exact"
    group_size: int = 32
    temperature: float = 1.0
    kl_coef: float = 0.02

    def check(self) -> None:
        super().check()
        require(self.reward in REWARDS, "reward", f"must be one of {', '.join(REWARDS)}")
        require(self.depth >= 1, "depth", "must be at least 1")
        require(self.advantage in ("exact", "leave-one-out", "group"), "advantage", "must be exact, leave-one-out or group")
        exact = self.advantage == "exact"
        most = largest(self.list_size)
        require(not exact or most <= MOST_EXACT, "list_size", f"must be at most {MOST_EXACT} with advantage exact")
        require(most <= 60, "list_size", "must be at most 60")
        require(exact or self.group_size >= 2, "group_size", "must be at least 2")
        require(self.temperature > 0, "temperature", "must be above 0")
        require(self.reward_weight > 0, "reward_weight", "must be above 0; stage score does without a reward")
        require(self.kl_coef >= 0, "kl_coef", "must not be negative")


@dataclass
class Sft(Settings):
    """Supervised start of a thinking model (Rerank-R0 stage A).

    Attributes:
        max_think_tokens: longer thoughts are cut.
        balanced: as many pairs of yes as of no, the scarcer gone through again; else each pair once a pass.
        answer_weight: what the one token that says yes or no counts in the loss, where every other token counts 1: a thought has a
            hundred tokens, and one decides.
    """

    stage: str = "sft"
    prompt: str | dict = "rerank-r0"
    dev_queries: int = 20
    max_think_tokens: int = 200
    balanced: bool = False
    answer_weight: float = 1.0

    def check(self) -> None:
        super().check()
        require(self.answer_weight > 0, "answer_weight", "must be above 0")
        require(self.max_think_tokens >= 1, "max_think_tokens", "must be at least 1")


STAGES: dict[str, type[Settings]] = {"warmup": Warmup, "score": Score, "order": Order, "sft": Sft, "reason": Reason}
NOTE_BASE = "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B"  # of Rerank-R0's own file, which names neither stage nor base


def load_settings(path: str | Path, overrides: list[str] | None = None) -> Settings:
    """Settings of a YAML file, changed by texts `key=value` (dots reach into mappings). Of several budgets (steps, minutes, epochs)
    the last one given in a text counts, and takes the place of the file's.

    Raises:
        ConfigError: naming file and key.
    """
    values, notes = read_values(path), []
    for number, text in enumerate(texts := overrides or []):
        key = text.partition("=")[0]
        before = [earlier for earlier in texts[:number] if earlier.partition("=")[0] == key]
        notes += [f"{text} takes the place of {before[-1]}"] if before else []
        override(values, text)
        notes += _take_budget(values, key, texts[:number])
    settings = make_settings(values, str(path))
    for note in notes:
        log.warning("%s: %s", path, note)
    return settings


def _take_budget(values: dict[str, Any], key: str, earlier: list[str]) -> list[str]:
    """Where `key` is a budget that was set just now, drop the others; returns a line about it."""
    if key not in BUDGETS or values[key] is None:
        return []
    others = [other for other in BUDGETS if other != key and values.get(other) is not None]
    if key != "minutes" and not any(text.startswith("max_epochs=") for text in earlier):  # a bound of minutes goes with them
        others += ["max_epochs"] * (values.get("max_epochs") is not None)
    dropped = [f"{other}={values.pop(other)}" for other in others]
    return [f"{key}={values[key]} takes the place of {', '.join(dropped)}"] if dropped else []


def make_settings(values: dict[str, Any], where: str = "settings") -> Settings:
    """Settings of the stage that `values` names. Raises ConfigError for unknown keys, wrong types and bad values."""
    if "stage" not in values and "ppo" in values:
        values = {"stage": "reason", "base": NOTE_BASE, **values}
    stage = values.get("stage")
    if stage not in STAGES:
        raise ConfigError(f"{where}: stage: {stage!r} is not a stage{nearest(str(stage), STAGES)}")
    try:
        settings = fill(STAGES[stage], values, "")
        settings.check()
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    return settings


def dump_settings(settings: Settings) -> str:
    """The resolved settings as YAML."""
    return yaml.safe_dump(asdict(settings), sort_keys=False, allow_unicode=True)
