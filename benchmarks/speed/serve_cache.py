"""The server with a cache of documents: clients that send the same documents again and again, with and without `--document-cache`.

    PRORANK_DATA=... python -m benchmarks.speed.serve_cache                              # 16 clients, 200 documents of dl19
    PRORANK_DATA=... python -m benchmarks.speed.serve_cache --requests 40 --bytes 2e8    # a cache that does not hold all of them

Both servers get the same requests, one after the other: random documents of a pool, with random queries. Prints one table and
one JSON line; exits with 1 if an answer was lost, if scores differ by more than `--tolerance`, or if the cache was too large.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import sys
import time
from collections import deque
from pathlib import Path

import httpx2

from benchmarks.common import machine, real_lists, say
from benchmarks.speed.serve_load import Body, Seen, Server, p95
from prorank.checkpoints.default_model import DEFAULT


def requests_of(options: argparse.Namespace) -> list[Body]:
    """Return requests for random documents of a small pool."""
    lists, rng = real_lists(options.data, options.queries, options.distinct), random.Random(options.seed)
    pool = list(dict.fromkeys(text for documents in lists.documents for text in documents))
    pool = rng.sample(pool, min(options.distinct, len(pool)))
    return [{"query": rng.choice(lists.queries), "documents": rng.sample(pool, options.documents)} for _ in range(options.requests)]


async def load(server: Server, bodies: list[Body], clients: int) -> tuple[Seen, float, dict[str, float]]:
    """Send every request once, from several clients. Returns (answers, seconds of all, the server's counts of its cache)."""
    seen, waiting = Seen(), deque(bodies)

    async def one_client(client: httpx2.AsyncClient) -> None:
        while waiting:
            await seen.send(client, waiting.popleft())

    async with server.client(clients) as client:
        begin = time.perf_counter()
        await asyncio.gather(*(one_client(client) for _ in range(clients)))
        seconds = time.perf_counter() - begin
        metrics = (await client.get("/metrics")).text
    rows = (line.rpartition(" ") for line in metrics.splitlines() if line.startswith("prorank_document_cache"))
    return seen, seconds, {name.removeprefix("prorank_document_cache_"): float(value) for name, _, value in rows}


def peak_memory(server: Server) -> int:
    """Return the largest resident size of a server, in bytes (Linux only)."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))


def measure(options: argparse.Namespace, bodies: list[Body], cache: bool) -> tuple[dict[str, float], Seen]:
    """Start a server, with or without a cache, and return (its figures, its answers)."""
    more = ["--document-cache", str(int(options.bytes))] if cache else []
    arguments = vars(options) | {"serve": [*options.serve, *more]}
    server = Server(argparse.Namespace(**arguments))
    seen, seconds, counts = asyncio.run(load(server, bodies, options.clients))
    figures = {
        "documents/s": seen.documents / seconds, "p50 s": statistics.median(seen.seconds), "p95 s": p95(seen.seconds),
        "peak memory GB": peak_memory(server) / 1e9, "answers": float(seen.statuses[200]),
        "cache GB": counts.get("bytes", 0.0) / 1e9, "found": counts.get("hits_total", 0.0),
        "computed": counts.get("misses_total", 0.0),
    }  # fmt: skip
    server.stop()
    return figures, seen


def largest_difference(first: Seen, second: Seen) -> float:
    """Return the largest difference of two servers' scores of the same request."""
    scores = {id(body): values for body, values in first.answers}
    return max(abs(a - b) for body, values in second.answers for a, b in zip(scores[id(body)], values, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=DEFAULT)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--data", default="dl19", help="collection in PRORANK_DATA")
    parser.add_argument("--queries", type=int, default=40)
    parser.add_argument("--distinct", type=int, default=200, help="number of documents that come again")
    parser.add_argument("--documents", type=int, default=10, help="documents of a request")
    parser.add_argument("--requests", type=int, default=160)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--bytes", type=float, default=2e9, help="size of the cache")
    parser.add_argument("--tolerance", type=float, default=0.1, help="largest difference of a score that is accepted")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    parser.add_argument("serve", nargs="*", help="options of prorank serve, after --")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    bodies = requests_of(options)
    say(f"{len(bodies)} requests without a cache")
    plain, plain_seen = measure(options, bodies, cache=False)
    say("the same with a cache")
    cached, cached_seen = measure(options, bodies, cache=True)
    difference = largest_difference(plain_seen, cached_seen)
    print(f"{'':<16}{'without':>12}{'with':>12}{'ratio':>9}")
    for name in plain:
        ratio = f"{cached[name] / plain[name]:>9.2f}" if plain[name] else ""
        print(f"{name:<16}{plain[name]:>12.3f}{cached[name]:>12.3f}{ratio}")
    print(f"largest difference of a score: {difference:.5f}")
    report = {"without": plain, "with": cached, "largest_difference": difference, **vars(options), **machine("fastapi", "uvicorn")}
    print(json.dumps({"serve_cache": report}))
    complete = plain["answers"] == cached["answers"] == len(bodies)
    sys.exit(int(not complete or difference > options.tolerance or cached["cache GB"] * 1e9 > options.bytes))


if __name__ == "__main__":
    main()
