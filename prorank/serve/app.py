"""The HTTP application: routes, keys, the path of a request from its bytes to its answer.

Whatever goes wrong is answered in the dialect of the path, with a message that quotes nothing of the request, and no
trace of ours.
"""

from __future__ import annotations

import asyncio
import hmac
import math
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from pydantic_core import to_json
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.routing import Route

from .. import __version__
from . import info_routes, openapi, parsing
from .dialects import Dialect, cohere, jina, tei, vllm
from .logs import failure, log
from .messages import Answer, RequestError
from .responses import headers_of, json_response, refusal
from .service import Service

FORMS: dict[str, tuple[Dialect, ...]] = {
    "/rerank": (tei.RERANK, vllm.RERANK),
    "/v1/rerank": (jina.RERANK,),
    "/v2/rerank": (cohere.RERANK,),
    "/score": (vllm.SCORE,),
    "/v1/score": (vllm.SCORE,),
}


def create_app(service: Service, key: str | None = None, origins: Sequence[str] = (), names: Sequence[str] = ()) -> FastAPI:
    """The application of a service.

    Args:
        service: started and stopped with the application.
        key: what clients have to send as `Authorization: Bearer KEY`; None asks for none.
        origins: that browsers may call from; none by default.
        names: that clients may call the model, besides the service's own.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        starting = asyncio.create_task(service.start())
        yield
        starting.cancel()
        await asyncio.to_thread(service.stop)

    app = FastAPI(title="ProRank", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.state.service = service
    known = {service.name, *names}

    def endpoint(path: str) -> Callable[[Request], Awaitable[Response]]:
        async def rerank(request: Request) -> Response:
            return await _answered(request, FORMS[path], service, key, known)

        return rerank

    for path in FORMS:
        app.post(path, **openapi.operation(path, FORMS[path], service.limits))(endpoint(path))
    info_routes.add(app, service, lambda request: check_key(request, key))
    add_head(app)
    app.exception_handler(HTTPException)(_http_error)
    openapi.complete(app, FORMS, service.limits)
    service.metrics.at_work.set_function(lambda: service.room.requests)
    service.metrics.waiting.set_function(lambda: service.room.documents)
    service.metrics.ready.set_function(lambda: service.state == "ready")
    if origins:
        headers = ["authorization", "content-type", "x-request-timeout"]
        methods = ["GET", "HEAD", "POST"]
        app.add_middleware(CORSMiddleware, allow_origins=list(origins), allow_methods=methods, allow_headers=headers)
    return app


def check_key(request: Request, key: str | None) -> None:
    """Raise Refused unless the request brings the key; compared in a time that does not tell how much of it is right."""
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    if key and not (scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), key.encode())):
        raise RequestError("unauthorized", "a key is needed: send the header Authorization: Bearer KEY")


async def _answered(request: Request, forms: tuple[Dialect, ...], service: Service, key: str | None, known: set[str]) -> Response:
    """The answer to a request, or its refusal; counted and logged."""
    begin, form = time.perf_counter(), forms[0]
    told: dict[str, Any] = {"id": uuid.uuid4().hex}
    try:
        check_key(request, key)
        service.check_ready()
        with service.room.request() as held:
            sent = await parsing.read(request, service.limits, held)
            value = await parsing.parse(sent)
            form = next((one for one in forms if any(name in value for name, _ in one.bodies)), forms[0])
            await parsing.check_values(sent)
            found, ask = await parsing.understand(value, form, service.limits)
            told |= {"documents": ask.count, "characters": ask.characters}
            if isinstance(found, vllm.VllmFields) and found.model and found.model not in known:
                raise RequestError("model", f"The model is not served here; it is called {service.name}", "model")
            held.take_documents(ask.count)
            seconds = _seconds(request, service.limits.seconds)
            answer = await _unless_gone(request, service.answer(ask, seconds, begin))
        told |= {"tokens": answer.tokens, "truncated": sum(map(len, answer.cut))}
        told |= {f"{stage}_ms": round(1000 * each, 1) for stage, each in answer.seconds.items()}
        response = json_response(form.write(found, ask, answer, service.name, told["id"]), 200)
        response.headers.update(headers_of(ask, answer, service))
        if unknown := parsing.ignored(value, type(found)):
            response.headers["x-prorank-ignored-fields"] = ",".join(unknown)
            told["ignored_fields"] = len(unknown)
    except ClientDisconnect:
        service.metrics.dropped.labels("disconnect").inc()
        response = Response(status_code=499)  # nobody reads it
    except Exception as error:  # every one of them has to become an answer
        if not isinstance(error, RequestError):
            failure("request", error)
            error = RequestError("failed", "the server failed on this request")
        response = refusal(error, form, service)
        await parsing.discard(request)
        told["refused"] = error.kind
    response.headers["x-request-id"] = told["id"]
    _count(request, response, service, begin, told)
    return response


async def _unless_gone(request: Request, work: Awaitable[Answer]) -> Answer:
    """What the work comes to; it is cancelled, and ClientDisconnect raised, when the client goes."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    task, watch = asyncio.ensure_future(work), asyncio.ensure_future(gone())
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientDisconnect
    finally:
        task.cancel()
        watch.cancel()


def _seconds(request: Request, most: float) -> float:
    """The time that a request gives itself, within the server's own. Raises Refused."""
    given = request.headers.get("x-request-timeout")
    if given is None:
        return most
    try:
        seconds = float(given)
    except ValueError:
        seconds = math.nan
    if not 1 <= seconds < math.inf:
        raise RequestError("invalid", "the header X-Request-Timeout must be a number of seconds, at least 1", "x-request-timeout")
    return min(most, seconds)


async def _http_error(request: Request, error: HTTPException) -> Response:
    """Unknown paths and methods, in the dialect of the path where it has one; OPTIONS is answered with the methods there are."""
    path, headers = request.url.path, {}
    if error.status_code == 405:
        methods = _methods(request.app, path)
        if request.method == "OPTIONS":
            return Response(status_code=204, headers={"allow": ", ".join(sorted({*methods, "OPTIONS"}))})
        headers["allow"] = ", ".join(sorted(methods))
    form = FORMS.get(path, (jina.RERANK,))[0]
    said = {404: "no such path; the paths are listed at /docs", 405: "this path does not take this method"}
    refused = RequestError("invalid", said.get(error.status_code, "not possible"))
    return Response(to_json(form.refuse(refused, error.status_code)), error.status_code, headers, "application/json")


def _routes(app: FastAPI) -> list[Route]:
    """Those that a path and methods lead to."""
    return [route for route in app.routes if isinstance(route, Route)]


def _methods(app: FastAPI, path: str) -> set[str]:
    """Methods that a path takes."""
    return {method for route in _routes(app) if route.path == path for method in route.methods or ()}


def add_head(app: FastAPI) -> None:
    """Let every path that takes GET take HEAD, as HTTP wants it: the same headers, no body."""
    for route in _routes(app):
        if "GET" in (route.methods or ()) and "HEAD" not in _methods(app, route.path):
            app.add_api_route(route.path, route.endpoint, methods=["HEAD"], include_in_schema=False)


def _count(request: Request, response: Response, service: Service, begin: float, told: dict[str, Any]) -> None:
    path, seconds = request.url.path, time.perf_counter() - begin
    service.metrics.requests.labels(path, response.status_code).inc()
    service.metrics.seconds.labels(path).observe(seconds)
    log("request", path=path, status=response.status_code, ms=round(1000 * seconds, 1), **told)
