"""Limits of a server: size of a request, number of concurrent requests, time.

A request over a limit is rejected early: its body while it arrives, its documents before they are tokenised.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields

from ..errors import ConfigError
from ..prompts.truncation import MAX_CHUNKS
from .messages import RequestError


@dataclass(frozen=True)
class Limits:
    """Limits of a server. Each field is an option of `prorank serve`.

    Args:
        max_body_bytes: maximum size of a request's body.
        max_documents: maximum number of documents of a request.
        max_characters: maximum number of characters of a request, query and documents together.
        max_tokens_per_doc: maximum number of tokens of a document, also if a request asks for more; None for the prompt's limit.
        max_chunks: maximum number of chunks of a long document.
        max_requests: maximum number of concurrent requests, including those whose body is still arriving.
        max_queued_documents: maximum number of documents of all concurrent requests.
        max_inflight_bytes: maximum size of the bodies of all concurrent requests.
        request_timeout: maximum number of seconds until the answer.
        max_body_seconds: maximum number of seconds for receiving the body.

    Raises:
        ConfigError: a limit is not above 0.
    """

    max_body_bytes: int = 10_000_000
    max_documents: int = 1000
    max_characters: int = 5_000_000
    max_tokens_per_doc: int | None = None
    max_chunks: int = MAX_CHUNKS
    max_requests: int = 512
    max_queued_documents: int = 20_000
    max_inflight_bytes: int = 256_000_000
    request_timeout: float = 300.0
    max_body_seconds: float = 30.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None and not value > 0:
                raise ConfigError(f"limit {field.name} must be above 0, not {value}")


class Admission:
    """Counts the resources of all concurrent requests. Only the thread of the event loop uses it.

    Attributes:
        requests, documents, bytes: current totals.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits, self.requests, self.documents, self.bytes = limits, 0, 0, 0

    @contextmanager
    def admit(self) -> Iterator["Reservation"]:
        """Admit one request until the block ends. Raises RequestError if there are too many."""
        if self.requests >= self.limits.max_requests:
            raise RequestError("overloaded", f"{self.requests} requests are in progress, which is the limit; try again later")
        reservation = Reservation(self)
        self.requests += 1
        try:
            yield reservation
        finally:
            self.requests -= 1
            self.documents -= reservation.documents
            self.bytes -= reservation.bytes


class Reservation:
    """Resources of one admitted request."""

    def __init__(self, admission: Admission) -> None:
        self.admission, self.documents, self.bytes = admission, 0, 0

    def take_bytes(self, count: int) -> None:
        """Reserve bytes of a body. Raises RequestError if all bodies together are too large."""
        limits = self.admission.limits
        if self.admission.bytes + count > max(limits.max_inflight_bytes, limits.max_body_bytes):
            raise RequestError("overloaded", "the requests in progress have too many bytes; try again later")
        self.bytes += count
        self.admission.bytes += count

    def take_documents(self, count: int) -> None:
        """Reserve documents. Raises RequestError if too many are queued. A single request is always admitted."""
        queued = self.admission.documents
        if queued and queued + count > self.admission.limits.max_queued_documents:
            raise RequestError("overloaded", f"{queued} documents are queued, and {count} more exceed the limit; try again later")
        self.documents += count
        self.admission.documents += count
