"""Searcher: a corpus, a first stage and a reranker behind one method.

searcher = Searcher(documents)
for hit in searcher.search("how to close a connection"):
    print(hit.score, hit.id, hit.text)
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checkpoints.default_model import DEFAULT
from ..errors import DataError
from ..rank.documents import Document, Hit, document_text
from ..rank.validation import RankOptions, items, query_text, whole_number
from . import CANDIDATES
from .corpus import document_ids
from .first_stage import Candidate, FirstStage

if TYPE_CHECKING:
    from ..reranker import Reranker

log = logging.getLogger("prorank")


@dataclass(frozen=True)
class SearchHit(Hit):
    """A document of a search result.

    Attributes:
        index: position of the document in the corpus, from 0.
        score: the reranker's log-odds; without a reranker the score of the first stage.
        id: the document's "id" or "_id", else its position as text.
        first_stage_rank: its rank among the candidates, from 1.
        first_stage_score: BM25 score, or the sum of reciprocal ranks where a bi-encoder takes part.
    """

    id: str = ""
    first_stage_rank: int = 0
    first_stage_score: float = 0.0


class Searcher:
    """Search documents: a first stage finds candidates, the reranker puts them in order.

    The documents are checked at once, indexed at the first search, and kept in memory. The model is loaded when there are
    candidates to rerank for the first time.

    Args:
        documents: strings, or dicts with "text" and perhaps "title" and "id" (or "_id"), as `Reranker.rank` takes them.
        model: checkpoint, or a Reranker that is loaded already; None for the first stage alone.
        candidates: documents per query that the first stage hands to the reranker.
        bi_encoder: folder of a sentence-transformers model whose ranking is fused with BM25's by reciprocal rank. Every document is
            encoded once, at the first search.
        options: further arguments of `Reranker`, such as device and dtype.

    Raises:
        DataError: there are no documents, one of them cannot be read, or an id comes twice.
    """

    def __init__(
        self,
        documents: Iterable[Document],
        model: str | Path | Reranker | None = DEFAULT,
        candidates: int = CANDIDATES,
        bi_encoder: str | Path | None = None,
        **options: Any,
    ) -> None:
        self.documents = items(documents, "documents")
        if not self.documents:
            raise DataError("the corpus is empty; give at least one document")
        self.texts = [document_text(document, f"document {i}") for i, document in enumerate(self.documents)]
        self.ids = document_ids(self.documents)
        self.candidates = whole_number(candidates, "candidates") or CANDIDATES
        self.model, self.options = model, options
        self.first_stage = FirstStage(self.texts, bi_encoder, options.get("device"))

    @cached_property
    def reranker(self) -> Reranker | None:
        """The model; it is loaded here at the first access.

        Raises:
            ModelError: it cannot be found or loaded.
        """
        from ..reranker import Reranker

        return Reranker(self.model, **self.options) if isinstance(self.model, (str, Path)) else self.model

    def search(
        self,
        query: str,
        top_k: int | None = 10,
        min_score: float | None = None,
        instruction: str | None = None,
        show_progress: bool = False,
    ) -> list[SearchHit]:
        """Search for one query.

        Args:
            query: a text that is not empty.
            top_k: number of hits at most; None for all candidates.
            min_score: leave out hits whose score is lower.
            instruction: what counts as relevant, in place of the prompt's own.
            show_progress: show a bar of the documents reranked on stderr.

        Returns:
            Hits, best first. Empty where no word of the query occurs in the corpus, which is logged.

        Raises:
            DataError: the query is empty, or an option cannot work; before anything is loaded.
        """
        return self.search_many([query], top_k, min_score, instruction, show_progress)[0]

    def search_many(
        self,
        queries: Sequence[str],
        top_k: int | None = 10,
        min_score: float | None = None,
        instruction: str | None = None,
        show_progress: bool = False,
    ) -> list[list[SearchHit]]:
        """`search` for several queries; they share batches of the reranker. One list of hits per query."""
        options = RankOptions(top_k=top_k, min_score=min_score, instruction=instruction)
        texts = [query_text(query, f"query {i}") for i, query in enumerate(items(queries, "queries"))]
        return self.rerank(texts, self.retrieve(texts), options, show_progress)

    def retrieve(self, queries: Sequence[str]) -> list[list[Candidate]]:
        """The candidates of each query by the first stage alone, best first."""
        begin = time.monotonic()
        retrieved = self.first_stage.retrieve(queries, self.candidates)
        log.debug("first stage: %d queries in %.2f s, indexing included", len(queries), time.monotonic() - begin)
        return retrieved

    def rerank(
        self,
        queries: Sequence[str],
        retrieved: Sequence[Sequence[Candidate]],
        options: RankOptions | None = None,
        show_progress: bool = False,
    ) -> list[list[SearchHit]]:
        """Put the candidates of each query in order.

        Args:
            queries: texts.
            retrieved: candidates of each query, see `retrieve`.
            options: of the ranking; all hits by default.
            show_progress: show a bar of the documents reranked on stderr.
        """
        options = options or RankOptions()
        with_candidates = [i for i, candidates in enumerate(retrieved) if candidates]
        hits: list[list[SearchHit]] = [[] for _ in queries]
        if self.model is None or not with_candidates:
            return [self._first_stage_hits(candidates, options) for candidates in retrieved]
        reranker = self.reranker
        assert reranker is not None
        begin = time.monotonic()
        ranked = reranker.rank_many(
            [queries[i] for i in with_candidates],
            [[self.documents[one.index] for one in retrieved[i]] for i in with_candidates],
            top_k=options.top_k,
            min_score=options.min_score,
            instruction=options.instruction,
            show_progress=show_progress,
        )
        log.debug("reranker: %d candidates in %.2f s", sum(map(len, retrieved)), time.monotonic() - begin)
        for i, row in zip(with_candidates, ranked):
            hits[i] = [self._hit(hit, retrieved[i][hit.index]) for hit in row]
        return hits

    def _hit(self, hit: Hit, candidate: Candidate) -> SearchHit:
        """A hit among candidates as a hit of the corpus."""
        place = {"index": candidate.index, "id": self.ids[candidate.index]}
        return SearchHit(**vars(hit) | place, first_stage_rank=candidate.rank, first_stage_score=candidate.score)

    def _first_stage_hits(self, candidates: Sequence[Candidate], options: RankOptions) -> list[SearchHit]:
        """The candidates as hits, in the order and with the scores of the first stage."""
        lowest = -math.inf if options.min_score is None else options.min_score
        passing = [one for one in candidates if one.score >= lowest][: options.top_k]
        return [self._hit(Hit(one.index, one.score, self.documents[one.index]), one) for one in passing]
