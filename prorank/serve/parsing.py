"""Reading a request: its body within bounds of size and time, as JSON, as a dialect's model.

A refused body is read on for a moment and thrown away, for a client that is still sending would miss the answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import math
import re
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json
from starlette.requests import ClientDisconnect, Request

from .dialects import Dialect
from .fields import HARMLESS
from .limits import Limits, Reservation
from .messages import RequestError, RerankQuery

LINGER_SECONDS = 10.0
BOM = b"\xef\xbb\xbf"  # that some editors put before UTF-8
LARGE = 32_768  # bytes from which parsing leaves the event loop


async def read(request: Request, limits: Limits, held: Reservation) -> bytes:
    """The body. Raises Refused for one that is too large, too slow or not announced as JSON, ClientDisconnect."""
    _check_kind(request.headers.get("content-type", ""))
    if request.headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
        raise RequestError("media", "send the body as it is, without Content-Encoding")
    announced = request.headers.get("content-length", "0")
    if announced.isdigit() and int(announced) > limits.body_bytes:
        raise _too_large(limits)
    try:
        async with asyncio.timeout(limits.body_seconds):
            return await _collect(request, limits, held)
    except TimeoutError:
        raise RequestError("slow", f"the body did not come within {limits.body_seconds:g} seconds") from None


def _check_kind(content_type: str) -> None:
    """Raise Refused unless a content type means JSON in UTF-8, the one encoding that JSON has."""
    kind, *parameters = (part.strip().lower() for part in content_type.split(";"))
    if kind != "application/json" and not kind.endswith("+json"):
        raise RequestError("media", "send JSON, with the header Content-Type: application/json")
    charset = next((part.partition("=")[2].strip(" \"'") for part in parameters if part.startswith("charset")), "utf-8")
    if charset not in ("utf-8", "utf8", "us-ascii", "ascii"):
        raise RequestError("media", "send the JSON in UTF-8")


async def _collect(request: Request, limits: Limits, held: Reservation) -> bytes:
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > limits.body_bytes:
            raise _too_large(limits)
        held.take_bytes(len(part))
        parts.append(part)
    return b"".join(parts)


def _too_large(limits: Limits) -> RequestError:
    return RequestError("too large", f"the body is larger than {limits.body_bytes} bytes; send fewer documents at a time")


async def discard(request: Request) -> None:
    """Read on what a client is still sending, however much it is: for a while, as closing amid it would take the answer back."""
    with contextlib.suppress(TimeoutError, ClientDisconnect, RuntimeError):  # RuntimeError: all of it has been read
        async with asyncio.timeout(LINGER_SECONDS):
            async for _ in request.stream():
                pass


async def parse(body: bytes) -> dict[str, Any]:
    """The JSON object in a body. Raises Refused."""
    return await asyncio.to_thread(read_json, body) if len(body) > LARGE else read_json(body)


def read_json(body: bytes) -> dict[str, Any]:
    """`parse`, in this thread."""
    try:
        value = from_json(body.removeprefix(BOM), allow_inf_nan=False)
    except ValueError as error:  # no JSON, lone surrogates, too deeply nested
        details = [{"loc": ["body"], "msg": f"JSON decode error: {error}", "type": "json_invalid"}]
        raise RequestError("syntax", f"not valid JSON: {error}", details=details) from None
    if not isinstance(value, dict):
        raise RequestError("invalid", "expected a JSON object")
    return value


async def check_values(body: bytes) -> None:
    """Raise Refused where an object gives a key twice (which one is meant nobody can tell) or a number is beyond all floats."""
    check = functools.partial(json.loads, body, object_pairs_hook=_distinct, parse_float=_finite)
    await asyncio.to_thread(check) if len(body) > LARGE else check()


def _distinct(pairs: list[tuple[str, Any]]) -> None:
    if len({key for key, _ in pairs}) < len(pairs):
        raise RequestError("invalid", "an object has the same key twice; give each key once")


def _finite(number: str) -> float:
    if math.isinf(value := float(number)):
        raise RequestError("invalid", "a number is too large")
    return value


async def understand(value: dict[str, Any], form: Dialect, limits: Limits) -> tuple[BaseModel, RerankQuery]:
    """A request's model and Ask, within the limits. Raises Refused."""
    model = form.body_of(value)
    many = max((len(v) for v in value.values() if isinstance(v, list)), default=0)
    if many > limits.documents:
        raise _too_many(many, limits)
    try:
        found = await asyncio.to_thread(model.model_validate, value) if many > 100 else model.model_validate(value)
    except ValidationError as error:
        raise _invalid(error) from None
    ask = form.read(found, limits)
    if ask.count > limits.documents:
        raise _too_many(ask.count, limits)
    if ask.characters > limits.characters:
        raise RequestError(
            "invalid", f"{ask.characters} characters are more than {limits.characters}; send fewer documents at a time"
        )
    for number, (query, _) in enumerate(ask.lists):
        if not query.strip():
            raise RequestError("invalid", f"query {number} is blank" if len(ask.lists) > 1 else "the query is blank", "query")
    return found, ask


def ignored(value: dict[str, Any], model: type[BaseModel]) -> list[str]:
    """Names of fields that are not known and may have meant something; those that fit a header."""
    unknown = [name for name in value if name not in model.model_fields and name not in HARMLESS]
    return [name for name in unknown if re.fullmatch(r"[\w.-]{1,40}", name, re.ASCII)][:20]


def _too_many(count: int, limits: Limits) -> RequestError:
    return RequestError("invalid", f"{count} documents are more than {limits.documents}; send fewer at a time")


def _invalid(error: ValidationError) -> RequestError:
    """What is wrong with which fields; never what stood there."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    details = [{"loc": ["body", *each["loc"]], "msg": each["msg"], "type": each["type"]} for each in found[:10]]
    first = found[0]
    where = ".".join(map(str, first["loc"]))
    return RequestError("invalid", f"{where}: {first['msg']}", where, details)
