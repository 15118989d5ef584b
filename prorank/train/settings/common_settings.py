"""What every stage's settings have, and how they refuse what cannot work.

`check` runs before data and weights are read.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import ConfigError

BUDGETS = ("steps", "epochs", "minutes")  # of a run, one at a time


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
        stage: "warmup", "score", "order", "sft" or "reason".
        base: checkpoint to start from (name, folder, run folder, GGUF, adapter, hub id).
        data: training data, one source or several (see `prorank.data.formats.read_groups`; stage sft: `data.thoughts`).
        out: run folder.
        dev: held-out data for dev measures; None splits `dev_queries` queries off the training data.
        dev_queries: queries of the dev set (0: no dev set).
        prompt: preset, mapping or file for a base without a prompt of its own, or with none of this kind.
        max_length: tokens of a prompt; None leaves the prompt's own.
        train_length: tokens of a prompt in training only; None: max_length.
        steps, minutes, epochs: the budget, one of them: optimiser steps, or minutes of training (evaluation not counted), or
            passes; one pass where all are None.
        max_epochs: passes after which a budget in minutes ends too, however many are left: few lists are soon known by heart.
        batch_size: units (prompts, or queries with their lists) an optimiser step.
        micro_batch: units a forward; None chooses by stage and device.
        learning_rate, warmup, weight_decay, max_grad_norm: AdamW; linear warm-up over the share `warmup`, then linear to a tenth.
        lora: None trains all weights.
        dtype: "auto" (what was faster in a measurement here), "bf16" (autocast over fp32 weights) or "fp32".
        compile: fuse the element-wise steps on a CPU; half a minute at the start, and a C++ compiler; "auto" where it pays.
        evals: dev evaluations, evenly spaced, the last at the end, and one before training; 0: none.
        save_every: steps between checkpoints to resume from (0: none). keep: how many to keep.
        log_every: steps between log lines.
        seed: for data order, sampling, adapter initialisation.
        trust_remote_code: fetch and run the Python files that the base brings.
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
    epochs: float | None = None
    max_epochs: float | None = None
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
    compile: bool | str = "auto"
    evals: int = 4
    save_every: int = 100
    keep: int = 1
    log_every: int = 5
    seed: int = 0
    tensorboard: bool = False
    trust_remote_code: bool = False

    def check(self) -> None:
        """Raise ConfigError for values that cannot work."""
        require(bool(self.data), "data", "names no training data")
        require(bool(self.out), "out", "names no run folder")
        for key in ("batch_size", "log_every", "keep"):
            require(getattr(self, key) >= 1, key, "must be at least 1")
        for key in ("dev_queries", "save_every", "evals", "weight_decay"):
            require(getattr(self, key) >= 0, key, "must not be negative")
        for key in ("steps", "minutes", "epochs", "max_epochs", "learning_rate", "max_grad_norm"):
            require(getattr(self, key) is None or getattr(self, key) > 0, key, "must be above 0")
        require(0 <= self.warmup < 1, "warmup", "must lie in 0..1 (a share of the budget)")
        given = [key for key in BUDGETS if getattr(self, key) is not None]
        require(len(given) < 2, given[-1] if given else "", f"and {given[0] if given else ''} exclude each other; give one")
        require(self.max_epochs is None or self.minutes is not None, "max_epochs", "is for a budget in minutes; give epochs")
        require(self.max_length is None or self.max_length >= 16, "max_length", "must be at least 16 tokens")
        require(self.train_length is None or self.train_length >= 16, "train_length", "must be at least 16 tokens")
        longer = self.train_length and self.max_length and self.train_length > self.max_length
        require(not longer, "train_length", "must not be above max_length")
        for key in ("r", "alpha"):
            require(self.lora is None or getattr(self.lora, key) >= 1, f"lora.{key}", "must be at least 1")
        micro = self.micro_batch
        require(micro is None or (micro >= 1 and self.batch_size % micro == 0), "micro_batch", "must divide batch_size")
        require(self.dtype in ("auto", "bf16", "fp32"), "dtype", "must be auto, bf16 or fp32")
        require(self.compile in (True, False, "auto"), "compile", "must be true, false or auto")
        require(not (self.compile is True and self.gradient_checkpointing), "compile", "does not go with gradient_checkpointing")


def require(holds: bool, key: str, why: str) -> None:
    if not holds:
        raise ConfigError(f"key '{key}' {why}")


def teachers_of(teacher: str | None) -> list[str]:
    """The teachers that `a + b` names."""
    return (teacher or "").split(" + ")


def largest(size: int | list[int]) -> int:
    """The most documents of a list."""
    return size if isinstance(size, int) else size[1]


def check_list_size(size: int | list[int], most: int | None = None) -> None:
    """Raise ConfigError for sizes of lists that cannot be: a number, or the least and the most to draw from."""
    sizes = [size, size] if isinstance(size, int) else size
    require(len(sizes) == 2 and sizes[0] <= sizes[1], "list_size", "must be a number or [least, most]")
    fits = sizes[0] >= 2 and (most is None or sizes[1] <= most)
    require(fits, "list_size", f"must lie in 2..{most}" if most else "must be at least 2")
