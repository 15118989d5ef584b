"""Reranker.arank and rank from several threads: the event loop stays free, and the model hears one call at a time.

A model that waits for the loop would wait for ever if it ran on it; the tests give up after seconds.
"""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from prorank.errors import DataError
from tests.test_reranker import DOCUMENTS, QUERY, small


@pytest.fixture(scope="module")
def reranker():
    return small()


def watched(reranker, monkeypatch, pause: float = 0.0):
    """(queries in the order the model heard them, how many were under way at once)."""
    heard, under_way, plain = [], [], reranker.strategy.score
    now = [0]

    def scored(queries, *more):
        now[0] += 1
        heard.extend(queries)
        under_way.append(now[0])
        time.sleep(pause)
        try:
            return plain(queries, *more)
        finally:
            now[0] -= 1

    monkeypatch.setattr(reranker.strategy, "score", scored)
    return heard, under_way


def test_it_returns_what_rank_does(reranker):
    got = asyncio.run(reranker.arank(QUERY, DOCUMENTS, 3, instruction="find places"))
    assert got == reranker.rank(QUERY, DOCUMENTS, 3, instruction="find places") and len(got) == 3


def test_the_event_loop_stays_free(reranker, monkeypatch):
    ticked = threading.Event()

    def waits(*_, **__):
        assert ticked.wait(20), "the loop did not run while the model did"
        return []

    async def main():
        call = asyncio.create_task(reranker.arank(QUERY, DOCUMENTS))
        await asyncio.sleep(0.01)
        assert not call.done()
        ticked.set()
        return await call

    monkeypatch.setattr(reranker, "rank", waits)
    assert asyncio.run(main()) == []


def test_calls_come_one_at_a_time_and_in_order(reranker, monkeypatch):
    heard, under_way = watched(reranker, monkeypatch, pause=0.005)
    queries = [f"query {i}" for i in range(6)]

    async def main():
        return await asyncio.gather(*(reranker.arank(query, DOCUMENTS[:2]) for query in queries))

    found = asyncio.run(main())
    assert heard == queries and set(under_way) == {1}
    assert found == [reranker.rank(query, DOCUMENTS[:2]) for query in queries]


def test_threads_take_turns_with_it(reranker, monkeypatch):
    _, under_way = watched(reranker, monkeypatch, pause=0.005)

    async def main():
        with ThreadPoolExecutor(4) as pool:
            others = [asyncio.get_running_loop().run_in_executor(pool, reranker.rank, QUERY, DOCUMENTS[:2]) for _ in range(4)]
            return await asyncio.gather(*others, *(reranker.arank(QUERY, DOCUMENTS[:2]) for _ in range(4)))

    before = reranker.cuts.total
    found = asyncio.run(main())
    assert len(under_way) == 8 and set(under_way) == {1} and all(hits == found[0] for hits in found)
    assert reranker.cuts.total == before + 16


def test_errors_reach_the_caller_and_the_next_call_works(reranker):
    with pytest.raises(DataError, match="expected a text that is not empty"):
        asyncio.run(reranker.arank(" ", DOCUMENTS))
    assert len(asyncio.run(reranker.arank(QUERY, DOCUMENTS))) == len(DOCUMENTS)


def test_a_call_that_is_cancelled_before_its_turn_never_runs(reranker, monkeypatch):
    heard, _ = watched(reranker, monkeypatch, pause=0.05)

    async def main():
        calls = [asyncio.create_task(reranker.arank(query, DOCUMENTS[:1])) for query in ("first", "second", "third")]
        await asyncio.sleep(0.01)
        calls[1].cancel()
        return await asyncio.gather(*calls, return_exceptions=True)

    first, second, third = asyncio.run(main())
    assert heard == ["first", "third"] and isinstance(second, asyncio.CancelledError) and first and third
