"""MTEB: a checkpoint as the benchmark's cross-encoder.

The revision is the model's fingerprint, so results that MTEB keeps never belong to other weights or another prompt.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..checkpoints.default_model import DEFAULT
from ..errors import extra
from .shared import Model, reranker_of

with extra("mteb"):
    from mteb.models.model_meta import ModelMeta


class ProRankCrossEncoder:
    """What `mteb.evaluate` takes: one score a pair.

    Args:
        model_name: a Reranker, or a checkpoint as Reranker takes it.
        revision: what results are kept under; the model's fingerprint by default.
        device: of the model.
        name: "owner/name" to report; by default made of the checkpoint's.
        options: of Reranker, where `model_name` names a checkpoint.
    """

    def __init__(
        self,
        model_name: Model = DEFAULT,
        revision: str | None = None,
        device: str | None = None,
        name: str | None = None,
        **options: Any,
    ) -> None:
        self.reranker = reranker_of(model_name, options | ({"device": device} if device else {}))
        self.mteb_model_meta = ModelMeta.create_empty(
            overwrites={
                "name": name or _name(self.reranker.name),
                "revision": revision or (self.reranker.fingerprint or "in_memory")[:16],
                "n_parameters": sum(weight.numel() for weight in self.reranker.model.parameters()),
                "max_tokens": self.reranker.encoder.longest,
                "framework": ["PyTorch", "Transformers"],
                "use_instructions": True,
                "model_type": ["cross-encoder"],
            }
        )

    def predict(self, inputs1: Any, inputs2: Any, **_: Any) -> np.ndarray:
        """Log-odds fp32 [n] of aligned queries (`inputs1`) and documents (`inputs2`), both loaders of batches with "text". A
        query's "instruction" goes where the prompt has its place. Batches are chosen by tokens, whatever `batch_size` says."""
        rows = [row for batch in inputs1 for row in _rows(batch)]
        documents = [text for batch in inputs2 for text in batch["text"]]
        out = np.empty(len(rows), np.float32)
        for instruction in dict.fromkeys(told for _, told in rows):
            some = [i for i, (_, told) in enumerate(rows) if told == instruction]
            out[some] = self.reranker.score([(rows[i][0], documents[i]) for i in some], instruction)
        return out


def _rows(batch: dict[str, list]) -> list[tuple[str, str | None]]:
    """(query, instruction if it has one) of a batch; "text" of a query has its instruction behind it, "query" has not."""
    queries = batch.get("query") or batch["text"]
    return list(zip(queries, [told or None for told in batch.get("instruction") or [None] * len(queries)]))


def _name(model: str) -> str:
    """ "owner/name" of a hub id as it is, of a folder made from its last name that says something."""
    if model.count("/") == 1 and not Path(model).exists():
        return model
    path = Path(model)
    return f"prorank/{path.parent.name if path.name == 'model' and path.parent.name else path.name}"
