"""Losses of the score stage, each from the scores of one query's documents.

Hard fact: a score is a log-odds, so `bce` is the exact likelihood of the answer given that it is one of the two tokens.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F


def bce(scores: torch.Tensor, labels: torch.Tensor, **_: object) -> torch.Tensor:
    """Binary cross-entropy of log-odds [n] against labels [n] in 0..1 (a grade divided by the highest)."""
    return F.binary_cross_entropy_with_logits(scores, labels.clamp(0, 1))


def softmax(scores: torch.Tensor, labels: torch.Tensor, grades: torch.Tensor, **_: object) -> torch.Tensor:
    """ListNet with graded gains: cross-entropy between softmax(scores) [n] and gains 2^grade - 1, normalised (Cao et al. 2007).
    With one positive it is the usual group softmax; without any it is 0."""
    gains = torch.exp2(grades) - 1
    if gains.sum() == 0:
        return scores.sum() * 0
    return -(gains / gains.sum() * scores.log_softmax(-1)).sum()


def kl(scores: torch.Tensor, teacher: torch.Tensor | None, temperature: float, **_: object) -> torch.Tensor:
    """KL from softmax(teacher / temperature) [n] to softmax(scores) [n]."""
    target = (teacher / temperature).log_softmax(-1)
    return (target.exp() * (target - scores.log_softmax(-1))).sum()


def answer_mass(logits: torch.Tensor, answer_ids: tuple[int, int]) -> torch.Tensor:
    """-log(p("0") + p("1")) averaged over prompts, from logits [N, V]: keeps what the warm-up taught about the form."""
    return -(logits[:, list(answer_ids)].logsumexp(-1) - logits.logsumexp(-1)).mean()


LOSSES = {"bce": bce, "softmax": softmax, "kl": kl}
