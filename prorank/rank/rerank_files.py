"""Print the hits of one query, and rerank a whole TREC run.

Documents below the reranked head of a run keep their order after it, so no document is lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ..data.formats import read_collection_texts, read_run, write_run
from ..data.trec import Run
from ..errors import DataError
from ..utils.terminal import json_line, plain, print_lines, stdout_console
from .document_files import read_documents
from .documents import Hit

if TYPE_CHECKING:  # numpy is not needed for ranking by a server
    import numpy as np

__all__ = ["RunTexts", "read_documents", "read_run_texts", "rerank_run", "show"]
DEPTH = 100  # candidates of each query that are reranked by default
SNIPPET_LENGTH = 160  # characters of a document in a table


class Ranker(Protocol):
    """Scores documents for queries: a `Reranker`, or a `Remote` that uses a server."""

    cuts: Any

    def score_lists(
        self, queries: Sequence[str], lists: Sequence[Sequence[str]], instruction: str | None = None
    ) -> list[np.ndarray]:
        """Return the scores of each query's documents, one fp32 array [n] per query."""


def show(hits: Sequence[Hit], as_json: bool, thoughts: bool = False) -> None:
    """Print hits as JSON lines or as a table, with probabilities if there are any.

    Args:
        hits: hits of one query, best first.
        as_json: print one JSON object per line.
        thoughts: print thoughts, too.
    """
    if as_json:
        for rank, hit in enumerate(hits, 1):
            line: dict[str, Any] = {"rank": rank, "index": hit.index, "score": hit.score, "document": hit.document}
            line |= {} if hit.probability is None else {"probability": hit.probability}
            line |= {"thought": hit.thought, "thought_cut": hit.thought_cut} if thoughts else {}
            print_lines([json_line(line)])
        return
    from rich.table import Table

    calibrated = any(hit.probability is not None for hit in hits)
    table = Table(
        "rank", "score", *(["probability"] if calibrated else []), "index", "document", *(["thought"] if thoughts else [])
    )
    for rank, hit in enumerate(hits, 1):
        name = hit.document.get("id", hit.document.get("_id")) if isinstance(hit.document, dict) else None
        thought = [plain(f"{hit.thought}{' […]' if hit.thought_cut else ''}")] if thoughts else []
        figures = [f"{hit.score:+.3f}", *([f"{hit.probability:.3f}"] if calibrated else []), str(hit.index)]
        table.add_row(str(rank), *figures, plain(f"[{name}] {snippet(hit.text)}" if name else snippet(hit.text)), *thought)
    stdout_console().print(table)


def snippet(text: str) -> str:
    """Return the beginning of a document on one line, for tables."""
    text = " ".join(text.split())
    return text if len(text) <= SNIPPET_LENGTH else text[: SNIPPET_LENGTH - 1] + "…"


@dataclass
class RunTexts:
    """A run with the texts of its queries and documents.

    Attributes:
        run: scores by query and document, best first.
        queries, corpus: text by id, for ids that have a text in the collection.
        depth: number of documents of each query to rerank.
    """

    run: Run
    queries: dict[str, str]
    corpus: dict[str, str]
    depth: int

    @cached_property
    def heads(self) -> dict[str, list[str]]:
        """The documents to rerank, by query: those of its first `depth` that have a text, in the run's order."""
        heads = {query: [d for d in list(self.run[query])[: self.depth] if self.corpus.get(d)] for query in self.queries}
        return {query: head for query, head in heads.items() if head}

    def summary(self) -> str:
        """Return a summary: how many queries are reranked, and which texts are missing."""
        without_text = [query for query in self.run if query not in self.queries]
        bare = [doc for query in self.queries for doc in list(self.run[query])[: self.depth] if not self.corpus.get(doc)]
        untouched, why = len(self.run) - len(self.heads), _first(without_text, f"{len(without_text)} without a text, first")
        text = f"{len(self.heads)} queries reranked, {untouched} left as they were{why}"
        return f"{text}, {len(bare)} documents without text{_first(bare, 'first')}"


def _first(ids: Sequence[str], what: str) -> str:
    """Return the first id for a summary; "" if there is none."""
    return f" ({what}: {ids[0]})" if ids else ""


def read_run_texts(run: Path, dataset: str | Path, top_k: int | None = None) -> RunTexts:
    """Read a TREC run with its texts.

    Args:
        run: a run with any queries of the collection.
        dataset: the collection: a BEIR folder or ir_datasets:NAME; it needs no labels.
        top_k: number of documents of each query to rerank; 100 by default.

    Raises:
        DataError: a file cannot be read, or no query or no document of the run has a text in the collection.
    """
    ranking = read_run(run)
    documents = {document for scores in ranking.values() for document in scores}
    corpus, queries = read_collection_texts(dataset, ranking, documents)
    texts = RunTexts(ranking, queries, corpus, top_k or DEPTH)
    if not queries:
        raise DataError(f"{run}: none of its {len(ranking)} queries is in {dataset}; is it another collection's run?")
    if not texts.heads:
        raise DataError(f"{run}: none of the documents to rerank has a text in {dataset}; is it another collection's run?")
    return texts


def rerank_run(reranker: Ranker, texts: RunTexts, out: Path, instruction: str | None = None) -> str:
    """Rerank the head of each query's list, and write a TREC run.

    Args:
        reranker: scores the documents.
        texts: the run with its texts.
        out: file of the reranked run.
        instruction: what to look for; None keeps the prompt's own.

    Returns:
        A summary on one line.
    """
    rows = reranker.score_lists(
        [texts.queries[query] for query in texts.heads],
        [[texts.corpus[document] for document in head] for head in texts.heads.values()],
        instruction,
    )
    result = dict(texts.run)
    for (query, head), scores in zip(texts.heads.items(), rows):
        best_first, seen = sorted(range(len(head)), key=lambda i: -scores[i]), set(head)
        rest = [document for document in texts.run[query] if document not in seen]
        result[query] = {head[i]: float(scores[i]) for i in best_first}
        result[query] |= {document: float(min(scores)) - i for i, document in enumerate(rest, 1)}
    write_run(out, result, "prorank")
    return f"{out}: {texts.summary()}; {reranker.cuts}"
