"""Measure the time from the start of a server until it is ready, by parts, and the first requests.

The first request is sent when the log says "ready". Additional time compared with later requests was not covered by the warm-up.

    python -m benchmarks.speed.serve_ready                               # the default model
    python -m benchmarks.speed.serve_ready --runs 3 -- --dtype fp32      # options of prorank serve after --

Prints a line for each part of each run and one JSON line; `load` is the load of the machine before a run, on which all
figures depend.
"""

from __future__ import annotations

import argparse
import atexit
import json
import os
import statistics
import subprocess
import sys
import time
from typing import Any

import httpx2

from benchmarks.common import machine, say

QUERY = "how do vaccines work"
TEXTS = ["Vaccines train the immune system.", "Bread needs flour.", "A castle stood at the river, a garden lay behind it. " * 12]


class Start:
    """A server that was just started, and the seconds since then."""

    def __init__(self, options: list[str]) -> None:
        self.begin = time.perf_counter()
        command = [sys.executable, "-m", "prorank", "serve", "--port", "0", *options]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        atexit.register(self.process.kill)

    def until_ready(self) -> tuple[int, dict[str, float]]:
        """Return (port, seconds of each part from the log: until it listens, loading, each shape, until it is ready)."""
        port, parts = 0, {}
        for text in self.process.stderr:
            line = json.loads(text) if text.startswith("{") else {"event": text.strip()}
            port = line.get("port", port)
            if line["event"] == "listening":
                parts["until it listens"] = time.perf_counter() - self.begin
            elif line["event"] in ("loaded", "warmed"):
                parts[line.get("shape", "loading")] = line["seconds"]
            elif line["event"] == "ready":
                return port, parts | {"until it is ready": time.perf_counter() - self.begin}
        raise SystemExit(f"the server did not start (exit code {self.process.wait()})")

    def stop(self) -> None:
        self.process.terminate()
        self.process.communicate(timeout=120)


def request_seconds(client: httpx2.Client, documents: int) -> float:
    """Return the seconds of one request."""
    begin = time.perf_counter()
    texts = [f"{TEXTS[at % len(TEXTS)]} {at}" for at in range(documents)]
    client.post("/v1/rerank", json={"query": QUERY, "documents": texts}).raise_for_status()
    return time.perf_counter() - begin


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Measure one run: the parts, the first request, and the median of later ones."""
    load = os.getloadavg()[0]
    server = Start(options.serve)
    port, parts = server.until_ready()
    with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=600, trust_env=False) as client:
        seconds = [request_seconds(client, options.documents) for _ in range(1 + options.times)]
    server.stop()
    steady = statistics.median(seconds[1:])
    return parts | {"first request": seconds[0], "later requests": steady, "ratio": seconds[0] / steady, "load": load}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--documents", type=int, default=2, help="of a request")
    parser.add_argument("--times", type=int, default=10, help="number of requests after the first")
    parser.add_argument("serve", nargs="*", help="options of prorank serve, after --")
    options = parser.parse_args()
    runs = []
    for number in range(options.runs):
        say(f"run {number + 1} of {options.runs}")
        runs.append(measure(options))
        for name, value in runs[-1].items():
            print(f"{name:<40}{value:>10.3f}", flush=True)
    print(json.dumps({"serve_ready": runs, **vars(options), **machine("fastapi", "uvicorn")}))


if __name__ == "__main__":
    main()
