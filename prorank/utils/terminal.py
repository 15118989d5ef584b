r"""Print text of any origin to streams of any encoding.

Documents, queries, thoughts, server responses and file names may contain markup, escape sequences and direction marks. They are
printed as text, with control characters as `\x1b`. A stream that is not UTF-8 (a Windows redirect) gets ASCII JSON, and "?" for
characters that it cannot encode. `guarded` turns errors into one line and an exit code.
"""

from __future__ import annotations

import codecs
import contextlib
import io
import json
import logging
import os
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from ..errors import DataError, ProRankError
from .targets import is_stdout

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

# C0 and C1 controls except tab and newline, line separators, direction marks and overrides, byte order mark, annotations, halves of
# surrogate pairs, tags (invisible copies of ASCII).
CONTROLS = re.compile(
    "[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)
STDOUT = "<stdout>"
USER_ERROR, PIPE_CLOSED = 2, 141  # 141: the shell's exit code for SIGPIPE


def set_up_streams() -> None:
    """Make stdout and stderr accept any text, and log to stderr with visible control characters."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace" if is_utf8(stream) else "replace")
    handler = StderrHandler()
    handler.setFormatter(VisibleFormatter("%(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])


class StderrHandler(logging.StreamHandler):
    """Logs to the current `sys.stderr`, which rich replaces so that log lines appear above a spinner or bar."""

    @property
    def stream(self) -> Any:
        """The current `sys.stderr`."""
        return sys.stderr

    @stream.setter
    def stream(self, _: Any) -> None:
        """Ignore the stream that the base class sets."""


class VisibleFormatter(logging.Formatter):
    """Formats log lines with visible control characters."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the log line of a record."""
        return visible(super().format(record))


def argument_text(text: str | None) -> str | None:
    """Decode a command line argument as UTF-8 in any locale; bytes that are not UTF-8 become surrogates."""
    return text if text is None else os.fsencode(text).decode("utf-8", "surrogateescape")


def is_utf8(stream: TextIO | None) -> bool:
    """Whether a stream is UTF-8, or stores text without encoding it."""
    encoding = getattr(stream, "encoding", None)
    return not encoding or codecs.lookup(encoding).name == "utf-8"


def visible(text: object) -> str:
    """Return the text with control characters written as escapes, except tabs and newlines."""
    return CONTROLS.sub(lambda match: match[0].encode("unicode_escape").decode(), str(text))


def one_line(text: object) -> str:
    """Return the `visible` text on one line."""
    return visible(" ".join(filter(None, map(str.strip, str(text).splitlines()))))


def plain(text: object, style: str = "") -> Text:
    """Return the `visible` text for rich, without interpreting markup or emoji."""
    from rich.text import Text

    return Text(visible(text), style)


def json_line(value: Any) -> str:
    """Serialise a value as one line of JSON for stdout, in ASCII if stdout is not UTF-8. Control characters are escaped."""
    text = json.dumps(value, ensure_ascii=not is_utf8(sys.stdout))
    return CONTROLS.sub(lambda match: json.dumps(match[0])[1:-1], text)


def say(text: object, out: str | Path | None = None) -> None:
    """Print a message of a verb to stdout, or to stderr if the verb's output `out` is stdout."""
    if is_stdout(out):
        note(text)
    else:
        print_lines([visible(text)])


def note(text: object) -> None:
    """Print a side message to stderr."""
    print(visible(text), file=sys.stderr)


def print_lines(lines: Iterable[str]) -> None:
    """Print lines to stdout unchanged."""
    for line in lines:
        with _stdout_errors():
            print(line)


def stdout_console() -> Console:
    """Return a rich console for tables on stdout whose errors reach `guarded`."""
    from rich.console import Console

    class Stdout(Console):
        def print(self, *args: Any, **options: Any) -> None:
            with _stdout_errors():
                super().print(*args, **options)

        def on_broken_pipe(self) -> None:  # by default rich exits here
            raise

    return Stdout()


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    """Turn errors that users can fix, and operating system errors, into one line on stderr and SystemExit.

    If the reader of stdout has closed the pipe, the program exits silently.
    """
    try:
        try:
            yield
        finally:
            with _stdout_errors():
                if sys.stdout:
                    sys.stdout.flush()
    except ProRankError as error:
        _fail(error)
    except OSError as error:
        _end_stdout(error)
        where = os.fsdecode(error.filename) if isinstance(error.filename, bytes) else error.filename
        reason = error.strerror or str(error) or type(error).__name__
        _fail(reason if where is None else f"{where}: {reason}")


@contextlib.contextmanager
def past_typer() -> Iterator[None]:
    """Pass errors that typer would handle without a message (unexpected end of file, closed pipe) through it to `guarded`."""
    try:
        yield
    except EOFError as error:
        raise DataError(f"a file ends too early ({error})") from error
    except BrokenPipeError as error:
        _end_stdout(error)
        raise DataError(f"{error.filename or 'a pipe'}: {error.strerror}") from error


@contextlib.contextmanager
def _stdout_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, STDOUT) from error


def _end_stdout(error: OSError) -> None:
    """Handle an error of stdout: redirect it to /dev/null, which the interpreter flushes at exit. Exit if it is a closed pipe."""
    if error.filename != STDOUT:
        return
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if isinstance(error, BrokenPipeError):
        sys.exit(PIPE_CLOSED)


def _fail(message: object) -> None:
    with contextlib.suppress(OSError):  # stderr is closed
        print(f"error: {one_line(message)}", file=sys.stderr, flush=True)
    sys.exit(USER_ERROR)
