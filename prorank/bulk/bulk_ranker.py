"""Scores of many queries' lists by bulk scoring: for `rerank --run` on a cluster.

The pairs are written to a work folder, scored there by `score_pairs`, and read again. After an interruption the next call finds the
folder and scores what is missing.
"""

from __future__ import annotations

import io
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import extra
from ..prompts.encoded import TruncationCounts
from .backends import Backend
from .bulk_job import Report, score_pairs
from .shard_files import read_scored
from .storage import OutputFolder

SHARD_ROWS = 1000  # ten queries of a hundred documents
PAIRS, SCORES = "pairs.parquet", "scores"


class BulkRanker:
    """Scores lists of documents with workers, see `rank.rerank_files.Ranker`.

    Args:
        folder: work folder, removed by `close`.
        model: see `Reranker`.
        backend: where the work runs.
        report: called after each shard, see `score_pairs`.
        **options: further arguments of `Reranker`.

    Attributes:
        cuts: counts of texts that were truncated; those of an interrupted call are not known.
    """

    def __init__(self, folder: Path, model: str | Path, backend: Backend, report: Report | None = None, **options: Any) -> None:
        self.folder, self.model, self.backend, self.report, self.options = folder, model, backend, report, options
        self.cuts = TruncationCounts()

    def score_lists(
        self, queries: Sequence[str], lists: Sequence[Sequence[str]], instruction: str | None = None
    ) -> list[np.ndarray]:
        """Return the scores of each query's documents, one fp32 array [n] per query.

        Raises:
            DataError: a text is bad, or the work folder is that of another run or model.
            ConfigError, ModelError, PromptError, ClusterError: see `score_pairs`.
        """
        OutputFolder(str(self.folder)).write(PAIRS, _parquet(queries, lists))
        result = score_pairs(
            self.folder / PAIRS, self.folder / SCORES, self.model, shard_rows=SHARD_ROWS, instruction=instruction,
            backend=self.backend, report=self.report, **self.options,
        )  # fmt: skip
        self.cuts = result.cuts
        out = OutputFolder(result.out)
        names = sorted(name for name in out.sizes() if name.startswith("part-"))
        scores = np.concatenate([read_scored(out.read(name), "parquet").column("score").to_numpy() for name in names])
        return np.split(scores, np.cumsum([len(documents) for documents in lists])[:-1])

    def close(self) -> None:
        """Remove the work folder, once the scores are used."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _parquet(queries: Sequence[str], lists: Sequence[Sequence[str]]) -> bytes:
    """Return a Parquet file of the pairs; equal pairs give equal bytes."""
    with extra("bulk"):
        import pyarrow as pa
        import pyarrow.parquet as parquet
    repeated = [query for query, documents in zip(queries, lists) for _ in documents]
    texts = [document for documents in lists for document in documents]
    buffer = io.BytesIO()
    table = pa.table({"query": pa.array(repeated, pa.large_string()), "document": pa.array(texts, pa.large_string())})
    parquet.write_table(table, buffer, compression="zstd", row_group_size=SHARD_ROWS)
    return buffer.getvalue()
