"""Layers in int8, with a rotated residual stream, and with bf16 products where rounding loses most.

Int8 rounds every channel of a row to the same step, 1/127 of the row's largest value, so a single large channel makes all others
inexact. Two transforms reduce the largest values: a random rotation (QuaRot, arXiv 2404.00456) and a scaling of channels
(SmoothQuant, arXiv 2211.10438). Random tokens reveal the difficult channels and layers, so no calibration data is needed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .kernels import int8_steps
from .layers import Layer, PackedLinear, head_norms
from .transformer import DecoderLayer, Norm, TransformerBody

ONE_UNROUNDED_IN = 10  # one layer in 10, those with the largest error, keeps `down_proj` in the model's dtype
FIRST_PART = 2  # the answers' rows are rounded in the first half of the layers only


class Int8Linear:
    """A product of uint8 rows (zero point 128) and int8 weights [N, H] with one scale per output, in `dtype`.

    Sums are int32. The scales of the rows are not applied; the next step multiplies by them.

    Args:
        weight: the weights [N, H], fp32.
        dtype: dtype of the results.
        exact_answers: compute the rows of the answers in `dtype`, because no later attention averages out their errors.
    """

    def __init__(self, weight: torch.Tensor, dtype: torch.dtype, exact_answers: bool) -> None:
        steps, scales = int8_steps(weight)
        self.dtype, self.scales = dtype, scales[:, 0].contiguous()
        self.packed = torch.ops.onednn.qlinear_prepack(steps.to(torch.int8), None)
        self.zeros = torch.zeros(len(steps), dtype=torch.int64)
        self.exact = PackedLinear(weight.to(dtype)) if exact_answers else None

    def __call__(self, rows: torch.Tensor, scale: torch.Tensor, answers: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """Return the product [T, N].

        Args:
            rows: rows in uint8 [T, H].
            scale: scales of the rows [T, 1]; changed in place to 1 for rows that are computed exactly.
            answers: indices [n] of the answers' rows.
            values: these rows unrounded, [n, H].
        """
        weight = self.packed, self.scales, self.zeros
        product = torch.ops.onednn.qlinear_pointwise(rows, 1.0, 128, *weight, None, 1.0, 0, self.dtype, "none", [], "")
        if self.exact is not None and len(answers):
            product[answers], scale[answers] = self.exact(values), 1.0
        return product


def random_rotation(size: int) -> torch.Tensor:
    """Return a random orthogonal matrix [size, size], fp32, always the same.

    A few channels of the residual stream are much larger than the others and would determine the int8 step of all. A random
    rotation removes these outliers, and a norm without weights commutes with it (QuaRot, arXiv 2404.00456, section 3, computational
    invariance).
    """
    normal = torch.randn(size, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return torch.linalg.qr(normal)[0].float()


def int8_layers(body: TransformerBody, residual_rotation: torch.Tensor) -> list[Layer]:
    """Return all layers of a model in int8, for a residual stream rotated by `residual_rotation` [H, H]."""
    head_rotation = random_rotation(body.layers[0].self_attn.head_dim)
    activations = collect_activations(body)
    weights = [layer.mlp.down_proj.weight for layer in body.layers]
    factors = [smoothing_factors(weight, a.down_inputs) for weight, a in zip(weights, activations)]
    losses = [rounding_loss(*of_layer) for of_layer in zip(weights, activations, factors)]
    unrounded = sorted(range(len(losses)), key=lambda i: -losses[i])[: len(losses) // ONE_UNROUNDED_IN]
    return [
        _int8_layer(
            layer, residual_rotation, head_rotation, None if i in unrounded else factors[i], i >= len(factors) // FIRST_PART
        )
        for i, layer in enumerate(body.layers)
    ]


@dataclass(frozen=True)
class LayerActivations:
    """Activations of one layer over T tokens, fp32.

    Attributes:
        down_inputs: inputs [T, I] of `down_proj`.
        outputs: outputs [T, H] of the layer.
    """

    down_inputs: torch.Tensor
    outputs: torch.Tensor


def collect_activations(body: TransformerBody) -> list[LayerActivations]:
    """Return the activations of every layer over random tokens. Their large channels are the same as with text."""
    down_inputs: list[torch.Tensor] = []
    outputs: list[torch.Tensor] = []
    hooks = [
        layer.mlp.down_proj.register_forward_pre_hook(lambda _, x: down_inputs.append(x[0].flatten(0, 1).float()))
        for layer in body.layers
    ]
    hooks += [layer.register_forward_hook(lambda _m, _x, y: outputs.append(y.flatten(0, 1).float())) for layer in body.layers]
    body(input_ids=torch.randint(body.embed_tokens.num_embeddings, (8, 64), generator=torch.Generator().manual_seed(0)))
    for hook in hooks:
        hook.remove()
    return [LayerActivations(*of_layer) for of_layer in zip(down_inputs, outputs)]


def smoothing_factors(weight: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Return divisors [I] that equalise the channels of rows [T, I]; the columns of weight [H, I] are multiplied by them.

    Source: SmoothQuant, arXiv 2211.10438, section 4.
    """
    size = (rows / rows.abs().amax(-1, keepdim=True)).pow(2).mean(0).sqrt()
    # Exponents 0.3 and 0.5 lost least on SmolLM2. The usual 0.5 and 0.5 lose more, because some layers have very large channels.
    return size.clamp_min(1e-6) ** 0.3 / weight.float().pow(2).mean(0).sqrt().clamp_min(1e-6) ** 0.5


