"""Back ends of bulk work: where the items of a job run.

`bulk_job` is the same for both: this process, or workers on a Ray cluster (`ray_backend`). Both take the same callables, which are
pickled for Ray, and items and results that are values of JSON.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, Self

Work = Callable[[Any], Any]  # an item -> its result


class Backend(Protocol):
    """Runs work on items, as a context manager."""

    @property
    def threads(self) -> int | None:
        """Compute threads of a worker; None for PyTorch's own number."""

    def __enter__(self) -> Self:
        """Start workers."""

    def __exit__(self, *error: object) -> None:
        """Stop workers."""

    def device(self, requested: str | None) -> str | None:
        """Return the device of a worker's model, if `requested` is None; else `requested`."""

    def call(self, work: Callable[[], Any]) -> Any:
        """Return work() of one worker."""

    def run(self, work: Work, items: Sequence[Any]) -> Iterator[Any]:
        """Yield work(item) of every item, as results arrive. Raises the first ProRankError of a worker."""


class LocalBackend:
    """Runs everything in this process, with all threads that PyTorch uses."""

    threads: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def device(self, requested: str | None) -> str | None:
        """See `Backend`; None lets the Reranker choose."""
        return requested

    def call(self, work: Callable[[], Any]) -> Any:
        """See `Backend`."""
        return work()

    def run(self, work: Work, items: Sequence[Any]) -> Iterator[Any]:
        """See `Backend`. Results are in the order of the items."""
        return map(work, items)
