"""Workloads: scores of single documents (here), or comparisons of several (`list_workload`), as items of the queue.

Items of many requests share a forward pass. Scores equal those of the library, up to rounding: prompts come from the prompt's
encoder, and scores from the Reranker.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np

from ..errors import ConfigError, ModelError
from ..index.document_cache import DocumentCache
from ..index.index_scores import CachedPrompt
from ..prompts.pair_encoder import PairPromptEncoder
from ..rank.documents import GeneratedThought
from ..rank.list_strategy import ListStrategy
from ..rank.thinking import sampling_key
from ..rank.thinking_head import ThinkingHeadStrategy
from ..reranker import Reranker
from .job import MAX_CHARS_PER_TOKEN, RerankJob, pre_truncate
from .list_workload import Item, ListwiseWorkload
from .queue import QueueItem
from .stored_documents import StoredDocuments

CPU_BATCH_TOKENS = 1024  # nearly the engine's full speed, and short waiting times
GPU_BATCH_TOKENS = 16384
MAX_THINKING_DOCUMENTS = 32  # documents of a batch of a thinking model
SLICE_DOCUMENTS, SLICE_CHARACTERS = 64, 200_000  # tokenised in one call


class PromptScore(NamedTuple):
    """Log-odds of a prompt, and the thought of a thinking model."""

    score: float
    thought: GeneratedThought | None


class EncodedDocument(NamedTuple):
    """Payload of a pointwise item: an encoded prompt, the key of its thought in the cache, and its stored chunk if there is one."""

    prompt: Any
    thought_key: str
    stored: CachedPrompt | None = None


class PointwiseWorkload:
    """Scores documents one by one. An item is a prompt.

    Args:
        reranker: a pointwise Reranker; it may think.
        batch_size: number of tokens of a batch, or of documents if the model thinks; None chooses by device.
        stored: documents of an index, whose keys and values are stored; None for none.
        cache: stores keys and values of documents that come again; None stores none.
    """

    deduplicates = True

    def __init__(
        self, reranker: Reranker, batch_size: int | None = None, stored: StoredDocuments | None = None,
        cache: DocumentCache | None = None,
    ) -> None:  # fmt: skip
        self.reranker, self.thinks, self.stored, self.cache = reranker, reranker.thinks, stored, cache
        default = CPU_BATCH_TOKENS if reranker.device.type == "cpu" else GPU_BATCH_TOKENS
        self.batch_size = batch_size or (MAX_THINKING_DOCUMENTS if self.thinks else default)
        # A copy, because prompts are encoded in another thread than the model's, and each call may change the tokenizer's settings.
        encoder = copy.deepcopy(reranker.encoder)
        assert isinstance(encoder, PairPromptEncoder)
        self.encoder = encoder
        self.longest = self.encoder.longest

    def slices(self, job: RerankJob) -> Iterator[tuple[int, list[int]]]:
        """Yield (list index, text indices) to encode in one call. Slices are short, so that jobs can take turns."""
        for list_index, texts in enumerate(job.texts):
            chunk: list[int] = []
            characters = 0
            for at, text in enumerate(texts):
                chunk.append(at)
                characters += min(len(text), self._max_characters(job))
                if len(chunk) >= SLICE_DOCUMENTS or characters >= SLICE_CHARACTERS:
                    yield list_index, chunk
                    chunk, characters = [], 0
            if chunk:
                yield list_index, chunk

    def encode(self, job: RerankJob, list_index: int, indices: list[int]) -> list[Item]:
        """Encode texts of a list as items, longest first.

        Args:
            job: the request.
            list_index: index of the list.
            indices: indices of the texts.

        Raises:
            RequestError: a text was truncated although the request forbids it.
            PromptError: the prompt leaves no tokens for the document.
        """
        rerank_query, limit = job.rerank_query, self._max_characters(job)
        query = rerank_query.lists[list_index].query
        texts = [pre_truncate(job.texts[list_index][at], limit, rerank_query.truncation.side) for at in indices]
        encoded = self.encoder.encode_chunks(query[:limit], texts, rerank_query.instruction, rerank_query.truncation)
        items = []
        for at, text, prompts in zip(indices, texts, encoded):
            whole = job.texts[list_index][at]
            truncated = [at] if prompts[0].document_cut or len(text) < len(whole) else []
            job.record_prompts(list_index, truncated, prompts[0].query_cut > 0, sum(len(prompt.ids) for prompt in prompts))
            stored = self.stored.find(whole, prompts) if self.stored else [None] * len(prompts)
            if None not in stored:
                job.stored[list_index].add(at)
            key = sampling_key(query, whole)
            for prompt, chunk in zip(prompts, stored, strict=True):
                items.append(self._item(job, list_index, at, EncodedDocument(prompt, key, chunk)))
        return sorted(items, key=lambda item: -item.tokens)

    def _item(self, job: RerankJob, list_index: int, at: int, document: EncodedDocument) -> Item:
        if self.thinks:
            return QueueItem(job, list_index, at, 1, 0, document)
        prompt = document.prompt
        is_stored = document.stored is not None or (self.cache and prompt in self.cache)
        prefix, first = (0, prompt.document_end) if is_stored else (prompt.document_start, prompt.document_start)
        return QueueItem(job, list_index, at, len(prompt.ids) - first, prefix, document)

    def _max_characters(self, job: RerankJob) -> int:
        return MAX_CHARS_PER_TOKEN * self.longest * job.rerank_query.truncation.max_chunks

    def run(self, items: list[Item]) -> list[PromptScore]:
        """Score a batch; one result per item."""
        stored = [item for item in items if item.payload.stored is not None]
        others = [item for item in items if item.payload.stored is None]
        results = self._compute(others) if others else []
        if self.stored and stored:
            results += [PromptScore(score, None) for score in self.stored.score([item.payload.stored for item in stored])]
        by_item = dict(zip(map(id, [*others, *stored]), results, strict=True))
        return [by_item[id(item)] for item in items]

    def _compute(self, items: list[Item]) -> list[PromptScore]:
        """Score items whose documents are not in the index."""
        if self.cache:
            return [PromptScore(score, None) for score in self.cache.score([item.payload.prompt for item in items])]
        lists = [list(group) for _, group in groupby(items, key=lambda item: (id(item.job), item.list_index))]
        encoded = [([item.payload.prompt for item in group], [item.payload.thought_key for item in group]) for group in lists]
        scored = self.reranker.score_encoded(encoded)
        flat: list[GeneratedThought | None] = [thought for group in scored.thoughts for thought in group]
        return list(map(PromptScore, np.concatenate(scored.scores).tolist(), flat or [None] * len(items)))

    def record(self, item: Item, result: PromptScore) -> list[Item]:
        """Store the score of an item; a document has the score of its best chunk. Raises ModelError if it is not finite."""
        (score, thought), scores = result, item.job.scores[item.list_index]
        if not math.isfinite(score):
            raise ModelError(f"{self.reranker.name}: a score is not finite; the weights are damaged or its training diverged")
        if score > scores[item.position]:
            scores[item.position], item.job.thoughts[item.list_index][item.position] = score, thought
        return []


Workload = PointwiseWorkload | ListwiseWorkload


def make_workload(
    reranker: Reranker, batch_size: int | None = None, stored: StoredDocuments | None = None, cache: DocumentCache | None = None
) -> Workload:
    """Return the workload for a Reranker. `batch_size`, `stored` and `cache`: see the workloads.

    Raises:
        ConfigError: the Reranker thinks about the head of a list, which a server does not know before all documents are scored.
    """
    strategy = reranker.strategy
    if isinstance(strategy, ThinkingHeadStrategy):
        raise ConfigError(f"{reranker.name}: think_top is not for servers; serve it without think_top, or with think=False")
    if isinstance(strategy, ListStrategy):
        return ListwiseWorkload(reranker, strategy, batch_size)
    return PointwiseWorkload(reranker, batch_size, stored, cache)
