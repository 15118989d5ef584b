"""Measures of a ranking against judgements, query by query, computed by ir-measures.

trec_eval ignores ranks and orders equal scores by document id. Rankings are therefore passed as strictly decreasing scores made
from the ranks, so that ties keep our order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from ..errors import ConfigError, extra
from .gains import LINEAR, check_gain, gains_of, ndcg

Ranking = dict[str, list[str]]  # query id -> document ids, best first
Qrels = Mapping[str, Mapping[str, int]]
Values = dict[str, dict[str, float]]  # measure -> query id -> value
MAIN = "nDCG@10"


def ranking_of(run: Mapping[str, Mapping[str, float]]) -> Ranking:
    """Order each query's documents by score, best first; equal scores keep the order of the mapping."""
    return {query: sorted(scores, key=lambda document: -scores[document]) for query, scores in run.items()}


def rank_scores(ranking: Ranking) -> dict[str, dict[str, float]]:
    """Return strictly decreasing scores n, n-1, ..., 1 in the order of each list."""
    return {query: {d: float(len(ids) - i) for i, d in enumerate(ids)} for query, ids in ranking.items() if ids}


def with_positive(qrels: Qrels, min_rel: int = 1) -> list[str]:
    """Return queries with a label of at least `min_rel` (and at least 1), in the order of the judgements."""
    return [query for query, judged in qrels.items() if max(judged.values(), default=0) >= max(1, min_rel)]


def names(recall_at: Sequence[int]) -> list[str]:
    """Return the names of the measures in order of display."""
    return [MAIN, "MRR@10", "MAP", *(f"R@{k}" for k in recall_at)]


def measure(
    qrels: Qrels,
    ranking: Ranking,
    queries: Iterable[str] | None = None,
    recall_at: Sequence[int] = (100,),
    min_rel: int = 1,
    gain: str = LINEAR,
) -> Values:
    """Compute nDCG@10, MRR@10, MAP and Recall@k of every query that counts.

    Args:
        qrels: graded judgements, whole numbers.
        ranking: query id -> document ids, best first. Missing queries count 0.
        queries: queries that count; all judged ones by default. nDCG is returned for those with a label above 0, the binary
            measures for those with a label of at least `min_rel`; no other query can score above 0.
        recall_at: cut-offs of recall.
        min_rel: smallest label that counts as relevant in the binary measures.
        gain: gain of a label in nDCG: "linear", the label, or "exponential", 2^label - 1.

    Returns:
        measure -> query id -> value in [0, 1].

    Raises:
        ConfigError: min_rel is below 1, or the gain is unknown.
        MissingExtra: ir-measures is not installed.
    """
    if min_rel < 1:
        raise ConfigError(f"min_rel must be at least 1, not {min_rel}")
    check_gain(gain)
    with extra("eval"):
        import ir_measures
        from ir_measures import AP, RR, R, nDCG

    graded_gain = nDCG if gain == LINEAR else nDCG(gains=_gain_table(qrels, gain))
    requested = [graded_gain @ 10, RR(rel=min_rel) @ 10, AP(rel=min_rel), *(R(rel=min_rel) @ k for k in recall_at)]
    label = dict(zip(map(str, requested), names(recall_at)))
    counting = set(qrels if queries is None else queries)
    graded = [q for q in with_positive(qrels) if q in counting]
    binary = [q for q in with_positive(qrels, min_rel) if q in counting]
    values = {name: dict.fromkeys(graded if name == MAIN else binary, 0.0) for name in label.values()}
    judged = {q: dict(qrels[q]) for q in graded}
    run = rank_scores({q: ranking[q] for q in graded if q in ranking})
    if run:
        for metric in ir_measures.iter_calc(requested, judged, run):
            of_measure = values[label[str(metric.measure)]]
            if metric.query_id in of_measure:
                of_measure[metric.query_id] = float(metric.value)
    return values


def _gain_table(qrels: Qrels, gain: str) -> dict[int, int]:
    """Return the gain of every positive label that occurs, as ir-measures expects it."""
    known = sorted({label for judged in qrels.values() for label in judged.values() if label > 0})
    return {label: int(value) for label, value in zip(known, gains_of(known, gain))}


def ndcg_of(labels: Sequence[Sequence[float]], scores: Sequence[Sequence[float] | np.ndarray], gain: str = LINEAR) -> np.ndarray:
    """Return the nDCG@10 of n lists, each relative to the best order of its own documents.

    Unlike `measure` it accepts fractional labels; for whole labels the results are equal.

    Args:
        labels: labels of each list's documents.
        scores: scores of the same documents; equal scores keep the order of the list.
        gain: "linear" or "exponential".

    Returns:
        [n] values in 0..1.
    """
    orders = [np.argsort(-np.asarray(row), kind="stable") for row in scores]
    return np.array([ndcg(np.asarray(row, np.float64)[order], gain) for row, order in zip(labels, orders, strict=True)])


def means(values: Values) -> dict[str, float]:
    """Return the mean of each measure over its queries; NaN if no query counts."""
    return {name: float(np.mean(list(by.values()))) if by else float("nan") for name, by in values.items()}
