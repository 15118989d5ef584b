"""Progress on stderr: a bar for training, a spinner while imports and weights are loaded.

Nothing is printed before there is progress to show, so invalid input gives one error line and no empty bar.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Self

FIGURES = ("dev_ndcg@10", "accuracy", "top1", "format_rate", "reward", "loss")  # shown next to the bar if the stage reports them


class Progress:
    """A progress bar on stderr with the share of the budget, the remaining time and the latest figures.

    Args:
        name: label of the bar.
    """

    def __init__(self, name: str) -> None:
        self.name, self.is_shown = name, False

    def __enter__(self) -> Callable[[float, dict], None]:
        """Return a function that takes the completed share (0 to 1) and the latest figures by name."""
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        self.bar = Bar(
            TextColumn("{task.description}", markup=False),
            BarColumn(20),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}", markup=False),
            console=Console(stderr=True),
        )
        task = self.bar.add_task(self.name, total=1.0, figures="")

        def report(share: float, figures: dict) -> None:
            if not self.is_shown:
                self.bar.start()
                self.is_shown = True
            numbers = {key: figures[key] for key in FIGURES if isinstance(figures.get(key), (int, float))}
            self.bar.update(task, completed=share)
            if numbers:
                self.bar.update(task, figures="  ".join(f"{key} {value:.3f}" for key, value in numbers.items()))

        return report

    def __exit__(self, *_: object) -> None:
        if self.is_shown:
            self.bar.stop()


class Spinner:
    """A line such as "loading prorank-smollm2-135m ..." on stderr that disappears when the work is done.

    Nothing is printed if stderr is not a terminal.

    Args:
        text: the current activity.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.status: Any = None

    def __enter__(self) -> Self:
        if sys.stderr and sys.stderr.isatty():
            from rich.console import Console

            self.status = Console(stderr=True).status(self._shown(self.text))
            self.status.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def update(self, text: str) -> None:
        """Show another text, unless the spinner was stopped."""
        if self.status:
            self.status.update(self._shown(text))

    def stop(self) -> None:
        """Remove the line before the end of the block, for example because a bar follows."""
        if self.status:
            self.status.stop()
            self.status = None

    @staticmethod
    def _shown(text: str) -> Any:
        from .terminal import plain

        return plain(f"{text} ...", "dim")
