"""HTTP responses: errors in a dialect, and the headers that describe an answer."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastapi import Response
from pydantic_core import to_json

from .dialects import Dialect
from .messages import Answer, RequestError, RerankQuery
from .service import Service

MAX_TRUNCATED_INDICES = 256  # maximum number of indices in a header
CLOSING = ("too large", "slow", "media", "overloaded")  # errors after which the rest of the body may still arrive


def error_response(error: RequestError, dialect: Dialect, service: Service) -> Response:
    """Make the response for a rejected request, in a dialect."""
    status = dialect.statuses[error.kind]
    response = json_response(dialect.error_body(error, status), status)
    retry_after = error.retry_after or (service.retry_after() if error.kind == "overloaded" else None)
    if retry_after:
        response.headers["retry-after"] = str(retry_after)
    if error.kind == "unauthorized":
        response.headers["www-authenticate"] = "Bearer"
    if error.kind in CLOSING:
        response.headers["connection"] = "close"
    return response


def answer_headers(rerank_query: RerankQuery, answer: Answer, service: Service) -> dict[str, str]:
    """Return the headers of an answer: TEI's timings, the kind of its scores, and truncation."""
    ms = {stage: str(round(1000 * seconds)) for stage, seconds in asdict(answer.seconds).items()}
    headers = {
        "x-compute-type": service.reranker.device.type, "x-compute-characters": str(rerank_query.num_characters),
        "x-compute-tokens": str(answer.tokens), "x-compute-time": ms["total"], "x-total-time": ms["total"],
        "x-tokenization-time": ms["tokenization"], "x-queue-time": ms["queue"], "x-inference-time": ms["inference"],
        "x-prorank-scores": answer.score_kind, "x-prorank-truncated-documents": str(answer.num_truncated),
    }  # fmt: skip
    if service.stored:
        headers["x-prorank-stored-documents"] = str(answer.num_stored)
    if answer.num_truncated and len(answer.truncated) == 1:
        headers["x-prorank-truncated-indices"] = ",".join(map(str, answer.truncated[0][:MAX_TRUNCATED_INDICES]))
    if answer.num_truncated_queries:
        headers["x-prorank-truncated-queries"] = str(answer.num_truncated_queries)
    return headers


def json_response(value: Any, status: int) -> Response:
    """Make a JSON response."""
    return Response(to_json(value, inf_nan_mode="constants"), status, media_type="application/json")
