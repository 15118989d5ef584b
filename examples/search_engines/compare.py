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


def measure(search: Search, reranker: Reranker) -> tuple[int, float, float]:
    """Return how many questions have an answer among the candidates, and the MRR before and after."""
    candidates = [search(question) for question in QUESTIONS]
    hits = reranker.rank_many(list(QUESTIONS), candidates)
    found = sum(any(row["id"] in answers for row in rows) for rows, answers in zip(candidates, QUESTIONS.values()))
    before = sum(map(reciprocal_rank, candidates, QUESTIONS.values())) / len(QUESTIONS)
    reranked = [[hit.document for hit in row] for row in hits]
    return found, before, sum(map(reciprocal_rank, reranked, QUESTIONS.values())) / len(QUESTIONS)


def main(engines: list[str], reranker: Reranker) -> None:
    print(f"{'engine':15} {'found':>5} {'MRR@10':>7} {'reranked':>9}")
    with tempfile.TemporaryDirectory() as folder:
        for engine in engines:
            found, before, after = measure(search_of(engine, standard_library.documents(), folder), reranker)
            print(f"{engine:15} {found:2}/{len(QUESTIONS)} {before:7.3f} {after:9.3f}")


if __name__ == "__main__":
    main(sys.argv[1:] or ENGINES, Reranker())
