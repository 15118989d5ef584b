"""One trainer for all stages: a `transformers.Trainer` whose data are a stage's units and whose loss is the stage's.

What a step sees depends on (seed, step) alone, never on the state of a random generator, so a run killed at any moment
and resumed ends with the weights of the uninterrupted one.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import math
import shutil
from pathlib import Path
from typing import Any, cast

import torch
from transformers import PreTrainedModel, Trainer
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from ..checkpoints.loading import without_bars
from ..checkpoints.weights import check_resumable
from ..engine.heads import use_fp32_head
from ..errors import ModelError, TrainingError
from ..utils.files import append_text
from ..utils.strict_json import dumps
from .arguments import arguments_of, rate_factor
from .distributed import average_gradients, is_main, mean_of_processes, place, sum_of_processes, wait
from .health import damaged_weight, gradient_norm, saved
from .micro_batches import Stage, Steps, micro_of, share_of, total_steps, whole
from .schedule import Clock, EvalAndSaveCallback, checkpoints, complete, cut_metrics
from .settings.stage_settings import Settings

log = logging.getLogger("prorank")
VALUE_HEAD = "value_head.pt"  # of stage reason with PPO
LOGS = ("metrics.jsonl", "completions.jsonl")  # lines with their step


class StageTrainer(Trainer):
    """Trains a stage within a budget of steps or minutes; logs to `metrics.jsonl`; saves checkpoints that are whole or absent.

    Args:
        stage: see Stage.
        settings: the stage's settings.
        model: fp32 weights; autocast gives bf16.
        bf16: autocast to bf16.
        save_best: called with the model whenever the dev score rises.
        repeat: optimiser steps on each batch.
    """

    model: PreTrainedModel

    def __init__(self, stage: Stage, settings: Settings, model: PreTrainedModel, bf16: bool, save_best: Any, repeat: int = 1):
        self.stage, self.settings, self.save_best = stage, settings, save_best
        self.run = Path(settings.out)
        self.share = share_of(settings)
        self.micro = settings.micro_batch or micro_of(self.share, stage.cpu_units if _on_cpu(model) else 64)
        self.repeat, self.total = repeat, total_steps(settings, len(stage), repeat)
        self.clock = Clock(settings.minutes)
        self.before: dict[str, float] = {}  # dev figures before the first step
        self.best: dict[str, float] = {}
        self.documents = 0.0  # that this process has trained on
        self._idle = False  # a step without a gradient was told of
        self._losses: list[float] = []  # of the step's micro-batches so far
        self._sums: dict[str, float] = {}
        self._count = 0
        self._seen = 0.0  # the clock at the last log line
        use_fp32_head(model)
        self.items = Steps(stage, self.total, settings.batch_size, self.micro, repeat)
        arguments = arguments_of(settings, self.total, self.share // self.micro, bf16, _on_cpu(model))
        quiet = contextlib.redirect_stdout(io.StringIO())
        with quiet:
            super().__init__(model=model, args=arguments, train_dataset=self.items, data_collator=whole)
        self.model_accepts_loss_kwargs = False  # the loss is a mean, so micro-batches are averaged
        for callback in (PrinterCallback, ProgressCallback):
            self.remove_callback(callback)
        self.add_callback(EvalAndSaveCallback(self))

    def _get_train_sampler(self, *_: Any) -> torch.utils.data.Sampler:
        return torch.utils.data.SequentialSampler(self.items)

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> torch.optim.lr_scheduler.LRScheduler:
        """See `rate_factor`."""
        made = optimizer or self.optimizer
        assert made is not None  # the Trainer makes it first
        self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(made, rate_factor(self.settings, self.total, self.progress))
        return self.lr_scheduler

    def progress(self, step: int) -> float:
        """Share of the budget spent, 0..1."""
        return min(1.0, max(step / self.total, self.clock.minutes() / self.settings.minutes if self.settings.minutes else 0.0))

    def training_step(self, *given: Any, **named: Any) -> torch.Tensor:
        loss = super().training_step(*given, **named)
        if self.accelerator.sync_gradients:
            if place()[1] > 1 and not self.is_deepspeed_enabled:
                average_gradients(self.model)
            self._check_step()
        return loss

    def _check_step(self) -> None:
        """Raise TrainingError, in all processes alike, where the step's loss or gradients are not finite; the weights still are
        those of the step before."""
        step = self.state.global_step + 1
        value = mean_of_processes(sum(self._losses) / max(1, len(self._losses)))
        self._losses = []
        norm = gradient_norm(self.model)
        for name, number in (("loss", value), ("gradient norm", norm)):
            if not math.isfinite(number):
                why = f"the {name} is {number} (loss {value:.4g}, gradient norm {norm:.4g})"
                raise self.stopped(why, step)
        if not (norm or self.is_deepspeed_enabled or self._idle):
            self._idle = True
            log.warning("step %d: the gradient is exactly 0, so nothing is learned; if it stays so, lower learning_rate", step)

    def stopped(self, why: str, step: int | None = None) -> TrainingError:
        """The error of a run that cannot go on: the step, what is wrong, what to do, what is saved."""
        step = self.state.global_step if step is None else step
        remedy = f"begin again in another 'out' with a lower learning_rate (now {self.settings.learning_rate:g})"
        remedy += "" if self.settings.dtype == "fp32" else " or dtype=fp32"
        return TrainingError(f"{self.run}: step {step}: {why}, so training stops; {remedy}. {saved(self.run, self.best)}")

    def compute_loss(
        self, model: torch.nn.Module, inputs: Any, return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor | tuple[torch.Tensor, Any]:  # fmt: skip
        """The stage's loss of a micro-batch; `inputs` is the list of its units."""
        # Without the wrapper of several processes, whose own averaging only serves forwards through itself.
        policy = model if self.is_deepspeed_enabled else self.accelerator.unwrap_model(model)
        loss, figures = self.stage.loss(cast(PreTrainedModel, policy), inputs)
        self._losses.append(float(loss.detach()))
        self.documents += figures.get("documents", 1.0) * len(inputs)
        for key, value in figures.items():
            self._sums[key] = self._sums.get(key, 0.0) + value
        self._count += 1
        return (loss, None) if return_outputs else loss

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Add the step's figures averaged since the last line, and the speed, to what the Trainer logs."""
        if self._count and "loss" in logs:
            logs = {**logs, **{key: value / self._count for key, value in self._sums.items()}}
            logs["units_per_second"] = self._count * self.micro / max(1e-9, self.clock.minutes() * 60 - self._seen)
            for key in ("documents", "tokens"):
                if key in logs:
                    logs[f"{key}_per_second"] = logs[key] * logs["units_per_second"]
            self._sums, self._count, self._seen = {}, 0, self.clock.minutes() * 60
        logs = {key: value for key, value in logs.items() if not key.startswith(("train_", "total_flos", "epoch"))}
        if logs:
            self._append(logs)
            super().log(logs, *args, **kwargs)

    def _append(self, figures: dict[str, float]) -> None:
        """One line of `metrics.jsonl`."""
        if self.is_world_process_zero():
            line = {"step": self.state.global_step, "minutes": round(self.clock.minutes(), 4), **figures}
            append_text(self.run / "metrics.jsonl", dumps(line) + "\n")

    def checkpoint(self) -> None:
        """Write all that resuming needs beside its place, then rename: `checkpoint-<step>` exists whole or not at all."""
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
            finally:  # half of one would fill the disk
                if is_main():
                    shutil.rmtree(staging, ignore_errors=True)
            wait()

    def _get_output_dir(self, trial: Any = None) -> str:
        """Where the Trainer writes a checkpoint."""
        return str(self.run / ".saving")

    def check_weights(self) -> None:
        """Raise TrainingError for weights that are not finite: they are never saved."""
        if name := damaged_weight(self.model):
            raise self.stopped(f"weight '{name}' is not finite")

    def _publish(self, staging: Path, step: str, documents: float) -> None:
        """Write what the Trainer does not, then put the checkpoint into its place."""
        folder = staging / step
        if head := getattr(self.model, "value_head", None):  # an adapter's checkpoint leaves it out
            torch.save(head.state_dict(), folder / VALUE_HEAD)
        counted = {"minutes": self.clock.minutes(), "documents": documents, "before": self.before, "best": self.best}
        (folder / "run.json").write_text(dumps(counted), encoding="utf-8")
        complete(folder, self.run, self.settings.keep)

    def measure(self) -> None:
        """Dev measures now; better weights than before are kept, those before the first step apart."""
        with self.clock.paused():
            found = self._measured()
            if not found:
                return
            self._append({f"dev_{key}": value for key, value in found.items()})
            if not self.state.global_step:
                self.before = found
            elif not self.best or found["score"] > self.best["score"]:
                best = {**found, "step": self.state.global_step}
                if is_main():
                    self.save_best(self.model, best)
                self.best = best  # now that they are there

    def _measured(self) -> dict[str, float]:
        """Dev measures. Raises TrainingError for weights, scores or measures that are not finite."""
        self.check_weights()
        self.model.eval()
        try:
            found = self.stage.evaluate(self.model)
        except ModelError as error:
            raise self.stopped(str(error)) from error
        self.model.train()
        for key, value in found.items():
            if not math.isfinite(value):
                raise self.stopped(f"the dev measure {key} is {value}")
        return found

    def fit(self, resume: bool) -> None:
        """Train to the end of the budget, from the newest whole checkpoint with `resume`."""
        whole_ones = checkpoints(self.run) if resume else []
        last = whole_ones[-1] if whole_ones else None
        if last:
            check_resumable(last)
            stored = json.loads((last / "run.json").read_text(encoding="utf-8"))
            self.clock.spent, self.best = stored["minutes"] * 60, stored["best"]
            self.before, self.documents = stored.get("before", {}), stored.get("documents", 0.0) if is_main() else 0.0
            for name in LOGS if is_main() else ():
                cut_metrics(self.run / name, int(last.name.split("-")[1]))
            if (last / VALUE_HEAD).is_file():
                self.model.get_submodule("value_head").load_state_dict(torch.load(last / VALUE_HEAD, weights_only=True))
        else:
            for name in LOGS if is_main() else ():
                (self.run / name).unlink(missing_ok=True)
        self._seen = self.clock.spent
        self.clock.start()
        with contextlib.redirect_stdout(io.StringIO()):
            self.train(resume_from_checkpoint=str(last) if last else None)


def _on_cpu(model: PreTrainedModel) -> bool:
    return next(model.parameters()).device.type == "cpu"
