"""What a request asks for and what it gets, in no dialect.

Every refusal has one kind, and each dialect says what status and what body that kind has there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..prompts.truncation import DEFAULT_TRUNCATION, Truncation
from ..rank.thinking import Thought

KINDS = (
    "syntax",  # no JSON
    "invalid",  # JSON of another form, or more than is taken
    "empty",  # no documents
    "too large",  # in bytes
    "media",  # no application/json
    "slow",  # the body did not come in time
    "unauthorized",
    "model",  # another model than the one that is served
    "overloaded",
    "deadline",
    "unready",  # loading, or going
    "failed",  # our fault
)


class RequestError(Exception):
    """A request that gets no answer.

    Args:
        kind: one of KINDS.
        message: what is wrong, and the remedy; holds no text of the request.
        where: the field it is about.
        details: all that is wrong, [{"loc", "msg", "type"}], where there is more than a message.
        retry_after: seconds after which another try makes sense.
    """

    def __init__(
        self, kind: str, message: str, where: str | None = None, details: Sequence[dict[str, Any]] = (),
        retry_after: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__(message)
        self.kind, self.message, self.where, self.details, self.retry_after = kind, message, where, list(details), retry_after

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.kind, self.message, self.where, self.details, self.retry_after)


@dataclass(frozen=True)
class RerankQuery:
    """Documents to score.

    Attributes:
        lists: (query, its documents).
        instruction: in place of the prompt's own; None keeps that.
        parts: how documents are fitted into prompts.
        raw: answer with log-odds in place of 0..1.
        thoughts: answer with thoughts, too.
        top: hits wanted; 0 is all.
        show: answer with the documents.
        whole: refuse what would have to be cut.
    """

    lists: list[tuple[str, list[str]]]
    instruction: str | None = None
    parts: Truncation = DEFAULT_TRUNCATION
    raw: bool = False
    thoughts: bool = False
    top: int = 0
    show: bool = False
    whole: bool = False

    @property
    def count(self) -> int:
        """Documents in all."""
        return sum(len(documents) for _, documents in self.lists)

    @property
    def characters(self) -> int:
        """Of queries, documents and instruction."""
        return len(self.instruction or "") + sum(len(query) + sum(map(len, documents)) for query, documents in self.lists)


@dataclass
class Answer:
    """Scores of an Ask's documents.

    Attributes:
        scores: one array a list, in input order: log-odds fp32, or minus the place where the model orders lists.
        shown: what the client gets to see, fp64; `meaning` says what that is: "log-odds", "probability" (calibrated), "sigmoid" (of
            the log-odds) or "place".
        sure: calibrated probabilities fp64, one array a list; empty where there are none.
        thoughts: of each document, where the model thinks.
        cut: places in each list of documents that were cut; `queries_cut`: how many queries were.
        tokens: of all prompts.
        seconds: by stage: tokenization, queue, inference, total.
    """

    scores: list[np.ndarray]
    shown: list[np.ndarray]
    meaning: str
    sure: list[np.ndarray]
    thoughts: list[list[Thought | None]]
    cut: list[list[int]]
    queries_cut: int
    tokens: int
    seconds: dict[str, float] = field(default_factory=dict)

    def order(self, number: int = 0, top: int = 0) -> list[int]:
        """Places of a list's documents best first, equal scores in input order; at most `top`, 0 for all."""
        order = np.argsort(-self.scores[number], kind="stable").tolist()
        return order[:top] if top else order

    @property
    def warnings(self) -> list[str]:
        """What the client should know, in words."""
        cut, all_of_them = sum(map(len, self.cut)), sum(map(len, self.scores))
        said = [f"{cut} of {all_of_them} documents were cut"] if cut else []
        return (
            said
            + ([f"{self.queries_cut} queries were cut"] if self.queries_cut > 1 else [])
            + (["the query was cut"] if self.queries_cut == 1 else [])
        )
