"""The HTTP application: routes, keys, and the path of a request from its bytes to its answer.

Errors are answered in the dialect of the path. Messages contain neither text of the request nor a traceback.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request, Response
from pydantic_core import to_json
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Route

from .. import __version__
from . import openapi
from .dialects import Dialect, cohere, jina, tei, vllm
from .info_routes import add_info_routes
from .messages import RequestError
from .rerank_route import RerankRoute
from .service import Service, ServiceState

DIALECTS: dict[str, tuple[Dialect, ...]] = {
    "/rerank": (tei.RERANK, vllm.RERANK),
    "/v1/rerank": (jina.RERANK,),
    "/v2/rerank": (cohere.RERANK,),
    "/score": (vllm.SCORE,),
    "/v1/score": (vllm.SCORE,),
}
HTTP_ERRORS = {404: "no such path; the paths are listed at /docs", 405: "this path does not support this method"}


def create_app(service: Service, key: str | None = None, origins: Sequence[str] = (), names: Sequence[str] = ()) -> FastAPI:
    """Make the application of a service.

    Args:
        service: started and stopped together with the application.
        key: key that clients must send as `Authorization: Bearer KEY`; None for no key.
        origins: origins that browsers may call from; none by default.
        names: further names of the model that clients may use.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        starting = asyncio.create_task(service.start())
        yield
        starting.cancel()
        await asyncio.to_thread(service.stop)

    app = FastAPI(title="ProRank", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.state.service = service
    check_request = lambda request: check_key(request, key)  # noqa: E731
    for path, dialects in DIALECTS.items():
        route = RerankRoute(service, dialects, check_request, {service.name, *names})
        app.post(path, **openapi.route_options(path, dialects, service.limits))(_endpoint(route))
    add_info_routes(app, service, check_request)
    _add_head_methods(app)
    app.exception_handler(HTTPException)(_answer_http_error)
    openapi.install_schema(app, DIALECTS, service.limits)
    _connect_gauges(service)
    if origins:
        _allow_origins(app, origins)
    return app


def check_key(request: Request, key: str | None) -> None:
    """Raise RequestError unless a request contains the key. The comparison takes the same time for every wrong key."""
    scheme, _, value = request.headers.get("authorization", "").partition(" ")
    if key and not (scheme.lower() == "bearer" and hmac.compare_digest(value.strip().encode(), key.encode())):
        raise RequestError("unauthorized", "a key is required: send the header Authorization: Bearer KEY")


def _endpoint(route: RerankRoute) -> Callable[[Request], Awaitable[Response]]:
    """Wrap the route in a function, because FastAPI reads an endpoint's parameters from its signature."""

    async def rerank(request: Request) -> Response:
        return await route.respond(request)

    return rerank


def _connect_gauges(service: Service) -> None:
    metrics, admission = service.metrics, service.admission
    metrics.requests_at_work.set_function(lambda: admission.requests)
    metrics.documents_waiting.set_function(lambda: admission.documents)
    metrics.ready.set_function(lambda: service.state is ServiceState.READY)


def _allow_origins(app: FastAPI, origins: Sequence[str]) -> None:
    headers = ["authorization", "content-type", "x-request-timeout"]
    methods = ["GET", "HEAD", "POST"]
    app.add_middleware(CORSMiddleware, allow_origins=list(origins), allow_methods=methods, allow_headers=headers)


async def _answer_http_error(request: Request, error: HTTPException) -> Response:
    """Answer unknown paths and methods in the dialect of the path, Jina's by default; answer OPTIONS with the allowed methods."""
    path, headers = request.url.path, {}
    if error.status_code == 405:
        methods = _methods(request.app, path)
        if request.method == "OPTIONS":
            return Response(status_code=204, headers={"allow": ", ".join(sorted({*methods, "OPTIONS"}))})
        headers["allow"] = ", ".join(sorted(methods))
    dialect = DIALECTS.get(path, (jina.RERANK,))[0]
    request_error = RequestError("invalid", HTTP_ERRORS.get(error.status_code, "this request is not possible"))
    body = to_json(dialect.error_body(request_error, error.status_code))
    return Response(body, error.status_code, headers, "application/json")


def _routes(app: FastAPI) -> list[Route]:
    return [route for route in app.routes if isinstance(route, Route)]


def _methods(app: FastAPI, path: str) -> set[str]:
    """Return the methods that a path allows."""
    return {method for route in _routes(app) if route.path == path for method in route.methods or ()}


def _add_head_methods(app: FastAPI) -> None:
    """Allow HEAD on every path that allows GET, as HTTP requires: the same headers without a body."""
    for route in _routes(app):
        if "GET" in (route.methods or ()) and "HEAD" not in _methods(app, route.path):
            app.add_api_route(route.path, route.endpoint, methods=["HEAD"], include_in_schema=False)
