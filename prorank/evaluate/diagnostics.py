"""Diagnostics of a model besides its ranking quality: format rate, ties, 0/1 answers, and the spread of its hidden states.

The effective rank of n centred hidden states is at most n - 1, so compare it only between samples of the same size. Models that
are evaluated together are diagnosed on the same pairs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..errors import DataError


@dataclass(frozen=True)
class Findings:
    """Figures of one model on a sample of pairs.

    Attributes:
        pairs: sample size.
        format_rate: share of pairs whose most probable token is one of the two answers.
        format_mass: mean probability of the two answers together.
        relevant_share: share of pairs answered "relevant".
        effective_rank, mean_cosine: measures of the last hidden states at the answer position.
    """

    pairs: int
    format_rate: float
    format_mass: float
    relevant_share: float
    effective_rank: float
    mean_cosine: float

    def to_dict(self) -> dict[str, float]:
        """Return the figures by name."""
        return asdict(self)


def diagnose(reranker: Any, queries: Sequence[str], documents: Sequence[Sequence[str]]) -> Findings:
    """Run `reranker.diagnose` on each query's documents and average the results.

    Args:
        reranker: has `diagnose(queries, documents)`.
        queries: [n] texts.
        documents: [n] lists of texts.

    Raises:
        DataError: there are no pairs.
    """
    if not sum(map(len, documents)):
        raise DataError("nothing to diagnose: the sample has no pairs")
    diagnosis = reranker.diagnose(list(queries), [list(texts) for texts in documents])
    hidden = np.asarray(diagnosis.hidden, np.float32)
    return Findings(
        pairs=len(hidden),
        format_rate=format_rate(diagnosis.argmax_is_answer),
        format_mass=float(np.mean(diagnosis.format_mass)),
        relevant_share=float(np.mean(diagnosis.answer)),
        effective_rank=effective_rank(hidden),
        mean_cosine=mean_cosine(hidden),
    )


def format_rate(argmax_is_answer: Sequence[bool]) -> float:
    """Return the share of prompts whose most probable next token is one of the two answers."""
    return float(np.mean(np.asarray(argmax_is_answer, bool)))


def tie_share(scores: Mapping[str, Sequence[float]]) -> float:
    """Return the share of documents with exactly the score of another document of the same query."""
    tied = total = 0
    for row in scores.values():
        _, counts = np.unique(np.asarray(row), return_counts=True)
        tied, total = tied + int(counts[counts > 1].sum()), total + int(counts.sum())
    return tied / total if total else 0.0


def answers_only(scores: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return the order [n] of documents by the 0/1 answer only (1 if the log-odds are above 0); ties keep first-stage order."""
    return np.argsort(-(np.asarray(scores) > 0).astype(np.int8), kind="stable")


def effective_rank(hidden: np.ndarray) -> float:
    """Return the effective rank of hidden states: exp(entropy of s / sum(s)), s the singular values of the centred matrix.

    Args:
        hidden: hidden states [n, H].

    Returns:
        1 if all states lie on a line, min(n - 1, H) if they spread equally in all directions, 0 if all are equal.

    Source: Roy and Vetterli, The effective rank (2007).
    """
    hidden = np.asarray(hidden, np.float64)
    singular = np.linalg.svd(hidden - hidden.mean(0), compute_uv=False)
    # Rounding errors make singular values of 0 tiny numbers.
    singular = singular[singular > singular.max(initial=0) * 1e-10]
    if len(singular) == 0 or singular.max() <= 1e-12 * max(1.0, np.abs(hidden).max()):
        return 0.0
    p = singular / singular.sum()
    return float(np.exp(-(p * np.log(p)).sum()))


def mean_cosine(hidden: np.ndarray) -> float:
    """Return the mean cosine over all pairs of rows of `hidden` [n, H], not centred; near 1 for a narrow cone, NaN for one row."""
    hidden = np.asarray(hidden, np.float64)
    n = len(hidden)
    if n < 2:
        return float("nan")
    directions = hidden / np.maximum(np.linalg.norm(hidden, axis=1, keepdims=True), 1e-30)
    return float((np.square(directions.sum(0)).sum() - np.square(directions).sum()) / (n * (n - 1)))
