"""Workloads: scores of single documents, or comparisons of several, as items of the queue.

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

from ..errors import ModelError
from ..index.index_scores import CachedPrompt
from ..prompts.pair_encoder import PairPromptEncoder
from ..prompts.tokens import free_tokens
from ..prompts.truncation import DEFAULT_TRUNCATION, Truncation
from ..rank.documents import GeneratedThought
from ..rank.list_strategy import ListStrategy
from ..rank.thinking import sampling_key
from ..reranker import Reranker
from .job import RerankJob
from .messages import RequestError
from .queue import QueueItem
from .stored_documents import StoredDocuments

CPU_BATCH_TOKENS = 1024  # nearly the engine's full speed, and short waiting times
GPU_BATCH_TOKENS = 16384
MAX_THINKING_DOCUMENTS = 32  # documents of a batch of a thinking model
MAX_COMPARISONS = 4  # comparisons of a batch of a listwise model
MAX_CHARS_PER_TOKEN = 256  # upper bound on characters per token, used to pre-truncate texts before tokenising
SLICE_DOCUMENTS, SLICE_CHARACTERS = 64, 200_000  # tokenised in one call

Item = QueueItem[RerankJob]


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
        stored: documents whose keys and values are stored, for a model that does not think; None for none.
    """

    deduplicates = True

    def __init__(self, reranker: Reranker, batch_size: int | None = None, stored: StoredDocuments | None = None) -> None:
        self.reranker, self.thinks, self.stored = reranker, reranker.thinks, stored
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
        texts = [_pre_truncate(job.texts[list_index][at], limit, rerank_query.truncation.side) for at in indices]
        encoded = self.encoder.encode_chunks(query[:limit], texts, rerank_query.instruction, rerank_query.truncation)
        items = []
        for at, text, prompts in zip(indices, texts, encoded):
            whole = job.texts[list_index][at]
            truncated = [at] if prompts[0].document_cut or len(text) < len(whole) else []
            job.record_prompts(list_index, truncated, prompts[0].query_cut > 0, sum(len(prompt.ids) for prompt in prompts))
            stored = self.stored.find(whole, prompts) if self.stored else [None] * len(prompts)
            if all(stored):
                job.stored[list_index].add(at)
            key = sampling_key(query, whole)
            for prompt, chunk in zip(prompts, stored, strict=True):
                items.append(self._item(job, list_index, at, EncodedDocument(prompt, key, chunk)))
        return sorted(items, key=lambda item: -item.tokens)

    def _item(self, job: RerankJob, list_index: int, at: int, document: EncodedDocument) -> Item:
        if self.thinks:
            return QueueItem(job, list_index, at, 1, 0, document)
        prompt = document.prompt
        prefix, first = (0, prompt.document_end) if document.stored else (prompt.document_start, prompt.document_start)
        return QueueItem(job, list_index, at, len(prompt.ids) - first, prefix, document)

    def _max_characters(self, job: RerankJob) -> int:
        return MAX_CHARS_PER_TOKEN * self.longest * job.rerank_query.truncation.max_chunks

    def run(self, items: list[Item]) -> list[PromptScore]:
        """Score a batch; one result per item."""
        stored = [item for item in items if item.payload.stored]
        others = [item for item in items if not item.payload.stored]
        results = self._compute(others) if others else []
        if self.stored and stored:
            results += [PromptScore(score, None) for score in self.stored.score([item.payload.stored for item in stored])]
        by_item = dict(zip(map(id, [*others, *stored]), results, strict=True))
        return [by_item[id(item)] for item in items]

    def _compute(self, items: list[Item]) -> list[PromptScore]:
        """Score items whose prompts are computed whole."""
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


