"""Repeat HTTP requests, with growing pauses, Retry-After and a limit on the total time."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TypeVar

MAX_RETRY_AFTER = 31_536_000.0  # seconds; limits waiting to a year, which no clock overflows
RETRY_AFTER_JITTER = 0.5  # seconds

T = TypeVar("T")


@dataclass(frozen=True)
class RetryableFailure:
    """A failed attempt that may succeed later.

    Attributes:
        reason: the reason, for messages.
        retry_after: seconds to wait that the server requested; 0 if it did not.
        status: HTTP status; None if there was no response.
    """

    reason: str
    retry_after: float = 0.0
    status: int | None = None


@dataclass(frozen=True)
class RetryPolicy:
    """How long to wait between attempts.

    Attributes:
        patience: seconds after which no further attempt starts.
        first_pause: seconds before the second attempt; doubled for each further one.
        longest_pause: maximum pause in seconds.
        jitter: shorten pauses randomly by up to a half, so that many clients do not retry at the same time.
    """

    patience: float
    first_pause: float
    longest_pause: float
    jitter: bool = False

    def wait_seconds(self, pause: float, retry_after: float) -> float:
        """Return the seconds to wait: the pause, or longer if the server requests it."""
        if not self.jitter:
            return max(pause, retry_after)
        return max(pause * random.uniform(0.5, 1.0), retry_after + random.uniform(0, RETRY_AFTER_JITTER) if retry_after else 0.0)


class PatienceExhausted(Exception):
    """No attempt succeeded in time.

    Attributes:
        failure: the last failure.
        server_asked: whether the limit was exceeded because of Retry-After.
    """

    def __init__(self, failure: RetryableFailure, server_asked: bool) -> None:
        super().__init__(failure.reason)
        self.failure, self.server_asked = failure, server_asked


def retry(
    attempt: Callable[[], T | RetryableFailure], policy: RetryPolicy,
    wait: Callable[[float, RetryableFailure], None] | None = None,
) -> T:  # fmt: skip
    """Repeat an attempt until it returns anything but a RetryableFailure, and return that.

    Args:
        attempt: sends the request. Raises if another attempt would fail too.
        policy: how long to wait, and for how long to retry.
        wait: called before each further attempt with the seconds to wait and the failure; sleeps by default.

    Raises:
        PatienceExhausted: waiting for the next attempt would exceed the policy's patience.
    """
    begin = time.monotonic()
    for pause in pauses(policy.first_pause, policy.longest_pause):
        result = attempt()
        if not isinstance(result, RetryableFailure):
            return result
        seconds = policy.wait_seconds(pause, result.retry_after)
        if time.monotonic() - begin + seconds > policy.patience:
            raise PatienceExhausted(result, server_asked=result.retry_after > pause)
        wait(seconds, result) if wait else time.sleep(seconds)
    raise AssertionError("pauses never end")


def pauses(first: float, longest: float) -> Iterator[float]:
    """Yield the seconds between attempts, doubled each time up to `longest`."""
    while True:
        yield first
        first = min(longest, 2 * first)


def retry_after(header: str | None) -> float | None:
    """Parse a Retry-After header.

    Returns:
        Seconds to wait, at most MAX_RETRY_AFTER; None if the header is missing or neither a number nor a date.
    """
    if not header:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            moment = parsedate_to_datetime(header)
            seconds = (moment.replace(tzinfo=moment.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError, IndexError, OverflowError):
            return None
    return min(max(0.0, seconds), MAX_RETRY_AFTER) if seconds == seconds else None  # NaN is not equal to itself
