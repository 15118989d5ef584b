"""Losses of stage `score`, each computed from the scores [n] of one query's n documents.

A score is a log-odds, so `bce` is the exact likelihood of the answer, given that it is one of the two answer tokens.

Besides the scores, all losses accept the keyword arguments `grades` (labels of the data), `labels` (grades divided by the highest
grade), `teacher` (teacher scores), each [n], `temperature` (divisor of teacher scores) and `gain` (gain of a grade in nDCG); each
uses some of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch.nn import functional as F

from ...evaluate.gains import LINEAR, gains_of


def bce(scores: torch.Tensor, labels: torch.Tensor, **_: object) -> torch.Tensor:
    """Return the binary cross-entropy of log-odds [n] with labels [n] in 0..1 (a grade divided by the highest grade)."""
    return F.binary_cross_entropy_with_logits(scores, labels.clamp(0, 1))


def listnet(
    scores: torch.Tensor, labels: torch.Tensor, grades: torch.Tensor, gain: str = LINEAR, **_: object
) -> torch.Tensor:  # fmt: skip
    """Return the ListNet loss (Cao et al. 2007): cross-entropy between normalised gains of grades [n] and softmax(scores) [n].

    With one relevant document it is the usual softmax loss over a list; without any it is 0.
    """
    gains = gains_of(grades, gain)
    if gains.sum() == 0:
        return scores.sum() * 0
    return -(gains / gains.sum() * scores.log_softmax(-1)).sum()


def kl(scores: torch.Tensor, teacher: torch.Tensor, temperature: float, **_: object) -> torch.Tensor:
    """Return the KL divergence from softmax(teacher / temperature) [n] to softmax(scores) [n]."""
    target = (teacher / temperature).log_softmax(-1)
    return (target.exp() * (target - scores.log_softmax(-1))).sum()


def ranknet(scores: torch.Tensor, grades: torch.Tensor, **_: object) -> torch.Tensor:
    """Return the RankNet loss (Burges et al. 2005): mean logistic loss over pairs of different grades [n]; 0 without pairs."""
    better = grades[:, None] > grades[None, :]
    return F.softplus(scores[None, :] - scores[:, None])[better].mean() if better.any() else scores.sum() * 0


def lambdarank(
    scores: torch.Tensor, grades: torch.Tensor, depth: int = 10, gain: str = LINEAR, **_: object
) -> torch.Tensor:  # fmt: skip
    """Return the LambdaRank loss: logistic loss summed over pairs, weighted by the change in nDCG@depth of a swap.

    The papers use exponential gains (Burges 2010; LambdaLoss, Wang et al. 2018).
    """
    better = grades[:, None] > grades[None, :]
    ranks = scores.detach().argsort(descending=True).argsort()  # [n], from 0
    discounts = (ranks < depth) / torch.log2(ranks + 2.0)
    gains = gains_of(grades, gain)
    best = gains.sort(descending=True)[0][:depth]
    ideal = (best / torch.log2(torch.arange(len(best), device=best.device) + 2.0)).sum().clamp_min(1e-12)
    change = (gains[:, None] - gains[None, :]).abs() * (discounts[:, None] - discounts[None, :]).abs() / ideal
    return (F.softplus(scores[None, :] - scores[:, None]) * change)[better].sum()


def margin_mse(scores: torch.Tensor, grades: torch.Tensor, teacher: torch.Tensor, **_: object) -> torch.Tensor:
    """Return the MarginMSE loss (Hofstätter et al. 2020): mean squared difference between score margins of model and teacher [n].

    Pairs have different grades; if all grades are equal, all pairs count.
    """
    pairs = grades[:, None] > grades[None, :]
    pairs = pairs if pairs.any() else torch.ones_like(pairs).triu(1)
    gaps = (scores - teacher)[:, None] - (scores - teacher)[None, :]
    return gaps[pairs].square().mean()


def answer_mass(logits: torch.Tensor, answer_ids: Sequence[int]) -> torch.Tensor:
    """Return the mean of -log of the answers' total probability, from logits [N, V]: preserves the answer format of the warm-up."""
    return -(logits[:, list(answer_ids)].logsumexp(-1) - logits.logsumexp(-1)).mean()


LOSSES: dict[str, Callable[..., torch.Tensor]] = {
    "bce": bce, "listnet": listnet, "kl": kl, "ranknet": ranknet, "lambdarank": lambdarank, "margin-mse": margin_mse,
}  # fmt: skip
TEACHER_LOSSES = {"kl", "margin-mse"}  # require teacher scores instead of labels
