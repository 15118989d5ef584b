"""Layers in int8: the residual stream turned so that no channel stands out, and bf16 kept where rounding loses most.

Rounding a row to int8 costs every channel the same, a step of 1/127 of the largest; so all that is done here is to keep
the largest near the others, and no calibration data is asked for: random tokens show which channels and layers are hard.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .kernels import whole
from .layers import Layer, PackedLinear, head_norms
from .transformer import Decoder, DecoderLayer, Norm

SHARE = 10  # one of so many layers keeps its last product as it is
EARLY = 2  # in the first of so many parts of the layers the rows of the answers are rounded too


class Int8:
    """A matrix product of uint8 rows around 128 and int8 weights [N, H] (one scale an output), summed in int32, given in dtype.

    The result lacks the rows' own scales, which the next step brings in. With `exact` a few rows are made in dtype: those of the
    answers, whose errors no other row makes up for."""

    def __init__(self, weight: torch.Tensor, dtype: torch.dtype, exact: bool) -> None:
        steps, scales = whole(weight)
        self.dtype, self.scales = dtype, scales[:, 0].contiguous()
        self.packed = torch.ops.onednn.qlinear_prepack(steps.to(torch.int8), None)
        self.zeros = torch.zeros(len(steps), dtype=torch.int64)
        self.exact = PackedLinear(weight.to(dtype)) if exact else None

    def __call__(self, rows: torch.Tensor, scale: torch.Tensor, few: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """Rows [T, H] of `scale` [T, 1] (which becomes 1 for exact rows, in place); those at `few` [n] have `values` [n, H]."""
        weight = self.packed, self.scales, self.zeros
        made = torch.ops.onednn.qlinear_pointwise(rows, 1.0, 128, *weight, None, 1.0, 0, self.dtype, "none", [], "")
        if self.exact is not None:
            made[few], scale[few] = self.exact(values), 1.0
        return made


def rotation(size: int) -> torch.Tensor:
    """A random orthogonal matrix [size, size], fp32, always the same.

    Rows of the residual stream have a few channels far larger than the rest, which take the steps of int8 for themselves; turned at
    random they have none, and a norm without weights commutes with the turn (QuaRot, arXiv 2404.00456, section 3)."""
    drawn = torch.randn(size, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return torch.linalg.qr(drawn)[0].float()


def rounded_layers(inner: Decoder, residual_rotation: torch.Tensor) -> list[Layer]:
    """All layers of a model's body in int8, on a residual stream turned by `residual_rotation` [H, H]."""
    gates, head_rotation = attention_fn(inner), rotation(inner.layers[0].self_attn.head_dim)
    evens = [even(layer.mlp.down_proj.weight, gate.rows) for layer, gate in zip(inner.layers, gates)]
    losses = [loss(layer.mlp.down_proj.weight, gate, some) for layer, gate, some in zip(inner.layers, gates, evens)]
    kept = sorted(range(len(losses)), key=lambda i: -losses[i])[: len(losses) // SHARE]
    return [
        _rounded(layer, residual_rotation, head_rotation, None if i in kept else some, i >= len(evens) // EARLY)
        for i, (layer, some) in enumerate(zip(inner.layers, evens))
    ]


@dataclass(frozen=True)
class Gate:
    """What a layer's `down_proj` reads (rows [T, I]) and what the layer gives in the end (given [T, H]), fp32."""

    rows: torch.Tensor
    given: torch.Tensor


def attention_fn(inner: Decoder) -> list[Gate]:
    """Every layer's Gate over random tokens, whose large channels are those of text."""
    rows: list[torch.Tensor] = []
    given: list[torch.Tensor] = []
    hooks = [
        layer.mlp.down_proj.register_forward_pre_hook(lambda _, x: rows.append(x[0].flatten(0, 1).float()))
        for layer in inner.layers
    ]
    hooks += [layer.register_forward_hook(lambda _m, _x, y: given.append(y.flatten(0, 1).float())) for layer in inner.layers]
    inner(input_ids=torch.randint(inner.embed_tokens.num_embeddings, (8, 64), generator=torch.Generator().manual_seed(0)))
    for hook in hooks:
        hook.remove()
    return [Gate(*some) for some in zip(rows, given)]


def even(weight: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Divisors [I] that even out the channels of rows [T, I] before a product with weight [H, I], which takes them as factors
    (SmoothQuant, arXiv 2211.10438, section 4)."""
    size = (rows / rows.abs().amax(-1, keepdim=True)).pow(2).mean(0).sqrt()
    # Powers .3 and .5 lost least on SmolLM2; the usual .5 and .5 lose more, for a few channels of some layers stand out too far.
    return size.clamp_min(1e-6) ** 0.3 / weight.float().pow(2).mean(0).sqrt().clamp_min(1e-6) ** 0.5


def loss(weight: torch.Tensor, gate: Gate, divisors: torch.Tensor) -> float:
    """How large the error of the rounded rows is against what the layer gives. In SmolLM2 three layers have most of the error."""
    rows = gate.rows / divisors
    steps, scale = whole(rows)
    return float(((steps * scale - rows) @ (weight.float() * divisors).T).norm() / gate.given.norm())


def _rounded(
    layer: DecoderLayer, residual_rotation: torch.Tensor, head_rotation: torch.Tensor, divisors: torch.Tensor | None, exact: bool
) -> Layer:
    """The layer in int8; norms lose their weights to the products behind them, values are turned within each head by
    `head_rotation` [d, d]. Without `divisors` the last product stays as it is; `exact`: see Int8."""
    a, m, dtype = layer.self_attn, layer.mlp, layer.mlp.down_proj.weight.dtype
    out, up, down = (part.weight.float() for part in (a.o_proj, m.up_proj, m.down_proj))
    out, down = (
        residual_rotation.T @ (out.unflatten(1, (-1, len(head_rotation))) @ head_rotation).flatten(1),
        residual_rotation.T @ down,
    )
    if divisors is not None:
        up, down = up / divisors[:, None], down * divisors

    def spun(values: torch.Tensor) -> torch.Tensor:
        return (head_rotation.T @ values.float().unflatten(0, (-1, len(head_rotation)))).flatten(0, 1)

    def reads(norm: Norm, *weights: torch.Tensor) -> Int8:
        return Int8(torch.cat(weights).float() * norm.weight.float() @ residual_rotation, dtype, exact)

    bias = None
    if a.q_proj.bias is not None:
        bias = torch.cat((a.q_proj.bias, a.k_proj.bias, spun(a.v_proj.bias[:, None])[:, 0].to(dtype)))
    return Layer(
        before=None,
        qkv=reads(layer.input_layernorm, a.q_proj.weight, a.k_proj.weight, spun(a.v_proj.weight)),
        bias=bias,
        norms=head_norms(a),
        out=Int8(out, dtype, exact),
        after=None,
        up=reads(layer.post_attention_layernorm, m.gate_proj.weight, up),
        down=PackedLinear(down.to(dtype)) if divisors is None else Int8(down, dtype, exact),
    )
