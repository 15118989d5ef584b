"""The package `rerankers`: a ranker that returns its RankedResults.

Results come best first and keep the ids and metadata of the documents. Documents without ids get their index in the input.
"""

from __future__ import annotations

from typing import Any

from ..checkpoints.default_model import DEFAULT
from ..errors import extra
from ..rank.documents import Hit
from ..rank.validation import items
from .shared import ModelOrReranker, as_reranker

with extra("rerankers"):
    from rerankers.documents import Document
    from rerankers.models.ranker import BaseRanker
    from rerankers.results import RankedResults, Result
    from rerankers.utils import prep_docs


class ProRankRanker(BaseRanker):
    """A ranker with the methods of all rankers of that package. Scores are log-odds.

    Args:
        model_name_or_path: a Reranker, or a checkpoint as Reranker accepts it.
        verbose: ignored; nothing is printed.
        options: arguments of Reranker if a checkpoint is named.
    """

    def __init__(self, model_name_or_path: ModelOrReranker = DEFAULT, verbose: int = 0, **options: Any) -> None:
        self.reranker, self.verbose = as_reranker(model_name_or_path, options), verbose

    def score(self, query: str, doc: str) -> float:
        """Return the score of one document."""
        return float(self.reranker.score([(query, doc)])[0])

    def rank(
        self, query: str, docs: Any, doc_ids: list[str] | list[int] | None = None, metadata: list[dict] | None = None
    ) -> RankedResults:
        """Rank documents by relevance to a query.

        Args:
            query: a text that is not empty.
            docs: texts, or Documents of that package.
            doc_ids: ids of the documents; by default their index.
            metadata: metadata of the documents.
        """
        prepared = _prepare(docs, doc_ids, metadata)
        return _results(query, prepared, self.reranker.rank(query, [doc.text for doc in prepared]))

    async def rank_async(
        self, query: str, docs: Any, doc_ids: list[str] | list[int] | None = None, metadata: list[dict] | None = None
    ) -> RankedResults:
        """Do what `rank` does, without blocking the event loop."""
        prepared = _prepare(docs, doc_ids, metadata)
        return _results(query, prepared, await self.reranker.arank(query, [doc.text for doc in prepared]))


def _prepare(docs: Any, doc_ids: Any, metadata: Any) -> list[Document]:
    """Return Documents of that package, made by its own function, which accepts lists only, and no empty ones."""
    docs = docs if isinstance(docs, (str, Document)) else items(docs, "docs")
    return prep_docs(docs, doc_ids, metadata) if docs else []


def _results(query: str, documents: list[Document], hits: list[Hit]) -> RankedResults:
    results = [Result(document=documents[hit.index], score=hit.score, rank=rank) for rank, hit in enumerate(hits, 1)]
    return RankedResults(results=results, query=query, has_scores=True)
