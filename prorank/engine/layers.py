"""A layer's weights as the engine takes them, and its matrix products in the model's dtype: for scoring, and in training.

Queries, keys and values are one product, and so are gate and up: fewer passes over the rows, the same sums.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeGuard

import torch
from torch.nn.functional import linear

from .transformer import Attention, DecoderLayer


class PackedLinear:
    """A matrix product with weight [N, H] in its dtype; in bf16 a copy in oneDNN's own layout saves reordering it every time."""

    def __init__(self, weight: torch.Tensor) -> None:
        self.weight = weight
        self.packed: torch.Tensor | None = None
        if self.weight.dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported():
            self.packed = torch.ops.mkldnn._reorder_linear_weight(self.weight, 2048)

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        if self.packed is None:
            return linear(rows, self.weight)
        return torch.ops.mkldnn._linear_pointwise(rows, self.packed, None, "none", [], "")

    @classmethod
    def of(cls, *parts: torch.nn.Linear) -> "PackedLinear":
        """The weights of these modules joined into one, of which they become views."""
        weight = torch.cat([part.weight for part in parts])
        for part, view in zip(parts, weight.split([len(part.weight) for part in parts])):
            part.weight = torch.nn.Parameter(view, requires_grad=False)
        return cls(weight)


class TrainableLinear:
    """A matrix product and its bias in training: weights are cast and joined anew each time, with gradient; what is no Linear goes
    through its module."""

    def __init__(self, *parts: torch.nn.Module) -> None:
        self.parts, self.plain = parts, [part for part in parts if type(part) is torch.nn.Linear]

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        if len(self.plain) < len(self.parts):
            with torch.autocast("cpu", enabled=rows.dtype == torch.bfloat16):
                return torch.cat([part(rows) for part in self.parts], -1)
        biases = [part.bias.to(rows.dtype) for part in self.plain if part.bias is not None]
        return linear(rows, torch.cat([part.weight.to(rows.dtype) for part in self.plain]), torch.cat(biases) if biases else None)


class AdaptedLinear(Protocol):
    """What is read of a Linear under an adapter of peft."""

    base_layer: torch.nn.Linear
    active_adapters: list[str]
    disable_adapters: bool
    lora_A: Mapping[str, torch.nn.Linear]
    lora_B: Mapping[str, torch.nn.Linear]
    scaling: Mapping[str, float]


class LoraLinear:
    """Frozen weights [N, H], cast and joined once, with the factors of their adapters (r each) beside them: two thin products more
    for all parts, and no gradient of the weights, a third of a step's work."""

    def __init__(self, *parts: AdaptedLinear) -> None:
        self.parts = parts
        self.weight: torch.Tensor | None = None
        self.bias: torch.Tensor | None = None

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        if self.weight is None or self.weight.dtype != rows.dtype:
            bases = [part.base_layer for part in self.parts]
            self.weight = torch.cat([base.weight.detach().to(rows.dtype) for base in bases])
            biases = [base.bias.detach().to(rows.dtype) for base in bases if base.bias is not None]
            self.bias = torch.cat(biases) if biases else None
        out = linear(rows, self.weight, self.bias)  # [T, N]
        if self.parts[0].disable_adapters:
            return out
        down, up = self.factors()
        return torch.addmm(out, linear(rows, down.to(rows.dtype)), up.to(rows.dtype))

    def factors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(down [R, H], up [R, N]) of all parts in fp32, R the sum of their ranks; `up` has a block a part and zeros elsewhere."""
        pairs = [(part, part.active_adapters[0]) for part in self.parts]
        down = torch.cat([part.lora_A[name].weight for part, name in pairs])
        return down, torch.block_diag(*(part.lora_B[name].weight.t() * part.scaling[name] for part, name in pairs))

    @staticmethod
    def fits(part: torch.nn.Module) -> TypeGuard[AdaptedLinear]:
        """Whether a module is a frozen Linear under one plain adapter without dropout, as `lora` in the settings makes it."""
        from peft.tuners.lora import Linear

        if type(part) is not Linear or part.merged or len(part.active_adapters) != 1 or part.base_layer.weight.requires_grad:
            return False
        name = part.active_adapters[0]
        plain = name in part.lora_A and name not in part.lora_variant and part.lora_B[name].bias is None
        return plain and isinstance(part.lora_dropout[name], torch.nn.Identity)


def trainable(*parts: torch.nn.Module) -> TrainableLinear | LoraLinear:
    """The product of these modules in training."""
    adapted = [part for part in parts if LoraLinear.fits(part)]
    return LoraLinear(*adapted) if len(adapted) == len(parts) else TrainableLinear(*parts)


@dataclass(frozen=True)
class Layer:
    """One layer: the norms' weights before and after attention (None: the products hold them and take int8), its four products, the
    bias of the first or None, and `norms` of queries and keys by head, or None."""

    before: torch.Tensor | None
    qkv: Any
    bias: torch.Tensor | None
    norms: tuple[torch.Tensor, torch.Tensor] | None
    out: Any
    after: torch.Tensor | None
    up: Any
    down: Any


def layer_of(layer: DecoderLayer, kind: Callable[..., Any]) -> Layer:
    """A layer of transformers with products of this kind, made of the modules whose weights they join."""
    a, m = layer.self_attn, layer.mlp
    parts = (a.q_proj, a.k_proj, a.v_proj), (a.o_proj,), (m.gate_proj, m.up_proj), (m.down_proj,)
    qkv, out, up, down = (kind(*some) for some in parts)
    bias = None if a.q_proj.bias is None or kind is trainable else torch.cat([part.bias for part in parts[0]]).detach()
    return Layer(layer.input_layernorm.weight, qkv, bias, head_norms(a), out, layer.post_attention_layernorm.weight, up, down)


def head_norms(attention: Attention) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Weights of the norms of queries and keys, which Qwen3 has."""
    if not (hasattr(attention, "q_norm") and hasattr(attention, "k_norm")):
        return None
    return attention.q_norm.weight, attention.k_norm.weight
