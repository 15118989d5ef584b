"""Settings that every stage has.

`Settings.check` raises errors for invalid values before data and weights are read.
"""

from __future__ import annotations

from pydantic.dataclasses import dataclass

from ...errors import ConfigError
from ...utils.config_files import STRICT, Number, Text

BUDGETS = ("steps", "epochs", "minutes")  # keys for the length of a run; only one may be set


@dataclass(config=STRICT)
class Lora:
    """Low-rank adapter (LoRA, arXiv 2106.09685)."""

    r: int = 16
    """Rank of the adapter's matrices."""
    alpha: int = 32
    """The adapter's output is scaled by alpha / r."""
    dropout: Number = 0.0
    """Dropout probability on the adapter's input."""
    targets: Text | list[Text] = "all-linear"
    """Names of the modules that get an adapter, or "all-linear"."""


@dataclass(config=STRICT)
class Settings:
    """Settings that every stage has.

    Raises:
        pydantic.ValidationError: a key is unknown or a type is wrong. `make_settings` and `load_settings` raise ConfigError
        instead.
    """

    stage: Text = ""
    """Training stage: warmup, score, order, sft or reason."""
    base: Text = "smollm2-135m"
    """Checkpoint to start from: smollm2-135m, a folder, a run folder, an adapter, a GGUF file or a hub id."""
    data: Text | list[Text] = ""
    """Training data, one source or several: a BEIR folder with judged non-relevant documents, or JSONL with pairs, lists or
    (stage sft) thoughts; $NAMES are expanded."""
    out: Text = ""
    """Run folder; the trained checkpoint is written to OUT/model."""
    dev: Text | None = None
    """Held-out data for dev measures; null splits dev_queries queries off the training data."""
    dev_queries: int = 40
    """Queries of the dev set where dev is null; 0 trains without a dev set and keeps the last weights."""
    prompt: Text | dict = "prorank"
    """Prompt for a base that has none of this kind: a preset, a mapping or a YAML file."""
    max_length: int | None = None
    """Maximum prompt length in tokens; null keeps the prompt's own."""
    train_length: int | None = None
    """Maximum prompt length in training, in tokens; null takes max_length."""
    steps: int | None = None
    """Budget in optimiser steps."""
    minutes: Number | None = None
    """Budget in minutes of training, without evaluation and saving."""
    epochs: Number | None = None
    """Budget in passes over the data; one pass where steps and minutes are null too."""
    max_epochs: Number | None = None
    """Maximum passes within a budget in minutes, since a small data set is soon memorised; null sets no limit."""
    batch_size: int = 16
    """Examples per optimiser step: prompts, or queries with their lists."""
    micro_batch: int | None = None
    """Examples per forward pass, a divisor of batch_size; null chooses by stage and device."""
    learning_rate: Number = 2e-5
    """Peak learning rate of AdamW."""
    warmup_ratio: Number = 0.05
    """Share of the budget over which the learning rate rises linearly; it then falls linearly to a tenth."""
    weight_decay: Number = 0.0
    """Weight decay of AdamW."""
    max_grad_norm: Number = 1.0
    """Gradients with a larger norm are scaled down to it."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, more time."""
    lora: Lora | None = None
    """Low-rank adapter; null trains all weights."""
    dtype: Text = "auto"
    """Precision of products: bf16 (autocast over fp32 weights), fp32, or auto (whichever measured faster on this machine)."""
    device: Text | None = None
    """Device: cpu, cuda or mps; null takes the best one available."""
    compile: bool | Text = "auto"
    """Fuse element-wise operations on a CPU, which takes half a minute and a C++ compiler; auto does so where it pays."""
    num_evaluations: int = 4
    """Dev evaluations, evenly spaced with the last one at the end, beside one before training; 0 never evaluates."""
    save_every: int = 100
    """Steps between checkpoints to resume from; 0 writes none."""
    save_total_limit: int = 1
    """Number of resumable checkpoints that are kept."""
    log_every: int = 5
    """Steps between lines of metrics.jsonl."""
    seed: int = 0
    """Seed of data order, sampling and adapter initialisation."""
    tensorboard: bool = False
    """Write TensorBoard events into the run folder as well."""
    trust_remote_code: bool = False
    """Download and run the Python files that come with the base."""

    def check(self) -> None:
        """Raise ConfigError for invalid values."""
        require(bool(self.data), "data", "names no training data")
        require(bool(self.out), "out", "names no run folder")
        for key in ("batch_size", "log_every", "save_total_limit"):
            require(getattr(self, key) >= 1, key, "must be at least 1")
        for key in ("dev_queries", "save_every", "num_evaluations", "weight_decay"):
            require(getattr(self, key) >= 0, key, "must not be negative")
        for key in ("learning_rate", "max_grad_norm"):
            require(getattr(self, key) > 0, key, "must be above 0")
        require(0 <= self.warmup_ratio < 1, "warmup_ratio", "must be in 0..1 (a share of the budget)")
        self._check_budget()
        self._check_lengths()
        for key in ("r", "alpha"):
            require(self.lora is None or getattr(self.lora, key) >= 1, f"lora.{key}", "must be at least 1")
        micro = self.micro_batch
        require(micro is None or (micro >= 1 and self.batch_size % micro == 0), "micro_batch", "must divide batch_size")
        require(self.dtype in ("auto", "bf16", "fp32"), "dtype", "must be auto, bf16 or fp32")
        require(self.compile in (True, False, "auto"), "compile", "must be true, false or auto")
        require(not (self.compile is True and self.gradient_checkpointing), "compile", "excludes gradient_checkpointing")

    def _check_budget(self) -> None:
        for key in (*BUDGETS, "max_epochs"):
            require(getattr(self, key) is None or getattr(self, key) > 0, key, "must be above 0")
        budgets = [key for key in BUDGETS if getattr(self, key) is not None]
        if len(budgets) > 1:
            raise ConfigError(f"key '{budgets[-1]}' and {budgets[0]} exclude each other; give one")
        require(self.max_epochs is None or self.minutes is not None, "max_epochs", "is only valid with minutes; use epochs")

    def _check_lengths(self) -> None:
        for key in ("max_length", "train_length"):
            require(getattr(self, key) is None or getattr(self, key) >= 16, key, "must be at least 16 tokens")
        longer = self.train_length and self.max_length and self.train_length > self.max_length
        require(not longer, "train_length", "must not be above max_length")


def require(condition: bool, key: str, why: str) -> None:
    """Raise ConfigError for the key unless the condition holds."""
    if not condition:
        raise ConfigError(f"key '{key}' {why}")


def teachers_of(teacher: str | None) -> list[str]:
    """Split the setting `teacher`, which joins several teachers by " + "."""
    return (teacher or "").split(" + ")


def max_list_size(size: int | list[int]) -> int:
    """Return the maximum of a setting `list_size`, which is a number or [minimum, maximum]."""
    return size if isinstance(size, int) else size[1]


def check_list_size(size: int | list[int], limit: int | None = None) -> None:
    """Raise ConfigError unless `size` is a number or [minimum, maximum] from 2 to `limit`."""
    sizes = [size, size] if isinstance(size, int) else size
    require(len(sizes) == 2 and sizes[0] <= sizes[1], "list_size", "must be a number or [minimum, maximum]")
    fits = sizes[0] >= 2 and (limit is None or sizes[1] <= limit)
    require(fits, "list_size", f"must be in 2..{limit}" if limit else "must be at least 2")
