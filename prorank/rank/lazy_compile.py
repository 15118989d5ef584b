"""compile="auto": compile the engine's steps before the first call that is long enough for a gain."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..engine.auto import COMPILED, Choice, choose_compile_for
from ..engine.cpu_engine import Engine
from ..engine.kernels import Kernels
from ..engine.layer_speed import RANKING

log = logging.getLogger("prorank")
CHARS_PER_TOKEN = 4  # for an estimate of a call's tokens


@dataclass
class LazyCompile:
    """Decides before each call whether to compile, until the steps are compiled.

    Attributes:
        name: the Reranker's name, for the log.
        engine: the engine whose steps are compiled.
        config: the model's configuration (of transformers).
        dtype: "fp32" or "bf16".
        max_tokens: tokens of the longest prompt.
        choice: the last decision and its reason; None before the first call.
    """

    name: str
    engine: Engine
    config: Any
    dtype: str
    max_tokens: int
    choice: Choice | None = None

    def before_call(self, texts: Sequence[Sequence[str]]) -> None:
        """Compile if scoring these texts takes long enough."""
        if self.choice and self.choice.value == COMPILED:
            return
        characters = sum(min(len(text), CHARS_PER_TOKEN * self.max_tokens) for row in texts for text in row)
        self.choice = choose_compile_for(self.config, RANKING, self.dtype, characters / CHARS_PER_TOKEN)
        log.debug("%s: steps %s", self.name, self.choice)
        if self.choice.value == COMPILED:
            self.engine.kernels = Kernels(compiled=True)
