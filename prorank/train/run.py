"""Run a training stage from its settings: one checkpoint in, one out, in a run folder.

Settings, data, prompt and base are checked before the weights are loaded. `model/` in the run folder is always a complete
checkpoint: the best on the dev set so far, or the last one without a dev set.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..checkpoints.loading import load_config, load_model, load_tokenizer, pick_device
from ..checkpoints.resolve import Resolved, resolve
from ..engine.cpu_engine import check_compiled
from ..errors import extra
from ..prompts.prompt import AnyPromptEncoder
from .choices import choices_of, chosen_settings
from .curves import plot
from .distributed import check_launcher, is_main, join, sum_of_processes, wait
from .health import check_base, disk_errors, saved
from .run_folder import claim_folder, model_saver, write_done, write_settings
from .schedule import ReportCallback
from .settings.stage_settings import Settings
from .stages.registry import STAGES
from .stages.stage_spec import StageInputs, StageSpec
from .summary import count_queries, warn_of_few
from .training_data import training_prompt

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from .stage_trainer import StageTrainer

log = logging.getLogger("prorank")
Report = Callable[[float, dict], None]


def train(settings: Settings, resume: bool = False, report: Report | None = None) -> Path:
    """Run one stage.

    Args:
        settings: see `prorank.train.settings`.
        resume: continue from the newest complete checkpoint of the run folder, or start if there is none.
        report: called after every step with the used share of the budget and the latest figures.

    Returns:
        The folder of the trained checkpoint, `<out>/model`.

    Raises:
        ConfigError, DataError, PromptError, ModelError: an input is invalid; raised before any long work.
        TrainingError: a loss, gradients, weights or dev scores are not finite, or a file cannot be written. Files saved before stay
            complete.
    """
    with extra("train"):
        import accelerate  # noqa: F401
    check_launcher()
    settings.check()
    spec, folder = STAGES[settings.stage], Path(settings.out)
    if is_main():
        claim_folder(settings, resume)
    examples, dev_examples = spec.read(settings)
    spec.check(examples, dev_examples, settings)
    source = resolve(settings.base, trust_remote_code=settings.trust_remote_code)
    encoders = make_encoders(spec, source, examples, settings)
    device = pick_device(settings.device)
    config, device = load_config(source), join(device)
    choices = choices_of(settings, config, device, encoders.train.longest, len(examples), resume)
    chosen = chosen_settings(settings, choices)
    model = load_trainable(source, chosen, device)
    if is_main():
        warn_of_few(settings, dev_examples)
    with disk_errors(folder, lambda: saved(folder)):
        if is_main():
            write_settings(settings, choices)
        wait()
        trainable = spec.trainable(model, chosen)
        bf16 = chosen.dtype == "bf16"
        stage = spec.build(StageInputs(chosen, examples, dev_examples, encoders.train, encoders.full, trainable, bf16))
        save = model_saver(settings, encoders.full, source)
        trainer = make_trainer(stage, chosen, trainable, save, report)
        interrupted = fit(trainer, resume, count_queries(dev_examples))
    if interrupted:
        raise KeyboardInterrupt
    return folder / "model"


@dataclass(frozen=True)
class Encoders:
    """Encoders of a run's prompt.

    Attributes:
        train: encodes up to `train_length` tokens, for training.
        full: encodes up to `max_length` tokens, for dev measures and the checkpoint.
    """

    train: AnyPromptEncoder
    full: AnyPromptEncoder


def make_encoders(spec: StageSpec, source: Resolved, examples: list, settings: Settings) -> Encoders:
    """Make the encoders of a run.

    Args:
        spec: the stage.
        source: the base, for its tokenizer and prompt.
        examples: training data, which must fit the prompt.
        settings: settings of the run.

    Raises:
        ConfigError: the stage cannot use the prompt.
    """
    tokenizer = load_tokenizer(source)
    prompt = training_prompt(source, settings)
    full = spec.bind(prompt, tokenizer, settings)
    spec.check_encoder(examples, full)
    if not settings.train_length:
        return Encoders(full, full)
    return Encoders(spec.bind(replace(prompt, max_length=settings.train_length), tokenizer, settings), full)


def load_trainable(source: Resolved, settings: Settings, device: torch.device) -> PreTrainedModel:
    """Load the base in fp32 and prepare it for training.

    Args:
        source: the base.
        settings: settings of the run. With `lora`, the model gets a new adapter, unless it has one.
        device: device of this process.
    """
    from .lora import add_adapter

    torch.manual_seed(settings.seed)
    model = load_model(source, torch.float32, device, train=settings.lora is not None)
    if settings.lora:
        model = add_adapter(model, settings.lora, settings.seed)
    check_base(model, settings.base)
    if settings.compile:
        check_compiled(model)
    model.config.use_cache = False
    if settings.gradient_checkpointing:
        model.gradient_checkpointing_enable()
        model.enable_input_require_grads()  # otherwise an adapter over frozen embeddings gets no gradient
    return model


def make_trainer(
    stage: Any, settings: Settings, model: torch.nn.Module, save: Callable[..., None] | None, report: Report | None
) -> StageTrainer:
    """Make the trainer of a stage.

    Args:
        stage, settings, model: see `StageTrainer`.
        save: writes the best weights; None writes none.
        report: see `train`.
    """
    with extra("train"):
        from .stage_trainer import StageTrainer
    trainer = StageTrainer(stage, settings, model, settings.dtype == "bf16", save, getattr(settings, "updates", 1))
    if report:
        trainer.add_callback(ReportCallback(trainer, report))
    return trainer


def fit(trainer: StageTrainer, resume: bool, dev_queries: int) -> bool:
    """Train to the end of the budget, then write `done.json` and the curves.

    Args:
        trainer: the trainer.
        resume: continue from the newest complete checkpoint.
        dev_queries: number of queries of the dev set, for `done.json`.

    Returns:
        Whether the run was interrupted.
    """
    with _stop_on_interrupt(trainer):
        trainer.fit(resume)
    if not trainer.schedule.interrupted:
        _finish(trainer, dev_queries)
    if is_main() and (trainer.run / "metrics.jsonl").is_file():
        plot(trainer.run)
    return trainer.schedule.interrupted


def _finish(trainer: StageTrainer, dev_queries: int) -> None:
    """Save the last weights if no dev measure selected others, and mark the run as complete."""
    documents = sum_of_processes(trainer.documents)
    if is_main():
        if not trainer.best and trainer.save_best:
            trainer.check_weights()
            trainer.save_best(trainer.model, {})
        step = trainer.state.global_step
        summary = {"step": step, "max_steps": trainer.total, "minutes": trainer.clock.minutes(), "documents": round(documents)}
        write_done(trainer.run, summary | {"dev_queries": dev_queries, "before": trainer.before, "best": trainer.best})
    wait()


@contextmanager
def _stop_on_interrupt(trainer: StageTrainer) -> Iterator[None]:
    """Make Ctrl-C finish the step, write a checkpoint and stop; a second Ctrl-C stops immediately."""

    def handler(*_: object) -> None:
        if trainer.schedule.interrupted:
            raise KeyboardInterrupt
        trainer.schedule.interrupted = True
        log.warning("stopping after this step; a checkpoint will be written (Ctrl-C again to stop at once)")

    try:
        before = signal.signal(signal.SIGINT, handler)
    except ValueError:  # not the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
