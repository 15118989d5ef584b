"""What TRL's GRPOTrainer hands to a reward function: completions as texts or messages, and columns of the dataset.

Labels follow the rules of the files that `prorank score-completions` reads, so a column gives the same rewards as such a file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..data.jsonl import number_of
from ..errors import DataError
from ..utils.texts import plain_text, shown


def completion_text(completion: Any, where: str) -> str:
    """The text of a completion.

    Args:
        completion: a text, or a list of messages, of which the last one counts. A message without text (no messages at all, content
            None, parts that hold no text) has the text "", which earns what no answer earns.
        where: what a message calls it, such as "row 3".

    Raises:
        DataError: it is neither of the two, or not UTF-8 text.
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
    """The text of a message's content, or of one of its parts ({"type": "text", "text": …}); "" for an image and the like."""
    text = part.get("text") if isinstance(part, Mapping) else part
    if text is None:
        return ""
    return plain_text(text, f"{where}: the completion's content")


def column(values: Any, name: str, count: int) -> list[Any]:
    """A column of the dataset as a list, numpy's and torch's scalars as Python's.

    Raises:
        DataError: it is missing, or has another number of rows than there are completions.
    """
    if values is None:
        raise DataError(f"the column '{name}' is missing; the dataset of this reward needs it")
    if isinstance(values, (str, bytes, Mapping)) or not isinstance(values, Iterable):
        raise DataError(f"the column '{name}' must be a list with one value a completion, not {shown(values)}")
    rows = [_plain(value) for value in values]
    if len(rows) != count:
        raise DataError(f"{count} completions but {len(rows)} rows of the column '{name}'; give one a completion")
    return rows


def _plain(value: Any) -> Any:
    """A scalar of numpy or torch as Python's, an array as a list; all else as it is."""
    return value.tolist() if hasattr(value, "tolist") else value


def number(value: Any, where: str, low: float = 0.0) -> float:
    """A finite number of at least `low`. Raises DataError as `number_of` does, for any kind of value."""
    value = _plain(value)
    known = value is None or isinstance(value, (bool, int, float, str))
    return number_of(value if known else shown(value), where, low)


def read_label(value: Any, where: str = "") -> int:
    """The label 1 (relevant) or 0. Raises DataError naming the row and the value for anything else."""
    what = f"{where}: 'label'" if where else "'label'"
    label = number(value, what)
    if label not in (0.0, 1.0):
        raise DataError(f"{what} must be 0 or 1, got {label:g}")
    return int(label)