class ListwiseWorkload:
    """Orders documents by a listwise method. An item is one question of that method.

    Args:
        reranker: a Reranker with a listwise method.
        lists: the strategy of that method.
        batch_size: number of questions of a batch; None for the default.
    """

    thinks, deduplicates = False, False

    def __init__(self, reranker: Reranker, lists: ListStrategy, batch_size: int | None = None) -> None:
        self.reranker, self.lists, self.batch_size = reranker, lists, batch_size or MAX_COMPARISONS
        self.encoder = copy.deepcopy(lists.encoder)
        self.longest = self.encoder.longest

    def slices(self, job: RerankJob) -> Iterator[tuple[int, list[int]]]:
        """Yield (list index, text indices) of whole lists."""
        return ((list_index, list(range(len(texts)))) for list_index, texts in enumerate(job.texts) if texts)

    def encode(self, job: RerankJob, list_index: int, indices: list[int]) -> list[Item]:
        """Return the first question about a list. Raises RequestError for unsupported kinds of truncation."""
        truncation = job.rerank_query.truncation
        if truncation.max_chunks > 1 or truncation.max_prompt_tokens or truncation.max_query_tokens:
            message = "this model reads several documents at once; chunks and token limits of a prompt or a query are not supported"
            raise RequestError("invalid", message)
        job.texts[list_index] = [
            self._truncate(job, list_index, at, text, truncation) for at, text in enumerate(job.texts[list_index])
        ]
        job.sorters[list_index] = self.lists.method.sorter(len(indices))
        return self._next_question(job, list_index, None)

    def _truncate(self, job: RerankJob, list_index: int, at: int, text: str, truncation: Truncation) -> str:
        """Return the part of a text that fits into a prompt."""
        kept = _pre_truncate(text, MAX_CHARS_PER_TOKEN * self.longest, truncation.side)
        if truncation != DEFAULT_TRUNCATION:
            ids = free_tokens(self.encoder.tokenizer, [kept])[0]
            shown = truncation.split(ids, self.longest)[0][0]
            kept = kept if len(shown) == len(ids) else self.encoder.tokenizer.decode(shown)
        if kept != text:
            job.record_prompts(list_index, [at], False, 0)
        return kept

    def run(self, items: list[Item]) -> list[Any]:
        """Answer a batch of questions; one (answer, records of its prompts) per item."""
        results: list[Any] = [None] * len(items)
        for instruction in dict.fromkeys(item.job.rerank_query.instruction for item in items):
            same = [i for i, item in enumerate(items) if item.job.rerank_query.instruction == instruction]
            for i, result in zip(same, self._answer([items[i] for i in same], instruction)):
                results[i] = result
        return results

    def _answer(self, items: list[Item], instruction: str | None) -> list[Any]:
        records: list[list[tuple]] = [[] for _ in items]
        questions = [self._question(item) for item in items]
        values = self.lists.values(questions, instruction, lambda i, *record: records[i].append(record))
        return [(self.lists.method.answer(value), record) for value, record in zip(values, records)]

    def _question(self, item: Item) -> tuple[str, list[str]]:
        texts, query = item.job.texts[item.list_index], item.job.rerank_query.lists[item.list_index].query
        return query[: MAX_CHARS_PER_TOKEN * self.longest], [texts[at] for at in item.payload]

    def record(self, item: Item, result: Any) -> list[Item]:
        """Store an answer and return the next question; none once the order is known."""
        answer, records = result
        for shown, query_truncated, tokens in records:
            item.job.record_prompts(item.list_index, [item.payload[at] for at in shown], query_truncated, tokens)
        return self._next_question(item.job, item.list_index, answer)

    def _next_question(self, job: RerankJob, list_index: int, answer: Any) -> list[Item]:
        try:
            question = job.sorters[list_index].send(answer)
            return [QueueItem(job, list_index, 0, 1, 0, question)]
        except StopIteration as end:
            del job.sorters[list_index]
            job.scores[list_index] = -np.argsort(end.value).astype(np.float32)
            return []


Workload = PointwiseWorkload | ListwiseWorkload


def make_workload(reranker: Reranker, batch_size: int | None = None, stored: StoredDocuments | None = None) -> Workload:
    """Return the workload for a Reranker. `batch_size` and `stored`: see the workloads."""
    strategy = reranker.strategy
    if isinstance(strategy, ListStrategy):
        return ListwiseWorkload(reranker, strategy, batch_size)
    return PointwiseWorkload(reranker, batch_size, stored)


def _pre_truncate(text: str, max_characters: int, side: str) -> str:
    """Drop characters that are certainly truncated. `side`: the truncated side."""
    return text[:max_characters] if side == "right" else text[-max_characters:]
