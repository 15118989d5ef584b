"""Iterating in a thread: the same items in order, errors as themselves, and no thread left behind."""

import threading
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prorank.utils.prefetch import prefetched


def threads() -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread.name == "prorank-prefetch"}


@given(st.lists(st.integers(), max_size=20), st.integers(1, 3))
def test_items_come_in_order_and_the_thread_ends(items, depth):
    assert list(prefetched(iter(items), depth)) == items
    assert not threads()


def test_at_most_depth_items_wait_for_the_caller():
    made, room = [], threading.Semaphore(0)

    def numbers():
        for number in range(9):
            made.append(number)
            room.release()
            yield number

    with closing(prefetched(numbers(), 2)) as items:
        assert next(items) == 0
        for _ in range(4):  # the one that was taken, two that wait, and one that waits for room
            assert room.acquire(timeout=10)
        assert not room.acquire(timeout=0.05) and made == [0, 1, 2, 3]
    assert not threads()


def test_an_error_comes_after_the_items_before_it_and_is_the_same_object():
    error = ValueError("the fourth item")

    def numbers():
        yield from range(3)
        raise error

    got = []
    with pytest.raises(ValueError) as raised:
        for number in prefetched(numbers(), 1):
            got.append(number)
    assert raised.value is error and got == [0, 1, 2] and not threads()


def test_closing_ends_nested_threads_and_closes_their_generators():
    closed = []

    def endless():
        try:
            yield from iter(int, 1)
        finally:
            closed.append("inner")

    def outer():
        try:
            with closing(prefetched(endless(), 2)) as items:
                yield from items
        finally:
            closed.append("outer")

    with pytest.raises(KeyboardInterrupt), closing(prefetched(outer(), 2)) as items:
        for _ in items:
            raise KeyboardInterrupt
    assert not threads() and closed == ["inner", "outer"]
