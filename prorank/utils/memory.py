"""The C library's memory: kept for the next layer by the command line, given back between forwards by the engine."""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h


def steady_memory() -> None:
    """Keep freed buffers for the next layer, for the whole process (glibc alone does it).

    Fetched from the kernel anew, page by page, they take up to a tenth of the time of a forward. The command line calls this; a
    program that uses the library may.
    """
    _glibc("mallopt", M_MMAP_MAX, 0)
    _glibc("mallopt", M_TRIM_THRESHOLD, 512 << 20)


def trim() -> None:
    """Give freed memory back to the kernel: what lies in holes between buffers of other sizes adds up over many documents."""
    _glibc("malloc_trim", 0)


def _glibc(name: str, *arguments: int) -> None:
    """Call one of its functions; nothing happens under other C libraries."""
    function = getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
    if function:
        function(*arguments)
