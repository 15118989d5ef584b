"""The server under load: many clients, throughput compared with the offline engine, and a small client among large ones.

Server and engine run one after the other on the same machine. The server's answers are compared with the library's scores of the
same documents.

    PRORANK_DATA=... python -m benchmarks.speed.serve_load                          # 64 clients for 5 minutes, dl19, SmolLM2-135M
    PRORANK_DATA=... python -m benchmarks.speed.serve_load --minutes 1 --clients 16 --documents 10

Prints one table and one JSON line; exits with 1 if an answer was lost or was neither 200 nor 429. On a machine with other load, use
`ratio_by_processor_time` instead of `ratio`.
"""

from __future__ import annotations

import argparse
import asyncio
import atexit
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import cycle, repeat
from pathlib import Path

import httpx2
import numpy as np
import torch

from benchmarks.common import machine, real_lists, say
from prorank import Reranker

Body = dict[str, object]


@dataclass
class Seen:
    """Results of clients: statuses, seconds of each answer, and scores by request."""

    statuses: Counter = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    documents: int = 0
    answers: list[tuple[Body, list[float]]] = field(default_factory=list)

    async def send(self, client: httpx2.AsyncClient, body: Body) -> None:
        """Send a request; wait if the server requests it."""
        begin = time.perf_counter()
        try:
            answer = await client.post("/v1/rerank", json=body | {"raw_scores": True})
        except httpx2.HTTPError as error:
            self.statuses[type(error).__name__] += 1
            return
        self.statuses[answer.status_code] += 1
        if answer.status_code == 429:
            await asyncio.sleep(int(answer.headers["retry-after"]))
        elif answer.status_code == 200:
            self.seconds.append(time.perf_counter() - begin)
            hits = answer.json()["results"]
            scores = [score for _, score in sorted((hit["index"], hit["relevance_score"]) for hit in hits)]
            self.documents += len(scores)
            self.answers.append((body, scores))


