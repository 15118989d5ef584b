"""The dialect of text-embeddings-inference: `POST /rerank` with `texts`.

The answer is a bare list, best first, and an error is {"error", "error_type"}; a request that is no valid JSON object
gets that form, too, where TEI itself answers in plain text.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from ..fields import MANY, Flag, OurHit, Ours, Query, Text
from ..limits import Limits
from ..messages import Answer, RequestError, RerankQuery
from . import STATUSES, Dialect, ask_of, more_of


class TeiRequest(Ours):
    query: Query
    texts: list[Text] = Field(json_schema_extra=MANY)
    truncate: Flag | None = Field(None, description="false refuses texts that would be cut.")
    truncation_direction: Literal["right", "left", "Right", "Left"] | None = None
    return_text: Flag | None = None


class TeiRank(OurHit):
    index: int
    score: float
    text: str | None = Field(None, description="Only where return_text asked for it.")


class TeiError(BaseModel):
    error: str
    error_type: str


TYPES = {
    "empty": "Empty", "overloaded": "Overloaded", "unready": "Unhealthy", "failed": "Backend", "deadline": "Backend",
    "unauthorized": "Unauthorized",
}  # fmt: skip


def read(body: TeiRequest, limits: Limits) -> RerankQuery:
    if not body.texts:
        raise RequestError("empty", "`texts` cannot be empty", "texts")
    return ask_of(
        body, [(body.query, body.texts)], limits, side=(body.truncation_direction or "right").lower(), whole=body.truncate is False,
        show=bool(body.return_text),
    )  # fmt: skip


def write(body: TeiRequest, ask: RerankQuery, answer: Answer, model: str, request_id: str) -> list[dict[str, Any]]:
    return [
        {"index": at, **({"text": body.texts[at]} if ask.show else {}), "score": float(answer.shown[0][at])}
        | more_of(ask, answer, at)
        for at in answer.order()
    ]


def refuse(refused: RequestError, status: int) -> dict[str, Any]:
    return {"error": refused.message, "error_type": TYPES.get(refused.kind, "Validation")}


RERANK = Dialect(
    "tei", [("texts", TeiRequest)], list[TeiRank], TeiError, read, write, refuse, STATUSES | {"failed": 424, "deadline": 424}
)
