"""GET routes: health, what is served, metrics, the playground, and the documentation page.

Health and metrics need no key, because orchestrators and Prometheus send none. Neither contains text of a request.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib.resources import files
from typing import Any

from fastapi import FastAPI, Request, Response
from pydantic import BaseModel
from pydantic_core import to_json

from .. import __version__
from .dialects import Dialect, tei, vllm
from .messages import RequestError
from .playground import add_playground_routes
from .responses import error_response
from .service import Service

# The page is one file with inline script and style; the policy forbids other hosts.
INLINE = "'self' 'unsafe-inline'"
POLICY = f"default-src 'none'; script-src {INLINE}; style-src {INLINE}; img-src 'self' data:; connect-src 'self'"
Responses = dict[int | str, dict[str, Any]]


class Info(BaseModel):
    """TEI's fields, and three additions: meaning of scores, name of the prompt, and whether the model thinks."""

    model_id: str
    model_sha: str | None
    model_dtype: str
    served_model_name: str
    model_type: dict[str, Any]
    max_concurrent_requests: int
    max_input_length: int
    max_batch_tokens: int
    max_batch_requests: int | None
    max_client_batch_size: int
    auto_truncate: bool
    tokenization_workers: int
    version: str
    sha: str | None
    docker_label: str | None
    scores: str
    prompt: str
    thinks: bool


class ModelCard(BaseModel):
    """A model in the list of models."""

    id: str
    object: str = "model"
    created: int
    owned_by: str = "prorank"
    max_model_len: int


class Models(BaseModel):
    """The list of models, as in OpenAI's API."""

    object: str = "list"
    data: list[ModelCard]


def add_info_routes(app: FastAPI, service: Service, check_key: Callable[[Request], None]) -> None:
    """Add all GET routes.

    Args:
        app: the application.
        service: the service to describe.
        check_key: raises RequestError for a request without the key.
    """
    add_playground_routes(app)
    _add_health(app, service)
    _add_descriptions(app, service, check_key)

    @app.get("/metrics", response_class=Response, summary="Prometheus metrics", responses={200: {"content": {"text/plain": {}}}})
    async def metrics() -> Response:
        return Response(service.metrics.page(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        page = files(__package__).joinpath("docs.html").read_bytes()
        return Response(page, media_type="text/html; charset=utf-8", headers={"content-security-policy": POLICY})


def _add_health(app: FastAPI, service: Service) -> None:
    @app.get("/health", responses=_errors(tei.TeiError, 503), response_class=Response, summary="200 when the server is ready")
    async def health() -> Response:
        try:
            service.check_ready()
            return Response(status_code=200)
        except RequestError as error:
            return error_response(error, tei.RERANK, service)


def _add_descriptions(app: FastAPI, service: Service, check_key: Callable[[Request], None]) -> None:
    started_at = int(time.time())

    def describe(request: Request, dialect: Dialect, make: Callable[[], BaseModel]) -> Response:
        try:
            check_key(request)
            service.check_ready()
            return Response(to_json(make().model_dump()), media_type="application/json")
        except RequestError as error:
            return error_response(error, dialect, service)

    def make_models() -> Models:
        return Models(data=[ModelCard(id=service.name, created=started_at, max_model_len=service.workload.longest)])

    @app.get("/info", response_model=Info, responses=_errors(tei.TeiError, 503, 401), summary="What is served, in TEI's form")
    async def info(request: Request) -> Response:
        return describe(request, tei.RERANK, lambda: make_info(service))

    errors = _errors(vllm.VllmError, 503, 401)

    @app.get("/v1/models", response_model=Models, responses=errors, summary="What is served, in OpenAI's form")
    async def models(request: Request) -> Response:
        return describe(request, vllm.RERANK, make_models)


def _errors(model: type[BaseModel], *statuses: int) -> Responses:
    """Return the descriptions of errors for the schema."""
    descriptions = {503: "The server is not ready.", 401: "The key is missing or wrong."}
    return {status: {"model": model, "description": descriptions[status]} for status in statuses}


def make_info(service: Service) -> Info:
    """Return the description of the served model in TEI's form."""
    reranker, limits, workload = service.reranker, service.limits, service.workload
    scores = "place" if reranker.compares_documents else "probability" if reranker.calibration else "sigmoid"
    return Info(
        model_id=service.name, model_sha=None, model_dtype=str(reranker.model.dtype).removeprefix("torch."),
        served_model_name=service.name,
        model_type={"reranker": {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}},
        max_concurrent_requests=limits.max_requests, max_input_length=workload.longest, max_batch_tokens=workload.batch_size,
        max_batch_requests=None, max_client_batch_size=limits.max_documents, auto_truncate=True, tokenization_workers=1,
        version=__version__, sha=None, docker_label=None, scores=scores, prompt=reranker.prompt.name, thinks=workload.thinks,
    )  # fmt: skip
