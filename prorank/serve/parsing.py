"""Reads a request: its body, within limits of size and time, as JSON, as a dialect's model.

After an error, the rest of the body is read for a moment and dropped, because a client that is still sending could miss the answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import math
import re
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json
from starlette.requests import ClientDisconnect, Request

from .dialects import Dialect
from .fields import HARMLESS
from .limits import Limits, Reservation
from .messages import RequestError, RerankQuery
from .request_documents import fill_texts
from .stored_documents import StoredDocuments

DISCARD_SECONDS = 10.0
BOM = b"\xef\xbb\xbf"  # some editors write it at the start of UTF-8 files
LARGE_BODY_BYTES = 32_768  # larger bodies are parsed in another thread
MANY_ITEMS = 100  # larger lists are validated in another thread
MAX_DETAILS, MAX_IGNORED_FIELDS = 10, 20  # reported to the client


@dataclass(frozen=True)
class ParsedRequest:
    """A validated body: as a request model of the dialect, and as a RerankQuery."""

    body: BaseModel
    rerank_query: RerankQuery


async def read_body(request: Request, limits: Limits, reservation: Reservation) -> bytes:
    """Read the body of a request.

    Args:
        request: the request.
        limits: limits of the server.
        reservation: resources of the request, to which its bytes are added.

    Raises:
        RequestError: the body is too large, too slow, or its content type is not JSON.
        ClientDisconnect: the client has disconnected.
    """
    _check_content_type(request.headers.get("content-type", ""))
    if request.headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
        raise RequestError("media", "send the body without Content-Encoding")
    announced = request.headers.get("content-length", "0")
    if announced.isdigit() and int(announced) > limits.max_body_bytes:
        raise _too_large(limits)
    try:
        async with asyncio.timeout(limits.max_body_seconds):
            return await _collect(request, limits, reservation)
    except TimeoutError:
        raise RequestError("slow", f"the body did not arrive within {limits.max_body_seconds:g} seconds") from None


def _check_content_type(content_type: str) -> None:
    """Raise RequestError unless a content type is JSON in UTF-8, the only encoding of JSON."""
    kind, *parameters = (part.strip().lower() for part in content_type.split(";"))
    if kind != "application/json" and not kind.endswith("+json"):
        raise RequestError("media", "send JSON, with the header Content-Type: application/json")
    charset = next((part.partition("=")[2].strip(" \"'") for part in parameters if part.startswith("charset")), "utf-8")
    if charset not in ("utf-8", "utf8", "us-ascii", "ascii"):
        raise RequestError("media", "send the JSON in UTF-8")


async def _collect(request: Request, limits: Limits, reservation: Reservation) -> bytes:
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > limits.max_body_bytes:
            raise _too_large(limits)
        reservation.take_bytes(len(part))
        parts.append(part)
    return b"".join(parts)


def _too_large(limits: Limits) -> RequestError:
    return RequestError("too large", f"the body is larger than {limits.max_body_bytes} bytes; send fewer documents per request")


async def discard(request: Request) -> None:
    """Read and drop the rest of a body, for a limited time, because closing the connection now could lose the answer."""
    with contextlib.suppress(TimeoutError, ClientDisconnect, RuntimeError):  # RuntimeError: the body was already read
        async with asyncio.timeout(DISCARD_SECONDS):
            async for _ in request.stream():
                pass


async def parse(content: bytes) -> dict[str, Any]:
    """Return the JSON object in a body. Raises RequestError if there is none."""
    return await asyncio.to_thread(read_json, content) if len(content) > LARGE_BODY_BYTES else read_json(content)


def read_json(content: bytes) -> dict[str, Any]:
    """Run `parse` in this thread. Raises RequestError."""
    try:
        value = from_json(content.removeprefix(BOM), allow_inf_nan=False)
    except ValueError as error:  # not JSON, lone surrogates, nested too deeply
        details = [{"loc": ["body"], "msg": f"JSON decode error: {error}", "type": "json_invalid"}]
        raise RequestError("syntax", f"not valid JSON: {error}", details=details) from None
    if not isinstance(value, dict):
        raise RequestError("invalid", "expected a JSON object")
    return value


async def check_values(content: bytes) -> None:
    """Raise RequestError if an object has the same key twice, which is ambiguous, or a number is too large for a float."""
    check = functools.partial(json.loads, content, object_pairs_hook=_check_unique, parse_float=_parse_finite)
    await asyncio.to_thread(check) if len(content) > LARGE_BODY_BYTES else check()


def _check_unique(pairs: list[tuple[str, Any]]) -> None:
    if len({key for key, _ in pairs}) < len(pairs):
        raise RequestError("invalid", "an object has the same key twice; give each key once")


def _parse_finite(number: str) -> float:
    if math.isinf(value := float(number)):
        raise RequestError("invalid", "a number is too large")
    return value


async def validate(value: dict[str, Any], dialect: Dialect, limits: Limits, stored: StoredDocuments | None = None) -> ParsedRequest:
    """Validate a JSON object as a request of a dialect.

    Args:
        value: the object.
        dialect: the dialect.
        limits: limits of the server.
        stored: documents that a request may name by their ids; None for none.

    Raises:
        RequestError: the object is invalid, exceeds a limit, or names a document that is not in the index.
    """
    model = dialect.model_for(value)
    longest = max((len(field) for field in value.values() if isinstance(field, list)), default=0)
    if longest > limits.max_documents:
        raise _too_many(longest, limits)
    try:
        body = await asyncio.to_thread(model.model_validate, value) if longest > MANY_ITEMS else model.model_validate(value)
    except ValidationError as error:
        raise _invalid(error) from None
    if stored:
        fill_texts(body, stored)
    rerank_query = dialect.read(body, limits)
    _check_size(rerank_query, limits)
    _check_queries(rerank_query)
    return ParsedRequest(body, rerank_query)


def _check_size(rerank_query: RerankQuery, limits: Limits) -> None:
    if rerank_query.num_documents > limits.max_documents:
        raise _too_many(rerank_query.num_documents, limits)
    characters = rerank_query.num_characters
    if characters > limits.max_characters:
        message = f"{characters} characters are more than {limits.max_characters}; send fewer documents per request"
        raise RequestError("invalid", message)


def _check_queries(rerank_query: RerankQuery) -> None:
    several = len(rerank_query.lists) > 1
    for number, (query, _) in enumerate(rerank_query.lists):
        if not query.strip():
            raise RequestError("invalid", f"query {number} is blank" if several else "the query is blank", "query")


def ignored_fields(value: dict[str, Any], model: type[BaseModel]) -> list[str]:
    """Return the names of unknown fields without a known meaning, if they fit into a header."""
    unknown = [name for name in value if name not in model.model_fields and name not in HARMLESS]
    return [name for name in unknown if re.fullmatch(r"[\w.-]{1,40}", name, re.ASCII)][:MAX_IGNORED_FIELDS]


def _too_many(count: int, limits: Limits) -> RequestError:
    return RequestError("invalid", f"{count} documents are more than {limits.max_documents}; send fewer per request")


def _invalid(error: ValidationError) -> RequestError:
    """Convert a validation error. The message names fields and errors, but no values."""
    problems = error.errors(include_url=False, include_context=False, include_input=False)
    details = [{"loc": ["body", *each["loc"]], "msg": each["msg"], "type": each["type"]} for each in problems[:MAX_DETAILS]]
    where = ".".join(map(str, problems[0]["loc"]))
    return RequestError("invalid", f"{where}: {problems[0]['msg']}", where, details)