def rounding_loss(weight: torch.Tensor, activations: LayerActivations, factors: torch.Tensor) -> float:
    """Return the norm of the rounding error of `down_proj`, relative to the layer's output (large in 3 layers of SmolLM2)."""
    rows = activations.down_inputs / factors
    steps, scale = int8_steps(rows)
    return float(((steps * scale - rows) @ (weight.float() * factors).T).norm() / activations.outputs.norm())


def _int8_layer(
    layer: DecoderLayer, residual_rotation: torch.Tensor, head_rotation: torch.Tensor, factors: torch.Tensor | None,
    exact_answers: bool,
) -> Layer:  # fmt: skip
    """Return one layer in int8. Norm weights are multiplied into the following products; values are rotated within each head.

    Args:
        layer: a layer of transformers.
        residual_rotation: rotation of the residual stream [H, H].
        head_rotation: rotation of each head's values [head_dim, head_dim].
        factors: see `smoothing_factors`; None leaves `down_proj` unrounded.
        exact_answers: see `Int8Linear`.
    """
    a, m, dtype = layer.self_attn, layer.mlp, layer.mlp.down_proj.weight.dtype
    out, up, down = (part.weight.float() for part in (a.o_proj, m.up_proj, m.down_proj))
    out = residual_rotation.T @ (out.unflatten(1, (-1, len(head_rotation))) @ head_rotation).flatten(1)
    down = residual_rotation.T @ down
    if factors is not None:
        up, down = up / factors[:, None], down * factors

    def rotate_heads(values: torch.Tensor) -> torch.Tensor:
        return (head_rotation.T @ values.float().unflatten(0, (-1, len(head_rotation)))).flatten(0, 1)

    def joined(norm: Norm, *weights: torch.Tensor) -> Int8Linear:
        return Int8Linear(torch.cat(weights).float() * norm.weight.float() @ residual_rotation, dtype, exact_answers)

    bias = None
    if a.q_proj.bias is not None:
        bias = torch.cat((a.q_proj.bias, a.k_proj.bias, rotate_heads(a.v_proj.bias[:, None])[:, 0].to(dtype)))
    return Layer(
        input_norm=None,
        qkv=joined(layer.input_layernorm, a.q_proj.weight, a.k_proj.weight, rotate_heads(a.v_proj.weight)),
        qkv_bias=bias,
        head_norms=head_norms(a),
        out=Int8Linear(out, dtype, exact_answers),
        post_attention_norm=None,
        gate_up=joined(layer.post_attention_layernorm, m.gate_proj.weight, up),
        down=PackedLinear(down.to(dtype)) if factors is None else Int8Linear(down, dtype, exact_answers),
    )
