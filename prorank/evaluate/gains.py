"""Gains of labels and nDCG, shared by training, dev measures, adapt, evaluation and benchmarks.

"linear" gains are the labels themselves, as in trec_eval, ir-measures and BEIR. "exponential" gains are 2^label - 1, as in
LambdaRank (Burges et al. 2005) and REARANK. For labels of 0 and 1 the two are the same.

Source: Järvelin and Kekäläinen, Cumulated gain-based evaluation of IR techniques (2002).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ..errors import ConfigError, DataError

LINEAR, EXPONENTIAL = "linear", "exponential"
GAINS = (LINEAR, EXPONENTIAL)
FORMULA = {LINEAR: "label", EXPONENTIAL: "2^label - 1"}
MAX_GAIN = 2**20  # trec_eval allocates a counter for each whole gain up to the largest


def check_gain(gain: str, key: str = "gain") -> None:
    """Raise ConfigError, naming `key`, for an unknown gain."""
    if gain not in GAINS:
        raise ConfigError(f"{key} must be {' or '.join(GAINS)}, not {gain!r}")


def gains_of(labels: Any, gain: str = LINEAR) -> Any:
    """Return the gain of each label. Labels below 0 have gain 0; labels may be fractions.

    Args:
        labels: a sequence or an array of numbers, or a torch tensor, which keeps its type and device.
        gain: "linear" or "exponential".

    Returns:
        A float64 array, or a tensor if `labels` is one, of the same shape.

    Raises:
        ConfigError: the gain is unknown.
    """
    check_gain(gain)
    values = labels.clip(0) if hasattr(labels, "detach") else np.asarray(labels, np.float64).clip(0)
    return values if gain == LINEAR else 2**values - 1


def check_labels(labels: Iterable[float], gain: str, where: str) -> None:
    """Raise DataError, naming `where`, for a label whose gain exceeds 2^20, which trec_eval cannot compute."""
    top = max(labels, default=0)
    if top > (MAX_GAIN if gain == LINEAR else MAX_GAIN.bit_length() - 1):
        remedy = "use smaller grades" if gain == LINEAR else f"use smaller grades, or gain {LINEAR}"
        raise DataError(f"{where}: label {top:g} is too large for nDCG with {gain} gains, {FORMULA[gain]}; {remedy}")


def ndcg(labels: Sequence[float] | np.ndarray, gain: str = LINEAR, depth: int = 10) -> float:
    """Return the nDCG@depth of one list.

    Args:
        labels: labels [n] of all its documents, in ranked order, best first.
        gain: "linear" or "exponential".
        depth: number of ranks that count.

    Returns:
        0 to 1, relative to the best order of the same documents; 0 if none is relevant.
    """
    gains = gains_of(labels, gain)
    discounts = 1 / np.log2(np.arange(2, min(depth, len(gains)) + 2))
    best = float(np.sort(gains)[::-1][: len(discounts)] @ discounts)
    return float(gains[: len(discounts)] @ discounts) / best if best else 0.0
