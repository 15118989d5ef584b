"""vLLM's dialect: `POST /score`, and `POST /rerank` with `documents`.

/score answers in input order, for one query with many documents or for pairs. /rerank answers best first, and its hits contain
their documents unless `return_documents` is false.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from ..fields import NON_EMPTY, CommonFields, Count, CountOrAll, Flag, HitFields, Query, RankingFields, Text, TextDocument, Usage
from ..limits import Limits
from ..messages import Answer, ErrorKind, QueryDocuments, RequestError, RerankQuery
from ..request_documents import texts_of
from . import STATUSES, Dialect, make_rerank_query, requested_hits
from .hit_fields import extra_hit_fields, token_usage

# Names of the fields for queries and documents in the four forms of /score.
SIDES = (("queries", "documents"), ("queries", "items"), ("text_1", "text_2"), ("data_1", "data_2"))
Queries = Query | Annotated[list[Query], Field(json_schema_extra=NON_EMPTY)]
Documents = Text | TextDocument | Annotated[list[Text | TextDocument], Field(json_schema_extra=NON_EMPTY)]


class VllmFields(CommonFields):
    """Fields of all requests of vLLM."""

    model: Text | None = None
    use_activation: Flag | None = Field(None, description="false answers with log-odds.")
    activation: Flag | None = Field(None, description="Older name of use_activation.")
    truncate_prompt_tokens: CountOrAll | None = Field(
        None, description="Maximum tokens of a whole prompt; -1, 0 or null: the limit of the model."
    )
    truncation_side: Literal["left", "right"] | None = None
    max_tokens_per_query: Count | None = None
    request_id: Text | None = None


class VllmRerankRequest(VllmFields, RankingFields):
    """A request of `/rerank` with `documents`."""

    query: Query
    documents: Documents
    return_documents: Flag | None = Field(None, description="Add the documents to the hits; true by default.")


class VllmQueriesDocuments(VllmFields):
    """A request of `/score` with `queries` and `documents`."""

    queries: Queries
    documents: Documents


class VllmQueriesItems(VllmFields):
    """A request of `/score` with `queries` and `items`."""

    queries: Queries
    items: Documents


class VllmTexts(VllmFields):
    """A request of `/score` with `text_1` and `text_2`."""

    text_1: Queries
    text_2: Documents


class VllmData(VllmFields):
    """A request of `/score` with `data_1` and `data_2`."""

    data_1: Queries
    data_2: Documents


class VllmDocument(BaseModel):
    """A document in a hit."""

    text: str | None = None
    multi_modal: None = None


class VllmResult(HitFields):
    """A hit."""

    index: int
    document: VllmDocument | None = Field(None, description="Absent if return_documents is false.")
    relevance_score: float


class VllmRerankResponse(BaseModel):
    """An answer of `/rerank`."""

    id: str
    model: str
    usage: Usage
    results: list[VllmResult]


class VllmScore(HitFields):
    """A score in input order."""

    index: int
    object: str = "score"
    score: float


class VllmScoreUsage(Usage):
    """Tokens of an answer of `/score`."""

    completion_tokens: int = 0
    prompt_tokens_details: None = None


class VllmScoreResponse(BaseModel):
    """An answer of `/score`."""

    id: str
    object: str = "list"
    created: int
    model: str
    data: list[VllmScore]
    usage: VllmScoreUsage


class VllmErrorInfo(BaseModel):
    """Message, type and status of an error."""

    message: str
    type: str
    param: str | None = None
    code: int


class VllmError(BaseModel):
    """An error."""

    error: VllmErrorInfo


ERROR_TYPES: dict[ErrorKind, str] = {
    "unauthorized": "AuthenticationError", "model": "NotFoundError", "too large": "RequestTooLargeError",
    "media": "UnsupportedMediaTypeError", "overloaded": "RateLimitError", "unready": "ServiceUnavailableError",
    "failed": "InternalServerError", "deadline": "TimeoutError", "slow": "TimeoutError",
}  # fmt: skip


def read_rerank(body: VllmRerankRequest, limits: Limits) -> RerankQuery:
    """Convert a request of /rerank. Raises RequestError."""
    if not (texts := _texts(body.documents, body.rank_fields)):
        raise RequestError("empty", "At least one text_pair element must be given", "documents")
    options = {"top_n": requested_hits(body), "return_documents": body.return_documents is not False}
    return _make_query(body, [QueryDocuments(body.query, texts)], limits, **options)


def read_score(body: VllmFields, limits: Limits) -> RerankQuery:
    """Convert a request of /score; pairs of equal queries form one list. Raises RequestError."""
    lists: dict[str, list[str]] = {}
    for query, document in _pairs(body):
        lists.setdefault(query, []).append(document)
    return _make_query(body, [QueryDocuments(query, documents) for query, documents in lists.items()], limits)


def _make_query(body: VllmFields, lists: list[QueryDocuments], limits: Limits, **options: Any) -> RerankQuery:
    max_prompt = body.truncate_prompt_tokens
    truncation_options = {
        "side": body.truncation_side, "max_prompt_tokens": max_prompt if max_prompt and max_prompt > 0 else None,
        "max_query_tokens": body.max_tokens_per_query,
    }  # fmt: skip
    raw = False in (body.use_activation, body.activation)
    return make_rerank_query(body, lists, limits, truncation_options, raw_scores=raw, **options)


def _texts(documents: Any, fields: Sequence[str] | None = None) -> list[str]:
    return texts_of(documents if isinstance(documents, list) else [documents], fields)


def _pairs(body: VllmFields) -> list[tuple[str, str]]:
    """Return (query, document) pairs in input order. Raises RequestError if their numbers do not match."""
    first, second = next((a, b) for a, b in SIDES if hasattr(body, a) and hasattr(body, b))
    queries, documents = getattr(body, first), _texts(getattr(body, second))
    queries = queries if isinstance(queries, list) else [queries]
    if not queries:
        raise RequestError("empty", "At least one text element must be given", first)
    if not documents:
        raise RequestError("empty", "At least one text_pair element must be given", second)
    if len(queries) > 1 and len(queries) != len(documents):
        raise RequestError("invalid", "Input lengths must be either 1:1, 1:N or N:N", first)
    return list(zip(queries * len(documents) if len(queries) == 1 else queries, documents))


def write_rerank(body: VllmRerankRequest, rerank_query: RerankQuery, answer: Answer, model: str, request_id: str) -> dict[str, Any]:
    """Convert an answer of /rerank."""
    texts, scores = rerank_query.lists[0].documents, answer.client_scores[0]
    results = [
        {"index": at, **({"document": {"text": texts[at], "multi_modal": None}} if rerank_query.return_documents else {})}
        | {"relevance_score": float(scores[at])}
        | extra_hit_fields(rerank_query, answer, at)
        for at in answer.order(top_n=rerank_query.top_n)
    ]
    return {"id": _id(body, request_id), "model": model, "usage": token_usage(answer), "results": results}


def write_score(body: VllmFields, rerank_query: RerankQuery, answer: Answer, model: str, request_id: str) -> dict[str, Any]:
    """Convert an answer of /score."""
    list_indices = {query: at for at, (query, _) in enumerate(rerank_query.lists)}
    positions, data = [0] * len(rerank_query.lists), []  # positions: the next document of each list
    for index, (query, _) in enumerate(_pairs(body)):
        list_index = list_indices[query]
        at = positions[list_index]
        positions[list_index] += 1
        hit = {"index": index, "object": "score", "score": float(answer.client_scores[list_index][at])}
        data.append(hit | extra_hit_fields(rerank_query, answer, at, list_index))
    return {
        "id": _id(body, request_id), "object": "list", "created": int(time.time()), "model": model, "data": data,
        "usage": token_usage(answer) | {"completion_tokens": 0, "prompt_tokens_details": None},
    }  # fmt: skip


def _id(body: VllmFields, request_id: str) -> str:
    return body.request_id or f"score-{request_id}"


def error_body(error: RequestError, status: int) -> dict[str, Any]:
    """Convert an error."""
    kind = ERROR_TYPES.get(error.kind, "BadRequestError")
    return {"error": {"message": error.message, "type": kind, "param": error.where, "code": status}}


OWN_STATUSES = STATUSES | {"invalid": 400}
RERANK = Dialect(
    "vllm", {"documents": VllmRerankRequest}, VllmRerankResponse, VllmError, read_rerank, write_rerank, error_body, OWN_STATUSES
)
SCORE = Dialect(
    "vllm",
    {"documents": VllmQueriesDocuments, "items": VllmQueriesItems, "text_1": VllmTexts, "data_1": VllmData},
    VllmScoreResponse, VllmError, read_score, write_score, error_body, OWN_STATUSES,
)  # fmt: skip
