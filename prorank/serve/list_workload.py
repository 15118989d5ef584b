"""The workload of models that compare documents: an item of the queue is a question about several."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..prompts.tokens import free_tokens
from ..prompts.truncation import DEFAULT_TRUNCATION, Truncation
from ..rank.list_strategy import ListStrategy
from ..reranker import Reranker
from .job import MAX_CHARS_PER_TOKEN, RerankJob, pre_truncate
from .messages import RequestError
from .queue import QueueItem

MAX_COMPARISONS = 4  # comparisons of a batch of a listwise model

Item = QueueItem[RerankJob]


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
        kept = pre_truncate(text, MAX_CHARS_PER_TOKEN * self.longest, truncation.side)
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
