"""LlamaIndex: a node postprocessor.

It scores a node's text for embedding, which includes its metadata, as LlamaIndex's own rerankers do. The results are new
NodeWithScore objects; the input nodes are not changed.
"""

from __future__ import annotations

from typing import Any

from ..checkpoints.default_model import DEFAULT
from ..errors import extra
from ..rank.documents import Hit
from ..reranker import Reranker
from .shared import as_reranker

with extra("llama-index"):
    from llama_index.core.bridge.pydantic import Field, PrivateAttr
    from llama_index.core.callbacks import CBEventType, EventPayload
    from llama_index.core.postprocessor.types import BaseNodePostprocessor
    from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle


class ProRankRerank(BaseNodePostprocessor):
    """Orders nodes by relevance, best first; equal scores keep their order.

    Args:
        model: a Reranker, or a checkpoint as Reranker accepts it.
        top_n: number of nodes to return; all by default.
        min_score: lowest log-odds of a returned node.
        instruction: what to look for; replaces the instruction of the prompt.
        keep_retrieval_score: store the score of the retriever in a node's metadata, as `retrieval_score`.
        options: arguments of Reranker if `model` is a checkpoint, such as {"dtype": "int8"}.
    """

    model: Any = Field(default=DEFAULT, description="Reranker, or checkpoint.")
    top_n: int | None = Field(default=None, description="Number of nodes to return sorted by score.")
    min_score: float | None = Field(default=None, description="Lowest log-odds of a node to return.")
    instruction: str | None = Field(default=None, description="What to look for.")
    keep_retrieval_score: bool = Field(default=False, description="Whether to keep the retrieval score in metadata.")
    options: dict[str, Any] = Field(default_factory=dict, description="Options of the Reranker.")
    _reranker: Reranker = PrivateAttr()

    def model_post_init(self, context: Any) -> None:
        """Load the model."""
        super().model_post_init(context)
        self._reranker = as_reranker(self.model, self.options)

    @classmethod
    def class_name(cls) -> str:
        """Return the name in serialised pipelines."""
        return "ProRankRerank"

    def _postprocess_nodes(self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None) -> list[NodeWithScore]:
        if not nodes:
            return []
        arguments = self._rank_arguments(nodes, query_bundle)
        with self._trace(nodes, arguments["query"]) as event:
            ranked = self._scored_nodes(nodes, self._reranker.rank(**arguments))
            event.on_end(payload={EventPayload.NODES: ranked})
        return ranked

    async def _apostprocess_nodes(self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None) -> list[NodeWithScore]:
        if not nodes:
            return []
        arguments = self._rank_arguments(nodes, query_bundle)
        with self._trace(nodes, arguments["query"]) as event:
            ranked = self._scored_nodes(nodes, await self._reranker.arank(**arguments))
            event.on_end(payload={EventPayload.NODES: ranked})
        return ranked

    def _rank_arguments(self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None) -> dict[str, Any]:
        """Return the arguments of `Reranker.rank`. Raises ValueError without a query."""
        if query_bundle is None:
            raise ValueError("reranking needs a query; give query_str or query_bundle")
        texts = [node.node.get_content(metadata_mode=MetadataMode.EMBED) for node in nodes]
        options = {"top_k": self.top_n, "min_score": self.min_score, "instruction": self.instruction}
        return {"query": query_bundle.query_str, "documents": texts, **options}

    def _trace(self, nodes: list[NodeWithScore], query: str) -> Any:
        """Start an event for LlamaIndex's tracing."""
        payload = {EventPayload.NODES: nodes, EventPayload.QUERY_STR: query, EventPayload.TOP_K: self.top_n}
        return self.callback_manager.event(CBEventType.RERANKING, payload={**payload, EventPayload.MODEL_NAME: self._reranker.name})

    def _scored_nodes(self, nodes: list[NodeWithScore], hits: list[Hit]) -> list[NodeWithScore]:
        """Return the nodes with their new scores, in the order of the hits."""
        scored = []
        for hit in hits:
            node, retrieval_score = nodes[hit.index].node, nodes[hit.index].score
            if self.keep_retrieval_score:
                node = node.model_copy(update={"metadata": {**node.metadata, "retrieval_score": retrieval_score}})
            scored.append(NodeWithScore(node=node, score=hit.score))
        return scored
