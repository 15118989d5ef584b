"""Shared by all benchmarks: machine description, real query lists, the matrix-product ceiling, paired tests.

The ceiling is the speed of the layers' matrix products alone, measured in the same run. A share of the ceiling is an upper bound
on how much faster a better program could be on this machine.
"""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

MAIN = "nDCG@10"
Values = Mapping[str, Mapping[str, Mapping[str, Mapping[str, float]]]]  # list -> system -> measure -> query -> value


@dataclass(frozen=True)
class Lists:
    """A collection's queries with their first-stage documents and labels, in first-stage order."""

    name: str
    queries: list[str]
    documents: list[list[str]]
    labels: list[list[int]]

    def __len__(self) -> int:
        return sum(map(len, self.documents))


def data_folder() -> Path:
    """The folder of the collections. Exits where PRORANK_DATA does not name it."""
    if "PRORANK_DATA" not in os.environ:
        raise SystemExit("set PRORANK_DATA to the folder of the collections")
    return Path(os.environ["PRORANK_DATA"])


def real_lists(name: str, queries: int, documents: int) -> Lists:
    """The first queries of a collection under PRORANK_DATA with BM25's first documents. Exits where the data is missing."""
    from prorank.evaluate.candidates import Options, prepare

    folder = data_folder() / name
    run = "run.bm25.txt" if (folder / "run.bm25.txt").is_file() else None
    task = prepare(folder, Options(run=run, top_k=documents, limit=queries))
    heads = [task.head(query, documents)[0] for query in task.queries]
    texts = [[task.text(d) for d in head] for head in heads]
    labels = [[task.qrels[query].get(d, 0) for d in head] for query, head in zip(task.queries, heads)]
    return Lists(name, [task.collection.queries[q] for q in task.queries], texts, labels)


def ndcg(labels: Sequence[int], scores: Sequence[float], k: int = 10) -> float:
    """nDCG@k of one list against the best order of that same list; ties keep its order."""
    from prorank.evaluate.gains import ndcg as of_order

    return of_order([labels[i] for i in sorted(range(len(labels)), key=lambda i: -scores[i])], depth=k)


def loader(name: str, checkpoint: str | Path, length: int | None = None, fallback: Any = None, **how: Any) -> Callable[[], Any]:
    """A function that loads a Reranker under a name.

    Args:
        checkpoint: name or folder. length: tokens of a prompt; the checkpoint's own by default.
        fallback: prompt of a checkpoint that has none of its own.
        how: further arguments of Reranker.
    """
    from prorank import Reranker
    from prorank.checkpoints.resolve import prompt_of, resolve

    def load() -> Reranker:
        prompt_options = {"prompt": prompt_of(resolve(checkpoint), fallback)} if fallback else {}
        reranker = Reranker(checkpoint, max_length=length, **prompt_options, **how)
        reranker.name = name
        return reranker

    return load


def arms_of(names: Iterable[str]) -> dict[str, list[str]]:
    """Runs by arm: the runs of an arm are called "ARM #SEED"; a name without a seed is an arm of one run."""
    arms: dict[str, list[str]] = {}
    for name in names:
        arms.setdefault(name.partition(" #")[0], []).append(name)
    return arms


def per_query(values: Values, names: Iterable[str], measure: str = MAIN) -> dict[str, np.ndarray]:
    """Each arm's values over all queries of all lists, in one order, each the mean over the arm's runs."""
    runs = {name: [v for one in values.values() for v in one[name][measure].values()] for name in names}
    return {arm: np.mean([runs[name] for name in run_names], 0) for arm, run_names in arms_of(runs).items()}


