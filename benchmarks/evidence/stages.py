"""Compare format, accuracy, ranking and representations of the base, after the warm-up and after both stages.

All systems are evaluated on the same pairs, because effective ranks are comparable only on the same sample.

    PRORANK_DATA=... python -m benchmarks.evidence.recipe --arms "two stages" --seeds 0 1 2 --out runs/recipe
    PRORANK_DATA=... python -m benchmarks.evidence.stages --seeds 0 1 2 --out runs/recipe

It reads the runs of `recipe.py` in `--out`, and their stored scores. Accuracy is that of the answers (log-odds above 0) on judged
candidates, averaged over relevant and other ones, so a constant answer has accuracy .5.
"""

from __future__ import annotations

import argparse
from statistics import fmean
from typing import Any

import numpy as np

from benchmarks.common import MAIN, compare, loader, per_query
from benchmarks.evidence.recipe import folder
from benchmarks.jobs import Failures
from benchmarks.protocol import SAMPLE, ndcg_of, pairs_of, parsed, score_all, scored, tasks_of
from prorank.checkpoints.resolve import BUILT_IN
from prorank.evaluate.candidates import Task
from prorank.evaluate.diagnostics import tie_share
from prorank.evaluate.scoring import Scored

NAMES = ("zero-shot", "after warm-up", "two stages")
COLUMNS = ("format", "p(0)+p(1)", "accuracy", MAIN, "effective rank", "mean cosine", "ties")


def accuracy(scores: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean of the accuracies on relevant and on other documents; NaN if one kind is missing."""
    if len(set(labels)) < 2:
        return float("nan")
    return fmean(float(((scores > 0) == side)[labels == side].mean()) for side in (0, 1))


def figures(task: Task, result: Scored, top_k: int) -> dict[str, float]:
    """Return a row's figures on one set, see `COLUMNS`."""
    _, scores, labels = pairs_of(task, result)
    seen, order = result.findings, fmean(ndcg_of(task, result, top_k).values())
    values = (
        seen["format_rate"], seen["format_mass"], accuracy(scores, labels), order, seen["effective_rank"], seen["mean_cosine"],
        tie_share(result.scores),
    )  # fmt: skip
    return dict(zip(COLUMNS, values))


def line(where: str, name: str, rows: list[dict[str, float]]) -> None:
    """Print a row of the table: means over runs (and sets), without NaN."""
    means = [np.nanmean([row[c] for row in rows]) if not all(np.isnan(row[c]) for row in rows) else None for c in COLUMNS]
    print(f"| {where} | {name} | " + " | ".join("–" if m is None else f"{m:.4f}" if m < 10 else f"{m:.1f}" for m in means) + " |")


def systems(options: argparse.Namespace) -> dict[str, list[Any]]:
    """Return loaders by row: the base, and a run's stages for each seed."""
    runs = {seed: folder(options.out, "two stages", seed) for seed in options.seeds}
    load = lambda name, checkpoint: loader(name, checkpoint, options.length, "echo")  # noqa: E731
    stages = {NAMES[0]: [load(NAMES[0], options.base)]}
    stages[NAMES[1]] = [load(f"{NAMES[1]} #{seed}", f"{run}-warmup") for seed, run in runs.items()]
    stages[NAMES[2]] = [load(f"{NAMES[2]} #{seed}", run) for seed, run in runs.items()]
    return stages


def table(kind: str, tasks: list[Task], options: argparse.Namespace) -> None:
    """Score missing rows, then print the table of some sets and the tests between rows."""
    rows: dict[tuple[str, str], list[dict[str, float]]] = {}
    values: dict[str, dict[str, dict[str, dict[str, float]]]] = {task.name: {} for task in tasks}
    stages = systems(options)
    every = {f"{name} {i}": load for name, loaders in stages.items() for i, load in enumerate(loaders)}
    failures = Failures()
    score_all(tasks, every, options.out / kind, failures, options.top_k, SAMPLE)
    failures.finish()  # a row is a mean over all runs
    for name, loaders in stages.items():
        for model in (load() for load in loaders):
            for task in tasks:
                result = scored(task, model, options.out / kind, options.top_k, SAMPLE)
                rows.setdefault((task.name, name), []).append(figures(task, result, options.top_k))
                values[task.name][model.name] = {MAIN: ndcg_of(task, result, options.top_k)}
            del model  # free its memory before the next one is loaded
    print(f"| {kind} | system | " + " | ".join(COLUMNS) + " |\n|" + "---|" * (len(COLUMNS) + 2))
    for (where, name), cells in sorted(rows.items(), key=lambda item: (list(values).index(item[0][0]), NAMES.index(item[0][1]))):
        line(where, name, cells)
    for name in NAMES:
        line("mean", name, [row for task in tasks for row in rows[task.name, name]])
    zero, first, both = NAMES
    compare(per_query(values, next(iter(values.values()))), [(first, zero), (both, first), (both, zero)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", default=BUILT_IN, help="checkpoint that the runs started from")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0])
    options = parsed(parser, "runs/recipe", 256)
    for kind, tasks in tasks_of(options.lists, options.dev, options.top_k, options.limit).items():
        table(kind, tasks, options)


if __name__ == "__main__":
    main()
