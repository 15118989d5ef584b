"""A chat endpoint that speaks OpenAI's form: questions from several threads, with patience.

A limit that one thread meets (429 with Retry-After) stops all of them until it is over; a server that goes away and
comes back costs time, not answers.
"""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass
from typing import Any

from ..errors import ConfigError, DataError
from ..utils.http import Connection
from ..utils.http_retry import PatienceExhausted, RetryableFailure, RetryPolicy, retry, retry_after

PASSING = {408, 409, 425, 429, 500, 502, 503, 504}  # statuses that a later try may not meet


@dataclass(frozen=True)
class Reply:
    """A message, the thought that came in a field of its own (or ""), and the tokens it cost."""

    content: str
    thought: str
    prompt_tokens: int
    completion_tokens: int


class Endpoint:
    """Asks `model` at `url` (".../v1", or the whole address of its chat completions).

    Args:
        key: name of the environment variable with the API key, which goes into the requests' header and nowhere else.
        patience: seconds for which one question is tried again while the server is away or refuses for now.
        timeout: seconds for one try.
        more: further fields of each request, such as temperature and max_tokens.

    Raises:
        ConfigError: the address is none.
    """

    def __init__(
        self, url: str, model: str, key: str = "OPENAI_API_KEY", patience: float = 600, timeout: float = 300, **more: Any
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise ConfigError(f"--endpoint {url}: expected an address that begins with http:// or https://")
        self.url = url if url.rstrip("/").endswith("/chat/completions") else url.rstrip("/") + "/chat/completions"
        self.model, self.patience, self.more, self.retries = model, patience, more, 0
        self.connection = Connection(self.url, "--endpoint", os.environ.get(key), timeout)
        self.lock, self.stopped, self.open_at = threading.Lock(), threading.Event(), 0.0

    def complete(self, text: str) -> Reply:
        """The answer to a user's message. Raises DataError where the endpoint refuses it, or stays away for too long."""
        body = {"model": self.model, "messages": [{"role": "user", "content": text}], "stream": False, **self.more}
        try:
            answer = retry(lambda: self._try(body), RetryPolicy(self.patience, 1.0, 60.0, jitter=True), self._wait)
        except PatienceExhausted as error:
            message = f"{self.connection.where}: no answer for {self.patience:.0f} seconds; last: {error.failure.reason}"
            raise DataError(message) from None
        return _reply(answer, self.url)

    def _try(self, body: dict[str, Any]) -> Any:
        """Return the response of one attempt, or a RetryableFailure. Raises DataError for what another attempt would not change."""
        self._wait_until(self.open_at)
        try:
            answer = self.connection.request("POST", json=body)
        except self.connection.failures as error:
            reason = self.connection.explain(error)
            if self.connection.is_permanent(error):
                raise DataError(f"{self.url}: {reason}") from error
            return RetryableFailure(reason)
        status = answer.status_code
        if status == 200:
            return answer
        reason = f"status {status}: {' '.join(answer.text[:200].split())}"
        if status not in PASSING:
            by_proxy = self.connection.refused_by_proxy(status)
            raise DataError(f"{self.connection.where}: {by_proxy or reason + _hint(status)}")
        return RetryableFailure(reason, retry_after(answer.headers.get("retry-after")) or 0.0, status)

    def _wait(self, seconds: float, failure: RetryableFailure) -> None:
        """Wait before the next attempt; a wait that the server asks for holds back all threads."""
        now = time.monotonic()
        with self.lock:
            self.retries += 1
            self.open_at = max(self.open_at, now + failure.retry_after)
        self._wait_until(now + seconds)

    def stop(self) -> None:
        """End all waiting: questions under way may still be answered, none is tried again."""
        self.stopped.set()

    def close(self) -> None:
        self.stop()
        self.connection.close()

    def _wait_until(self, moment: float) -> None:
        if self.stopped.wait(max(0.0, moment - time.monotonic())):
            raise DataError(f"{self.url}: stopped")


def _reply(answer: Any, url: str) -> Reply:
    """The first choice of a response; a form that is not OpenAI's raises DataError."""
    try:
        body = answer.json()
        message, usage = body["choices"][0]["message"], body.get("usage") or {}
        thought = message.get("reasoning_content") or message.get("reasoning") or ""
        counts = (int(usage.get(name) or 0) for name in ("prompt_tokens", "completion_tokens"))
        content = message.get("content") or ""
        if not (isinstance(content, str) and isinstance(thought, str)):
            raise TypeError("the message is no text")
        return Reply(content, thought, *counts)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
        shown = " ".join(answer.text[:200].split())
        raise DataError(f"{url}: the answer is no chat completion ({type(error).__name__}: {error}): {shown}") from error


def _hint(status: int) -> str:
    hints = {401: "; set the key's environment variable", 403: "; the key may not do this", 404: "; is the address right?"}
    return hints.get(status, "")
