"""Probabilities from log-odds: temperature, Platt or isotonic, fitted on labels and kept with the checkpoint.

None of the three turns the order of two documents; temperature and Platt keep every difference, isotonic may make equal
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

from ..errors import ModelError
from ..utils.files import atomic_file, parse_json, read_text

log = logging.getLogger("prorank")
FILE = "calibration.json"


@dataclass(frozen=True)
class Calibration:
    """A fitted map from log-odds to probabilities, and what it is good for.

    Attributes:
        method: "temperature", p = sigmoid(s / temperature); "platt", p = sigmoid(slope * s + intercept); "isotonic", a rising line
            through points (scores, probabilities), flat beyond its ends.
        numbers: the method's own: temperature; slope, intercept; scores, probabilities.
        asked: how the documents were asked about, see `Reranker.prompt_fingerprint`.
        weights: hashes of the weights, see `Reranker.weight_hashes`.
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


def sigmoid(z: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-z)), without overflow."""
    return np.exp(-np.logaddexp(0.0, -np.asarray(z, np.float64)))
