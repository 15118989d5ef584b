"""Draw learning curves: nDCG@10 after training on 50, 500 and 5,000 labels, from a trained reranker and from the untrained base.

A label is a judged (query, document) pair. Mined negatives (none with `--judged-only`) need no judgement and are not counted. All
points are evaluated on the same queries, and none was trained on them.

    PRORANK_DATA=... python -m benchmarks.evidence.curves --data climate_fever --split test --judged-only --seeds 0 1 2 \
        --bases "trained=runs/smollm2-135m/score@3e-5" "untrained=smollm2-135m@1e-4" --out runs/curves

Labels are sampled by whole queries with the seed; larger samples contain the smaller ones. Training makes `--epochs` passes over
them, with at least `--min-steps` and at most `--max-steps` steps. An interrupted command can be resumed, and processes with the
same command share the runs. Prints the table and the tests against each base, and draws `curves.png`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import MAIN, compare, data_folder, loader, per_query
from benchmarks.evidence.recipe import PROMPT, RECIPE, TRAIN_LENGTH
from benchmarks.evidence.recipe_lists import labelled, pool_groups
from benchmarks.jobs import Failures, Job, claimed, work
from benchmarks.protocol import ndcg_of, parsed, score_all, scored
from prorank.data.beir import read_beir
from prorank.data.examples import Group, split_groups
from prorank.data.formats import read_groups, write_groups
from prorank.data.negatives import mine_negatives
from prorank.evaluate.candidates import Options, Task, prepare
from prorank.evaluate.reliability import pyplot
from prorank.train.run import train
from prorank.train.run_folder import is_done
from prorank.train.settings.stage_settings import load_settings
from prorank.utils.files import atomic_file

BATCH, LIST = 4, 6  # queries per step, documents per query


@dataclass(frozen=True)
class Base:
    """Start of a curve: `NAME=CHECKPOINT[@LEARNING RATE]`."""

    name: str
    checkpoint: str
    rate: float

    @classmethod
    def read(cls, text: str) -> Base:
        name, _, rest = text.partition("=")
        checkpoint, _, rate = rest.rpartition("@") if "@" in rest else (rest, "", "3e-5")
        return cls(name, checkpoint, float(rate))


def domain(options: argparse.Namespace) -> tuple[Path, set[str]]:
    """Return (training lists, ids of the evaluated queries) of the domain, made once."""
    lists, ids_file = options.out / "train.jsonl", options.out / "held-out.json"
    with claimed(lists, wait=True):
        if not ids_file.is_file():
            collection = read_beir(data_folder() / options.data, options.split)
            groups = pool_groups(collection) if options.judged_only else mine_negatives(collection, negatives=12, random=4)[0]
            rest, decide = split_groups(groups, options.held_out, 0)
            write_groups(lists, rest)
            with atomic_file(ids_file) as handle:
                json.dump([group.query_id for group in decide], handle)
    return lists, set(json.loads(ids_file.read_text(encoding="utf-8")))


def drawn(groups: Sequence[Group], judged: dict[str, dict[str, int]], size: int, seed: int) -> tuple[list[Group], int]:
    """Return (groups of whole queries with `size` labels or all, their number of labels). Larger sizes contain smaller ones."""
    count = lambda group: len(judged[group.query_id])  # noqa: E731
    selected = labelled(groups, size, f"curve/{seed}", count)
    return selected, sum(map(count, selected))


def steps(queries: int, options: argparse.Namespace) -> int:
    """Return the number of optimiser steps for this number of training queries."""
    return int(min(options.max_steps, max(options.min_steps, np.ceil(options.epochs * queries / BATCH))))


def folder(out: Path, base: Base, size: int, seed: int) -> Path:
    """Return the folder of a run."""
    return out / f"{base.name.replace(' ', '-')}-{size}-{seed}"


def run(base: Base, size: int, seed: int, options: argparse.Namespace, groups: list[Group], judged: dict[str, Any]) -> None:
    """Train one point of a curve, or resume it."""
    out = folder(options.out, base, size, seed)
    selected, labels = drawn(groups, judged, size, seed)
    write_groups(out / "labels.jsonl", selected)
    with atomic_file(out / "labels.json") as handle:
        json.dump({"labels": labels, "queries": len(selected)}, handle)
    values = {
        "base": base.checkpoint, "data": out / "labels.jsonl", "out": out, "seed": seed, "steps": steps(len(selected), options),
        "dev_queries": 0, "num_evaluations": 0, "list_size": LIST, "batch_size": BATCH, "learning_rate": base.rate,
        "save_every": 50,
        "max_length": options.length, "train_length": TRAIN_LENGTH, "compile": str(options.compile).lower(),
    }  # fmt: skip
    train(load_settings(RECIPE / "score.yaml", [f"{key}={value}" for key, value in values.items()]), resume=True)


def measured(options: argparse.Namespace, held_out_ids: set[str]) -> Task:
    """Return the held-out queries with their candidates: BM25's, or their judged documents."""
    task = prepare(data_folder() / options.data, Options(split=options.split, judged_only=options.judged_only, top_k=options.top_k))
    task.queries = [query for query in task.queries if query in held_out_ids][: options.limit]
    return task


