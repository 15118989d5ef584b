"""Structured logs: one JSON object a line on stderr.

No text of a request is ever logged; an exception's message may quote one, so of exceptions only kind and place are told.
"""

from __future__ import annotations

import json
import logging
import sys
import time
import traceback
from typing import Any

logger = logging.getLogger("prorank.serve")


class Lines(logging.Formatter):
    """Records as JSON lines; fields come in `record.fields`."""

    def format(self, record: logging.LogRecord) -> str:
        when = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"
        line = {"time": when, "level": record.levelname.lower(), "event": record.getMessage(), **getattr(record, "fields", {})}
        if record.exc_info and record.exc_info[1]:
            line |= place(record.exc_info[1])
        return json.dumps(line, ensure_ascii=True)


def set_up(level: str = "info") -> None:
    """Send our lines, and what uvicorn has to say, to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Lines())
    for name in ("prorank", "prorank.serve", "uvicorn", "uvicorn.error", "asyncio"):
        one = logging.getLogger(name)
        one.handlers, one.propagate = [handler], False
        one.setLevel(level.upper())
    for name in ("prorank.serve", "uvicorn.error"):  # their parents have the handler
        logging.getLogger(name).handlers, logging.getLogger(name).propagate = [], True


def log(event: str, level: int = logging.INFO, **fields: Any) -> None:
    """A line about an event."""
    logger.log(level, event, extra={"fields": fields})


def failure(where: str, error: BaseException) -> None:
    """A line about an exception that is our fault."""
    log("failure", logging.ERROR, where=where, **place(error))


def place(error: BaseException) -> dict[str, Any]:
    """An exception's kind and where it came from, innermost last; not its message."""
    frames = traceback.extract_tb(error.__traceback__)[-12:]
    return {"error": type(error).__name__, "trace": [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]}
