"""The dialects: each a form of the same question and answer.

A dialect is data: what it reads, what it writes, and the status and body of each kind of refusal.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from ...prompts.truncation import Truncation
from ..fields import Ours, Ranked
from ..limits import Limits
from ..messages import Answer, RequestError, RerankQuery

STATUSES = {
    "syntax": 400, "invalid": 422, "empty": 400, "too large": 413, "media": 415, "slow": 408, "unauthorized": 401, "model": 404,
    "overloaded": 429, "deadline": 504, "unready": 503, "failed": 500,
}  # fmt: skip


@dataclass(frozen=True)
class Dialect:
    """An endpoint's dialect.

    Attributes:
        name: of the dialect.
        bodies: models of the request, the first whose key is there is meant: (key, model).
        answers: model of the answer, for the schema.
        errors: model of a refusal, for the schema.
        read: a request's model and the limits to an Ask.
        write: the model, its Ask, the Answer, the served model's name and the request's id to the answer's body.
        refuse: a refusal and its status to a body.
        statuses: of kinds of refusals.
    """

    name: str
    bodies: Sequence[tuple[str, type[BaseModel]]]
    answers: Any
    errors: Any
    read: Callable[[Any, Limits], RerankQuery]
    write: Callable[[Any, RerankQuery, Answer, str, str], Any]
    refuse: Callable[[RequestError, int], Any]
    statuses: dict[str, int]

    def body_of(self, value: dict[str, Any]) -> type[BaseModel]:
        """The model that a request's object is meant as."""
        return next((model for key, model in self.bodies if key in value), self.bodies[0][1])


def ask_of(ours: Ours, lists: list[tuple[str, list[str]]], limits: Limits, **more: Any) -> RerankQuery:
    """An Ask of our common fields. `more`: fields of RerankQuery, and of Truncation."""
    fitted = {key: more.pop(key) for key in ("side", "max_prompt_tokens", "max_query_tokens") if key in more}
    bounds = [bound for bound in (ours.max_tokens_per_doc, limits.tokens_per_doc) if bound]
    parts = Truncation(max_document_tokens=min(bounds, default=None), max_chunks=_chunks(ours, limits), **fitted)
    raw = more.pop("raw", False) or bool(ours.raw_scores)
    whole = more.pop("whole", False) or getattr(ours, "truncation", None) is False
    return RerankQuery(lists, ours.instruction, parts, raw, bool(ours.return_thoughts), whole=whole, **more)


def top_of(ranked: Ranked) -> int:
    """Hits wanted; 0 for all. Raises Refused where two fields say different numbers."""
    if ranked.top_n and ranked.top_k and ranked.top_n != ranked.top_k:
        raise RequestError("invalid", "top_n and top_k are different numbers; give one of them", "top_k")
    return ranked.top_n or ranked.top_k or 0


def _chunks(ours: Ours, limits: Limits) -> int:
    """Prompts that a long document may take."""
    wanted = getattr(ours, "max_chunks_per_doc", None) or 0
    if ours.long_documents == "truncate" or (ours.long_documents is None and wanted < 2):
        return 1
    return min(wanted or limits.chunks, limits.chunks)


def more_of(ask: RerankQuery, answer: Answer, at: int, number: int = 0) -> dict[str, Any]:
    """What a hit has besides: the probability that its log-odds mean, and its thought, where they were asked for."""
    thought = answer.thoughts[number][at] if ask.thoughts else None
    sure = {"probability": float(answer.sure[number][at])} if answer.meaning == "log-odds" and answer.sure else {}
    return sure | ({"thought": thought.text, "thought_cut": thought.cut} if thought else {})


def usage_of(answer: Answer) -> dict[str, int]:
    return {"prompt_tokens": answer.tokens, "total_tokens": answer.tokens}
