"""Output targets: what a path resolves to, whether it can be written, and errors that name it.

`check_file` and `check_folder` test a target before long work and leave no files.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from ..errors import ConfigError, DataError

STORAGE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.EACCES)
FULL_BYTES = 1 << 20  # a file system with less space counts as full
TEMPORARY = ".tmp"
# How safetensors reports an OSError, currently and before 0.6.
RUST_ERROR = re.compile(r"\(os error (\d+)\)|Os \{ code: (\d+),")
TORCH_ERROR = re.compile(r"inline_container|PytorchStreamWriter|iostream", re.IGNORECASE)  # in errors of torch.save


def check_file(path: str | Path) -> None:
    """Raise OSError naming `path` if a file cannot be written there. Leaves no files."""
    with write_errors(path):
        if (number := descriptor(path)) is not None:
            os.fstat(number)
        elif is_special(path):
            check_access(Path(path))
        else:
            _probe(file_target(path).parent)


def check_neighbour(path: str | Path, what: str) -> None:
    """Raise ConfigError if `what` cannot be written next to the output `path`, because `path` is not a regular file."""
    if is_special(path):
        raise ConfigError(f"{path}: is not a regular file, but {what} is written next to it; name a file")


def check_folder(path: str | Path) -> None:
    """Raise OSError naming `path` if files cannot be written into a folder there. Leaves no files."""
    with write_errors(path):
        _probe(folder_target(path))


def is_stdout(path: str | Path | None) -> bool:
    """Whether writing to `path` writes to stdout; False for /dev/null."""
    try:
        place = os.stat(path or os.devnull)
        return os.path.samestat(place, os.fstat(sys.stdout.fileno())) and not os.path.samestat(place, os.stat(os.devnull))
    except (OSError, ValueError, AttributeError):  # the file does not exist yet, or stdout is closed or not a file
        return False


@contextmanager
def write_errors(path: str | Path) -> Iterator[None]:
    """Make storage errors name `path`, including those that libraries raise as other classes.

    Raises:
        OSError: a file cannot be written.
        DataError: a text cannot be encoded as UTF-8.
    """
    try:
        yield
    except UnicodeEncodeError as error:
        raise DataError(f"{path}: cannot contain the text {error.object[error.start : error.end]!r} as UTF-8") from error
    except OSError as error:
        if _is_temporary(error.filename) or error.filename is None and error.errno in STORAGE_ERRORS:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    except Exception as error:
        number = _storage_error(error, path)
        if number is None:
            raise
        raise OSError(number, os.strerror(number), str(path)) from error


def _is_temporary(name: str | bytes | int | None) -> bool:
    return isinstance(name, (str, bytes)) and any(part.endswith(TEMPORARY) for part in Path(os.fsdecode(name)).parts)


def _storage_error(error: Exception, path: str | Path) -> int | None:
    """Return the errno of the OSError that caused an exception of safetensors or torch, or None."""
    match = RUST_ERROR.search(str(error))
    code = int(match[1] or match[2]) if match else None
    if code in STORAGE_ERRORS:
        return code
    if is_torch_write_error(error):
        return errno.ENOSPC if shutil.disk_usage(_nearest(path)).free < FULL_BYTES else errno.EIO
    return None


def is_torch_write_error(error: Exception) -> bool:
    """Whether torch could not write a file, usually because the disk is full."""
    return isinstance(error, RuntimeError) and TORCH_ERROR.search(str(error)) is not None


def descriptor(path: str | Path) -> int | None:
    """Return the file descriptor that /dev/stdout, /dev/fd/N or a link to them stands for, None for other paths.

    Opening such a path by name would write from offset 0.
    """
    for _ in range(40):
        folder, name = os.path.split(os.path.abspath(path))
        if name.isdecimal() and os.path.realpath(folder) in (f"/proc/{os.getpid()}/fd", "/dev/fd"):
            return int(name)
        if not os.path.islink(path):
            return None
        path = os.path.join(folder, os.readlink(path))
    return None


def is_special(path: str | Path) -> bool:
    """Whether to write in place: `path` exists and is not a regular file, or its folder does not accept new files."""
    if descriptor(path) is not None:
        return True
    try:
        kind = os.stat(path).st_mode
    except FileNotFoundError:
        return False
    in_place = stat.S_ISREG(kind) and not os.access(os.path.dirname(os.path.realpath(path)), os.W_OK)
    return in_place or not (stat.S_ISREG(kind) or stat.S_ISDIR(kind))


def file_target(path: str | Path) -> Path:
    """Return the regular file that `path` resolves to, even if missing. Raises OSError for folders and read-only files."""
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if target.exists():
        check_access(target)
    return target


def folder_target(path: str | Path) -> Path:
    """Return the folder that `path` resolves to, even if it does not exist. Raises NotADirectoryError."""
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
    return target


def check_access(path: Path) -> None:
    """Raise PermissionError if a path is not writable or is on a read-only file system."""
    if not os.access(path, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))


def _probe(folder: Path) -> None:
    """Write a block into a folder, or into its nearest existing parent, and remove it."""
    probe = _nearest(folder) / temporary_name("probe")
    try:
        probe.write_bytes(bytes(4096))
    finally:
        with contextlib.suppress(OSError):
            probe.unlink()


def _nearest(path: str | Path) -> Path:
    """Return `path`, or its nearest existing parent."""
    path = Path(os.path.abspath(path))
    while not os.path.lexists(path):
        path = path.parent
    return path


def temporary_name(name: str) -> str:
    """Return a hidden name for an unfinished file or folder, however long `name` is."""
    return f".{name[:40]}.{uuid4().hex[:8]}{TEMPORARY}"
