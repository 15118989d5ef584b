"""Fill settings classes from YAML files and `key=value` texts, with errors that name the key and the nearest valid one.

A settings class is a pydantic dataclass with `config=STRICT`, which checks types and rejects unknown keys. A one-sentence docstring
follows each field; the reference tables are generated from them.
"""

from __future__ import annotations

import os
import types
import typing
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import AfterValidator, BeforeValidator, ConfigDict, ValidationError

from ..errors import ConfigError, ProRankError, nearest
from .files import STDIN, read_text

STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True)


def _number(value: Any) -> Any:
    """Parse a number that YAML 1.1 reads as a string, such as `6e-6`."""
    return float(value) if isinstance(value, str) else value


Number = Annotated[float, BeforeValidator(_number)]
Text = Annotated[str, AfterValidator(os.path.expandvars)]  # expands environment variables


@dataclass(frozen=True)
class Key:
    """One key of a settings class, for reference tables.

    Attributes:
        name: the key, with dots for nested blocks, such as "lora.r".
        type: the accepted types, such as "int or nothing".
        default: the default value.
        description: one sentence.
    """

    name: str
    type: str
    default: Any
    description: str


def read_values(path: str | Path, what: str = "config", raised: type[ProRankError] = ConfigError) -> dict[str, Any]:
    """Read a YAML file that contains a mapping.

    Args:
        path: the file, or "-" for standard input.
        what: the kind of file, for messages.
        raised: class of the errors.

    Raises:
        ConfigError (or `raised`): the file is missing, is not valid YAML, or does not contain a mapping.
    """
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
    """Apply a text `key=value` to `values`. Dots in the key address nested mappings. Raises ConfigError for any other text."""
    key, equals, raw = text.partition("=")
    if not equals or not key:
        raise ConfigError(f"'{text}': expected key=value")
    *path, last = key.split(".")
    for part in path:
        values[part] = {} if values.get(part) is None else values[part]
        values = values[part]
        if not isinstance(values, dict):
            raise ConfigError(f"'{text}': {part} has no keys")
    try:
        values[last] = yaml.safe_load(raw) if raw else None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"'{text}': the value is not valid YAML: {' '.join(str(error).split())}") from error


def fill(kind: type, values: dict[str, Any], prefix: str = "") -> Any:
    """Make an instance of a settings class.

    Args:
        kind: the settings class.
        values: values by key; nested blocks are mappings.
        prefix: prefix of the keys in messages.

    Raises:
        ConfigError: a key is unknown or a value has the wrong type. The message names the key and the nearest valid one.
    """
    known = [field.name for field in fields(kind)]
    for key in values:
        if key not in known:
            raise ConfigError(f"unknown key '{prefix}{key}'{nearest(str(key), known)}")
    values = dict(values)
    for key, block in _blocks(kind):
        if isinstance(values.get(key), dict):
            values[key] = fill(block, values[key], f"{prefix}{key}.")
    try:
        return kind(**values)
    except ValidationError as error:
        raise ConfigError(_message(error, kind, values, prefix)) from None


def list_keys_of(kind: type, prefix: str = "") -> list[Key]:
    """List the keys of a settings class in order; the keys of a nested block follow the block."""
    keys, blocks = [], dict(_blocks(kind))
    for field in fields(kind):
        default = field.default
        if field.default_factory is not MISSING:
            default = field.default_factory()
        annotation, name = _pydantic_fields(kind)[field.name].annotation, prefix + field.name
        keys.append(Key(name, _type_name(annotation), default, _description(kind, field.name)))
        keys += list_keys_of(blocks[field.name], f"{name}.") if field.name in blocks else []
    return keys


def _pydantic_fields(kind: type) -> dict[str, Any]:
    return kind.__pydantic_fields__  # type: ignore[attr-defined]


def _blocks(kind: type) -> Iterator[tuple[str, type]]:
    """Names and classes of the fields that hold a nested settings class."""
    for name, field in _pydantic_fields(kind).items():
        for option in _options(field.annotation):
            if is_dataclass(option):
                yield name, typing.cast(type, option)


def _options(annotation: Any) -> list[Any]:
    """Alternatives of a union (or the single type), without validators."""
    union = isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union
    options = typing.get_args(annotation) if union else (annotation,)
    return [typing.get_args(option)[0] if typing.get_origin(option) is Annotated else option for option in options]


def _type_name(annotation: Any) -> str:
    """Name of a type in messages and tables, such as "int or nothing"."""
    plain = [typing.get_origin(option) or option for option in _options(annotation)]
    return " or ".join("nothing" if option is type(None) else option.__name__ for option in plain)


def _description(kind: type, name: str) -> str:
    """Docstring of the field, from the nearest class that has one."""
    for base in kind.__mro__:
        field = vars(base).get("__pydantic_fields__", {}).get(name)
        if field is not None and field.description:
            return " ".join(field.description.split())
    return ""


def _message(error: ValidationError, kind: type, values: dict[str, Any], prefix: str) -> str:
    """Message for the first validation error."""
    first = error.errors()[0]
    key = str(first["loc"][0])
    if first["type"] == "missing":
        return f"key '{prefix}{key}' is missing"
    finite = first["type"] == "finite_number"
    wanted = "a finite number" if finite else _type_name(_pydantic_fields(kind)[key].annotation)
    return f"key '{prefix}{key}' is {values.get(key)!r}; expected {wanted}"
