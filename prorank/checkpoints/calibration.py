"""Probabilities from log-odds: temperature, Platt or isotonic, fitted on labels and kept with the checkpoint.

Hard fact: none of the three turns the order of two documents; temperature and Platt keep every difference, isotonic may make equal
what was not, so hits stay in the order of their raw scores.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ConfigError, DataError, ModelError, nearest
from ..evaluate.reliability import figures, sigmoid
from ..utils.files import atomic_file, parse_json, read_text

log = logging.getLogger("prorank")
FILE = "calibration.json"
METHODS = ("temperature", "platt", "isotonic")
AUTO = "auto"  # the one of least log loss on held-out folds
FLAT = 1e-6  # least slope, in units of the scores' spread: where none is best, one that still keeps the order


@dataclass(frozen=True)
class Calibration:
    """A fitted map from log-odds to probabilities, and what it is good for.

    Attributes:
        method: "temperature", p = sigmoid(s / temperature); "platt", p = sigmoid(slope * s + intercept); "isotonic", a rising line
            through points (scores, probabilities), flat beyond its ends.
        numbers: the method's own: temperature; slope, intercept; scores, probabilities.
        asked: how the documents were asked about, see `Reranker.asked`. weights: hashes of the weights, see `Reranker.weights`.
        data, split, min_rel, folds, seed: where the labels came from, and how they were used.
        queries, pairs, relevant: how many there were, and the share of relevant pairs.
        before, after: `reliability.figures` of plain sigmoid(s) and of held-out folds.

    Raises:
        ModelError: numbers that are no such map.
    """

    method: str
    numbers: dict[str, Any]
    asked: str = ""
    weights: list[str] = field(default_factory=list)
    data: str = ""
    split: str = ""
    min_rel: float | None = None
    folds: int = 0
    seed: int = 0
    queries: int = 0
    pairs: int = 0
    relevant: float = 0.0
    before: dict[str, float] = field(default_factory=dict)
    after: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        try:
            sound = _sound(self.method, self.numbers)
        except (KeyError, TypeError, ValueError):
            sound = False
        if not sound:
            raise ModelError(f"no calibration: method {self.method!r} with {str(self.numbers)[:80]}")

    def apply(self, scores: np.ndarray) -> np.ndarray:
        """Probabilities fp64 of raw log-odds, of the same shape; a higher score never gets a lower one."""
        s, own = np.asarray(scores, np.float64), self.numbers
        if self.method == "temperature":
            return sigmoid(s / own["temperature"])
        if self.method == "platt":
            return sigmoid(own["slope"] * s + own["intercept"])
        return np.interp(s, own["scores"], own["probabilities"])

    def save(self, folder: str | Path) -> Path:
        """Write `calibration.json` into a checkpoint's folder, whole or not at all."""
        path = Path(folder) / FILE
        with atomic_file(path) as handle:
            json.dump(asdict(self), handle, indent=2, allow_nan=False)
            handle.write("\n")
        return path

    @classmethod
    def load(cls, folder: str | Path) -> "Calibration | None":
        """That of a checkpoint's folder, None where it has none. Raises ModelError for a file that is none."""
        path = Path(folder) / FILE
        if not path.is_file():
            return None
        try:
            return cls(**parse_json(read_text(path, raised=ModelError)))
        except (ModelError, TypeError, ValueError) as error:
            raise ModelError(f"{path}: not a saved calibration ({error}); delete it or run prorank calibrate again") from error

    def __str__(self) -> str:
        own = self.numbers
        if self.method == "temperature":
            return f"temperature {own['temperature']:.4g}"
        if self.method == "platt":
            return f"platt, slope {own['slope']:.4g}, intercept {own['intercept']:.4g}"
        return f"isotonic, {len(own['scores'])} points"


def calibration_for(folder: Path, asked: str, weights: Callable[[], list[str]]) -> Calibration | None:
    """The calibration of a checkpoint that is asked so and has these weights; None, with a warning, where it was fitted for
    others."""
    found = Calibration.load(folder)
    if found is None:
        return None
    wrong = "another prompt" if found.asked != asked else "other weights" if found.weights != weights() else ""
    if wrong:
        log.warning("%s was fitted for %s: no probabilities are given; run prorank calibrate for this one", folder / FILE, wrong)
    return None if wrong else found


def _sound(method: str, own: dict[str, Any]) -> bool:
    """Whether the numbers make a rising map into 0..1."""
    if method == "temperature":
        return 0 < own["temperature"] < math.inf
    if method == "platt":
        return 0 < own["slope"] < math.inf and math.isfinite(own["intercept"])
    s, p = np.asarray(own["scores"], np.float64), np.asarray(own["probabilities"], np.float64)
    rising = np.isfinite(s).all() and (np.diff(s) > 0).all() and (np.diff(p) >= 0).all()
    return method == "isotonic" and len(s) == len(p) > 0 and bool(rising and p.min() >= 0 and p.max() <= 1)


