"""Jina's dialect: `POST /v1/rerank`.

A hit carries its document only where `return_documents` asks for it, as Jina has had it since October 2025.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

from ..fields import MANY, Body, Flag, OurHit, Query, Ranked, Text, TextDocument, Usage
from ..limits import Limits
from ..messages import Answer, RequestError, RerankQuery
from ..request_documents import shown, texts_of
from . import STATUSES, Dialect, ask_of, more_of, top_of, usage_of


class JinaQuery(Body):
    text: Query


class JinaRequest(Ranked):
    model: Text | None = None
    query: Query | JinaQuery
    documents: list[Text | TextDocument] = Field(json_schema_extra=MANY)
    return_documents: Flag | None = Field(None, description="Null or absent: no.")


class JinaDocument(BaseModel):
    text: str


class JinaResult(OurHit):
    index: int
    relevance_score: float
    document: JinaDocument | None = Field(None, description="Only where return_documents asked for it.")


class JinaResponse(BaseModel):
    model: str
    object: str = "list"
    usage: Usage
    results: list[JinaResult]


class JinaDetail(BaseModel):
    loc: list[str | int]
    msg: str
    type: str


class JinaError(BaseModel):
    detail: str | list[JinaDetail]


def read(body: JinaRequest, limits: Limits) -> RerankQuery:
    if not body.documents:
        raise RequestError("invalid", "documents must hold at least one document", "documents")
    query = body.query if isinstance(body.query, str) else body.query.text
    return ask_of(
        body, [(query, texts_of(body.documents, body.rank_fields))], limits, top=top_of(body), show=bool(body.return_documents)
    )  # fmt: skip


def write(body: JinaRequest, ask: RerankQuery, answer: Answer, model: str, request_id: str) -> dict[str, Any]:
    texts, scores = ask.lists[0][1], answer.shown[0]
    results = [
        {"index": at, "relevance_score": float(scores[at])}
        | ({"document": shown(body.documents[at], texts[at])} if ask.show else {})
        | more_of(ask, answer, at)
        for at in answer.order(top=ask.top)
    ]
    return {"model": model, "object": "list", "usage": usage_of(answer), "results": results}


def refuse(refused: RequestError, status: int) -> dict[str, Any]:
    return {"detail": refused.details or refused.message}


RERANK = Dialect("jina", [("documents", JinaRequest)], JinaResponse, JinaError, read, write, refuse, STATUSES | {"syntax": 422})
