"""Runs a batch and stores its results.

If a batch fails, its requests are run again one by one, so that only the request at fault fails.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import groupby

from ..errors import ProRankError
from .job import RerankJob
from .logs import log_failure
from .messages import RequestError
from .queue import Queue, QueueItem
from .workloads import Workload

Items = Sequence[QueueItem[RerankJob]]


def run_batch(workload: Workload, queue: Queue[RerankJob], items: Items) -> None:
    """Compute the results of a batch, store them in its jobs, queue follow-up items and finish the jobs that are complete."""
    groups = [list(group) for _, group in groupby(items, key=lambda item: id(item.job))]
    begin = time.perf_counter()
    try:
        results = workload.run(list(items))
    except Exception as error:
        if len(groups) > 1:
            for group in groups:
                run_batch(workload, queue, group)
            return
        _fail(queue, items[0].job, error)
        results = []
    for group in groups:
        group[0].job.inference_seconds += time.perf_counter() - begin
    follow_ups = _record(workload, queue, items, results)
    for job in queue.complete(items, follow_ups):
        job.finish(None)


def _record(workload: Workload, queue: Queue[RerankJob], items: Items, results: Sequence) -> list[QueueItem[RerankJob]]:
    """Store results and return the follow-up items. A result that cannot be stored fails its own job only."""
    follow_ups: list[QueueItem[RerankJob]] = []
    for item, result in zip(items, results):
        if not item.job.finished:
            try:
                follow_ups += workload.record(item, result)
            except Exception as error:
                _fail(queue, item.job, error)
    return follow_ups


def _fail(queue: Queue[RerankJob], job: RerankJob, error: Exception) -> None:
    """Finish a job with an error; errors that are not for users are logged and replaced."""
    if not isinstance(error, RequestError):
        log_failure("batch", error)
        if not isinstance(error, ProRankError):
            cause, error = error, RequestError("failed", "the model failed on this request")
            error.__cause__ = cause
    queue.drop(job)
    job.finish(error)
