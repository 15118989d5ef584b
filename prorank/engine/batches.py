"""Make batches for any number of documents: prompts are grouped into windows, windows into packs, packs into batches.

At most about 1,024 prompts are in memory at a time, so memory does not grow with the number of documents.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch

from ..prompts.prompt import Encoded
from .flat_attention import is_flat
from .packing import Batch, Pack, batches_of, collate, packs_of

WINDOW = 1024  # prompts that are packed together


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
        return BatchLimits(16384, 16384, 128)
    # With a mask, the cost of attention is quadratic in the length of a pack, so short packs are faster on a CPU.
    on_cpu = next(model.parameters()).device.type == "cpu"
    return BatchLimits(1024, 320, 16) if on_cpu else BatchLimits(16384, 1024, 16)


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
    trim_memory: Callable[[], None] | None,
) -> Iterator[Batch]:  # fmt: skip
    """Yield batches on the model's device.

    Args:
        parts, model, max_documents: see `windows`; `max_documents` also limits a batch.
        pad: the padding token.
        trim_memory: called between forward passes after half a batch of tokens or more, so that small requests reuse memory. None
            for no call.
    """
    flat, max_tokens, tokens_since_trim = is_flat(model), batch_limits(model).tokens, 0
    device = next(model.parameters()).device
    for window in windows(parts, model, max_documents):
        for packs in batches_of(sorted(window, key=len, reverse=True), max_tokens, max_documents, flat):
            if trim_memory and tokens_since_trim > max_tokens // 2:
                trim_memory()
                tokens_since_trim = 0
            tokens_since_trim += sum(map(len, packs))
            yield collate(packs, pad, flat).to(device)
