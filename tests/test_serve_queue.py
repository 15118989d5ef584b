"""The queue: nothing lost, nothing twice, budgets kept, nobody starved.

Time is counted in batches here, so the order of service is exact.
"""

import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prorank.serve.queue import Job, Queue, QueueItem

BUDGET = 100


def job_of(queue: Queue, count: int, tokens: int = 10, prefix: int = 4) -> Job:
    """A job of so many items, in the queue; `done` collects how it ended."""
    done: list = []
    job = Job(done.append)
    job.done = done
    queue.put(job, [QueueItem(job, 0, i, tokens, prefix, i) for i in range(count)])
    return job


def cost(items: list[QueueItem]) -> int:
    return sum(item.tokens for item in items) + sum(job.prefix_tokens for job in {item.job: item for item in items}.values())


def serve(queue: Queue) -> list[QueueItem]:
    items = queue.take()
    for job in queue.complete(items):
        job.finish(None)
    return items


@settings(max_examples=60)
@given(jobs=st.lists(st.tuples(st.integers(0, 40), st.integers(1, 150), st.integers(0, 30)), max_size=8))
def test_every_unit_comes_once_within_the_budget(jobs):
    queue = Queue(BUDGET)
    made = [job_of(queue, *each) for each in jobs]
    queue.close()
    seen = []
    while items := serve(queue):
        assert cost(items) <= BUDGET or len(items) == 1
        seen += [(item.job, item.position) for item in items]
    assert sorted(seen, key=str) == sorted(((job, i) for job, (count, *_) in zip(made, jobs) for i in range(count)), key=str)
    assert all(job.done == [None] for job in made) and not queue.jobs and queue.pending_tokens == 0


def test_a_short_request_does_not_wait_for_long_ones():
    queue = Queue(BUDGET)
    long = [job_of(queue, 1000), job_of(queue, 1000)]
    for _ in range(6):
        serve(queue)
    short = job_of(queue, 8)
    items = serve(queue)
    assert {item.job for item in items} == {short} and short.done == [None]  # in the next batch, which nobody else makes longer
    assert {item.job for item in (*serve(queue), *serve(queue))} == set(long)  # which take turns


def test_long_requests_get_a_quarter_during_a_stream_of_short_ones():
    queue = Queue(BUDGET)
    long, batches, served = job_of(queue, 1000), 0, 0
    serve(queue), serve(queue)
    while batches < 60:
        for _ in range(3):  # more than can be served
            job_of(queue, 9)
        items = serve(queue)
        batches, served = batches + 1, served + any(item.job is long for item in items)
    assert 60 / 4 - 2 <= served <= 60 / 4 + 2


def test_short_requests_share_a_batch_and_a_small_one_is_filled_up():
    queue = Queue(BUDGET)
    first, second = job_of(queue, 2), job_of(queue, 2)
    assert {item.job for item in queue.take()} == {first, second}
    long = job_of(queue, 1000)
    queue.take(), queue.take()
    few = job_of(queue, 1)
    assert [item.job for item in queue.take()].count(long) == 8 and few.in_flight == 1  # 14 for few, 84 for long


def test_follow_up_items_and_later_items():
    queue = Queue(BUDGET)
    job = job_of(queue, 1)
    (item,) = queue.take()
    assert queue.complete([item], [QueueItem(job, 0, 1, 1, 0, None)]) == [] and job.done == []
    queue.put(job, [], more=True)
    (item,) = queue.take()
    assert queue.complete([item]) == []  # more is to come
    queue.put(job, [])
    assert job.done == [None]


def test_a_dropped_job_is_not_served_and_never_finishes():
    queue = Queue(BUDGET)
    job, other = job_of(queue, 50), job_of(queue, 3)
    items = queue.take()
    queue.drop(job)
    queue.put(job, [QueueItem(job, 0, 99, 1, 0, None)])
    assert queue.complete(items) == [] and {item.job for item in queue.take()} == {other}
    assert job.done == [] and job not in queue.jobs


def test_a_failure_ends_all_current_and_future_jobs():
    queue, error = Queue(BUDGET), ValueError("gone")
    waiting, flying = job_of(queue, 50), job_of(queue, 2)
    queue.take(), queue.take()
    queue.fail(error)
    late = job_of(queue, 1)
    assert [job.done for job in (waiting, flying, late)] == [[error]] * 3


@pytest.mark.timeout(30)
def test_take_waits_for_work_and_ends_when_closed():
    queue, taken = Queue(BUDGET), []
    thread = threading.Thread(target=lambda: taken.extend(iter(queue.take, [])))
    thread.start()
    jobs = [job_of(queue, 3) for _ in range(5)]
    queue.close()
    thread.join(20)
    assert not thread.is_alive() and sum(map(len, taken)) == 15 and len({item.job for some in taken for item in some}) == len(jobs)


def test_jobs_come_from_many_threads():
    queue, made = Queue(BUDGET), []
    threads = [threading.Thread(target=lambda: made.extend(job_of(queue, 7) for _ in range(20))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    queue.close()
    while serve(queue):
        pass
    assert len(made) == 160 and all(job.done == [None] for job in made)
