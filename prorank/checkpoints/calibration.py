"""Calibration: a map from log-odds to probabilities, fitted on labels and saved with the checkpoint.

Temperature scaling (Guo et al. 2017, arXiv 1706.04599), Platt scaling or isotonic regression. None reverses the order of two
documents. Isotonic regression may give two scores the same probability, so hits stay in the order of their raw scores.
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

from ..errors import ConfigError, ModelError
from ..utils.files import atomic_file, parse_json, read_text

log = logging.getLogger("prorank.calibration")
FILE = "calibration.json"
EM_STEPS, SMALLEST_PRIOR = 1000, 1e-6


@dataclass(frozen=True)
class Calibration:
    """A fitted map from log-odds s to probabilities p, with the prompt and weights that it is valid for.

    Attributes:
        method: "temperature": p = sigmoid(s / temperature). "platt": p = sigmoid(slope * s + intercept). "isotonic": linear
            interpolation of rising points (scores, probabilities), constant beyond the first and the last.
        numbers: parameters of the method: "temperature"; "slope" and "intercept"; "scores" and "probabilities".
        prompt_id: fingerprint of the prompt and number of thoughts that it was fitted with.
        weights: hashes of the weights that it was fitted for, see `Reranker.weights`.
        data, split, min_rel, folds, seed: the labels it was fitted on, the smallest label that counts as relevant, and the
            cross-validation.
        queries, pairs, relevant: number of queries and of pairs, and share of relevant pairs.
        prior: share of relevant documents where the model is used; None for the share `relevant` of the labels.
        before, after: reliability measures (`reliability.figures`) of sigmoid(s), and of the calibrated held-out folds.

    Raises:
        ModelError: the numbers do not define an increasing map into 0..1.
    """

    method: str
    numbers: dict[str, Any]
    prompt_id: str = ""
    weights: list[str] = field(default_factory=list)
    data: str = ""
    split: str = ""
    min_rel: float | None = None
    folds: int = 0
    seed: int = 0
    queries: int = 0
    pairs: int = 0
    relevant: float = 0.0
    prior: float | None = None
    before: dict[str, float] = field(default_factory=dict)
    after: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        try:
            valid = _is_valid(self.method, self.numbers)
        except (KeyError, TypeError, ValueError):
            valid = False
        if not valid:
            raise ModelError(f"invalid calibration: method {self.method!r} with {str(self.numbers)[:80]}")
        if self.prior is not None:
            check_prior(self.prior)

    def apply(self, scores: np.ndarray, prior: float | None = None) -> np.ndarray:
        """Return probabilities (fp64) of raw log-odds, in the same shape. A higher score never gets a lower probability.

        Args:
            scores: log-odds.
            prior: share of relevant documents among candidates like these; None for that of the calibration. The odds of all
                documents are multiplied by the same factor, which is right if relevant documents, and others, look as they did in
                the labels and only their shares differ.

        Raises:
            ConfigError: the prior is not between 0 and 1, or the calibration does not know the share in its labels.
        """
        chosen = self.prior if prior is None else check_prior(prior)
        return self._fitted(scores) if chosen is None else shift(self._fitted(scores), self._share(), chosen)

    def estimate_prior(self, scores: np.ndarray) -> float:
        """Return the share of relevant documents among candidates with these scores, without labels.

        The estimate that makes the scores most likely, by EM (Saerens et al. 2002, doi 10.1162/089976602753284446). It needs
        hundreds of scores: those of many queries together.

        Args:
            scores: log-odds [n], n > 0.

        Raises:
            ConfigError: the calibration does not know the share in its labels.
        """
        fitted, share = self._fitted(scores), self._share()
        prior = share
        for _ in range(EM_STEPS):
            before, prior = prior, float(np.clip(shift(fitted, share, prior).mean(), SMALLEST_PRIOR, 1 - SMALLEST_PRIOR))
            if abs(prior - before) < SMALLEST_PRIOR:
                break
        return prior

    def _share(self) -> float:
        """Return the share of relevant pairs in the labels. Raises ConfigError if it is not known."""
        if not 0 < self.relevant < 1:
            raise ConfigError("this calibration does not record the share of relevant documents; run prorank calibrate again")
        return self.relevant

    def _fitted(self, scores: np.ndarray) -> np.ndarray:
        """Return probabilities among candidates like those of the labels."""
        s, numbers = np.asarray(scores, np.float64), self.numbers
        if self.method == "temperature":
            return sigmoid(s / numbers["temperature"])
        if self.method == "platt":
            return sigmoid(numbers["slope"] * s + numbers["intercept"])
        return np.interp(s, numbers["scores"], numbers["probabilities"])

    def save(self, folder: str | Path) -> Path:
        """Write `calibration.json` into a checkpoint's folder, atomically. Returns its path."""
        path = Path(folder) / FILE
        with atomic_file(path) as handle:
            json.dump(asdict(self), handle, indent=2, allow_nan=False)
            handle.write("\n")
        return path

    @classmethod
    def load(cls, folder: str | Path) -> "Calibration | None":
        """Read `calibration.json` of a checkpoint's folder; None if there is none. Raises ModelError for a damaged file."""
        path = Path(folder) / FILE
        if not path.is_file():
            return None
        try:
            return cls(**parse_json(read_text(path, raised=ModelError)))
        except (ConfigError, ModelError, TypeError, ValueError) as error:
            raise ModelError(f"{path}: not a saved calibration ({error}); delete it or run prorank calibrate again") from error

    def __str__(self) -> str:
        numbers = self.numbers
        if self.method == "temperature":
            return f"temperature {numbers['temperature']:.4g}"
        if self.method == "platt":
            return f"platt, slope {numbers['slope']:.4g}, intercept {numbers['intercept']:.4g}"
        return f"isotonic, {len(numbers['scores'])} points"


