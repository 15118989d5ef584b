"""Iterate in a thread of its own, a few items ahead of the caller: the host prepares the next batches while a GPU computes."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item")


def prefetched(items: Iterable[Item], depth: int) -> Generator[Item]:
    """Yield `items`, which are computed in a thread, in their order.

    The thread ends with the iterator: at its end, at an error on either side, and if it is closed. Close it with
    `contextlib.closing`, because an exception that a caller handles keeps an unfinished iterator alive; so does a generator `items`
    with the iterators that it reads.

    Args:
        items: computed in the thread; a generator is closed there.
        depth: maximum number of computed items that wait for the caller.

    Raises:
        Exception: the error of `items` itself, after the items before it.
    """
    buffer: _Buffer[Item] = _Buffer(depth)
    thread = threading.Thread(target=buffer.fill, args=(items,), name="prorank-prefetch", daemon=True)
    thread.start()
    try:
        yield from buffer.drain()
    finally:
        buffer.stop()
        thread.join()


class _Buffer(Generic[Item]):
    """Items that wait for the caller, with the end or the error after the last of them."""

    def __init__(self, depth: int) -> None:
        self.depth, self.waiting = depth, deque[Item]()
        self.changed = threading.Condition()
        self.finished = self.stopped = False
        self.error: BaseException | None = None

    def fill(self, items: Iterable[Item]) -> None:
        """Compute the items until their end, an error or `stop`; runs in the thread."""
        try:
            iterator = iter(items)
            try:
                for item in iterator:
                    if not self._put(item):
                        break
            finally:
                if close := getattr(iterator, "close", None):
                    close()
        except BaseException as error:  # raised again by `drain`
            self.error = error
        with self.changed:
            self.finished = True
            self.changed.notify_all()

    def _put(self, item: Item) -> bool:
        """Add an item as soon as there is room. Returns False after `stop`."""
        with self.changed:
            self.changed.wait_for(lambda: self.stopped or len(self.waiting) < self.depth)
            self.waiting.append(item)
            self.changed.notify_all()
            return not self.stopped

    def drain(self) -> Iterator[Item]:
        """Yield the items until their end, then raise the error if there was one; runs in the caller's thread."""
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self.waiting or self.finished)
                if not self.waiting:
                    break
                item = self.waiting.popleft()
                self.changed.notify_all()
            yield item
        if self.error is not None:
            raise self.error

    def stop(self) -> None:
        """Let the thread end after the item that it computes."""
        with self.changed:
            self.stopped = True
            self.changed.notify_all()
