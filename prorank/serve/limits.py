"""What a server takes: sizes of requests, how many at once, for how long.

What is over a bound is refused before it costs anything: bodies while they arrive, documents before they are tokenised.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields

from ..errors import ConfigError
from .messages import RequestError


@dataclass(frozen=True)
class Limits:
    """Bounds of a server.

    Args:
        body_bytes: of one request's body.
        documents: of one request.
        characters: of one request, query and documents together.
        tokens_per_doc: of each document, whatever a request asks for; None leaves it to the prompt.
        chunks: prompts that one long document may take.
        requests: at work at once, those whose bodies still arrive included.
        waiting: documents of all requests at work.
        held_bytes: bodies of all requests at work.
        seconds: until a request has to be answered.
        body_seconds: until its body has to be there.

    Raises:
        ConfigError: a bound that is not above 0.
    """

    body_bytes: int = 10_000_000
    documents: int = 1000
    characters: int = 5_000_000
    tokens_per_doc: int | None = None
    chunks: int = 16
    requests: int = 512
    waiting: int = 20_000
    held_bytes: int = 256_000_000
    seconds: float = 300.0
    body_seconds: float = 30.0

    def __post_init__(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            if value is not None and not value > 0:
                raise ConfigError(f"limit {f.name} must be above 0, not {value}")


class Admission:
    """What the requests at work take up together; used by the event loop's thread alone."""

    def __init__(self, limits: Limits) -> None:
        self.limits, self.requests, self.documents, self.bytes = limits, 0, 0, 0

    @contextmanager
    def request(self) -> Iterator["Reservation"]:
        """A place for one more request. Raises Refused where there is none."""
        if self.requests >= self.limits.requests:
            raise RequestError("overloaded", f"{self.requests} requests are at work, and no more are taken; try again later")
        held = Reservation(self)
        self.requests += 1
        try:
            yield held
        finally:
            self.requests -= 1
            self.documents -= held.documents
            self.bytes -= held.bytes


class Reservation:
    """What one request takes up."""

    def __init__(self, room: Admission) -> None:
        self.room, self.documents, self.bytes = room, 0, 0

    def take_bytes(self, count: int) -> None:
        """Raises Refused where the bodies at work are too many."""
        if self.room.bytes + count > max(self.room.limits.held_bytes, self.room.limits.body_bytes):
            raise RequestError("overloaded", "too many large requests are at work; try again later")
        self.bytes += count
        self.room.bytes += count

    def take_documents(self, count: int) -> None:
        """Raises Refused where too many documents wait. A request alone is always taken."""
        waiting = self.room.documents
        if waiting and waiting + count > self.room.limits.waiting:
            raise RequestError("overloaded", f"{waiting} documents are waiting, and {count} more are too many; try again later")
        self.documents += count
        self.room.documents += count
