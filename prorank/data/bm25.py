"""BM25 over a corpus in memory: the first stage of evaluation and the ranking that negatives are mined from.

Results depend on k1 and b. nDCG@10 on SciFact's test queries is .676 with k1 0.9, b 0.4 and .679 with k1 1.2, b 0.75; on MED it is
.671 and .699. Compare systems with equal settings only.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import numpy as np

from ..errors import DataError, extra
from .languages import AUTO, language_of
from .terms import TermSplitter

log = logging.getLogger("prorank")


class Bm25:
    """BM25 in Lucene's variant, by bm25s and PyStemmer.

    Args:
        corpus: text by document id.
        k1: saturation of term frequencies.
        b: strength of length normalisation, 0 to 1.
        language: language of stemmer and stop words, or of character bigrams, see `prorank.data.languages.language_names`; "auto"
            detects it from the corpus.

    Attributes:
        ids: ids of the documents, in corpus order.
        language: the `Language` that applies; its `note` says what was detected other than English.

    Raises:
        DataError: the corpus is empty.
        ConfigError: the language is unknown.
        MissingExtra: bm25s or PyStemmer is not installed.
    """

    def __init__(self, corpus: dict[str, str], k1: float = 0.9, b: float = 0.4, language: str = AUTO) -> None:
        with extra("eval"):
            import bm25s
        logging.getLogger("bm25s").setLevel(logging.WARNING)  # by default it logs each indexing to stderr
        if not corpus:
            raise DataError("BM25: the corpus is empty")
        texts = list(corpus.values())
        self.language = language_of(language, texts)
        self._splitter = TermSplitter(self.language)
        self.ids = list(corpus)
        self._place = {doc_id: i for i, doc_id in enumerate(self.ids)}
        tokens = self._splitter.split(texts, documents=True)
        self._index = None  # remains None if the corpus has no words
        if any(tokens):
            self._index = bm25s.BM25(k1=k1, b=b, method="lucene")
            self._index.index(tokens, show_progress=False)

    def search(
        self, queries: dict[str, str], k: int = 100, progress: Callable[[int], None] | None = None
    ) -> dict[str, dict[str, float]]:
        """Return the k best documents of each query.

        Documents that share no word with the query are not ranked, so a ranking may have fewer than k documents.

        Args:
            queries: text by query id.
            k: maximum number of documents per query.
            progress: called with 1 after each query.

        Returns:
            Score by query id and document id, best first; ties are in corpus order.
        """
        run = {}
        for qid, scores in zip(queries, map(self._scores, self._splitter.split(list(queries.values())))):
            order = np.argsort(-scores, kind="stable")[:k]
            run[qid] = {self.ids[i]: float(scores[i]) for i in order if scores[i] > 0}
            if progress:
                progress(1)
        return run

    def scores(self, query: str, doc_ids: Sequence[str] | None = None) -> np.ndarray:
        """Score documents for one query.

        Args:
            query: text of the query.
            doc_ids: documents to score; None for all, in corpus order.

        Returns:
            fp32 scores [n].

        Raises:
            DataError: a document id is not in the corpus.
        """
        unknown = [doc_id for doc_id in doc_ids or () if doc_id not in self._place]
        if unknown:
            raise DataError(f"BM25: document {unknown[0]!r} is not in the corpus")
        scores = self._scores(self._splitter.split([query])[0])
        return scores if doc_ids is None else scores[[self._place[doc_id] for doc_id in doc_ids]]

    def _scores(self, tokens: list[str]) -> np.ndarray:
        ids = self._index.get_tokens_ids(tokens) if self._index else []
        return self._index.get_scores_from_ids(ids) if self._index and ids else np.zeros(len(self.ids), np.float32)


def score_lists(queries: Sequence[str], documents: Sequence[Sequence[str]]) -> list[np.ndarray]:
    """Score lists of documents with BM25, whose statistics are those of all documents. A language other than English is logged.

    Args:
        queries: texts.
        documents: texts of each query's documents.

    Returns:
        Scores [n] of each query's documents.
    """
    texts = sorted({text for row in documents for text in row})
    index, place = Bm25({str(i): text for i, text in enumerate(texts)}), {text: str(i) for i, text in enumerate(texts)}
    if index.language.note:
        log.warning(index.language.note)
    return [index.scores(query, [place[text] for text in row]) for query, row in zip(queries, documents)]