def compare(rows: Mapping[str, np.ndarray], pairs: Sequence[tuple[str, str]], measure: str = MAIN) -> list[dict[str, Any]]:
    """Print what the first of each pair of systems gains on the second; p by paired randomisation over queries and Holm.

    Args:
        rows: each system's values of the same queries [n].
        pairs: the comparisons, one family.
    """
    from prorank.evaluate.significance import holm, randomisation_test

    results = []
    for (a, b), p in zip(pairs, holm([randomisation_test(rows[a], rows[b]) for a, b in pairs])):
        gain, count = float((rows[a] - rows[b]).mean()), len(rows[a])
        results.append({"system": a, "against": b, "measure": measure, "gain": gain, "queries": count, "p": p})
        print(f"{a} against {b}: {measure} {gain:+.4f} over {count} queries, p {p:.4f} (Holm over {len(pairs)})")
    return results


def means_table(values: Values, names: Iterable[str], measure: str = MAIN) -> None:
    """Print a Markdown table: the arms' means over runs and queries, for each list and over all queries together.

    Args:
        values: where a list's first system is none of `names`, it is the first stage and gets the first row.
        names: the runs.
    """
    arms = arms_of(names)
    if all(next(iter(one)) not in names for one in values.values()):
        arms = {"first stage": ["first stage"]} | arms
        values = {name: {"first stage": next(iter(one.values())), **one} for name, one in values.items()}
    print(f"| {measure} | " + " | ".join(values) + " | all queries | runs |\n|" + "---|" * (len(values) + 3))
    for arm, runs in arms.items():
        rows = [per_query({name: one}, runs, measure)[arm] for name, one in values.items()]
        cells = [f"{row.mean():.4f}" for row in (*rows, np.concatenate(rows))]
        print(f"| {arm} | {' | '.join(cells)} | {len(runs)} |")


def median_seconds(work: Callable[[], Any], times: int = 7) -> float:
    work()
    results = []
    for _ in range(times):
        begin = time.perf_counter()
        work()
        results.append(time.perf_counter() - begin)
    return statistics.median(results)


def layer_flops(model: torch.nn.Module) -> int:
    """Floating point operations of the layers' matrix products for one token (attention and output matrix left out)."""
    from prorank.engine.modules import body

    parts = [m for layer in body(model)[0].layers for m in layer.modules() if isinstance(m, torch.nn.Linear)]
    return sum(2 * m.weight.numel() for m in parts)


def ceiling(model: torch.nn.Module, rows: int = 2048) -> float:
    """Floating point operations a second of the layers' matrix products alone, one after the other on `rows` tokens."""
    from prorank.engine.modules import body

    shapes = [tuple(m.weight.shape) for m in body(model)[0].layers[0].modules() if isinstance(m, torch.nn.Linear)]
    with torch.inference_mode():
        device = next(model.parameters()).device
        random = lambda *shape: torch.randn(shape, device=device).to(model.dtype)  # noqa: E731
        work = [(random(rows, inputs), random(outputs, inputs)) for outputs, inputs in shapes]

        def products() -> None:
            for x, weight in work:
                torch.nn.functional.linear(x, weight)
            if device.type == "cuda":
                torch.cuda.synchronize()

        return sum(2 * rows * a * b for a, b in shapes) / median_seconds(products, 25)


def machine(*packages: str) -> dict[str, Any]:
    """Where and with what the figures were made."""
    processor = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").is_file():
        names = [x for x in Path("/proc/cpuinfo").read_text().splitlines() if x.startswith("model name")]
        processor = names[0].split(":", 1)[1].strip() if names else processor
    git = subprocess.run(["git", "rev-parse", "HEAD"], cwd=Path(__file__).resolve().parent, capture_output=True, text=True)
    facts = {"processor": processor, "cores": os.cpu_count(), "threads": torch.get_num_threads()}
    if torch.cuda.is_available():
        facts["gpu"] = torch.cuda.get_device_name()
    return facts | {p: _version(p) for p in ("torch", "transformers", *packages)} | {"commit": git.stdout.strip() or None}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def say(text: str) -> None:
    print(time.strftime("%H:%M:%S"), text, file=sys.stderr, flush=True)
