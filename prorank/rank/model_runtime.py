"""A model in memory, with functions that all ranking strategies use: batches, hidden states, counters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch

from ..engine.batches import batches
from ..engine.cpu_engine import Engine
from ..engine.heads import last_hidden
from ..engine.packing import Batch
from ..prompts.encoded import Encoded, TruncationCounts
from ..utils.memory import trim
from .documents import Cost

if TYPE_CHECKING:
    from transformers import PreTrainedModel


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
    """

    def __init__(self, model: PreTrainedModel, tokenizer: Any, engine: Engine | None = None) -> None:
        self.model, self.tokenizer, self.engine = model.eval(), tokenizer, engine
        self.device: torch.device = next(model.parameters()).device
        self.cuts, self.cost = TruncationCounts(), Cost()

    @property
    def numbers(self) -> str:
        """The number format of the matrix products: "int8", or the dtype of the weights."""
        return "int8" if self.engine and self.engine.int8 else str(self.model.dtype)

    def hidden(self, batch: Batch) -> torch.Tensor:
        """Return the last hidden states [N, H] at the answer positions of a batch."""
        return self.engine(batch) if self.engine else last_hidden(self.model, batch)

    def batches(self, parts: Iterable[tuple[int, list[Encoded]]], batch_size: int | None = None) -> Iterator[Batch]:
        """Yield the batches of encoded prompts.

        Args:
            parts: (index of the first prompt, prompts of one query), see `engine.batches`.
            batch_size: maximum number of documents in a forward pass; None chooses by tokens.
        """
        free_memory = trim if self.engine else None
        return batches(parts, self.model, self.tokenizer.pad_token_id, batch_size, free_memory)
