"""LanceDB: a reranker for `table.search(...).rerank(...)` of vector, full-text and hybrid searches.

The results are LanceDB's, with the log-odds as `_relevance_score`, best first.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..checkpoints.default_model import DEFAULT
from ..errors import DataError, extra, nearest
from .shared import ModelOrReranker, as_reranker

with extra("lancedb"):
    import pyarrow as pa
    from lancedb.rerankers import Reranker as LanceReranker


class ProRankReranker(LanceReranker):
    """Orders the rows of a search by relevance, best first; equal scores keep their order.

    Args:
        model: a Reranker, or a checkpoint as Reranker accepts it.
        column: column with the texts to read.
        return_score: "relevance" returns `_relevance_score` only; "all" also returns LanceDB's own `_distance` and `_score`.
        instruction: what to look for; replaces the instruction of the prompt.
        options: arguments of Reranker if `model` is a checkpoint.

    Raises:
        ValueError: `return_score` is neither.
    """

    def __init__(
        self,
        model: ModelOrReranker = DEFAULT,
        column: str = "text",
        return_score: str = "relevance",
        instruction: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(return_score)
        self.column, self.instruction, self.reranker = column, instruction, as_reranker(model, options)

    def __str__(self) -> str:
        return f"ProRankReranker({self.reranker.name})"

    def rerank_hybrid(self, query: str, vector_results: pa.Table, fts_results: pa.Table) -> pa.Table:
        """Rank the rows of both searches; a row of both counts once. Raises DataError, see `rerank_vector`."""
        if self.score == "all":
            return self._ranked(query, self._merge_and_keep_scores(vector_results, fts_results))
        return self._ranked(query, self.merge_results(vector_results, fts_results))

    def rerank_vector(self, query: str, vector_results: pa.Table) -> pa.Table:
        """Rank the rows of a vector search.

        Raises:
            DataError: the query is blank, the column is not among the results, or one of its values is no text.
        """
        return self._ranked(query, vector_results)

    def rerank_fts(self, query: str, fts_results: pa.Table) -> pa.Table:
        """Rank the rows of a full-text search. Raises DataError, see `rerank_vector`."""
        return self._ranked(query, fts_results)

    def _ranked(self, query: str, results: pa.Table) -> pa.Table:
        if self.column not in results.column_names:
            raise DataError(f"the results have no column '{self.column}'{nearest(self.column, results.column_names)}")
        hits = self.reranker.rank(query, results[self.column].to_pylist(), instruction=self.instruction)
        scores = pa.array(np.array([hit.score for hit in hits], np.float32), type=pa.float32())
        ordered = results.take(pa.array([hit.index for hit in hits], type=pa.int64()))
        return self._keep_relevance_score(ordered.append_column("_relevance_score", scores))
