"""How compute threads wait for each other."""

from __future__ import annotations

import os

SPINS = "1000"  # libgomp's own choice where threads outnumber processors; its usual 300,000 last longer than a time slice


def share_processors() -> None:
    """Let compute threads of libgomp sleep soon while they wait for each other, not spin.

    A forward has hundreds of waits. On a machine that is busy with other work a spinning thread holds the processor that the
    awaited one needs, and a forward of .3 s takes ten. Call it before PyTorch is imported; what the user has set stays.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
