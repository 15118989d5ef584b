"""Losses of the score stage, each from the scores of one query's documents.

A score is a log-odds, so `bce` is the exact likelihood of the answer given that it is one of the two tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch.nn import functional as F

from ...evaluate.gains import LINEAR, gains_of


def bce(scores: torch.Tensor, labels: torch.Tensor, **_: object) -> torch.Tensor:
    """Binary cross-entropy of log-odds [n] against labels [n] in 0..1 (a grade divided by the highest)."""
    return F.binary_cross_entropy_with_logits(scores, labels.clamp(0, 1))


def softmax(
    scores: torch.Tensor, labels: torch.Tensor, grades: torch.Tensor, gain: str = LINEAR, **_: object
) -> torch.Tensor:  # fmt: skip
    """ListNet with graded gains: cross-entropy between softmax(scores) [n] and the grades' gains, normalised (Cao et al. 2007).
    With one positive it is the usual group softmax; without any it is 0."""
    gains = gains_of(grades, gain)
    if gains.sum() == 0:
        return scores.sum() * 0
    return -(gains / gains.sum() * scores.log_softmax(-1)).sum()


def kl(scores: torch.Tensor, teacher: torch.Tensor, temperature: float, **_: object) -> torch.Tensor:
    """KL from softmax(teacher / temperature) [n] to softmax(scores) [n]."""
    target = (teacher / temperature).log_softmax(-1)
    return (target.exp() * (target - scores.log_softmax(-1))).sum()


def ranknet(scores: torch.Tensor, grades: torch.Tensor, **_: object) -> torch.Tensor:
    """Mean logistic loss over pairs of different grades, from scores [n] (Burges et al. 2005). 0 where there is no pair."""
    better = grades[:, None] > grades[None, :]
    return F.softplus(scores[None, :] - scores[:, None])[better].mean() if better.any() else scores.sum() * 0


def lambdarank(
    scores: torch.Tensor, grades: torch.Tensor, depth: int = 10, gain: str = LINEAR, **_: object
) -> torch.Tensor:  # fmt: skip
    """The logistic loss of each pair weighed by how much nDCG@10 would change if the two changed places, summed.

    Scores, grades [n]. In the papers gains are exponential (Burges 2010; Wang et al. 2018, LambdaLoss).
    """
    better = grades[:, None] > grades[None, :]
    ranks = scores.detach().argsort(descending=True).argsort()  # [n], from 0
    seen = (ranks < depth) / torch.log2(ranks + 2.0)
    gains = gains_of(grades, gain)
    best = gains.sort(descending=True)[0][:depth]
    ideal = (best / torch.log2(torch.arange(len(best), device=best.device) + 2.0)).sum().clamp_min(1e-12)
    change = (gains[:, None] - gains[None, :]).abs() * (seen[:, None] - seen[None, :]).abs() / ideal
    return (F.softplus(scores[None, :] - scores[:, None]) * change)[better].sum()


def margin_mse(scores: torch.Tensor, grades: torch.Tensor, teacher: torch.Tensor, **_: object) -> torch.Tensor:
    """Mean squared difference between the gaps of scores [n] and of teacher scores [n], over pairs of different grades, or all
    pairs where the grades are one (Hofstätter et al. 2020)."""
    pairs = grades[:, None] > grades[None, :]
    pairs = pairs if pairs.any() else torch.ones_like(pairs).triu(1)
    gaps = (scores - teacher)[:, None] - (scores - teacher)[None, :]
    return gaps[pairs].square().mean()


def answer_mass(logits: torch.Tensor, answer_ids: Sequence[int]) -> torch.Tensor:
    """-log of what the answers ("0" and "1", or the labels) have of the probability, averaged over prompts, from logits
    [N, V]: keeps what the warm-up taught about the form."""
    return -(logits[:, list(answer_ids)].logsumexp(-1) - logits.logsumexp(-1)).mean()


LOSSES: dict[str, Callable[..., torch.Tensor]] = {
    "bce": bce, "softmax": softmax, "kl": kl, "ranknet": ranknet, "lambdarank": lambdarank, "margin-mse": margin_mse,
}  # fmt: skip
TAUGHT = {"kl", "margin-mse"}  # losses of teacher scores, which need no labels
