"""Run a stage from its settings: one checkpoint in, one out, in a run folder.

Hard fact: everything that can be wrong with settings, data, prompt and base is found before the weights are loaded; `model/` in the
run folder is always a whole checkpoint, the best on the dev set so far (the last one where there is no dev set).
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from ..bound_list import MOST
from ..checkpoint import Resolved, licence_of, prompt_of, resolve
from ..checkpoints.card import command_line, hub_base, model_card
from ..data.examples import balanced_pairs, split_groups
from ..data.formats import read_groups
from ..data.thoughts import ListThought, read_thoughts, split_thoughts
from ..errors import ConfigError, extra
from ..files import atomic_file, check_folder
from ..model import load_config, load_model, load_tokenizer, pick_device
from ..prompt import AnyPrompt, BoundListPrompt, BoundPrompt, Prompt
from ..rank.engine import check_compiled
from ..saving import save_checkpoint
from ..utils.strict_json import dumps
from .basics import check_list_size
from .choices import choices_of, chosen_settings, keep_choices
from .config import Settings, dump_settings
from .curves import plot
from .dev import Dev, check_dev
from .health import check_base, disk_errors, saved
from .processes import is_main, join, sum_of_processes, wait
from .summary import count_queries, warn_of_few

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

        from .adapter import add_adapter
        from .base import StageTrainer
    settings.check()
    run = Path(settings.out)
    if is_main():
        _claim(run, settings, resume)
    examples, held_out = _data(settings)
    _check(examples, settings)
    if settings.stage in ("warmup", "score", "order"):
        check_dev(held_out, settings.gain)
    resolved = resolve(settings.base, trust_remote_code=settings.trust_remote_code)
    tokenizer = load_tokenizer(resolved)
    prompt = _prompt(resolved, settings)
    prompt = replace(prompt, **_changes(prompt, settings))
    bound = _bound(prompt, tokenizer, settings)
    _check_form(examples, bound, settings)
    short = _bound(replace(prompt, max_length=settings.train_length), tokenizer, settings) if settings.train_length else bound
    device = pick_device(settings.device)
    config = load_config(resolved)
    device = join(device)
    chosen = choices_of(settings, config, device, short.longest, len(examples), resume)
    asked, settings = settings, chosen_settings(settings, chosen)
    bf16 = settings.dtype == "bf16"
    torch.manual_seed(settings.seed)
    model = load_model(resolved, torch.float32, device, train=settings.lora is not None)
    if settings.lora:
        model = add_adapter(model, settings)
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
        _show(trainer, report)
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


def _prompt(resolved: Resolved, settings: Settings) -> Prompt:
    """The base's own prompt; that of the settings where it asks for what the base's has not: a thought, several documents, or the
    document first."""
    own, wanted = prompt_of(resolved, settings.prompt), Prompt.of(settings.prompt)
    other_kind = (wanted.kind, wanted.lists) != (own.kind, own.lists) and wanted.kind != "binary"
    return wanted if other_kind or (wanted.first, own.first) == ("document", "query") else own


def _changes(prompt: Prompt, settings: Settings) -> dict[str, Any]:
    """What the settings say about the base's prompt."""
    changes = {"max_length": settings.max_length, "max_think_tokens": getattr(settings, "max_think_tokens", None)}
    system = getattr(settings, "system_prompt", None)
    if system is not None and system != prompt.system:
        changes |= {"system": system, "template": "auto"}  # a checkpoint's template has its system text in it
    return {key: value for key, value in changes.items() if value is not None}


def _bound(prompt: Prompt, tokenizer: Any, settings: Settings) -> AnyPrompt:
    """The prompt of a stage: with a thought where thoughts are learned or scored behind; elsewhere a thinking prompt is asked at
    once."""
    writes, behind = settings.stage in ("sft", "reason"), getattr(settings, "thoughts", False)
    if (writes or behind) and prompt.kind != "thinking" and (settings.stage, prompt.kind) != ("sft", "listwise"):
        remedy = "; start from a checkpoint of stage sft or reason, or leave 'thoughts' out" if behind else ""
        why = f"needs a prompt of kind thinking, such as rerank-r0, and {prompt.name} is {prompt.kind}{remedy}"
        raise ConfigError(f"stage {settings.stage}{' with thoughts' if behind else ''} {why}")
    if prompt.lists:
        if not writes and prompt.kind != "setwise":
            raise ConfigError(f"stage {settings.stage} shows several documents with prompts of kind setwise, not {prompt.kind}")
        check_list_size(getattr(settings, "list_size", MOST), MOST)
        return prompt.bind_list(tokenizer)
    return prompt.bind(tokenizer) if writes or behind else prompt.bind(tokenizer).direct()


