"""Set how compute threads wait for each other."""

from __future__ import annotations

import os

SPINS = "1000"  # what libgomp uses where threads outnumber processors; its usual 300,000 last longer than a time slice


def share_processors() -> None:
    """Let compute threads of libgomp go to sleep soon while they wait for each other.

    A forward pass has hundreds of waits. On a busy machine a spinning thread occupies the processor that the awaited thread needs,
    and a forward pass of 0.3 s takes ten. Call it before PyTorch is imported. Variables that the user has set are kept.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
