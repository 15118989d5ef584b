"""Measure ONNX exports: size, speed and ranking quality of the graphs in fp32 and int8 against the engine, on the same lists.

Use a trained checkpoint: an untrained one ranks too poorly to show a loss.

    PRORANK_DATA=... python -m benchmarks.speed.onnx --model prorank-smollm2-135m

Prints one table (documents per second of processor time, loss of nDCG@10 against the engine in fp32, its 95 % bootstrap interval,
Kendall's tau and the largest difference of scores to it) and one JSON line.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import kendalltau

from benchmarks.common import machine, ndcg, say
from benchmarks.protocol import task_of
from prorank import Reranker, export
from prorank.evaluate.significance import bootstrap_ci
from prorank.export.onnx_export import FP32_FILE, INT8_FILE
from prorank.export.onnx_graph import INPUTS, OUTPUT, open_graph

SYSTEMS = ["engine-fp32", "engine-int8", "onnx-fp32", "onnx-int8"]
FILES = {"onnx-fp32": FP32_FILE, "onnx-int8": INT8_FILE}
Score = Callable[[str, Sequence[str]], np.ndarray]  # (query, documents) -> scores


def graph_scorer(folder: Path, file: str, batch_size: int) -> Score:
    """Return a function that scores with a graph: documents sorted by length, in padded batches."""
    from transformers import AutoTokenizer

    tokenizer, session = AutoTokenizer.from_pretrained(folder), open_graph(folder / file)

    def score(query: str, documents: Sequence[str]) -> np.ndarray:
        ids = tokenizer([query] * len(documents), list(documents), truncation="only_second")["input_ids"]
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        scores = np.zeros(len(ids), dtype=np.float32)
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            batch = tokenizer.pad({"input_ids": [ids[i] for i in rows]}, return_tensors="np")
            scores[rows] = session.run([OUTPUT], {name: batch[name].astype(np.int64) for name in INPUTS})[0][:, 0]
        return scores

    return score


def engine_scorer(model: str, dtype: str) -> Score:
    """Return a function that scores with the engine."""
    reranker = Reranker(model, device="cpu", dtype=dtype, long_documents="truncate")
    return lambda query, documents: reranker.score([(query, document) for document in documents])


def measured(score: Score, lists: list[tuple[str, list[str], list[int]]]) -> tuple[list[np.ndarray], float]:
    """Return the scores of each list and the documents per second of processor time, after the first list was scored once.

    Processor time, summed over threads, says the same on a machine that is shared.
    """
    score(*lists[0][:2])
    begin = time.process_time()
    scores = [score(query, documents) for query, documents, _ in lists]
    return scores, sum(map(len, scores)) / (time.process_time() - begin)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="a trained checkpoint")
    parser.add_argument("--graphs", type=Path, help="folder of the model's export; by default it is exported anew")
    parser.add_argument("--dev", default="trecqa", help="set whose judged pools of the dev split are ranked")
    parser.add_argument("--limit", type=int, help="queries; all by default")
    parser.add_argument("--documents", type=int, default=100, help="documents per query")
    parser.add_argument("--batch-size", type=int, default=8, help="documents in a batch of a graph")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--systems", nargs="*", default=SYSTEMS, choices=SYSTEMS, help="the first one is what the others are compared to"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    task = task_of(options.dev, pool=True, top_k=options.documents, limit=options.limit)
    lists = []
    for query in task.queries:
        documents = task.head(query, options.documents)[0]
        labels = [task.qrels[query].get(document, 0) for document in documents]
        lists.append((task.collection.queries[query], [task.text(document) for document in documents], labels))
    results: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as place:
        folder = options.graphs or export(options.model, Path(place) / "graphs", format="onnx").folder
        reference: list[np.ndarray] = []
        for name in options.systems:
            file = folder / FILES[name] if name in FILES else None
            score = graph_scorer(folder, FILES[name], options.batch_size) if file else engine_scorer(options.model, name[-4:])
            scores, speed = measured(score, lists)
            reference = reference or scores
            values = [ndcg(labels, row) for (_, _, labels), row in zip(lists, scores)]
            results[name] = {
                "megabytes": file.stat().st_size / 1e6 if file else None, "documents_per_second": speed, "ndcg": values,
                "largest": max(float(np.abs(a - b).max()) for a, b in zip(scores, reference)),
                "tau": statistics.mean(kendalltau(a, b).statistic for a, b in zip(scores, reference) if len(a) > 1),
            }  # fmt: skip
            say(f"{name}: {speed:.1f} documents/s, nDCG@10 {statistics.mean(values):.4f}")
    print_table(results)
    for row in results.values():
        row["ndcg"] = statistics.mean(row["ndcg"])
    count = sum(len(documents) for _, documents, _ in lists)
    print(
        json.dumps({"onnx": results, "queries": len(lists), "pairs": count, **vars(options), **machine("onnxruntime")}, default=str)
    )


def print_table(results: dict[str, dict[str, Any]]) -> None:
    """Print size, speed, quality and distance to the first system of each."""
    first = next(iter(results.values()))["ndcg"]
    print(f"{'':<14}{'MB':>8}{'docs/s':>8}{'nDCG@10':>9}{'loss':>9}  {'95 % interval':<18}{'tau':>8}{'largest':>9}")
    for name, row in results.items():
        loss = [a - b for a, b in zip(first, row["ndcg"])]
        low, high = bootstrap_ci(loss)
        size = "" if row["megabytes"] is None else f"{row['megabytes']:.0f}"
        print(
            f"{name:<14}{size:>8}{row['documents_per_second']:>8.1f}{statistics.mean(row['ndcg']):>9.4f}{statistics.mean(loss):>+9.4f}"
            f"  {f'{low:+.4f} {high:+.4f}':<18}{row['tau']:>8.4f}{row['largest']:>9.1e}"
        )


if __name__ == "__main__":
    main()
