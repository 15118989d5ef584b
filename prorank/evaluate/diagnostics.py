"""What the score alone does not show: format, ties, answers against logits, and how narrow the hidden states are.

The effective rank of n hidden states is at most n - 1 (they are centred), so compare it only between
samples of one size; models evaluated together are diagnosed on the same pairs.
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

    `pairs`: sample size. `format_rate`: share of pairs whose likeliest token is one of the two answers. `format_mass`:
    mean probability of the two answers together. `relevant_share`: share answered "relevant". `effective_rank`,
    `mean_cosine`: of the last hidden states at the answer position.
    """

    pairs: int
    format_rate: float
    format_mass: float
    relevant_share: float
    effective_rank: float
    mean_cosine: float

    def to_dict(self) -> dict[str, float]:
        return asdict(self)


def diagnose(reranker: Any, queries: Sequence[str], documents: Sequence[Sequence[str]]) -> Findings:
    """Run `reranker.diagnose` on each query's documents and sum it up.

    Raises:
        DataError: no pairs.
    """
    if not sum(map(len, documents)):
        raise DataError("nothing to diagnose: the sample holds no pairs")
    seen = reranker.diagnose(list(queries), [list(some) for some in documents])
    hidden = np.asarray(seen.hidden, np.float32)
    return Findings(
        pairs=len(hidden),
        format_rate=format_rate(seen.argmax_is_answer),
        format_mass=float(np.mean(seen.format_mass)),
        relevant_share=float(np.mean(seen.answer)),
        effective_rank=effective_rank(hidden),
        mean_cosine=mean_cosine(hidden),
    )


def format_rate(argmax_is_answer: Sequence[bool]) -> float:
    """Share of prompts whose likeliest next token is one of the two answers."""
    return float(np.mean(np.asarray(argmax_is_answer, bool)))


def tie_share(scores: Mapping[str, Sequence[float]]) -> float:
    """Share of documents whose score equals, to the last bit, that of another document of the same query."""
    tied = total = 0
    for row in scores.values():
        _, counts = np.unique(np.asarray(row), return_counts=True)
        tied, total = tied + int(counts[counts > 1].sum()), total + int(counts.sum())
    return tied / total if total else 0.0


def answers_only(scores: Sequence[float] | np.ndarray) -> np.ndarray:
    """Order of documents by the 0/1 answer alone (1 where log-odds > 0); ties keep first-stage order."""
    return np.argsort(-(np.asarray(scores) > 0).astype(np.int8), kind="stable")


def effective_rank(hidden: np.ndarray) -> float:
    """exp(entropy of s / sum(s)), s the singular values of the centred matrix [n, H] (Roy and Vetterli 2007).

    1 when all states lie on a line, min(n - 1, H) when they spread alike in all directions; 0 when they are all equal.
    """
    hidden = np.asarray(hidden, np.float64)
    singular = np.linalg.svd(hidden - hidden.mean(0), compute_uv=False)
    # What rounding leaves of zero directions must not count as directions.
    singular = singular[singular > singular.max(initial=0) * 1e-10]
    if len(singular) == 0 or singular.max() <= 1e-12 * max(1.0, np.abs(hidden).max()):
        return 0.0
    p = singular / singular.sum()
    return float(np.exp(-(p * np.log(p)).sum()))


def mean_cosine(hidden: np.ndarray) -> float:
    """Mean cosine over all pairs of rows of [n, H], not centred; near 1 is a narrow cone. NaN for one row."""
    hidden = np.asarray(hidden, np.float64)
    n = len(hidden)
    if n < 2:
        return float("nan")
    unit = hidden / np.maximum(np.linalg.norm(hidden, axis=1, keepdims=True), 1e-30)
    return float((np.square(unit.sum(0)).sum() - np.square(unit).sum()) / (n * (n - 1)))
