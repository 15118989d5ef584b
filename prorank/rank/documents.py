"""What goes into a ranking and comes out of it: documents, their checks, hits.

A document comes back in its hit as it was given, a dict with all its keys; only `title` and `text` are read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np

from ..errors import DataError
from ..utils.texts import plain_text, shown

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
    written, seconds; `unparsed_answers`: written answers that name none of the documents shown, which leave them in their order."""

    calls: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    seconds: float = 0.0
    unparsed_answers: int = 0

    def __str__(self) -> str:
        unparsed_answers = f" ({self.unparsed_answers} answers name no document)" if self.unparsed_answers else ""
        written = f"{self.generated_tokens} tokens written{unparsed_answers}, {self.seconds:.1f} seconds"
        return f"{self.calls} prompts of {self.prompt_tokens} tokens in all, {written}"


def document_text(document: Document, where: str = "a document") -> str:
    """The text of a document that is scored.

    Args:
        document: a string, or a mapping with a string "text" and perhaps a "title", which is put before it with a blank between
            them, as BEIR does. A title that is missing (None, NaN, `pandas.NA`) counts as none.
        where: what a message calls it, such as "document 3 of query 0".

    Raises:
        DataError: it is neither of the two, or its text or title cannot be read as UTF-8 text.
    """
    if isinstance(document, (str, bytes, bytearray, memoryview)):
        return plain_text(document, where)
    if not isinstance(document, Mapping):
        raise DataError(f"{where} must be a string or a dict with a string 'text', not {shown(document)}{_remedy(document)}")
    text, title = document.get("text"), document.get("title")
    if not isinstance(text, (str, bytes, bytearray, memoryview)):
        what = "which has no text" if "text" not in document else f"whose 'text' is {shown(text)}"
        raise DataError(f"{where} must be a string or a dict with a string 'text', not {shown(document)}, {what}")
    text = plain_text(text, f"{where}: its text")
    return text.strip() if is_missing(title) else f"{plain_text(title, f'{where}: its title')} {text}".strip()


def is_missing(value: Any) -> bool:
    """Whether it stands for no value in a table: None, NaN, `pandas.NA` or `NaT`."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(value, Real) and math.isnan(value)


def _remedy(document: Any) -> str:
    """What to give in place of a document object of a framework: its text, by the attribute that holds it."""
    held = next((name for name in ("page_content", "text", "content") if isinstance(getattr(document, name, None), str)), None)
    return f"; give its text, {held}, or use the class of prorank.integrations for its framework" if held else ""


def make_hits(
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
    said: list[tuple[str | None, bool]] = [(thought.text, thought.cut) for thought in thoughts] or [(None, False)] * len(documents)
    sure = [None] * len(documents) if probabilities is None else probabilities.tolist()
    found = [Hit(int(i), float(scores[i]), documents[i], said[i][0], said[i][1], sure[i]) for i in order if scores[i] >= least]
    return found[:top_k]


class DocumentProgress:
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
