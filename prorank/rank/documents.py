"""What goes into a ranking and comes out of it: documents, their checks, hits.

Hard fact: a document comes back in its hit as it was given, a dict with all its keys; only `title` and `text` are read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import DataError

Document = str | dict


@dataclass(frozen=True)
class Hit:
    """One document of a ranking: its place in the input, its score (log-odds), and the document as it was given. A thinking model
    adds its thought, and whether that had to be closed for it when its budget ran out; a calibrated one the probability that the
    document is relevant."""

    index: int
    score: float
    document: Document
    thought: str | None = None
    thought_cut: bool = False
    probability: float | None = None

    @property
    def text(self) -> str:
        return document_text(self.document)


@dataclass
class Cost:
    """What rankings cost: prompts read (`calls`), their tokens (a prefix that prompts share counts in each), tokens that were
    written, seconds; `unread`: written answers that name none of the documents shown, which leave them in their order."""

    calls: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    seconds: float = 0.0
    unread: int = 0

    def __str__(self) -> str:
        unread = f" ({self.unread} answers name no document)" if self.unread else ""
        written = f"{self.generated_tokens} tokens written{unread}, {self.seconds:.1f} seconds"
        return f"{self.calls} prompts of {self.prompt_tokens} tokens in all, {written}"


def document_text(document: Document) -> str:
    """A string as it is; of a dict its title and text joined by a blank, as BEIR does. Raises DataError."""
    if isinstance(document, str):
        return document
    if isinstance(document, dict) and isinstance(document.get("text"), str):
        return f"{document.get('title') or ''} {document['text']}".strip()
    raise DataError(f"a document must be a string or a dict with a string 'text', not {str(document)[:80]!r}")


def check_lists(queries: Sequence[str], documents: Sequence[Sequence[Document]]) -> None:
    """Raise DataError unless every query is a text and has a list of documents."""
    if len(sequence(queries, "queries")) != len(sequence(documents, "documents")):
        raise DataError(f"{len(queries)} queries but {len(documents)} lists of documents; give one list a query")
    for i, query in enumerate(queries):
        if not isinstance(query, str) or not query.strip():
            raise DataError(f"query {i} is {query!r}; expected a text that is not empty")
        for document in sequence(documents[i], f"documents of query {i}"):
            document_text(document)


def sequence(value: Any, what: str) -> Any:
    """`value`, unless it is no list of things: a bare string or dict would pass for a list of letters or keys."""
    if not holds_many(value) or not hasattr(value, "__len__"):
        raise DataError(f"{what} must be a list, not {type(value).__name__} {str(value)[:60]!r}")
    return value


def holds_many(value: Any) -> bool:
    """Whether it can be gone through and is no text or mapping."""
    return isinstance(value, Iterable) and not isinstance(value, (str, bytes, dict))


def hits(
    documents: Sequence[Document],
    scores: np.ndarray,
    top_k: int | None,
    min_score: float | None,
    thoughts: Sequence[Any] = (),
    probabilities: np.ndarray | None = None,
) -> list[Hit]:
    """The documents best first (equal scores in input order), at most `top_k`, none below `min_score`; `thoughts` (see `thinking`)
    and `probabilities` are theirs, if there are any."""
    order = np.argsort(-scores, kind="stable")
    least = -math.inf if min_score is None else min_score
    said = [(thought.text, thought.cut) for thought in thoughts] or [(None, False)] * len(documents)
    sure = [None] * len(documents) if probabilities is None else probabilities.tolist()
    found = [Hit(int(i), float(scores[i]), documents[i], *said[i], sure[i]) for i in order if scores[i] >= least]
    return found[:top_k]


class Progress:
    """A rich progress bar on stderr as a callable, or nothing."""

    def __init__(self, show: bool, total: int) -> None:
        self.show, self.total = show, total

    def __enter__(self) -> Callable[[int], None] | None:
        if not self.show:
            return None
        from rich import progress
        from rich.console import Console

        self.bar = progress.Progress(console=Console(stderr=True), transient=True)
        self.bar.start()
        task = self.bar.add_task("documents", total=self.total)
        return lambda n: self.bar.advance(task, n)

    def __exit__(self, *_: object) -> None:
        if self.show:
            self.bar.stop()
