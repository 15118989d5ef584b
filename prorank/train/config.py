"""Settings of the stages: dataclasses that YAML, `key=value` on the command line and Python fill alike (see `prorank.settings`).

Hard fact: every value that cannot work is refused by `check`, before data and weights are read.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ..errors import ConfigError, nearest
from ..settings import fill, override, read_values
from .losses import LOSSES


@dataclass
class Lora:
    """Low-rank adapter. `targets`: "all-linear", or names of modules."""

    r: int = 16
    alpha: int = 32
    dropout: float = 0.0
    targets: str | list[str] = "all-linear"


@dataclass
class Settings:
    """What every stage has.

    Attributes:
        stage: "warmup", "score" or "sft".
        base: checkpoint to start from (name, folder, run folder, GGUF, adapter, hub id).
        data: training data, one source or several (see `prorank.data.formats.read_groups`; stage sft: `data.thoughts`).
        out: run folder.
        dev: held-out data for dev measures; None splits `dev_queries` queries off the training data.
        dev_queries: queries of the dev set (0: no dev set).
        prompt: preset, mapping or file for a base without a prompt of its own.
        max_length: tokens of a prompt; None leaves the prompt's own.
        train_length: tokens of a prompt in training only; None: max_length.
        steps, minutes, epochs: the budget: optimiser steps, or minutes of training (evaluation not counted), or passes.
        batch_size: units (prompts, or queries with their lists) an optimiser step.
        micro_batch: units a forward; None chooses by stage and device.
        learning_rate, warmup, weight_decay, max_grad_norm: AdamW; linear warm-up over the share `warmup`, then linear to a tenth.
        lora: None trains all weights.
        dtype: "auto", "bf16" (autocast over fp32 weights) or "fp32".
        compile: fuse the element-wise steps on a CPU; half a minute at the start, and a C++ compiler.
        evals: dev evaluations, evenly spaced; the last is at the end.
        save_every: steps between checkpoints to resume from (0: none). keep: how many to keep.
        log_every: steps between log lines.
        seed: for data order, sampling, adapter initialisation.
    """

    stage: str = ""
    base: str = "smollm2-135m"
    data: str | list[str] = ""
    out: str = ""
    dev: str | None = None
    dev_queries: int = 40
    prompt: str | dict = "prorank"
    max_length: int | None = None
    train_length: int | None = None
    steps: int | None = None
    minutes: float | None = None
    epochs: float = 1.0
    batch_size: int = 16
    micro_batch: int | None = None
    learning_rate: float = 2e-5
    warmup: float = 0.05
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    gradient_checkpointing: bool = False
    lora: Lora | None = None
    dtype: str = "auto"
    device: str | None = None
    compile: bool = False
    evals: int = 4
    save_every: int = 100
    keep: int = 1
    log_every: int = 5
    seed: int = 0
    tensorboard: bool = False

    def check(self) -> None:
        """Raise ConfigError for values that cannot work."""
        _require(bool(self.data), "data", "names no training data")
        _require(bool(self.out), "out", "names no run folder")
        for key in ("batch_size", "log_every", "keep"):
            _require(getattr(self, key) >= 1, key, "must be at least 1")
        for key in ("dev_queries", "save_every", "evals", "weight_decay"):
            _require(getattr(self, key) >= 0, key, "must not be negative")
        for key in ("steps", "minutes", "epochs", "learning_rate", "max_grad_norm"):
            _require(getattr(self, key) is None or getattr(self, key) > 0, key, "must be above 0")
        _require(0 <= self.warmup < 1, "warmup", "must lie in 0..1 (a share of the budget)")
        _require(self.steps is None or self.minutes is None, "minutes", "and steps exclude each other; give one")
        _require(self.max_length is None or self.max_length >= 16, "max_length", "must be at least 16 tokens")
        _require(self.train_length is None or self.train_length >= 16, "train_length", "must be at least 16 tokens")
        longer = self.train_length and self.max_length and self.train_length > self.max_length
        _require(not longer, "train_length", "must not be above max_length")
        for key in ("r", "alpha"):
            _require(self.lora is None or getattr(self.lora, key) >= 1, f"lora.{key}", "must be at least 1")
        micro = self.micro_batch
        _require(micro is None or (micro >= 1 and self.batch_size % micro == 0), "micro_batch", "must divide batch_size")
        _require(self.dtype in ("auto", "bf16", "fp32"), "dtype", "must be auto, bf16 or fp32")
        _require(not (self.compile and self.gradient_checkpointing), "compile", "does not go with gradient_checkpointing")


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

    def check(self) -> None:
        super().check()
        _require(self.advantage in ("exact", "sampled"), "advantage", "must be exact or sampled")
        _require(self.scaling in ("group", "none", "leave-one-out"), "scaling", "must be group, none or leave-one-out")
        fits = self.group_size >= 2 or (self.group_size == 0 and self.advantage == "exact")
        _require(fits, "group_size", "must be at least 2 (0, the limit, only with advantage exact)")
        _require(self.advantage == "sampled" or self.group_size <= 32, "group_size", "above 32 is costly to sum out; use 0")
        _require(0 <= self.force < 1, "force", "must lie in 0..1")
        _require(self.updates >= 1, "updates", "must be at least 1")
        _require(self.kl >= 0, "kl", "must not be negative")
        _require(0 < self.clip < 1, "clip", "must lie between 0 and 1")


@dataclass
class Score(Settings):
    """Fine-grained score learning (ProRank stage 2).

    Attributes:
        loss: weights of `bce`, `softmax`, `kl`.
        list_size: documents of a query in one step.
        keep_answers: weight of -log(p("0") + p("1")), which holds the form the warm-up taught.
        teacher: for `kl`: "data" (scores in the data), "query-likelihood", "bm25", "bi-encoder:FOLDER".
        teacher_temperature: divides teacher scores before their softmax.
        plain: the step as other trainers make it, each prompt a padded row with the query of its own, through transformers'
            layers, logits at every position; to compare speed.
    """

    stage: str = "score"
    loss: dict = field(default_factory=lambda: {"softmax": 1.0, "bce": 0.3})
    learning_rate: float = 5e-5
    batch_size: int = 4
    list_size: int = 6
    keep_answers: float = 0.1
    teacher: str | None = None
    teacher_temperature: float = 1.0
    plain: bool = False

    def check(self) -> None:
        super().check()
        _require(bool(self.loss), "loss", "names no loss")
        for key, weight in self.loss.items():
            _require(key in LOSSES, f"loss.{key}", f"is no known loss{nearest(key, LOSSES)}")
            _require(isinstance(weight, (int, float)) and weight >= 0, f"loss.{key}", "needs a weight of 0 or more")
        _require(self.list_size >= 2, "list_size", "must be at least 2")
        _require("kl" not in self.loss or bool(self.teacher), "teacher", "is needed by loss kl (data, query-likelihood, bm25)")
        known = self.teacher in (None, "data", "query-likelihood", "bm25") or str(self.teacher).startswith("bi-encoder:")
        _require(known, "teacher", f"'{self.teacher}' is not known; valid: data, query-likelihood, bm25, bi-encoder:FOLDER")
        _require(self.teacher_temperature > 0, "teacher_temperature", "must be above 0")
        _require(not (self.compile and self.plain), "compile", "does not go with plain")


@dataclass
class Sft(Settings):
    """Supervised start of a thinking model (Rerank-R0 stage A).

    Attributes:
        max_think_tokens: longer thoughts are cut.
    """

    stage: str = "sft"
    prompt: str | dict = "rerank-r0"
    dev_queries: int = 20
    max_think_tokens: int = 200

    def check(self) -> None:
        super().check()
        _require(self.max_think_tokens >= 1, "max_think_tokens", "must be at least 1")


STAGES: dict[str, type[Settings]] = {"warmup": Warmup, "score": Score, "sft": Sft}


def load_settings(path: str | Path, overrides: list[str] | None = None) -> Settings:
    """Read a YAML file and `key=value` overrides (dots reach into mappings). Raises ConfigError naming file and key."""
    values = read_values(path)
    for text in overrides or []:
        override(values, text)
    return make_settings(values, str(path))


def make_settings(values: dict[str, Any], where: str = "settings") -> Settings:
    """Settings of the stage that `values` names. Raises ConfigError for unknown keys, wrong types and bad values."""
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


def _require(holds: bool, key: str, why: str) -> None:
    if not holds:
        raise ConfigError(f"key '{key}' {why}")
