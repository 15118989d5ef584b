"""Makes the Answer of a finished job: client scores, probabilities, truncation and times."""

from __future__ import annotations

import time

import numpy as np

from ..checkpoints.calibration import sigmoid
from ..reranker import Reranker
from .job import RerankJob
from .messages import Answer, RerankQuery, ScoreKind, StageSeconds


def make_answer(reranker: Reranker, job: RerankJob, begin: float, tokenization_seconds: float) -> Answer:
    """Collect the results of a finished job.

    Args:
        reranker: the model that scored it.
        job: the finished job.
        begin: time of arrival (`perf_counter`).
        tokenization_seconds: duration of encoding its prompts.
    """
    lists = range(len(job.texts))
    scores = [np.array(job.by_document(job.scores[i], i), np.float32) for i in lists]
    probabilities = _probabilities(reranker, job.rerank_query, scores)
    kind, client_scores = _client_scores(reranker, job.rerank_query.raw_scores, scores, probabilities)
    return Answer(
        scores, client_scores, kind, probabilities,
        thoughts=[job.by_document(job.thoughts[i], i) for i in lists],
        truncated=[[document for document, at in enumerate(job.text_indices[i]) if at in job.truncated[i]] for i in lists],
        num_truncated_queries=len(job.truncated_queries),
        num_stored=sum(at in job.stored[i] for i in lists for at in job.text_indices[i]),
        tokens=job.tokens, seconds=_seconds(job, begin, tokenization_seconds),
    )  # fmt: skip


def _seconds(job: RerankJob, begin: float, tokenization: float) -> StageSeconds:
    queued = job.started_at - job.queued_at if job.started_at else 0.0
    return StageSeconds(tokenization, queued, job.inference_seconds, total=time.perf_counter() - begin)


def _probabilities(reranker: Reranker, rerank_query: RerankQuery, scores: list[np.ndarray]) -> list[np.ndarray]:
    """Return calibrated probabilities, or []. The probability of a document in chunks is that of its best chunk."""
    if reranker.compares_documents:
        return []
    lists = [reranker.probabilities(values, rerank_query.instruction) for values in scores]
    return [values for values in lists if values is not None]  # either all are None or none is


def _client_scores(
    reranker: Reranker, raw: bool, scores: list[np.ndarray], probabilities: list[np.ndarray]
) -> tuple[ScoreKind, list[np.ndarray]]:
    """Return the scores for the client, and their kind."""
    if raw:
        return "place" if reranker.compares_documents else "log-odds", [values.astype(np.float64) for values in scores]
    if reranker.compares_documents:
        return "place", [1.0 + values.astype(np.float64) / max(1, len(values)) for values in scores]
    if probabilities:
        return "probability", probabilities
    return "sigmoid", [sigmoid(values.astype(np.float64)) for values in scores]
