"""Measure each installed engine with and without ProRank: MRR@10 over the questions of standard_library.py.

    python examples/search_engines/compare.py
    python examples/search_engines/compare.py sqlite_fts5 tantivy_bm25
"""

import sys
import tempfile
from collections.abc import Callable
from functools import partial
from importlib import import_module

import standard_library
from standard_library import QUESTIONS

from prorank import Reranker

ENGINES = "sqlite_fts5 duckdb_fts tantivy_bm25 qdrant_hybrid lancedb_hybrid".split()
Search = Callable[[str], list[dict]]


def search_of(engine: str, documents: list[dict], folder: str) -> Search:
    """Index documents with an engine and return its search, without a reranker."""
    example = import_module(engine)
    if engine == "qdrant_hybrid":
        return example.HybridIndex(documents).search
    if engine == "lancedb_hybrid":
        return partial(example.HybridTable(folder, documents).search, reranker=example.RRFReranker())
    return partial(example.search, example.build(documents))


def reciprocal_rank(ranking: list[dict], answers: set[str], depth: int = 10) -> float:
    """Return 1 / the place of the first answer among the first `depth` documents, or 0."""
    return next((1 / place for place, document in enumerate(ranking[:depth], 1) if document["id"] in answers), 0.0)


def mrr(rankings: list[list[dict]]) -> float:
    """Return the mean reciprocal rank of one ranking per question."""
    return sum(map(reciprocal_rank, rankings, QUESTIONS.values())) / len(QUESTIONS)


def score(candidates: dict[str, list[list[dict]]], reranker: Reranker) -> dict[tuple[str, str], float]:
    """Return the score of each question and document id. What several engines find is scored once."""
    lists = [(question, rows) for engine in candidates.values() for question, rows in zip(QUESTIONS, engine)]
    documents = {(question, row["id"]): row for question, rows in lists for row in rows}
    scores = reranker.score([(question, row) for (question, _), row in documents.items()])
    return dict(zip(documents, scores.tolist()))


def main(engines: list[str], reranker: Reranker) -> None:
    """Print for each engine how many questions have an answer among the candidates, and the MRR before and after reranking."""
    with tempfile.TemporaryDirectory() as folder:
        searches = {engine: search_of(engine, standard_library.documents(), folder) for engine in engines}
        candidates = {engine: [search(question) for question in QUESTIONS] for engine, search in searches.items()}
    scores = score(candidates, reranker)
    print(f"{'engine':15} {'found':>5} {'MRR@10':>7} {'reranked':>9}")
    for engine, lists in candidates.items():
        found = sum(any(row["id"] in answers for row in rows) for rows, answers in zip(lists, QUESTIONS.values()))
        reranked = [sorted(rows, key=lambda row: -scores[question, row["id"]]) for question, rows in zip(QUESTIONS, lists)]
        print(f"{engine:15} {found:2}/{len(QUESTIONS)} {mrr(lists):7.3f} {mrr(reranked):9.3f}")


if __name__ == "__main__":
    main(sys.argv[1:] or ENGINES, Reranker())
