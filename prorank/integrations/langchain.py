"""LangChain: a document compressor, for retrievers or on its own.

The results are copies with `relevance_score` (log-odds) in their metadata; the input documents are not changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..checkpoints.default_model import DEFAULT
from ..errors import extra
from ..rank.documents import Hit
from ..reranker import Reranker
from .shared import as_reranker

with extra("langchain"):
    from langchain_core.callbacks import Callbacks
    from langchain_core.documents import BaseDocumentCompressor, Document
    from pydantic import ConfigDict, Field, PrivateAttr


class ProRankCompressor(BaseDocumentCompressor):
    """Orders documents by relevance, best first; equal scores keep their order.

    Args:
        model: a Reranker, or a checkpoint as Reranker accepts it.
        top_n: number of documents to return; all by default.
        min_score: lowest log-odds of a returned document.
        instruction: what to look for; replaces the instruction of the prompt.
        options: arguments of Reranker if `model` is a checkpoint, such as {"dtype": "int8"}.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")
    model: Any = DEFAULT
    top_n: int | None = None
    min_score: float | None = None
    instruction: str | None = None
    options: dict[str, Any] = Field(default_factory=dict)
    _reranker: Reranker = PrivateAttr()

    def model_post_init(self, context: Any) -> None:
        """Load the model."""
        self._reranker = as_reranker(self.model, self.options)

    def compress_documents(self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None) -> list[Document]:
        """Return the documents, best first. Raises DataError for an empty query."""
        documents = list(documents)
        return _scored_copies(documents, self._reranker.rank(query, _texts(documents), **self._rank_options()))

    async def acompress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """Do what `compress_documents` does, without blocking the event loop."""
        documents = list(documents)
        return _scored_copies(documents, await self._reranker.arank(query, _texts(documents), **self._rank_options()))

    def _rank_options(self) -> dict[str, Any]:
        return {"top_k": self.top_n, "min_score": self.min_score, "instruction": self.instruction}


def _texts(documents: Sequence[Document]) -> list[str]:
    return [document.page_content for document in documents]


def _scored_copies(documents: Sequence[Document], hits: list[Hit]) -> list[Document]:
    """Return copies of the documents with their scores, in the order of the hits."""
    return [_scored_copy(documents[hit.index], hit.score) for hit in hits]


def _scored_copy(document: Document, score: float) -> Document:
    return document.model_copy(update={"metadata": {**document.metadata, "relevance_score": score}})
