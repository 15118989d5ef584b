"""Read and write the settings of a stage: from a YAML file, `key=value` on the command line, or a mapping in Python.

Invalid values raise errors before data and weights are read.
"""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from ...errors import ConfigError, nearest
from ...utils.config_files import Key, fill, list_keys_of, override, read_values
from .common_settings import BUDGETS, Lora, Settings
from .note_keys import from_note, is_note_file
from .reason_settings import Grpo, Ppo, Reason
from .score_settings import Order, Score
from .sft_settings import Sft
from .warmup_settings import Warmup

log = logging.getLogger("prorank")

__all__ = [
    "Grpo", "Lora", "Order", "Ppo", "Reason", "Score", "Settings", "Sft", "Warmup", "dump_settings", "list_keys", "load_settings",
    "make_settings",
]  # fmt: skip

STAGE_SETTINGS: dict[str, type[Settings]] = {"warmup": Warmup, "score": Score, "order": Order, "sft": Sft, "reason": Reason}


def load_settings(path: str | Path, overrides: list[str] | None = None) -> Settings:
    """Load settings from a YAML file.

    Args:
        path: the file.
        overrides: texts `key=value` that replace values; dots address keys of mappings. Among several budgets (steps, minutes,
            epochs) the last one is used; it replaces the file's.

    Raises:
        ConfigError: a key or value is invalid; the message names file and key.
    """
    values, notes = read_values(path), []
    for number, text in enumerate(texts := overrides or []):
        key = text.partition("=")[0]
        before = [earlier for earlier in texts[:number] if earlier.partition("=")[0] == key]
        notes += [f"{text} replaces {before[-1]}"] if before else []
        override(values, text)
        notes += _replace_budget(values, key, texts[:number])
    settings = make_settings(values, str(path))
    for note in notes:
        log.warning("%s: %s", path, note)
    return settings


def _replace_budget(values: dict[str, Any], key: str, earlier: list[str]) -> list[str]:
    """Drop the other budgets if `key` is a budget that was just set. Returns lines for the log."""
    if key not in BUDGETS or values[key] is None:
        return []
    others = [other for other in BUDGETS if other != key and values.get(other) is not None]
    if key != "minutes" and not any(text.startswith("max_epochs=") for text in earlier):  # max_epochs is only valid with minutes
        others += ["max_epochs"] * (values.get("max_epochs") is not None)
    dropped = [f"{other}={values.pop(other)}" for other in others]
    return [f"{key}={values[key]} replaces {', '.join(dropped)}"] if dropped else []


def make_settings(values: dict[str, Any], where: str = "settings") -> Settings:
    """Make the settings of the stage in `values`.

    Args:
        values: values by key, see `list_keys`. Rerank-R0's own file has other keys, see `note_keys`.
        where: prefix of messages.

    Raises:
        ConfigError: a key is unknown, or a type or value is invalid.
    """
    values = from_note(values) if is_note_file(values) else values
    try:
        settings: Settings = fill(_settings_class(values.get("stage")), values)
        settings.check()
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    return settings


def _settings_class(stage: Any) -> type[Settings]:
    if not isinstance(stage, str) or stage not in STAGE_SETTINGS:
        raise ConfigError(f"stage: {stage!r} is not a stage{nearest(str(stage), STAGE_SETTINGS)}")
    return STAGE_SETTINGS[stage]


def dump_settings(settings: Settings) -> str:
    """Return all settings, including defaults, as YAML."""
    return yaml.safe_dump(asdict(settings), sort_keys=False, allow_unicode=True)


def list_keys(stage: str) -> list[Key]:
    """List the keys of a stage with their types, defaults and descriptions. Raises ConfigError for an unknown stage."""
    return list_keys_of(_settings_class(stage))
