"""compile="auto": compile the engine's steps before the first call that is long enough for a gain.

On a CPU the gain is measured (`engine.auto`). On a GPU, where compiling always helps and takes most of a minute, steps are compiled
once the calls have computed for as long: the total time is then at most twice that of the best decision.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..engine.auto import COMPILED, PLAIN, Choice, choose_compile_for
from ..engine.cpu_engine import Engine
from ..engine.kernels import Kernels
from ..engine.layer_speed import RANKING
from ..engine.random_layer import random_batch
from ..errors import ModelError
from .documents import Cost

log = logging.getLogger("prorank")
GPU_COMPILE_SECONDS = 60.0  # about what compiling takes
WARM_UP_TOKENS = 256
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
        self.choice = choose_compile_for(self.config, RANKING, self.dtype, estimated_tokens(texts, self.max_tokens))
        log.debug("%s: steps %s", self.name, self.choice)
        if self.choice.value == COMPILED:
            self.engine.kernels = Kernels(compiled=True)


@dataclass
class GpuLazyCompile:
    """Decides before each call on a GPU whether to compile, from the time that calls took so far.

    Attributes:
        name, engine, max_tokens, choice: see `LazyCompile`.
        cost: seconds and tokens of the calls so far.
        failed: whether compiling failed, so that it is not tried again.
    """

    name: str
    engine: Engine
    max_tokens: int
    cost: Cost
    choice: Choice | None = None
    failed: bool = False

    def before_call(self, texts: Sequence[Sequence[str]]) -> None:
        """Compile if the calls, with this one, take long enough. Warns if compiling fails; steps then stay plain."""
        if self.failed or (self.choice and self.choice.value == COMPILED):
            return
        expected = self.cost.seconds
        if self.cost.prompt_tokens:
            expected *= 1 + estimated_tokens(texts, self.max_tokens) / self.cost.prompt_tokens
        if expected < GPU_COMPILE_SECONDS:
            self.choice = Choice(PLAIN, f"about {expected:.0f} s of work are too short for compiling")
            return
        try:
            compile_steps(self.engine)
        except ModelError as error:
            log.warning("%s: %s; steps stay plain, which is slower", self.name, error)
            self.failed, self.choice = True, Choice(PLAIN, str(error))
        else:
            self.choice = Choice(COMPILED, f"about {expected:.0f} s of work")
        log.debug("%s: steps %s", self.name, self.choice)


def compile_steps(engine: Engine) -> None:
    """Compile an engine's steps by a short batch. Raises ModelError, and leaves them plain, if that is not possible."""
    engine.kernels = Kernels(compiled=True)
    try:
        with torch.inference_mode():
            engine(random_batch(WARM_UP_TOKENS, flat=True).to(engine.device))
    except ModelError:
        engine.kernels = Kernels(compiled=False)
        raise


def estimated_tokens(texts: Sequence[Sequence[str]], max_tokens: int) -> float:
    """Estimate the number of tokens of texts, of which prompts show at most `max_tokens` each."""
    return sum(min(len(text), CHARS_PER_TOKEN * max_tokens) for row in texts for text in row) / CHARS_PER_TOKEN
