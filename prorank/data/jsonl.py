"""Read JSONL files: objects with their line numbers, and typed access to keys with errors that name file and line.

Python's parser accepts `NaN` and `Infinity`, and `true` equals 1. As labels or scores all of them are errors.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import DataError
from ..utils.strict_json import dumps
from ..utils.texts import SURROGATE
from .trec import numbered_lines

_NEEDED = object()
_KINDS = {str: "a string", list: "a list", bool: "true or false"}


def objects(path: str | Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number, JSON object) for each line of a JSONL file. Raises DataError naming file and line."""
    for number, line in numbered_lines(path):
        yield number, parsed(line, f"{path}:{number}")


def parsed(line: str, where: str) -> dict[str, Any]:
    """Parse a line that holds a JSON object. Raises DataError for anything else."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: malformed JSON ({error}); expected one object per line") from error
    if not isinstance(row, dict):
        raise DataError(f"{where}: expected a JSON object, got {type(row).__name__}")
    return row


def get(row: dict, key: str, kind: type, where: str, default: Any = _NEEDED) -> Any:
    """Return row[key], checked to be of a type.

    Args:
        row: JSON object.
        key: the key.
        kind: the required type.
        where: file and line, for error messages.
        default: value for a missing key or null; without a default the key is required.

    Raises:
        DataError: the key is missing or its value has another type.
    """
    if row.get(key) is None and default is not _NEEDED:
        return default
    if key not in row:
        raise DataError(f"{where}: key {key!r} is missing; found {', '.join(map(repr, row)) or 'no keys'}")
    if not isinstance(row[key], kind):
        raise DataError(f"{where}: {key!r} must be {_KINDS[kind]}, got {json.dumps(row[key])[:40]}")
    if kind is str:
        check_text(row[key], f"{where}: {key!r}")
    return row[key]


def check_text(text: str, what: str) -> None:
    """Raise DataError if a text cannot be encoded as UTF-8. `what` names it in the message."""
    if SURROGATE.search(text):
        raise DataError(f"{what} is not UTF-8 text: it contains half of a surrogate pair")


def id_of(row: dict, key: str, where: str, default: Any = _NEEDED) -> str:
    """Return row[key] as an id: a string, or an integer converted to a string. Arguments and errors as in `get`."""
    value = row.get(key)
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else get(row, key, str, where, default)


def filled(row: dict, key: str, where: str, name: str = "") -> str:
    """Return row[key], checked to be a text that is not blank. Error messages call it `name` (default: the key).

    Raises:
        DataError: the key is missing, or its value is not a text or blank.
    """
    text = get(row, key, str, where)
    if not text.strip():
        raise DataError(f"{where}: {name or f'the {key}'} is empty")
    return text


def line_of(row: dict[str, Any]) -> str:
    """Serialise an object as one line of JSON, without escaping non-ASCII letters."""
    return dumps(row, ensure_ascii=False) + "\n"


def digest(*texts: str) -> bytes:
    """16-byte hash of these texts."""
    return hashlib.blake2b(json.dumps(texts).encode(), digest_size=16).digest()


def strings(row: dict, key: str, where: str) -> list[str]:
    """Return row[key], checked to be a list of texts. Raises DataError for other values."""
    values = get(row, key, list, where)
    for value in values:
        if not isinstance(value, str):
            raise DataError(f"{where}: {key!r} must be a list of strings, but contains {json.dumps(value)[:40]}")
        check_text(value, f"{where}: a text in {key!r}")
    return values


def ids_of(row: dict, key: str, where: str) -> list[str]:
    """Return the ids of an optional key, with "" for null; [] if the key is missing."""
    return [id_of({key: value}, key, where, "") for value in get(row, key, list, where, [])]


def numbers(row: dict, key: str, count: int, where: str, low: float = -math.inf) -> list[float]:
    """Return the numbers of an optional key.

    Args:
        row, key, where: see `get`.
        count: required number of values, one per document.
        low: smallest allowed value.

    Returns:
        The numbers; [] if the key is missing.

    Raises:
        DataError: the value is not a list of `count` finite numbers of at least `low`.
    """
    values = get(row, key, list, where, None)
    if values is None:
        return []
    if len(values) != count:
        raise DataError(f"{where}: {key!r} has {len(values)} numbers for {count} documents")
    return [number_of(value, f"{where}: {key!r}", low) for value in values]


def number_of(value: Any, what: str, low: float = -math.inf) -> float:
    """Return a finite number of at least `low`. Raises DataError for any other value; `what` names it in the message."""
    whole = isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**53
    if not (whole or isinstance(value, float) and math.isfinite(value)) or value < low:
        expected = f"a finite number{f' >= {low:g}' if low > -math.inf else ''}"
        raise DataError(f"{what} must be {expected}, got {'nothing' if value is None else json.dumps(value)[:40]}")
    return float(value)
