"""Lists for measuring quality, and cached scores: six open test lists for reporting, three dev sets for decisions.

Scores are stored in files and reused if weights, prompt and texts are the same. So an interrupted command, or one that runs in two
processes, scores every list once per system.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch

from benchmarks.common import MAIN, data_folder, say
from benchmarks.jobs import Failures, claimed
from prorank.evaluate.candidates import Options, Task, prepare
from prorank.evaluate.measures import measure
from prorank.evaluate.scoring import Scored, reranked, score
from prorank.evaluate.system_names import slug

PROTOCOL = ("dl19", "dl20", "scifact", "cranfield", "npl_vaswani", "dbpedia50")
DEV = ("trecqa", "wikiqa", "semeval_cqa_answers")  # judged pools of their dev splits
SAMPLE = 128  # number of pairs for measures of hidden states
POOL = {"split": "dev", "judged_only": True}
FIXED = {"run": "protocol"}


def parsed(parser: argparse.ArgumentParser, out: str, length: int | None = None, sets: bool = True) -> argparse.Namespace:
    """Parse the command line: the parser's options and those of all tables, with these defaults; with `sets` also the lists."""
    parser.add_argument("--out", type=Path, default=Path(out))
    parser.add_argument("--length", type=int, default=length, help="maximum tokens of a prompt in ranking")
    parser.add_argument("--top-k", type=int, default=100, help="candidates reranked")
    parser.add_argument("--limit", type=int, default=None, help="queries per list (all by default)")
    parser.add_argument("--threads", type=int, default=None, help="threads of this process; all by default")
    if sets:
        parser.add_argument("--lists", nargs="*", default=list(PROTOCOL), help="protocol lists")
        parser.add_argument("--dev", nargs="*", default=list(DEV), help="sets to rank by the judged pools of their dev split")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    return options


def task_of(name: str, pool: bool = False, top_k: int = 100, limit: int | None = None) -> Task:
    """Return a collection in PRORANK_DATA: its protocol list, or the judged pools of its dev split.

    Args:
        name: name of the collection.
        pool: whether to use the judged pools.
        top_k: number of candidates per query that a model orders.
        limit: number of queries (all by default).
    """
    return prepare(data_folder() / name, Options(**(POOL if pool else FIXED), top_k=top_k, limit=limit))


def tasks_of(lists: Sequence[str], dev: Sequence[str], top_k: int = 100, limit: int | None = None) -> dict[str, list[Task]]:
    """Return {"dev": judged pools, "lists": protocol lists} with these names."""
    kinds = {"dev": (dev, True), "lists": (lists, False)}
    return {kind: [task_of(name, pool, top_k, limit) for name in names] for kind, (names, pool) in kinds.items() if names}


def ndcg_of(task: Task, result: Scored | None = None, top_k: int = 100) -> dict[str, float]:
    """Return the nDCG@10 of every query in the model's order or, without scores, of the first stage."""
    ranking = task.ranking if result is None else reranked(task, result, top_k)
    return measure(task.qrels, ranking, task.queries)[MAIN]


def pairs_of(task: Task, result: Scored, unjudged: bool = False) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Return (query ids, scores, labels of 0 and 1) of scored, judged candidates; with `unjudged` the others have label 0."""
    rows = [
        (query, score, float(task.qrels[query].get(document, 0) > 0))
        for query, scores_of_query in result.scores.items()
        for document, score in zip(result.heads[query], scores_of_query)
        if unjudged or document in task.qrels[query]
    ]
    return [q for q, *_ in rows], np.array([s for _, s, _ in rows]), np.array([label for *_, label in rows])


def accuracy(scores: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean of the accuracies on relevant and on other documents; NaN if one kind is missing."""
    if len(set(labels)) < 2:
        return float("nan")
    return fmean(float(((scores > 0) == side)[labels == side].mean()) for side in (0, 1))


def scored(task: Task, model: Any, out: Path, top_k: int = 100, sample: int = 0, wait: bool = True) -> Scored | None:
    """Score a task's candidates with a model, or read the scores of `prorank.evaluate` or an earlier call from `out/scores`.

    Args:
        task: the task.
        model: the model.
        out: folder of the scores.
        top_k: number of candidates per query.
        sample: number of pairs for measures of hidden states.
        wait: wait for another process that computes these scores; otherwise return None in this case.
    """
    keep = scores_file(task, model.name, out)
    with claimed(keep, wait) as is_ours:
        if not is_ours:
            return None
        result = score(model, task, top_k, sample, 0, keep, None)
    if not result.reused:
        say(f"{task.name} · {model.name}: {result.documents} documents in {result.seconds:.0f} s")
    return result


def scores_file(task: Task, name: str, out: Path) -> Path:
    """Return the file of a model's scores."""
    return out / "scores" / f"{task.name}.{slug(name)}.json"


def are_stored(tasks: Sequence[Task], names: Sequence[str], out: Path) -> bool:
    """Whether scores of all of these models are stored for all tasks."""
    return all(scores_file(task, name, out).is_file() for task in tasks for name in names)


def stored(task: Task, name: str, out: Path, top_k: int = 100) -> Scored:
    """Return the scores of a model that `scored` wrote, without the model: they may come from another machine.

    Exits if they are of other queries than the task's.
    """
    path = scores_file(task, name, out)
    content = json.loads(path.read_text(encoding="utf-8"))
    if set(content["scores"]) != set(task.queries):
        raise SystemExit(f"{path}: scores of {len(content['scores'])} queries, but the task has {len(task.queries)}; see --limit")
    heads = {query: task.head(query, top_k)[0] for query in content["scores"]}
    return Scored(content["scores"], content["seconds"], content["cuts"], content["cost"], content["findings"], True, heads)


def score_all(
    tasks: Sequence[Task], systems: dict[str, Callable[[], Any]], out: Path, failures: Failures, top_k: int = 100, sample: int = 0
) -> dict[str, Callable[[], Any]]:
    """Score every list with every system. Returns the systems that did not fail.

    Processes with the same call share the work and wait for each other at the end.
    """
    left = [(name, list(tasks)) for name in systems]
    for wait in (False, True):
        again = []
        for name, tasks_left in left:
            with failures.arm(name):
                model = systems[name]()
                missing = [task for task in tasks_left if scored(task, model, out, top_k, sample, wait) is None]
                del model  # free its memory before the next one is loaded
                again += [(name, missing)] if missing else []
        left = again
    return {name: load for name, load in systems.items() if name not in failures}
