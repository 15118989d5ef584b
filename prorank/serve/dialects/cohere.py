"""Cohere's dialect: `POST /v2/rerank`.

Hits hold index and score alone; what was cut is told in `meta.warnings`, where the official clients show it.
"""

from __future__ import annotations

import math
from typing import Any

from pydantic import BaseModel, Field

from ..fields import MANY, Count, Flag, OurHit, Query, Ranked, Text, TextDocument
from ..limits import Limits
from ..messages import Answer, RequestError, RerankQuery
from ..request_documents import shown, texts_of
from . import STATUSES, Dialect, ask_of, more_of, top_of


class CohereRequest(Ranked):
    model: Text | None = None
    query: Query
    documents: list[Text | TextDocument] = Field(json_schema_extra=MANY)
    max_tokens_per_doc: Count | None = Field(4096, description="Tokens of a document that are read.")
    return_documents: Flag | None = Field(None, description="Not Cohere's: true adds the documents.")


class CohereDocument(BaseModel):
    text: str


class CohereResult(OurHit):
    index: int
    relevance_score: float
    document: CohereDocument | None = Field(None, description="Only where return_documents asked for it.")


class CohereVersion(BaseModel):
    version: str = "2"


class CohereUnits(BaseModel):
    search_units: float


class CohereTokens(BaseModel):
    input_tokens: float
    output_tokens: float = 0


class CohereMeta(BaseModel):
    api_version: CohereVersion
    billed_units: CohereUnits
    tokens: CohereTokens
    warnings: list[str] | None = Field(None, description="Only where there are any.")


class CohereResponse(BaseModel):
    id: str
    results: list[CohereResult]
    meta: CohereMeta


class CohereError(BaseModel):
    message: str
    id: str | None = None


def read(body: CohereRequest, limits: Limits) -> RerankQuery:
    if not body.documents:
        raise RequestError("empty", "invalid request: list of documents must not be empty", "documents")
    return ask_of(
        body, [(body.query, texts_of(body.documents, body.rank_fields))], limits, top=top_of(body), show=bool(body.return_documents)
    )  # fmt: skip


def write(body: CohereRequest, ask: RerankQuery, answer: Answer, model: str, request_id: str) -> dict[str, Any]:
    texts, scores = ask.lists[0][1], answer.shown[0]
    results = [
        {"index": at, "relevance_score": float(scores[at])}
        | ({"document": shown(body.documents[at], texts[at])} if ask.show else {})
        | more_of(ask, answer, at)
        for at in answer.order(top=ask.top)
    ]
    meta: dict[str, Any] = {
        "api_version": {"version": "2"}, "billed_units": {"search_units": math.ceil(ask.count / 100)},
        "tokens": {"input_tokens": answer.tokens, "output_tokens": 0},
    }  # fmt: skip
    if answer.warnings:
        meta["warnings"] = answer.warnings
    return {"id": request_id, "results": results, "meta": meta}


def refuse(refused: RequestError, status: int) -> dict[str, Any]:
    return {"message": refused.message}


OWN = STATUSES | {"invalid": 400}
RERANK = Dialect("cohere", [("documents", CohereRequest)], CohereResponse, CohereError, read, write, refuse, OWN)
