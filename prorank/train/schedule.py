"""The schedule of a run: its clock, when it evaluates and saves, and which checkpoints are complete.

A budget of minutes does not include evaluation and saving. A checkpoint is complete if it has its marker file, which is written
last.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from ..utils.files import atomic_file, set_modes
from .distributed import any_process

COMPLETE = "complete"  # written last into a checkpoint folder; folders without it are ignored


class Clock:
    """Counts minutes of training, without evaluation and saving, including those before a resume.

    Args:
        budget: minutes of the run, or None.
    """

    def __init__(self, budget: float | None) -> None:
        self.budget, self.spent = budget, 0.0
        self.began: float | None = None  # None while the clock is stopped

    def start(self) -> None:
        """Start the clock."""
        self.began = time.monotonic()

    def minutes(self) -> float:
        """Return the minutes so far."""
        running = time.monotonic() - self.began if self.began is not None else 0.0
        return (self.spent + running) / 60

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Stop the clock in the block."""
        self.spent, self.began = self.minutes() * 60, None
        yield
        self.start()


class EvalAndSaveCallback(TrainerCallback):
    """Evaluates before the first step and evenly over the budget, saves every `save_every` steps, and stops after the minutes.

    Args:
        trainer: a StageTrainer.
    """

    def __init__(self, trainer: Any) -> None:
        self.trainer, self.interrupted, self.due = trainer, False, False
        self.evaluations = 0  # number of evaluations done so far

    def on_train_begin(self, args, state, control, **_):
        """Evaluate before the first step of a new run."""
        self.evaluations = self._evaluations_due(state.global_step)
        if self.trainer.settings.num_evaluations and not state.global_step:
            self.trainer.measure()

    def on_step_end(self, args, state, control, **_):
        """Evaluate, save and stop if it is time."""
        trainer, settings = self.trainer, self.trainer.settings
        batch_done = state.global_step % trainer.repeat == 0  # between passes, the old policy is in memory only
        stop = any_process(self.interrupted) and batch_done
        self.due |= stop or bool(settings.save_every and state.global_step % settings.save_every == 0)
        if trainer.progress(state.global_step) >= 1 or stop:
            control.should_training_stop = True
            control.should_log = True  # log the figures since the last line
        if settings.num_evaluations and self._evaluations_due(state.global_step) > self.evaluations:
            self.evaluations = self._evaluations_due(state.global_step)
            trainer.measure()
        if self.due and batch_done:
            self.due = False
            trainer.checkpoint()

    def _evaluations_due(self, step: int) -> int:
        return int(self.trainer.progress(step) * self.trainer.settings.num_evaluations + 1e-9)


class ReportCallback(TrainerCallback):
    """Calls `report` after every step with the used share of the budget and the latest figures.

    Args:
        trainer: a StageTrainer.
        report: called with (share, figures).
    """

    def __init__(self, trainer: Any, report: Callable[[float, dict], None]) -> None:
        self.trainer, self.report = trainer, report

    def on_step_end(self, args, state, control, **_):
        """Report the progress."""
        figures = state.log_history[-1] if state.log_history else {}
        self.report(self.trainer.progress(state.global_step), figures)


def checkpoints(run: Path) -> list[Path]:
    """Return the complete checkpoints of a run folder, oldest first."""
    folders = [folder for folder in Path(run).glob("checkpoint-*") if (folder / COMPLETE).is_file()]
    return sorted(folders, key=lambda folder: int(folder.name.split("-")[1]))


def complete(folder: Path, run: Path, keep: int) -> None:
    """Mark a checkpoint as complete, move it into the run folder and delete all but the newest `keep`."""
    (folder / COMPLETE).touch()
    set_modes(folder, folder.stat().st_mode & 0o777)  # safetensors writes files that only the owner can read
    shutil.rmtree(run / folder.name, ignore_errors=True)
    os.replace(folder, run / folder.name)
    for old in checkpoints(run)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)


def cut_metrics(path: Path, step: int) -> None:
    """Drop the lines after `step`, which will be written again, and an incomplete last line."""
    kept = []
    if not path.is_file():
        return
    for line in path.read_text(encoding="utf-8").split("\n"):  # splitlines would also split at line separators inside texts
        with contextlib.suppress(ValueError):
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
    with atomic_file(path) as handle:
        handle.writelines(kept)
