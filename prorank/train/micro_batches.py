"""The interface of a stage to the trainer, and how its examples become steps and micro-batches.

Item i of a run is the same whatever was drawn before it, so a resumed run sees what an uninterrupted one saw.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch.utils.data import Dataset

from ..errors import ConfigError
from .distributed import place
from .settings.common_settings import Settings

LONG_RUN = 1_000_000  # steps of a run that is limited by minutes


class Stage(Protocol):
    """A training stage: its examples in order, their loss, and dev measures.

    Attributes:
        cpu_examples: examples per forward pass on a CPU, about 1,000 tokens; with fewer the time goes into casting weights.
    """

    cpu_examples: int

    @property
    def arrange(self) -> Callable[[list[Any]], list[Any]]:
        """Orders the examples of a batch before it is cut into micro-batches, see `by_length`."""

    def __len__(self) -> int:
        """Number of examples in one pass over the data."""

    def example(self, index: int) -> Any:
        """The index-th example of the run. It has a `length` in tokens, and depends on the index alone."""

    def loss(self, model: Any, examples: list[Any]) -> tuple[torch.Tensor, dict[str, float]]:
        """Mean loss of the examples, and figures to log (means over examples)."""

    def evaluate(self, model: Any) -> dict[str, float]:
        """Dev measures, whose "score" decides which weights are best; empty without a dev set."""


class MicroBatches(Dataset):
    """The micro-batches of a run; each step's examples are arranged by the stage, mostly so that padding stays small.

    Args:
        stage: gives the examples.
        steps: optimiser steps of the run.
        batch_size: examples per step.
        micro_batch: examples per micro-batch, a divisor of `batch_size`.
        repeat: optimiser steps on each batch.
    """

    def __init__(self, stage: Stage, steps: int, batch_size: int, micro_batch: int, repeat: int) -> None:
        self.stage, self.steps, self.batch_size, self.micro_batch, self.repeat = stage, steps, batch_size, micro_batch, repeat
        self._cached: tuple[int, list[Any]] = (-1, [])  # index of a batch's first example, and the batch

    def __len__(self) -> int:
        return self.steps * self.batch_size // self.micro_batch

    def __getitem__(self, item: int) -> list[Any]:
        step, part = divmod(item, self.batch_size // self.micro_batch)
        examples = self._batch(step // self.repeat * self.batch_size)
        return examples[part * self.micro_batch : (part + 1) * self.micro_batch]

    def _batch(self, first: int) -> list[Any]:
        """The batch that begins at example `first`, encoded once for all of its micro-batches."""
        if self._cached[0] != first:
            examples = [self.stage.example(first + i) for i in range(self.batch_size)]
            self._cached = (first, self.stage.arrange(examples))
        return self._cached[1]


def total_steps(settings: Settings, examples: int, repeat: int) -> int:
    """Maximum number of optimiser steps of the run.

    Args:
        settings: with the budget.
        examples: number of examples in one pass over the data.
        repeat: optimiser steps on each batch.

    Raises:
        ConfigError: there are no examples.
    """
    if settings.minutes is not None and settings.max_epochs is None:
        return LONG_RUN
    if settings.steps is not None:
        return settings.steps
    if not examples:
        raise ConfigError("the training data hold no usable examples")
    return max(1, round((settings.max_epochs or settings.epochs or 1.0) * examples / settings.batch_size)) * repeat


def comes_again(settings: Settings, examples: int, repeat: int) -> bool:
    """Whether a run reads an example more than once, whatever its budget; arguments as `total_steps`."""
    return repeat > 1 or total_steps(settings, examples, repeat) * settings.batch_size > examples


def process_batch_size(settings: Settings) -> int:
    """Examples of a batch per process. Raises ConfigError for settings that several processes cannot follow."""
    world = place()[1]
    if settings.batch_size % (world * (settings.micro_batch or 1)):
        raise ConfigError(f"key 'batch_size' must be a multiple of micro_batch and of the {world} processes")
    if world > 1 and settings.minutes is not None:
        raise ConfigError(f"key 'minutes' does not go with {world} processes, whose clocks differ; give steps or epochs")
    return settings.batch_size // world


def largest_divisor(batch_size: int, limit: int) -> int:
    """The largest divisor of `batch_size` up to `limit`."""
    return max(n for n in range(1, batch_size + 1) if batch_size % n == 0 and n <= limit)


def by_length(examples: list[Any]) -> list[Any]:
    """Examples in the order of their lengths, so that padding is small."""
    return sorted(examples, key=lambda example: example.length)


def labels_in_turn(examples: list[Any]) -> list[Any]:
    """Examples by length, their labels in turn: micro-batches of a balanced batch are balanced too."""
    places: Counter[int] = Counter()
    ranked = []
    for example in by_length(examples):
        ranked.append((places[example.label], example.label, example))
        places[example.label] += 1
    return [example for *_, example in sorted(ranked, key=lambda row: row[:2])]


def first_item(items: list[Any]) -> Any:
    """Collate function: items of MicroBatches are whole micro-batches already."""
    return items[0]
