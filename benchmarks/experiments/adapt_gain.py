"""Measure the gain of `prorank adapt` on other queries of a collection, and its loss on other collections.

A label is a judged (query, document) pair. Whole queries are sampled until there are enough labels; other queries are used for
evaluation. If adapt did not keep a model, the gain counts as 0.

    PRORANK_DATA=... python -m benchmarks.experiments.adapt_gain --data climate_fever --split test --seeds 0 1 2 --compile
    PRORANK_DATA=... python -m benchmarks.experiments.adapt_gain --data trecqa --split train dev test --seeds 0 1 2 --compile

One line per seed: sampled labels and queries, minutes of the call, adapt's own figures (gain in log-likelihood, nDCG@10), nDCG@10
of the other queries' judged documents before and after, and of the first documents of lists of other collections (`--elsewhere`).
An interrupted command can be resumed. `DATA-LABELS.json` contains the values.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch

from benchmarks.common import data_folder, machine
from benchmarks.evidence.recipe_lists import labelled, pool_groups
from benchmarks.jobs import Failures
from benchmarks.protocol import task_of
from prorank.adapt.adaptation import AdaptationResult, adapt, scores_of
from prorank.checkpoints.default_model import DEFAULT
from prorank.data.beir import read_beir
from prorank.data.examples import Group, query_key
from prorank.data.formats import write_groups
from prorank.evaluate.measures import ndcg_of
from prorank.evaluate.significance import randomisation_test
from prorank.utils.files import atomic_file


def drawn(groups: list[Group], labels: int, max_others: int, seed: int) -> tuple[list[Group], list[Group]]:
    """Return (groups of whole queries with `labels` labels, at most `max_others` groups of other queries)."""
    chosen = labelled(groups, labels, f"labels/{seed}", lambda group: len(group.documents))
    known = {query_key(group.query) for group in chosen}
    others = Random("others").sample(groups, len(groups))
    return chosen, [group for group in others if query_key(group.query) not in known][:max_others]


def heads(name: str, top_k: int) -> list[Group]:
    """Return the first documents of each query of a protocol list, if one of them is relevant."""
    task = task_of(name, top_k=top_k)
    groups = []
    for query in task.queries:
        chosen, _ = task.head(query, top_k)
        texts, labels = [task.text(d) for d in chosen], [float(task.qrels[query].get(d, 0)) for d in chosen]
        groups += [Group(task.collection.queries[query], tuple(texts), tuple(labels))] if max(labels) > 0 else []
    return groups


def run(chosen: list[Group], out: Path, seed: int, options: argparse.Namespace) -> tuple[AdaptationResult, float]:
    """Return (result of adapt, minutes of the call), from an earlier call if there was one."""
    if not (out / "minutes.json").is_file():
        write_groups(out / "labels.jsonl", chosen)
        began = time.monotonic()
        adapt(out / "labels.jsonl", options.model, out, seed=seed, compile=options.compile)
        with atomic_file(out / "minutes.json") as handle:
            json.dump((time.monotonic() - began) / 60, handle)
    result = json.loads((out / "adapted.json").read_text(encoding="utf-8"))
    return AdaptationResult(**result), json.loads((out / "minutes.json").read_text())


def cell(before: np.ndarray, after: np.ndarray) -> str:
    """Format two means and the p-value of their difference."""
    return f"{before.mean():.4f} to {after.mean():.4f} (p {randomisation_test(after, before):.3f})"


def values(model: str, sets: dict[str, list[Group]]) -> dict[str, np.ndarray]:
    """Return the nDCG@10 of each set's groups."""
    return {name: ndcg_of([g.labels for g in groups], scores_of(model, groups, "echo")) for name, groups in sets.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="climate_fever", help="a collection that judges non-relevant documents, too")
    parser.add_argument("--split", nargs="+", default=["test"], help="its labels")
    parser.add_argument("--labels", type=int, default=300)
    parser.add_argument("--others", type=int, default=300, help="maximum number of other queries")
    parser.add_argument("--elsewhere", nargs="*", default=["dl19"], help="protocol lists")
    parser.add_argument("--top-k", type=int, default=20, help="number of documents of these")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0])
    parser.add_argument("--model", default=DEFAULT)
    parser.add_argument("--compile", action="store_true", help="compile element-wise steps in training")
    parser.add_argument("--threads", type=int, default=None, help="threads of this process; all by default")
    parser.add_argument("--out", type=Path, default=Path("runs/adapt-gain"))
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    folder = data_folder() / options.data
    groups = [group for split in options.split for group in pool_groups(read_beir(folder, split))]
    there = {name: heads(name, options.top_k) for name in options.elsewhere}
    names = ["others", *there]
    heading = ["seed", "labels", "queries", "minutes", "likelihood", "its own", "kept", *names]
    print("| " + " | ".join(heading) + " |\n|" + "---|" * len(heading))
    results: dict[str, Any] = {}
    always = values(options.model, there)
    failures = Failures()
    for seed in options.seeds:
        with failures.arm(f"seed {seed}"):
            chosen, others = drawn(groups, options.labels, options.others, seed)
            result, minutes = run(chosen, options.out / f"{options.data}-{options.labels}-{seed}", seed, options)
            before = values(options.model, {"others": others}) | always
            after = values(result.model, {"others": others, **there}) if result.better else before
            own = f"{result.before:.4f} to {result.after:.4f} (p {result.p:.3f})"
            drew = [seed, sum(len(g.documents) for g in chosen), len(chosen), f"{minutes:.1f}"]
            cells = [*drew, f"{result.likelihood:+.4f} (p {result.likelihood_p:.3f})", own, "yes" if result.better else "no"]
            print("| " + " | ".join(map(str, [*cells, *(cell(before[name], after[name]) for name in names)])) + " |", flush=True)
            results[str(seed)] = {name: [before[name].tolist(), after[name].tolist()] for name in names}
    with atomic_file(options.out / f"{options.data}-{options.labels}.json") as handle:
        json.dump({"values": results, **machine()}, handle)
    failures.finish()


if __name__ == "__main__":
    main()
