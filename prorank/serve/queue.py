"""The queue: turns concurrent requests into batches with a token budget.

New requests have priority until they have received one batch worth of tokens. Then they take turns with other long requests. While
both kinds wait, long requests get a quarter of the model's tokens. So a request of ten documents does not wait for one of a
thousand, and short requests cannot starve a long one.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Self, TypeVar

NEW_TO_LONG_RATIO = 3  # tokens of new requests for each token of long ones, while both wait

AnyJob = TypeVar("AnyJob", bound="Job")


@dataclass(eq=False, slots=True)
class QueueItem(Generic[AnyJob]):
    """A unit of work that is never split, usually a prompt.

    Attributes:
        job: the request it belongs to.
        list_index: index of its list in the request.
        position: index of its document in that list.
        tokens: its cost in tokens, without the shared prefix.
        prefix_tokens: tokens of the prefix that it shares with the other items of its list.
        payload: the work itself; only the workload reads it.
    """

    job: AnyJob
    list_index: int
    position: int
    tokens: int
    prefix_tokens: int
    payload: Any


class Job:
    """A request in progress.

    Args:
        finish: called once, from any thread, with None when all items are answered, or with the error.
    """

    def __init__(self, finish: Callable[[Exception | None], None]) -> None:
        self.finish = finish
        self.pending: deque[QueueItem[Self]] = deque()
        self.in_flight = 0  # number of items in a batch that are not answered
        self.expects_more = True  # whether more items will be added
        self.served_tokens = 0
        self.finished = False  # answered, failed or dropped
        self.queued_at = self.started_at = 0.0  # `perf_counter`; 0 before that
        self.inference_seconds = 0.0  # duration of all batches with its items

    def take_items(self, budget: int, at_least_one: bool) -> list[QueueItem[Self]]:
        """Remove and return the first pending items whose tokens fit into `budget`."""
        batch: list[QueueItem[Self]] = []
        while self.pending:
            item = self.pending[0]
            new_list = not batch or batch[-1].list_index != item.list_index
            cost = item.tokens + (item.prefix_tokens if new_list else 0)
            if cost > budget and (batch or not at_least_one):
                break
            budget -= cost
            self.served_tokens += cost
            batch.append(self.pending.popleft())
        self.in_flight += len(batch)
        return batch


class Queue(Generic[AnyJob]):
    """Jobs that wait for the model. Thread-safe.

    Args:
        batch_tokens: token budget of a batch, and number of tokens that a job gets before it counts as long.
    """

    def __init__(self, batch_tokens: int) -> None:
        self.batch_tokens = batch_tokens
        self.changed = threading.Condition()
        self.jobs: set[AnyJob] = set()  # all unfinished jobs
        self.new_jobs: dict[AnyJob, None] = {}  # with pending items, in order of arrival
        self.long_jobs: dict[AnyJob, None] = {}  # with pending items, in order of service
        self.owed_tokens = 0.0  # tokens that long jobs get before new jobs are served again
        self.closed = False
        self.error: Exception | None = None  # set by `fail`: every later job fails with it

    def put(self, job: AnyJob, items: Iterable[QueueItem[AnyJob]], more: bool = False) -> None:
        """Add items of a job.

        Args:
            job: the job.
            items: its items.
            more: whether further items of this job will follow.
        """
        with self.changed:
            if job.finished:
                return
            if self.error:
                job.finished = True
                job.finish(self.error)
                return
            self.jobs.add(job)
            job.queued_at = job.queued_at or time.perf_counter()
            job.pending.extend(items)
            job.expects_more = more
            self._enqueue(job)
            complete = self._close_if_complete(job)
            self.changed.notify()
        if complete:
            job.finish(None)

    def take(self) -> list[QueueItem[AnyJob]]:
        """Wait for the next batch and return it; an empty list once the queue is closed and drained."""
        with self.changed:
            while not (self.new_jobs or self.long_jobs):
                if self.closed:
                    return []
                self.changed.wait()
            return self._make_batch()

    def complete(self, items: Sequence[QueueItem[AnyJob]], follow_ups: Iterable[QueueItem[AnyJob]] = ()) -> list[AnyJob]:
        """Mark a batch as answered and queue its follow-up items.

        Args:
            items: the batch.
            follow_ups: new items.

        Returns:
            The jobs that are complete. The caller finishes them, outside the lock.
        """
        with self.changed:
            jobs = dict.fromkeys(item.job for item in items)
            for item in items:
                item.job.in_flight -= 1
            for item in follow_ups:
                if not item.job.finished:
                    item.job.pending.append(item)
                    self._enqueue(item.job)
            return [job for job in jobs if self._close_if_complete(job)]

    def drop(self, job: AnyJob) -> None:
        """Remove a job; its pending items are not processed."""
        with self.changed:
            job.finished = True
            job.pending.clear()
            self.jobs.discard(job)
            self.new_jobs.pop(job, None)
            self.long_jobs.pop(job, None)

    def fail(self, error: Exception) -> None:
        """Finish all current and future jobs with this error."""
        with self.changed:
            self.error = error
            jobs = list(self.jobs)
        for job in jobs:
            self.drop(job)
            job.finish(error)

    def close(self) -> None:
        """Announce the end of jobs; `take` returns an empty list once the current ones are done."""
        with self.changed:
            self.closed = True
            self.changed.notify_all()

    @property
    def pending_tokens(self) -> int:
        """Tokens of all items that are not yet in a batch."""
        with self.changed:
            return sum(item.tokens for job in (*self.new_jobs, *self.long_jobs) for item in job.pending)

    def _close_if_complete(self, job: AnyJob) -> bool:
        complete = not (job.finished or job.expects_more or job.pending or job.in_flight)
        if complete:
            job.finished = True
            self.jobs.discard(job)
        return complete

    def _enqueue(self, job: AnyJob) -> None:
        if job.pending and job not in self.new_jobs and job not in self.long_jobs:
            (self.new_jobs if job.served_tokens < self.batch_tokens else self.long_jobs)[job] = None

    def _make_batch(self) -> list[QueueItem[AnyJob]]:
        """Return items within the budget: of new jobs first, or of long jobs if tokens are owed to them."""
        long_first = bool(self.long_jobs) and (not self.new_jobs or self.owed_tokens >= self.batch_tokens)
        items: list[QueueItem[AnyJob]] = []
        budget = self._fill(items, self.long_jobs if long_first else self.new_jobs, self.batch_tokens)
        if budget > self.batch_tokens // 2:  # filling it further would only delay the jobs in it
            self._fill(items, self.new_jobs if long_first else self.long_jobs, budget)
        return items

    def _fill(self, items: list[QueueItem[AnyJob]], jobs: dict[AnyJob, None], budget: int) -> int:
        """Append items of these jobs, in order, and return the remaining budget."""
        for job in list(jobs):
            if items and budget < self.batch_tokens // 4:  # splitting a job for a few tokens would process its prefix twice
                break
            before = job.served_tokens
            batch = job.take_items(budget, at_least_one=not items)
            if not batch:
                continue
            items += batch
            job.started_at = job.started_at or time.perf_counter()
            cost = job.served_tokens - before
            budget -= cost
            self._update_debt(cost, jobs is self.long_jobs)
            del jobs[job]
            self._enqueue(job)  # at the end of its queue, if it has pending items
        return budget

    def _update_debt(self, cost: int, served_long: bool) -> None:
        if served_long:
            self.owed_tokens = max(0.0, self.owed_tokens - cost)
        elif self.long_jobs:
            self.owed_tokens = min(2.0 * self.batch_tokens, self.owed_tokens + cost / NEW_TO_LONG_RATIO)
