"""Hashes of weights, which identify an adapter's base and the weights that a calibration was fitted for.

Hashing half a gigabyte takes about a second, so hashes of large files are cached, keyed by the files' paths, sizes and modification
times.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from ..errors import ConfigError
from ..utils.files import atomic_file, cache_dir
from .weights import weight_files

log = logging.getLogger("prorank")
MIN_BYTES = 1 << 24  # smaller weights are hashed in a few hundredths of a second
SETTLED_NS = 2_000_000_000  # a file modified more recently might change again with the same modification time


@dataclass(frozen=True)
class FileStamp:
    """Identity of a file's contents on disk: path, size and modification time. It changes when the contents change."""

    path: str
    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, path: Path) -> "FileStamp":
        """Return the stamp of a file."""
        stat = path.stat()
        return cls(str(path.resolve()), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


def weight_hash(folder: Path) -> str:
    """Return the SHA-256 over names, shapes, dtypes and bytes of a folder's weights, independent of their split into files."""
    return _cached_hash(tuple(FileStamp.of(path) for path in weight_files(Path(folder))))


@functools.lru_cache(maxsize=8)
def _cached_hash(stamps: tuple[FileStamp, ...]) -> str:
    """Return the hash of these files: from this process, from the cache folder, or computed and stored there."""
    if sum(stamp.size for stamp in stamps) < MIN_BYTES:
        return _compute_hash(stamps)
    record = _record_path(stamps)
    stored = _read_record(record, stamps) if record else None
    if stored:
        return stored
    digest = _compute_hash(stamps)
    if record and all(time.time_ns() - max(stamp.mtime_ns, stamp.ctime_ns) > SETTLED_NS for stamp in stamps):
        _write_record(record, stamps, digest)
    return digest


def _record_path(stamps: tuple[FileStamp, ...]) -> Path | None:
    """Return the cache file for the hash of these files, one for each set of paths; None if there is no cache folder."""
    key = hashlib.sha256("\n".join(stamp.path for stamp in stamps).encode("utf-8", "surrogateescape")).hexdigest()[:24]
    try:
        return cache_dir() / "hashes" / f"{key}.json"
    except ConfigError:
        return None


def _read_record(record: Path, stamps: tuple[FileStamp, ...]) -> str | None:
    """Return the cached hash; None if there is none, it cannot be read, or a file has changed since."""
    try:
        values = json.loads(record.read_text(encoding="utf-8"))
        digest = values["sha256"] if values["files"] == [asdict(stamp) for stamp in stamps] else None
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return digest if isinstance(digest, str) and len(digest) == 64 else None


def _write_record(record: Path, stamps: tuple[FileStamp, ...], digest: str) -> None:
    try:
        with atomic_file(record) as handle:
            json.dump({"files": [asdict(stamp) for stamp in stamps], "sha256": digest}, handle, indent=2)
    except (OSError, UnicodeError) as error:
        log.debug("%s: cannot be written (%s), so the weights are hashed again in the next process", record, error)


def _compute_hash(stamps: tuple[FileStamp, ...]) -> str:
    from safetensors import safe_open

    digest, handle_of = hashlib.sha256(), {}
    with ExitStack() as stack:
        for stamp in stamps:
            handle = stack.enter_context(safe_open(stamp.path, framework="pt"))
            handle_of.update({key: handle for key in handle.keys()})
        for key in sorted(handle_of):
            tensor = handle_of[key].get_tensor(key).contiguous()
            digest.update(f"{key} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(tensor.flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
