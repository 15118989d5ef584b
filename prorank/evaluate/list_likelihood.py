"""Log-likelihood of a list's relevant documents under a softmax of its scores.

Unlike nDCG it changes with every difference of scores, not only with ranks. Scores of different models have different scales, so
each model's scores are multiplied by the slope that maximises its likelihood over all lists. The slope is 0, which makes all
documents equally likely, if the order is no better than chance.

Source: the top-one likelihood of ListNet (Cao et al., Learning to Rank, ICML 2007), with the gains of nDCG as targets.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from .gains import LINEAR, gains_of

HALVINGS = 60


def log_likelihood(
    scores: Sequence[Sequence[float] | np.ndarray], labels: Sequence[Sequence[float]], gain: str = LINEAR
) -> np.ndarray:
    """Return the log-likelihood of each list's relevant documents under softmax(slope * score), weighted by their gains.

    Args:
        scores: scores of each list's documents, on any scale.
        labels: labels of the same documents.
        gain: gain of a label, as in nDCG: "linear" or "exponential".

    Returns:
        Log-likelihoods [n], each at most 0; 0 for a list without a relevant document.
    """
    s, gains, mask = _padded(scores, labels, gain)

    def log_chances(slope: float) -> np.ndarray:
        x = np.where(mask, slope * s, -np.inf)
        x = x - x.max(1, keepdims=True)
        return x - np.log(np.exp(x).sum(1, keepdims=True))

    def rises(slope: float) -> bool:
        """Whether the likelihood, which is concave in the slope, rises at this slope."""
        expected = (np.exp(log_chances(slope)) * s).sum(1)
        return bool(((gains * s).sum(1) - gains.sum(1) * expected).sum() > 0)

    best = _slope(rises, float(s[mask].std()) or 1.0)
    return (gains * np.where(mask, log_chances(best), 0.0)).sum(1)


def _slope(rises: Callable[[float], bool], spread: float) -> float:
    """Return the slope with the largest likelihood, by bisection: 0, or 1e-6 to 1,000 per standard deviation of the scores."""
    if not rises(0.0):
        return 0.0
    low, high = 1e-6 / spread, 1e3 / spread
    for _ in range(HALVINGS):
        middle = float(np.sqrt(low * high))
        low, high = (middle, high) if rises(middle) else (low, middle)
    return low


def _padded(
    scores: Sequence[Sequence[float] | np.ndarray], labels: Sequence[Sequence[float]], gain: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (scores, gains, mask of documents), each [n, longest list].

    A list's gains sum to 1, or to 0 if none is relevant; its scores have mean 0, as only their differences matter.
    """
    sizes = np.array([len(row) for row in scores])
    mask = np.arange(sizes.max()) < sizes[:, None]
    s, gains = np.zeros(mask.shape), np.zeros(mask.shape)
    for i, (row, grades) in enumerate(zip(scores, labels, strict=True)):
        row_gains = gains_of(grades, gain)
        s[i, : len(row)] = np.asarray(row, float) - np.mean(row)
        gains[i, : len(row)] = row_gains / (row_gains.sum() or 1.0)
    return s, gains, mask
