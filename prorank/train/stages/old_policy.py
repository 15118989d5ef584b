"""The policy of stage `warmup` on the first pass over a batch, if each batch has several optimiser steps."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..settings.stage_settings import Warmup


class OldPolicy:
    """Caches log-probabilities and samples of the first pass over a batch, for later passes.

    Args:
        settings: settings of the run, for `updates` and `batch_size`.
    """

    def __init__(self, settings: Warmup) -> None:
        self.settings = settings
        self._log_probs: dict[int, torch.Tensor] = {}  # by key of the example, [...]
        self._tokens: dict[int, torch.Tensor] = {}  # by key of the example, [G]

    def log_probs(self, keys: Sequence[int], now: torch.Tensor) -> torch.Tensor:
        """Return log-probabilities [B, ...] of the first pass; on that pass, they are `now`. `keys`: keys of the examples."""
        return self._first(self._log_probs, keys, list(now)) if self.settings.updates > 1 else now

    def tokens(self, keys: Sequence[int], sampled: list[torch.Tensor]) -> torch.Tensor:
        """Return tokens [B, G] sampled on the first pass; on that pass, they are `sampled`. `keys`: keys of the examples."""
        return self._first(self._tokens, keys, sampled) if self.settings.updates > 1 else torch.stack(sampled)

    def _first(self, cache: dict[int, torch.Tensor], keys: Sequence[int], rows: list[torch.Tensor]) -> torch.Tensor:
        """Return the cached rows. Rows of old batches are dropped."""
        oldest = min(keys) - 2 * self.settings.batch_size
        for key in [key for key in cache if key < oldest]:
            del cache[key]
        return torch.stack([cache.setdefault(key, row) for key, row in zip(keys, rows)])
