"""Query likelihood: how probable the query is as a continuation of the document (Ponte and Croft 1998; Zhuang et al. 2023).

It needs no labels and no training, and for a small base model it is a far better ranker than its zero-shot answers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from ..engine.flat_attention import is_flat
from ..engine.heads import vocabulary_logits
from ..engine.packing import Pack, collate


def query_likelihood(
    model: torch.nn.Module,
    tokenizer: Any,
    queries: Sequence[str],
    documents: Sequence[Sequence[str]],
    max_length: int = 512,
    progress: Callable[[int], None] | None = None,
) -> list[np.ndarray]:
    """Mean log-probability of the query's tokens after "Document: {document}\\nQuery: ": one fp32 array a query."""
    out = []
    with torch.inference_mode():
        for query, some in zip(queries, documents):
            row = np.empty(len(some), np.float32)
            rows = [_ids(tokenizer, query, document, max_length) for document in some]
            order = sorted(range(len(some)), key=lambda i: len(rows[i][0]))
            for at in range(0, len(order), 8):
                part = order[at : at + 8]
                row[part] = _mean_log_probs(model, [rows[i] for i in part])
                if progress:
                    progress(len(part))
            out.append(row)
    return out


def _ids(tokenizer: Any, query: str, document: str, max_length: int) -> tuple[list[int], int]:
    """Ids and how many of the last belong to the query; the document is cut where they do not fit."""
    head, middle, tail = tokenizer(["Document: ", "\nQuery:", " " + query], add_special_tokens=False)["input_ids"]
    body = tokenizer(document, add_special_tokens=False)["input_ids"]
    if sum(map(len, (head, body, middle, tail))) > max_length:
        tail = tail[: max_length // 2]
    return head + body[: max(0, max_length - len(head) - len(middle) - len(tail))] + middle + tail, len(tail)


def _mean_log_probs(model: torch.nn.Module, rows: list[tuple[list[int], int]]) -> np.ndarray:
    packs = [Pack(ids, list(range(len(ids))), [1] * len(ids), [len(ids) - 1], [i]) for i, (ids, _) in enumerate(rows)]
    batch = collate(packs, 0, is_flat(model)).to(next(model.parameters()).device)
    sizes = [n for _, n in rows]
    lengths, before = (torch.tensor(x, device=batch.rows.device) for x in (sizes, [i - n for n in sizes for i in range(n)]))
    # The tokens before the query's, which predict them: [sum of sizes] places.
    row, column = batch.rows.repeat_interleave(lengths), batch.columns.repeat_interleave(lengths) + before
    logits = vocabulary_logits(model, replace(batch, rows=row, columns=column))
    losses = F.cross_entropy(logits, batch.inputs["input_ids"][row, column + 1], reduction="none")
    return np.array([-float(some.mean()) for some in losses.split(sizes)], np.float32)
