"""Sorting by comparisons of a model: setwise heapsort and bubble sort, and a sliding window.

A sorter is a generator: it yields the candidates to compare, and receives the answer by `send`. So the comparisons of many queries
can be run together (`run_in_lockstep`).

Sources: setwise heapsort and bubble sort, Zhuang et al. 2023 (arXiv 2310.09497); sliding window, RankGPT, Sun et al. 2023 (arXiv
2304.09542), with the window bounds of rank_llm, which include every candidate at the top.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from functools import partial
from typing import TypeVar

Answer = TypeVar("Answer")
# Yields candidates, receives the position of the best of them, returns the order of all.
BestSorter = Generator[list[int], int, list[int]]
# Yields candidates, receives their positions in order, best first, returns the order of all.
OrderSorter = Generator[list[int], list[int], list[int]]
Comparison = tuple[int, list[int]]  # (index of the sorter, its candidates)


def heapsort(count: int, branching: int, k: int) -> BestSorter:
    """Order candidates 0..count-1 so that the best k come first, best first; the others follow in their order.

    Args:
        count: number of candidates, in the order of the first stage.
        branching: number of children of a node of the heap; branching + 1 candidates are compared at once.
        k: number of candidates to find.
    """
    heap, best = list(range(count)), []
    for node in range(count // branching, -1, -1):
        yield from _sift(heap, node, count, branching)
    for end in range(count - 1, -1, -1):
        heap[0], heap[end] = heap[end], heap[0]
        best.append(heap[end])
        if len(best) >= min(k, count):
            break
        yield from _sift(heap, 0, end, branching)
    return _in_front(best, count)


def _sift(heap: list[int], node: int, count: int, branching: int) -> Generator[list[int], int, None]:
    """Move the candidate at `node` down until it is the best among itself and its children."""
    while branching * node + 1 < count:
        nodes = [node, *range(branching * node + 1, min(branching * (node + 1) + 1, count))]
        best = nodes[(yield [heap[i] for i in nodes])]
        if best == node:
            return
        heap[node], heap[best] = heap[best], heap[node]
        node = best


def bubblesort(count: int, branching: int, k: int) -> BestSorter:
    """Order candidates as `heapsort` does, by k passes of a window from the end to the front that moves its best to its front.

    A pass begins at the window in which the previous pass first moved a candidate, because later windows still have their best
    candidate in front; or one window later, if the candidate moved from the front of that window. (There the published code begins
    one candidate later, and can miss the best.)

    Args:
        count, branching, k: see `heapsort`.
    """
    order, window = list(range(count)), branching + 1
    last = count - window
    for done in range(min(k, count - 1)):
        if last + window <= done:  # this window's candidates are all in their places
            last += branching
        start, changed = last, False
        while True:
            front = max(start, done)
            candidates = order[front : start + window]
            best = (yield candidates) if len(candidates) > 1 else 0
            if best:
                order[front], order[front + best] = order[front + best], order[front]
                if not changed:
                    last = min(start + branching, count - window) if front + best == start + branching else start
                changed = True
            if front == done:
                break
            start -= branching
        last = last if changed else start
    return order


def sliding(count: int, window: int, step: int, passes: int = 1) -> OrderSorter:
    """Order all candidates by a window that moves from the end to the front and puts its candidates in order.

    Args:
        count: number of candidates, in the order of the first stage.
        window: number of candidates compared at once.
        step: number of candidates by which the window moves.
        passes: how often the window goes through the list.
    """
    order = list(range(count))
    for _ in range(passes):
        end, start = count, max(0, count - window)
        while True:
            candidates = order[start:end]
            if len(candidates) > 1:
                order[start:end] = [candidates[position] for position in (yield candidates)]
            if start == 0:
                break
            end, start = end - step, max(0, start - step)
    return order


def run_in_lockstep(
    sorters: Sequence[Generator[list[int], Answer, list[int]]], compare: Callable[[list[Comparison]], list[Answer]]
) -> list[list[int]]:
    """Run sorters together, round by round.

    Args:
        sorters: one per query.
        compare: takes the open comparisons of all sorters, returns their answers.

    Returns:
        The order that each sorter returns.
    """
    orders: list[list[int]] = [[] for _ in sorters]
    pending: list[Comparison] = []

    def advance(number: int, resume: Callable[[], list[int]]) -> None:
        try:
            pending.append((number, resume()))
        except StopIteration as end:
            orders[number] = end.value

    for number, sorter in enumerate(sorters):
        advance(number, partial(next, sorter))
    while pending:
        comparisons, pending = pending, []
        for (number, _), answer in zip(comparisons, compare(comparisons), strict=True):
            advance(number, partial(sorters[number].send, answer))
    return orders


def _in_front(best: list[int], count: int) -> list[int]:
    """Return all candidates, with the best ones first."""
    chosen = set(best)
    return best + [i for i in range(count) if i not in chosen]
