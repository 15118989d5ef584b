"""Haystack: a ranker component.

Documents with the same id are ranked once, as in Haystack's own rankers. The results are copies with `score` (log-odds); the
input documents are not changed.
"""

import threading
from dataclasses import replace
from typing import Any

from ..checkpoints.default_model import DEFAULT
from ..errors import extra
from ..rank.documents import Hit
from ..reranker import Reranker
from .shared import ModelOrReranker, as_reranker

with extra("haystack"):
    from haystack import Document, component, default_from_dict, default_to_dict


_LOAD_LOCK = threading.Lock()  # shared by all components, because components are copied and pickled and a lock cannot be


@component
class ProRankSimilarityRanker:
    """Orders documents by relevance, best first; equal scores keep their order.

    Args:
        model: a Reranker, or a checkpoint as Reranker accepts it, which is loaded on first use.
        top_k: number of documents to return; all by default.
        score_threshold: lowest log-odds of a returned document.
        instruction: what to look for; replaces the instruction of the prompt.
        meta_fields_to_embed: metadata fields that are read before a document's content, one per line.
        options: arguments of Reranker if `model` is a checkpoint, such as {"dtype": "int8"}.

    Raises:
        ValueError: `top_k` is not a whole number above 0.
    """

    def __init__(
        self,
        model: ModelOrReranker = DEFAULT,
        top_k: int | None = None,
        score_threshold: float | None = None,
        instruction: str | None = None,
        meta_fields_to_embed: list[str] | None = None,
        options: dict[str, Any] | None = None,
    ) -> None:
        _check_top_k(top_k)
        self.model, self.top_k, self.score_threshold, self.instruction = model, top_k, score_threshold, instruction
        self.meta_fields_to_embed, self.options = meta_fields_to_embed or [], options or {}
        self._reranker: Reranker | None = None

    def warm_up(self) -> None:
        """Load the model. Concurrent calls load it once."""
        self._load()

    def _load(self) -> Reranker:
        with _LOAD_LOCK:
            if self._reranker is None:
                self._reranker = as_reranker(self.model, self.options)
            return self._reranker

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as a dictionary, for pipelines in YAML. A Reranker is saved as the name of its checkpoint."""
        model = self.model.name if isinstance(self.model, Reranker) else str(self.model)
        return default_to_dict(
            self, model=model, top_k=self.top_k, score_threshold=self.score_threshold, instruction=self.instruction,
            meta_fields_to_embed=self.meta_fields_to_embed, options=self.options,
        )  # fmt: skip

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "ProRankSimilarityRanker":
        """Make the component from the dictionary of `to_dict`."""
        return default_from_dict(cls, data)

    @component.output_types(documents=list[Document])
    def run(
        self, query: str, documents: list[Document], top_k: int | None = None, score_threshold: float | None = None
    ) -> dict[str, list[Document]]:
        """Rank documents by relevance to a query.

        Args:
            query: a text that is not empty.
            documents: documents to rank.
            top_k, score_threshold: replace the component's settings for this call.

        Returns:
            {"documents": the returned documents, best first}.
        """
        unique, options = self._prepare(documents, top_k, score_threshold)
        return _scored_copies(unique, self._load().rank(query, self._texts(unique), **options) if unique else [])

    @component.output_types(documents=list[Document])
    async def run_async(
        self, query: str, documents: list[Document], top_k: int | None = None, score_threshold: float | None = None
    ) -> dict[str, list[Document]]:
        """Do what `run` does, without blocking the event loop."""
        unique, options = self._prepare(documents, top_k, score_threshold)
        return _scored_copies(unique, await self._load().arank(query, self._texts(unique), **options) if unique else [])

    def _prepare(
        self, documents: list[Document], top_k: int | None, score_threshold: float | None
    ) -> tuple[list[Document], dict[str, Any]]:
        """Return the documents without repeated ids, and the options of `rank`."""
        _check_top_k(top_k)
        self.warm_up()
        options = {
            "top_k": self.top_k if top_k is None else top_k,
            "min_score": self.score_threshold if score_threshold is None else score_threshold,
            "instruction": self.instruction,
        }
        return list({document.id: document for document in documents}.values()), options

    def _texts(self, documents: list[Document]) -> list[str]:
        return ["\n".join([*self._meta_values(document), document.content or ""]) for document in documents]

    def _meta_values(self, document: Document) -> list[str]:
        return [str(value) for name in self.meta_fields_to_embed if (value := document.meta.get(name))]


def _check_top_k(top_k: int | None) -> None:
    if top_k is not None and (isinstance(top_k, bool) or not isinstance(top_k, int) or top_k < 1):
        raise ValueError(f"top_k must be above 0 and whole, not {top_k!r}; leave it out to get all documents")


def _scored_copies(documents: list[Document], hits: list[Hit]) -> dict[str, list[Document]]:
    """Return copies of the documents with their scores, in the order of the hits."""
    return {"documents": [replace(documents[hit.index], score=hit.score) for hit in hits]}
