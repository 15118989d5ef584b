"""What a scorer says of itself: whether and how it asks, which weights it has, and a fingerprint that changes with its scores.

An id is taken of what scores come from (weights, prompt, numbers, device), never of a name, which may come to mean
another model.
"""

from __future__ import annotations

import functools
import hashlib
from typing import TYPE_CHECKING

import torch

from ..checkpoints.calibration import Calibration, calibration_for
from ..checkpoints.resolve import Resolved
from ..checkpoints.weight_hashes import weight_hash
from ..engine.cpu_engine import Engine
from ..prompts.pair_encoder import PairPromptEncoder
from .listwise import ListRanker
from .thinking import Thinker

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ..prompts.prompt import AnyPromptEncoder


class Identity:
    """Of a scorer with these attributes: see there."""

    model: PreTrainedModel
    prompt: AnyPromptEncoder
    device: torch.device
    lists: ListRanker | None
    _resolved: Resolved | None
    _engine: Engine | None
    _thinker: Thinker | None

    @property
    def bound(self) -> PairPromptEncoder:
        """The prompt whose encodings `score_encoded` takes; not for methods of lists."""
        bound = self._thinker.bound if self._thinker else self.prompt
        assert isinstance(bound, PairPromptEncoder)
        return bound

    @property
    def thinks(self) -> bool:
        """Whether it thinks of each document before it answers."""
        return self._thinker is not None

    @functools.cached_property
    def calibration(self) -> Calibration | None:
        """The checkpoint's calibration, None where it has none for this prompt and these weights; see `calibration_for`."""
        return calibration_for(self._resolved.folder, self.asked, lambda: self.weights) if self._resolved else None

    @property
    def asked(self) -> str:
        """How documents are asked about: the prompt's fingerprint, and how many thoughts there are of each."""
        if self._thinker:
            return f"{self._thinker.bound.prompt.fingerprint()}, {self._thinker.samples} thoughts"
        return self.prompt.prompt.fingerprint()

    @functools.cached_property
    def weights(self) -> list[str]:
        """SHA-256 of the checkpoint's weights (an adapter's, and its base's); none for a model in memory."""
        if self._resolved is None:
            return []
        return sorted(weight_hash(folder) for folder in {self._resolved.path, self._resolved.folder})

    @functools.cached_property
    def fingerprint(self) -> str | None:
        """Changes with weights, prompt, dtype and device; None for a model in memory."""
        if self._resolved is None:
            return None
        parts = [*self.weights]
        if self._thinker:
            parts.append(f"{self._thinker.samples} thoughts")
        if self.lists:
            parts.append(repr(self.lists.method))
        numbers = "int8" if self._engine and self._engine.int8 else str(self.model.dtype)
        parts += [self.prompt.prompt.fingerprint(), str(self.prompt.longest), numbers, self.device.type]
        return hashlib.sha256(" ".join(sorted(parts)).encode()).hexdigest()
