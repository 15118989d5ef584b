"""How far probabilities are from what comes true: bins, ECE, Brier score and log loss, and the picture of it.

Every measure here is 0 at best and takes pairs one by one; the order of a query's documents has no part in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError, extra
from ..utils.files import atomic_file

BINS = 10
LEAST = 1e-15  # log loss takes no probability to be nearer to 0 or 1, where it would be infinite
NAMES = {"ece": "ECE", "ece_equal_count": "ECE, equal counts", "brier": "Brier score", "log_loss": "log loss"}
Bin = tuple[float, float, int]
Values = Sequence[float] | np.ndarray


def bins(probabilities: Values, labels: Values, equal_count: bool = False, count: int = BINS) -> list[Bin]:
    """(mean probability, share relevant, pairs) of each bin that holds pairs, from low to high.

    Args:
        probabilities: [n] in 0..1. labels: [n] of 0 and 1.
        equal_count: bins of equally many pairs; by default bins of equal width.
        count: how many.

    Raises:
        DataError: no pairs, or lengths differ.
    """
    p, y = np.asarray(probabilities, np.float64), np.asarray(labels, np.float64)
    if p.shape != y.shape or p.ndim != 1 or not p.size:
        raise DataError(f"bins need as many labels as probabilities, and at least one: not {p.shape} and {y.shape}")
    if equal_count:
        _, same = np.unique(p, return_inverse=True)
        y = (np.bincount(same, y) / np.bincount(same))[same]  # where a bin ends between equal ones, the file's order must not count
        parts = np.array_split(np.argsort(p, kind="stable"), count)
    else:
        place = np.minimum((p * count).astype(int), count - 1)
        parts = [np.flatnonzero(place == i) for i in range(count)]
    return [(float(p[i].mean()), float(y[i].mean()), len(i)) for i in parts if len(i)]


def ece(found: Sequence[Bin]) -> float:
    """Expected calibration error of `bins`: mean |probability - share relevant|, each bin weighed by its pairs.

    Naeini, Cooper and Hauskrecht 2015; Guo et al. 2017.
    """
    return sum(n * abs(p - y) for p, y, n in found) / sum(n for _, _, n in found)


def figures(probabilities: Values, labels: Values) -> dict[str, float]:
    """The measures that `NAMES` lists: ECE in 10 bins of equal width and of equal count, Brier score, log loss (in nats)."""
    p, y = np.asarray(probabilities, np.float64), np.asarray(labels, np.float64)
    sure = np.clip(p, LEAST, 1 - LEAST)
    return {
        "ece": ece(bins(p, y)),
        "ece_equal_count": ece(bins(p, y, equal_count=True)),
        "brier": float(np.mean((p - y) ** 2)),
        "log_loss": float(-np.mean(y * np.log(sure) + (1 - y) * np.log1p(-sure))),
    }


def pyplot() -> Any:
    """matplotlib's pyplot, drawing to files. Raises MissingExtra."""
    with extra("eval"):
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    return pyplot


def draw(series: Mapping[str, Values], labels: Values, path: str | Path, title: str) -> Path:
    """Reliability diagram: share relevant against probability in bins of equal width, and how many pairs each bin holds
    (the larger the dot, the more).

    Args:
        series: name -> probabilities [n]. labels: [n] of 0 and 1.
        path: picture to write (PNG).
    """
    plt = pyplot()
    chart, (top, below) = plt.subplots(2, 1, figsize=(5.2, 6.4), height_ratios=(4, 1), sharex=True, layout="constrained")
    top.plot([0, 1], [0, 1], color="#888888", linewidth=1, linestyle=":", label="as said, so it is")
    for (name, p), color, kind in zip(series.items(), ("#c2410c", "#1d4ed8"), ("--", "-")):
        said, true, counts = zip(*(found := bins(p, labels)))
        top.plot(said, true, kind, color=color, linewidth=1.4, label=f"{name}: ECE {ece(found):.4f}")
        top.scatter(said, true, s=[8 + 90 * n / max(counts) for n in counts], color=color, zorder=3, clip_on=False)
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
