"""Inspect a model at the answer position: scores, format, most likely token, hidden states.

This is the only part of ranking that computes logits over the whole vocabulary; scoring needs two of them.
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
    """The model at the answer position, one entry per pair.

    Attributes:
        scores: fp32 [n], log-odds.
        format_mass: fp32 [n], p("0") + p("1") over the vocabulary.
        argmax_is_answer: bool [n], whether the most likely token is one of the two answers.
        answer: int [n], 1 where "relevant" is the more likely of the two.
        hidden: fp32 [n, H], last hidden states.
    """

    scores: np.ndarray
    format_mass: np.ndarray
    argmax_is_answer: np.ndarray
    answer: np.ndarray
    hidden: np.ndarray


def diagnosis(
    model: torch.nn.Module, answer_ids: Sequence[int], states: Iterable[tuple[Batch, torch.Tensor]], count: int
) -> Diagnosis:
    """Compute a Diagnosis.

    Args:
        model: the causal language model, for its output matrix.
        answer_ids: tokens of the answers (not relevant, relevant).
        states: batches with their last hidden states [N, H]; a batch's owners are indices of pairs.
        count: number of pairs.
    """
    ids, (rows, bias) = list(answer_ids), answer_rows(model, answer_ids)
    scores, mass = np.empty(count, np.float32), np.empty(count, np.float32)
    top, hidden = np.empty(count, bool), np.empty((count, rows.shape[1]), np.float32)
    for batch, state in states:
        scores[batch.owners] = log_odds(state, rows, bias).cpu().numpy()
        hidden[batch.owners] = state.float().cpu().numpy()
        logits = logits_of_hidden(model, state)
        mass[batch.owners] = logits.softmax(-1)[:, ids].sum(-1).cpu().numpy()
        best = logits.argmax(-1)
        top[batch.owners] = torch.isin(best, torch.tensor(ids, device=best.device)).cpu().numpy()
    return Diagnosis(scores, mass, top, (scores > 0).astype(np.int64), hidden)
