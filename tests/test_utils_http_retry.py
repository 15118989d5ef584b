"""The retry loop: when it stops, how long it waits, what it reports."""

import pytest

from prorank.utils import http_retry
from prorank.utils.http_retry import PatienceExhausted, RetryableFailure, RetryPolicy, retry


class Clock:
    """Time that passes only while somebody waits."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(http_retry, "time", clock)
    return clock


def test_the_first_success_is_returned(clock):
    results = iter([RetryableFailure("busy"), RetryableFailure("busy", retry_after=3), "answer"])
    assert retry(lambda: next(results), RetryPolicy(60, 0.5, 8)) == "answer"
    assert clock.now == 0.5 + 3


def test_patience_ends_the_loop_before_the_wait(clock):
    with pytest.raises(PatienceExhausted, match="busy") as caught:
        retry(lambda: RetryableFailure("busy", status=429), RetryPolicy(10, 1, 4))
    assert clock.now == 1 + 2 + 4 and caught.value.failure.status == 429 and not caught.value.server_asked
    with pytest.raises(PatienceExhausted) as caught:
        retry(lambda: RetryableFailure("busy", retry_after=11), RetryPolicy(10, 1, 4))
    assert caught.value.server_asked and clock.now == 7


def test_the_caller_may_wait_itself(clock):
    waits, results = [], iter([RetryableFailure("away"), 1])
    assert (
        retry(lambda: next(results), RetryPolicy(10, 1, 4), lambda seconds, failure: waits.append((seconds, failure.reason))) == 1
    )
    assert waits == [(1, "away")] and clock.now == 0


def test_jitter_shortens_pauses_and_lengthens_what_the_server_asks():
    policy = RetryPolicy(10, 1, 4, jitter=True)
    for _ in range(50):
        assert 0.5 <= policy.wait_seconds(1.0, 0.0) <= 1.0 and 5.0 <= policy.wait_seconds(1.0, 5.0) <= 5.5
