"""The parts of a Llama-like model of transformers that the engine reads, as types.

`torch.nn.Module` finds its parts by name, so a type checker sees a tensor or any module in each of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol, cast

import torch

from .modules import body


class Norm(Protocol):
    """A root mean square norm."""

    weight: torch.Tensor


class Attention(Protocol):
    """The attention of a layer; Qwen3 also has `q_norm` and `k_norm`."""

    q_proj: torch.nn.Linear
    k_proj: torch.nn.Linear
    v_proj: torch.nn.Linear
    o_proj: torch.nn.Linear
    head_dim: int
    scaling: float


class Mlp(Protocol):
    """The feed-forward part of a layer."""

    gate_proj: torch.nn.Linear
    up_proj: torch.nn.Linear
    down_proj: torch.nn.Linear


class DecoderLayer(Protocol):
    """One layer."""

    self_attn: Attention
    mlp: Mlp
    input_layernorm: Norm
    post_attention_layernorm: Norm

    def register_forward_hook(self, hook: Callable[..., Any]) -> Any: ...


class Layers(Protocol):
    """All layers, a `torch.nn.ModuleList`."""

    def __getitem__(self, index: int) -> DecoderLayer: ...

    def __iter__(self) -> Iterator[DecoderLayer]: ...


class Decoder(Protocol):
    """A model without its output head."""

    layers: Layers
    embed_tokens: torch.nn.Embedding
    norm: Norm

    def rotary_emb(self, x: torch.Tensor, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]: ...

    def __call__(self, **inputs: Any) -> Any: ...


def decoder_of(model: torch.nn.Module) -> Decoder:
    """The model without its output head, for which `engine.is_supported` holds."""
    return cast(Decoder, body(model)[0])
