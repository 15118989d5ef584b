"""Warm-up: the server's own requests, in typical sizes, before client requests are accepted.

They take the same path as client requests: encoded in the encoder's thread, queued, batched and scored in the model's thread. So
memory, compute threads, compiled steps and the tokenizer's threads are ready for the first client.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any, Protocol

from pydantic_core import to_json

from . import parsing
from .dialects import jina
from .limits import Limits
from .logs import log_event
from .messages import Answer, QueryDocuments, RerankQuery
from .stored_documents import StoredDocuments

NO_TIME_LIMIT = 86_400.0  # seconds; warm-up requests have no real limit
MAX_DOCUMENTS = 64
STORED_DOCUMENTS = 10  # of the index
QUERY = "what comes with the first request"
WORDS = "some words to read before the first request comes "


@dataclass(frozen=True)
class RequestShape:
    """The size of a request: its number of documents, and the number of words of each."""

    documents: int
    words: int


@dataclass(frozen=True)
class WarmupShape:
    """Requests that are sent at the same time."""

    name: str
    requests: tuple[RequestShape, ...]


def warmup_shapes(reranker: Any, batch_size: int, longest: int) -> list[WarmupShape]:
    """Return the shapes to warm up.

    Args:
        reranker: the model.
        batch_size: number of tokens of a batch.
        longest: number of tokens of the longest prompt.

    Returns:
        The shapes: few and short ones for models that generate text, where each takes seconds and runs the same steps.
    """
    shapes = [_single("one short document", 1, 5), _single("two short documents", 2, 9)]
    if reranker.thinks:
        return shapes
    if reranker.compares_documents:
        return [*shapes, _single("ten short documents", 10, 9)]
    many = max(1, min(batch_size // longest + 1, MAX_DOCUMENTS))
    return [
        *shapes,
        _single("ten documents", 10, 40),
        WarmupShape("three requests at once", (RequestShape(2, 20), RequestShape(3, 40), RequestShape(4, 20))),
        _single(f"{many} documents of {longest} tokens", many, longest),
    ]


def _single(name: str, documents: int, words: int) -> WarmupShape:
    return WarmupShape(name, (RequestShape(documents, words),))


def warmup_queries(shape: WarmupShape) -> list[RerankQuery]:
    """Return the requests of a shape. All documents differ, and so do their lengths."""
    return [
        RerankQuery([QueryDocuments(f"{QUERY} {number}", [_document(at, request.words) for at in range(request.documents)])])
        for number, request in enumerate(shape.requests)
    ]


def _document(at: int, words: int) -> str:
    return f"{at} {WORDS * (1 + (words + at % 7) // 9)}"


class AnsweringService(Protocol):
    """The part of `service.Service` that the warm-up uses."""

    name: str
    reranker: Any
    workload: Any
    stored: StoredDocuments | None
    startup_step: str

    async def answer(self, rerank_query: RerankQuery, seconds: float, begin: float) -> Answer:
        """Score the documents of a request within a time limit."""


async def warm_up(service: AnsweringService) -> None:
    """Send all shapes, one after the other, uncounted. Raises RequestError for the first that fails."""
    shapes = warmup_shapes(service.reranker, service.workload.batch_size, service.workload.longest)
    queries = {shape.name: warmup_queries(shape) for shape in shapes}
    if service.stored:
        queries["documents of the index"] = [RerankQuery([QueryDocuments(QUERY, service.stored.texts(STORED_DOCUMENTS))])]
    with service.reranker.uncounted():
        for number, (name, requests) in enumerate(queries.items(), 1):
            service.startup_step = f"the model is warming up: shape {number} of {len(queries)}, {name}"
            begin = time.perf_counter()
            await asyncio.gather(*(_answer(service, query) for query in requests))
            log_event("warmed", shape=name, number=number, of=len(queries), seconds=round(time.perf_counter() - begin, 3))
        await _parse_and_write(service)


async def _answer(service: AnsweringService, rerank_query: RerankQuery) -> Answer:
    return await service.answer(rerank_query, NO_TIME_LIMIT, time.perf_counter())


async def _parse_and_write(service: AnsweringService) -> None:
    """Answer one request from the bytes of its body to those of its answer, including the thread for large bodies."""
    content = to_json({"query": QUERY, "documents": [WORDS]})
    value = await asyncio.to_thread(parsing.read_json, content)
    request = await parsing.validate(value, jina.RERANK, Limits())
    answer = await _answer(service, request.rerank_query)
    to_json(jina.RERANK.write(request.body, request.rerank_query, answer, service.name, ""))
