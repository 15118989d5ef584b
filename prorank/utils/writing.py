"""Write files and folders atomically: under a temporary name next to the target, which is then renamed.

Links are followed, and an existing file keeps its mode. Special files (named pipes, /dev/stdout, /dev/null) are not replaced: the
content is collected first and then written in place. A folder is replaced by moving the old one aside, so that readers may briefly
see none, but never a partial one.
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

SPOOLED_BYTES = 1 << 26  # larger content goes into a temporary file


@contextmanager
def atomic_file(path: str | Path, mode: str = "w") -> Iterator[IO]:
    r"""Write a file that appears on success. On failure no file is left.

    Args:
        path: file to write, compressed if it ends in .gz. Its folder is created if needed.
        mode: "w" for UTF-8 text with "\n" as line end, "wb" for bytes.

    Raises:
        OSError: the file cannot be written; the message names `path`.
        DataError: a text cannot be encoded as UTF-8.
    """
    place = _write_through if is_special(path) else _replaced
    with write_errors(path), place(Path(path)) as raw, _encoded(raw, Path(path).suffix == ".gz", "b" in mode) as handle:
        yield handle


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes `path` on success, replacing it. On failure no file is left.

    Contents get the mode that the umask gives; a replaced folder keeps its own mode. Raises OSError naming `path`.
    """
    with write_errors(path):
        target = folder_target(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        inside = target.is_dir() and (os.path.ismount(target) or not os.access(target.parent, os.W_OK))
        beside = (target / temporary_name("new")) if inside else target.with_name(temporary_name(target.name))
        beside.mkdir()
        mode = stat.S_IMODE(beside.stat().st_mode)
        try:
            with write_errors(path):  # before the cleanup, while a full disk is still full
                yield beside
            set_modes(beside, mode)
            (_fill if inside else _swap)(beside, target)
        finally:
            shutil.rmtree(beside, ignore_errors=True)


def append_text(path: str | Path, text: str) -> None:
    """Append all of `text` to a file, or nothing. Raises OSError naming `path`."""
    with write_errors(path), open(path, "ab", buffering=0) as handle:
        before, left = handle.seek(0, os.SEEK_END), memoryview(text.encode())
        try:
            while left:
                left = left[handle.write(left) :]
        except OSError:
            handle.truncate(before)
            raise


def copy_folder(source: Path, into: Path) -> None:
    """Copy the contents of a folder into another, without modes, so that copies of read-only files are writable."""
    shutil.copytree(source, into, dirs_exist_ok=True, copy_function=shutil.copyfile)
    for name, *_ in os.walk(into):
        os.chmod(name, 0o755)


def set_modes(folder: Path, mode: int) -> None:
    """Set the mode of a folder and its subfolders; files get the same without execute permission."""
    for name, _, files in os.walk(folder):
        os.chmod(name, mode)
        for file in files:
            if not os.path.islink(path := os.path.join(name, file)):
                os.chmod(path, mode & 0o666)


@contextmanager
def _encoded(raw: IO[bytes], zipped: bool, binary: bool) -> Iterator[IO]:
    """Wrap `raw` as a text or byte stream, optionally compressed; `raw` stays open on success."""
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
    """Yield a new file that replaces `path` on success."""
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
            if error.errno != errno.EBUSY:  # `path` is a mounted file, as in containers
                raise
            shutil.copyfile(beside, target)
    finally:
        beside.unlink(missing_ok=True)


@contextmanager
def _write_through(path: Path) -> Iterator[IO[bytes]]:
    """Yield a temporary file whose content is written to `path` on success."""
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
    """Replace a folder by another; the old one is restored on failure."""
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
    """Replace the contents of `target`, which cannot be moved, by those of its subfolder `beside`."""
    for old in target.iterdir():
        if old != beside:
            shutil.rmtree(old) if old.is_dir() and not old.is_symlink() else old.unlink()
    for new in beside.iterdir():
        os.replace(new, target / new.name)