def calibration_for(folder: Path, prompt_id: str, weights: Callable[[], list[str]]) -> Calibration | None:
    """Return the calibration of a checkpoint, if it was fitted with this prompt and these weights.

    Args:
        folder: folder of the checkpoint.
        prompt_id: see `Calibration.prompt_id`.
        weights: returns the hashes of the weights; called only if there is a calibration with this prompt.

    Returns:
        The calibration, or None if there is none. If it was fitted for another prompt or other weights, None and a warning.
    """
    calibration = Calibration.load(folder)
    if calibration is None:
        return None
    other = "another prompt" if calibration.prompt_id != prompt_id else "other weights" if calibration.weights != weights() else ""
    if other:
        log.warning("%s was fitted for %s, so hits have no probabilities; run prorank calibrate for this one", folder / FILE, other)
    return None if other else calibration


def _is_valid(method: str, numbers: dict[str, Any]) -> bool:
    """Whether the numbers define an increasing map into 0..1."""
    if method == "temperature":
        return 0 < numbers["temperature"] < math.inf
    if method == "platt":
        return 0 < numbers["slope"] < math.inf and math.isfinite(numbers["intercept"])
    s, p = np.asarray(numbers["scores"], np.float64), np.asarray(numbers["probabilities"], np.float64)
    rising = np.isfinite(s).all() and (np.diff(s) > 0).all() and (np.diff(p) >= 0).all()
    return method == "isotonic" and len(s) == len(p) > 0 and bool(rising and p.min() >= 0 and p.max() <= 1)


def check_prior(prior: float) -> float:
    """Return a prior. Raises ConfigError unless it is between 0 and 1."""
    if not (isinstance(prior, (int, float)) and 0 < prior < 1):
        raise ConfigError(f"prior must be a share between 0 and 1 (of relevant documents among candidates), not {prior!r}")
    return float(prior)


def shift(probabilities: np.ndarray, share: float, prior: float) -> np.ndarray:
    """Return the probabilities of the same documents where the share of relevant ones is `prior` instead of `share`.

    By Bayes' rule the odds change by the ratio of the shares' odds. Probabilities of 0 and 1 stay.
    """
    factor = prior * (1 - share) / (share * (1 - prior))
    return factor * probabilities / (factor * probabilities + 1 - probabilities)


def sigmoid(z: np.ndarray) -> np.ndarray:
    """Return 1 / (1 + exp(-z)), without overflow."""
    return np.exp(-np.logaddexp(0.0, -np.asarray(z, np.float64)))
