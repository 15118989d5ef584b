"""Average figures of micro-batches for lines of the log."""

from __future__ import annotations

from collections.abc import Mapping


class StepFigures:
    """Sums up losses and figures of micro-batches.

    Args:
        micro_batch: examples per micro-batch.
    """

    def __init__(self, micro_batch: int) -> None:
        self.micro_batch = micro_batch
        self.last_seconds = 0.0  # time of the clock at the last line
        self._losses: list[float] = []  # losses of the step's micro-batches so far
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}  # of each figure, because not every micro-batch has all of them
        self._count = 0

    def add(self, loss: float, figures: Mapping[str, float]) -> None:
        """Add a micro-batch."""
        self._losses.append(loss)
        for key, value in figures.items():
            self._sums[key] = self._sums.get(key, 0.0) + value
            self._counts[key] = self._counts.get(key, 0) + 1
        self._count += 1

    def take_loss(self) -> float:
        """Return the mean loss of the step, and begin the next step."""
        loss = sum(self._losses) / max(1, len(self._losses))
        self._losses = []
        return loss

    def take_line(self, seconds: float) -> dict[str, float]:
        """Return averages since the last line, with the speed; empty if nothing was added. `seconds`: current time of the clock."""
        if not self._count:
            return {}
        line = {key: value / self._counts[key] for key, value in self._sums.items()}
        line["examples_per_second"] = self._count * self.micro_batch / max(1e-9, seconds - self.last_seconds)
        for key in ("documents", "tokens"):
            if key in line:
                line[f"{key}_per_second"] = line[key] * line["examples_per_second"]
        self._sums, self._counts, self._count, self.last_seconds = {}, {}, 0, seconds
        return line
