"""Files and folders that appear whole or not at all: written beside their place, then renamed into it.

Hard fact: `os.replace` is atomic for files; a folder is replaced by moving the old one aside first, so a reader may for an
instant see no folder, but never half of one.
"""

from __future__ import annotations

import gzip
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO
from uuid import uuid4

from .utils.reading import STDIN, numbered_lines, parse_json, read_text, source_name, text_lines

__all__ = [
    "STDIN", "atomic_file", "atomic_folder", "cache_dir", "numbered_lines", "parse_json", "read_text", "source_name", "text_lines",
]  # fmt: skip


def cache_dir() -> Path:
    """The user's cache folder: `$PRORANK_CACHE`, else `$XDG_CACHE_HOME/prorank`, else `~/.cache/prorank`."""
    if "PRORANK_CACHE" in os.environ:
        return Path(os.environ["PRORANK_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "prorank"


@contextmanager
def atomic_file(path: str | Path, mode: str = "w") -> Iterator[IO]:
    """Write to a temporary neighbour of `path` and rename it into place on success; on failure nothing remains."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{uuid4().hex[:8]}.tmp")
    text = {} if "b" in mode else {"encoding": "utf-8", "newline": "\n"}
    try:
        opener = gzip.open if path.suffix == ".gz" else open
        with opener(beside, mode + ("t" if opener is gzip.open and "b" not in mode else ""), **text) as handle:
            yield handle
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Yield a temporary neighbour folder that becomes `path` on success (replacing it); on failure nothing remains."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{uuid4().hex[:8]}.tmp")
    aside = path.with_name(f".{path.name}.{uuid4().hex[:8]}.old")
    beside.mkdir()
    try:
        yield beside
        if path.exists():
            os.replace(path, aside)
        os.replace(beside, path)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
        shutil.rmtree(aside, ignore_errors=True)
