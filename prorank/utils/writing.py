"""Write files and folders whole or not at all: beside their place first, then renamed into it.

Links are followed and an existing file keeps its mode. What is no plain file (a named pipe, /dev/stdout, /dev/null) is not
replaced: its content is gathered first and then written through. A folder is replaced by moving the old one aside, so that a reader
may for an instant see none, but never half of one.
"""

from __future__ import annotations

import contextlib
import errno
import gzip
import io
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from .targets import check_access, descriptor, file_target, folder_target, is_special, temporary_name, write_errors

SPOOLED_BYTES = 1 << 26  # kept in memory; more goes into a temporary file


@contextmanager
def atomic_file(path: str | Path, mode: str = "w") -> Iterator[IO]:
    """Write a file that appears on success and of which nothing remains on failure.

    Args:
        path: file to write, compressed if it ends in .gz; its folder is made if needed.
        mode: "w" for UTF-8 text with "\\n" as line end, "wb" for bytes.

    Raises:
        OSError: naming `path`. DataError: text that UTF-8 cannot hold.
    """
    place = _write_through if is_special(path) else _replaced
    with write_errors(path), place(Path(path)) as raw, _encoded(raw, Path(path).suffix == ".gz", "b" in mode) as handle:
        yield handle


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes `path` on success (replacing it); on failure nothing remains.

    All that is in it gets the mode that the umask gives, whatever its writers or sources had; a replaced folder's own mode stays.
    Raises OSError naming `path`.
    """
    with write_errors(path):
        target = folder_target(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        inside = target.is_dir() and (os.path.ismount(target) or not os.access(target.parent, os.W_OK))
        beside = (target / temporary_name("new")) if inside else target.with_name(temporary_name(target.name))
        beside.mkdir()
        mode = stat.S_IMODE(beside.stat().st_mode)
        try:
            with write_errors(path):  # while a full disk still is full
                yield beside
            set_modes(beside, mode)
            (_fill if inside else _swap)(beside, target)
        finally:
            shutil.rmtree(beside, ignore_errors=True)


def append_text(path: str | Path, text: str) -> None:
    """Append to a file, all of `text` or nothing. Raises OSError naming `path`."""
    with write_errors(path), open(path, "ab", buffering=0) as handle:
        before, left = handle.seek(0, os.SEEK_END), memoryview(text.encode())
        try:
            while left:
                left = left[handle.write(left) :]
        except OSError:
            handle.truncate(before)
            raise


def copy_folder(source: Path, into: Path) -> None:
    """Copy what is in a folder into another, without the modes, so that a copy of what is read-only can be changed."""
    shutil.copytree(source, into, dirs_exist_ok=True, copy_function=shutil.copyfile)
    for name, *_ in os.walk(into):
        os.chmod(name, 0o755)


def set_modes(folder: Path, mode: int) -> None:
    """Give a folder and the folders in it this mode, and files the same without the right to execute."""
    for name, _, files in os.walk(folder):
        os.chmod(name, mode)
        for file in files:
            if not os.path.islink(path := os.path.join(name, file)):
                os.chmod(path, mode & 0o666)


@contextmanager
def _encoded(raw: IO[bytes], zipped: bool, binary: bool) -> Iterator[IO]:
    """`raw` as a stream of text or bytes, compressed or not; `raw` stays open on success."""
    packed: Any = gzip.GzipFile("", "wb", fileobj=raw, mtime=0) if zipped else raw
    handle = packed if binary else io.TextIOWrapper(packed, "utf-8", newline="\n")
    try:
        yield handle
        handle.flush()
        if not binary:
            handle.detach()
        if zipped:
            packed.close()
    except BaseException:
        with contextlib.suppress(Exception):
            handle.close()
        raise


@contextmanager
def _replaced(path: Path) -> Iterator[IO[bytes]]:
    """A new file, which takes the place of `path` on success."""
    target = file_target(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(temporary_name(target.name))
    try:
        with open(beside, "wb") as raw:
            yield raw
        if target.exists():
            _keep_owner_and_mode(target, beside)
        try:
            os.replace(beside, target)
        except OSError as error:
            if error.errno != errno.EBUSY:  # a single file that is mounted, as containers do
                raise
            shutil.copyfile(beside, target)
    finally:
        beside.unlink(missing_ok=True)


@contextmanager
def _write_through(path: Path) -> Iterator[IO[bytes]]:
    """A temporary file, whose content goes to `path` on success."""
    number = descriptor(path)
    check_access(path) if number is None else os.fstat(number)
    with tempfile.SpooledTemporaryFile(SPOOLED_BYTES) as raw:
        yield raw
        raw.seek(0)
        if number is not None and sys.stdout:
            sys.stdout.flush()
        try:
            with open(path if number is None else os.dup(number), "wb") as out:
                shutil.copyfileobj(raw, out)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from error


def _keep_owner_and_mode(old: Path, new: Path) -> None:
    status = old.stat()
    with contextlib.suppress(OSError, AttributeError):
        os.chown(new, status.st_uid, status.st_gid)
    os.chmod(new, stat.S_IMODE(status.st_mode))


def _swap(beside: Path, target: Path) -> None:
    """Put a folder into the place of another, which comes back if that fails."""
    if not target.exists():
        os.replace(beside, target)
        return
    _keep_owner_and_mode(target, beside)
    aside = target.with_name(temporary_name(target.name))
    os.replace(target, aside)
    try:
        os.replace(beside, target)
    except BaseException:
        os.replace(aside, target)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _fill(beside: Path, target: Path) -> None:
    """Replace what is in `target`, which cannot be moved, by what is in its subfolder `beside`."""
    for old in target.iterdir():
        if old != beside:
            shutil.rmtree(old) if old.is_dir() and not old.is_symlink() else old.unlink()
    for new in beside.iterdir():
        os.replace(new, target / new.name)
