"""Teacher scores for lists that have none: query likelihood of the base, BM25, a bi-encoder, a reranker, or their mean.

They are computed once per run. Query likelihood needs no labels, and the untrained base ranks much better by it than by its answers
"0" or "1".
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..checkpoints.resolve import resolve
from ..data.examples import Group
from ..errors import DataError, ModelError
from ..rank.bi_encoder import bi_encoder
from ..rank.documents import DocumentProgress
from ..rank.text_encoders import KIND, check_bi_encoder
from ..reranker import Reranker
from ..utils.files import atomic_file
from .settings.common_settings import teachers_of

Scores = list[list[float]]
RERANKER = "reranker:"


def with_teacher(
    groups: list[Group], teacher: str, run: Path, model: torch.nn.Module, tokenizer: Any, progress: Callable[[int], None] | None
) -> list[Group]:
    """Add teacher scores to groups.

    Args:
        groups: queries with candidates.
        teacher: see `Score.teacher`.
        run: run folder, where `teacher.json` caches the scores for the same texts.
        model, tokenizer: model and tokenizer of the base, for query likelihood.
        progress: called with the number of documents scored.

    Raises:
        DataError, ModelError: scores are missing or not finite.
    """
    if teacher == "data":
        check_teacher_scores(groups)
        return groups
    kept = run / "teacher.json"
    texts = hashlib.sha256(json.dumps([(g.query, g.documents) for g in groups]).encode()).hexdigest()
    if kept.is_file():
        stored = json.loads(kept.read_text(encoding="utf-8"))
        if (stored["teacher"], stored.get("texts")) == (teacher, texts):
            return _join(groups, stored["scores"])
    parts = [_finite(_compute(groups, part, model, tokenizer, progress), part) for part in teachers_of(teacher)]
    scores = _mean(parts) if len(parts) > 1 else parts[0]
    with atomic_file(kept) as handle:
        json.dump({"teacher": teacher, "texts": texts, "scores": scores}, handle, allow_nan=False)
    return _join(groups, scores)


def _finite(scores: Scores, teacher: str) -> Scores:
    """Return the scores. Raises ModelError if one is not finite."""
    if not all(np.isfinite(row).all() for row in scores):
        raise ModelError(f"teacher {teacher}: a score is not finite; its weights are damaged, use another teacher")
    return scores


def _mean(parts: list[Scores]) -> Scores:
    """Return the mean of several teachers, each divided by the standard deviation of its scores within lists.

    There is one divisor per teacher, so lists with small differences keep them.
    """
    scaled = []
    for scores in parts:
        spread = np.concatenate([np.subtract(row, np.mean(row)) for row in scores]).std()
        scaled.append([[value / (spread or 1.0) for value in row] for row in scores])
    return [np.mean(rows, 0).tolist() for rows in zip(*scaled)]


def check_teacher(groups: list[Group], teacher: str | None) -> None:
    """Raise DataError or ModelError if a teacher is missing: scores in the data, a bi-encoder's folder or a checkpoint."""
    if teacher == "data":
        check_teacher_scores(groups)
    for part in teachers_of(teacher):
        if part.startswith(KIND):
            check_bi_encoder(part)
        elif part.startswith(RERANKER):
            resolve(part.removeprefix(RERANKER))


def check_teacher_scores(groups: list[Group]) -> None:
    """Raise DataError if the data lack teacher scores or have scores that are not finite."""
    missing = next((g for g in groups if g.teacher is None), None)
    if missing:
        raise DataError(f"teacher: data, but query '{missing.query[:60]}' has no scores; add pos_scores and neg_scores")
    broken = next((g for g in groups if not np.isfinite(g.teacher or ()).all()), None)
    if broken:
        raise DataError(f"teacher: data, but query '{broken.query[:60]}' has scores that are not finite (pos_scores, neg_scores)")


def _join(groups: list[Group], scores: Scores) -> list[Group]:
    return [replace(group, teacher=tuple(row)) for group, row in zip(groups, scores)]


def _compute(
    groups: list[Group], teacher: str, model: torch.nn.Module, tokenizer: Any, progress: Callable[[int], None] | None
) -> Scores:
    if teacher == "bm25":
        return _bm25(groups)
    if teacher.startswith(KIND):
        encoder = bi_encoder(teacher, str(next(model.parameters()).device))
        return [row.tolist() for row in encoder([g.query for g in groups], [g.documents for g in groups], progress)]
    if teacher.startswith(RERANKER):
        return _reranker(groups, teacher.removeprefix(RERANKER), str(next(model.parameters()).device))
    from ..rank.likelihood import query_likelihood

    rows = query_likelihood(model, tokenizer, [g.query for g in groups], [g.documents for g in groups], 384, progress)
    # Multiply the mean log-probabilities, whose differences are small, by the query's length: log-probabilities of the whole query.
    lengths = [len(tokenizer(g.query, add_special_tokens=False)["input_ids"]) for g in groups]
    return [[float(x) * n for x in row] for row, n in zip(rows, lengths)]


def _bm25(groups: list[Group]) -> Scores:
    from ..data.bm25 import score_lists

    return [row.tolist() for row in score_lists([g.query for g in groups], [g.documents for g in groups])]


def _reranker(groups: list[Group], folder: str, device: str) -> Scores:
    """Return the log-odds of a checkpoint, as in ranking; a thinking model thinks about every document."""
    reranker = Reranker(folder, device=device)
    with DocumentProgress(sys.stderr.isatty(), sum(len(g.documents) for g in groups)) as progress:
        rows = reranker.score_lists([g.query for g in groups], [list(g.documents) for g in groups], progress=progress)
    return [row.tolist() for row in rows]
