"""A model in memory, with functions that all ranking strategies use: batches, hidden states, counters."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any

import torch

from ..engine.batches import batch_limits, batches, streamed_batches
from ..engine.choice import Choice
from ..engine.cpu_engine import Engine
from ..engine.flat_attention import is_flat
from ..engine.heads import last_hidden, log_odds
from ..engine.packing import Batch
from ..engine.sequence_attention import choose_attention
from ..errors import ModelError
from ..prompts.encoded import Encoded, TruncationCounts
from ..utils.memory import trim
from ..utils.prefetch import prefetched
from .documents import Cost

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PARTS_AHEAD, BATCHES_AHEAD = 8, 2  # encoded lists of prompts, and batches, that wait for the next step
BATCHES_PER_COPY = 16  # on a GPU


class ModelRuntime:
    """A causal language model with its tokenizer, and the engine that computes its hidden states.

    Args:
        model: the model; it is put into evaluation mode.
        tokenizer: its tokenizer, with a padding token.
        engine: the engine that computes; None uses the layers of transformers.

    Attributes:
        device: device of the model's weights.
        cuts: counts of truncated texts over all calls.
        cost: prompts, tokens and seconds, counted over all calls.
        ahead: make flat batches in threads while the device computes; True on a GPU.
        batches_per_copy: batches whose scores are copied from the device at once, which waits for them.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: Any, engine: Engine | None = None) -> None:
        self.model, self.tokenizer, self.engine = model.eval(), tokenizer, engine
        self.device: torch.device = next(model.parameters()).device
        self.cuts, self.cost = TruncationCounts(), Cost()
        self.ahead = self.device.type == "cuda"
        self.batches_per_copy = BATCHES_PER_COPY if self.ahead else 1

    @property
    def numbers(self) -> str:
        """The number format of the matrix products: "int8", or the dtype of the weights."""
        return "int8" if self.engine and self.engine.int8 else str(self.model.dtype)

    @property
    def attention(self) -> Choice | None:
        """How the engine attends on a GPU, with the reason; None on a CPU or without an engine."""
        engine = self.engine
        if engine is None or self.device.type == "cpu":
            return None
        return choose_attention(engine.device, engine.dtype, engine.num_heads, engine.num_kv_heads, engine.head_dim)

    def hidden(self, batch: Batch) -> torch.Tensor:
        """Return the last hidden states [N, H] at the answer positions of a batch.

        Raises:
            ModelError: the GPU has too little memory.
        """
        try:
            return self.engine(batch) if self.engine else last_hidden(self.model, batch)
        except torch.OutOfMemoryError as error:
            tokens = batch.inputs["input_ids"].numel()
            remedy = f"set batch_size to {max(1, len(batch.owners) // 2)}, or free memory"
            raise ModelError(f"the GPU's memory has no room for a batch of {tokens} tokens; {remedy}") from error

    def log_odds(
        self, parts: Iterable[tuple[int, list[Encoded]]], batch_size: int | None, rows: torch.Tensor, bias: torch.Tensor,
        encoded: bool = False,
    ) -> Generator[tuple[list[int], list[float]]]:  # fmt: skip
        """Yield (numbers of prompts, their log-odds). Close it with `contextlib.closing`, because it may have threads.

        Args:
            parts, batch_size, encoded: see `batches`.
            rows, bias: see `heads.log_odds`.
        """
        owners: list[int] = []
        scores: list[torch.Tensor] = []
        with closing(self.batches(parts, batch_size, encoded)) as batches:
            for batch in batches:
                owners += batch.owners
                scores.append(log_odds(self.hidden(batch), rows, bias))
                if len(scores) >= self.batches_per_copy:
                    yield owners, torch.cat(scores).tolist()
                    owners, scores = [], []
        if scores:
            yield owners, torch.cat(scores).tolist()

    def batches(
        self, parts: Iterable[tuple[int, list[Encoded]]], batch_size: int | None = None, encoded: bool = False
    ) -> Generator[Batch]:
        """Yield the batches of encoded prompts on the model's device. Close it with `contextlib.closing`.

        Args:
            parts: (index of the first prompt, prompts of one query), see `engine.batches`.
            batch_size: maximum number of documents in a forward pass; None chooses by tokens.
            encoded: the prompts are in memory, so that threads gain nothing; otherwise `parts` may be iterated in a thread.
        """
        if self.ahead and not encoded and is_flat(self.model):
            with closing(self._prefetched(parts, batch_size)) as prepared:
                for batch in prepared:
                    yield batch.to(self.device)
            return
        on_cpu = self.device.type == "cpu"
        for batch in batches(parts, self.model, self.tokenizer.pad_token_id, batch_size, trim if self.engine and on_cpu else None):
            yield batch.to(self.device)

    def _prefetched(self, parts: Iterable[tuple[int, list[Encoded]]], batch_size: int | None) -> Generator[Batch]:
        """Encode prompts in one thread, make batches of them in another, and pin the batches for copies to a GPU."""
        limits, on_gpu = batch_limits(self.model), self.device.type == "cuda"

        def made() -> Iterator[Batch]:
            with closing(prefetched(parts, PARTS_AHEAD)) as encoded:
                for batch in streamed_batches(encoded, limits, batch_size):
                    yield batch.pinned() if on_gpu else batch

        return prefetched(made(), BATCHES_AHEAD)
