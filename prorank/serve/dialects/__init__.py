"""Dialects: forms of the same request and answer.

A dialect is data: what it reads, what it writes, and the status and body of each kind of error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from ...prompts.truncation import Truncation
from ..fields import CommonFields, RankingFields
from ..limits import Limits
from ..messages import Answer, ErrorKind, QueryDocuments, RequestError, RerankQuery

STATUSES: dict[ErrorKind, int] = {
    "syntax": 400, "invalid": 422, "empty": 400, "too large": 413, "media": 415, "slow": 408, "unauthorized": 401, "model": 404,
    "overloaded": 429, "deadline": 504, "unready": 503, "failed": 500,
}  # fmt: skip


@dataclass(frozen=True)
class Dialect:
    """The dialect of an endpoint.

    Attributes:
        name: name of the dialect.
        bodies: request models by the field that identifies them; the first whose field is present is used.
        answer_model: model of the answer, for the schema.
        error_model: model of an error, for the schema.
        read: converts (request model, limits) to a RerankQuery.
        write: converts (request model, its RerankQuery, Answer, name of the served model, request id) to the body of the answer.
        error_body: converts (error, status) to the body of the error.
        statuses: status by kind of error.
    """

    name: str
    bodies: Mapping[str, type[BaseModel]]
    answer_model: Any
    error_model: Any
    read: Callable[[Any, Limits], RerankQuery]
    write: Callable[[Any, RerankQuery, Answer, str, str], Any]
    error_body: Callable[[RequestError, int], Any]
    statuses: Mapping[ErrorKind, int]

    def matches(self, value: dict[str, Any]) -> bool:
        """Whether a JSON object has an identifying field of this dialect."""
        return any(field in value for field in self.bodies)

    def model_for(self, value: dict[str, Any]) -> type[BaseModel]:
        """Return the request model for a JSON object; the first one if no identifying field is present."""
        models = list(self.bodies.values())
        return next((model for field, model in self.bodies.items() if field in value), models[0])


def make_rerank_query(
    body: CommonFields, lists: list[QueryDocuments], limits: Limits, truncation_options: Mapping[str, Any] | None = None,
    raw_scores: bool = False, refuse_truncation: bool = False, **options: Any,
) -> RerankQuery:  # fmt: skip
    """Make a RerankQuery from the common fields of a body.

    Args:
        body: the request model.
        lists: its queries and documents.
        limits: limits of the server.
        truncation_options: fields of Truncation that only this dialect has; None for those that the request does not give.
        raw_scores, refuse_truncation: fields of RerankQuery that dialects derive from their own fields.
        options: further fields of RerankQuery.
    """
    caps = [cap for cap in (body.max_tokens_per_doc, limits.max_tokens_per_doc) if cap]
    requested = {name: value for name, value in (truncation_options or {}).items() if value}
    chosen = _num_chunks(body, limits)
    truncation = Truncation(max_document_tokens=min(caps, default=None), max_chunks=chosen or 1, **requested)
    is_model_to_choose = chosen is None and not {"side", "max_prompt_tokens"} & requested.keys()
    return RerankQuery(
        lists, body.instruction, truncation,
        raw_scores=raw_scores or bool(body.raw_scores), return_thoughts=bool(body.return_thoughts),
        refuse_truncation=refuse_truncation or getattr(body, "truncation", None) is False,
        model_chunks=limits.max_chunks if is_model_to_choose else 0, **options,
    )  # fmt: skip


def requested_hits(body: RankingFields) -> int:
    """Return the number of hits to answer with; 0 for all. Raises RequestError if top_n and top_k differ."""
    if body.top_n and body.top_k and body.top_n != body.top_k:
        raise RequestError("invalid", "top_n and top_k are different numbers; give one of them", "top_k")
    return body.top_n or body.top_k or 0


def _num_chunks(body: CommonFields, limits: Limits) -> int | None:
    """Return the number of prompts that a long document may take; None if the request does not say how to read such documents."""
    requested = getattr(body, "max_chunks_per_doc", None) or 0
    if body.long_documents == "truncate":
        return 1
    if body.long_documents is None and not requested:
        return None
    return min(requested or limits.max_chunks, limits.max_chunks)
