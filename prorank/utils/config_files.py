"""Dataclasses filled from YAML files and `key=value` texts, with errors that name the key and the nearest one that is known.

YAML 1.1 reads `6e-6` as a string; a field of type float takes it as the number it looks like.
"""

from __future__ import annotations

import math
import os
import types
import typing
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import yaml

from ..errors import ConfigError, ProRankError, nearest
from .files import STDIN, read_text


def read_values(path: str | Path, what: str = "config", raised: type[ProRankError] = ConfigError) -> dict[str, Any]:
    """The mapping in a YAML file; `what` kind of file it is, for messages. Raises ConfigError (or `raised`) naming the file."""
    if path != STDIN and not Path(path).exists():
        raise raised(f"{path}: no such {what} file")
    try:
        values = yaml.safe_load(read_text(path, raised=raised))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise raised(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise raised(f"{path}: expected a mapping of settings")
    return values


def override(values: dict[str, Any], text: str) -> None:
    """Set the key that a text `key=value` names (dots reach into mappings). Raises ConfigError for any other text."""
    key, equals, raw = text.partition("=")
    if not equals or not key:
        raise ConfigError(f"'{text}': expected key=value")
    *path, last = key.split(".")
    for part in path:
        values[part] = {} if values.get(part) is None else values[part]
        values = values[part]
        if not isinstance(values, dict):
            raise ConfigError(f"'{text}': {part} holds no keys")
    try:
        values[last] = yaml.safe_load(raw) if raw else None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"'{text}': the value is not valid YAML: {' '.join(str(error).split())}") from error


def fill(kind: type, values: dict[str, Any], prefix: str = "") -> Any:
    """A dataclass of this kind from a mapping; `prefix` stands before keys in messages. Raises ConfigError for unknown or missing
    keys and wrong types."""
    hints, known = typing.get_type_hints(kind), {f.name: f for f in fields(kind)}
    for key in values:
        if key not in known:
            raise ConfigError(f"unknown key '{prefix}{key}'{nearest(str(key), known)}")
    missing = [n for n, f in known.items() if f.default is MISSING and f.default_factory is MISSING and n not in values]
    if missing:
        raise ConfigError(f"key '{prefix}{missing[0]}' is missing")
    return kind(**{key: _convert(value, hints[key], prefix + key) for key, value in values.items()})


def _convert(value: Any, hint: Any, key: str) -> Any:
    """`value` as the field's type, or ConfigError."""
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union else (hint,)
    if value is None and type(None) in options:
        return None
    for option in options:
        plain = typing.get_origin(option) or option
        if plain is float and isinstance(value, (int, float, str)) and not isinstance(value, bool):
            try:
                number = float(value)
            except ValueError:
                continue
            if math.isfinite(number):
                return number
            raise ConfigError(f"key '{key}' is {value!r}; expected a finite number")
        if plain is int and isinstance(value, int) and not isinstance(value, bool):
            return value
        if plain is str and isinstance(value, str):
            return os.path.expandvars(value)
        if plain is list and isinstance(value, list) and all(type(v) is typing.get_args(option)[0] for v in value):
            return [os.path.expandvars(v) if isinstance(v, str) else v for v in value]
        if plain in (bool, dict) and isinstance(value, plain):
            return value
        if hasattr(plain, "__dataclass_fields__") and isinstance(value, dict):
            return fill(plain, value, key + ".")
    names = " or ".join("nothing" if o is type(None) else getattr(o, "__name__", str(o)) for o in options)
    raise ConfigError(f"key '{key}' is {value!r}; expected {names}")
