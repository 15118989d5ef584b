"""Keys and values of texts, computed once and stored, for prompts that begin with the same tokens again and again.

Shapes: T tokens, layers, num_kv_heads, head_dim. The 2 is for keys and values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from .cpu_engine import Engine
from .modules import head_dim_of
from .packing import Pack, collate
from .prefix_attention import attend, plan_of

INT8_STEPS = 127


@dataclass(frozen=True)
class KeyValueShape:
    """Sizes of the keys and values of a token."""

    layers: int
    num_kv_heads: int
    head_dim: int

    @classmethod
    def of_config(cls, config: Any) -> KeyValueShape:
        """Return the sizes for the configuration of a model (of transformers)."""
        return cls(config.num_hidden_layers, config.num_key_value_heads, head_dim_of(config))

    @property
    def per_token(self) -> int:
        """Number of stored values of a token."""
        return self.layers * 2 * self.num_kv_heads * self.head_dim

    def of_tokens(self, tokens: int) -> tuple[int, int, int, int, int]:
        """Shape of the keys and values of `tokens` tokens."""
        return self.layers, 2, self.num_kv_heads, tokens, self.head_dim


@dataclass(frozen=True)
class KeyValues:
    """Keys and values of the tokens of one text, in all layers.

    Attributes:
        values: [layers, 2, num_kv_heads, T, head_dim], floats or int8.
        scales: [layers, 2, num_kv_heads, 1, head_dim], the size of an int8 step in each channel; None for floats.
    """

    values: torch.Tensor
    scales: torch.Tensor | None = None

    def __len__(self) -> int:
        return self.values.shape[3]

    def copy_layer(self, number: int, out: torch.Tensor) -> None:
        """Write one layer into `out` [2, num_kv_heads, T, head_dim], in the dtype of `out`."""
        if self.scales is None:
            out.copy_(self.values[number])
        else:
            torch.mul(self.values[number], self.scales[number], out=out)


def shape_of(engine: Engine) -> KeyValueShape:
    """Return the sizes of an engine's keys and values."""
    return KeyValueShape(len(engine.layers), engine.num_kv_heads, engine.head_dim)


def compute_key_values(engine: Engine, pack: Pack) -> torch.Tensor:
    """Return keys and values [layers, 2, num_kv_heads, T, head_dim] of all tokens of a pack, in the dtype of attention.

    Args:
        engine: the engine.
        pack: a shared prefix and texts after it; its answers are ignored.
    """
    batch = collate([pack], 0, flat=True)
    plan = plan_of(batch.inputs["spans"], engine.num_heads, engine.num_kv_heads)
    stored = torch.empty(shape_of(engine).of_tokens(len(pack)), dtype=engine.dtype)

    def attention_fn(number: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        stored[number, 0], stored[number, 1] = k.transpose(0, 1), v.transpose(0, 1)
        if number == len(engine.layers) - 1:  # nothing after the last keys and values is needed
            return q.flatten(1)
        return attend(q, k, v, plan, engine.kernels.softmax, engine.dtype)

    no_answers = torch.empty(0, dtype=torch.long)
    engine.run(batch.inputs["input_ids"][0], batch.inputs["position_ids"][0], no_answers, attention_fn)
    return stored


def quantise_key_values(values: torch.Tensor) -> KeyValues:
    """Round keys and values [layers, 2, num_kv_heads, T, head_dim] to int8, with one scale per layer, head and channel.

    A channel of the keys has a similar size in all tokens, and channels differ much (KIVI, arXiv 2402.02750, section 3.2).
    """
    largest = values.float().abs().amax(3, keepdim=True).clamp_min(1e-8)
    scales = (largest / INT8_STEPS).to(values.dtype)
    steps = (values.float() / scales.float()).round().clamp(-INT8_STEPS, INT8_STEPS)
    return KeyValues(steps.to(torch.int8), scales)
