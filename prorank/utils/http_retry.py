"""The retry loop for HTTP requests: growing pauses, Retry-After, and a limit on the total time."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TypeVar

MAX_RETRY_AFTER = 31_536_000.0  # seconds; no server is waited for longer than a year, and no clock overflows
RETRY_AFTER_JITTER = 0.5  # seconds

T = TypeVar("T")


@dataclass(frozen=True)
class RetryableFailure:
    """An attempt that failed in a way that a later attempt may not.

    Attributes:
        reason: why, for messages.
        retry_after: seconds that the server asks to wait; 0 if it does not.
        status: of the response; None if there was none.
    """

    reason: str
    retry_after: float = 0.0
    status: int | None = None


@dataclass(frozen=True)
class RetryPolicy:
    """How to wait between attempts.

    Attributes:
        patience: seconds after which no further attempt starts.
        first_pause: seconds before the second attempt; doubled for each further one.
        longest_pause: upper bound of the pauses.
        jitter: shorten pauses by a random part up to a half, so that many clients do not return at the same time.
    """

    patience: float
    first_pause: float
    longest_pause: float
    jitter: bool = False

    def wait_seconds(self, pause: float, retry_after: float) -> float:
        """Return the seconds to wait: the pause, or longer if the server asks for it."""
        if not self.jitter:
            return max(pause, retry_after)
        return max(pause * random.uniform(0.5, 1.0), retry_after + random.uniform(0, RETRY_AFTER_JITTER) if retry_after else 0.0)


class PatienceExhausted(Exception):
    """No attempt succeeded in time. `failure`: the last one. `server_asked`: whether Retry-After is what exceeded the time."""

    def __init__(self, failure: RetryableFailure, server_asked: bool) -> None:
        super().__init__(failure.reason)
        self.failure, self.server_asked = failure, server_asked


def retry(
    attempt: Callable[[], T | RetryableFailure], policy: RetryPolicy,
    wait: Callable[[float, RetryableFailure], None] | None = None,
) -> T:  # fmt: skip
    """Repeat an attempt until it returns something else than a RetryableFailure, and return that.

    Args:
        attempt: sends the request. It raises for failures that another attempt would meet as well.
        policy: how long to wait, and how often.
        wait: called before each further attempt with the seconds to wait and the failure; sleeps by default.

    Raises:
        PatienceExhausted: waiting for the next attempt would take longer than the policy allows.
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
    """Yield the seconds between attempts, doubled each time up to `longest`. Servers can only ask for longer waits."""
    while True:
        yield first
        first = min(longest, 2 * first)


def retry_after(header: str | None) -> float | None:
    """Parse a Retry-After header.

    Returns:
        The seconds to wait, at most MAX_RETRY_AFTER; None if the header is missing or neither a number nor a date.
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
    return min(max(0.0, seconds), MAX_RETRY_AFTER) if seconds == seconds else None  # NaN equals nothing
