"""What is asked with GET: health, what is served, metrics, and the page about the interface.

Health and metrics need no key, for those who ask have none; neither tells a text.
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
from . import playground
from .dialects import tei, vllm
from .messages import RequestError
from .responses import refusal
from .service import Service

# A page brings all it needs; nothing is fetched from elsewhere.
OWN = "'self' 'unsafe-inline'"
POLICY = f"default-src 'none'; script-src {OWN}; style-src {OWN}; img-src 'self' data:; connect-src 'self'"


class Info(BaseModel):
    """TEI's fields, and three of ours: what a score is, the kind of the prompt, and whether the model thinks."""

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
    id: str
    object: str = "model"
    created: int
    owned_by: str = "prorank"
    max_model_len: int


class Models(BaseModel):
    object: str = "list"
    data: list[ModelCard]


def add(app: FastAPI, service: Service, check: Callable[[Request], None]) -> None:
    """Add the routes; `check` raises Refused for a request without the key."""
    playground.add(app)
    begun = int(time.time())
    unready: dict[int | str, dict[str, Any]] = {503: {"model": tei.TeiError, "description": "Not ready."}}
    locked: dict[int | str, dict[str, Any]] = {401: {"model": tei.TeiError, "description": "No key, or a wrong one."}}

    def guarded(request: Request, form: Any, make: Callable[[], BaseModel]) -> Response:
        try:
            check(request)
            service.check_ready()
            return Response(to_json(make().model_dump()), media_type="application/json")
        except RequestError as refused:
            return refusal(refused, form, service)

    @app.get("/health", responses=unready, response_class=Response, summary="200 when requests are taken")
    async def health() -> Response:
        try:
            service.check_ready()
            return Response(status_code=200)
        except RequestError as refused:
            return refusal(refused, tei.RERANK, service)

    @app.get("/info", response_model=Info, responses=unready | locked, summary="What is served, in TEI's form")
    async def info(request: Request) -> Response:
        return guarded(request, tei.RERANK, lambda: info_of(service))

    @app.get("/v1/models", response_model=Models, responses={
        503: {"model": vllm.VllmError, "description": "Not ready."}, 401: {"model": vllm.VllmError, "description": "No key."},
    }, summary="What is served, in OpenAI's form")  # fmt: skip
    async def models(request: Request) -> Response:
        card = lambda: ModelCard(id=service.name, created=begun, max_model_len=service.work.longest)  # noqa: E731
        return guarded(request, vllm.RERANK, lambda: Models(data=[card()]))

    @app.get("/metrics", response_class=Response, summary="For Prometheus", responses={200: {"content": {"text/plain": {}}}})
    async def metrics() -> Response:
        return Response(service.metrics.page(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        page = files(__package__).joinpath("docs.html").read_bytes()
        return Response(page, media_type="text/html; charset=utf-8", headers={"content-security-policy": POLICY})


def info_of(service: Service) -> Info:
    """What TEI tells of a reranker."""
    reranker, limits, work = service.reranker, service.limits, service.work
    scores = "place" if reranker.compares_documents else "probability" if reranker.calibration else "sigmoid"
    return Info(
        model_id=service.name, model_sha=None, model_dtype=str(reranker.model.dtype).removeprefix("torch."),
        served_model_name=service.name,
        model_type={"reranker": {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}},
        max_concurrent_requests=limits.requests, max_input_length=work.longest, max_batch_tokens=work.budget,
        max_batch_requests=None, max_client_batch_size=limits.documents, auto_truncate=True, tokenization_workers=1,
        version=__version__, sha=None, docker_label=None, scores=scores, prompt=reranker.prompt.name, thinks=work.thinks,
    )  # fmt: skip
