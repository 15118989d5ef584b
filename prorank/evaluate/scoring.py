"""Score a task's candidates with one model, time it, and cache the raw scores for a later call.

Cached scores are reused only if the model's fingerprint and all texts are the same, by SHA-256. A fingerprint must cover weights,
prompt and dtype; scores of a model without one are not cached.
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
COUNTERS = ("cuts", "cost")  # attributes of a Reranker
MAX_SAMPLED_DOCUMENTS = 8  # documents of one query in the diagnosed sample


@dataclass(frozen=True)
class Scorer:
    """A named function that scores lists, for baselines such as query likelihood. A Reranker needs no Scorer.

    Attributes:
        name: name in tables and file names.
        score_lists: called as `score_lists(queries, documents, progress=None)`; returns one array of scores per query.
        fingerprint: text that changes whenever scores may change; without one, scores are not cached.
    """

    name: str
    score_lists: Callable[..., list[np.ndarray]]
    fingerprint: str | None = None


@dataclass
class Scored:
    """Raw scores of the candidates that have a text, and their cost.

    Attributes:
        scores: query id -> scores in first-stage order.
        seconds: wall-clock time of scoring.
        cuts, cost: the model's counts of truncated texts and of tokens during scoring; None if it does not count.
        findings: diagnosis of a sample (`diagnostics.Findings`).
        reused: whether the scores come from an earlier call.
        heads: query id -> ids of the documents that were scored.
        without_text: number of candidates without text, which were not scored.
    """

    scores: dict[str, list[float]]
    seconds: float
    cuts: dict[str, int] | None = None
    cost: dict[str, float] | None = None
    findings: dict[str, float] | None = None
    reused: bool = False
    heads: dict[str, list[str]] = field(default_factory=dict)
    without_text: int = 0

    @property
    def documents(self) -> int:
        """Number of documents that were scored."""
        return sum(map(len, self.scores.values()))


def score(model: Any, task: Task, top_k: int, sample: int, seed: int, cache: Path | None, progress: Progress | None) -> Scored:
    """Score the first `top_k` candidates of every query.

    Args:
        model: has `name` and `score_lists(queries, documents, progress=)`; with `diagnose`, a sample is diagnosed.
        task: the dataset.
        top_k: number of candidates per query.
        sample: number of pairs of the diagnosis; 0 for none.
        seed: seed of the sample.
        cache: file of raw scores, read and written for models with a `fingerprint`.
        progress: called with the number of documents scored since its last call.

    Raises:
        ModelError: the number of scores is wrong, or a score is not finite.
    """
    heads = {q: task.head(q, top_k) for q in task.queries}
    texts = {q: [task.text(d) for d in head] for q, (head, _) in heads.items() if head}
    key = _cache_key(model, [task.collection.queries[q] for q in texts], list(texts.values()))
    scored = _read_cache(cache, key, [sample, seed]) or _score(model, task, texts, sample, seed, progress)
    scored.heads = {q: head for q, (head, _) in heads.items()}
    scored.without_text = sum(len(bare) for _, bare in heads.values())
    if cache and not scored.reused:
        _write_cache(cache, key, [sample, seed], scored)
    return scored


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
        sampled = _sample(texts, sample, seed)
        findings = diagnose(model, [task.collection.queries[q] for q in sampled], list(sampled.values())).to_dict()
    return Scored(scores, seconds, cuts, cost, findings)


def _check(name: str, task: Task, texts: dict[str, list[str]], rows: Sequence[np.ndarray]) -> None:
    """Raise ModelError for a wrong number of scores or a score that is not finite."""
    if len(rows) != len(texts) or any(len(row) != len(documents) for row, documents in zip(rows, texts.values())):
        raise ModelError(f"{name}: score_lists must return one score per document, one list per query ({task.name})")
    for query, row in zip(texts, rows):
        if not np.isfinite(np.asarray(row)).all():
            raise ModelError(f"{name}: a score is not finite ({task.name}, query {query}); try dtype fp32")


def _counted(model: Any, name: str) -> dict[str, Any] | None:
    """Return the state of a model's counter of this name; None if it has none."""
    counter = getattr(model, name, None)
    return asdict(counter) if is_dataclass(counter) and not isinstance(counter, type) else None


def _since(before: dict[str, Any] | None, after: dict[str, Any] | None) -> dict[str, Any] | None:
    return None if after is None else {name: value - (before or {}).get(name, 0) for name, value in after.items()}


def _sample(texts: dict[str, list[str]], pairs: int, seed: int) -> dict[str, list[str]]:
    """Sample about `pairs` documents: queries in hash order, at most 8 documents of each, evenly spaced in its candidates."""
    sampled: dict[str, list[str]] = {}
    for query in by_hash(list(texts), seed):
        left = pairs - sum(map(len, sampled.values()))
        if left <= 0:
            break
        count = min(MAX_SAMPLED_DOCUMENTS, left, len(texts[query]))
        places = np.unique(np.linspace(0, len(texts[query]) - 1, count).astype(int))
        sampled[query] = [texts[query][i] for i in places]
    return sampled


def reranked(task: Task, scored: Scored, top_k: int, answers: bool = False) -> Ranking:
    """Return rankings by a model: its order, then candidates without text, then the rest of the first stage.

    Args:
        task: the dataset.
        scored: the model's scores of it.
        top_k: number of candidates that it scored.
        answers: order by the 0/1 answer only. Ties keep first-stage order.
    """
    ranking = {}
    for query, first in task.ranking.items():
        head = scored.heads.get(query, [])
        row = np.asarray(scored.scores.get(query, []))
        order = answers_only(row) if answers else np.argsort(-row, kind="stable")
        bare = [d for d in first[:top_k] if not task.text(d)]
        ranking[query] = [head[i] for i in order] + bare + first[top_k:]
    return ranking


def _cache_key(model: Any, queries: list[str], documents: list[list[str]]) -> str | None:
    """Return the SHA-256 of the model's fingerprint and all texts; None for a model without fingerprint."""
    fingerprint = getattr(model, "fingerprint", None)
    if not fingerprint:
        return None
    content = json.dumps([str(fingerprint), queries, documents], ensure_ascii=True)
    return hashlib.sha256(content.encode()).hexdigest()


def _read_cache(path: Path | None, key: str | None, sample: list[int]) -> Scored | None:
    """Return cached scores with this key. If a diagnosis is requested, its sample must be the same, too."""
    if not (path and key and path.is_file()):
        return None
    cached = json.loads(path.read_text(encoding="utf-8"))
    if cached.get("key") != key or (sample[0] and cached.get("sample") != sample):
        return None
    findings = cached["findings"] if sample[0] else None
    return Scored(cached["scores"], cached["seconds"], cached["cuts"], cached.get("cost"), findings, reused=True)


def _write_cache(path: Path, key: str | None, sample: list[int], scored: Scored) -> None:
    content = {name: getattr(scored, name) for name in ("seconds", "cuts", "cost", "findings", "scores")}
    with atomic_file(path) as handle:
        handle.write(dumps(content | {"key": key, "sample": sample}))
