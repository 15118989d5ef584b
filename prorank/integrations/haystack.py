"""Haystack: a ranker component.

Documents of one id are ranked once, as Haystack's own rankers do; they come back as copies with `score` (log-odds), and
those that were given stay as they are.
"""

import threading
from dataclasses import replace
from typing import Any

from ..checkpoints.default_model import DEFAULT
from ..errors import extra
from ..rank.documents import Hit
from ..reranker import Reranker
from .shared import Model, reranker_of

with extra("haystack"):
    from haystack import Document, component, default_from_dict, default_to_dict


_WARMING_UP = threading.Lock()  # of all components: a component itself is copied and pickled, which locks are not


@component
class ProRankRanker:
    """Orders documents by relevance, best first; equal scores keep their order.

    Args:
        model: a Reranker, or a checkpoint as Reranker takes it, which is loaded when it is first needed.
        top_k: documents to keep; all by default.
        score_threshold: leave out documents whose log-odds are below.
        instruction: what to look for, in place of the prompt's default.
        meta_fields_to_embed: metadata to put before a document's content, a line each.
        options: of Reranker, where `model` names a checkpoint: {"dtype": "int8"}.

    Raises:
        ValueError: top_k is not above 0.
    """

    def __init__(
        self,
        model: Model = DEFAULT,
        top_k: int | None = None,
        score_threshold: float | None = None,
        instruction: str | None = None,
        meta_fields_to_embed: list[str] | None = None,
        options: dict[str, Any] | None = None,
    ) -> None:
        _check(top_k)
        self.model, self.top_k, self.score_threshold, self.instruction = model, top_k, score_threshold, instruction
        self.meta_fields_to_embed, self.options = meta_fields_to_embed or [], options or {}
        self._reranker: Reranker | None = None

    def warm_up(self) -> None:
        """Load the model, once, however many requests come first."""
        self._loaded()

    def _loaded(self) -> Reranker:
        with _WARMING_UP:
            if self._reranker is None:
                self._reranker = reranker_of(self.model, self.options)
            return self._reranker

    def to_dict(self) -> dict[str, Any]:
        """Settings as a dictionary, for pipelines in YAML; a Reranker is named by its checkpoint."""
        model = self.model.name if isinstance(self.model, Reranker) else str(self.model)
        return default_to_dict(
            self, model=model, top_k=self.top_k, score_threshold=self.score_threshold, instruction=self.instruction,
            meta_fields_to_embed=self.meta_fields_to_embed, options=self.options,
        )  # fmt: skip

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "ProRankRanker":
        """The component of such a dictionary."""
        return default_from_dict(cls, data)

    @component.output_types(documents=list[Document])
    def run(
        self, query: str, documents: list[Document], top_k: int | None = None, score_threshold: float | None = None
    ) -> dict[str, list[Document]]:
        """{"documents": those that are kept, in order}; arguments go before the component's own settings."""
        unique, how = self._asked(documents, top_k, score_threshold)
        return _found(unique, self._loaded().rank(query, self._texts(unique), **how) if unique else [])

    @component.output_types(documents=list[Document])
    async def run_async(
        self, query: str, documents: list[Document], top_k: int | None = None, score_threshold: float | None = None
    ) -> dict[str, list[Document]]:
        """As `run`, off the event loop."""
        unique, how = self._asked(documents, top_k, score_threshold)
        return _found(unique, await self._loaded().arank(query, self._texts(unique), **how) if unique else [])

    def _asked(self, documents: list[Document], top_k: int | None, least: float | None) -> tuple[list[Document], dict[str, Any]]:
        """(documents of different ids, options of `rank`)."""
        _check(top_k)
        self.warm_up()
        how = {
            "top_k": self.top_k if top_k is None else top_k,
            "min_score": self.score_threshold if least is None else least,
            "instruction": self.instruction,
        }
        return list({document.id: document for document in documents}.values()), how

    def _texts(self, documents: list[Document]) -> list[str]:
        fields = [[document.meta.get(name) for name in self.meta_fields_to_embed] for document in documents]
        return ["\n".join([*map(str, filter(None, some)), document.content or ""]) for some, document in zip(fields, documents)]


def _check(top_k: int | None) -> None:
    if top_k is not None and (isinstance(top_k, bool) or not isinstance(top_k, int) or top_k < 1):
        raise ValueError(f"top_k must be above 0 and whole, not {top_k!r}; leave it out to get all documents")


def _found(documents: list[Document], hits: list[Hit]) -> dict[str, list[Document]]:
    """Copies of the documents that were hit, in the hits' order."""
    return {"documents": [replace(documents[hit.index], score=hit.score) for hit in hits]}
