"""Run a stage from its settings: one checkpoint in, one out, in a run folder.

Everything that can be wrong with settings, data, prompt and base is found before the weights are loaded; `model/` in the
run folder is always a whole checkpoint, the best on the dev set so far (the last one where there is no dev set).
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..checkpoints.card import command_line, hub_base, model_card
from ..checkpoints.loading import load_config, load_model, load_tokenizer, pick_device
from ..checkpoints.resolve import Resolved, licence_of, resolve
from ..checkpoints.saving import save_checkpoint
from ..engine.cpu_engine import check_compiled
from ..errors import ConfigError, extra
from ..prompts.prompt import AnyPromptEncoder, ListPromptEncoder, PairPromptEncoder, Prompt
from ..utils.files import atomic_file, check_folder
from ..utils.strict_json import dumps
from .choices import choices_of, chosen_settings, keep_choices
from .curves import plot
from .dev_set import Dev, check_dev
from .distributed import is_main, join, sum_of_processes, wait
from .health import check_base, disk_errors, saved
from .micro_batches import Stage
from .settings.stage_settings import Order, Reason, Score, Settings, Sft, Warmup, dump_settings
from .summary import count_queries, warn_of_few
from .training_data import bind, check_examples, check_form, prompt_for, read_examples

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger("prorank")


def train(settings: Settings, resume: bool = False, report: Callable[[float, dict], None] | None = None) -> Path:
    """Run one stage; returns the folder of the trained checkpoint (`<out>/model`).

    Args:
        settings: see config.
        resume: go on from the newest whole checkpoint of the run folder (or start, if there is none).
        report: called after every step with the share of the budget spent and the latest figures.

    Raises:
        ConfigError, DataError, PromptError, ModelError: before any long work.
        TrainingError: a loss, gradients, weights or dev scores that are not finite, or a file that cannot be written. What was
            saved before stays whole.
    """
    with extra("train"):
        import accelerate  # noqa: F401

        from .lora import add_adapter
        from .schedule import ReportCallback
        from .stage_trainer import StageTrainer
    settings.check()
    run = Path(settings.out)
    if is_main():
        _claim(run, settings, resume)
    examples, held_out = _data(settings)
    resolved = resolve(settings.base, trust_remote_code=settings.trust_remote_code)
    tokenizer = load_tokenizer(resolved)
    prompt = prompt_for(resolved, settings)
    bound = bind(prompt, tokenizer, settings)
    check_form(examples, bound, settings)
    short = bind(replace(prompt, max_length=settings.train_length), tokenizer, settings) if settings.train_length else bound
    device = pick_device(settings.device)
    config = load_config(resolved)
    device = join(device)
    chosen = choices_of(settings, config, device, short.longest, len(examples), resume)
    asked, settings = settings, chosen_settings(settings, chosen)
    bf16 = settings.dtype == "bf16"
    torch.manual_seed(settings.seed)
    model = load_model(resolved, torch.float32, device, train=settings.lora is not None)
    if settings.lora:
        model = add_adapter(model, settings.lora, settings.seed)
    check_base(model, settings.base)
    if settings.compile:
        check_compiled(model)
    if is_main():
        warn_of_few(settings, held_out)
    with disk_errors(run, lambda: saved(run)):
        if is_main():
            with atomic_file(run / "config.yaml") as handle:  # from here on the folder holds a run
                handle.write(dump_settings(asked))
            keep_choices(chosen, settings.out)
        wait()
        model.config.use_cache = False
        if settings.gradient_checkpointing:
            model.gradient_checkpointing_enable()
            model.enable_input_require_grads()  # else an adapter over frozen embeddings would get no gradient
        stage = _stage(settings, examples, held_out, short, bound, model, bf16)
        save = _saver(asked, run, bound, resolved)
        trainer = StageTrainer(stage, settings, model, bf16, save, getattr(settings, "updates", 1))
        if report:
            trainer.add_callback(ReportCallback(trainer, report))
        with _interrupt(trainer) as stopped:
            trainer.fit(resume)
        if not stopped():
            _finish(trainer, count_queries(held_out))
        if is_main() and (run / "metrics.jsonl").is_file():
            plot(run)
    if stopped():
        raise KeyboardInterrupt
    return run / "model"


def _finish(trainer: Any, dev_queries: int) -> None:
    """Save the last weights where no dev measure chose others, then say in `done.json` what the run was."""
    documents = sum_of_processes(trainer.documents)
    if is_main():
        if not trainer.best:
            trainer.check_weights()
            trainer.save_best(trainer.model, {})
        about = {"step": trainer.state.global_step, "minutes": trainer.clock.minutes(), "documents": round(documents)}
        about |= {"dev_queries": dev_queries, "before": trainer.before, "best": trainer.best}
        with atomic_file(trainer.run / "done.json") as handle:
            handle.write(dumps(about))
    wait()


def is_done(out: str | Path) -> bool:
    """Whether the run in this folder came to its end."""
    return (Path(out) / "done.json").is_file()


def _claim(run: Path, settings: Settings, resume: bool) -> None:
    """A run folder is used again only to go on with the very same settings; it must be one that can be written."""
    check_folder(run)
    stored = run / "config.yaml"
    if not stored.is_file():
        return
    if not resume:
        raise ConfigError(f"{run}: holds a run already; add --resume to go on with it, or choose another 'out'")
    if is_done(run):
        raise ConfigError(f"{run}: this run is complete; its checkpoint is {run / 'model'}")
    if stored.read_text(encoding="utf-8") != dump_settings(settings):
        raise ConfigError(f"{stored}: the settings differ from those the run began with; resume needs the same")


def _data(settings: Settings) -> tuple[list, list]:
    """Training and dev examples that the stage can use."""
    examples, held_out = read_examples(settings)
    check_examples(examples, settings)
    if isinstance(settings, (Warmup, Score)):
        check_dev(held_out, settings.gain)
    return examples, held_out


def _stage(
    settings: Settings,
    examples: list,
    held_out: list,
    short: AnyPromptEncoder,
    bound: AnyPromptEncoder,
    model: PreTrainedModel,
    bf16: bool,
) -> Stage:
    """The stage; prompts are `short` in training and `bound` in measures of order."""
    if isinstance(settings, Sft):
        from .stages.sft import SftStage

        return SftStage(examples, short, settings, held_out, bf16)
    if isinstance(settings, Reason):
        from .stages.reason import ReasonStage

        return ReasonStage(examples, short, settings, model, held_out, bf16)
    assert isinstance(settings, (Warmup, Score))  # Order is a Score
    dev = Dev(held_out, Prompt.of(bound.prompt), bound.tokenizer, bf16, gain=settings.gain) if held_out else None
    if isinstance(settings, Warmup):
        from .stages.warmup import WarmupStage

        return WarmupStage(examples, short, settings, model, dev, bf16)
    from .teacher_scores import with_teacher

    if settings.teacher:
        examples = with_teacher(examples, settings.teacher, Path(settings.out), model, bound.tokenizer, None)
    return _of_scores(settings, examples, short, model, dev, bf16)


def _of_scores(
    settings: Score, examples: list, short: AnyPromptEncoder, model: PreTrainedModel, dev: Dev | None, bf16: bool
) -> Stage:
    """Stage `score` or `order`, behind the model's own thoughts where they are wanted."""
    from .stages.order import OrderStage
    from .stages.score import ScoreStage
    from .stages.thought_cache import ThoughtCache

    thoughts = None
    if settings.thoughts:
        assert isinstance(short, PairPromptEncoder)  # `bind` refuses thoughts about several documents
        thoughts = ThoughtCache(model, short, settings, bf16)
    if isinstance(settings, Order):
        return OrderStage(examples, short, settings, model, dev, bf16, thoughts)
    return ScoreStage(examples, short, settings, dev, bf16, thoughts)


