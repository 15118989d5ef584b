"""A queue of benchmark jobs that several processes of one machine can share.

Finished jobs are skipped; a job that another process has claimed is left to it. A claim is an operating system lock on a
file beside the result: it is released when the process that holds it ends, so no stale claim is left behind. A job that
fails does not stop the others; `Failures.finish` reports all failures and exits with code 1.

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

from filelock import FileLock, Timeout

from benchmarks.common import say
from prorank.errors import ProRankError


class Failures:
    """The arms of a benchmark that failed. Each is reported when it fails and again by `finish`."""

    def __init__(self) -> None:
        self.reasons: dict[str, str] = {}

    @contextmanager
    def arm(self, name: object) -> Iterator[None]:
        """Catch and record what the body raises, so that the other arms go on. Ctrl-C is not caught."""
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
        """Exit with code 1 and one line for each arm that failed; do nothing if none did."""
        if self.reasons:
            lines = [f"{len(self.reasons)} failed:", *(f"  {name}: {why}" for name, why in self.reasons.items())]
            print("\n".join(lines), file=sys.stderr)
            raise SystemExit(1)


@dataclass(frozen=True)
class Job:
    """One result to make at `path`.

    Attributes:
        path: the result; the lock file lies beside it.
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
                say(f"{job.path}: another process is at it")
                left.append(job.path)
            elif not job.done():  # another one may have finished it between the look and the claim
                say(f"{job.path}: begins")
                job.do()
    return left
