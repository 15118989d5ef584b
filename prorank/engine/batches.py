"""Forwards for any number of documents: prompts in windows, windows as packs, packs as batches.

No more than a window of 1,024 prompts is held at a time, so memory does not grow with the number of documents.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch

from ..prompts.prompt import Encoded
from .flat_attention import is_flat
from .packing import Batch, Pack, batches_of, collate, packs_of

WINDOW = 1024


def sizes(model: torch.nn.Module) -> tuple[int, int, int]:
    """(tokens of a forward, tokens of a pack, documents of a pack) at most."""
    if is_flat(model):
        return 16384, 16384, 128
    # With a mask, attention over a pack costs its length squared: on a CPU short packs win.
    return (1024, 320, 16) if next(model.parameters()).device.type == "cpu" else (16384, 1024, 16)


def windows(parts: Iterable[tuple[int, list[Encoded]]], model: torch.nn.Module, most: int | None) -> Iterator[list[Pack]]:
    """Packs of the prompts in `parts`, each of one query: (owner of the first, at most WINDOW prompts); `most` documents a pack."""
    _, tokens, documents = sizes(model)
    window: list[Pack] = []
    held = 0
    for first, prompts in parts:
        window += packs_of(prompts, range(first, first + len(prompts)), tokens, most or documents)
        held += len(prompts)
        if held >= WINDOW:
            yield window
            window, held = [], 0
    if window:
        yield window


def batches(
    parts: Iterable[tuple[int, list[Encoded]]], model: torch.nn.Module, pad: int, most: int | None,
    let_go: Callable[[], None] | None,
) -> Iterator[Batch]:  # fmt: skip
    """Batches of `parts` (see `windows`) on the model's device, padded with `pad` where padding is; `let_go` is called between
    forwards, so that what fits into one keeps its memory for the next request."""
    flat, tokens, made = is_flat(model), sizes(model)[0], 0
    device = next(model.parameters()).device
    for window in windows(parts, model, most):
        for some in batches_of(sorted(window, key=len, reverse=True), tokens, most, flat):
            if let_go and made > tokens // 2:
                let_go()
                made = 0
            made += sum(map(len, some))
            yield collate(some, pad, flat).to(device)
