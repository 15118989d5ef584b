"""Draw the curves of table b over the number of labelled queries, from the scores that `recipe --evaluate` stored.

    python -m benchmarks.evidence.few_labels runs/few-64 runs/few-256 runs/few-1024 --picture docs/pictures/few-labels.png

The folders' names end with the number of queries. Prints a line per number, with a paired test of the first arm against the second.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks.common import compare
from benchmarks.evidence.recipe import ARMS
from benchmarks.protocol import PROTOCOL, are_stored, ndcg_of, stored, task_of
from prorank.evaluate.candidates import Task
from prorank.evaluate.reliability import pyplot
from prorank.utils.files import atomic_file

SEEDS = range(3)
BM25 = "BM25"
Curves = dict[str, dict[int, np.ndarray]]  # arm -> number of labelled queries -> nDCG@10 [runs, test queries]


def values_of(folder: Path, arm: str, tasks: Sequence[Task], top_k: int) -> np.ndarray:
    """Return nDCG@10 [runs, test queries] of an arm's runs whose scores are stored in a folder."""
    out, rows = folder / "lists", []
    for name in (f"{arm} #{seed}" for seed in SEEDS):
        if are_stored(tasks, [name], out):
            rows.append([v for task in tasks for v in ndcg_of(task, stored(task, name, out, top_k), top_k).values()])
    return np.array(rows)


def draw(curves: Curves, first: float, picture: Path) -> None:
    """Draw each arm's mean over runs and test queries, with a mark per run and BM25 as a line."""
    plots = pyplot()
    figure, axes = plots.subplots(figsize=(6, 3.6), layout="constrained")
    for arm, points in curves.items():
        line = axes.plot(list(points), [rows.mean() for rows in points.values()], marker="o", label=arm)[0]
        for labels, rows in points.items():
            axes.scatter([labels] * len(rows), rows.mean(1), s=12, alpha=0.5, color=line.get_color())
    axes.axhline(first, color="grey", linestyle="--", label=BM25)
    axes.set_xscale("log", base=2)
    ticks = sorted({labels for points in curves.values() for labels in points})
    axes.set_xticks(ticks, list(map(str, ticks)))
    axes.set_xlabel("labelled queries")
    axes.set_ylabel("nDCG@10")
    axes.legend(frameon=False)
    with atomic_file(picture, "wb") as handle:
        figure.savefig(handle, format="png", dpi=120)
    plots.close(figure)


def report(curves: Mapping[str, Mapping[int, np.ndarray]], arms: Sequence[str]) -> None:
    """Print the means of the arms and the test of the first two, for each number of labelled queries."""
    for labels in sorted(set.intersection(*(set(curves[arm]) for arm in arms))):
        means = {arm: curves[arm][labels].mean(0) for arm in arms}
        shown = ", ".join(f"{arm} {row.mean():.4f} ({len(curves[arm][labels])} runs)" for arm, row in means.items())
        print(f"{labels} labelled queries: {shown}")
        compare(means, [(arms[0], arms[1])])


def main() -> None:
    """Print the figures and draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path, help="folders of recipe --queries N, named ...-N")
    parser.add_argument("--arms", nargs=2, default=["two stages, 30 %", "score only"], choices=ARMS)
    parser.add_argument("--picture", type=Path, default=Path("few-labels.png"))
    parser.add_argument("--top-k", type=int, default=20, help="candidates that were reranked")
    parser.add_argument("--limit", type=int, default=20, help="queries per list")
    options = parser.parse_args()
    tasks = [task_of(name, top_k=options.top_k, limit=options.limit) for name in PROTOCOL]
    first = float(np.mean([v for task in tasks for v in ndcg_of(task).values()]))
    numbers = {int(folder.name.rpartition("-")[2]): folder for folder in options.folders}
    curves: Curves = {arm: {} for arm in options.arms}
    for arm in options.arms:
        for labels, folder in sorted(numbers.items()):
            if len(rows := values_of(folder, arm, tasks, options.top_k)):
                curves[arm][labels] = rows
    print(f"{BM25}: {first:.4f}")
    report(curves, options.arms)
    draw(curves, first, options.picture)
    print(options.picture)


if __name__ == "__main__":
    main()