def table(
    task: Task, points: dict[str, tuple[Base, int, Path | None]], options: argparse.Namespace, failures: Failures
) -> dict[str, np.ndarray]:
    """Score missing points, print a row per point, and return each point's values by query. Points that fail are left out."""
    systems = {name: loader(name, run or base.checkpoint, options.length, PROMPT) for name, (base, _, run) in points.items()}
    systems = score_all([task], systems, options.out, failures, options.top_k)
    values = {task.name: {n: {MAIN: ndcg_of(task, scored(task, load(), options.out, options.top_k), options.top_k)}
                          for n, load in systems.items()}}  # fmt: skip
    rows, first = per_query(values, systems), ndcg_of(task)
    print(f"| {task.name}, {len(task.queries)} queries | labels | queries | steps | minutes | {MAIN} | runs |\n|" + "---|" * 7)
    print(f"| {task.first} | | | | | {np.mean(list(first.values())):.4f} | |")
    for arm, row in rows.items():
        about = [_about(run) for name, (_, _, run) in points.items() if name.partition(" #")[0] == arm and run]
        cells = [f"{np.mean([one[key] for one in about]):.{digits}f}" if about else "0" for key, digits in SHOWN]
        print(f"| {arm} | {' | '.join(cells)} | {row.mean():.4f} | {max(1, len(about))} |")
    return rows


SHOWN = (("labels", 0), ("queries", 0), ("step", 0), ("minutes", 1))


def _about(run: Path) -> dict[str, float]:
    """Return labels, queries, steps and minutes of a run."""
    return {key: value for name in ("labels.json", "done.json") for key, value in json.loads((run / name).read_text()).items()}


def picture(task: Task, bases: Sequence[Base], sizes: Sequence[int], rows: dict[str, np.ndarray], path: Path) -> Path:
    """Plot nDCG@10 against labels, with a line per base and a level for the first stage."""
    plt = pyplot()
    chart, axis = plt.subplots(figsize=(6, 4), layout="constrained")
    axis.axhline(np.mean(list(ndcg_of(task).values())), color="#888888", linestyle=":", label=task.first)
    for base, color, mark in zip(bases, ("#1d4ed8", "#c2410c", "#15803d"), "os^"):
        there = [size for size in (0, *sizes) if point(base, size) in rows]
        axis.plot(there, [rows[point(base, size)].mean() for size in there], f"{mark}-", color=color, label=base.name)
    axis.set_xscale("symlog", linthresh=max(1, min(sizes)))
    axis.set_xticks([0, *sizes], [f"{size:,}" for size in (0, *sizes)])
    axis.set(xlabel="labels", ylabel=MAIN, title=f"{task.name}, {len(task.queries)} held-out queries")
    axis.grid(alpha=0.25)
    axis.legend(fontsize=9)
    with atomic_file(path, "wb") as handle:
        chart.savefig(handle, format="png", dpi=110)
    plt.close(chart)
    return path


def point(base: Base, size: int) -> str:
    """Return a point's name in tables."""
    return f"{base.name}, {size} labels" if size else base.name


def show(options: argparse.Namespace, bases: Sequence[Base], held_out_ids: set[str], failures: Failures) -> None:
    """Print table and tests of the complete runs, and draw the picture."""
    points: dict[str, tuple[Base, int, Path | None]] = {point(base, 0): (base, 0, None) for base in bases}
    for base, size, seed in product(bases, options.sizes, options.seeds):
        out = folder(options.out, base, size, seed)
        if is_done(out):
            points[f"{point(base, size)} #{seed}"] = (base, size, out)
    task = measured(options, held_out_ids)
    rows = table(task, points, options, failures)
    compare(rows, [(point(b, n), point(b, 0)) for b in bases for n in options.sizes if {point(b, n), point(b, 0)} <= rows.keys()])
    print(picture(task, bases, options.sizes, rows, options.out / "curves.png"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="climate_fever", help="a collection in PRORANK_DATA")
    parser.add_argument("--split", default="train", help="its labels")
    parser.add_argument("--judged-only", action="store_true", help="judged documents only, in training and as candidates")
    parser.add_argument("--held-out", type=int, default=200, help="queries measured")
    parser.add_argument("--bases", nargs="+", required=True, help="NAME=CHECKPOINT[@LEARNING RATE]")
    parser.add_argument("--sizes", nargs="*", type=int, default=[50, 500, 5000], help="labels")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0])
    parser.add_argument("--epochs", type=float, default=4)
    parser.add_argument("--min-steps", type=int, default=30, help="minimum number of steps")
    parser.add_argument("--max-steps", type=int, default=600, help="maximum number of steps")
    parser.add_argument("--compile", action="store_true", help="compile element-wise steps in training")
    options = parsed(parser, "runs/curves", 256, sets=False)
    options.out /= options.data
    bases = [Base.read(text) for text in options.bases]
    lists, held_out_ids = domain(options)
    judged, groups = read_beir(data_folder() / options.data, options.split).qrels, read_groups(lists)
    runs = list(product(bases, options.sizes, options.seeds))
    outs = {one: folder(options.out, *one) for one in runs}
    failures = Failures()
    work([Job(out, partial(is_done, out), partial(run, *one, options, groups, judged)) for one, out in outs.items()], failures)
    show(options, bases, held_out_ids, failures)
    failures.finish()


if __name__ == "__main__":
    main()
