"""Check texts from callers: queries, documents, titles, instructions and completions.

Python strings can contain lone surrogates (from `surrogateescape` or JSON escapes), which UTF-8 cannot encode. Tokenizers raise a
TypeError for the whole batch, and requests and output fail, so such texts are rejected by name before any work.
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
        where: name of the text in messages, such as "document 3 of query 0".

    Raises:
        DataError: the value is not a string, or contains a lone surrogate.
    """
    if isinstance(value, (bytes, bytearray, memoryview)):
        raise DataError(f"{where} is {type(value).__name__}, not text; decode it first, for example with .decode('utf-8')")
    if not isinstance(value, str):
        raise DataError(f"{where} must be a text, not {shown(value)}")
    if match := SURROGATE.search(value):
        raise DataError(
            f"{where} is not UTF-8 text: half of a surrogate pair (U+{ord(match[0]):04X} at character {match.start()}); "
            "decode its source with errors='replace', or drop the character"
        )
    return str.__str__(value)


def shown(value: Any, length: int = 60) -> str:
    """Format a value for a message: its type and the first `length` characters of its `repr`, on one line, printable."""
    text = " ".join(repr(value).split())
    text = text if len(text) <= length else text[: length - 1] + "…"
    return f"{type(value).__name__} {text.encode('utf-8', 'backslashreplace').decode()}"
