"""A bar on stderr for work that takes minutes: share done, time left, latest figures.

It stays hidden until the first step is done, so that bad input gives one line and no empty bar.
"""

from __future__ import annotations

from collections.abc import Callable


class Progress:
    """A bar on stderr for a stage: share of the budget and the latest figures."""

    def __init__(self, name: str) -> None:
        self.name, self.shown = name, False

    def __enter__(self) -> Callable[[float, dict], None]:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        shown = ("dev_ndcg@10", "accuracy", "top1", "format_rate", "reward", "loss")
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
            if not self.shown:  # not before the first step: bad input is to give one line
                self.bar.start()
                self.shown = True
            text = "  ".join(f"{key} {figures[key]:.3f}" for key in shown if isinstance(figures.get(key), (int, float)))
            self.bar.update(task, completed=share)
            if text:
                self.bar.update(task, figures=text)

        return report

    def __exit__(self, *_: object) -> None:
        if self.shown:
            self.bar.stop()
