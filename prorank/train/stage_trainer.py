"""The trainer of all stages: a `transformers.Trainer` with the examples and the loss of a stage.

The examples of a step depend on (seed, step) only, and not on the state of a random generator. So a run that was killed and resumed
ends with the same weights as an uninterrupted one.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import math
from pathlib import Path
from typing import Any

import torch
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from ..checkpoints.weights import check_resumable
from ..engine.heads import use_fp32_head
from ..errors import ModelError
from ..utils.files import append_text
from ..utils.strict_json import dumps
from .arguments import arguments_of, rate_factor
from .distributed import average_gradients, is_main, mean_of_processes, place
from .health import gradient_norm
from .micro_batches import MicroBatches, Stage, first_item, largest_divisor, process_batch_size, total_steps
from .run_folder import SaveModel
from .schedule import Clock, EvalAndSaveCallback, checkpoints, cut_metrics
from .settings.stage_settings import Settings
from .step_figures import StepFigures
from .training_checkpoint import RUN_STATE, VALUE_HEAD, CheckpointingTrainer
from .value_head import policy_of, value_head_of

log = logging.getLogger("prorank")
LOGS = ("metrics.jsonl", "completions.jsonl")  # every line has its step
GPU_MICRO_BATCH = 64  # maximum number of examples per forward pass on a GPU


class StageTrainer(CheckpointingTrainer):
    """Trains a stage within a budget of steps or minutes; logs to `metrics.jsonl`; saves checkpoints atomically.

    Args:
        stage: the stage, see `Stage`.
        settings: the stage's settings, with `auto` resolved.
        model: fp32 weights, for PPO in a PolicyWithValue; autocast gives bf16.
        bf16: autocast to bf16.
        save_best: called with the model and its dev measures whenever the dev score rises.
        repeat: optimiser steps on each batch.
    """

    model: torch.nn.Module

    def __init__(
        self, stage: Stage, settings: Settings, model: torch.nn.Module, bf16: bool, save_best: SaveModel | None, repeat: int = 1
    ) -> None:
        self.stage, self.settings, self.save_best = stage, settings, save_best
        self.run = Path(settings.out)
        share, on_cpu = process_batch_size(settings), _on_cpu(model)
        self.micro_batch = settings.micro_batch or largest_divisor(share, stage.cpu_examples if on_cpu else GPU_MICRO_BATCH)
        self.repeat, self.total = repeat, total_steps(settings, len(stage), repeat)
        self.clock = Clock(settings.minutes)
        self.before: dict[str, float] = {}  # dev measures before the first step
        self.best: dict[str, float] = {}  # dev measures of the best weights, with their step
        self.documents = 0.0  # number of documents that this process has trained on
        self._warned_of_zero = False  # whether it warned of a gradient of 0
        self._figures = StepFigures(self.micro_batch)
        use_fp32_head(policy_of(model))
        self.items = MicroBatches(stage, self.total, settings.batch_size, self.micro_batch, repeat)
        arguments = arguments_of(settings, self.total, share // self.micro_batch, bf16, on_cpu)
        with contextlib.redirect_stdout(io.StringIO()):
            super().__init__(model=model, args=arguments, train_dataset=self.items, data_collator=first_item)
        self.model_accepts_loss_kwargs = False  # the loss is a mean, so micro-batches are averaged
        for callback in (PrinterCallback, ProgressCallback):
            self.remove_callback(callback)
        self.schedule = EvalAndSaveCallback(self)
        self.add_callback(self.schedule)

    def _get_train_sampler(self, *_: Any) -> torch.utils.data.Sampler:
        return torch.utils.data.SequentialSampler(self.items)

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> torch.optim.lr_scheduler.LRScheduler:
        """See `rate_factor`."""
        optimizer = optimizer or self.optimizer
        assert optimizer is not None  # the Trainer creates the optimiser first
        self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, rate_factor(self.settings, self.total, self.progress))
        return self.lr_scheduler

    def progress(self, step: int) -> float:
        """Return the used share of the budget, 0 to 1."""
        return min(1.0, max(step / self.total, self.clock.minutes() / self.settings.minutes if self.settings.minutes else 0.0))

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Run a micro-batch; at the end of a step, average gradients over the processes and check them."""
        loss = super().training_step(*args, **kwargs)
        if self.accelerator.sync_gradients:
            if place()[1] > 1 and not self.is_deepspeed_enabled:
                average_gradients(self.model)
            self._check_step()
        return loss

    def _check_step(self) -> None:
        """Raise TrainingError, in all processes, if the step's loss or gradients are not finite, before the weights are updated."""
        step = self.state.global_step + 1
        loss, norm = mean_of_processes(self._figures.take_loss()), gradient_norm(self.model)
        for name, number in (("loss", loss), ("gradient norm", norm)):
            if not math.isfinite(number):
                raise self.stopped(f"the {name} is {number} (loss {loss:.4g}, gradient norm {norm:.4g})", step)
        if not (norm or self.is_deepspeed_enabled or self._warned_of_zero):
            self._warned_of_zero = True
            log.warning("step %d: the gradient is exactly 0, so nothing is learned; if this persists, lower learning_rate", step)

    def compute_loss(
        self, model: torch.nn.Module, inputs: Any, return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor | tuple[torch.Tensor, Any]:  # fmt: skip
        """Return the stage's loss of a micro-batch; `inputs` is the list of its examples."""
        # Without the DDP wrapper, which only averages gradients of forward passes through itself.
        unwrapped = model if self.is_deepspeed_enabled else self.accelerator.unwrap_model(model)
        loss, figures = self.stage.loss(unwrapped, inputs)
        self.documents += figures.get("documents", 1.0) * len(inputs)
        self._figures.add(float(loss.detach()), figures)
        return (loss, None) if return_outputs else loss

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Add the figures since the last line, and the speed, to the Trainer's figures."""
        if "loss" in logs:
            logs = {**logs, **self._figures.take_line(self.clock.minutes() * 60)}
        logs = {key: value for key, value in logs.items() if not key.startswith(("train_", "total_flos", "epoch"))}
        if logs:
            self._append(logs)
            super().log(logs, *args, **kwargs)

    def _append(self, figures: dict[str, float]) -> None:
        """Write one line of `metrics.jsonl`."""
        if self.is_world_process_zero():
            line = {"step": self.state.global_step, "minutes": round(self.clock.minutes(), 4), **figures}
            append_text(self.run / "metrics.jsonl", dumps(line) + "\n")

    def measure(self) -> None:
        """Evaluate on the dev set, and save the weights if they are better than all previous ones after the first step."""
        with self.clock.paused():
            measures = self._measured()
            if not measures:
                return
            self._append({f"dev_{key}": value for key, value in measures.items()})
            if not self.state.global_step:
                self.before = measures
            elif not self.best or measures["score"] > self.best["score"]:
                best = {**measures, "step": self.state.global_step}
                if is_main() and self.save_best:
                    self.save_best(self.model, best)
                self.best = best  # only after the weights were saved

    def _measured(self) -> dict[str, float]:
        """Return dev measures. Raises TrainingError for weights, scores or measures that are not finite."""
        self.check_weights()
        self.model.eval()
        try:
            measures = self.stage.evaluate(self.model)
        except ModelError as error:
            raise self.stopped(str(error)) from error
        self.model.train()
        for key, value in measures.items():
            if not math.isfinite(value):
                raise self.stopped(f"the dev measure {key} is {value}")
        return measures

    def fit(self, resume: bool) -> None:
        """Train to the end of the budget. `resume` continues from the newest complete checkpoint."""
        last = ([None] + checkpoints(self.run))[-1] if resume else None
        if last:
            self._restore(last)
        elif is_main():
            for name in LOGS:
                (self.run / name).unlink(missing_ok=True)
        self._figures.last_seconds = self.clock.spent
        self.clock.start()
        with contextlib.redirect_stdout(io.StringIO()):
            self.train(resume_from_checkpoint=str(last) if last else None)

    def _restore(self, folder: Path) -> None:
        """Load the state of the run from a checkpoint; `Trainer.train` loads weights and optimiser."""
        check_resumable(folder)
        state = json.loads((folder / RUN_STATE).read_text(encoding="utf-8"))
        self.clock.spent, self.best, self.before = state["minutes"] * 60, state["best"], state["before"]
        self.documents = state["documents"] if is_main() else 0.0
        if is_main():
            for name in LOGS:
                cut_metrics(self.run / name, int(folder.name.split("-")[1]))
        if head := value_head_of(self.model):
            head.load_state_dict(torch.load(folder / VALUE_HEAD, weights_only=True))


def _on_cpu(model: torch.nn.Module) -> bool:
    return next(model.parameters()).device.type == "cpu"
