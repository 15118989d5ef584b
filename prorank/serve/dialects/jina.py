"""Jina's dialect: `POST /v1/rerank`.

A hit contains its document only with `return_documents`, which is Jina's default since October 2025.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

from ..fields import NON_EMPTY, Flag, HitFields, Query, RankingFields, RequestBody, Text, TextDocument, Usage
from ..limits import Limits
from ..messages import Answer, QueryDocuments, RequestError, RerankQuery
from ..request_documents import texts_of
from . import STATUSES, Dialect, make_rerank_query, requested_hits
from .hit_fields import ranked_hits, token_usage


class JinaQuery(RequestBody):
    """A query as an object."""

    text: Query


class JinaRequest(RankingFields):
    """A request of `/v1/rerank`."""

    model: Text | None = None
    query: Query | JinaQuery
    documents: list[Text | TextDocument] = Field(json_schema_extra=NON_EMPTY)
    return_documents: Flag | None = Field(None, description="Add the documents to the hits; false by default.")


class JinaDocument(BaseModel):
    """A document in a hit."""

    text: str


class JinaResult(HitFields):
    """A hit."""

    index: int
    relevance_score: float
    document: JinaDocument | None = Field(None, description="Only with return_documents.")


class JinaResponse(BaseModel):
    """An answer of `/v1/rerank`."""

    model: str
    object: str = "list"
    usage: Usage
    results: list[JinaResult]


class JinaDetail(BaseModel):
    """A problem of a request."""

    loc: list[str | int]
    msg: str
    type: str


class JinaError(BaseModel):
    """An error with its problems."""

    detail: str | list[JinaDetail]


def read(body: JinaRequest, limits: Limits) -> RerankQuery:
    """Convert a request. Raises RequestError."""
    if not body.documents:
        raise RequestError("invalid", "documents must contain at least one document", "documents")
    query = body.query if isinstance(body.query, str) else body.query.text
    lists = [QueryDocuments(query, texts_of(body.documents, body.rank_fields))]
    return make_rerank_query(body, lists, limits, top_n=requested_hits(body), return_documents=bool(body.return_documents))


def write(body: JinaRequest, rerank_query: RerankQuery, answer: Answer, model: str, request_id: str) -> dict[str, Any]:
    """Convert an answer."""
    results = ranked_hits(body.documents, rerank_query, answer)
    return {"model": model, "object": "list", "usage": token_usage(answer), "results": results}


def error_body(error: RequestError, status: int) -> dict[str, Any]:
    """Convert an error."""
    return {"detail": error.details or error.message}


RERANK = Dialect("jina", {"documents": JinaRequest}, JinaResponse, JinaError, read, write, error_body, STATUSES | {"syntax": 422})
