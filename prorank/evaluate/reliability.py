"""Calibration error of probabilities: bins, ECE, Brier score, log loss, and the reliability diagram.

All measures are 0 at best and are computed over (query, document) pairs, independent of ranking.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..errors import DataError, extra
from ..utils.files import atomic_file

BINS = 10
EPSILON = 1e-15  # log loss clips probabilities to [EPSILON, 1 - EPSILON], as it is infinite at 0 and 1
NAMES = {"ece": "ECE", "ece_equal_count": "ECE, equal counts", "brier": "Brier score", "log_loss": "log loss"}
Values = Sequence[float] | np.ndarray


class Bin(NamedTuple):
    """Pairs of similar probability.

    Attributes:
        probability: mean probability.
        relevant: share of relevant pairs.
        pairs: number of pairs.
    """

    probability: float
    relevant: float
    pairs: int


def bins(probabilities: Values, labels: Values, equal_count: bool = False, count: int = BINS) -> list[Bin]:
    """Group pairs by probability.

    Args:
        probabilities: [n], each in 0..1.
        labels: [n] of 0 and 1.
        equal_count: bins of equally many pairs; by default bins of equal width.
        count: number of bins.

    Returns:
        The bins that contain pairs, from low to high.

    Raises:
        DataError: there are no pairs, or lengths differ.
    """
    p, y = np.asarray(probabilities, np.float64), np.asarray(labels, np.float64)
    if p.shape != y.shape or p.ndim != 1 or not p.size:
        raise DataError(f"bins need as many labels as probabilities, and at least one: not {p.shape} and {y.shape}")
    if equal_count:
        # Equal probabilities get their mean label, so that the input order does not matter if a bin ends between them.
        _, same = np.unique(p, return_inverse=True)
        y = (np.bincount(same, y) / np.bincount(same))[same]
        parts = np.array_split(np.argsort(p, kind="stable"), count)
    else:
        index = np.minimum((p * count).astype(int), count - 1)
        parts = [np.flatnonzero(index == i) for i in range(count)]
    return [Bin(float(p[i].mean()), float(y[i].mean()), len(i)) for i in parts if len(i)]


def ece(bins_: Sequence[Bin]) -> float:
    """Return the expected calibration error of `bins`: mean |probability - share relevant|, weighted by the pairs of each bin.

    Source: Naeini, Cooper and Hauskrecht (2015); Guo et al. (2017).
    """
    return sum(n * abs(p - y) for p, y, n in bins_) / sum(n for _, _, n in bins_)


def figures(probabilities: Values, labels: Values) -> dict[str, float]:
    """Return the measures in `NAMES`: ECE in 10 bins of equal width and of equal count, Brier score, log loss (nats)."""
    p, y = np.asarray(probabilities, np.float64), np.asarray(labels, np.float64)
    clipped = np.clip(p, EPSILON, 1 - EPSILON)
    return {
        "ece": ece(bins(p, y)),
        "ece_equal_count": ece(bins(p, y, equal_count=True)),
        "brier": float(np.mean((p - y) ** 2)),
        "log_loss": float(-np.mean(y * np.log(clipped) + (1 - y) * np.log1p(-clipped))),
    }


def pyplot() -> Any:
    """Import matplotlib.pyplot with the Agg backend. Raises MissingExtra if matplotlib is not installed."""
    with extra("eval"):
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    return pyplot


def draw(series: Mapping[str, Values], labels: Values, path: str | Path, title: str) -> Path:
    """Draw a reliability diagram: share relevant against probability in bins of equal width, above a histogram of pairs.

    Args:
        series: probabilities [n] by name, at most two.
        labels: [n] of 0 and 1.
        path: PNG file to write.
        title: title of the diagram.
    """
    plt = pyplot()
    chart, (top, below) = plt.subplots(2, 1, figsize=(5.2, 6.4), height_ratios=(4, 1), sharex=True, layout="constrained")
    top.plot([0, 1], [0, 1], color="#888888", linewidth=1, linestyle=":", label="perfect calibration")
    for (name, p), color, style in zip(series.items(), ("#c2410c", "#1d4ed8"), ("--", "-")):
        of_series = bins(p, labels)
        predicted, relevant, counts = zip(*of_series)
        top.plot(predicted, relevant, style, color=color, linewidth=1.4, label=f"{name}: ECE {ece(of_series):.4f}")
        sizes = [8 + 90 * n / max(counts) for n in counts]  # larger dots for more pairs
        top.scatter(predicted, relevant, s=sizes, color=color, zorder=3, clip_on=False)
        below.hist(p, bins=np.linspace(0, 1, BINS + 1), histtype="step", color=color, linewidth=1.6)
    top.set(title=title, ylabel="share relevant", xlim=(0, 1), ylim=(0, 1), aspect="equal")
    below.set(xlabel="probability", ylabel="pairs")
    top.legend(fontsize=9, loc="upper left")
    for axis in (top, below):
        axis.grid(alpha=0.25)
    with atomic_file(path, "wb") as handle:
        chart.savefig(handle, format="png", dpi=110)
    plt.close(chart)
    return Path(path)
