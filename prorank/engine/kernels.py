"""The element-wise steps of a transformer layer, each one pass over memory once compiled.

Sums, norms, angles and rounding are computed in fp32 and rounded once at the end of a step, so these are never less
exact than the layers of transformers, which round in between.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

from ..errors import ModelError, first_line

P = ParamSpec("P")
R = TypeVar("R")


def whole(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(x [N, H] in steps of -127 to 127, still fp32, and the size of a step in each row [N, 1])."""
    scale = x.abs().amax(-1, keepdim=True).clamp_min(1e-8) / 127
    return (x / scale).round(), scale


def scaled(product: torch.Tensor, scale: torch.Tensor | None) -> torch.Tensor:
    """A matrix product in fp32, with the scales of its rows where they were int8."""
    return product.float() if scale is None else product.float() * scale


def quantise(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """x [T, H] as a product in int8 takes it: uint8 around 128, and the scale of each row [T, 1]."""
    steps, scale = whole(x.float())
    return (steps + 128).to(torch.uint8), scale


def inverse_size(x: torch.Tensor, eps: float) -> torch.Tensor:
    """One over the root mean square of each row, fp32."""
    return torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + eps)


def normed(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """Root mean square norm over the last dimension, fp32."""
    return weight.float() * (x.float() * inverse_size(x, eps))


def add_norm(
    x: torch.Tensor, y: torch.Tensor, scale: torch.Tensor | None, weight: torch.Tensor | None, eps: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """The residual stream x [T, H] plus a layer's output y, and its norm: (new x, rows for the next product in the dtype of y,
    their scale). Without `weight` (which the product then holds) the rows are in int8."""
    x = (x.float() + scaled(y, scale)).to(x.dtype)
    if weight is not None:
        return x, normed(x, weight, eps).to(y.dtype), None
    rows, step = quantise(x)  # dividing a row by its norm changes its step alone
    return x, rows, step * inverse_size(x, eps)


def rotate(
    qkv: torch.Tensor, scale: torch.Tensor | None, bias: torch.Tensor | None, norms: tuple[torch.Tensor, torch.Tensor] | None,
    cos: torch.Tensor, sin: torch.Tensor, heads: int, pairs: int, width: int, eps: float, scaling: float, dtype: torch.dtype,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    """Queries [T, heads, width], keys and values [T, pairs, width] in dtype from a product [T, (heads + 2 pairs) width]: scaled,
    biased, normed by head where the model does (Qwen3), queries and keys turned by their positions, queries times `scaling`."""
    x = scaled(qkv, scale)
    x = (x if bias is None else x + bias.float()).view(-1, heads + 2 * pairs, width)
    q, k, v = x.split((heads, pairs, pairs), 1)  # the gradient of three slices would be a sum of padded ones
    if norms is not None:
        q, k = normed(q, norms[0], eps), normed(k, norms[1], eps)
    return _turned(q, cos * scaling, sin * scaling, dtype), _turned(k, cos, sin, dtype), v.to(dtype)


def _turned(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Each half of x by itself: compiled, those are two plain loops; turning whole rows asks at each place which half it is."""
    (a, b), (c, d), (s, t) = (part.chunk(2, -1) for part in (x, cos, sin))
    return torch.cat(((a * c - b * s).to(dtype), (b * d + a * t).to(dtype)), -1)


def gated(
    pair: torch.Tensor, scale: torch.Tensor | None, dtype: torch.dtype, rounded: bool
) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor] | None]:
    """silu(gate) * up from a product [T, 2 I] of both, and the same by `quantise` or None. Compiled, it is one pass: a row is given
    as it is too, so rounding it once its largest is known reads it again and does not compute it again."""
    gate, up = scaled(pair, scale).chunk(2, -1)
    rows = (torch.nn.functional.silu(gate) * up).to(dtype)
    return rows, quantise(rows) if rounded else None


def softmax(scores: torch.Tensor, mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Softmax over the last dimension of masked scores, in dtype."""
    return torch.softmax(scores.float() + mask, -1).to(dtype)


def fused(step: Callable[P, R]) -> Callable[P, R]:
    """The step compiled at its first call, one graph for any number of rows. That call raises ModelError without a C++ compiler."""
    # Graphs of all models in the process count together against the limit.
    # torch's overloads lack the limit.
    compiled = torch.compile(step, dynamic=True, fullgraph=True, recompile_limit=64)  # type: ignore[call-overload]

    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return compiled(*args, **kwargs)
        except torch._dynamo.exc.BackendCompilerFailed as error:
            reason = first_line(error)
            raise ModelError(f"compile needs a working C++ compiler ({reason}); install g++ or leave compile out") from error

    return run


class Kernels:
    """The steps as functions, compiled or as they are."""

    def __init__(self, compiled: bool) -> None:
        self.add_norm = fused(add_norm) if compiled else add_norm
        self.rotate = fused(rotate) if compiled else rotate
        self.softmax = fused(softmax) if compiled else softmax
        self.gated = fused(gated) if compiled else gated
        self.quantise = fused(quantise) if compiled else quantise
