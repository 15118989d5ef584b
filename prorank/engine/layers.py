"""Weights of a layer in the engine's form, and its matrix products in the model's dtype, for scoring and for training.

Queries, keys and values are computed by one product, and so are gate and up, which saves passes over the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeGuard

import torch
from torch.nn.functional import linear

from .transformer import Attention, DecoderLayer


class PackedLinear:
    """A matrix product with weight [N, H] in its dtype.

    On a CPU, in bf16, it stores a copy of the weight in oneDNN's layout, so that the weight is not reordered in every call.
    """

    def __init__(self, weight: torch.Tensor) -> None:
        self.weight = weight
        self.packed: torch.Tensor | None = None
        if weight.device.type == "cpu" and weight.dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported():
            self.packed = torch.ops.mkldnn._reorder_linear_weight(self.weight, 2048)

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """Multiply rows [T, H]. Returns [T, N]."""
        if self.packed is None:
            return linear(rows, self.weight)
        return torch.ops.mkldnn._linear_pointwise(rows, self.packed, None, "none", [], "")

    @classmethod
    def of(cls, *modules: torch.nn.Linear) -> "PackedLinear":
        """Join the weights of these modules into one; the modules' own become views of it."""
        weight = torch.cat([module.weight for module in modules])
        for module, view in zip(modules, weight.split([len(module.weight) for module in modules])):
            module.weight = torch.nn.Parameter(view, requires_grad=False)
        return cls(weight)


class TrainableLinear:
    """A matrix product with bias for training. Weights are cast and joined in every call, with gradient.

    If one of the modules is not a plain Linear, the modules are called instead.
    """

    def __init__(self, *modules: torch.nn.Module) -> None:
        self.modules, self.linears = modules, [module for module in modules if type(module) is torch.nn.Linear]

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """[T, H] to [T, N] in the dtype of the rows."""
        if len(self.linears) < len(self.modules):
            with torch.autocast(rows.device.type, torch.bfloat16, enabled=rows.dtype == torch.bfloat16):
                return torch.cat([module(rows) for module in self.modules], -1)
        biases = [part.bias.to(rows.dtype) for part in self.linears if part.bias is not None]
        return linear(rows, torch.cat([part.weight.to(rows.dtype) for part in self.linears]), torch.cat(biases) if biases else None)


class AdaptedLinear(Protocol):
    """The attributes of a Linear under a peft adapter that `LoraLinear` reads."""

    base_layer: torch.nn.Linear
    active_adapters: list[str]
    disable_adapters: bool
    lora_A: Mapping[str, torch.nn.Linear]
    lora_B: Mapping[str, torch.nn.Linear]
    scaling: Mapping[str, float]


class LoraLinear:
    """A matrix product with frozen weights [N, H] and LoRA adapters (arXiv 2106.09685) of rank r.

    The frozen weights are cast and joined once. The adapters of all modules are computed by two products of low rank. No gradient
    of the frozen weights is computed, which saves a third of a step's operations.
    """

    def __init__(self, *modules: AdaptedLinear) -> None:
        self.modules = modules
        self.weight: torch.Tensor | None = None
        self.bias: torch.Tensor | None = None

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """[T, H] to [T, N] in the dtype of the rows."""
        if self.weight is None or self.weight.dtype != rows.dtype:
            bases = [module.base_layer for module in self.modules]
            self.weight = torch.cat([base.weight.detach().to(rows.dtype) for base in bases])
            biases = [base.bias.detach().to(rows.dtype) for base in bases if base.bias is not None]
            self.bias = torch.cat(biases) if biases else None
        out = linear(rows, self.weight, self.bias)  # [T, N]
        if self.modules[0].disable_adapters:
            return out
        down, up = self.factors()
        return torch.addmm(out, linear(rows, down.to(rows.dtype)), up.to(rows.dtype))

    def factors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Join the factors (down [R, H], up [R, N]) in fp32. R is the sum of the ranks; `up` has one diagonal block per module."""
        adapted = [(module, module.active_adapters[0]) for module in self.modules]
        down = torch.cat([module.lora_A[name].weight for module, name in adapted])
        return down, torch.block_diag(*(module.lora_B[name].weight.t() * module.scaling[name] for module, name in adapted))

    @staticmethod
    def fits(module: torch.nn.Module) -> TypeGuard[AdaptedLinear]:
        """Whether a module is a frozen Linear under one plain adapter without dropout, as made by the setting `lora`."""
        from peft.tuners.lora import Linear

        if type(module) is not Linear or module.merged or len(module.active_adapters) != 1:
            return False
        if module.base_layer.weight.requires_grad:
            return False
        name = module.active_adapters[0]
        plain = name in module.lora_A and name not in module.lora_variant and module.lora_B[name].bias is None
        return plain and isinstance(module.lora_dropout[name], torch.nn.Identity)


def trainable_linear(*modules: torch.nn.Module) -> TrainableLinear | LoraLinear:
    """Return the joined product of these modules for training, with bias."""
    adapted = [module for module in modules if LoraLinear.fits(module)]
    return LoraLinear(*adapted) if len(adapted) == len(modules) else TrainableLinear(*modules)


@dataclass(frozen=True)
class Layer:
    """The weights of one layer.

    Attributes:
        input_norm: weight [H] of the norm before attention; None if the products contain the norms and take int8 rows.
        qkv: product of queries, keys and values.
        qkv_bias: its bias; None if it has none or `qkv` adds it.
        head_norms: norm weights [head_dim] of queries and keys, or None.
        out: product of the attention's output.
        post_attention_norm: weight [H] of the norm before the feed-forward part, or None.
        gate_up: product of gate and up.
        down: last product of the feed-forward part.
    """

    input_norm: torch.Tensor | None
    qkv: Any
    qkv_bias: torch.Tensor | None
    head_norms: tuple[torch.Tensor, torch.Tensor] | None
    out: Any
    post_attention_norm: torch.Tensor | None
    gate_up: Any
    down: Any


def layer_of(layer: DecoderLayer, make_linear: Callable[..., Any]) -> Layer:
    """Read a layer of transformers.

    Args:
        layer: a Llama-like layer.
        make_linear: joins modules into one product: `PackedLinear.of` or `trainable_linear`.
    """
    a, m = layer.self_attn, layer.mlp
    qkv = (a.q_proj, a.k_proj, a.v_proj)
    bias_in_product = make_linear is trainable_linear
    return Layer(
        input_norm=layer.input_layernorm.weight,
        qkv=make_linear(*qkv),
        qkv_bias=None if a.q_proj.bias is None or bias_in_product else torch.cat([part.bias for part in qkv]).detach(),
        head_norms=head_norms(a),
        out=make_linear(a.o_proj),
        post_attention_norm=layer.post_attention_layernorm.weight,
        gate_up=make_linear(m.gate_proj, m.up_proj),
        down=make_linear(m.down_proj),
    )


def head_norms(attention: Attention) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Return the norm weights of queries and keys (Qwen3), or None for models without them."""
    if not (hasattr(attention, "q_norm") and hasattr(attention, "k_norm")):
        return None
    return attention.q_norm.weight, attention.k_norm.weight
