"""Measure the loss of ranking quality in int8: nDCG@10 and order against the bf16 engine on the same lists.

Use a trained checkpoint: an untrained one ranks too poorly to show a loss.

    PRORANK_DATA=... python -m benchmarks.speed.int8_loss --model runs/score

Prints one table (loss, its 95 % bootstrap interval, the paired randomisation test) and one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time

import torch
from scipy.stats import kendalltau

from benchmarks.common import machine, ndcg, real_lists, say
from prorank import Reranker
from prorank.evaluate.significance import bootstrap_ci, randomisation_test


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="a trained checkpoint")
    parser.add_argument("--data", nargs="*", default=["dl19", "dl20", "scifact", "cranfield", "npl_vaswani", "dbpedia50"])
    parser.add_argument("--queries", type=int, default=30, help="queries of each collection")
    parser.add_argument("--documents", type=int, default=30, help="documents per query")
    parser.add_argument("--max-length", type=int, help="tokens of a prompt; default: the checkpoint's own")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    how = {"max_length": options.max_length, "compile": True, "long_documents": "truncate"}
    rerankers = [Reranker(options.model, dtype=dtype, **how) for dtype in ("bf16", "int8")]
    rows: dict[str, list[tuple[float, float, float]]] = {}
    seconds, count = [0.0, 0.0], 0
    for name in options.data:
        lists = real_lists(name, options.queries, options.documents)
        scores = []
        for number, reranker in enumerate(rerankers):
            begin = time.perf_counter()
            scores.append(reranker.score_lists(lists.queries, lists.documents))
            seconds[number] += time.perf_counter() - begin
        count += len(lists)
        rows[name] = [(ndcg(l, a), ndcg(l, b), kendalltau(a, b).statistic) for l, a, b in zip(lists.labels, *scores)]
        say(f"{name}: {len(lists)} documents")
    rows["all"] = [row for values in rows.values() for row in values]
    print(f"{'':<14}{'queries':>8}{'bf16':>8}{'int8':>8}{'loss':>8}  {'95 % interval':<18}{'p':>6}{'tau':>8}")
    table = {}
    for name, values in rows.items():
        exact, rough, taus = map(list, zip(*values))
        loss = [a - b for a, b in zip(exact, rough)]
        low, high = bootstrap_ci(loss)
        a, b, mean, p = statistics.mean(exact), statistics.mean(rough), statistics.mean(loss), randomisation_test(exact, rough)
        tau = statistics.mean(taus)
        print(f"{name:<14}{len(values):>8}{a:>8.4f}{b:>8.4f}{mean:>+8.4f}  {f'{low:+.4f} {high:+.4f}':<18}{p:>6.3f}{tau:>8.4f}")
        table[name] = {"bf16": a, "int8": b, "loss": mean, "interval": [low, high], "p": p, "tau": tau}
    speeds = [count / s for s in seconds]
    print(f"documents/s: bf16 {speeds[0]:.1f}, int8 {speeds[1]:.1f}, {speeds[1] / speeds[0]:.2f} times")
    print(json.dumps({"int8_loss": table, "documents_per_second": speeds, **vars(options), **machine()}))


if __name__ == "__main__":
    main()
