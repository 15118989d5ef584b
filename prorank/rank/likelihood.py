"""Query likelihood: how probable the query is as a continuation of the document.

It needs neither labels nor training, and for a small base model it ranks far better than the model's zero-shot answers.

Sources: Ponte and Croft, SIGIR 1998; with large language models, Zhuang et al. 2023 (arXiv 2310.13243).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn import functional as F

from ..engine.flat_attention import is_flat
from ..engine.heads import vocabulary_logits
from ..engine.packing import Pack, collate

BATCH_SIZE = 8  # documents of a forward pass


def query_likelihood(
    model: torch.nn.Module,
    tokenizer: Any,
    queries: Sequence[str],
    documents: Sequence[Sequence[str]],
    max_length: int = 512,
    progress: Callable[[int], None] | None = None,
) -> list[np.ndarray]:
    """Return the mean log-probability of the query's tokens after "Document: {document}\\nQuery: ".

    Args:
        model: a causal language model.
        tokenizer: its tokenizer.
        queries: one text per query.
        documents: the texts of each query's documents.
        max_length: maximum number of tokens of query and document together; the document is truncated.
        progress: called with the number of documents scored since its last call.

    Returns:
        One fp32 array [n] per query.
    """
    scores = []
    with torch.inference_mode():
        for query, texts in zip(queries, documents):
            row = np.empty(len(texts), np.float32)
            prompts = [_prompt(tokenizer, query, text, max_length) for text in texts]
            order = sorted(range(len(texts)), key=lambda i: len(prompts[i].ids))
            for start in range(0, len(order), BATCH_SIZE):
                chunk = order[start : start + BATCH_SIZE]
                row[chunk] = _mean_log_probs(model, [prompts[i] for i in chunk])
                if progress:
                    progress(len(chunk))
            scores.append(row)
    return scores


class _Prompt(NamedTuple):
    ids: list[int]
    query_tokens: int  # number of last ids that belong to the query


def _prompt(tokenizer: Any, query: str, document: str, max_length: int) -> _Prompt:
    """Encode a pair; the document is truncated if both do not fit."""
    head, middle, tail = tokenizer(["Document: ", "\nQuery:", " " + query], add_special_tokens=False)["input_ids"]
    body = tokenizer(document, add_special_tokens=False)["input_ids"]
    if sum(map(len, (head, body, middle, tail))) > max_length:
        tail = tail[: max_length // 2]
    room = max(0, max_length - len(head) - len(middle) - len(tail))
    return _Prompt(head + body[:room] + middle + tail, len(tail))


def _mean_log_probs(model: torch.nn.Module, prompts: list[_Prompt]) -> np.ndarray:
    """Return the mean log-probability fp32 [n] of each prompt's query."""
    packs = [Pack(ids, 0, [len(ids)], [len(ids) - 1], [i]) for i, (ids, _) in enumerate(prompts)]
    batch = collate(packs, 0, is_flat(model)).to(next(model.parameters()).device)
    sizes = [prompt.query_tokens for prompt in prompts]
    lengths, before = (torch.tensor(x, device=batch.rows.device) for x in (sizes, [i - n for n in sizes for i in range(n)]))
    # Positions of the tokens that predict the query's tokens: [sum of sizes].
    row, column = batch.rows.repeat_interleave(lengths), batch.columns.repeat_interleave(lengths) + before
    logits = vocabulary_logits(model, replace(batch, rows=row, columns=column))
    losses = F.cross_entropy(logits, batch.inputs["input_ids"][row, column + 1], reduction="none")
    return np.array([-float(part.mean()) for part in losses.split(sizes)], np.float32)