def _saver(settings: Settings, run: Path, bound: AnyPromptEncoder, resolved: Resolved) -> Callable[[PreTrainedModel, dict], None]:
    """A function that writes `<run>/model`, with its card."""
    base = (resolved.base or resolved.name, resolved.path)
    data = settings.data if isinstance(settings.data, str) else ", ".join(settings.data)

    def save(model: PreTrainedModel, measures: dict) -> None:
        shown = {key: round(value, 4) for key, value in measures.items()}
        licence, hub = licence_of(settings.base, resolved.folder), hub_base(settings.base, resolved.folder)
        command, lists = command_line("prorank.train.run.train"), isinstance(bound, ListPromptEncoder)
        card = model_card(str(run), settings.base, hub, licence, settings.stage, data, asdict(settings), shown, command, lists)
        value = model._modules.pop("value_head", None)  # serves training alone
        save_checkpoint(run / "model", model, bound, base, card)
        if value is not None:
            model.value_head = value

    return save


class _interrupt:
    """Ctrl-C once: finish the step, write a checkpoint, stop. Twice: stop at once."""

    def __init__(self, trainer: Any) -> None:
        from .schedule import EvalAndSaveCallback

        self.milestones = next(c for c in trainer.callback_handler.callbacks if isinstance(c, EvalAndSaveCallback))

    def __enter__(self) -> Callable[[], bool]:
        def handler(*_: object) -> None:
            if self.milestones.interrupted:
                raise KeyboardInterrupt
            self.milestones.interrupted = True
            log.warning("stopping after this step; a checkpoint will be written (Ctrl-C again to stop at once)")

        try:
            self.before = signal.signal(signal.SIGINT, handler)
        except ValueError:  # not the main thread
            self.before = None
        return lambda: self.milestones.interrupted

    def __exit__(self, *_: object) -> None:
        if self.before is not None:
            signal.signal(signal.SIGINT, self.before)
