"""MTEB: a checkpoint as the benchmark's cross-encoder.

Its revision is the model's fingerprint, so results in MTEB's cache never belong to other weights or another prompt.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..checkpoints.default_model import DEFAULT
from ..errors import extra
from .shared import ModelOrReranker, as_reranker

with extra("mteb"):
    from mteb.models.model_meta import ModelMeta


class ProRankCrossEncoder:
    """A model for `mteb.evaluate` that scores (query, document) pairs.

    Args:
        model_name: a Reranker, or a checkpoint as Reranker accepts it.
        revision: the revision that results are stored under; the model's fingerprint by default.
        device: device of the model.
        name: "owner/name" to report; by default derived from the name of the checkpoint.
        options: arguments of Reranker if `model_name` is a checkpoint.
    """

    def __init__(
        self,
        model_name: ModelOrReranker = DEFAULT,
        revision: str | None = None,
        device: str | None = None,
        name: str | None = None,
        **options: Any,
    ) -> None:
        self.reranker = as_reranker(model_name, options | ({"device": device} if device else {}))
        self.mteb_model_meta = ModelMeta.create_empty(
            overwrites={
                "name": name or model_id(self.reranker.name),
                "revision": revision or (self.reranker.fingerprint or "in_memory")[:16],
                "n_parameters": sum(weight.numel() for weight in self.reranker.model.parameters()),
                "max_tokens": self.reranker.encoder.longest,
                "framework": ["PyTorch", "Transformers"],
                "use_instructions": True,
                "model_type": ["cross-encoder"],
            }
        )

    def predict(self, inputs1: Any, inputs2: Any, **_: Any) -> np.ndarray:
        """Score aligned queries and documents.

        Args:
            inputs1: loader of batches of queries with "text", and optionally "query" and "instruction".
            inputs2: loader of batches of documents with "text".
            _: ignored, `batch_size` among them; batches are chosen by tokens.

        Returns:
            Log-odds, fp32 [n].
        """
        queries = [query for batch in inputs1 for query in _queries(batch)]
        documents = [text for batch in inputs2 for text in batch["text"]]
        scores = np.empty(len(queries), np.float32)
        for instruction in dict.fromkeys(query.instruction for query in queries):
            same = [i for i, query in enumerate(queries) if query.instruction == instruction]
            scores[same] = self.reranker.score([(queries[i].text, documents[i]) for i in same], instruction)
        return scores


class InstructedQuery(NamedTuple):
    """A query, and the instruction of its task if there is one."""

    text: str
    instruction: str | None


def _queries(batch: dict[str, list]) -> list[InstructedQuery]:
    """Return the queries of a batch. "query" is read if present, because "text" ends with the instruction."""
    texts = batch.get("query") or batch["text"]
    instructions = batch.get("instruction") or [None] * len(texts)
    return [InstructedQuery(text, instruction or None) for text, instruction in zip(texts, instructions)]


def model_id(model: str) -> str:
    """Return "owner/name": the id of a hub model, or "prorank/" and the name of a local folder (its parent's for "model")."""
    if model.count("/") == 1 and not Path(model).exists():
        return model
    path = Path(model)
    return f"prorank/{path.parent.name if path.name == 'model' and path.parent.name else path.name}"
