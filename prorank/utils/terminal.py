"""Print text of any origin on streams of any encoding.

Documents, queries, thoughts, server answers and file names may hold markup, escape sequences and characters that change the
direction of what follows. They are shown as text, control characters as `\\x1b`. A stream that is not UTF-8 (a Windows redirect)
gets JSON in ASCII, and "?" for what else it cannot hold. `guarded` turns errors into one line and an exit code.
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

# C0 and C1 controls but tab and newline, line separators, marks and overrides of direction, byte order mark, annotations, halves of
# surrogate pairs, tags (invisible copies of ASCII).
CONTROLS = re.compile(
    "[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)
STDOUT = "<stdout>"
USER_ERROR, PIPE_CLOSED = 2, 141  # 141: as a shell reports a program that SIGPIPE ended


def set_up_streams() -> None:
    """Let stdout and stderr take any text, and log lines go to stderr with their control characters shown."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace" if is_utf8(stream) else "replace")
    handler = logging.StreamHandler()
    handler.setFormatter(VisibleFormatter("%(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])


class VisibleFormatter(logging.Formatter):
    """Log lines whose control characters are shown."""

    def format(self, record: logging.LogRecord) -> str:
        return visible(super().format(record))


def argument_text(text: str | None) -> str | None:
    """A text of the command line as UTF-8, also where the locale is ASCII; bytes that are none become halves of surrogate pairs."""
    return text if text is None else os.fsencode(text).decode("utf-8", "surrogateescape")


def is_utf8(stream: TextIO | None) -> bool:
    """Whether a stream is UTF-8, or text without an encoding of its own."""
    encoding = getattr(stream, "encoding", None)
    return not encoding or codecs.lookup(encoding).name == "utf-8"


def visible(text: object) -> str:
    """Text with its control characters written out; tabs and newlines stay."""
    return CONTROLS.sub(lambda match: match[0].encode("unicode_escape").decode(), str(text))


def one_line(text: object) -> str:
    """`visible` text on one line."""
    return visible(" ".join(filter(None, map(str.strip, str(text).splitlines()))))


def plain(text: object, style: str = "") -> Text:
    """`visible` text for a table of rich, where nothing in it counts as markup or emoji."""
    from rich.text import Text

    return Text(visible(text), style)


def json_line(value: Any) -> str:
    """JSON on one line, for stdout; in ASCII where that is not UTF-8. Control characters are escaped."""
    text = json.dumps(value, ensure_ascii=not is_utf8(sys.stdout))
    return CONTROLS.sub(lambda match: json.dumps(match[0])[1:-1], text)


def say(text: object, out: str | Path | None = None) -> None:
    """Print what a verb reports, `visible`: on stdout, or on stderr where the verb's output `out` is itself stdout."""
    if is_stdout(out):
        note(text)
    else:
        print_lines([visible(text)])


def note(text: object) -> None:
    """Print on stderr what the user should know besides, `visible`."""
    print(visible(text), file=sys.stderr)


def print_lines(lines: Iterable[str]) -> None:
    """Print lines on stdout as they are, say of JSON."""
    for line in lines:
        with _stdout_errors():
            print(line)


def stdout_console() -> Console:
    """A console of rich for tables on stdout."""
    from rich.console import Console

    class Stdout(Console):
        def print(self, *args: Any, **options: Any) -> None:
            with _stdout_errors():
                super().print(*args, **options)

        def on_broken_pipe(self) -> None:  # rich would end the program here
            raise

    return Stdout()


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    """Turn what a user can mend, and whatever the system refuses, into one line on stderr and SystemExit.

    A reader of stdout that went away ends the program without a line.
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
    """Let what typer would end without a reason reach `guarded`: a file that ends too early, a pipe that is closed."""
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
    """If an error is one of stdout, point that at /dev/null, which the interpreter will flush at its end; of a closed pipe, end."""
    if error.filename != STDOUT:
        return
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if isinstance(error, BrokenPipeError):
        sys.exit(PIPE_CLOSED)


def _fail(message: object) -> None:
    with contextlib.suppress(OSError):  # nobody reads stderr
        print(f"error: {one_line(message)}", file=sys.stderr, flush=True)
    sys.exit(USER_ERROR)
