"""Read the inputs that TRL's GRPOTrainer passes to a reward function: completions and dataset columns.

Labels are validated as in the files of `prorank score-completions`, so both give the same rewards.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..data.jsonl import number_of
from ..errors import DataError
from ..utils.texts import plain_text, shown


def completion_text(completion: Any, where: str) -> str:
    """Return the text of a completion.

    Args:
        completion: a text, or a list of messages of which the last one is used. The text is "" if there are no messages, the
            content is None, or no part of it is text.
        where: name of the completion in error messages, such as "row 3".

    Raises:
        DataError: the completion is neither a text nor a list of messages, or it is not valid UTF-8.
    """
    if completion is None or isinstance(completion, (str, bytes)):
        return plain_text(completion or "", f"{where}: the completion")
    messages = [completion] if isinstance(completion, Mapping) else completion
    if not isinstance(messages, Sequence) or not all(isinstance(message, Mapping) for message in messages):
        raise DataError(f"{where}: the completion must be a text or a list of messages, not {shown(completion)}")
    content = messages[-1].get("content") if messages else None
    parts = content if isinstance(content, (list, tuple)) else [content]
    return "".join(_part_text(part, where) for part in parts)


def _part_text(part: Any, where: str) -> str:
    """Text of a message's content or of one part of it ({"type": "text", "text": …}); "" for parts without text, such as images."""
    text = part.get("text") if isinstance(part, Mapping) else part
    if text is None:
        return ""
    return plain_text(text, f"{where}: the completion's content")


def column(values: Any, name: str, count: int) -> list[Any]:
    """Return a dataset column as a list, with scalars and arrays of numpy and torch converted to Python's.

    Args:
        values: the column.
        name: its name, for error messages.
        count: number of completions.

    Raises:
        DataError: the column is missing, is not a list, or does not have `count` rows.
    """
    if values is None:
        raise DataError(f"the column '{name}' is missing; the dataset of this reward needs it")
    if isinstance(values, (str, bytes, Mapping)) or not isinstance(values, Iterable):
        raise DataError(f"the column '{name}' must be a list with one value per completion, not {shown(values)}")
    rows = [_plain(value) for value in values]
    if len(rows) != count:
        raise DataError(f"{count} completions but {len(rows)} rows of the column '{name}'; give one value per completion")
    return rows


def _plain(value: Any) -> Any:
    """Convert a numpy or torch scalar or array to Python's number or list; return any other value unchanged."""
    return value.tolist() if hasattr(value, "tolist") else value


def number(value: Any, where: str, low: float = 0.0) -> float:
    """Return a finite number of at least `low`. Raises DataError, as `number_of` does, for any other value."""
    value = _plain(value)
    known = value is None or isinstance(value, (bool, int, float, str))
    return number_of(value if known else shown(value), where, low)


def read_label(value: Any, where: str = "") -> int:
    """Return the label, 1 (relevant) or 0. Raises DataError naming the row and the value for any other value."""
    what = f"{where}: 'label'" if where else "'label'"
    label = number(value, what)
    if label not in (0.0, 1.0):
        raise DataError(f"{what} must be 0 or 1, got {label:g}")
    return int(label)
