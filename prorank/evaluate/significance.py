"""Significance of differences between two systems: paired randomisation test, Holm's correction, bootstrap intervals.

Under the null hypothesis the sign of each query's difference is arbitrary, so the exact test counts all 2^n sign patterns. A sample
of `flips` patterns gives a p-value of at least 1 / (flips + 1), never 0.

Source: Fisher (1935); Smucker, Allan and Carterette (2007).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..errors import DataError

Values = Sequence[float] | np.ndarray
EXACT_UP_TO = 16  # 2^16 sign patterns take a fraction of a second
CHUNK = 2048


def randomisation_test(a: Values, b: Values, flips: int = 10_000, seed: int = 0) -> float:
    """Return the two-sided p-value of the mean difference between paired values.

    Args:
        a, b: [n] values of the same queries in the same order.
        flips: number of random sign patterns, at least 10,000. If at most 16 differences are not 0, the test is exact instead.
        seed: seed of the random sign patterns.

    Raises:
        DataError: lengths differ, there are no values, or values are not finite.
    """
    differences = _differences(a, b)
    differences = differences[differences != 0]  # a zero has no sign to flip
    if len(differences) == 0:
        return 1.0
    # The tolerance treats sums as equal that differ in the last bits only.
    threshold = abs(differences.sum()) * (1 - 1e-9) - 1e-12
    if len(differences) <= EXACT_UP_TO:
        return float(np.mean(np.abs(_all_signs(len(differences)) @ differences) >= threshold))
    rng, hits, done = np.random.default_rng(seed), 0, 0
    flips = max(flips, 10_000)
    while done < flips:
        n = min(CHUNK, flips - done)
        signs = rng.integers(0, 2, (n, len(differences)), dtype=np.int8) * 2.0 - 1.0
        hits += int((np.abs(signs @ differences) >= threshold).sum())
        done += n
    return (hits + 1) / (flips + 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return adjusted p-values, in the order of `p_values`, which control the family-wise error rate under any dependence.

    Source: Holm (1979).
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, previous = [0.0] * len(p_values), 0.0
    for place, i in enumerate(order):
        previous = max(previous, min(1.0, (len(p_values) - place) * p_values[i]))
        adjusted[i] = previous
    return adjusted


def bootstrap_ci(values: Values, level: float = 0.95, resamples: int = 10_000, seed: int = 0) -> tuple[float, float]:
    """Return the percentile bootstrap interval of the mean over queries.

    Args:
        values: values [n]; differences of two systems for the interval of their mean difference.
        level: confidence level.
        resamples: number of bootstrap samples.
        seed: seed of the resampling.

    Returns:
        (low, high).

    Raises:
        DataError: there are no values, or values are not finite.

    Source: Efron and Tibshirani (1993), chapter 13.
    """
    sample = np.asarray(values, np.float64)
    if sample.size == 0 or not np.isfinite(sample).all():
        raise DataError("an interval needs at least one value, and only finite ones")
    rng, means = np.random.default_rng(seed), np.empty(resamples)
    for at in range(0, resamples, CHUNK):
        n = min(CHUNK, resamples - at)
        means[at : at + n] = sample[rng.integers(0, len(sample), (n, len(sample)))].mean(1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _differences(a: Values, b: Values) -> np.ndarray:
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if x.shape != y.shape or x.ndim != 1 or x.size == 0:
        raise DataError(f"a paired test needs two equally long lists of values, not {x.shape} and {y.shape}")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise DataError("a paired test needs finite values")
    return x - y


def _all_signs(n: int) -> np.ndarray:
    """Return all patterns of n signs, [2^n, n] of +-1."""
    return ((np.arange(2**n)[:, None] >> np.arange(n)) & 1) * 2.0 - 1.0
