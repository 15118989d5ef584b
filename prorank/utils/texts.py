"""The check of every text that a caller hands in: a query, a document, a title, an instruction, a completion.

A Python string can hold half of a surrogate pair (from `surrogateescape` or a JSON escape), which no UTF-8 text can. Tokenizers
refuse it with a TypeError for the whole batch, and requests and output fail on it, so it is refused by name before any work.
"""

from __future__ import annotations

import re
from typing import Any

from ..errors import DataError

SURROGATE = re.compile("[\ud800-\udfff]")


def plain_text(value: Any, where: str) -> str:
    """Return `value` as a plain `str`.

    Args:
        value: a string, or an instance of a subclass such as `numpy.str_`.
        where: what the message calls it, such as "document 3 of query 0".

    Raises:
        DataError: bytes, something that is not text, or half of a surrogate pair.
    """
    if isinstance(value, (bytes, bytearray, memoryview)):
        raise DataError(f"{where} is {type(value).__name__}, not text; decode it first, such as by .decode('utf-8')")
    if not isinstance(value, str):
        raise DataError(f"{where} must be a text, not {shown(value)}")
    if match := SURROGATE.search(value):
        raise DataError(
            f"{where} is not UTF-8 text: it has half of a surrogate pair (U+{ord(match[0]):04X} at character {match.start()}); "
            "decode its source with errors='replace', or drop the character"
        )
    return str.__str__(value)


def shown(value: Any, length: int = 60) -> str:
    """`value` for a message: its type and the beginning of its `repr`, on one line, in ASCII where it is not printable."""
    text = " ".join(repr(value).split())
    text = text if len(text) <= length else text[: length - 1] + "…"
    return f"{type(value).__name__} {text.encode('utf-8', 'backslashreplace').decode()}"
