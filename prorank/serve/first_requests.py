"""Warming up: requests of our own, before any others are taken, in the shapes that requests have.

They take the path of every request: encoded in the encoder's thread, queued, batched and read in the model's thread. So memory,
compute threads, compiled steps and the tokenizer's threads are there when the first client comes.
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
from .logs import log
from .messages import Answer, RerankQuery

SECONDS = 86_400.0  # a shape may take as long as it takes
QUERY = "what comes with the first request"
WORDS = "some words to read before the first request comes "


@dataclass(frozen=True)
class Shape:
    """Requests that are asked at the same time: numbers of documents, and words of each document."""

    name: str
    requests: tuple[tuple[int, int], ...]


def shapes_of(reranker: Any, budget: int, longest: int) -> list[Shape]:
    """The shapes to warm up.

    Args:
        budget: tokens of a batch.
        longest: tokens of a prompt.

    Returns:
        Few and short ones where answers are written token by token: each costs seconds, and all have the same steps.
    """
    shapes = [Shape("one short document", ((1, 5),)), Shape("two short documents", ((2, 9),))]
    if reranker.thinks:
        return shapes
    if reranker.compares_documents:
        return [*shapes, Shape("ten short documents", ((10, 9),))]
    many = max(1, min(budget // longest + 1, 64))
    return shapes + [
        Shape("ten documents", ((10, 40),)),
        Shape("three requests at once", ((2, 20), (3, 40), (4, 20))),
        Shape(f"{many} documents of {longest} tokens", ((many, longest),)),
    ]


def asks_of(shape: Shape) -> list[RerankQuery]:
    """Requests of a shape; no two documents are the same, and their lengths differ."""
    return [
        RerankQuery([(f"{QUERY} {number}", [f"{at} {WORDS * (1 + (words + at % 7) // 9)}" for at in range(count)])])
        for number, (count, words) in enumerate(shape.requests)
    ]


class AnsweringService(Protocol):
    """What warming up needs of `service.Service`."""

    name: str
    reranker: Any
    work: Any
    waits_for: str

    async def answer(self, ask: RerankQuery, seconds: float, begin: float) -> Answer:
        """The answer to a request, within so many seconds."""


async def warm_up(service: AnsweringService) -> None:
    """Ask for all shapes, one after the other. Raises Refused for the first that fails."""
    shapes = shapes_of(service.reranker, service.work.budget, service.work.longest)
    counters = [(counter, vars(counter).copy()) for counter in (service.reranker.cuts, service.reranker.cost)]
    for number, shape in enumerate(shapes, 1):
        service.waits_for = f"the model is warming up: shape {number} of {len(shapes)}, {shape.name}"
        begin = time.perf_counter()
        await asyncio.gather(*(service.answer(ask, SECONDS, time.perf_counter()) for ask in asks_of(shape)))
        log("warmed", shape=shape.name, number=number, of=len(shapes), seconds=round(time.perf_counter() - begin, 3))
    await _read_and_write(service)
    for counter, before in counters:
        vars(counter).update(before)


async def _read_and_write(service: AnsweringService) -> None:
    """One request from its bytes to its answer's, in the thread that takes long bodies, too."""
    sent = to_json({"query": QUERY, "documents": [WORDS]})
    value = await asyncio.to_thread(parsing.read_json, sent)
    found, ask = await parsing.understand(value, jina.RERANK, Limits())
    answer = await service.answer(ask, SECONDS, time.perf_counter())
    to_json(jina.RERANK.write(found, ask, answer, service.name, ""))
