"""The lists that quality is measured on, and cached scores: six open test lists for reporting, three dev sets for choosing.

Scores are kept in files and used again where weights, prompt and texts are the same, so a command that was stopped, or
is run by two processes, scores every list once for each system.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
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
SAMPLE = 128  # pairs whose hidden states are looked at
POOL = {"split": "dev", "judged_only": True}
FIXED = {"run": "protocol"}


def parsed(parser: argparse.ArgumentParser, out: str, length: int | None = None, sets: bool = True) -> argparse.Namespace:
    """Options of the command line: the parser's own and those that all tables have, with these defaults; with `sets` which lists to
    rank, too."""
    parser.add_argument("--out", type=Path, default=Path(out))
    parser.add_argument("--length", type=int, default=length, help="tokens of a prompt when it is read")
    parser.add_argument("--top-k", type=int, default=100, help="candidates reranked")
    parser.add_argument("--limit", type=int, default=None, help="queries a list (all by default)")
    parser.add_argument("--threads", type=int, default=None, help="of this process; all by default")
    if sets:
        parser.add_argument("--lists", nargs="*", default=list(PROTOCOL), help="protocol lists")
        parser.add_argument("--dev", nargs="*", default=list(DEV), help="sets whose judged pools of the dev split are ranked")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    return options


def task_of(name: str, pool: bool = False, top_k: int = 100, limit: int | None = None) -> Task:
    """A collection under PRORANK_DATA: its protocol list, or the judged pools of its dev split.

    Args:
        top_k: candidates of a query that a model orders. limit: queries (all by default).
    """
    return prepare(data_folder() / name, Options(**(POOL if pool else FIXED), top_k=top_k, limit=limit))


def tasks_of(lists: Sequence[str], dev: Sequence[str], top_k: int = 100, limit: int | None = None) -> dict[str, list[Task]]:
    """{"dev": judged pools, "lists": protocol lists}, those that are named."""
    kinds = {"dev": (dev, True), "lists": (lists, False)}
    return {kind: [task_of(name, pool, top_k, limit) for name in names] for kind, (names, pool) in kinds.items() if names}


def ndcg_of(task: Task, result: Scored | None = None, top_k: int = 100) -> dict[str, float]:
    """nDCG@10 of every query, after the model's order or, without scores, of the first stage."""
    ranking = task.ranking if result is None else reranked(task, result, top_k)
    return measure(task.qrels, ranking, task.queries)[MAIN]


def pairs_of(task: Task, result: Scored, unjudged: bool = False) -> tuple[list[str], np.ndarray, np.ndarray]:
    """(query ids, scores, labels of 0 and 1) of the scored candidates that are judged; with `unjudged` the others come with 0."""
    rows = [
        (query, score, float(task.qrels[query].get(document, 0) > 0))
        for query, scores_of_query in result.scores.items()
        for document, score in zip(result.heads[query], scores_of_query)
        if unjudged or document in task.qrels[query]
    ]
    return [q for q, *_ in rows], np.array([s for _, s, _ in rows]), np.array([label for *_, label in rows])


def scored(task: Task, model: Any, out: Path, top_k: int = 100, sample: int = 0, wait: bool = True) -> Scored | None:
    """A task's candidates scored by a model, from `out/scores` where `prorank.evaluate` or an earlier call left them.

    Args:
        sample: pairs whose hidden states are looked at.
        wait: for another process that is at these scores; without it the answer is None then.
    """
    keep = out / "scores" / f"{task.name}.{slug(model.name)}.json"
    with claimed(keep, wait) as is_ours:
        if not is_ours:
            return None
        result = score(model, task, top_k, sample, 0, keep, None)
    if not result.reused:
        say(f"{task.name} · {model.name}: {result.documents} documents in {result.seconds:.0f} s")
    return result


def score_all(
    tasks: Sequence[Task], systems: dict[str, Callable[[], Any]], out: Path, failures: Failures, top_k: int = 100, sample: int = 0
) -> dict[str, Callable[[], Any]]:
    """Score every list by every system; returns the systems that did not fail. Processes that do the same share the work and wait
    for each other at the end."""
    left = [(name, list(tasks)) for name in systems]
    for wait in (False, True):
        again = []
        for name, tasks_left in left:
            with failures.arm(name):
                model = systems[name]()
                missing = [task for task in tasks_left if scored(task, model, out, top_k, sample, wait) is None]
                del model  # before the next one is loaded
                again += [(name, missing)] if missing else []
        left = again
    return {name: load for name, load in systems.items() if name not in failures}
