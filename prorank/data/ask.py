"""A chat endpoint that speaks OpenAI's form: questions from several threads, with patience.

Hard fact: a limit that one thread meets (429 with Retry-After) stops all of them until it is over; a server that goes away and
comes back costs time, not answers.
"""

from __future__ import annotations

import os
import random
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from itertools import count
from typing import Any

from ..errors import ConfigError, DataError, extra

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
        with extra("client"):
            import httpx2 as httpx
        if not url.startswith(("http://", "https://")):
            raise ConfigError(f"--endpoint {url}: expected an address that begins with http:// or https://")
        self.url = url if url.rstrip("/").endswith("/chat/completions") else url.rstrip("/") + "/chat/completions"
        self.model, self.patience, self.more, self.retries = model, patience, more, 0
        secret = os.environ.get(key)
        headers = {"Authorization": f"Bearer {secret}"} if secret else {}
        self.client = httpx.Client(timeout=timeout, headers=headers, limits=httpx.Limits(max_connections=None))
        self.away = httpx.TransportError
        self.lock, self.stopped, self.open_at = threading.Lock(), threading.Event(), 0.0

    def ask(self, text: str) -> Reply:
        """The answer to a user's message. Raises DataError where the endpoint refuses it, or stays away for too long."""
        body = {"model": self.model, "messages": [{"role": "user", "content": text}], "stream": False, **self.more}
        begin = time.monotonic()
        for attempt in count():
            self._wait_until(self.open_at)
            wait = min(60.0, 2.0 ** min(attempt, 6)) * random.uniform(0.5, 1.0)
            try:
                answer = self.client.post(self.url, json=body)
            except self.away as error:
                reason = f"{type(error).__name__}: {error}"
            else:
                if answer.status_code == 200:
                    return _reply(answer, self.url)
                reason = f"status {answer.status_code}: {answer.text[:200]}"
                if answer.status_code not in PASSING:
                    raise DataError(f"{self.url}: {reason}{_hint(answer.status_code)}")
                asked = retry_after(answer.headers.get("retry-after"))
                if asked is not None:
                    wait = asked + random.uniform(0, 0.5)
                    self.open_at = max(self.open_at, time.monotonic() + asked)
            if time.monotonic() - begin + wait > self.patience:
                raise DataError(f"{self.url}: no answer for {self.patience:.0f} seconds; last: {reason}")
            with self.lock:
                self.retries += 1
            self._wait_until(time.monotonic() + wait)

    def stop(self) -> None:
        """End all waiting: questions under way may still be answered, none is tried again."""
        self.stopped.set()

    def close(self) -> None:
        self.stop()
        self.client.close()

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
        return Reply(message.get("content") or "", thought, *counts)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise DataError(
            f"{url}: the answer is no chat completion ({type(error).__name__}: {error}): {answer.text[:200]}"
        ) from error


def retry_after(text: str | None) -> float | None:
    """Seconds that a Retry-After header asks for: a number, or a date."""
    if not text:
        return None
    try:
        return max(0.0, float(text))
    except ValueError:
        pass
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())


def _hint(status: int) -> str:
    hints = {401: "; set the key's environment variable", 403: "; the key may not do this", 404: "; is the address right?"}
    return hints.get(status, "")
