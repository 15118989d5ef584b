"""A cache of documents in memory: for a document that comes again, only the tokens after it are computed."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import torch

from ..engine.key_values import KeyValueShape
from ..prompts.encoded import Encoded
from ..rank.base_reranker import BaseReranker
from .index_scores import CachedPrompt, score_prompts
from .index_settings import indexing_strategy, key_value_model
from .segment_builder import compute_chunks
from .segments import Segment

PURPOSE = "a cache of documents"


class DocumentCache:
    """Keys and values of documents, found by all tokens of a prompt up to the document's end.

    Documents are stored when they first come, because the pass that computes their keys and values also gives their first score:
    storing them later would compute them twice. Those that were used least recently are dropped.

    One thread at a time may call `score`; others may ask whether a prompt is `in` the cache.

    Args:
        reranker: a Reranker that could make an index.
        max_bytes: maximum size of the stored keys and values.

    Attributes:
        nbytes: size of the stored keys and values.
        hits, misses: number of prompts whose document was stored, and of documents that were computed, see `take_counts`.

    Raises:
        ConfigError: see `indexing_strategy`.
    """

    def __init__(self, reranker: BaseReranker, max_bytes: int) -> None:
        indexing_strategy(reranker, PURPOSE)
        self.reranker, self.max_bytes = reranker, max_bytes
        self.nbytes = self.hits = self.misses = 0
        self._segments: OrderedDict[bytes, Segment] = OrderedDict()  # of one document each, least recently used first

    def __contains__(self, prompt: Encoded) -> bool:
        """Whether nothing of a prompt has to be computed up to the document's end."""
        return prompt.document_start == prompt.document_end or _key(prompt) in self._segments

    def score(self, prompts: Sequence[Encoded]) -> list[float]:
        """Return the log-odds of prompts, which may belong to several queries. Documents that are not stored are computed."""
        missing = len({_key(prompt) for prompt in prompts if prompt not in self})
        self.hits, self.misses = self.hits + len(prompts) - missing, self.misses + missing
        by_head: dict[tuple[int, ...], list[int]] = {}
        for number, prompt in enumerate(prompts):
            by_head.setdefault(tuple(prompt.ids[: prompt.document_start]), []).append(number)
        scores = np.empty(len(prompts), np.float32)
        for head, numbers in by_head.items():
            [begin] = self._load([Encoded(list(head), 0, len(head))])
            segments = self._load([prompts[number] for number in numbers])
            cached = [CachedPrompt(number, prompts[number], segment, 0) for number, segment in zip(numbers, segments)]
            for owners, values in score_prompts(self.reranker, begin.key_values(0), cached):
                scores[owners] = values
        return scores.tolist()

    def take_counts(self) -> tuple[int, int]:
        """Return hits and misses since the last call."""
        counts, self.hits, self.misses = (self.hits, self.misses), 0, 0
        return counts

    def _load(self, prompts: Sequence[Encoded]) -> list[Segment]:
        """Return the documents of prompts with the same head: those that are stored, and the others computed and stored."""
        keys = [_key(prompt) for prompt in prompts]
        missing = {key: prompt for key, prompt in zip(keys, prompts) if key not in self._segments}
        segments = {key: self._segments[key] for key in keys if key not in missing}
        segments |= zip(missing, self._compute(list(missing.values())))
        for key, segment in segments.items():
            self._store(key, segment)
        return [segments[key] for key in keys]

    def _compute(self, prompts: Sequence[Encoded]) -> list[Segment]:
        """Compute the keys and values of documents."""
        model = key_value_model(self.reranker)
        chunks = [Encoded(prompt.ids[: prompt.document_end], prompt.document_start, prompt.document_end) for prompt in prompts]
        values = [torch.empty(0, dtype=model.dtype)] * len(chunks)
        for computed in compute_chunks(model, chunks):
            for number, part in computed.items():  # a copy, so that a pass is not kept for one of its documents
                values[number] = torch.empty(part.numel(), dtype=model.dtype)
                values[number].view(part.shape).copy_(part)
        return [_segment(chunk, flat, model.shape) for chunk, flat in zip(chunks, values)]

    def _store(self, key: bytes, segment: Segment) -> None:
        """Store a document as the one that was used last, and drop others until the size is within the limit."""
        if self._segments.pop(key, None) is not None:
            self.nbytes -= segment.nbytes
        if not 0 < segment.nbytes <= self.max_bytes:  # empty documents take no bytes, so no bound would hold for them
            return
        while self.nbytes + segment.nbytes > self.max_bytes:
            self.nbytes -= self._segments.popitem(last=False)[1].nbytes
        self._segments[key] = segment
        self.nbytes += segment.nbytes


def _key(prompt: Encoded) -> bytes:
    """Return what the keys and values of a prompt's document depend on."""
    return np.array([prompt.document_start, *prompt.ids[: prompt.document_end]], np.int32).tobytes()


def _segment(chunk: Encoded, values: torch.Tensor, shape: KeyValueShape) -> Segment:
    """Return a document in one chunk."""
    ids = torch.tensor(chunk.ids[chunk.document_start :], dtype=torch.int32)
    none, one = torch.zeros(1, dtype=torch.int32), torch.ones(1, dtype=torch.int32)
    return Segment(shape, [""], none, one, torch.tensor([len(ids)], dtype=torch.int32), ids, values)
