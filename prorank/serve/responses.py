"""HTTP responses: refusals in a dialect, headers that describe an answer."""

from __future__ import annotations

from typing import Any

from fastapi import Response
from pydantic_core import to_json

from .dialects import Dialect
from .messages import Answer, RequestError, RerankQuery
from .service import Service


def refusal(refused: RequestError, form: Dialect, service: Service) -> Response:
    """A refusal in a dialect."""
    status = form.statuses[refused.kind]
    response = json_response(form.refuse(refused, status), status)
    wait = refused.retry_after or (service.retry_after() if refused.kind == "overloaded" else None)
    if wait:
        response.headers["retry-after"] = str(wait)
    if refused.kind == "unauthorized":
        response.headers["www-authenticate"] = "Bearer"
    if refused.kind in ("too large", "slow", "media", "overloaded"):  # the rest of the body may still be on its way
        response.headers["connection"] = "close"
    return response


def headers_of(ask: RerankQuery, answer: Answer, service: Service) -> dict[str, str]:
    """What an answer tells besides its body: times as TEI does, what the scores are, what was cut."""
    ms = {stage: str(round(1000 * each)) for stage, each in answer.seconds.items()}
    cut = sum(map(len, answer.cut))
    found = {
        "x-compute-type": service.reranker.device.type, "x-compute-characters": str(ask.characters),
        "x-compute-tokens": str(answer.tokens), "x-compute-time": ms["total"], "x-total-time": ms["total"],
        "x-tokenization-time": ms["tokenization"], "x-queue-time": ms["queue"], "x-inference-time": ms["inference"],
        "x-prorank-scores": answer.meaning, "x-prorank-truncated-documents": str(cut),
    }  # fmt: skip
    if cut and len(answer.cut) == 1:
        found["x-prorank-truncated-indices"] = ",".join(map(str, answer.cut[0][:256]))
    return found | ({"x-prorank-truncated-queries": str(answer.queries_cut)} if answer.queries_cut else {})


def json_response(value: Any, status: int) -> Response:
    return Response(to_json(value, inf_nan_mode="constants"), status, media_type="application/json")
