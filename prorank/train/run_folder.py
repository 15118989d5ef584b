"""Files of a run folder besides checkpoints: settings, choices made for `auto`, the trained model, and `done.json`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

import torch

from ..checkpoints.card import command_line, hub_base, model_card
from ..checkpoints.resolve import Resolved, licence_of
from ..checkpoints.saving import save_checkpoint
from ..engine.auto import Choice
from ..errors import ConfigError
from ..prompts.prompt import AnyPromptEncoder, ListPromptEncoder
from ..utils.files import atomic_file, check_folder
from ..utils.strict_json import dumps
from .choices import keep_choices
from .settings.stage_settings import Settings, dump_settings
from .value_head import policy_of

SaveModel = Callable[[torch.nn.Module, Mapping[str, float]], None]


def claim_folder(settings: Settings, resume: bool) -> None:
    """Check that the run folder is new or, with `resume`, contains an unfinished run with the same settings.

    Raises:
        ConfigError: the folder contains another run, or a complete one.
        OSError: the folder cannot be written.
    """
    folder = Path(settings.out)
    check_folder(folder)
    stored = folder / "config.yaml"
    if not stored.is_file():
        return
    if not resume:
        raise ConfigError(f"{folder}: already contains a run; add --resume to continue it, or choose another 'out'")
    if is_done(folder):
        raise ConfigError(f"{folder}: this run is complete; its checkpoint is {folder / 'model'}")
    if stored.read_text(encoding="utf-8") != dump_settings(settings):
        raise ConfigError(f"{stored}: the settings differ from those of the run; resume with the same settings")


def write_settings(settings: Settings, choices: dict[str, Choice]) -> None:
    """Write the run's settings and the choices for `auto`, which makes the folder a run folder."""
    with atomic_file(Path(settings.out) / "config.yaml") as handle:
        handle.write(dump_settings(settings))
    keep_choices(choices, settings.out)


def is_done(out: str | Path) -> bool:
    """Whether the run in this folder is complete."""
    return (Path(out) / "done.json").is_file()


def write_done(folder: Path, summary: Mapping[str, object]) -> None:
    """Mark the run as complete, with its summary."""
    with atomic_file(folder / "done.json") as handle:
        handle.write(dumps(summary))


def model_saver(settings: Settings, encoder: AnyPromptEncoder, source: Resolved) -> SaveModel:
    """Return a function that writes `<out>/model` with its card, from a model and its dev measures.

    Args:
        settings: settings of the run.
        encoder: encoder with the prompt to save.
        source: the base.
    """
    folder, base = Path(settings.out), (source.base or source.name, source.path)
    data = settings.data if isinstance(settings.data, str) else ", ".join(settings.data)

    def save(model: torch.nn.Module, measures: Mapping[str, float]) -> None:
        shown = {key: round(value, 4) for key, value in measures.items()}
        licence, hub = licence_of(settings.base, source.folder), hub_base(settings.base, source.folder)
        command, lists = command_line("prorank.train.run.train"), isinstance(encoder, ListPromptEncoder)
        values = asdict(settings)
        card = model_card(str(folder), settings.base, hub, licence, settings.stage, data, values, shown, command, lists)
        save_checkpoint(folder / "model", policy_of(model), encoder, base, card)

    return save
