"""`prorank train --list-keys`: the settings keys of the stages with type, default and description.

Types and defaults are read from the settings classes, descriptions from the `Attributes:` of their docstrings.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from typing import Any, get_args, get_type_hints

from ..errors import ConfigError, nearest
from ..utils.terminal import json_line, plain, stdout_console

ENTRY = re.compile(r"^ {4}(\w+(?:, \w+)*): ", re.MULTILINE)  # "steps, minutes, epochs: " begins an entry of Attributes
INLINE = re.compile(r"(?:(?<=[.;] )|^)(\w+): ")  # a second key within an entry: "...; near: share of ..."


@dataclass(frozen=True)
class SettingsKey:
    """One key of a stage's YAML file.

    Attributes:
        stage: stage that has the key.
        name: the key; dots reach into mappings, as in lora.r.
        type: as it is annotated.
        default: as YAML writes it, "" where a value is required.
        description: what the key does.
    """

    stage: str
    name: str
    type: str
    default: str
    description: str


def list_keys(stage: str | None = None) -> list[SettingsKey]:
    """All settings keys of one stage, or of every stage.

    Args:
        stage: warmup, score, order, sft or reason.

    Raises:
        ConfigError: there is no such stage.
    """
    from ..train.settings.stage_settings import STAGES

    if stage is not None and stage not in STAGES:
        raise ConfigError(f"--list-keys: {stage!r} is not a stage{nearest(stage, STAGES)}")
    names = [stage] if stage else list(STAGES)
    return [key for name in names for key in _keys_of(STAGES[name], name)]


def show_keys(stage: str | None = None) -> None:
    """Print one table per stage."""
    from rich import box
    from rich.table import Table

    keys = list_keys(stage)
    for name in dict.fromkeys(key.stage for key in keys):
        table = Table(title=f"stage {name}", title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
        for column, ratio in (("key", 0), ("type", 0), ("default", 0), ("description", 1)):
            table.add_column(column, overflow="fold", ratio=ratio or None)
        for key in keys:
            if key.stage == name:
                table.add_row(plain(key.name), plain(key.type), plain(key.default), plain(key.description))
        stdout_console().print(table)


def _keys_of(settings: type, stage: str, prefix: str = "") -> Iterator[SettingsKey]:
    """The keys of a settings class, those of nested classes after the key that holds them."""
    types, descriptions = get_type_hints(settings), _descriptions(settings)
    for one in fields(settings):
        kind = types[one.name]
        yield SettingsKey(stage, prefix + one.name, _type_name(kind), _default(one), descriptions.get(one.name, ""))
        for nested in (kind, *get_args(kind)):
            if is_dataclass(nested) and isinstance(nested, type):
                yield from _keys_of(nested, stage, f"{prefix}{one.name}.")


def _type_name(kind: Any) -> str:
    """An annotation without module names: "int | None", "list[str]"."""
    name = kind.__name__ if isinstance(kind, type) and not get_args(kind) else str(kind)
    return re.sub(r"\w+\.(?=\w)", "", name.replace("typing.", ""))


def _default(one: Field) -> str:
    """The default as YAML writes it; of a nested class its keys say it."""
    value = one.default if one.default_factory is MISSING else one.default_factory()
    if value is MISSING or is_dataclass(value):
        return ""
    return "" if value == "" else json_line(value)


def _descriptions(settings: type) -> dict[str, str]:
    """Description by key, from the docstrings of the class and its bases."""
    texts: dict[str, str] = {}
    for base in reversed(settings.__mro__):
        _, _, attributes = inspect.cleandoc(base.__doc__ or "").partition("Attributes:\n")
        pieces = ENTRY.split(attributes)[1:]
        for names, text in zip(pieces[::2], pieces[1::2]):
            texts |= _entry(names.split(", "), " ".join(text.split()))
    return texts


def _entry(names: list[str], text: str) -> dict[str, str]:
    """Description by key of one entry, which may describe further keys after a semicolon or full stop."""
    own, *others = INLINE.split(text)
    described = dict.fromkeys(names, own.strip(" ;"))
    return described | {name: more.strip(" ;") for name, more in zip(others[::2], others[1::2])}
