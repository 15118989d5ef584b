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
from ..utils.terminal import json_line, plain, print_lines, stdout_console

ENTRY = re.compile(r"^ {4}(\w+(?:, \w+)*): ", re.MULTILINE)  # "steps, minutes, epochs: " begins an entry of Attributes
INLINE = re.compile(r"(?:(?<=[.;] )|^)(\w+): ")  # a second key within an entry: "...; near: share of ..."


@dataclass(frozen=True)
class SettingsKey:
    """One key of a stage's YAML file.

    Attributes:
        name: the key; dots reach into mappings, as in lora.r.
        type: as it is annotated.
        default: the default value; None also where a value is required.
        description: what the key does.
    """

    name: str
    type: str
    default: Any
    description: str


def list_keys(stage: str) -> list[SettingsKey]:
    """All settings keys of a stage: warmup, score, order, sft or reason.

    Raises:
        ConfigError: there is no such stage.
    """
    from ..train.settings.stage_settings import STAGES

    if stage not in STAGES:
        raise ConfigError(f"--list-keys: {stage!r} is not a stage{nearest(stage, STAGES)}")
    return list(_keys_of(STAGES[stage]))


def show_keys(stage: str | None = None) -> None:
    """Print the keys of one stage, or the keys that all stages share and then those of each stage."""
    from ..train.settings.stage_settings import STAGES

    if stage is not None:
        _print_keys(f"stage {stage}", list_keys(stage))
        return
    keys = {name: list_keys(name) for name in STAGES}
    shared = [key for key in next(iter(keys.values())) if all(key in others for others in keys.values())]
    _print_keys("every stage", shared)
    for name, own in keys.items():
        _print_keys(f"stage {name}", [key for key in own if key not in shared])


def _print_keys(title: str, keys: list[SettingsKey]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", title_style="bold", box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for key in keys:
        facts = ", ".join(filter(None, (key.type, _default_text(key.default))))
        about = [plain(facts, "dim")] + ([plain(key.description)] if key.description else [])
        table.add_row(plain(key.name), Text("\n").join(about))
    stdout_console().print(table)
    print_lines([""])


def _default_text(default: Any) -> str:
    """The default as YAML writes it; nothing for a required value, and for nested settings, whose keys follow."""
    return "" if default == "" or is_dataclass(default) else f"default {json_line(default)}"


def _keys_of(settings: type, prefix: str = "") -> Iterator[SettingsKey]:
    """The keys of a settings class, those of nested classes after the key that holds them."""
    types, descriptions = get_type_hints(settings), _descriptions(settings)
    for one in fields(settings):
        kind = types[one.name]
        yield SettingsKey(prefix + one.name, _type_name(kind), _default(one), descriptions.get(one.name, ""))
        for nested in (kind, *get_args(kind)):
            if is_dataclass(nested) and isinstance(nested, type):
                yield from _keys_of(nested, f"{prefix}{one.name}.")


def _type_name(kind: Any) -> str:
    """An annotation without module names: "int | None", "list[str]"."""
    name = kind.__name__ if isinstance(kind, type) and not get_args(kind) else str(kind)
    return re.sub(r"\w+\.(?=\w)", "", name.replace("typing.", ""))


def _default(one: Field) -> Any:
    if one.default_factory is not MISSING:
        return one.default_factory()
    return None if one.default is MISSING else one.default


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
