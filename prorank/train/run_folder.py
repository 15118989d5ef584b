"""Files of a run folder beside its checkpoints: settings, choices made for `auto`, the trained model, and `done.json`."""

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
    """Check that the run folder is new, or that it holds an unfinished run of the same settings that is to be resumed.

    Raises:
        ConfigError: the folder holds another run, or a complete one.
        OSError: the folder cannot be written.
    """
    folder = Path(settings.out)
    check_folder(folder)
    stored = folder / "config.yaml"
    if not stored.is_file():
        return
    if not resume:
        raise ConfigError(f"{folder}: holds a run already; add --resume to go on with it, or choose another 'out'")
    if is_done(folder):
        raise ConfigError(f"{folder}: this run is complete; its checkpoint is {folder / 'model'}")
    if stored.read_text(encoding="utf-8") != dump_settings(settings):
        raise ConfigError(f"{stored}: the settings differ from those the run began with; resume needs the same")


def write_settings(settings: Settings, choices: dict[str, Choice]) -> None:
    """Write the run's settings and the choices for `auto`; from now on the folder holds a run."""
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
    """A function that writes `<out>/model` with its card, from a model and its dev measures.

    Args:
        settings: of the run.
        encoder: with the prompt that is saved.
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
