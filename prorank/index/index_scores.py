"""Score stored documents for a query: the tokens after the documents are computed, the documents' keys and values are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..engine.batches import WINDOW
from ..engine.heads import log_odds
from ..engine.key_values import KeyValues
from ..prompts.encoded import Encoded
from ..rank.base_reranker import BaseReranker
from .index_settings import IndexSettings, indexing_strategy, key_value_model
from .segments import Segment, locate

MAX_ROWS = 4096  # new tokens of a forward pass


@dataclass(frozen=True)
class CachedPrompt:
    """A prompt whose document is a stored chunk.

    Attributes:
        owner: number of its document in the selection.
        prompt: the whole prompt.
        segment, chunk: the stored chunk.
    """

    owner: int
    prompt: Encoded
    segment: Segment
    chunk: int

    @property
    def new_ids(self) -> tuple[int, ...]:
        """The tokens after the document."""
        return tuple(self.prompt.ids[self.prompt.document_end :])

    def __len__(self) -> int:
        return self.prompt.document_end - self.prompt.document_start


def cached_prompts(
    reranker: BaseReranker, settings: IndexSettings, query: str, documents: Sequence[tuple[Segment, int]], first: int = 0
) -> list[list[CachedPrompt]]:
    """Return the prompts of a query with stored documents.

    Args:
        reranker, settings: those of the index.
        query: a checked query.
        documents: (segment, number in it) of each document, see `segments.locate`.
        first: owner of the first document.
    """
    strategy = indexing_strategy(reranker)
    lengths = [max(segment.lengths[chunk].item() for chunk in segment.chunks(number)) for segment, number in documents]
    frames = strategy.encoder.frames_of_lengths(query, set(map(int, lengths)), settings.instruction, strategy.truncation)
    result = []
    for owner, ((segment, number), length) in enumerate(zip(documents, lengths), first):
        frame, cut = frames[int(length)], int(segment.cuts[number])
        prompts = []
        for chunk in segment.chunks(number):
            head_and_document = frame.head + segment.chunk_ids(chunk)
            encoded = Encoded(head_and_document + frame.tail, len(frame.head), len(head_and_document), cut, frame.query_cut)
            prompts.append(CachedPrompt(owner, encoded, segment, chunk))
        result.append(prompts)
    return result


def score_stored(
    reranker: BaseReranker, settings: IndexSettings, head: KeyValues, segments: Sequence[Segment], query: str,
    positions: Sequence[int], batch_size: int | None = None, progress: Callable[[int], None] | None = None,
) -> np.ndarray:  # fmt: skip
    """Return the log-odds fp32 [n] of documents at these positions; of a document in chunks, that of the best chunk.

    Args:
        reranker, settings, segments: those of the index.
        head: keys and values of the tokens before every document.
        query: a checked query.
        positions: positions in the index.
        batch_size: maximum number of chunks in a forward pass; None chooses by tokens.
        progress: called with the number of documents that were scored since its last call.
    """
    query_cut = 0
    scores = np.full(len(positions), -np.inf, np.float32)
    for first in range(0, len(positions), WINDOW):
        located = locate(segments, positions[first : first + WINDOW])
        documents = cached_prompts(reranker, settings, query, located, first)
        encoded = [[cached.prompt for cached in prompts] for prompts in documents]
        reranker.cost.count_prompts([prompt for prompts in encoded for prompt in prompts])
        query_cut = reranker.cuts.count_chunks(encoded, query_cut)
        for owners, values in score_prompts(reranker, head, [cached for prompts in documents for cached in prompts], batch_size):
            np.maximum.at(scores, owners, values)  # NaN stays
        if progress:
            progress(len(located))
    return scores


def score_prompts(
    reranker: BaseReranker, head: KeyValues, prompts: Sequence[CachedPrompt], batch_size: int | None = None
) -> Iterator[tuple[list[int], np.ndarray]]:
    """Yield (owners, log-odds fp32) of batches of prompts, which may belong to several queries.

    Args:
        reranker: the Reranker of the index.
        head: keys and values of the tokens before every document.
        prompts: the prompts, in any order.
        batch_size: maximum number of prompts in a forward pass; None chooses by tokens.
    """
    strategy = indexing_strategy(reranker)
    for batch in _batches(prompts, batch_size):
        with torch.inference_mode():
            values = log_odds(_hidden(reranker, head, batch), strategy.rows, strategy.bias).cpu().numpy()
        yield [cached.owner for cached in batch], values


def _batches(prompts: Sequence[CachedPrompt], batch_size: int | None) -> Iterator[list[CachedPrompt]]:
    """Yield prompts that end with the same tokens, longest documents first."""
    by_tail: dict[tuple[int, ...], list[CachedPrompt]] = {}
    for cached in prompts:
        by_tail.setdefault(cached.new_ids, []).append(cached)
    for new_ids, group in by_tail.items():
        size = min(batch_size or WINDOW, max(1, MAX_ROWS // len(new_ids)))
        group.sort(key=len, reverse=True)
        for start in range(0, len(group), size):
            yield group[start : start + size]


def _hidden(reranker: BaseReranker, head: KeyValues, batch: Sequence[CachedPrompt]) -> torch.Tensor:
    """Return the last hidden states [n, H] at the answers of a batch."""
    chunks: dict[int, tuple[Segment, list[int]]] = {}
    for cached in batch:
        chunks.setdefault(id(cached.segment), (cached.segment, []))[1].append(cached.chunk)
    for segment, numbers in chunks.values():
        segment.prefetch(numbers)
    texts = [cached.segment.key_values(cached.chunk) for cached in batch]
    starts = [cached.prompt.document_end for cached in batch]
    return key_value_model(reranker).hidden_after(head, texts, starts, batch[0].new_ids)
