"""Causal attention over sequences of a row without padding, for GPUs: torch's variable-length FlashAttention, or SDPA one by one.

`varlen_attn` (in torch since 2.10) needs a GPU and 16 bits. Before its first use in a process it is compared with SDPA on a few
sequences of the same heads, forward and backward. If it is missing, raises or differs, attention runs sequence by sequence and a
warning says so.
"""

from __future__ import annotations

import inspect
import logging
from functools import lru_cache
from typing import Any, cast

import torch
from torch.nn.functional import scaled_dot_product_attention

from ..errors import first_line
from .choice import Choice
from .sequences import PackSpan, Sequences, Spans, sequences_of

log = logging.getLogger("prorank")
VARLEN, ONE_BY_ONE = "varlen", "one by one"
TOLERANCE = 0.05  # relative, of the comparison; 16 bits differ from fp32 by less than .01, a wrong mask by more than .1


def attend_sequences(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, sequences: Sequences, scale: float, dtype: torch.dtype
) -> torch.Tensor:
    """Compute the attention of every prompt to itself and its prefix.

    Args:
        q: queries [T, num_heads, head_dim].
        k, v: keys and values [T, num_kv_heads, head_dim].
        sequences: the sequences, on the device of q.
        scale: factor of the scores.
        dtype: dtype of the products.

    Returns:
        [T, num_heads, head_dim] in `dtype`.
    """
    q, k, v = (t.to(dtype) for t in (q, gathered(k, sequences), gathered(v, sequences)))
    choice = choose_attention(q.device, dtype, q.shape[1], k.shape[1], q.shape[2])
    return (_varlen if choice.value == VARLEN else one_by_one)(q, k, v, sequences, scale)


def gathered(t: torch.Tensor, sequences: Sequences) -> torch.Tensor:
    """Return the keys or values [G, num_kv_heads, head_dim] of all sequences, from those [T, num_kv_heads, head_dim] of the row.

    With gradient they are fp32, because the gradient of a shared token is a sum over its prompts, which 16 bits would round often.
    """
    if sequences.keys is None:
        return t
    return (t.float() if t.requires_grad else t).index_select(0, sequences.keys)


@lru_cache
def choose_attention(device: torch.device, dtype: torch.dtype, num_heads: int, num_kv_heads: int, head_dim: int) -> Choice:
    """Choose VARLEN if it works for these heads, else ONE_BY_ONE with a warning. The result is kept for the process."""
    if device.type != "cuda":
        return Choice(ONE_BY_ONE, f"variable-length attention needs a GPU, not {device.type}")
    if dtype not in (torch.bfloat16, torch.float16):
        return Choice(ONE_BY_ONE, f"variable-length attention needs 16 bits, not {str(dtype).removeprefix('torch.')}")
    try:
        largest = _difference(device, dtype, num_heads, num_kv_heads, head_dim)
    except (ImportError, AttributeError, RuntimeError, TypeError, ValueError) as error:
        return _warned(f"variable-length attention does not run on {torch.cuda.get_device_name(device)}: {first_line(error)}")
    if not largest < TOLERANCE:
        return _warned(f"variable-length attention on {torch.cuda.get_device_name(device)} differs from SDPA by {largest:.2g}")
    return Choice(VARLEN, f"differs from SDPA by {largest:.1g} on {torch.cuda.get_device_name(device)}")


def _warned(reason: str) -> Choice:
    log.warning("%s; attention runs sequence by sequence, which is slower", reason)
    return Choice(ONE_BY_ONE, reason)


def _difference(device: torch.device, dtype: torch.dtype, num_heads: int, num_kv_heads: int, head_dim: int) -> float:
    """Return the largest relative difference of an output or a gradient from SDPA in fp32, on packs with and without a prefix."""
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device.type, enabled=False):
        sequences = sequences_of(Spans([PackSpan(0, 3, [8, 9, 80]), PackSpan(80, 0, [37])])).to(device)
        rng = torch.Generator().manual_seed(0)
        random = [torch.randn(117, count, head_dim, generator=rng).to(device, dtype) for count in (num_heads, *[num_kv_heads] * 2)]
        results = []
        for attention, tensors in ((_varlen, random), (one_by_one, [t.float() for t in random])):
            q, k, v = (t.detach().requires_grad_() for t in tensors)
            result = attention(q, gathered(k, sequences).to(q), gathered(v, sequences).to(q), sequences, head_dim**-0.5)
            results.append([result.detach(), *torch.autograd.grad(result.float().square().sum() / 2, (q, k, v))])
        return max(float((got.float() - want).norm() / want.norm()) for got, want in zip(*results))


def _varlen(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, sequences: Sequences, scale: float) -> torch.Tensor:
    """Run FlashAttention, whose causal mask ends at the last key of each sequence (FlashAttention-2, since 2.1).

    Args:
        q: queries [T, num_heads, head_dim].
        k, v: keys and values of all sequences [G, num_kv_heads, head_dim].
        sequences, scale: see `attend_sequences`.
    """
    from torch.nn.attention.varlen import varlen_attn

    q, k, v = (t.contiguous() for t in (q, k, v))
    starts, longest = (sequences.query_starts, sequences.key_starts), (sequences.max_queries, sequences.max_keys)
    causal = {"window_size": (-1, 0), **_grouped_heads()}
    return cast(torch.Tensor, varlen_attn(q, k, v, *starts, *longest, scale=scale, **causal))


@lru_cache
def _grouped_heads() -> dict[str, Any]:
    """Return the argument that allows fewer key heads; in torch 2.11 the kernel takes them without it."""
    from torch.nn.attention.varlen import varlen_attn

    return {"enable_gqa": True} if "enable_gqa" in inspect.signature(varlen_attn).parameters else {}


def one_by_one(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, sequences: Sequences, scale: float) -> torch.Tensor:
    """Run SDPA on each sequence. Arguments as those of `_varlen`."""
    queries, keys = (list(sizes) for sizes in zip(*sequences.lengths))
    parts = zip(q.split(queries), k.split(keys), v.split(keys))
    return torch.cat([_causal(*part, scale) for part in parts])


def _causal(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float) -> torch.Tensor:
    """Return the attention of one sequence; its queries are the last of its keys."""
    x, y, z = (t.transpose(0, 1)[None] for t in (q, k, v))
    before = len(k) - len(q)
    mask = torch.ones(len(q), len(k), dtype=torch.bool, device=q.device).tril(before) if before else None
    return scaled_dot_product_attention(x, y, z, mask, is_causal=mask is None, scale=scale, enable_gqa=True)[0].transpose(0, 1)
