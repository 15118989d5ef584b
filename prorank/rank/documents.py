"""Documents, their texts, and the hits of a ranking.

A document is returned in its hit unchanged, a dict with all its keys; only `title` and `text` are read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import DataError
from ..utils.texts import plain_text, shown

if TYPE_CHECKING:  # torch is not needed for ranking by a server
    from ..engine.generation import Completion
    from ..prompts.encoded import Encoded
    from ..prompts.list_encoder import EncodedList

Document = str | dict


@dataclass(frozen=True)
class Hit:
    """One document of a ranking.

    Attributes:
        index: its position in the input.
        score: log-odds that it is relevant; with a method of lists, minus its position in the order.
        document: the document, unchanged.
        thought: the thought about it; None if the model does not think, or not about this document (`think_top`).
        thought_cut: whether the thought was closed because its token budget ran out.
        probability: calibrated probability that the document is relevant; None if the model is not calibrated.
    """

    index: int
    score: float
    document: Document
    thought: str | None = None
    thought_cut: bool = False
    probability: float | None = None

    @property
    def text(self) -> str:
        """The text that was scored, see `document_text`."""
        return document_text(self.document)


@dataclass(frozen=True)
class GeneratedThought:
    """The thought about a document.

    Attributes:
        text: the thought, without its tags.
        cut: whether it was closed because its token budget ran out.
    """

    text: str
    cut: bool


@dataclass
class Cost:
    """Cost of rankings.

    Attributes:
        calls: number of prompts.
        prompt_tokens: number of their tokens; a prefix that prompts share counts in each.
        generated_tokens: number of tokens that the model generated.
        seconds: time taken.
        unparsed_answers: number of generated answers that name none of the documents; the documents then keep their order.
    """

    calls: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    seconds: float = 0.0
    unparsed_answers: int = 0

    def count_prompts(self, prompts: Iterable[Encoded | EncodedList]) -> None:
        """Count encoded prompts."""
        for prompt in prompts:
            self.calls += 1
            self.prompt_tokens += len(prompt.ids)

    def count_generated(self, completions: Iterable[Completion]) -> None:
        """Count generated tokens, without forced ones."""
        self.generated_tokens += sum(len(completion.ids) - len(completion.forced_positions) for completion in completions)

    def __str__(self) -> str:
        unparsed_answers = f" ({self.unparsed_answers} answers name no document)" if self.unparsed_answers else ""
        written = f"{self.generated_tokens} tokens generated{unparsed_answers}, {self.seconds:.1f} seconds"
        return f"{self.calls} prompts of {self.prompt_tokens} tokens in total, {written}"


def document_text(document: Document, where: str = "a document") -> str:
    """Return the text of a document to score.

    Args:
        document: a string, or a mapping with a string "text" and optionally a "title", which precedes the text with a space, as in
            BEIR. A missing title (None, NaN, `pandas.NA`) is ignored.
        where: name of the document in messages, such as "document 3 of query 0".

    Raises:
        DataError: the document is neither, or its text or title is not valid UTF-8 text.
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
    """Return whether a table's value is missing: None, NaN, `pandas.NA` or `NaT`."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(value, Real) and math.isnan(value)


def _remedy(document: Any) -> str:
    """Return the remedy for a framework's document object: the attribute that contains its text."""
    attribute = next((name for name in ("page_content", "text", "content") if isinstance(getattr(document, name, None), str)), None)
    return f"; give its text, {attribute}, or use the class of prorank.integrations for its framework" if attribute else ""


def make_hits(
    documents: Sequence[Document],
    scores: np.ndarray,
    top_k: int | None,
    min_score: float | None,
    thoughts: Sequence[GeneratedThought | None] = (),
    probabilities: np.ndarray | None = None,
) -> list[Hit]:
    """Return the documents as hits, best first; equal scores keep input order.

    Args:
        documents: the documents.
        scores: fp32 [n].
        top_k: number of hits; None for all.
        min_score: lowest score of a hit; None for no limit.
        thoughts: one per document, or empty.
        probabilities: fp64 [n], or None.
    """
    order = np.argsort(-scores, kind="stable")
    order = order[scores[order] >= (-math.inf if min_score is None else min_score)]
    return [_hit(int(i), documents, scores, thoughts, probabilities) for i in order[:top_k]]


def _hit(
    index: int, documents: Sequence[Document], scores: np.ndarray, thoughts: Sequence[GeneratedThought | None],
    probabilities: np.ndarray | None,
) -> Hit:  # fmt: skip
    thought = thoughts[index] if thoughts else None
    return Hit(
        index, float(scores[index]), documents[index],
        thought.text if thought else None, thought.cut if thought else False,
        None if probabilities is None else float(probabilities[index]),
    )  # fmt: skip


class DocumentProgress:
    """A progress bar on stderr, as a context manager.

    Args:
        show: whether to show it.
        total: number of documents.

    Returns:
        On entry, a callable that advances the bar by n documents; None if it is not shown.
    """

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
