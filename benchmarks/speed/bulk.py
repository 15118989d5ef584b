"""Measure the throughput of bulk scoring: one process against Ray workers, on this machine.

    python -m benchmarks.speed.bulk --pairs 400 --shard-rows 25
    PRORANK_DATA=... python -m benchmarks.speed.bulk --data dl19 --pairs 400 --shard-rows 25

Pairs are synthetic, or BM25's first documents of a collection. Every arm scores the same shards. Rates leave out the start, which
ends with the first shard; `seconds` has it. Other programs lower the rate of the clock, but not that of a processor second. Prints
one table, the bytes of a pair on disk, and one JSON line. Needs the extra `ray`.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from benchmarks.common import machine, real_lists, say
from benchmarks.jobs import Failures
from benchmarks.speed.growth import text
from prorank.bulk import LocalBackend, RayBackend, score_pairs


def make_pairs(options: argparse.Namespace) -> list[tuple[str, str]]:
    """Return the pairs: of a collection, ten documents a query, or texts of `--words` words."""
    if not options.data:
        return [(text(5, -1 - i // 10), text(options.words, i)) for i in range(options.pairs)]
    lists = real_lists(options.data, -(-options.pairs // 10), 10)
    pairs = [(query, document) for query, row in zip(lists.queries, lists.documents) for document in row]
    if len(pairs) < options.pairs:
        raise SystemExit(f"{options.data} has {len(pairs)} pairs in lists of 10; lower --pairs")
    return pairs[: options.pairs]


def measured(pairs: Path, out: Path, options: argparse.Namespace, workers: int, threads: int) -> dict[str, Any]:
    """Score the pairs by one process (`workers` 0) or by Ray workers, and return figures."""
    backend = RayBackend(workers, threads) if workers else LocalBackend()
    if not workers:
        torch.set_num_threads(threads)
    shards: list[tuple[float, int, float]] = []  # of each: when it was done, its pairs, its processor seconds
    begin = time.perf_counter()
    score_pairs(
        pairs, out, options.model, shard_rows=options.shard_rows, backend=backend, device=options.device, dtype=options.dtype,
        report=lambda _, __, shard: shards.append((time.perf_counter(), shard["rows"], shard["cpu_seconds"])),
    )  # fmt: skip
    seconds = time.perf_counter() - begin
    later = shards[1:]
    rows = sum(count for _, count, _ in later)
    rates = {
        "pairs_per_second": rows / (shards[-1][0] - shards[0][0]),
        "pairs_per_cpu_second": rows / sum(cpu for *_, cpu in later),
    }
    return {"workers": workers, "threads": threads, "seconds": seconds, **rates}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="prorank-smollm2-135m")
    parser.add_argument("--data", help="collection in PRORANK_DATA; default: synthetic texts")
    parser.add_argument("--pairs", type=int, default=400)
    parser.add_argument("--words", type=int, default=60, help="words of a synthetic document")
    parser.add_argument("--shard-rows", type=int, default=25)
    parser.add_argument("--workers", type=int, default=2, help="Ray workers with one thread each")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="fp32")
    options = parser.parse_args()
    if options.pairs <= options.shard_rows:
        raise SystemExit("--pairs must be above --shard-rows: the first shard ends the start, which is not counted")
    failures = Failures()
    arms = {
        "one process, 1 thread": (0, 1),
        f"one process, {options.workers} threads": (0, options.workers),
        f"{options.workers} Ray workers, 1 thread each": (options.workers, 1),
    }
    rows: dict[str, dict[str, Any]] = {}
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        pairs = Path(folder) / "pairs.parquet"
        queries, documents = zip(*make_pairs(options))
        pq.write_table(pa.table({"query": queries, "document": documents}), pairs, compression="zstd")
        for number, (name, (workers, threads)) in enumerate(arms.items()):
            with failures.arm(name):
                rows[name] = measured(pairs, Path(folder) / str(number), options, workers, threads)
                say(f"{name}: {rows[name]['pairs_per_second']:.1f} pairs/s")
        out = [pq.read_table(Path(folder) / str(number)) for number in range(len(arms)) if (Path(folder) / str(number)).exists()]
        differences = [float(np.abs(table["score"].to_numpy() - out[0]["score"].to_numpy()).max()) for table in out]
        sizes = [sum(path.stat().st_size for path in (Path(folder) / "0").glob("part-*")), pairs.stat().st_size]
    print(f"{'':<34}{'seconds':>9}{'pairs/s':>9}{'times':>7}{'pairs/processor second':>24}")
    for name, row in rows.items():
        ratio = row["pairs_per_second"] / next(iter(rows.values()))["pairs_per_second"]
        print(f"{name:<34}{row['seconds']:>9.1f}{row['pairs_per_second']:>9.1f}{ratio:>7.2f}{row['pairs_per_cpu_second']:>24.1f}")
    print(f"largest difference of a score from the first arm's: {max(differences):.1e}")
    print(f"bytes of a pair: {sizes[1] / options.pairs:.0f} read, {sizes[0] / options.pairs:.0f} written")
    print(f"load of the machine before: {load:.1f} processes on {os.cpu_count()} processors")
    print(
        "\n"
        + json.dumps({"arms": rows, "differences": differences, "bytes": sizes, "load": load, **vars(options), **machine("ray")})
    )
    failures.finish()


if __name__ == "__main__":
    main()
