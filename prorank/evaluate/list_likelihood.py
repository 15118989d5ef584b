"""How likely a list's relevant documents are by its scores: a measure that hears every difference of scores, not only of places.

Scores of different models have different units, so each model gets the one slope that serves its lists best; an order
that tells nothing gets slope 0, at which all documents are equally likely.

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
    """Mean log-chance of each list's relevant documents [n]: chances are softmax(slope x score), documents weigh by their gains.

    Args:
        scores: of each list's documents, any units. labels: their grades; a list without a relevant one has value 0.
        gain: of a grade, as in nDCG.
    """
    s, gains, there = _padded(scores, labels, gain)

    def log_chances(slope: float) -> np.ndarray:
        x = np.where(there, slope * s, -np.inf)
        x = x - x.max(1, keepdims=True)
        return x - np.log(np.exp(x).sum(1, keepdims=True))

    def rises(slope: float) -> bool:
        """Whether a larger slope makes the relevant documents likelier: the likelihood is concave in it."""
        expected = (np.exp(log_chances(slope)) * s).sum(1)
        return bool(((gains * s).sum(1) - gains.sum(1) * expected).sum() > 0)

    found = np.where(there, log_chances(_slope(rises, float(s[there].std()) or 1.0)), 0.0)
    return (gains * found).sum(1)


def _slope(rises: Callable[[float], bool], spread: float) -> float:
    """The slope of the greatest likelihood, 0 to 1,000 spreads, by bisection."""
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
    """(scores, gains, whether there is a document) [n, longest]: gains of a list sum to 1, or 0 where none is relevant. A list's
    scores have mean 0, as only their differences count."""
    sizes = np.array([len(row) for row in scores])
    there = np.arange(sizes.max()) < sizes[:, None]
    s, gains = np.zeros(there.shape), np.zeros(there.shape)
    for i, (row, grades) in enumerate(zip(scores, labels, strict=True)):
        worth = gains_of(grades, gain)
        s[i, : len(row)] = np.asarray(row, float) - np.mean(row)
        gains[i, : len(row)] = worth / (worth.sum() or 1.0)
    return s, gains, there
