"""Fingerprints of a Reranker: they change whenever its scores may change.

They are computed from weights, prompt, number format and device, on which scores depend. They do not depend on the name, which may
refer to another model later.
"""

from __future__ import annotations

import functools
import hashlib

from ..checkpoints.calibration import Calibration, calibration_for
from ..checkpoints.resolve import Resolved
from ..checkpoints.weight_hashes import weight_hash
from .strategy import RankingStrategy


class RankerIdentity:
    """Fingerprint and calibration of a strategy.

    Args:
        source: where the weights were loaded from; None for a model in memory, whose weights may change.
        strategy: how documents are scored.
    """

    def __init__(self, source: Resolved | None, strategy: RankingStrategy) -> None:
        self.source, self.strategy = source, strategy

    @functools.cached_property
    def weight_hashes(self) -> list[str]:
        """SHA-256 of the checkpoint's weights (an adapter's, and its base's); empty for a model in memory."""
        if self.source is None:
            return []
        return sorted(weight_hash(folder) for folder in {self.source.path, self.source.folder})

    @functools.cached_property
    def fingerprint(self) -> str | None:
        """SHA-256 over weights, prompt, settings of the strategy, number format and device; None for a model in memory."""
        if self.source is None:
            return None
        runtime, encoder = self.strategy.runtime, self.strategy.encoder
        parts = [*self.weight_hashes, *self.strategy.settings, encoder.prompt.fingerprint(), str(encoder.longest)]
        return hashlib.sha256(" ".join(sorted([*parts, runtime.numbers, runtime.device.type])).encode()).hexdigest()

    @functools.cached_property
    def calibration(self) -> Calibration | None:
        """The checkpoint's calibration; None if it has none for this prompt and these weights, see `calibration_for`."""
        if self.source is None:
            return None
        return calibration_for(self.source.folder, self.strategy.prompt_fingerprint, lambda: self.weight_hashes)
