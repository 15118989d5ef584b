"""Documents read once: an index against reading the documents for every query. Time, bytes a document, and ranking quality.

    PRORANK_DATA=... python -m benchmarks.speed.index                        # dl19 and scifact, all queries
    PRORANK_DATA=... python -m benchmarks.speed.index --limit 5 --lists dl19 # a part of it

For every query, its documents are ranked without an index, then indexed and ranked for the first time, then ranked again. Each
query has its own index, so memory stays small. Prints a table for each list and one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from benchmarks.common import Lists, machine, ndcg, real_lists, say
from prorank import Reranker
from prorank.checkpoints.default_model import DEFAULT
from prorank.index.document_index import Index

PLAIN, FIRST, AGAIN = "without an index", "index and first ranking", "from the index"


@dataclass
class Arm:
    """Measurements of one way to rank, over the queries of a list.

    Attributes:
        seconds: of each query.
        quality: nDCG@10 of each query.
        difference: largest difference of a score from that without an index.
        bytes: size of all indexes; documents: number of their documents; tokens: number of the documents' tokens.
    """

    seconds: list[float] = field(default_factory=list)
    quality: list[float] = field(default_factory=list)
    difference: float = 0.0
    bytes: int = 0
    documents: int = 0
    tokens: int = 0

    def add(self, seconds: float, scores: np.ndarray, labels: Sequence[int], plain: np.ndarray) -> None:
        """Add one query."""
        self.seconds.append(seconds)
        self.quality.append(ndcg(labels, scores.tolist()))
        self.difference = max(self.difference, float(np.abs(scores - plain).max()))

    def summary(self) -> dict[str, float]:
        """Return means over queries, and sizes by document."""
        values = {"seconds": float(np.mean(self.seconds)), "ndcg@10": float(np.mean(self.quality)), "difference": self.difference}
        if self.documents:
            values |= {"bytes": self.bytes / self.documents, "tokens": self.tokens / self.documents}
        return values


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    begin = time.perf_counter()
    result = work()
    return result, time.perf_counter() - begin


def measure(reranker: Reranker, lists: Lists, storages: Sequence[str]) -> dict[str, Arm]:
    """Rank every list without an index, and with one of each storage."""
    names = [f"{what} ({storage})" for storage in storages for what in (FIRST, AGAIN)]
    arms = {name: Arm() for name in (PLAIN, *names)}
    for number, (query, documents, labels) in enumerate(zip(lists.queries, lists.documents, lists.labels), 1):
        (plain,), seconds = timed(lambda: reranker.score_lists([query], [documents]))  # noqa: B023 - called at once
        arms[PLAIN].add(seconds, plain, labels, plain)
        for storage in storages:
            index, built = timed(lambda: reranker.index(documents, storage=storage))  # noqa: B023
            scores, first = timed(lambda: index.score(query))  # noqa: B023
            arms[f"{FIRST} ({storage})"].add(built + first, scores, labels, plain)
            scores, again = timed(lambda: index.score(query))  # noqa: B023
            arm = arms[f"{AGAIN} ({storage})"]
            arm.add(again, scores, labels, plain)
            count_sizes(arm, index)
        say(f"{lists.name}: {number} of {len(lists.queries)} queries")
    return arms


def count_sizes(arm: Arm, index: Index) -> None:
    """Add an index's bytes, documents and tokens."""
    arm.bytes += index.nbytes
    arm.documents += len(index)
    arm.tokens += sum(int(segment.lengths.sum()) for segment in index.segments)


def print_table(name: str, queries: int, rows: dict[str, dict[str, float]]) -> None:
    """Print the arms of a list."""
    print(f"\n{name}, {queries} queries")
    print(f"{'':<36}{'s a query':>10}{'times':>8}{'nDCG@10':>9}{'difference':>12}{'kB a document':>15}")
    for arm, row in rows.items():
        size = f"{row['bytes'] / 1000:>15.0f}" if "bytes" in row else ""
        ratio = rows[PLAIN]["seconds"] / row["seconds"]
        print(f"{arm:<36}{row['seconds']:>10.3f}{ratio:>8.2f}{row['ndcg@10']:>9.4f}{row['difference']:>12.5f}{size}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=DEFAULT)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--lists", nargs="*", default=["dl19", "scifact"], help="collections in PRORANK_DATA")
    parser.add_argument("--limit", type=int, help="queries of each list; all by default")
    parser.add_argument("--documents", type=int, default=100, help="documents a query")
    parser.add_argument("--storage", nargs="*", default=["model", "int8"])
    parser.add_argument("--prompt", help="preset, for a checkpoint without a prompt")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    reranker = Reranker(options.model, device="cpu", dtype=options.dtype, compile=options.compile, prompt=options.prompt)
    results = {}
    for name in options.lists:
        lists = real_lists(name, options.limit or 10**9, options.documents)
        reranker.index(lists.documents[0][:20]).score(lists.queries[0])  # warm-up of both ways
        reranker.score_lists(lists.queries[:1], [lists.documents[0][:20]])
        results[name] = {arm: found.summary() for arm, found in measure(reranker, lists, options.storage).items()}
        print_table(name, len(lists.queries), results[name])
    print(json.dumps({"index": results, "numbers": reranker.runtime.numbers, **vars(options), **machine()}))


if __name__ == "__main__":
    main()
