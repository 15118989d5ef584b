"""Work that several processes share: what is finished is skipped, what another process is at is left to it.

Hard fact: a claim is the operating system's lock on a file beside the result, so it ends with the process that holds it, however
that ends; nothing stale is left behind. It holds among processes of one machine.

    work([Job(folder, is_done, train) for folder in folders])    # the same in as many processes as wanted
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import say
from filelock import FileLock, Timeout


@dataclass(frozen=True)
class Job:
    """Something to make at `path`: `done()` says whether it is there, `do()` makes it or goes on with it."""

    path: Path
    done: Callable[[], bool]
    do: Callable[[], Any]


@contextmanager
def claimed(path: Path, wait: bool = False) -> Iterator[bool]:
    """Hold the claim on `path`; yields whether it could be had. With `wait` it is waited for."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    try:
        lock.acquire(timeout=-1 if wait else 0)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def work(jobs: Iterable[Job]) -> list[Path]:
    """Do in order what is neither done nor claimed; returns what others are still at.

    A job that raises ends the call and gives its claim back, so the next call goes on with it.
    """
    left = []
    for job in jobs:
        if job.done():
            continue
        with claimed(job.path) as mine:
            if not mine:
                say(f"{job.path}: another process is at it")
                left.append(job.path)
            elif not job.done():  # another one may have finished it between the look and the claim
                say(f"{job.path}: begins")
                job.do()
    return left
