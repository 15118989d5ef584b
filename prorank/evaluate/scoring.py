"""Score a task's candidates with one model, time it, and keep the raw scores for a later call.

Kept scores are used again only where the model's fingerprint and all texts are the same, by SHA-256. A
fingerprint must tell weights, prompt and dtype; a model that has none is scored anew.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ModelError
from ..utils.files import atomic_file
from ..utils.strict_json import dumps
from .candidates import Task, by_hash
from .diagnostics import answers_only, diagnose
from .measures import Ranking

Progress = Callable[[int], None]
COUNTERS = ("cuts", "cost")  # of a Reranker


@dataclass(frozen=True)
class Scorer:
    """Any function that scores lists, under a name; for baselines such as query likelihood.

    `score_lists(queries, documents, progress=None)` returns one array a query. `fingerprint` changes with whatever changes a score;
    without one, scores are not kept. A Reranker is a scorer already.
    """

    name: str
    score_lists: Callable[..., list[np.ndarray]]
    fingerprint: str | None = None


@dataclass
class Scored:
    """Raw scores of each query's candidates that have a text, in first-stage order, and what they cost."""

    scores: dict[str, list[float]]
    seconds: float
    cuts: dict[str, int] | None = None
    cost: dict[str, float] | None = None
    findings: dict[str, float] | None = None
    reused: bool = False
    heads: dict[str, list[str]] = field(default_factory=dict)
    untold: int = 0  # candidates without text

    @property
    def documents(self) -> int:
        return sum(map(len, self.scores.values()))


def score(model: Any, task: Task, top_k: int, sample: int, seed: int, keep: Path | None, progress: Progress | None) -> Scored:
    """Score the first `top_k` candidates of every query.

    Args:
        model: has `name` and `score_lists(queries, documents, progress=)`; with `diagnose`, `sample` pairs are seen.
        task: the dataset.
        sample: pairs for the diagnosis; 0 for none.
        seed: of the sample.
        keep: file for the raw scores, read where the model has a `fingerprint` and all texts are equal.
        progress: hears of n more documents.

    Raises:
        ModelError: wrong number of scores, or a score that is not finite.
    """
    heads = {q: task.head(q, top_k) for q in task.queries}
    texts = {q: [task.text(d) for d in head] for q, (head, _) in heads.items() if head}
    key = _key(model, [task.collection.queries[q] for q in texts], list(texts.values()))
    found = _kept(keep, key, [sample, seed]) or _score(model, task, texts, sample, seed, progress)
    found.heads = {q: head for q, (head, _) in heads.items()}
    found.untold = sum(len(bare) for _, bare in heads.values())
    if keep and not found.reused:
        _keep(keep, key, [sample, seed], found)
    return found


def _score(model: Any, task: Task, texts: dict[str, list[str]], sample: int, seed: int, progress: Progress | None) -> Scored:
    queries = [task.collection.queries[q] for q in texts]
    before, start = [_counted(model, name) for name in COUNTERS], time.perf_counter()
    rows = model.score_lists(queries, list(texts.values()), progress=progress)
    seconds = time.perf_counter() - start
    cuts, cost = (_since(old, _counted(model, name)) for old, name in zip(before, COUNTERS))
    _check(model.name, task, texts, rows)
    scores = {q: [float(x) for x in row] for q, row in zip(texts, rows)}
    findings = None
    if sample and getattr(model, "can_diagnose", hasattr(model, "diagnose")):
        some = _sample(texts, sample, seed)
        findings = diagnose(model, [task.collection.queries[q] for q in some], list(some.values())).to_dict()
    return Scored(scores, seconds, cuts, cost, findings)


def _check(name: str, task: Task, texts: dict[str, list[str]], rows: Sequence[np.ndarray]) -> None:
    if len(rows) != len(texts) or any(len(row) != len(some) for row, some in zip(rows, texts.values())):
        raise ModelError(f"{name}: score_lists must return one score a document, one list a query ({task.name})")
    for query, row in zip(texts, rows):
        if not np.isfinite(np.asarray(row)).all():
            raise ModelError(f"{name}: a score is not finite ({task.name}, query {query}); try dtype fp32")


def _counted(model: Any, name: str) -> dict[str, Any] | None:
    """What a model has counted so far under this name."""
    counter = getattr(model, name, None)
    return asdict(counter) if is_dataclass(counter) and not isinstance(counter, type) else None


def _since(before: dict[str, Any] | None, after: dict[str, Any] | None) -> dict[str, Any] | None:
    return None if after is None else {name: value - (before or {}).get(name, 0) for name, value in after.items()}


def _sample(texts: dict[str, list[str]], pairs: int, seed: int) -> dict[str, list[str]]:
    """About `pairs` documents of queries in hash order, at most 8 a query, spread evenly over its candidates."""
    some: dict[str, list[str]] = {}
    for query in by_hash(list(texts), seed):
        left = pairs - sum(map(len, some.values()))
        if left <= 0:
            break
        places = np.unique(np.linspace(0, len(texts[query]) - 1, min(8, left, len(texts[query]))).astype(int))
        some[query] = [texts[query][i] for i in places]
    return some


def reranked(task: Task, scored: Scored, top_k: int, answers: bool = False) -> Ranking:
    """Rankings after the model: its order, then candidates without text, then the rest of the first stage in its order.

    `answers` orders by the 0/1 answer alone. Ties keep first-stage order.
    """
    ranking = {}
    for query, first in task.ranking.items():
        head = scored.heads.get(query, [])
        row = np.asarray(scored.scores.get(query, []))
        order = answers_only(row) if answers else np.argsort(-row, kind="stable")
        bare = [d for d in first[:top_k] if not task.text(d)]
        ranking[query] = [head[i] for i in order] + bare + first[top_k:]
    return ranking


def _key(model: Any, queries: list[str], documents: list[list[str]]) -> str | None:
    fingerprint = getattr(model, "fingerprint", None)
    if not fingerprint:
        return None
    said = json.dumps([str(fingerprint), queries, documents], ensure_ascii=True)
    return hashlib.sha256(said.encode()).hexdigest()


def _kept(path: Path | None, key: str | None, sample: list[int]) -> Scored | None:
    """Scores of the same weights, prompt and texts; where a sample is asked for, it must be the same, too."""
    if not (path and key and path.is_file()):
        return None
    kept = json.loads(path.read_text(encoding="utf-8"))
    if kept.get("key") != key or (sample[0] and kept.get("sample") != sample):
        return None
    findings = kept["findings"] if sample[0] else None
    return Scored(kept["scores"], kept["seconds"], kept["cuts"], kept.get("cost"), findings, reused=True)


def _keep(path: Path, key: str | None, sample: list[int], scored: Scored) -> None:
    kept = {name: getattr(scored, name) for name in ("seconds", "cuts", "cost", "findings", "scores")}
    kept |= {"key": key, "sample": sample}
    with atomic_file(path) as handle:
        handle.write(dumps(kept))
