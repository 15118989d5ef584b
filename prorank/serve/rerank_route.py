"""The path of a rerank request: check the key, parse the body, score the documents, write the answer, count and log."""

from __future__ import annotations

import asyncio
import math
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from fastapi import Request, Response
from pydantic import BaseModel
from starlette.requests import ClientDisconnect

from . import parsing
from .dialects import Dialect, vllm
from .limits import Reservation
from .logs import log_event, log_failure
from .messages import Answer, RequestError
from .responses import answer_headers, error_response, json_response
from .service import Service

CLIENT_CLOSED = 499  # nginx's status for a client that disconnected; only logged


@dataclass
class Exchange:
    """A request in progress.

    Attributes:
        request: the request.
        dialect: the dialect of the answer; final once the body is parsed.
        begin: time of arrival (`perf_counter`).
        id: a new id.
        log_fields: fields of its log line.
    """

    request: Request
    dialect: Dialect
    begin: float = field(default_factory=time.perf_counter)
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    log_fields: dict[str, Any] = field(default_factory=dict)


class RerankRoute:
    """Answers the requests of one path.

    Args:
        service: scores the documents.
        dialects: the dialects of the path; a request uses the first that matches its fields.
        check_key: raises RequestError for a request without the key.
        names: names of the model that requests may use.
    """

    def __init__(
        self, service: Service, dialects: Sequence[Dialect], check_key: Callable[[Request], None], names: set[str]
    ) -> None:
        self.service, self.dialects, self.check_key, self.names = service, dialects, check_key, names

    async def respond(self, request: Request) -> Response:
        """Answer a request, or reject it in its dialect. Requests are counted and logged."""
        exchange = Exchange(request, self.dialects[0])
        try:
            response = await self._rerank(exchange)
        except ClientDisconnect:
            self.service.metrics.dropped.labels("disconnect").inc()
            response = Response(status_code=CLIENT_CLOSED)
        except Exception as error:  # every error must become an answer
            response = await self._refuse(exchange, error)
        response.headers["x-request-id"] = exchange.id
        self._count(exchange, response)
        return response

    async def _rerank(self, exchange: Exchange) -> Response:
        self.check_key(exchange.request)
        self.service.check_ready()
        with self.service.admission.admit() as reservation:
            value, parsed = await self._parse(exchange, reservation)
            rerank_query = parsed.rerank_query
            exchange.log_fields |= {"documents": rerank_query.num_documents, "characters": rerank_query.num_characters}
            self._check_model(parsed.body)
            reservation.take_documents(rerank_query.num_documents)
            seconds = _time_limit(exchange.request, self.service.limits.request_timeout)
            work = self.service.answer(rerank_query, seconds, exchange.begin)
            answer = await _cancel_on_disconnect(exchange.request, work)
            return self._write(exchange, value, parsed, answer)

    async def _parse(self, exchange: Exchange, reservation: Reservation) -> tuple[dict[str, Any], parsing.ParsedRequest]:
        """Return the JSON object of a request and its validated form."""
        content = await parsing.read_body(exchange.request, self.service.limits, reservation)
        value = await parsing.parse(content)
        exchange.dialect = next((dialect for dialect in self.dialects if dialect.matches(value)), self.dialects[0])
        await parsing.check_values(content)
        return value, await parsing.validate(value, exchange.dialect, self.service.limits, self.service.stored)

    def _check_model(self, body: BaseModel) -> None:
        """Raise RequestError if a request of vLLM's dialect names another model, as vLLM does."""
        if isinstance(body, vllm.VllmFields) and body.model and body.model not in self.names:
            raise RequestError("model", f"This model is not served here; the served model is called {self.service.name}", "model")

    def _write(self, exchange: Exchange, value: dict[str, Any], parsed: parsing.ParsedRequest, answer: Answer) -> Response:
        """Make the response from an answer."""
        rerank_query = parsed.rerank_query
        exchange.log_fields |= {"tokens": answer.tokens, "truncated": answer.num_truncated}
        exchange.log_fields |= {f"{stage}_ms": round(1000 * seconds, 1) for stage, seconds in asdict(answer.seconds).items()}
        body = exchange.dialect.write(parsed.body, rerank_query, answer, self.service.name, exchange.id)
        response = json_response(body, 200)
        response.headers.update(answer_headers(rerank_query, answer, self.service))
        if ignored := parsing.ignored_fields(value, type(parsed.body)):
            response.headers["x-prorank-ignored-fields"] = ",".join(ignored)
            exchange.log_fields["ignored_fields"] = len(ignored)
        return response

    async def _refuse(self, exchange: Exchange, error: Exception) -> Response:
        """Make the response for an error. Unexpected errors are logged, and clients get no details."""
        if not isinstance(error, RequestError):
            log_failure("request", error)
            error = RequestError("failed", "the server failed on this request")
        response = error_response(error, exchange.dialect, self.service)
        await parsing.discard(exchange.request)
        exchange.log_fields["refused"] = error.kind
        return response

    def _count(self, exchange: Exchange, response: Response) -> None:
        path, seconds = exchange.request.url.path, time.perf_counter() - exchange.begin
        self.service.metrics.requests.labels(path, response.status_code).inc()
        self.service.metrics.seconds.labels(path).observe(seconds)
        ms = round(1000 * seconds, 1)
        log_event("request", path=path, status=response.status_code, ms=ms, id=exchange.id, **exchange.log_fields)


async def _cancel_on_disconnect(request: Request, work: Awaitable[Answer]) -> Answer:
    """Await `work`; cancel it and raise ClientDisconnect if the client disconnects first."""

    async def disconnected() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    task, watch = asyncio.ensure_future(work), asyncio.ensure_future(disconnected())
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientDisconnect
    finally:
        task.cancel()
        watch.cancel()


def _time_limit(request: Request, limit: float) -> float:
    """Return the seconds for a request: its header X-Request-Timeout, at most `limit`. Raises RequestError."""
    header = request.headers.get("x-request-timeout")
    if header is None:
        return limit
    try:
        seconds = float(header)
    except ValueError:
        seconds = math.nan
    if not 1 <= seconds < math.inf:
        raise RequestError("invalid", "the header X-Request-Timeout must be a number of seconds, at least 1", "x-request-timeout")
    return min(limit, seconds)
