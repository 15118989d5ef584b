"""Client of an OpenAI-compatible chat endpoint, used by several threads at once, with retries.

If the server limits the rate (429 with Retry-After), all threads wait. If it is unreachable for a while, requests are repeated.
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

PASSING = {408, 409, 425, 429, 500, 502, 503, 504}  # statuses after which another attempt may succeed


@dataclass(frozen=True)
class Reply:
    """A message of the model.

    Attributes:
        content: its text.
        thought: its thought from a separate field, "" if there is none.
        prompt_tokens, completion_tokens: numbers of tokens used.
    """

    content: str
    thought: str
    prompt_tokens: int
    completion_tokens: int


class Endpoint:
    """Client of one model at a chat endpoint.

    Args:
        url: base address (".../v1") or full address of the chat completions endpoint.
        model: name of the model.
        key: name of the environment variable with the API key. The key is only sent in the request header.
        patience: seconds for which a request is repeated while the server is unreachable or overloaded.
        timeout: seconds for one attempt.
        **more: further fields of each request, such as temperature and max_tokens.

    Raises:
        ConfigError: the address is invalid.
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
        """Return the reply to one user message.

        Raises:
            DataError: the endpoint rejects the request, or does not answer within `patience` seconds.
        """
        body = {"model": self.model, "messages": [{"role": "user", "content": text}], "stream": False, **self.more}
        try:
            answer = retry(lambda: self._try(body), RetryPolicy(self.patience, 1.0, 60.0, jitter=True), self._wait)
        except PatienceExhausted as error:
            message = f"{self.connection.where}: no answer for {self.patience:.0f} seconds; last: {error.failure.reason}"
            raise DataError(message) from None
        return _reply(answer, self.url)

    def _try(self, body: dict[str, Any]) -> Any:
        """Return the response of one attempt, or a RetryableFailure. Raises DataError if another attempt would fail too."""
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
        """Wait before the next attempt. A wait that the server requests (Retry-After) applies to all threads."""
        now = time.monotonic()
        with self.lock:
            self.retries += 1
            self.open_at = max(self.open_at, now + failure.retry_after)
        self._wait_until(now + seconds)

    def stop(self) -> None:
        """Stop all waiting and retrying. Requests in flight may still be answered."""
        self.stopped.set()

    def close(self) -> None:
        """Stop, and close the connections."""
        self.stop()
        self.connection.close()

    def _wait_until(self, moment: float) -> None:
        if self.stopped.wait(max(0.0, moment - time.monotonic())):
            raise DataError(f"{self.url}: stopped")


def _reply(answer: Any, url: str) -> Reply:
    """Parse the first choice of a response. Raises DataError if it is not a chat completion."""
    try:
        body = answer.json()
        message, usage = body["choices"][0]["message"], body.get("usage") or {}
        thought = message.get("reasoning_content") or message.get("reasoning") or ""
        counts = (int(usage.get(name) or 0) for name in ("prompt_tokens", "completion_tokens"))
        content = message.get("content") or ""
        if not (isinstance(content, str) and isinstance(thought, str)):
            raise TypeError("the message is not text")
        return Reply(content, thought, *counts)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
        shown = " ".join(answer.text[:200].split())
        raise DataError(f"{url}: the response is not a chat completion ({type(error).__name__}: {error}): {shown}") from error


def _hint(status: int) -> str:
    hints = {401: "; set the key's environment variable", 403: "; the key lacks the permission", 404: "; is the address correct?"}
    return hints.get(status, "")
