"""Requests to a rerank server: retries while it is busy, and typed errors for its refusals."""

from __future__ import annotations

from typing import Any

from ..errors import KeyRefused, ServerAway, ServerError, ServerFailed, TooBusy, TooLarge
from ..utils.http import Connection
from ..utils.http_retry import PatienceExhausted, RetryableFailure, RetryPolicy, retry, retry_after

BUSY_STATUSES = (429, 503)
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 8.0  # seconds


class ServerConnection:
    """A connection to a rerank server.

    Args:
        url: address of the server.
        key: sent as `Authorization: Bearer`; None for no key.
        patience: seconds for which a request is repeated while the server is busy.
        timeout: seconds for one answer.

    Raises:
        ConfigError: see `Connection`.
    """

    def __init__(self, url: str, key: str | None, patience: float, timeout: float) -> None:
        self.url, self.patience = url, patience
        self.connection = Connection(url, "--server", key, timeout)

    def send(self, method: str, path: str, **options: Any) -> Any:
        """Send a request and return the response with any status. It is repeated while the server is busy.

        Raises:
            ServerAway: no answer came.
            TooBusy: the server stays busy for longer than `patience`.
        """
        try:
            return retry(lambda: self._attempt(method, path, options), RetryPolicy(self.patience, FIRST_PAUSE, LONGEST_PAUSE))
        except PatienceExhausted as error:
            failure = error.failure
            seconds = f"for {failure.retry_after:.0f} seconds more" if error.server_asked else f"after {self.patience:.0f} seconds"
            message = f"{self.connection.where}: busy {seconds} ({failure.reason}); try again later"
            raise TooBusy(message, failure.status) from None

    def _attempt(self, method: str, path: str, options: dict[str, Any]) -> Any:
        try:
            response = self.connection.request(method, path, **options)
        except self.connection.failures as error:
            raise ServerAway(f"{self.url}: no answer: {self.connection.explain(error)}") from error
        status = response.status_code
        if status not in BUSY_STATUSES:
            return response
        return RetryableFailure(f"status {status}", retry_after(response.headers.get("retry-after")) or 0.0, status)

    def get_object(self, path: str) -> dict[str, Any]:
        """Return the JSON object at a path; an empty one if there is none. Raises ServerError if the server wants a key."""
        response = self.send("GET", path)
        if response.status_code in (401, 403):
            self.refuse(response)
        try:
            value = response.json() if response.status_code == 200 else {}
        except (ValueError, RecursionError):
            value = {}
        return value if isinstance(value, dict) else {}

    def refuse(self, response: Any, dialect: str = "") -> None:
        """Raise the error for a response that is not 200.

        Args:
            dialect: name of the request's dialect, for the message.

        Raises:
            KeyRefused, TooLarge, ServerFailed, ServerError: by status.
        """
        status, where = response.status_code, self.connection.where
        text = " ".join(response.text[:200].split())
        if by_proxy := self.connection.refused_by_proxy(status):
            raise ServerError(f"{self.url}: {by_proxy}", status)
        if status in (401, 403):
            raise KeyRefused(f"{where}: the API key is missing or wrong (status {status}); give --api-key-env NAME", status)
        if status == 413:
            raise TooLarge(f"{where}: the request is too large (413): {text}; give fewer or shorter documents", status)
        if status >= 500 or status == 424:
            raise ServerFailed(f"{where}: the server failed (status {status}): {text}", status)
        raise ServerError(f"{where}: status {status} in the dialect {dialect}: {text}", status)

    def close(self) -> None:
        """Close all connections."""
        self.connection.close()
