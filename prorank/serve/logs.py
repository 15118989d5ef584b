"""Structured logs: one JSON object per line on stderr, and a few plain lines for people at a terminal.

Logs never contain text of a request. The message of an exception may quote one, so only its type and traceback are logged.
"""

from __future__ import annotations

import json
import logging
import sys
import time
import traceback
from typing import Any

logger = logging.getLogger("prorank.serve")


class JsonFormatter(logging.Formatter):
    """Formats a record as one JSON line; `record.fields` adds fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the JSON line of a record."""
        when = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"
        line = {"time": when, "level": record.levelname.lower(), "event": record.getMessage(), **getattr(record, "fields", {})}
        if record.exc_info and record.exc_info[1]:
            line |= describe_error(record.exc_info[1])
        return json.dumps(line, ensure_ascii=True)


def configure_logging(level: str = "info") -> None:
    """Write the log lines of this package, uvicorn and asyncio to stderr as JSON."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    for name in ("prorank", "prorank.serve", "uvicorn", "uvicorn.error", "asyncio"):
        named = logging.getLogger(name)
        named.handlers, named.propagate = [handler], False
        named.setLevel(level.upper())
    for name in ("prorank.serve", "uvicorn.error"):  # their parents have the handler
        logging.getLogger(name).handlers, logging.getLogger(name).propagate = [], True


def log_event(event: str, level: int = logging.INFO, **fields: Any) -> None:
    """Log an event with fields."""
    logger.log(level, event, extra={"fields": fields})


def log_failure(where: str, error: BaseException) -> None:
    """Log an unexpected exception without its message."""
    log_event("failure", logging.ERROR, where=where, **describe_error(error))


def describe_error(error: BaseException) -> dict[str, Any]:
    """Return the type of an exception and its traceback, innermost frame last; not its message."""
    frames = traceback.extract_tb(error.__traceback__)[-12:]
    return {"error": type(error).__name__, "trace": [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]}


def print_to_terminal(text: str) -> None:
    """Print a plain line on stderr if that is a terminal; programs that read the log see JSON only."""
    if sys.stderr is not None and sys.stderr.isatty():
        print(text, file=sys.stderr, flush=True)
