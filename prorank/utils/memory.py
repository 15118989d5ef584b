"""Tune glibc's memory allocator: keep freed buffers, or return them to the kernel."""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h


def steady_memory() -> None:
    """Keep freed buffers for the next layer. This changes the whole process, so only the command line calls it.

    Otherwise, fetching the buffers from the kernel again takes up to a tenth of a forward pass.
    """
    _glibc("mallopt", M_MMAP_MAX, 0)
    _glibc("mallopt", M_TRIM_THRESHOLD, 512 << 20)


def trim() -> None:
    """Return freed memory to the kernel. Otherwise fragmentation grows over many documents."""
    _glibc("malloc_trim", 0)


def _glibc(name: str, *arguments: int) -> None:
    """Call a function of glibc. Does nothing with other C libraries."""
    function = getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
    if function:
        function(*arguments)
