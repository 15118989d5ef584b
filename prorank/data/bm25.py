"""BM25 over a corpus in memory: the first stage of evaluation and the miner's ranking.

The settings move the figures. SciFact's test queries get nDCG@10 .676 with k1 0.9, b 0.4 and .679 with
k1 1.2, b 0.75; a small classic collection like MED .671 and .699. Compare at equal settings only.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import numpy as np

from ..errors import DataError, extra


class Bm25:
    """BM25 (Lucene's form) on bm25s and PyStemmer.

    Args:
        corpus: text by document id.
        k1, b: saturation of term counts, share of length normalisation.

    Raises:
        DataError: the corpus is empty.
        MissingExtra: bm25s or PyStemmer is not installed.
    """

    def __init__(self, corpus: dict[str, str], k1: float = 0.9, b: float = 0.4) -> None:
        with extra("eval"):
            import bm25s
            import Stemmer
        logging.getLogger("bm25s").setLevel(logging.WARNING)  # it logs each index at level DEBUG to stderr
        if not corpus:
            raise DataError("BM25: the corpus is empty")
        self._bm25s, self._stemmer = bm25s, Stemmer.Stemmer("english")
        self.ids = list(corpus)
        self._place = {doc_id: i for i, doc_id in enumerate(self.ids)}
        tokens = self._tokens(list(corpus.values()))
        self._index = None  # stays so when the corpus has no words at all
        if any(tokens):
            self._index = bm25s.BM25(k1=k1, b=b, method="lucene")
            self._index.index(tokens, show_progress=False)

    def _tokens(self, texts: list[str]) -> list[list[str]]:
        return self._bm25s.tokenize(texts, stopwords="english", stemmer=self._stemmer, return_ids=False, show_progress=False)

    def search(
        self, queries: dict[str, str], k: int = 100, progress: Callable[[int], None] | None = None
    ) -> dict[str, dict[str, float]]:
        """The k best documents of each query, best first, equal scores in corpus order.

        Documents that share no word with the query are not in its ranking, so it may be shorter than k, or empty.

        Args:
            queries: text by query id.
            k: documents a query at most.
            progress: called with 1 after each query.
        """
        run = {}
        for qid, scores in zip(queries, map(self._scores, self._tokens(list(queries.values())))):
            order = np.argsort(-scores, kind="stable")[:k]
            run[qid] = {self.ids[i]: float(scores[i]) for i in order if scores[i] > 0}
            if progress:
                progress(1)
        return run

    def scores(self, query: str, doc_ids: Sequence[str] | None = None) -> np.ndarray:
        """fp32 scores [n] of `doc_ids` (all documents in corpus order without it). Raises DataError for unknown ids."""
        unknown = [doc_id for doc_id in doc_ids or () if doc_id not in self._place]
        if unknown:
            raise DataError(f"BM25: document {unknown[0]!r} is not in the corpus")
        scores = self._scores(self._tokens([query])[0])
        return scores if doc_ids is None else scores[[self._place[doc_id] for doc_id in doc_ids]]

    def _scores(self, tokens: list[str]) -> np.ndarray:
        ids = self._index.get_tokens_ids(tokens) if self._index else []
        return self._index.get_scores_from_ids(ids) if self._index and ids else np.zeros(len(self.ids), np.float32)
