"""Types for the modules of a Llama-like model of transformers that the engine reads.

`torch.nn.Module` looks up its attributes dynamically, so a type checker would infer `Tensor | Module` for each of them.
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
    """One layer: attention and feed-forward part, each after a norm."""

    self_attn: Attention
    mlp: Mlp
    input_layernorm: Norm
    post_attention_layernorm: Norm

    def register_forward_hook(self, hook: Callable[..., Any]) -> Any: ...


class Layers(Protocol):
    """All layers, a `torch.nn.ModuleList`."""

    def __getitem__(self, index: int) -> DecoderLayer: ...

    def __iter__(self) -> Iterator[DecoderLayer]: ...


class TransformerBody(Protocol):
    """A model without its output head."""

    layers: Layers
    embed_tokens: torch.nn.Embedding
    norm: Norm

    def rotary_emb(self, x: torch.Tensor, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]: ...

    def __call__(self, **inputs: Any) -> Any: ...


def transformer_body(model: torch.nn.Module) -> TransformerBody:
    """Return the body of a model for which `cpu_engine.is_supported` is true."""
    return cast(TransformerBody, body(model)[0])