class Server:
    """`prorank serve` as a process, ready."""

    def __init__(self, options: argparse.Namespace) -> None:
        command = [sys.executable, "-m", "prorank", "serve", "--model", options.model, "--port", "0"]
        command += ["--dtype", options.dtype, *(["--compile"] if options.compile else []), *options.serve]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        atexit.register(self.process.kill)  # also after errors
        self.port = self._line("listening")["port"]
        self._line("ready")
        # Drop the rest of the log, so that the pipe does not fill.
        self.drain = subprocess.Popen(["cat"], stdin=self.process.stderr, stdout=subprocess.DEVNULL)

    def _line(self, event: str) -> dict:
        for text in self.process.stderr:
            if text.startswith("{") and (line := json.loads(text))["event"] == event:
                return line
        raise SystemExit("the server did not start")

    def client(self, max_connections: int) -> httpx2.AsyncClient:
        limits = httpx2.Limits(max_connections=max_connections)
        return httpx2.AsyncClient(base_url=f"http://127.0.0.1:{self.port}", timeout=600, limits=limits)

    @property
    def seconds(self) -> float:
        """Processor time that it has used (Linux only)."""
        parts = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(parts[11]) + int(parts[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(600)


async def often(client: httpx2.AsyncClient, seen: Seen, bodies: Iterator[Body], until: float) -> None:
    """Send requests one after the other until the end of the time."""
    while time.perf_counter() < until:
        await seen.send(client, next(bodies))


async def crowd(server: Server, bodies: list[Body], clients: int, seconds: float) -> tuple[Seen, float, float]:
    """Return (results of many clients, documents per second, documents per second of processor time)."""
    seen, begin, used, rotation = Seen(), time.perf_counter(), server.seconds, cycle(bodies)  # each equally often
    async with server.client(clients) as client:
        await asyncio.gather(*(often(client, seen, rotation, begin + seconds) for _ in range(clients)))
    return seen, seen.documents / (time.perf_counter() - begin), seen.documents / (server.seconds - used)


async def beside(server: Server, small: list[Body], large: list[Body], times: int) -> tuple[Seen, Seen]:
    """Return results of one client of small requests, alone and together with a client for each of the large ones."""
    alone, among = Seen(), Seen()
    async with server.client(len(large) + 1) as client:
        for body in small[:times]:
            await alone.send(client, body)
        others = [asyncio.create_task(often(client, Seen(), repeat(body), float("inf"))) for body in large]
        await asyncio.sleep(3 * statistics.median(alone.seconds))
        for body in small[:times]:
            await among.send(client, body)
        for other in others:
            other.cancel()
        await asyncio.gather(*others, return_exceptions=True)
    return alone, among


def offline(reranker: Reranker, bodies: list[Body], seconds: float) -> tuple[float, float]:
    """Return documents per second, and per second of processor time, of the engine on all bodies, for at least `seconds`."""
    done, begin, used = 0, time.perf_counter(), time.process_time()
    while not done or time.perf_counter() - begin < seconds:
        reranker.score_lists([body["query"] for body in bodies], [body["documents"] for body in bodies])
        done += sum(len(body["documents"]) for body in bodies)
    return done / (time.perf_counter() - begin), done / (time.process_time() - used)


def differences(reranker: Reranker, answers: list[tuple[Body, list[float]]], limit: int) -> np.ndarray:
    """Return the differences between the server's and the library's scores, for the first answers of each body."""
    first = {id(body): (body, scores) for body, scores in reversed(answers)}
    compared = list(first.values())[:limit]
    rows = reranker.score_lists([body["query"] for body, _ in compared], [body["documents"] for body, _ in compared])
    return np.concatenate([np.abs(row - np.array(scores)) for row, (_, scores) in zip(rows, compared)])


def p95(seconds: list[float]) -> float:
    return sorted(seconds)[min(len(seconds) - 1, int(0.95 * len(seconds)))]


def requests_of(options: argparse.Namespace) -> tuple[list[Body], list[Body], list[Body]]:
    """Return (usual, small, large) requests from a collection's lists."""
    lists, rng = real_lists(options.data, options.queries, 100), random.Random(0)
    pool = list(dict.fromkeys(text for documents in lists.documents for text in documents))
    usual = [{"query": q, "documents": documents[: options.documents]} for q, documents in zip(lists.queries, lists.documents)]
    small = [{"query": q, "documents": documents[: options.small]} for q, documents in zip(lists.queries, lists.documents)]
    large = [{"query": q, "documents": rng.choices(pool, k=options.large)} for q in lists.queries[:2]]
    return usual, small * (1 + options.times // len(small)), large


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--data", default="dl19", help="collection in PRORANK_DATA")
    parser.add_argument("--queries", type=int, default=40)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--documents", type=int, default=20, help="documents of a usual request")
    parser.add_argument("--small", type=int, default=10, help="documents of a small request")
    parser.add_argument("--large", type=int, default=1000, help="documents of a large request")
    parser.add_argument("--times", type=int, default=30, help="number of small requests, alone and together with two large ones")
    parser.add_argument("--offline-seconds", type=float, default=30.0, help="minimum seconds of the offline engine")
    parser.add_argument("--check", type=int, default=40, help="number of requests whose scores are compared")
    parser.add_argument("--threads", type=int, default=int(os.environ.get("OMP_NUM_THREADS", os.cpu_count())))
    parser.add_argument("serve", nargs="*", help="options of prorank serve, after --")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    torch.set_num_threads(options.threads)
    usual, small, large = requests_of(options)
    reranker = Reranker(options.model, dtype=options.dtype, compile=options.compile)
    say("offline engine")
    before = offline(reranker, usual, options.offline_seconds)
    server = Server(options)
    say(f"{options.clients} clients for {options.minutes:g} minutes")
    seen, rate, per_processor = asyncio.run(crowd(server, usual, options.clients, 60 * options.minutes))
    say(f"{options.small} documents, alone and together with two of {options.large}")
    alone, among = asyncio.run(beside(server, small, large, options.times))
    code = server.stop()
    say("offline engine again")
    after = offline(reranker, usual, options.offline_seconds)
    off = differences(reranker, seen.answers, options.check)
    engine, alike = ((a + b) / 2 for a, b in zip(before, after))
    statuses = seen.statuses + alone.statuses + among.statuses
    figures = {
        "server_documents_per_second": rate, "engine_before": before[0], "engine_after": after[0], "ratio": rate / engine,
        "ratio_by_processor_time": per_processor / alike,
        "p50": statistics.median(seen.seconds), "p95": p95(seen.seconds), "small_alone_p95": p95(alone.seconds),
        "small_beside_p95": p95(among.seconds), "small_ratio": p95(among.seconds) / p95(alone.seconds),
        "largest_difference": float(off.max()), "mean_difference": float(off.mean()), "compared": len(off),
        "statuses": {str(k): v for k, v in statuses.items()}, "exit_code": code,
    }  # fmt: skip
    for name, value in figures.items():
        print(f"{name:<30}{value:>12.4f}" if isinstance(value, float) else f"{name:<30}{value!s:>12}")
    print(json.dumps({"serve_load": figures, **vars(options), **machine("fastapi", "uvicorn")}))
    sys.exit(int(bool(set(statuses) - {200, 429}) or code != 0))


if __name__ == "__main__":
    main()
