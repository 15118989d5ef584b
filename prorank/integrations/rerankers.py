"""The package `rerankers`: a ranker whose results have its shape.

Results come best first and keep the documents' own ids and metadata; ids are places in the input where none are given.
"""

from __future__ import annotations

from typing import Any

from ..checkpoints.default_model import DEFAULT
from ..errors import extra
from ..rank.documents import Hit
from ..rank.validation import items
from .shared import Model, reranker_of

with extra("rerankers"):
    from rerankers.documents import Document
    from rerankers.models.ranker import BaseRanker
    from rerankers.results import RankedResults, Result
    from rerankers.utils import prep_docs


class ProRankRanker(BaseRanker):
    """`rank` as every ranker of that package has it. Scores are log-odds.

    Args:
        model_name_or_path: a Reranker, or a checkpoint as Reranker takes it.
        verbose: taken for that package's sake; nothing is printed.
        options: of Reranker, where a checkpoint is named.
    """

    def __init__(self, model_name_or_path: Model = DEFAULT, verbose: int = 0, **options: Any) -> None:
        self.reranker, self.verbose = reranker_of(model_name_or_path, options), verbose

    def score(self, query: str, doc: str) -> float:
        """The score of one document."""
        return float(self.reranker.score([(query, doc)])[0])

    def rank(
        self, query: str, docs: Any, doc_ids: list[str] | list[int] | None = None, metadata: list[dict] | None = None
    ) -> RankedResults:
        """Texts or Documents of that package in order, as RankedResults."""
        prepared = _prepared(docs, doc_ids, metadata)
        return _results(query, prepared, self.reranker.rank(query, [doc.text for doc in prepared]))

    async def rank_async(
        self, query: str, docs: Any, doc_ids: list[str] | list[int] | None = None, metadata: list[dict] | None = None
    ) -> RankedResults:
        """As `rank`, off the event loop."""
        prepared = _prepared(docs, doc_ids, metadata)
        return _results(query, prepared, await self.reranker.arank(query, [doc.text for doc in prepared]))


def _prepared(docs: Any, doc_ids: Any, metadata: Any) -> list[Document]:
    """Documents of that package, by its own rules, which know lists alone, and no empty ones."""
    docs = docs if isinstance(docs, (str, Document)) else items(docs, "docs")
    return prep_docs(docs, doc_ids, metadata) if docs else []


def _results(query: str, documents: list[Document], hits: list[Hit]) -> RankedResults:
    results = [Result(document=documents[hit.index], score=hit.score, rank=rank) for rank, hit in enumerate(hits, 1)]
    return RankedResults(results=results, query=query, has_scores=True)
