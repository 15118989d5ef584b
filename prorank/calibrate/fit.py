"""Fit calibration maps (temperature, Platt scaling, isotonic regression), and choose among them on held-out folds."""

from __future__ import annotations

import numpy as np

from ..checkpoints.calibration import Calibration, sigmoid
from ..errors import ConfigError, DataError, nearest
from ..evaluate.reliability import figures

METHODS = ("temperature", "platt", "isotonic")
AUTO = "auto"  # the method with the lowest log loss on held-out folds
MIN_SLOPE = 1e-6  # smallest slope, per standard deviation of the scores, so that their order is kept


def fit(scores: np.ndarray, labels: np.ndarray, method: str) -> Calibration:
    """Fit the calibration with the lowest log loss.

    The targets are those of Platt, (N+ + 1) / (N+ + 2) and 1 / (N- + 2) instead of 1 and 0, so that few separable labels do not
    give probabilities of 0 or 1. Slopes are above 0, which keeps the order of documents.

    Args:
        scores: log-odds [n], finite.
        labels: labels [n], 0 and 1, both present.
        method: "temperature" (Guo et al. 2017), "platt" (Platt 1999) or "isotonic" (Zadrozny and Elkan 2002).

    Raises:
        ConfigError: the method is unknown.
        DataError: lengths differ, there is only one label, or scores are not finite.
    """
    if method not in METHODS:
        raise ConfigError(f"calibration method '{method}' is not known{nearest(method, METHODS)}")
    s, y = _checked(scores, labels)
    targets = np.where(y > 0, (y.sum() + 1) / (y.sum() + 2), 1 / ((1 - y).sum() + 2))
    if method == "isotonic":
        at, values = pav(s, targets)
        return Calibration(method, {"scores": at.tolist(), "probabilities": values.tolist()})
    spread = float(np.abs(s).max() if method == "temperature" else s.std()) or 1.0
    design = np.stack([s / spread, np.ones_like(s)][: 1 if method == "temperature" else 2], 1)
    slope, *rest = _newton(design, targets)
    if slope < MIN_SLOPE:
        slope, rest = MIN_SLOPE, [float(np.log(targets.mean() / (1 - targets.mean())))] * len(rest)
    if method == "temperature":
        return Calibration(method, {"temperature": spread / float(slope)})
    return Calibration(method, {"slope": float(slope) / spread, "intercept": float(rest[0])})


def _checked(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    s, y = np.asarray(scores, np.float64), np.asarray(labels, np.float64)
    if s.shape != y.shape or s.ndim != 1:
        raise DataError(f"a calibration needs one label per score, not {s.shape} and {y.shape}")
    if set(np.unique(y)) != {0.0, 1.0}:
        raise DataError("a calibration needs both labels, relevant (1) and not (0), and no others")
    if not np.isfinite(s).all():
        raise DataError("a calibration needs finite scores")
    return s, y


def _newton(design: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Minimise the mean log loss of sigmoid(design @ weights) by Newton's method; steps that overshoot are halved.

    Args:
        design: matrix [n, k].
        targets: targets [n] in 0..1.

    Returns:
        weights [k].
    """

    def loss(weights: np.ndarray) -> float:
        z = design @ weights
        return float(np.mean(np.logaddexp(0.0, z) - targets * z))

    weights, n = np.zeros(design.shape[1]), len(design)
    for _ in range(100):
        p = sigmoid(design @ weights)
        hessian = (design * (p * (1 - p))[:, None]).T @ design / n + 1e-12 * np.eye(len(weights))
        step = np.linalg.solve(hessian, design.T @ (p - targets) / n)
        while loss(weights - step) > loss(weights) and np.abs(step).max() > 1e-12:
            step = step / 2
        weights = weights - step
        if np.abs(step).max() < 1e-10:
            break
    return weights


def pav(scores: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fit an isotonic regression by pool-adjacent-violators.

    Among all non-decreasing functions the fit has the lowest squared error and log loss at the scores. Equal scores are merged,
    with their mean target.

    Args:
        scores: scores [n].
        targets: targets [n].

    Returns:
        (scores [m], values [m]) at both ends of each constant segment, with linear interpolation between segments.
    """
    at, same, counts = np.unique(scores, return_inverse=True, return_counts=True)
    blocks: list[tuple[float, int, int, int]] = []  # (sum of targets, number of targets, first and last index in `at`)
    for i, (total, count) in enumerate(zip(np.bincount(same, targets), counts)):
        block = (float(total), int(count), i, i)
        while blocks and blocks[-1][0] * block[1] >= block[0] * blocks[-1][1]:  # the mean does not rise
            before = blocks.pop()
            block = (before[0] + block[0], before[1] + block[1], before[2], i)
        blocks.append(block)
    ends = [(at[i], total / count) for total, count, first, last in blocks for i in dict.fromkeys((first, last))]
    return np.array([s for s, _ in ends]), np.array([v for _, v in ends])


def choose(scores: np.ndarray, labels: np.ndarray, folds: np.ndarray) -> str:
    """Return the method with the lowest log loss on held-out folds. Arguments as in `out_of_fold`."""
    probabilities = {name: out_of_fold(scores, labels, folds, name) for name in METHODS}
    return min(METHODS, key=lambda name: figures(probabilities[name], labels)["log_loss"])


def out_of_fold(scores: np.ndarray, labels: np.ndarray, folds: np.ndarray, method: str) -> np.ndarray:
    """Return cross-validated probabilities: each fold is calibrated by a fit on the other folds.

    Args:
        scores: log-odds [n].
        labels: labels [n], 0 and 1.
        folds: fold of each pair [n].
        method: one of METHODS, or "auto" to choose the method for each fold on the other folds (on both, if there are only two).

    Returns:
        Probabilities [n].
    """
    probabilities = np.empty(len(scores))
    for fold in np.unique(folds):
        test = folds == fold
        choosing = ~test if len(np.unique(folds[~test])) > 1 else np.ones_like(test)
        name = choose(scores[choosing], labels[choosing], folds[choosing]) if method == AUTO else method
        probabilities[test] = fit(scores[~test], labels[~test], name).apply(scores[test])
    return probabilities
