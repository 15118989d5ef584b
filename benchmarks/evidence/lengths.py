"""nDCG@10 by length of documents and of queries, from the scores that other commands have stored.

    PRORANK_DATA=... python -m benchmarks.evidence.lengths runs/default/tests --systems second minilm

A query belongs to the bucket of its own number of words, and of the median number of words of its candidates. Scores are those of
`prorank evaluate --out FOLDER` and of the other tables, on the protocol lists (FOLDER/scores or FOLDER/lists/scores) and on the dev
sets (FOLDER/dev/scores).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.protocol import DEV, PROTOCOL, are_stored, ndcg_of, stored, task_of
from prorank.evaluate.candidates import Task

DOCUMENT_WORDS = (30, 60, 120, 240)  # upper bounds of the buckets, in words
QUERY_WORDS = (4, 8, 16, 32)
BM25 = "BM25"


def bucket(words: float, bounds: Sequence[int]) -> str:
    """Return the name of the bucket: "up to 30", "31-60", …, "above 240"."""
    lower = 0
    for bound in bounds:
        if words <= bound:
            return f"{lower + 1}-{bound}" if lower else f"up to {bound}"
        lower = bound
    return f"above {lower}"


def names_of(bounds: Sequence[int]) -> list[str]:
    """Return the names of all buckets, in order."""
    return [bucket(bound, bounds) for bound in (*bounds, bounds[-1] + 1)]


def lengths_of(task: Task, query: str, top_k: int) -> tuple[int, float]:
    """Return (words of the query, median words of its candidates)."""
    head = task.head(query, top_k)[0]
    return len(task.collection.queries[query].split()), median(len(task.text(document).split()) for document in head)


def complete(folder: Path, systems: Sequence[str], top_k: int) -> Iterator[tuple[Task, Path]]:
    """Yield each list for which all systems have stored scores, with the folder of the scores."""
    for kind, sets in (("lists", PROTOCOL), ("dev", DEV)):
        for name in sets:
            task = task_of(name, pool=kind == "dev", top_k=top_k)
            for out in (folder / kind, folder):
                if are_stored([task], systems, out):
                    yield task, out
                    break


def rows(folder: Path, systems: Sequence[str], top_k: int) -> list[tuple[int, float, list[float]]]:
    """Return (words of the query, words of its candidates, [nDCG@10 of BM25 and of each system]) of every query."""
    measured = []
    for task, out in complete(folder, systems, top_k):
        values = [ndcg_of(task), *(ndcg_of(task, stored(task, system, out, top_k), top_k) for system in systems)]
        measured += [(*lengths_of(task, query, top_k), [one[query] for one in values]) for query in values[0]]
    return measured


def table(title: str, of: Sequence[tuple[float, list[float]]], bounds: Sequence[int], systems: Sequence[str]) -> None:
    """Print a Markdown table with a row per bucket."""
    print(f"| {title} | queries | {' | '.join((BM25, *systems))} |\n|" + "---|" * (len(systems) + 3))
    for name in names_of(bounds):
        values = np.array([row for words, row in of if bucket(words, bounds) == name])
        if len(values):
            print(f"| {name} | {len(values)} | " + " | ".join(f"{mean:.4f}" for mean in values.mean(0)) + " |")


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder of the scores")
    parser.add_argument("--systems", nargs="+", required=True, help="names of the systems, as in the files of the scores")
    parser.add_argument("--top-k", type=int, default=100, help="candidates that were reranked")
    options = parser.parse_args()
    measured = rows(options.folder, options.systems, options.top_k)
    if not measured:
        raise SystemExit(f"{options.folder}: no list has stored scores of all of {', '.join(options.systems)}")
    table("words of a document", [(documents, values) for _, documents, values in measured], DOCUMENT_WORDS, options.systems)
    table("words of a query", [(query, values) for query, _, values in measured], QUERY_WORDS, options.systems)


if __name__ == "__main__":
    main()
