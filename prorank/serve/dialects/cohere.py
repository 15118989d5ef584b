"""Cohere's dialect: `POST /v2/rerank`.

A hit contains its index and score only. Truncation is reported in `meta.warnings`, which the official clients show.
"""

from __future__ import annotations

import math
from typing import Any

from pydantic import BaseModel, Field

from ..fields import NON_EMPTY, Count, Flag, HitFields, Query, RankingFields, Text, TextDocument
from ..limits import Limits
from ..messages import Answer, QueryDocuments, RequestError, RerankQuery
from ..request_documents import texts_of
from . import STATUSES, Dialect, make_rerank_query, requested_hits
from .hit_fields import ranked_hits

DOCUMENTS_PER_SEARCH_UNIT = 100


class CohereRequest(RankingFields):
    """A request of `/v2/rerank`."""

    model: Text | None = None
    query: Query
    documents: list[Text | TextDocument] = Field(json_schema_extra=NON_EMPTY)
    max_tokens_per_doc: Count | None = Field(4096, description="Tokens to read of a document.")
    return_documents: Flag | None = Field(None, description="An addition to Cohere's fields: true adds the documents.")


class CohereDocument(BaseModel):
    """A document in a hit."""

    text: str


class CohereResult(HitFields):
    """A hit."""

    index: int
    relevance_score: float
    document: CohereDocument | None = Field(None, description="Only with return_documents.")


class CohereVersion(BaseModel):
    """Version of the API."""

    version: str = "2"


class CohereUnits(BaseModel):
    """Billed units of an answer."""

    search_units: float


class CohereTokens(BaseModel):
    """Tokens of an answer."""

    input_tokens: float
    output_tokens: float = 0


class CohereMeta(BaseModel):
    """Metadata of an answer, with warnings about truncation."""

    api_version: CohereVersion
    billed_units: CohereUnits
    tokens: CohereTokens
    warnings: list[str] | None = Field(None, description="Only if there are any.")


class CohereResponse(BaseModel):
    """An answer of `/v2/rerank`."""

    id: str
    results: list[CohereResult]
    meta: CohereMeta


class CohereError(BaseModel):
    """An error."""

    message: str
    id: str | None = None


def read(body: CohereRequest, limits: Limits) -> RerankQuery:
    """Convert a request. Raises RequestError."""
    if not body.documents:
        raise RequestError("empty", "invalid request: list of documents must not be empty", "documents")
    lists = [QueryDocuments(body.query, texts_of(body.documents, body.rank_fields))]
    return make_rerank_query(body, lists, limits, top_n=requested_hits(body), return_documents=bool(body.return_documents))


def write(body: CohereRequest, rerank_query: RerankQuery, answer: Answer, model: str, request_id: str) -> dict[str, Any]:
    """Convert an answer."""
    meta: dict[str, Any] = {
        "api_version": {"version": "2"},
        "billed_units": {"search_units": math.ceil(rerank_query.num_documents / DOCUMENTS_PER_SEARCH_UNIT)},
        "tokens": {"input_tokens": answer.tokens, "output_tokens": 0},
    }
    if answer.warnings:
        meta["warnings"] = answer.warnings
    return {"id": request_id, "results": ranked_hits(body.documents, rerank_query, answer), "meta": meta}


def error_body(error: RequestError, status: int) -> dict[str, Any]:
    """Convert an error."""
    return {"message": error.message}


RERANK = Dialect(
    "cohere", {"documents": CohereRequest}, CohereResponse, CohereError, read, write, error_body, STATUSES | {"invalid": 400}
)