def _data(settings: Settings) -> tuple[list, list]:
    """Training and dev examples: groups, or thoughts for stage sft."""
    sources = [settings.data] if isinstance(settings.data, str) else settings.data
    if settings.stage == "sft":
        thoughts = [thought for source in sources for thought in read_thoughts(source)]
        if settings.dev:
            return thoughts, read_thoughts(settings.dev)
        return split_thoughts(thoughts, settings.dev_queries, settings.seed)
    groups = [group for source in sources for group in read_groups(source, "train")]
    if settings.dev:
        return groups, read_groups(settings.dev, "dev")
    if settings.dev_queries:
        most = min(settings.dev_queries, len(groups) // 5)
        return split_groups(groups, most, settings.seed) if most else (groups, [])
    return groups, []


def _check(examples: list, settings: Settings) -> None:
    """Raise DataError if the stage cannot use these data."""
    if settings.stage in ("warmup", "reason"):
        balanced_pairs(examples, settings.seed)
    elif settings.stage in ("score", "order"):
        from .score import usable
        from .teacher import check_teacher

        usable(examples, settings)
        check_teacher(examples, settings.teacher)


def _check_form(examples: list, bound: AnyPrompt, settings: Settings) -> None:
    """Raise ConfigError where thoughts are about one document and the prompt shows several, or the other way round."""
    lists = [isinstance(example, ListThought) for example in examples if settings.stage == "sft"]
    if lists and any(one != bound.prompt.lists for one in lists):
        shown = "several documents" if bound.prompt.lists else "one document"
        raise ConfigError(f"stage sft: prompt {bound.prompt.name} shows {shown}, and not all of the data do; see key 'prompt'")


def _stage(
    settings: Settings, examples: list, held_out: list, short: BoundPrompt, bound: BoundPrompt, model: torch.nn.Module, bf16: bool
) -> Any:
    """The stage; prompts are `short` in training and `bound` in measures of order."""
    if settings.stage == "sft":
        from .sft import SftStage

        return SftStage(examples, short, settings, held_out, bf16)
    if settings.stage == "reason":
        from .reason import ReasonStage

        return ReasonStage(examples, short, settings, model, held_out, bf16)
    dev = Dev(held_out, bound.prompt, bound.tokenizer, bf16, gain=settings.gain) if held_out else None
    if settings.stage == "warmup":
        from .warmup import WarmupStage

        return WarmupStage(examples, short, settings, model, dev, bf16)
    from .score import ScoreStage
    from .teacher import with_teacher
    from .thoughts import OwnThoughts

    if settings.teacher:
        examples = with_teacher(examples, settings.teacher, Path(settings.out), model, bound.tokenizer, None)
    thoughts = OwnThoughts(model, short, settings, bf16) if settings.thoughts else None
    if settings.stage == "order":
        from .order import OrderStage

        return OrderStage(examples, short, settings, model, dev, bf16, thoughts)
    return ScoreStage(examples, short, settings, dev, bf16, thoughts)


def _saver(settings: Settings, run: Path, bound: BoundPrompt, resolved: Resolved) -> Callable[[torch.nn.Module, dict], None]:
    """A function that writes `<run>/model`, with its card."""
    base = (resolved.base or resolved.name, resolved.path)
    data = settings.data if isinstance(settings.data, str) else ", ".join(settings.data)

    def save(model: torch.nn.Module, measures: dict) -> None:
        shown = {key: round(value, 4) for key, value in measures.items()}
        licence, hub = licence_of(settings.base, resolved.folder), hub_base(settings.base, resolved.folder)
        command, lists = command_line("prorank.train.run.train"), isinstance(bound, BoundListPrompt)
        card = model_card(str(run), settings.base, hub, licence, settings.stage, data, asdict(settings), shown, command, lists)
        value = model._modules.pop("value_head", None)  # serves training alone
        save_checkpoint(run / "model", model, bound, base, card)
        if value is not None:
            model.value_head = value

    return save


def _show(trainer: Any, report: Callable[[float, dict], None] | None) -> None:
    """Tell `report` of every step."""
    if not report:
        return
    from transformers import TrainerCallback

    class Report(TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            figures = state.log_history[-1] if state.log_history else {}
            report(trainer.progress(state.global_step), figures)

    trainer.add_callback(Report())


class _interrupt:
    """Ctrl-C once: finish the step, write a checkpoint, stop. Twice: stop at once."""

    def __init__(self, trainer: Any) -> None:
        from .course import Milestones

        self.milestones = next(c for c in trainer.callback_handler.callbacks if isinstance(c, Milestones))

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
