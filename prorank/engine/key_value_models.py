"""Models that compute keys and values once and attend to them later: the CPU engine, or the layers of transformers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch

from ..errors import ModelError
from .cached_attention import hidden_after
from .cpu_engine import Engine
from .flat_attention import MODEL_TYPES, is_flat
from .key_values import KeyValues, KeyValueShape, compute_key_values, shape_of
from .modules import body
from .packing import Pack, collate

if TYPE_CHECKING:
    from transformers import DynamicCache, PreTrainedModel

PAST_BYTES = 512 << 20  # stored keys and values of a forward pass of transformers' layers


class KeyValueModel(Protocol):
    """Computes and uses keys and values.

    Attributes:
        dtype: dtype of keys and values.
        shape: sizes of the keys and values of a token.
        pass_tokens: maximum number of tokens of a pack.
    """

    dtype: torch.dtype
    shape: KeyValueShape
    pass_tokens: int

    def compute(self, pack: Pack) -> torch.Tensor:
        """Return keys and values [layers, 2, num_kv_heads, T, head_dim] of all tokens of a pack; its answers are ignored."""

    def hidden_after(self, head: KeyValues, texts: Sequence[KeyValues], starts: Sequence[int], new: Sequence[int]) -> torch.Tensor:
        """Return the last hidden states [D, H] of D prompts that end with the same new tokens.

        Args:
            head: keys and values of the tokens before every text.
            texts: keys and values of each text, longest first.
            starts: position of the first new token of each prompt.
            new: ids of the new tokens.
        """


def bytes_per_token(model: KeyValueModel, dtype: torch.dtype) -> int:
    """Return the size of the keys and values of a token, in bytes, stored in `dtype`."""
    return model.shape.per_token * dtype.itemsize


class EngineKeyValues:
    """A `KeyValueModel` that runs the CPU engine."""

    pass_tokens = 8192

    def __init__(self, engine: Engine) -> None:
        self.engine, self.dtype, self.shape = engine, engine.dtype, shape_of(engine)

    def compute(self, pack: Pack) -> torch.Tensor:
        """See `KeyValueModel`."""
        return compute_key_values(self.engine, pack)

    def hidden_after(self, head: KeyValues, texts: Sequence[KeyValues], starts: Sequence[int], new: Sequence[int]) -> torch.Tensor:
        """See `KeyValueModel`."""
        return hidden_after(self.engine, head, texts, starts, new)


class TransformersKeyValues:
    """A `KeyValueModel` that runs the layers of transformers, on any device.

    Args:
        model: a causal LM with plain causal attention in every layer.

    Raises:
        ModelError: the model is of another type.
    """

    pass_tokens = 1024  # the mask of a pack is quadratic in its length

    def __init__(self, model: PreTrainedModel) -> None:
        config = model.config
        windows = set(getattr(config, "layer_types", None) or ["full_attention"]) != {"full_attention"}
        if config.model_type not in MODEL_TYPES or windows or getattr(config, "sliding_window", None):
            raise ModelError(f"stored keys and values need plain attention as in {', '.join(MODEL_TYPES)}, not {config.model_type}")
        self.body, _ = body(model)
        self.config, self.flat, self.dtype = config, is_flat(model), model.dtype
        self.device = next(model.parameters()).device
        self.shape = KeyValueShape.of_config(config)

    def compute(self, pack: Pack) -> torch.Tensor:
        """See `KeyValueModel`."""
        from transformers import DynamicCache

        cache = DynamicCache(config=self.config)
        self.body(**collate([pack], 0, self.flat).to(self.device).inputs, past_key_values=cache, use_cache=True)
        layers: list[Any] = cache.layers
        return torch.stack([torch.stack((layer.keys[0], layer.values[0])) for layer in layers])

    def hidden_after(self, head: KeyValues, texts: Sequence[KeyValues], starts: Sequence[int], new: Sequence[int]) -> torch.Tensor:
        """See `KeyValueModel`."""
        token_bytes = bytes_per_token(self, self.dtype)
        size = max(1, PAST_BYTES // (token_bytes * (len(head) + len(texts[0]) + len(new))))
        parts = [slice(first, first + size) for first in range(0, len(texts), size)]
        return torch.cat([self._hidden_after(head, texts[part], starts[part], new) for part in parts])

    def _hidden_after(self, head: KeyValues, texts: Sequence[KeyValues], starts: Sequence[int], new: Sequence[int]) -> torch.Tensor:
        """Compute one forward pass, whose stored keys and values are padded to the longest text."""
        count, size = len(texts), len(new)
        longest = len(head) + len(texts[0])
        ends = torch.tensor([len(head) + len(text) for text in texts])
        stored = (torch.arange(longest) < ends[:, None])[:, None].expand(-1, size, -1)
        own = torch.ones(size, size, dtype=torch.bool).tril().expand(count, -1, -1)
        inputs = {
            "input_ids": torch.tensor(new).expand(count, -1),
            "position_ids": torch.tensor(starts)[:, None] + torch.arange(size),
            "attention_mask": torch.cat((stored, own), -1)[:, None],
        }
        inputs = {name: tensor.to(self.device) for name, tensor in inputs.items()}
        cache = self._cache(head, texts, longest)
        return self.body(**inputs, past_key_values=cache, use_cache=True).last_hidden_state[:, -1]

    def _cache(self, head: KeyValues, texts: Sequence[KeyValues], longest: int) -> DynamicCache:
        """Return a cache of the texts after the head, padded to `longest` tokens."""
        from transformers import DynamicCache

        cache = DynamicCache(config=self.config)
        shape = self.shape
        for number in range(shape.layers):
            past = torch.zeros(2, len(texts), shape.num_kv_heads, longest, shape.head_dim, dtype=self.dtype)
            for place, text in enumerate(texts):
                head.copy_layer(number, past[:, place, :, : len(head)])
                text.copy_layer(number, past[:, place, :, len(head) : len(head) + len(text)])
            cache.update(*past.to(self.device), number)
        return cache
