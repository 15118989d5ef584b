"""Requests, answers and errors, independent of any dialect.

Every error has one kind. Each dialect maps kinds to a status code and a body.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np

from ..prompts.truncation import DEFAULT_TRUNCATION, Truncation
from ..rank.documents import GeneratedThought

ErrorKind = Literal[
    "syntax",  # the body is not JSON
    "invalid",  # wrong JSON structure, or a value out of range
    "empty",  # no documents
    "too large",  # too many bytes
    "media",  # the content type is not application/json
    "slow",  # the body did not arrive in time
    "unauthorized",
    "model",  # the request names another model
    "overloaded",
    "deadline",
    "unready",  # the server is loading or stopping
    "failed",  # an error of the server itself
]
ScoreKind = Literal["log-odds", "probability", "sigmoid", "place"]  # values of the header x-prorank-scores


class RequestError(Exception):
    """An error for a request that the server rejects.

    Args:
        kind: see ErrorKind.
        message: the problem and the remedy, without text of the request.
        where: name of the field.
        details: all problems as [{"loc", "msg", "type"}], if the message alone does not name them.
        retry_after: seconds after which the client may try again.
    """

    def __init__(
        self, kind: ErrorKind, message: str, where: str | None = None, details: Sequence[dict[str, Any]] = (),
        retry_after: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__(message)
        self.kind: ErrorKind = kind
        self.message, self.where, self.details, self.retry_after = message, where, list(details), retry_after

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.kind, self.message, self.where, self.details, self.retry_after)


class QueryDocuments(NamedTuple):
    """A query and the documents to score for it."""

    query: str
    documents: list[str]


@dataclass(frozen=True)
class RerankQuery:
    """A request to score documents, independent of its dialect.

    Attributes:
        lists: one entry per query.
        instruction: replaces the instruction of the prompt; None keeps it.
        truncation: how documents are fitted into prompts.
        raw_scores: answer with log-odds instead of values in 0..1.
        return_thoughts: add the thoughts of a thinking model.
        top_n: number of hits; 0 for all.
        return_documents: add the documents to the hits.
        refuse_truncation: refuse the request if a text would have to be truncated.
        model_chunks: maximum number of chunks of a long document if the model reads such documents in chunks; 0 if the request
            itself says how they are read.
    """

    lists: list[QueryDocuments]
    instruction: str | None = None
    truncation: Truncation = DEFAULT_TRUNCATION
    raw_scores: bool = False
    return_thoughts: bool = False
    top_n: int = 0
    return_documents: bool = False
    refuse_truncation: bool = False
    model_chunks: int = 0

    def for_model(self, reads_chunks: bool) -> RerankQuery:
        """Return the request with the model's way of reading long documents, unless it has one of its own."""
        if not (reads_chunks and self.model_chunks):
            return self
        return replace(self, truncation=replace(self.truncation, max_chunks=self.model_chunks))

    @property
    def num_documents(self) -> int:
        """Number of documents in all lists."""
        return sum(len(documents) for _, documents in self.lists)

    @property
    def num_characters(self) -> int:
        """Characters of all queries, all documents and the instruction."""
        return len(self.instruction or "") + sum(len(query) + sum(map(len, documents)) for query, documents in self.lists)


@dataclass(frozen=True)
class StageSeconds:
    """Seconds a request spent in each stage. `total` runs from its arrival to its answer."""

    tokenization: float
    queue: float
    inference: float
    total: float


@dataclass(frozen=True)
class Answer:
    """The scores of a RerankQuery.

    Attributes:
        scores: one fp32 array [documents] per list, in input order: log-odds or, for a listwise model, minus the rank.
        client_scores: the scores for the client, fp64, in the same shape.
        score_kind: kind of `client_scores`: "log-odds", "probability" (calibrated), "sigmoid" (of the log-odds) or "place".
        probabilities: calibrated probabilities, one fp64 array per list; empty without calibration.
        thoughts: one list per query, None for documents without a thought.
        truncated: indices of the truncated documents of each list.
        num_truncated_queries: number of queries that were truncated.
        num_stored: number of documents in all lists whose keys and values were stored.
        tokens: number of tokens of all prompts.
        seconds: time by stage.
    """

    scores: list[np.ndarray]
    client_scores: list[np.ndarray]
    score_kind: ScoreKind
    probabilities: list[np.ndarray]
    thoughts: list[list[GeneratedThought | None]]
    truncated: list[list[int]]
    num_truncated_queries: int
    num_stored: int
    tokens: int
    seconds: StageSeconds

    def order(self, list_index: int = 0, top_n: int = 0) -> list[int]:
        """Return the document indices of a list, best first, equal scores in input order; at most `top_n`, 0 for all."""
        order = np.argsort(-self.scores[list_index], kind="stable").tolist()
        return order[:top_n] if top_n else order

    @property
    def num_truncated(self) -> int:
        """Number of truncated documents in all lists."""
        return sum(map(len, self.truncated))

    @property
    def warnings(self) -> list[str]:
        """Warnings about truncation, as sentences for the client."""
        total, queries = sum(map(len, self.scores)), self.num_truncated_queries
        warnings = [f"{self.num_truncated} of {total} documents were cut"] if self.num_truncated else []
        if queries:
            warnings.append("the query was cut" if queries == 1 else f"{queries} queries were cut")
        return warnings
