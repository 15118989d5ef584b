"""Configure how compute threads wait for each other."""

from __future__ import annotations

import os

SPINS = "1000"  # libgomp's value if threads outnumber processors; its default 300,000 lasts longer than a time slice


def share_processors() -> None:
    """Make waiting compute threads of libgomp sleep earlier.

    A forward pass has hundreds of waits. On a busy machine a spinning thread occupies the processor that the awaited thread needs,
    and a forward pass of 0.3 s takes ten. Call it before PyTorch is imported. Variables that the user has set are kept.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
