"""Latency of one query: 10, 50 and 100 documents, median and 95th percentile, and the first query after loading.

The first query runs directly after loading, without a warm-up.

    PRORANK_DATA=... python -m benchmarks.speed.latency            # dl19's first 100 documents, SmolLM2-135M
    PRORANK_DATA=... python -m benchmarks.speed.latency --compile --dtype int8

Prints one table and one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time

import torch

from benchmarks.common import machine, real_lists
from prorank import Reranker
from prorank.prompts.prompt import Prompt


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--device")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--data", default="dl19", help="collection in PRORANK_DATA")
    parser.add_argument("--queries", type=int, default=20)
    parser.add_argument("--sizes", nargs="*", type=int, default=[10, 50, 100])
    parser.add_argument("--max-length", type=int, default=512)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    lists = real_lists(options.data, options.queries, max(options.sizes))
    begin = time.perf_counter()
    prompt = Prompt.preset("prorank", max_length=options.max_length)
    reranker = Reranker(options.model, device=options.device, dtype=options.dtype, prompt=prompt, compile=options.compile)
    ready = time.perf_counter() - begin

    def seconds(query: str, documents: list[str]) -> float:
        begin = time.perf_counter()
        reranker.rank(query, documents)
        return time.perf_counter() - begin

    first = seconds(lists.queries[0], lists.documents[0])
    again = statistics.median(seconds(lists.queries[0], lists.documents[0]) for _ in range(5))
    rows = {}
    for size in options.sizes:
        times = sorted(seconds(q, d[:size]) for q, d in zip(lists.queries, lists.documents))
        rows[size] = {"p50": statistics.median(times), "p95": times[min(len(times) - 1, int(0.95 * len(times)))]}
    print(f"{'documents':<12}{'p50 s':>8}{'p95 s':>8}")
    for size, row in rows.items():
        print(f"{size:<12}{row['p50']:>8.2f}{row['p95']:>8.2f}")
    print(f"ready after {ready:.1f} s")
    print(f"first query, {len(lists.documents[0])} documents: {first:.2f} s; again: {again:.2f} s; {first / again:.2f} times")
    print(json.dumps({"latency": rows, "ready": ready, "first": first, "again": again, **vars(options), **machine()}))


if __name__ == "__main__":
    main()
