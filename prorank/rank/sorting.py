"""Sorting with a model as the judge: heapsort and bubble sort from "which is best?", a sliding window from "in which order?".

A sorter is a generator that yields candidates to compare and is sent the answer, so it knows no model, and the questions
of many queries are asked together, round by round (`run_in_lockstep`).

Sources: setwise heapsort and bubble sort, Zhuang et al. 2023 (arXiv 2310.09497); sliding window, Sun et al. 2023 (arXiv
2304.09542), with rank_llm's bounds, which leave no candidate at the top out.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from functools import partial
from typing import TypeVar

Answer = TypeVar("Answer")
Best = Generator[list[int], int, list[int]]  # yields candidates, is sent the place of the best among them, returns the order
Order = Generator[list[int], list[int], list[int]]  # is sent the candidates' places in order, best first


def heapsort(count: int, branching: int, k: int) -> Best:
    """Candidates 0..count-1 with the best k in front, best first; the others keep their order behind them.

    Args:
        count: candidates, in the order of the first stage.
        children: of a node of the heap; children + 1 candidates are compared at once.
        k: places wanted.
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
    """Let the candidate at `node` sink until it is the best among itself and its children."""
    while branching * node + 1 < count:
        places = [node, *range(branching * node + 1, min(branching * (node + 1) + 1, count))]
        best = places[(yield [heap[place] for place in places])]
        if best == node:
            return
        heap[node], heap[best] = heap[best], heap[node]
        node = best


def bubblesort(count: int, branching: int, k: int) -> Best:
    """As `heapsort`, by k passes of windows from the end to the front, each window's best moved to its front.

    A pass begins at the window in which the one before first moved something, for those behind it still have their best in front;
    or one window further behind, where it was that one's front that moved. (The published code begins one place further there, and
    can miss the best.)
    """
    order, whole = list(range(count)), branching + 1
    last = count - whole
    for done in range(min(k, count - 1)):
        if last + whole <= done:  # this window's candidates are all in their places
            last += branching
        start, changed = last, False
        while True:
            front = max(start, done)
            some = order[front : start + whole]
            best = (yield some) if len(some) > 1 else 0
            if best:
                order[front], order[front + best] = order[front + best], order[front]
                if not changed:
                    last = min(start + branching, count - whole) if front + best == start + branching else start
                changed = True
            if front == done:
                break
            start -= branching
        last = last if changed else start
    return order


def sliding(count: int, window: int, step: int, passes: int = 1) -> Order:
    """All candidates in order: windows from the end to the front, each put in order in its place; best first after each pass.

    Args:
        count: candidates. window: compared at once. step: how far the window moves. passes: how often it goes through.
    """
    order = list(range(count))
    for _ in range(passes):
        end, start = count, max(0, count - window)
        while True:
            some = order[start:end]
            if len(some) > 1:
                order[start:end] = [some[place] for place in (yield some)]
            if start == 0:
                break
            end, start = end - step, max(0, start - step)
    return order


def run_in_lockstep(
    sorters: Sequence[Generator[list[int], Answer, list[int]]], ask: Callable[[list[tuple[int, list[int]]]], list[Answer]]
) -> list[list[int]]:
    """The order each sorter comes to; `ask` gets the open questions (sorter, candidates) of all of them at once."""
    orders: list[list[int]] = [[] for _ in sorters]
    open_questions: list[tuple[int, list[int]]] = []

    def go_on(number: int, question: Callable[[], list[int]]) -> None:
        try:
            open_questions.append((number, question()))
        except StopIteration as end:
            orders[number] = end.value

    for number, sorter in enumerate(sorters):
        go_on(number, partial(next, sorter))
    while open_questions:
        asked, answers = list(open_questions), ask(open_questions)
        open_questions.clear()
        for (number, _), answer in zip(asked, answers, strict=True):
            go_on(number, partial(sorters[number].send, answer))
    return orders


def _in_front(best: list[int], count: int) -> list[int]:
    chosen = set(best)
    return best + [i for i in range(count) if i not in chosen]
