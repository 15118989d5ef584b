"""What a model does at the place of the answer: scores, form, likeliest token, hidden states.

This is the one place where logits over the whole vocabulary are made for ranking; scoring needs two rows of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..engine.heads import answer_rows, log_odds, logits_of_hidden
from ..engine.packing import Batch


@dataclass(frozen=True)
class Diagnosis:
    """What the model does at the answer position, one entry a pair.

    `scores` [n]: log-odds. `format_mass` [n]: p("0") + p("1") over the vocabulary. `argmax_is_answer` [n]: the likeliest token is
    one of the two. `answer` [n]: 1 where relevant is the likelier of the two. `hidden` [n, H]: last hidden states, fp32.
    """

    scores: np.ndarray
    format_mass: np.ndarray
    argmax_is_answer: np.ndarray
    answer: np.ndarray
    hidden: np.ndarray


def diagnosis(
    model: torch.nn.Module, answer_ids: Sequence[int], seen: Iterable[tuple[Batch, torch.Tensor]], count: int
) -> Diagnosis:
    """A Diagnosis of `count` pairs from batches and their last hidden states [N, H]; `answer_ids`: (not relevant, relevant)."""
    ids, (rows, bias) = list(answer_ids), answer_rows(model, answer_ids)
    scores, mass = np.empty(count, np.float32), np.empty(count, np.float32)
    top, hidden = np.empty(count, bool), np.empty((count, rows.shape[1]), np.float32)
    for batch, state in seen:
        scores[batch.owners] = log_odds(state, rows, bias).cpu().numpy()
        hidden[batch.owners] = state.float().cpu().numpy()
        logits = logits_of_hidden(model, state)
        mass[batch.owners] = logits.softmax(-1)[:, ids].sum(-1).cpu().numpy()
        best = logits.argmax(-1)
        top[batch.owners] = torch.isin(best, torch.tensor(ids, device=best.device)).cpu().numpy()
    return Diagnosis(scores, mass, top, (scores > 0).astype(np.int64), hidden)
