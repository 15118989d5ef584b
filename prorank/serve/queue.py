"""The queue: requests in, batches out, by a budget of tokens.

A request is served first until it has had a batch's worth; from then on it takes turns with the other long ones, and
they keep a quarter of the model whatever else comes. So ten documents do not wait for a thousand, nor a thousand for ever for tens.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Self, TypeVar

SHARE = 3  # tokens of new requests for each token of long ones, while both wait

AnyJob = TypeVar("AnyJob", bound="Job")


@dataclass(eq=False, slots=True)
class QueueItem(Generic[AnyJob]):
    """A piece of work that is not split: a prompt. `number`, `place`: of the list and the document it is about; `tokens`: what it
    costs behind the `prefix` that it shares with others of its list; `what`: the work itself."""

    job: AnyJob
    number: int
    place: int
    tokens: int
    prefix: int
    what: Any


class Job:
    """A request at work. `finish(error)` is called once, from any thread: None says that all its units are answered."""

    def __init__(self, finish: Callable[[Exception | None], None]) -> None:
        self.finish = finish
        self.pending: deque[QueueItem[Self]] = deque()
        self.flying = 0  # units taken and not answered
        self.more = True  # units are still to come
        self.served = 0  # tokens
        self.over = False  # finished, failed or dropped
        self.put_at = self.taken_at = 0.0
        self.inference = 0.0  # seconds of the batches it was part of

    def slice(self, room: int, at_least_one: bool) -> list[QueueItem[Self]]:
        """Take units whose tokens fit into `room`."""
        some: list[QueueItem[Self]] = []
        while self.pending:
            unit = self.pending[0]
            cost = unit.tokens + (unit.prefix if not some or some[-1].number != unit.number else 0)
            if cost > room and not (at_least_one and not some):
                break
            room -= cost
            self.served += cost
            some.append(self.pending.popleft())
        self.flying += len(some)
        return some


class Queue(Generic[AnyJob]):
    """Jobs that wait for the model; safe between threads.

    Args:
        budget: tokens of a batch, and what a job is served first.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.changed = threading.Condition()
        self.jobs: set[AnyJob] = set()  # all that are at work
        self.new: dict[AnyJob, None] = {}  # that have units to take, in order of arrival
        self.long: dict[AnyJob, None] = {}  # in order of their turns
        self.owed = 0.0  # tokens that the long jobs have to get before new ones are served again
        self.closed = False
        self.error: Exception | None = None  # with which jobs end from now on

    def put(self, job: AnyJob, units: Iterable[QueueItem[AnyJob]], more: bool = False) -> None:
        """Add units of a job; `more` says that there will be others."""
        with self.changed:
            if job.over:
                return
            if self.error:
                job.over = True
                job.finish(self.error)
                return
            self.jobs.add(job)
            job.put_at = job.put_at or time.perf_counter()
            job.pending.extend(units)
            job.more = more
            self._seat(job)
            done = self._done(job)
            self.changed.notify()
        if done:
            job.finish(None)

    def take(self) -> list[QueueItem[AnyJob]]:
        """The next batch; waits for one. Empty once the queue is closed and nothing is left."""
        with self.changed:
            while not (self.new or self.long):
                if self.closed:
                    return []
                self.changed.wait()
            return self._batch()

    def answered(self, units: Sequence[QueueItem[AnyJob]], following: Iterable[QueueItem[AnyJob]] = ()) -> list[AnyJob]:
        """These units are done, and `following` come from them. Returns the jobs that this ends; the caller finishes them."""
        with self.changed:
            jobs = dict.fromkeys(unit.job for unit in units)
            for unit in units:
                unit.job.flying -= 1
            for unit in following:
                if not unit.job.over:
                    unit.job.pending.append(unit)
                    self._seat(unit.job)
            return [job for job in jobs if self._done(job)]

    def drop(self, job: AnyJob) -> None:
        """Forget a job: what waits of it is not done any more."""
        with self.changed:
            job.over = True
            job.pending.clear()
            self.jobs.discard(job)
            self.new.pop(job, None)
            self.long.pop(job, None)

    def fail(self, error: Exception) -> None:
        """Finish all jobs that wait, and all that come, with this error."""
        with self.changed:
            self.error = error
            jobs = list(self.jobs)
        for job in jobs:
            self.drop(job)
            job.finish(error)

    def close(self) -> None:
        """No more jobs come; `take` ends when those there are done."""
        with self.changed:
            self.closed = True
            self.changed.notify_all()

    @property
    def tokens(self) -> int:
        """That wait to be taken."""
        with self.changed:
            return sum(unit.tokens for job in (*self.new, *self.long) for unit in job.pending)

    def _done(self, job: AnyJob) -> bool:
        done = not (job.over or job.more or job.pending or job.flying)
        if done:
            job.over = True
            self.jobs.discard(job)
        return done

    def _seat(self, job: AnyJob) -> None:
        if job.pending and job not in self.new and job not in self.long:
            (self.new if job.served < self.budget else self.long)[job] = None

    def _batch(self) -> list[QueueItem[AnyJob]]:
        """Units within the budget: of new jobs first, or of long ones where they are owed; few are joined by others."""
        turn = bool(self.long) and (not self.new or self.owed >= self.budget)
        units: list[QueueItem[AnyJob]] = []
        room = self._fill(units, self.long if turn else self.new, self.budget)
        if room > self.budget // 2:  # in a longer batch those in it would wait for others and nothing be gained
            self._fill(units, self.new if turn else self.long, room)
        return units

    def _fill(self, units: list[QueueItem[AnyJob]], jobs: dict[AnyJob, None], room: int) -> int:
        """Add units of these jobs in their order; the room that is left."""
        for job in list(jobs):
            if units and room < self.budget // 4:  # a job that is split for little reads its prefix again
                break
            before = job.served
            units += (some := job.slice(room, at_least_one=not units))
            if not some:
                continue
            job.taken_at = job.taken_at or time.perf_counter()
            room -= job.served - before
            self._account(job.served - before, jobs is self.long)
            del jobs[job]
            self._seat(job)  # at the end of its row, if anything is left of it
        return room

    def _account(self, cost: int, of_long: bool) -> None:
        if of_long:
            self.owed = max(0.0, self.owed - cost)
        elif self.long:
            self.owed = min(2.0 * self.budget, self.owed + cost / SHARE)
