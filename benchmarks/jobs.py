"""A queue of benchmark jobs that several processes of one machine can share.

Finished jobs are skipped; jobs that another process has claimed are left to it. A claim is an operating system lock on a
file next to the result. It is released when its process ends, so there are no stale claims. A job that fails does not stop the
others; `Failures.finish` reports all failures and exits with code 1.

    failures = Failures()
    work([Job(folder, is_done, train) for folder in folders], failures)    # in any number of processes
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

from filelock import FileLock, Timeout

from benchmarks.common import say
from prorank.errors import ProRankError


class Failures:
    """The arms of a benchmark that failed. Each is reported when it fails and again by `finish`."""

    def __init__(self) -> None:
        self.reasons: dict[str, str] = {}

    @contextmanager
    def arm(self, name: object) -> Iterator[None]:
        """Catch and record errors in the body, so that the other arms continue. Ctrl-C is not caught."""
        try:
            yield
        except (Exception, SystemExit) as error:
            if not isinstance(error, (ProRankError, SystemExit)):
                traceback.print_exc()
            last = (str(error).strip().splitlines() or [""])[-1]
            self.reasons[str(name)] = f"{type(error).__name__}: {last}"
            say(f"{name}: failed ({self.reasons[str(name)]}); the others continue")

    def __contains__(self, name: object) -> bool:
        return str(name) in self.reasons

    def finish(self) -> None:
        """Exit with code 1 and one line for each arm that failed; do nothing if none did."""
        if self.reasons:
            lines = [f"{len(self.reasons)} failed:", *(f"  {name}: {why}" for name, why in self.reasons.items())]
            print("\n".join(lines), file=sys.stderr)
            raise SystemExit(1)


@dataclass(frozen=True)
class Job:
    """One result to make at `path`.

    Attributes:
        path: the result; the lock file is next to it.
        done: returns whether the result is complete.
        do: makes the result, or resumes it.
    """

    path: Path
    done: Callable[[], bool]
    do: Callable[[], Any]


@contextmanager
def claimed(path: Path, wait: bool = False) -> Iterator[bool]:
    """Claim `path` for the body. Yields False if another process holds the claim; `wait=True` waits for it instead."""
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
    """Run, in order, the jobs that are neither done nor claimed by another process.

    Args:
        jobs: the queue.
        failures: records the jobs that raise. A failed job releases its claim, so the next call retries it.

    Returns:
        Paths of the jobs that other processes are still working on.
    """
    left = []
    for job in jobs:
        if job.done():
            continue
        with failures.arm(job.path), claimed(job.path) as is_ours:
            if not is_ours:
                say(f"{job.path}: another process is working on it")
                left.append(job.path)
            elif not job.done():  # another process may have finished it in the meantime
                say(f"{job.path}: begins")
                job.do()
    return left
