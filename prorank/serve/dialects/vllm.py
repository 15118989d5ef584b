"""vLLM's dialect: `POST /score`, and `POST /rerank` with `documents`.

/score answers in input order, for one query with many documents or for pairs; /rerank answers best first and hits hold
their documents unless `return_documents` is false.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from ..fields import MANY, Count, CountOrAll, Flag, OurHit, Ours, Query, Ranked, Text, TextDocument, Usage
from ..limits import Limits
from ..messages import Answer, RequestError, RerankQuery
from ..request_documents import texts_of
from . import STATUSES, Dialect, ask_of, more_of, top_of, usage_of

Queries = Query | Annotated[list[Query], Field(json_schema_extra=MANY)]
Documents = Text | TextDocument | Annotated[list[Text | TextDocument], Field(json_schema_extra=MANY)]


class VllmFields(Ours):
    model: Text | None = None
    use_activation: Flag | None = Field(None, description="false answers with log-odds.")
    activation: Flag | None = Field(None, description="Its older name.")
    truncate_prompt_tokens: CountOrAll | None = Field(None, description="Tokens of a whole prompt at most; -1, 0 or null: its own.")
    truncation_side: Literal["left", "right"] | None = None
    max_tokens_per_query: Count | None = None
    request_id: Text | None = None


class VllmRerankRequest(VllmFields, Ranked):
    query: Query
    documents: Documents
    return_documents: Flag | None = Field(None, description="Null or absent: yes.")


class VllmQueriesDocuments(VllmFields):
    queries: Queries
    documents: Documents


class VllmQueriesItems(VllmFields):
    queries: Queries
    items: Documents


class VllmTexts(VllmFields):
    text_1: Queries
    text_2: Documents


class VllmData(VllmFields):
    data_1: Queries
    data_2: Documents


class VllmDocument(BaseModel):
    text: str | None = None
    multi_modal: None = None


class VllmResult(OurHit):
    index: int
    document: VllmDocument | None = Field(None, description="Absent where return_documents is false.")
    relevance_score: float


class VllmRerankResponse(BaseModel):
    id: str
    model: str
    usage: Usage
    results: list[VllmResult]


class VllmScore(OurHit):
    index: int
    object: str = "score"
    score: float


class VllmScoreUsage(Usage):
    completion_tokens: int = 0
    prompt_tokens_details: None = None


class VllmScoreResponse(BaseModel):
    id: str
    object: str = "list"
    created: int
    model: str
    data: list[VllmScore]
    usage: VllmScoreUsage


class VllmErrorInfo(BaseModel):
    message: str
    type: str
    param: str | None = None
    code: int


class VllmError(BaseModel):
    error: VllmErrorInfo


TYPES = {
    "unauthorized": "AuthenticationError", "model": "NotFoundError", "too large": "RequestTooLargeError",
    "media": "UnsupportedMediaTypeError", "overloaded": "RateLimitError", "unready": "ServiceUnavailableError",
    "failed": "InternalServerError", "deadline": "TimeoutError", "slow": "TimeoutError",
}  # fmt: skip


def _ask(body: VllmFields, lists: list[tuple[str, list[str]]], limits: Limits, **more: Any) -> RerankQuery:
    prompt = body.truncate_prompt_tokens
    return ask_of(
        body, lists, limits, raw=False in (body.use_activation, body.activation), side=body.truncation_side or "right",
        max_prompt_tokens=prompt if prompt and prompt > 0 else None, max_query_tokens=body.max_tokens_per_query or None, **more,
    )  # fmt: skip


def _many(documents: Any, fields: Sequence[str] | None = None) -> list[str]:
    return texts_of(documents if isinstance(documents, list) else [documents], fields)


def read_rerank(body: VllmRerankRequest, limits: Limits) -> RerankQuery:
    if not (texts := _many(body.documents, body.rank_fields)):
        raise RequestError("empty", "At least one text_pair element must be given", "documents")
    return _ask(body, [(body.query, texts)], limits, top=top_of(body), show=body.return_documents is not False)


def write_rerank(body: VllmRerankRequest, ask: RerankQuery, answer: Answer, model: str, request_id: str) -> dict[str, Any]:
    texts, shown = ask.lists[0][1], answer.shown[0]
    results = [
        {"index": at, **({"document": {"text": texts[at], "multi_modal": None}} if ask.show else {})}
        | {"relevance_score": float(shown[at])}
        | more_of(ask, answer, at)
        for at in answer.order(top=ask.top)
    ]
    return {"id": body.request_id or f"score-{request_id}", "model": model, "usage": usage_of(answer), "results": results}


def pairs(body: VllmFields) -> list[tuple[str, str]]:
    """(query, document) in input order. Raises Refused where their numbers do not fit."""
    first, second = next((a, b) for a, b in SIDES if hasattr(body, a) and hasattr(body, b))
    queries, documents = getattr(body, first), _many(getattr(body, second))
    queries = queries if isinstance(queries, list) else [queries]
    if not queries:
        raise RequestError("empty", "At least one text element must be given", first)
    if not documents:
        raise RequestError("empty", "At least one text_pair element must be given", second)
    if len(queries) > 1 and len(queries) != len(documents):
        raise RequestError("invalid", "Input lengths must be either 1:1, 1:N or N:N", first)
    return list(zip(queries * len(documents) if len(queries) == 1 else queries, documents))


def read_score(body: VllmFields, limits: Limits) -> RerankQuery:
    lists: dict[str, list[str]] = {}
    for query, document in pairs(body):
        lists.setdefault(query, []).append(document)
    return _ask(body, list(lists.items()), limits)


def write_score(body: VllmFields, ask: RerankQuery, answer: Answer, model: str, request_id: str) -> dict[str, Any]:
    number = {query: at for at, (query, _) in enumerate(ask.lists)}
    taken, data = [0] * len(ask.lists), []
    for index, (query, _) in enumerate(pairs(body)):
        at, taken[number[query]] = taken[number[query]], taken[number[query]] + 1
        score = float(answer.shown[number[query]][at])
        data.append({"index": index, "object": "score", "score": score} | more_of(ask, answer, at, number[query]))
    usage = usage_of(answer) | {"completion_tokens": 0, "prompt_tokens_details": None}
    name = body.request_id or f"score-{request_id}"
    return {"id": name, "object": "list", "created": int(time.time()), "model": model, "data": data, "usage": usage}


def refuse(refused: RequestError, status: int) -> dict[str, Any]:
    kind = TYPES.get(refused.kind, "BadRequestError")
    return {"error": {"message": refused.message, "type": kind, "param": refused.where, "code": status}}


SIDES = (("queries", "documents"), ("queries", "items"), ("text_1", "text_2"), ("data_1", "data_2"))
OWN = STATUSES | {"invalid": 400}
RERANK = Dialect("vllm", [("documents", VllmRerankRequest)], VllmRerankResponse, VllmError, read_rerank, write_rerank, refuse, OWN)
SCORE = Dialect(
    "vllm",
    [("documents", VllmQueriesDocuments), ("items", VllmQueriesItems), ("text_1", VllmTexts), ("data_1", VllmData)],
    VllmScoreResponse, VllmError, read_score, write_score, refuse, OWN,
)  # fmt: skip
