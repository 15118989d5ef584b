"""Sorters against the published algorithms and against the truth, with an oracle for a judge.

The published setwise heapsort asks about 21 questions for the best 10 of 100 with 19 children.
"""

import statistics
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prorank.rank.sorting import bubblesort, heapsort, run_in_lockstep, sliding

WORTHS = st.lists(st.integers(0, 1000), min_size=1, max_size=60, unique=True)


def sort(sorter, answer):
    """(the order a sorter comes to, the questions it asked)."""
    asked = []

    def ask(questions):
        asked.extend(candidates for _, candidates in questions)
        return [answer(candidates) for _, candidates in questions]

    return run_in_lockstep([sorter], ask)[0], asked


def best_of(worth):
    return lambda some: max(range(len(some)), key=lambda i: worth[some[i]])


def order_of(worth):
    return lambda some: sorted(range(len(some)), key=lambda i: -worth[some[i]])


@given(worth=WORTHS, branching=st.integers(1, 20), k=st.integers(1, 12))
@pytest.mark.parametrize("algorithm", [heapsort, bubblesort])
def test_an_oracle_finds_the_best_and_nothing_is_lost(algorithm, worth, branching, k):
    order, asked = sort(algorithm(len(worth), branching, k), best_of(worth))
    assert sorted(order) == list(range(len(worth)))
    assert order[:k] == sorted(range(len(worth)), key=lambda i: -worth[i])[:k]
    assert all(2 <= len(some) <= branching + 1 for some in asked)


@given(count=st.integers(1, 40), branching=st.integers(1, 8), k=st.integers(1, 12), seed=st.integers(0, 10**6))
def test_answers_at_random_lose_nothing(count, branching, k, seed):
    for algorithm in (heapsort, bubblesort):
        rng = Random(seed)
        order, _ = sort(algorithm(count, branching, k), lambda some, rng=rng: rng.randrange(len(some)))
        assert sorted(order) == list(range(count))


def test_the_rest_of_heapsort_keeps_its_order():
    worth = [3, 9, 1, 8, 2, 7]
    assert sort(heapsort(6, 2, 2), best_of(worth))[0] == [1, 3, 0, 2, 4, 5]


def published_heapsort(worth, branching, k):
    """llm-rankers' setwise.py: (order of the best k, questions)."""
    heap, asked = list(range(len(worth))), []

    def heapify(n, i):
        if branching * i + 1 < n:
            places = [i] + list(range(branching * i + 1, min(branching * (i + 1) + 1, n)))
            asked.append([heap[j] for j in places])
            largest = max(places, key=lambda j: worth[heap[j]])
            if largest != i:
                heap[i], heap[largest] = heap[largest], heap[i]
                heapify(n, largest)

    n, ranked = len(heap), 0
    for i in range(n // branching, -1, -1):
        heapify(n, i)
    for i in range(n - 1, 0, -1):
        heap[i], heap[0] = heap[0], heap[i]
        ranked += 1
        if ranked == k:
            break
        heapify(i, 0)
    return list(reversed(heap))[:k], asked


@given(worth=WORTHS, branching=st.integers(1, 20), k=st.integers(1, 12))
def test_the_questions_are_those_of_the_published_heapsort(worth, branching, k):
    order, asked = sort(heapsort(len(worth), branching, k), best_of(worth))
    theirs, questions = published_heapsort(worth, branching, min(k, len(worth)))
    assert asked == questions and order[: len(theirs)] == theirs


def test_heapsort_asks_about_21_questions_for_10_of_100():
    """As published for BM25's lists, whose order is better than chance; a list in random order takes two more."""
    counts = {0.0: [], 1.0: []}
    for share, found in counts.items():
        for seed in range(300):
            rng = Random(seed)
            worth = [share * -i / 30 + rng.gauss(0, 1) for i in range(100)]
            found.append(len(sort(heapsort(100, 19, 10), best_of(worth))[1]))
    assert 20 <= statistics.fmean(counts[1.0]) <= 22 and 22 <= statistics.fmean(counts[0.0]) <= 24


def test_bubblesort_asks_less_where_the_order_is_right():
    right = list(range(100, 0, -1))
    assert len(sort(bubblesort(100, 9, 1), best_of(right))[1]) == 11
    assert len(sort(bubblesort(100, 9, 10), best_of(right))[1]) == 19
    assert len(sort(bubblesort(100, 9, 10), best_of(right[::-1]))[1]) <= 110


def published_windows(worth, window, step):
    """rank_llm's sliding_windows: (order, questions)."""
    order, asked = list(range(len(worth))), []
    rank_start, rank_end = 0, len(order)
    end_pos, start_pos = rank_end, rank_end - window
    while end_pos > rank_start and start_pos + step != rank_start:
        start_pos = max(start_pos, rank_start)
        asked.append(order[start_pos:end_pos])
        order[start_pos:end_pos] = sorted(order[start_pos:end_pos], key=lambda i: -worth[i])
        end_pos = end_pos - step
        start_pos = start_pos - step
    return order, [some for some in asked if len(some) > 1]


@given(worth=WORTHS, window=st.integers(2, 20), data=st.data())
def test_windows_are_the_published_ones(worth, window, data):
    step = data.draw(st.integers(1, window - 1))
    order, asked = sort(sliding(len(worth), window, step), order_of(worth))
    if len(worth) + step != window:  # there the published loop ends before its first window
        assert (order, asked) == published_windows(worth, window, step)
    kept = window - step  # a window hands so many on to the next one
    assert order[:kept] == sorted(range(len(worth)), key=lambda i: -worth[i])[:kept]


def test_passes_carry_more_to_the_front():
    worth = list(range(30))
    best = sorted(range(30), key=lambda i: -worth[i])
    once, twice = (sort(sliding(30, 6, 3, passes), order_of(worth))[0] for passes in (1, 2))
    assert once[:3] == best[:3] and once[:6] != best[:6] and twice[:6] == best[:6]


def test_many_queries_are_asked_together():
    worths = [Random(seed).sample(range(100), 30) for seed in range(5)]
    rounds = []

    def ask(questions):
        rounds.append(len(questions))
        return [best_of(worths[number])(some) for number, some in questions]

    orders = run_in_lockstep([heapsort(30, 4, 5) for _ in worths], ask)
    for worth, order in zip(worths, orders):
        assert order == sort(heapsort(30, 4, 5), best_of(worth))[0]
    alone = [len(sort(heapsort(30, 4, 5), best_of(worth))[1]) for worth in worths]
    assert rounds[0] == 5 and len(rounds) == max(alone) and sum(rounds) == sum(alone)
