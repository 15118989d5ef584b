"""Functions of all benchmarks: machine description, real query lists, the matrix-product ceiling, paired tests.

The ceiling is the speed of the layers' matrix products only, measured in the same run. It bounds the speed that any program could
reach on this machine.
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
    """Queries of a collection with their first-stage documents and labels, in first-stage order."""

    name: str
    queries: list[str]
    documents: list[list[str]]
    labels: list[list[int]]

    def __len__(self) -> int:
        return sum(map(len, self.documents))


def data_folder() -> Path:
    """Return the folder of the collections. Exits if PRORANK_DATA is not set to it."""
    if "PRORANK_DATA" not in os.environ:
        raise SystemExit("set PRORANK_DATA to the folder of the collections")
    return Path(os.environ["PRORANK_DATA"])


def real_lists(name: str, queries: int, documents: int) -> Lists:
    """Return the first queries of a collection in PRORANK_DATA with BM25's first documents. Exits if the data is missing."""
    from prorank.evaluate.candidates import Options, prepare

    folder = data_folder() / name
    run = "run.bm25.txt" if (folder / "run.bm25.txt").is_file() else None
    task = prepare(folder, Options(run=run, top_k=documents, limit=queries))
    heads = [task.head(query, documents)[0] for query in task.queries]
    texts = [[task.text(d) for d in head] for head in heads]
    labels = [[task.qrels[query].get(d, 0) for d in head] for query, head in zip(task.queries, heads)]
    return Lists(name, [task.collection.queries[q] for q in task.queries], texts, labels)


def ndcg(labels: Sequence[int], scores: Sequence[float], k: int = 10) -> float:
    """Return the nDCG@k of one list relative to its best order; ties keep the order of the list."""
    from prorank.evaluate.gains import ndcg as of_order

    return of_order([labels[i] for i in sorted(range(len(labels)), key=lambda i: -scores[i])], depth=k)


def loader(name: str, checkpoint: str | Path, length: int | None = None, fallback: Any = None, **how: Any) -> Callable[[], Any]:
    """Return a function that loads a Reranker under a name. It reads the beginning of long documents, unless `how` says otherwise.

    Args:
        name: name in tables.
        checkpoint: name or folder of the checkpoint.
        length: maximum number of tokens of a prompt; the checkpoint's own by default.
        fallback: prompt for a checkpoint that has none.
        **how: further arguments of Reranker.
    """
    from prorank import Reranker
    from prorank.checkpoints.resolve import prompt_of, resolve

    def load() -> Reranker:
        prompt_options = {"prompt": prompt_of(resolve(checkpoint), fallback)} if fallback else {}
        reranker = Reranker(checkpoint, max_length=length, **prompt_options, **{"long_documents": "truncate"} | how)
        reranker.name = name
        return reranker

    return load


def arms_of(names: Iterable[str]) -> dict[str, list[str]]:
    """Group runs by arm. Runs of an arm are called "ARM #SEED"; a name without a seed is an arm with one run."""
    arms: dict[str, list[str]] = {}
    for name in names:
        arms.setdefault(name.partition(" #")[0], []).append(name)
    return arms


def per_query(values: Values, names: Iterable[str], measure: str = MAIN) -> dict[str, np.ndarray]:
    """Return each arm's values of all queries of all lists, in the same order, averaged over the arm's runs."""
    runs = {name: [v for one in values.values() for v in one[name][measure].values()] for name in names}
    return {arm: np.mean([runs[name] for name in run_names], 0) for arm, run_names in arms_of(runs).items()}


def compare(rows: Mapping[str, np.ndarray], pairs: Sequence[tuple[str, str]], measure: str = MAIN) -> list[dict[str, Any]]:
    """Print the gain of the first system of each pair over the second, with p-values by paired randomisation over queries and Holm.

    Args:
        rows: values [n] of the same queries by system.
        pairs: comparisons, which form one family of tests.
        measure: name of the measure.
    """
    from prorank.evaluate.significance import holm, randomisation_test

    results = []
    for (a, b), p in zip(pairs, holm([randomisation_test(rows[a], rows[b]) for a, b in pairs])):
        gain, count = float((rows[a] - rows[b]).mean()), len(rows[a])
        results.append({"system": a, "against": b, "measure": measure, "gain": gain, "queries": count, "p": p})
        print(f"{a} against {b}: {measure} {gain:+.4f} over {count} queries, p {p:.4f} (Holm over {len(pairs)})")
    return results


def means_table(values: Values, names: Iterable[str], measure: str = MAIN) -> None:
    """Print a Markdown table of the arms' means over runs and queries, for each list and over all queries.

    Args:
        values: list -> system -> measure -> query -> value. If a list's first system is not in `names`, it is the first stage and
            gets the first row.
        names: the runs.
        measure: name of the measure.
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
    """Return the floating point operations of the layers' matrix products for one token, without attention and output matrix."""
    from prorank.engine.modules import body

    parts = [m for layer in body(model)[0].layers for m in layer.modules() if isinstance(m, torch.nn.Linear)]
    return sum(2 * m.weight.numel() for m in parts)


def ceiling(model: torch.nn.Module, rows: int = 2048) -> float:
    """Measure the floating point operations per second of the layers' matrix products only, in sequence, on `rows` tokens."""
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
    """Describe the machine and the versions of packages."""
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
