"""Measure how time and memory grow with the number of documents, their length, the query's length and the batch size.

Every point runs in a separate process, to measure its peak memory. The slope is that of log time over log size, 1 for linear
growth.

    python -m benchmarks.speed.growth                        # about 8 minutes on two cores
    python -m benchmarks.speed.growth --documents 100 1000   # a part of it

Texts are synthetic, so no data is needed. Prints one table and one JSON line.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import resource
import subprocess
import sys
import time
from typing import Any

WORDS = "river castle garden music winter harbour stone engine letter forest island planet school window coffee desert".split()


def text(words: int, seed: int) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=words))


def point(options: argparse.Namespace) -> None:
    """Measure one size in this process, and print one JSON line."""
    import torch

    from prorank import Reranker
    from prorank.prompts.prompt import Prompt

    torch.set_num_threads(options.threads)
    count, words, query_words, batch = options.point
    prompt = Prompt.preset("prorank", max_length=2048, query_share=0.5)
    reranker = Reranker(options.model, device=options.device, dtype=options.dtype, prompt=prompt)
    documents = [text(words, i) for i in range(count)]
    query = text(query_words, -1)
    reranker.score_lists([query], [documents[:20]], batch_size=batch or None)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begin = time.perf_counter()
    reranker.score_lists([query], [documents], batch_size=batch or None)
    seconds = time.perf_counter() - begin
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB
    print(json.dumps({"seconds": seconds, "peak_mb": peak / 1024, "loaded_mb": before / 1024}))


def measured(options: argparse.Namespace, *sizes: int) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.speed.growth", "--point", *map(str, sizes)]
    command += ["--model", options.model, "--dtype", options.dtype]
    command += ["--threads", str(options.threads)] + (["--device", options.device] if options.device else [])
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def slope(sizes: list[int], seconds: list[float]) -> float:
    """Return the least squares slope of log seconds over log size."""
    x, y = [math.log(s) for s in sizes], [math.log(s) for s in seconds]
    mx, my = sum(x) / len(x), sum(y) / len(y)
    return sum((a - mx) * (b - my) for a, b in zip(x, y)) / sum((a - mx) ** 2 for a in x)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--device")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--documents", nargs="*", type=int, default=[100, 300, 1000, 3000, 10_000])
    parser.add_argument("--words", nargs="*", type=int, default=[20, 80, 320, 1000], help="words per document, with 100 documents")
    parser.add_argument("--query", nargs="*", type=int, default=[5, 50, 500], help="words of the query, with 100 documents")
    parser.add_argument("--batch", nargs="*", type=int, default=[1, 4, 16, 64], help="documents per forward, with 200 documents")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--point", nargs=4, type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.point:
        point(options)
        return
    from benchmarks.common import machine, say
    from benchmarks.jobs import Failures

    series = {
        "documents of 20 words": (options.documents, lambda n: (n, 20, 5, 0)),
        "words a document, 100 documents": (options.words, lambda n: (100, n, 5, 0)),
        "words of the query, 100 documents": (options.query, lambda n: (100, 20, n, 0)),
        "documents a forward, 200 documents": (options.batch, lambda n: (200, 20, 5, n)),
    }
    results: dict[str, Any] = {}
    failures = Failures()
    for name, (sizes, make) in series.items():
        if not sizes:
            continue
        rows = {}
        for size in sizes:
            with failures.arm(f"{name}: {size}"):
                rows[size] = measured(options, *make(size))
                say(f"{name}: {size} in {rows[size]['seconds']:.1f} s")
        results[name] = {"rows": rows, "slope": slope(list(rows), [r["seconds"] for r in rows.values()]) if len(rows) > 1 else None}
    for name, one in results.items():
        print(f"\n{name:<36}{'seconds':>9}{'ms each':>9}{'peak MB':>9}")
        for size, row in one["rows"].items():
            print(f"{size:<36}{row['seconds']:>9.2f}{1000 * row['seconds'] / size:>9.2f}{row['peak_mb']:>9.0f}")
        if one["slope"] is not None:
            print(f"slope {one['slope']:.3f}")
    print("\n" + json.dumps({**results, **vars(options), **machine()}))
    failures.finish()


if __name__ == "__main__":
    main()
