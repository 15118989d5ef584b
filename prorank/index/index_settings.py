"""What an index depends on: the Reranker that made it, and how documents are stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from ..engine.key_value_models import EngineKeyValues, KeyValueModel, TransformersKeyValues
from ..errors import ConfigError, ModelError
from ..prompts.document_frame import DocumentFrame
from ..prompts.truncation import Truncation
from ..rank.base_reranker import BaseReranker
from ..rank.pointwise import PointwiseStrategy
from ..rank.validation import whole_number
from ..utils.texts import plain_text

STORAGES: dict[str, torch.dtype | None] = {"model": None, "bf16": torch.bfloat16, "int8": torch.int8}
QUERY_ROOM = 64  # tokens that documents leave for the query, by default
REMEDIES = {  # of a difference between an index and a Reranker
    "weights": "load the model it was made with",
    "prompt": "load the model with the prompt it was made with",
    "dtype": "load the model with that dtype",
    "tokens": "load the model with the prompt and tokenizer it was made with",
    "truncation": "load the model with the long_documents and max_length it was made with",
}


@dataclass(frozen=True)
class IndexSettings:
    """How documents are stored.

    Attributes:
        instruction: the instruction before the documents; None for the prompt's own.
        query_room: number of tokens that documents leave for the query.
        storage: "model" stores keys and values in the dtype of the model, "bf16" and "int8" round them.
    """

    instruction: str | None = None
    query_room: int = QUERY_ROOM
    storage: str = "model"

    @classmethod
    def of(cls, reranker: BaseReranker, instruction: Any, query_room: Any, storage: Any) -> IndexSettings:
        """Validate settings. `query_room` None is 64, or the query's share of a short prompt.

        Raises:
            ConfigError: storage is unknown, query_room is not between 1 and the query's share, or the Reranker cannot make an
                index, see `indexing_strategy`.
            DataError: the instruction is not a text.
        """
        strategy = indexing_strategy(reranker)
        if storage not in STORAGES:
            raise ConfigError(f"storage {storage!r} is not known; valid: {', '.join(STORAGES)}")
        instruction = None if instruction is None else plain_text(instruction, "the instruction")
        limit = frame_of(strategy, instruction).query_limit or 1
        room = whole_number(query_room, "query_room", "omit it for the default", ConfigError) or min(QUERY_ROOM, limit)
        if room > limit:
            raise ConfigError(f"query_room must be at most {limit}, the query's share of a prompt, not {room}; omit it")
        return cls(instruction, room, storage)

    def truncation(self, strategy: PointwiseStrategy) -> Truncation:
        """Return how documents are split, so that each prompt leaves `query_room` tokens for the query."""
        return replace(strategy.truncation, max_prompt_tokens=strategy.encoder.longest - self.query_room)

    def dtype(self, model: KeyValueModel) -> torch.dtype:
        """Return the dtype in which keys and values are stored."""
        return STORAGES[self.storage] or model.dtype


def indexing_strategy(reranker: BaseReranker, purpose: str = "an index") -> PointwiseStrategy:
    """Return the strategy of a Reranker that can make an index. `purpose` names in messages what the keys and values are for.

    Raises:
        ConfigError: it generates thoughts or compares documents, its prompt has the query first, or its model is in memory or has
            other layers than Llama's.
    """
    strategy, name = reranker.strategy, reranker.name
    if not isinstance(strategy, PointwiseStrategy):
        remedy = "load it with think=False" if strategy.thinks else "use method pointwise"
        raise ConfigError(f"{name}: {purpose} needs a model that scores single documents without a thought; {remedy}")
    order = strategy.encoder.prompt.order
    if order != "document-first":
        raise ConfigError(
            f"{name}: {purpose} needs a prompt with order: document-first, not {order}, in which documents depend on the query; "
            "use a model trained with such a prompt, such as the default model"
        )
    if not reranker.weight_hashes:
        raise ConfigError(f"{name}: {purpose} needs weights that cannot change; save the model in memory and load its folder")
    if not _uses_engine(reranker):
        key_value_model(reranker, purpose)
    return strategy


def key_value_model(reranker: BaseReranker, purpose: str = "an index") -> KeyValueModel:
    """Return what computes keys and values: the CPU engine, or the layers of transformers. `purpose`: see `indexing_strategy`.

    Raises:
        ConfigError: the model has other layers than Llama's.
    """
    runtime = reranker.runtime
    if runtime.engine is not None and _uses_engine(reranker):
        return EngineKeyValues(runtime.engine)
    try:
        return TransformersKeyValues(runtime.model)
    except ModelError as error:
        raise ConfigError(f"{reranker.name}: {error}; use such a model for {purpose}") from error


def frame_of(strategy: PointwiseStrategy, instruction: str | None) -> DocumentFrame:
    """Return the tokens around a document without a query."""
    return strategy.encoder.frames_of_lengths("", [0], instruction)[0]


def identity(reranker: BaseReranker, settings: IndexSettings) -> dict[str, str]:
    """Return what stored keys and values depend on: an index is valid for equal identities only."""
    strategy = indexing_strategy(reranker)
    truncation = strategy.truncation
    frame = frame_of(strategy, settings.instruction)
    return {
        "weights": " ".join(reranker.weight_hashes),
        "prompt": reranker.prompt_fingerprint,
        "dtype": reranker.runtime.numbers.removeprefix("torch."),
        "tokens": " ".join(map(str, [*frame.head, -1, *frame.tail])),
        "truncation": f"{truncation.max_chunks} chunks, overlap {truncation.overlap}, prompts of {strategy.encoder.longest} tokens",
    }


def check_identity(place: object, stored: Mapping[str, Any], current: Mapping[str, str]) -> None:
    """Raise ConfigError if an index at `place` was made with other weights, prompt, dtype or truncation."""
    for key, value in current.items():
        if stored.get(key) != value:
            shown = key in ("dtype", "truncation")
            difference = f"{key} {stored.get(key)}, but the model has {value}" if shown else f"other {key} than the model's"
            raise ConfigError(f"{place}: the index was made with {difference}; {REMEDIES[key]}, or index the documents again")


def _uses_engine(reranker: BaseReranker) -> bool:
    """Whether the engine computes keys and values: on a CPU."""
    return reranker.runtime.engine is not None and reranker.device.type == "cpu"
