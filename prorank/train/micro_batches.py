"""What a stage brings to the trainer, and how its units become steps and micro-batches.

Item i of a run is the same whatever was drawn before it, so a resumed run sees what the uninterrupted one saw.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch.utils.data import Dataset

from ..errors import ConfigError
from .distributed import place
from .settings.stage_settings import Settings

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LONG_RUN = 1_000_000  # steps of a run that is bounded by minutes


class Stage(Protocol):
    """What a stage brings: its units in order, and the loss of some of them.

    `cpu_units`: units a forward on a CPU, 1,000 tokens and more: fewer spend their time casting weights.
    """

    cpu_units: int

    def __len__(self) -> int:
        """Units in one pass over the data."""

    def unit(self, index: int) -> Any:
        """The index-th unit of the run; passes differ (index // len(self)) but never by chance."""

    def loss(self, model: PreTrainedModel, units: list[Any]) -> tuple[torch.Tensor, dict[str, float]]:
        """Mean loss of some units, and figures to log (means over units)."""

    def evaluate(self, model: PreTrainedModel) -> dict[str, float]:
        """Dev measures; "score" decides which weights are best. Empty: no dev set."""


class Steps(Dataset):
    """Micro-batches of a run: item i holds the indices of its units, sorted by length so that padding stays small."""

    def __init__(self, stage: Stage, steps: int, batch: int, micro: int, repeat: int) -> None:
        self.stage, self.steps, self.batch, self.micro, self.repeat = stage, steps, batch, micro, repeat
        self._kept: tuple[int, list[Any]] = (-1, [])  # first unit of a batch, and the batch

    def __len__(self) -> int:
        return self.steps * self.batch // self.micro

    def __getitem__(self, item: int) -> list[Any]:
        per_step = self.batch // self.micro
        step, part = divmod(item, per_step)
        units = self._batch(step // self.repeat * self.batch)
        return units[part * self.micro : (part + 1) * self.micro]

    def _batch(self, first: int) -> list[Any]:
        """Units of the batch that begins at unit `first`, encoded once for all of its micro-batches."""
        if self._kept[0] != first:
            units = [self.stage.unit(first + i) for i in range(self.batch)]
            self._kept = (first, sorted(units, key=lambda unit: unit.length))
        return self._kept[1]


def total_steps(settings: Settings, units: int, repeat: int) -> int:
    """Optimiser steps of the run, at most. Raises ConfigError where there is nothing to go through.

    Args:
        units: in one pass over the data. repeat: optimiser steps on each batch.
    """
    if settings.minutes is not None and settings.max_epochs is None:
        return LONG_RUN
    if settings.steps is not None:
        return settings.steps
    if not units:
        raise ConfigError("the training data hold no usable units")
    return max(1, round((settings.max_epochs or settings.epochs or 1.0) * units / settings.batch_size)) * repeat


def comes_again(settings: Settings, units: int, repeat: int) -> bool:
    """Whether a run reads a unit more than once, whatever its budget is given in. Arguments as `total_steps`."""
    return repeat > 1 or total_steps(settings, units, repeat) * settings.batch_size > units


def share_of(settings: Settings) -> int:
    """Units of a batch that each process has. Raises ConfigError for what several processes cannot do."""
    world = place()[1]
    if settings.batch_size % (world * (settings.micro_batch or 1)):
        raise ConfigError(f"key 'batch_size' must be a multiple of micro_batch and of the {world} processes")
    if world > 1 and settings.minutes is not None:
        raise ConfigError(f"key 'minutes' does not go with {world} processes, whose clocks differ; give steps or epochs")
    return settings.batch_size // world


def micro_of(batch: int, most: int) -> int:
    """The largest divisor of `batch` up to `most`."""
    return max(n for n in range(1, batch + 1) if batch % n == 0 and n <= most)


def whole(items: list[Any]) -> Any:
    """The dataset's items are whole micro-batches already."""
    return items[0]
