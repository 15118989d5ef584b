"""The dialect of text-embeddings-inference: `POST /rerank` with `texts`.

The answer is a plain list, best first. Errors are {"error", "error_type"}, also for a body that is not a JSON object, where TEI
itself answers in plain text.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from ..fields import NON_EMPTY, CommonFields, Flag, HitFields, Query, Text
from ..limits import Limits
from ..messages import Answer, ErrorKind, QueryDocuments, RequestError, RerankQuery
from . import STATUSES, Dialect, make_rerank_query
from .hit_fields import extra_hit_fields


class TeiRequest(CommonFields):
    """A request of `/rerank` with `texts`."""

    query: Query
    texts: list[Text] = Field(json_schema_extra=NON_EMPTY)
    truncate: Flag | None = Field(None, description="false refuses a request with a text that would be truncated.")
    truncation_direction: Literal["right", "left", "Right", "Left"] | None = None
    return_text: Flag | None = None


class TeiRank(HitFields):
    """A hit."""

    index: int
    score: float
    text: str | None = Field(None, description="Only with return_text.")


class TeiError(BaseModel):
    """An error."""

    error: str
    error_type: str


ERROR_TYPES: dict[ErrorKind, str] = {
    "empty": "Empty", "overloaded": "Overloaded", "unready": "Unhealthy", "failed": "Backend", "deadline": "Backend",
    "unauthorized": "Unauthorized",
}  # fmt: skip


def read(body: TeiRequest, limits: Limits) -> RerankQuery:
    """Convert a request. Raises RequestError."""
    if not body.texts:
        raise RequestError("empty", "`texts` cannot be empty", "texts")
    side = body.truncation_direction.lower() if body.truncation_direction else None
    return make_rerank_query(
        body, [QueryDocuments(body.query, body.texts)], limits, {"side": side},
        refuse_truncation=body.truncate is False, return_documents=bool(body.return_text),
    )  # fmt: skip


def write(body: TeiRequest, rerank_query: RerankQuery, answer: Answer, model: str, request_id: str) -> list[dict[str, Any]]:
    """Convert an answer."""
    return [
        {"index": at, **({"text": body.texts[at]} if rerank_query.return_documents else {})}
        | {"score": float(answer.client_scores[0][at])}
        | extra_hit_fields(rerank_query, answer, at)
        for at in answer.order()
    ]


def error_body(error: RequestError, status: int) -> dict[str, Any]:
    """Convert an error."""
    return {"error": error.message, "error_type": ERROR_TYPES.get(error.kind, "Validation")}


RERANK = Dialect(
    "tei", {"texts": TeiRequest}, list[TeiRank], TeiError, read, write, error_body, STATUSES | {"failed": 424, "deadline": 424}
)
