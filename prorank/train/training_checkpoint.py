"""Checkpoints for resuming: `checkpoint-<step>` in the run folder, written atomically."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer

from ..checkpoints.loading import without_bars
from ..errors import TrainingError
from ..utils.strict_json import dumps
from .distributed import is_main, sum_of_processes, wait
from .health import damaged_weight, saved
from .schedule import Clock, complete
from .settings.common_settings import Settings
from .value_head import PolicyWithValue, policy_of, value_head_of

VALUE_HEAD = "value_head.pt"  # for stage reason with PPO
RUN_STATE = "run.json"  # state that the Trainer's own files lack


class CheckpointingTrainer(Trainer):
    """A Trainer that writes checkpoints to a temporary folder and then renames it.

    Attributes:
        run: the run folder.
        settings: settings of the run.
        clock: minutes of training.
        documents: number of documents that this process has trained on.
        before, best: dev measures before the first step, and of the best weights.
    """

    model: torch.nn.Module
    run: Path
    settings: Settings
    clock: Clock
    documents: float
    before: dict[str, float]
    best: dict[str, float]

    def checkpoint(self) -> None:
        """Write a checkpoint for resuming.

        Raises:
            TrainingError: a weight is not finite.
        """
        step = f"checkpoint-{self.state.global_step}"
        staging = Path(self._get_output_dir())
        self.check_weights()
        documents = sum_of_processes(self.documents)
        with self.clock.paused(), without_bars():
            if is_main():
                shutil.rmtree(staging, ignore_errors=True)
            wait()
            try:
                self._save_checkpoint(self.model, None)
                wait()
                if is_main():
                    self._publish(staging, step, documents)
            finally:  # an incomplete checkpoint would only fill the disk
                if is_main():
                    shutil.rmtree(staging, ignore_errors=True)
            wait()

    def _publish(self, staging: Path, step: str, documents: float) -> None:
        """Write the files that the Trainer does not write, then move the checkpoint to its final place."""
        folder = staging / step
        if head := value_head_of(self.model):
            torch.save(head.state_dict(), folder / VALUE_HEAD)
        state = {"minutes": self.clock.minutes(), "documents": documents, "before": self.before, "best": self.best}
        (folder / RUN_STATE).write_text(dumps(state), encoding="utf-8")
        complete(folder, self.run, self.settings.save_total_limit)

    def _get_output_dir(self, trial: Any = None) -> str:
        """Return the folder in which the Trainer writes a checkpoint."""
        return str(self.run / ".saving")

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """Save the policy only, because the Trainer cannot save a PolicyWithValue; `_publish` saves the value head."""
        if not isinstance(self.model, PolicyWithValue):
            return super()._save(output_dir, state_dict)
        assert output_dir is not None  # `_save_checkpoint` passes it
        if state_dict is not None:
            state_dict = {key.removeprefix("policy."): value for key, value in state_dict.items() if key.startswith("policy.")}
        if self.args.should_save:
            self.model.policy.save_pretrained(output_dir, state_dict=state_dict)
        return None

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        """Load the policy's weights."""
        super()._load_from_checkpoint(resume_from_checkpoint, policy_of(self.model if model is None else model))

    def check_weights(self) -> None:
        """Raise TrainingError for weights that are not finite, which are never saved."""
        if name := damaged_weight(self.model):
            raise self.stopped(f"weight '{name.removeprefix('policy.')}' is not finite")

    def stopped(self, why: str, step: int | None = None) -> TrainingError:
        """Return the error of a run that cannot continue.

        Args:
            why: the reason.
            step: the step; None for the current one.
        """
        step = self.state.global_step if step is None else step
        remedy = f"start again with another 'out' and a lower learning_rate (now {self.settings.learning_rate:g})"
        remedy += "" if self.settings.dtype == "fp32" else " or dtype=fp32"
        return TrainingError(f"{self.run}: step {step}: {why}, so training stops; {remedy}. {saved(self.run, self.best)}")
