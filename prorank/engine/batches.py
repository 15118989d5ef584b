"""Make batches for any number of documents: prompts are grouped into windows, windows into packs, packs into batches.

At most about 1,024 prompts are in memory at a time, so memory does not grow with the number of documents. Flat batches on a GPU are
larger, need no order and therefore no windows: packs are joined as they come.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from ..prompts.prompt import Encoded
from .flat_attention import is_flat
from .modules import head_dim_of
from .packing import Batch, Pack, batches_of, collate, packs_of

WINDOW = 1024  # prompts that are packed together
GPU_TOKENS = 4096, 262_144  # smallest and largest limit of a batch on a GPU
GPU_FIRST_TOKENS = 16_384  # of the first batch, so that a GPU begins early; each next one may be twice as long
INT32_ELEMENTS = 2**31 - 1
GPU_MEMORY_SHARE = 0.5  # of the free memory, for the tensors of a forward pass


@dataclass(frozen=True)
class BatchLimits:
    """Limits of one forward pass.

    Attributes:
        tokens: maximum number of tokens of a batch.
        pack_tokens: maximum number of tokens of a pack.
        pack_documents: maximum number of documents in a pack.
    """

    tokens: int
    pack_tokens: int
    pack_documents: int


def batch_limits(model: torch.nn.Module) -> BatchLimits:
    """Return limits that are fast for a model on its device."""
    if is_flat(model):
        device = next(model.parameters()).device
        return BatchLimits(16384, 16384, 128) if device.type == "cpu" else BatchLimits(gpu_tokens(model), 8192, 128)
    # With a mask, the cost of attention is quadratic in the length of a pack, so short packs are faster on a CPU.
    on_cpu = next(model.parameters()).device.type == "cpu"
    return BatchLimits(1024, 320, 16) if on_cpu else BatchLimits(16384, 1024, 16)


def gpu_tokens(model: torch.nn.Module) -> int:
    """Return the maximum number of tokens of a batch on a GPU, for which its free memory has room."""
    device = next(model.parameters()).device
    free, _ = torch.cuda.mem_get_info(device)
    cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    itemsize = next(model.parameters()).element_size()
    config: Any = getattr(model, "module", model).config
    limit = INT32_ELEMENTS // (2 * config.intermediate_size)  # kernels index the product of gate and up by 32 bits
    return min(limit, tokens_in_memory(free + cached, activation_bytes(config, itemsize)))


def tokens_in_memory(free: int, token_bytes: int) -> int:
    """Return the power of two within `GPU_TOKENS` whose tokens take at most `GPU_MEMORY_SHARE` of `free` bytes."""
    tokens = max(1, int(GPU_MEMORY_SHARE * free) // token_bytes)
    smallest, largest = GPU_TOKENS
    return min(largest, max(smallest, 1 << tokens.bit_length() - 1))


def activation_bytes(config: Any, itemsize: int) -> int:
    """Estimate the memory that the largest step of a layer takes for a token, in bytes, with plain steps.

    Args:
        config: configuration of the model (of transformers).
        itemsize: bytes of a weight.
    """
    heads = config.num_attention_heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    attention = (heads + 4 * kv_heads) * head_dim_of(config)  # keys and values twice: gathered
    stream = 4 * config.hidden_size * itemsize + 16 * config.hidden_size
    gate_up = 3 * config.intermediate_size * itemsize + 16 * config.intermediate_size  # and four fp32 rows in between
    return stream + gate_up + 2 * attention * itemsize


def windows(parts: Iterable[tuple[int, list[Encoded]]], model: torch.nn.Module, max_documents: int | None) -> Iterator[list[Pack]]:
    """Yield windows of packs.

    Args:
        parts: prompts of one query each, as (owner of the first prompt, at most WINDOW prompts). Owners are consecutive numbers.
        model: the model, which determines the limits.
        max_documents: maximum number of documents in a pack; None for the model's own limit.
    """
    limits = batch_limits(model)
    window: list[Pack] = []
    count = 0
    for first, prompts in parts:
        owners = range(first, first + len(prompts))
        window += packs_of(prompts, owners, limits.pack_tokens, max_documents or limits.pack_documents)
        count += len(prompts)
        if count >= WINDOW:
            yield window
            window, count = [], 0
    if window:
        yield window


def batches(
    parts: Iterable[tuple[int, list[Encoded]]], model: torch.nn.Module, pad: int, max_documents: int | None,
    trim_memory: Callable[[], None] | None = None,
) -> Iterator[Batch]:  # fmt: skip
    """Yield batches on the CPU.

    Args:
        parts, model, max_documents: see `windows`; `max_documents` also limits a batch.
        pad: the padding token.
        trim_memory: called between forward passes after half a batch of tokens or more, so that small requests reuse memory. None
            for no call.
    """
    flat, max_tokens, tokens_since_trim = is_flat(model), batch_limits(model).tokens, 0
    for window in windows(parts, model, max_documents):
        for packs in batches_of(sorted(window, key=len, reverse=True), max_tokens, max_documents, flat):
            if trim_memory and tokens_since_trim > max_tokens // 2:
                trim_memory()
                tokens_since_trim = 0
            tokens_since_trim += sum(map(len, packs))
            yield collate(packs, pad, flat)


def streamed_batches(
    parts: Iterable[tuple[int, list[Encoded]]], limits: BatchLimits, max_documents: int | None
) -> Iterator[Batch]:
    """Yield flat batches on the CPU, in the order of `parts`, for a GPU.

    Args:
        parts, max_documents: see `batches`.
        limits: limits of a batch. The first ones are shorter, see `GPU_FIRST_TOKENS`.
    """
    documents = min(max_documents or limits.pack_documents, limits.pack_documents)
    batch: list[Pack] = []
    tokens = prompts = 0
    max_tokens = min(GPU_FIRST_TOKENS, limits.tokens)
    for first, encoded in parts:
        for pack in packs_of(encoded, range(first, first + len(encoded)), min(limits.pack_tokens, max_tokens), documents):
            full = max_documents is not None and prompts + len(pack.owners) > max_documents
            if batch and (full or tokens + len(pack) > max_tokens):
                yield collate(batch, 0, flat=True)
                batch, tokens, prompts, max_tokens = [], 0, 0, min(2 * max_tokens, limits.tokens)
            batch.append(pack)
            tokens, prompts = tokens + len(pack), prompts + len(pack.owners)
    if batch:
        yield collate(batch, 0, flat=True)
