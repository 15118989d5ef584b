"""Standard JSON: Python's encoder writes NaN and Infinity, which other parsers reject."""

from __future__ import annotations

import json
import math
from typing import Any


def dumps(value: Any, **options: Any) -> str:
    """`json.dumps` with null in place of numbers that are not finite.

    Args:
        value: any value that `json.dumps` accepts.
        options: options of `json.dumps`.

    Returns:
        Text that every JSON parser reads.
    """
    return json.dumps(finite_or_null(value), allow_nan=False, **options)


def finite_or_null(value: Any) -> Any:
    """Copy nested dicts and lists, with None in place of numbers that are not finite."""
    if isinstance(value, dict):
        return {key: finite_or_null(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite_or_null(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
