"""Read UTF-8 text line by line. JSONL, plain text, TSV, YAML, labels and runs are all read by `text_lines`.

A source is a path or "-" for stdin. It is opened once and read forwards, so pipes, `/dev/stdin` and process substitution work.
gzip is recognised by its first bytes. Byte order marks are dropped at the start of every line, because `cat` leaves the mark of
its second file in the middle. Sources that cannot be read raise an error that names source and line.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import DataError, ProRankError

STDIN = "-"
HEAD_BYTES = 512  # the signature of tar archives is at byte 257
GZIP = b"\x1f\x8b"
# First bytes and file names of formats that are neither text nor gzip.
FORMATS = {
    "bzip2": (rb"BZh[1-9](1AY&SY|\x17rE8P\x90)", (".bz2",)),
    "xz": (rb"\xfd7zXZ\x00", (".xz",)),
    "zip": (rb"PK(\x03\x04|\x05\x06|\x07\x08)", (".zip",)),
    "Zstandard": (rb"\x28\xb5\x2f\xfd", (".zst",)),
    "LZ4": (rb"\x04\x22\x4d\x18", (".lz4",)),
    "compress (.Z)": (rb"\x1f\x9d", ()),
    "7-Zip": (rb"7z\xbc\xaf\x27\x1c", (".7z",)),
    "RAR": (rb"Rar!\x1a\x07", (".rar",)),
    "tar": (rb".{257}ustar", (".tar", ".tar.gz", ".tgz")),
    "Parquet": (rb"PAR1", (".parquet",)),
    "Arrow": (rb"ARROW1", (".arrow", ".feather")),
}
# Recognised by the byte order mark, or by the zero bytes of two ASCII characters.
ENCODINGS = {
    "UTF-32": rb"\xff\xfe\x00\x00|\x00\x00\xfe\xff|([^\x00]\x00\x00\x00){2}|(\x00\x00\x00[^\x00]){2}",
    "UTF-16": rb"\xff\xfe|\xfe\xff|([^\x00]\x00){2}|(\x00[^\x00]){2}",
}


def source_name(source: str | Path) -> str:
    """Name of a source for messages."""
    return "<stdin>" if str(source) == STDIN else str(source) or "''"


def can_be_read(source: str | Path) -> bool:
    """Whether a source exists and is not a folder: a file, a pipe, stdin."""
    return str(source) == STDIN or os.path.exists(source) and not os.path.isdir(source)


def repeatable_lines(source: str | Path, errors: str = "strict") -> Callable[[], Iterable[tuple[int, str]]]:
    """Return a function that yields `numbered_lines` at each call. Lines of a pipe, which can be read only once, stay in memory."""
    if os.path.isfile(source) and str(source) != STDIN:
        return lambda: numbered_lines(source, errors)
    lines = list(numbered_lines(source, errors))
    return lambda: lines


def numbered_lines(source: str | Path, errors: str = "strict", raised: type[ProRankError] = DataError) -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, line without its end) of each line that is not blank. Arguments and errors as in `text_lines`."""
    for number, line in enumerate(text_lines(source, errors, raised), 1):
        if line.strip():
            yield number, line.rstrip("\r\n")


def read_text(source: str | Path, errors: str = "strict", raised: type[ProRankError] = DataError) -> str:
    """Return the whole text of a source. Arguments and errors as in `text_lines`."""
    return "".join(text_lines(source, errors, raised))


def text_lines(source: str | Path, errors: str = "strict", raised: type[ProRankError] = DataError) -> Iterator[str]:
    r"""Yield all lines of a source, including blank ones. Each ends in "\n", except perhaps the last.

    Args:
        source: path, or "-" for stdin; plain text or gzip.
        errors: how to handle bytes that are not UTF-8: "strict", "replace" or "surrogateescape", as in `open`.
        raised: class of the errors.

    Raises:
        DataError (or `raised`): the source cannot be opened or read, is damaged, or has another encoding or compression.
    """
    name, number = source_name(source), 0
    try:
        with _opened(source, raised) as opened:
            _check_format(head := opened.read(HEAD_BYTES), name, raised)
            stream: Any = io.BufferedReader(_Rejoined(head, opened))
            if head.startswith(GZIP):
                stream = gzip.GzipFile(fileobj=stream)
                _check_format(head := stream.read(HEAD_BYTES), name, raised, unpacked=True)
                stream = io.BufferedReader(_Rejoined(head, stream))
            for line in io.TextIOWrapper(stream, "utf-8", "surrogateescape"):
                number += 1
                yield _checked(line, errors).lstrip("\ufeff")
    except UnicodeDecodeError as error:
        raise raised(f"{name}:{number}: not UTF-8 text ({error.reason}); convert the file to UTF-8") from error
    except (EOFError, OSError, ValueError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise raised(f"{name}:{number + 1}: damaged or unreadable file ({reason})") from error


def parse_json(text: str) -> Any:
    """Call `json.loads`. Raises ValueError also for values that are nested too deeply."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


@contextmanager
def _opened(source: str | Path, raised: type[ProRankError]) -> Iterator[BinaryIO]:
    """Open a source as bytes; stdin is not closed at the end."""
    if str(source) != STDIN:
        with _open_file(Path(source), raised) as stream:
            yield stream
    elif sys.stdin is None:
        raise raised(f"{source_name(source)}: is closed")
    else:
        yield getattr(sys.stdin, "buffer", None) or io.BytesIO(sys.stdin.read().encode("utf-8", "surrogatepass"))


def _open_file(path: Path, raised: type[ProRankError]) -> BinaryIO:
    try:
        return open(path, "rb")
    except FileNotFoundError:
        raise raised(f"{path}: no such file") from None
    except (OSError, ValueError) as error:  # ValueError: the name contains a zero byte
        reason = getattr(error, "strerror", None) or error
        raise raised(f"{path}: {'is a folder, expected a file' if path.is_dir() else f'cannot be read ({reason})'}") from None


def _check_format(head: bytes, name: str, raised: type[ProRankError], unpacked: bool = False) -> None:
    """Raise if the first bytes or the file name show that a source is neither UTF-8 text nor gzip."""
    for kind, (magic, suffixes) in FORMATS.items():
        if re.match(magic, head, re.DOTALL) or name.lower().endswith(suffixes):
            raise raised(
                f"{name}: has the format {kind}, which is not supported; unpack or convert it to text, or compress with gzip"
            )
    if unpacked and head.startswith(GZIP):
        raise raised(f"{name}: is compressed with gzip twice; unpack it once")
    for encoding, start in ENCODINGS.items():
        if re.match(start, head, re.DOTALL):
            raise raised(f"{name}: has the encoding {encoding}; convert it: iconv -f {encoding} -t UTF-8")


class _Rejoined(io.RawIOBase):
    """A stream with its first bytes, which were already read, put back. Closing it does not close the stream."""

    def __init__(self, head: bytes, rest: Any) -> None:
        self.head, self.rest = head, rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        size = len(buffer)
        got, self.head = self.head[:size], self.head[size:]
        got = got or self.rest.read1(size)
        buffer[: len(got)] = got
        return len(got)


def _checked(line: str, errors: str) -> str:
    """Apply `errors` to a line that was decoded with "surrogateescape"."""
    try:
        if not line.isascii() and errors != "surrogateescape":
            line.encode()
        return line
    except UnicodeEncodeError:
        return line.encode("utf-8", "surrogateescape").decode("utf-8", errors)
