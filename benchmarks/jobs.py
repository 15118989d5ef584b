"""Work that several processes share: what is finished is skipped, what another process is at is left to it.

A claim is the operating system's lock on a file beside the result, so it ends with the process that holds it, however
that ends; nothing stale is left behind. It holds among processes of one machine.

    failures = Failures()
    work([Job(folder, is_done, train) for folder in folders], failures)    # the same in as many processes as wanted
    failures.finish()
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import say
from filelock import FileLock, Timeout

from prorank.errors import ProRankError


class Failures:
    """Arms of a benchmark that failed: told when they do, and again at the end, while the others go on."""

    def __init__(self) -> None:
        self.reasons: dict[str, str] = {}

    @contextmanager
    def arm(self, name: object) -> Iterator[None]:
        """Keep what an arm raises from ending the others; Ctrl-C ends all."""
        try:
            yield
        except (Exception, SystemExit) as error:
            if not isinstance(error, (ProRankError, SystemExit)):
                traceback.print_exc()
            last = (str(error).strip().splitlines() or [""])[-1]
            self.reasons[str(name)] = f"{type(error).__name__}: {last}"
            say(f"{name}: failed ({self.reasons[str(name)]}); the others go on")

    def __contains__(self, name: object) -> bool:
        return str(name) in self.reasons

    def finish(self) -> None:
        """Exit with status 1 and one line for each arm that failed, if any did."""
        if self.reasons:
            lines = [f"{len(self.reasons)} failed:", *(f"  {name}: {why}" for name, why in self.reasons.items())]
            print("\n".join(lines), file=sys.stderr)
            raise SystemExit(1)


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


def work(jobs: Iterable[Job], failures: Failures) -> list[Path]:
    """Do in order what is neither done nor claimed; returns what others are still at.

    A job that raises is noted in `failures` and gives its claim back, so the next call goes on with it; the jobs after it are done.
    """
    left = []
    for job in jobs:
        if job.done():
            continue
        with failures.arm(job.path), claimed(job.path) as mine:
            if not mine:
                say(f"{job.path}: another process is at it")
                left.append(job.path)
            elif not job.done():  # another one may have finished it between the look and the claim
                say(f"{job.path}: begins")
                job.do()
    return left
