"""LangChain: a document compressor, for retrievers and by itself.

Documents come back as copies with `relevance_score` (log-odds) in their metadata; those that were given stay as they
are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..checkpoints.default_model import DEFAULT
from ..errors import extra
from ..rank.documents import Hit
from ..reranker import Reranker
from .shared import reranker_of

with extra("langchain"):
    from langchain_core.callbacks import Callbacks
    from langchain_core.documents import BaseDocumentCompressor, Document
    from pydantic import ConfigDict, Field, PrivateAttr


class ProRankCompressor(BaseDocumentCompressor):
    """Orders documents by relevance, best first; equal scores keep their order.

    Args:
        model: a Reranker, or a checkpoint as Reranker takes it.
        top_n: documents to keep; all by default.
        min_score: leave out documents whose log-odds are below.
        instruction: what to look for, in place of the prompt's default.
        options: of Reranker, where `model` names a checkpoint: {"dtype": "int8"}.
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
        self._reranker = reranker_of(self.model, self.options)

    def compress_documents(self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None) -> list[Document]:
        """The documents in order. Raises DataError for an empty query."""
        documents = list(documents)
        return _found(documents, self._reranker.rank(query, _texts(documents), **self._how()))

    async def acompress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """As `compress_documents`, off the event loop."""
        documents = list(documents)
        return _found(documents, await self._reranker.arank(query, _texts(documents), **self._how()))

    def _how(self) -> dict[str, Any]:
        return {"top_k": self.top_n, "min_score": self.min_score, "instruction": self.instruction}


def _texts(documents: Sequence[Document]) -> list[str]:
    return [document.page_content for document in documents]


def _found(documents: Sequence[Document], hits: list[Hit]) -> list[Document]:
    """Copies of the documents that were hit, in the hits' order."""
    rated = [(documents[hit.index], {"relevance_score": hit.score}) for hit in hits]
    return [document.model_copy(update={"metadata": {**document.metadata, **score}}) for document, score in rated]
