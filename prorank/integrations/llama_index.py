"""LlamaIndex: a node postprocessor.

What is scored is a node's text for embedding (its metadata included, as LlamaIndex's own rerankers read it); nodes come
back in new NodeWithScore objects, and those that were given stay as they are.
"""

from __future__ import annotations

from typing import Any

from ..checkpoints.default_model import DEFAULT
from ..errors import extra
from ..rank.documents import Hit
from ..reranker import Reranker
from .shared import reranker_of

with extra("llama-index"):
    from llama_index.core.bridge.pydantic import Field, PrivateAttr
    from llama_index.core.callbacks import CBEventType, EventPayload
    from llama_index.core.postprocessor.types import BaseNodePostprocessor
    from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle


class ProRankRerank(BaseNodePostprocessor):
    """Orders nodes by relevance, best first; equal scores keep their order.

    Args:
        model: a Reranker, or a checkpoint as Reranker takes it.
        top_n: nodes to keep; all by default.
        min_score: leave out nodes whose log-odds are below.
        instruction: what to look for, in place of the prompt's default.
        keep_retrieval_score: put the score that a node came with into its metadata, as `retrieval_score`.
        options: of Reranker, where `model` names a checkpoint: {"dtype": "int8"}.
    """

    model: Any = Field(default=DEFAULT, description="Reranker, or checkpoint.")
    top_n: int | None = Field(default=None, description="Number of nodes to return sorted by score.")
    min_score: float | None = Field(default=None, description="Least log-odds of a node to return.")
    instruction: str | None = Field(default=None, description="What to look for.")
    keep_retrieval_score: bool = Field(default=False, description="Whether to keep the retrieval score in metadata.")
    options: dict[str, Any] = Field(default_factory=dict, description="Options of the Reranker.")
    _reranker: Reranker = PrivateAttr()

    def model_post_init(self, context: Any) -> None:
        """Load the model."""
        super().model_post_init(context)
        self._reranker = reranker_of(self.model, self.options)

    @classmethod
    def class_name(cls) -> str:
        """Its name in serialised pipelines."""
        return "ProRankRerank"

    def _postprocess_nodes(self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None) -> list[NodeWithScore]:
        if not nodes:
            return []
        asked = self._asked(nodes, query_bundle)
        with self._event(nodes, asked) as event:
            found = self._found(nodes, self._reranker.rank(**asked))
            event.on_end(payload={EventPayload.NODES: found})
        return found

    async def _apostprocess_nodes(self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None) -> list[NodeWithScore]:
        if not nodes:
            return []
        asked = self._asked(nodes, query_bundle)
        with self._event(nodes, asked) as event:
            found = self._found(nodes, await self._reranker.arank(**asked))
            event.on_end(payload={EventPayload.NODES: found})
        return found

    def _asked(self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None) -> dict[str, Any]:
        """What the Reranker is asked."""
        if query_bundle is None:
            raise ValueError("reranking needs a query; give query_str or query_bundle")
        texts = [node.node.get_content(metadata_mode=MetadataMode.EMBED) for node in nodes]
        how = {"top_k": self.top_n, "min_score": self.min_score, "instruction": self.instruction}
        return {"query": query_bundle.query_str, "documents": texts, **how}

    def _event(self, nodes: list[NodeWithScore], asked: dict[str, Any]) -> Any:
        """What LlamaIndex's tracing hears."""
        payload = {EventPayload.NODES: nodes, EventPayload.QUERY_STR: asked["query"], EventPayload.TOP_K: self.top_n}
        return self.callback_manager.event(CBEventType.RERANKING, payload={**payload, EventPayload.MODEL_NAME: self._reranker.name})

    def _found(self, nodes: list[NodeWithScore], hits: list[Hit]) -> list[NodeWithScore]:
        """The nodes that were hit, in the hits' order."""
        found = []
        for hit in hits:
            node, before = nodes[hit.index].node, nodes[hit.index].score
            if self.keep_retrieval_score:
                node = node.model_copy(update={"metadata": {**node.metadata, "retrieval_score": before}})
            found.append(NodeWithScore(node=node, score=hit.score))
        return found
