"""The element-wise steps of a transformer layer. Compiled, each is a single pass over memory.

All steps compute in fp32 and round once at the end. They are at least as exact as the layers of transformers, which round
intermediate results.

Shapes: T tokens, H hidden size, I intermediate size. A product of int8 rows comes with the `scale` [T, 1] of its rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

from ..errors import ModelError, first_line

P = ParamSpec("P")
R = TypeVar("R")


def int8_steps(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Round each row of x [N, H] to integers from -127 to 127.

    Returns:
        (the integers [N, H], still fp32; the size of a step in each row [N, 1]).
    """
    scale = x.abs().amax(-1, keepdim=True).clamp_min(1e-8) / 127
    return (x / scale).round(), scale


def rescaled(product: torch.Tensor, scale: torch.Tensor | None) -> torch.Tensor:
    """Return a matrix product in fp32, multiplied by the scales of its rows; `scale` is None for rows that are not int8."""
    return product.float() if scale is None else product.float() * scale


def quantise(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Round x [T, H] for an int8 product.

    Returns:
        (uint8 [T, H] around 128, the scale of each row [T, 1]).
    """
    steps, scale = int8_steps(x.float())
    return (steps + 128).to(torch.uint8), scale


def inverse_rms(x: torch.Tensor, eps: float) -> torch.Tensor:
    """Return the inverse root mean square of each row, fp32."""
    return torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + eps)


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """Return the root mean square norm over the last dimension, fp32 (Zhang and Sennrich, arXiv 1910.07467)."""
    return weight.float() * (x.float() * inverse_rms(x, eps))


def add_norm(
    x: torch.Tensor, y: torch.Tensor, scale: torch.Tensor | None, weight: torch.Tensor | None, eps: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Add a layer's output to the residual stream and normalise the sum.

    Args:
        x: residual stream [T, H].
        y: output [T, H] of the last product.
        scale: scales of the rows of y; None if they are applied.
        weight: weight of the norm [H]; None if the next product contains it and takes int8 rows.
        eps: epsilon of the norm.

    Returns:
        (the new x, rows for the next product in the dtype of y or in uint8, scales of these rows or None).
    """
    x = (x.float() + rescaled(y, scale)).to(x.dtype)
    if weight is not None:
        return x, rms_norm(x, weight, eps).to(y.dtype), None
    rows, step = quantise(x)  # dividing a row by its norm changes its step only
    return x, rows, step * inverse_rms(x, eps)


def rotate(
    qkv: torch.Tensor, scale: torch.Tensor | None, bias: torch.Tensor | None, head_norms: tuple[torch.Tensor, torch.Tensor] | None,
    cos: torch.Tensor, sin: torch.Tensor, num_heads: int, num_kv_heads: int, head_dim: int, eps: float, scaling: float,
    dtype: torch.dtype,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    """Split the joined product into queries, keys and values with rotary position embeddings (RoFormer, arXiv 2104.09864).

    Args:
        qkv: the product [T, (num_heads + 2 num_kv_heads) * head_dim].
        scale: scales of its rows; None if they are applied.
        bias: bias of the product, or None.
        head_norms: norm weights [head_dim] of queries and keys, or None (Qwen3 has them).
        cos, sin: cosines and sines of the positions [T, 1, head_dim].
        num_heads, num_kv_heads, head_dim: sizes of the attention.
        eps: epsilon of the norms.
        scaling: factor of the queries.
        dtype: dtype of the results.

    Returns:
        (queries [T, num_heads, head_dim], already scaled; keys and values [T, num_kv_heads, head_dim]).
    """
    x = rescaled(qkv, scale)
    x = (x if bias is None else x + bias.float()).view(-1, num_heads + 2 * num_kv_heads, head_dim)
    q, k, v = x.split((num_heads, num_kv_heads, num_kv_heads), 1)  # the gradient of three slices would sum three padded tensors
    if head_norms is not None:
        q, k = rms_norm(q, head_norms[0], eps), rms_norm(k, head_norms[1], eps)
    return _apply_rotary(q, cos * scaling, sin * scaling, dtype), _apply_rotary(k, cos, sin, dtype), v.to(dtype)


def _apply_rotary(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Rotate the halves of x separately. Compiled, these are two plain loops, while whole rows would need a test per element."""
    (a, b), (c, d), (s, t) = (part.chunk(2, -1) for part in (x, cos, sin))
    return torch.cat(((a * c - b * s).to(dtype), (b * d + a * t).to(dtype)), -1)


def gated_silu(
    gate_up: torch.Tensor, scale: torch.Tensor | None, dtype: torch.dtype, quantised: bool
) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor] | None]:
    """silu(gate) * up (SwiGLU, arXiv 2002.05202).

    Compiled, it is one pass: the unrounded rows are stored as a result, so rounding reads them instead of computing them again.

    Args:
        gate_up: joined product [T, 2 I].
        scale: scales of its rows; None if they are applied.
        dtype: dtype of the result.
        quantised: whether the next product takes int8.

    Returns:
        (rows [T, I], the result of `quantise` on them or None).
    """
    gate, up = rescaled(gate_up, scale).chunk(2, -1)
    rows = (torch.nn.functional.silu(gate) * up).to(dtype)
    return rows, quantise(rows) if quantised else None


def softmax(scores: torch.Tensor, mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return the softmax over the last dimension of scores plus mask, computed in fp32, in `dtype`."""
    return torch.softmax(scores.float() + mask, -1).to(dtype)


def compiled_step(step: Callable[P, R]) -> Callable[P, R]:
    """Return the step, which is compiled at its first call as one graph for any number of rows.

    Raises:
        ModelError: at the first call, without a working C++ compiler (on a CPU) or Triton and C compiler (on a GPU).
    """
    # The limit of graphs counts all models in the process. torch's type hints lack the argument.
    compiled = torch.compile(step, dynamic=True, fullgraph=True, recompile_limit=64)  # type: ignore[call-overload]

    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return compiled(*args, **kwargs)
        except torch._dynamo.exc.ShortenTraceback as error:  # of a backend that fails or is missing
            on_cpu = all(value.device.type == "cpu" for value in args if isinstance(value, torch.Tensor))
            missing, remedy = ("C++ compiler", "g++") if on_cpu else ("Triton with a C compiler", "triton and gcc")
            reason = first_line(error)
            raise ModelError(f"compile needs a working {missing} ({reason}); install {remedy} or omit compile") from error

    return run


class Kernels:
    """The steps as functions, compiled or plain."""

    def __init__(self, compiled: bool) -> None:
        self.add_norm = compiled_step(add_norm) if compiled else add_norm
        self.rotate = compiled_step(rotate) if compiled else rotate
        self.softmax = compiled_step(softmax) if compiled else softmax
        self.gated_silu = compiled_step(gated_silu) if compiled else gated_silu
        self.quantise = compiled_step(quantise) if compiled else quantise