def fit(scores: np.ndarray, labels: np.ndarray, method: str) -> Calibration:
    """The calibration of least log loss.

    The targets are Platt's, (N+ + 1) / (N+ + 2) and 1 / (N- + 2) in place of 1 and 0, so that no probability becomes 0 or 1 because
    a few labels happened to fall apart. Slopes are held above 0, as the order must stay.

    Args:
        scores: log-odds [n], finite. labels: [n] of 0 and 1, both present.
        method: "temperature" (Guo et al. 2017), "platt" (Platt 1999) or "isotonic" (Zadrozny and Elkan 2002).

    Raises:
        ConfigError: unknown method. DataError: lengths differ, one label only, scores that are not finite.
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
    if slope < FLAT:
        slope, rest = FLAT, [float(np.log(targets.mean() / (1 - targets.mean())))] * len(rest)
    if method == "temperature":
        return Calibration(method, {"temperature": spread / float(slope)})
    return Calibration(method, {"slope": float(slope) / spread, "intercept": float(rest[0])})


def _checked(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    s, y = np.asarray(scores, np.float64), np.asarray(labels, np.float64)
    if s.shape != y.shape or s.ndim != 1:
        raise DataError(f"a calibration needs one label a score, not {s.shape} and {y.shape}")
    if set(np.unique(y)) != {0.0, 1.0}:
        raise DataError("a calibration needs both labels, relevant (1) and not (0), and no others")
    if not np.isfinite(s).all():
        raise DataError("a calibration needs finite scores")
    return s, y


def _newton(design: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Weights [k] that minimise the mean log loss of sigmoid(design [n, k] @ weights): Newton's steps, halved where too long."""

    def loss(weights: np.ndarray) -> float:
        z = design @ weights
        return float(np.mean(np.logaddexp(0.0, z) - targets * z))

    weights, n = np.zeros(design.shape[1]), len(design)
    for _ in range(100):
        p = sigmoid(design @ weights)
        curve = (design * (p * (1 - p))[:, None]).T @ design / n + 1e-12 * np.eye(len(weights))
        step = np.linalg.solve(curve, design.T @ (p - targets) / n)
        while loss(weights - step) > loss(weights) and np.abs(step).max() > 1e-12:
            step = step / 2
        weights = weights - step
        if np.abs(step).max() < 1e-10:
            break
    return weights


def pav(scores: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Isotonic regression by pool-adjacent-violators: (scores, values), the ends of each flat stretch of the fit.

    Equal scores count as one with their mean target. Of all rising functions the fit has the least squared error (and the least log
    loss) at the scores; between them it is to be read as a line.
    """
    at, same, counts = np.unique(scores, return_inverse=True, return_counts=True)
    blocks: list[tuple[float, int, int, int]] = []  # (sum of targets, how many, first and last place in `at`)
    for i, (total, count) in enumerate(zip(np.bincount(same, targets), counts)):
        block = (float(total), int(count), i, i)
        while blocks and blocks[-1][0] * block[1] >= block[0] * blocks[-1][1]:  # a mean that does not rise
            before = blocks.pop()
            block = (before[0] + block[0], before[1] + block[1], before[2], i)
        blocks.append(block)
    ends = [(at[i], total / count) for total, count, first, last in blocks for i in dict.fromkeys((first, last))]
    return np.array([s for s, _ in ends]), np.array([v for _, v in ends])


def choose(scores: np.ndarray, labels: np.ndarray, folds: np.ndarray) -> str:
    """The method of least log loss on held-out folds; arguments as `out_of_fold`."""
    held = {name: out_of_fold(scores, labels, folds, name) for name in METHODS}
    return min(METHODS, key=lambda name: figures(held[name], labels)["log_loss"])


def out_of_fold(scores: np.ndarray, labels: np.ndarray, folds: np.ndarray, method: str) -> np.ndarray:
    """Probabilities [n] by calibrations that have not seen them: that of a fold is fitted on the others.

    Args:
        scores: log-odds [n]. labels: [n] of 0 and 1. folds: [n], the fold of each pair.
        method: one of METHODS, or "auto": for each fold the one that the others choose among themselves (of two folds, both do).
    """
    out = np.empty(len(scores))
    for fold in np.unique(folds):
        held = folds == fold
        some = ~held if len(np.unique(folds[~held])) > 1 else np.ones_like(held)
        name = choose(scores[some], labels[some], folds[some]) if method == AUTO else method
        out[held] = fit(scores[~held], labels[~held], name).apply(scores[held])
    return out
