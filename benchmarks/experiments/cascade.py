"""Measure a cascade: score the beginnings of all documents, then the whole documents at the head of each list.

The second pass computes the query's prefix again, so it saves less than the share of omitted documents.

    PRORANK_DATA=... python -m benchmarks.experiments.cascade --model runs/score --data dl19 scifact

Prints nDCG@10 and the computed tokens (as a share of those of whole documents) for each length and depth, with the paired test
against whole documents, and one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from typing import Any

import torch

from benchmarks.common import machine, ndcg, real_lists, say
from prorank import Reranker
from prorank.evaluate.significance import randomisation_test


def scored(options: argparse.Namespace, length: int | None, lists: list[Any]) -> list[tuple[Any, list[int]]]:
    """Return (scores, tokens: of the prefix, then of each document) of every list, with prompts of at most `length` tokens."""
    reranker = Reranker(options.model, max_length=length, compile=True, long_documents="truncate")
    rows = []
    for collection in lists:
        for query, documents, row in zip(
            collection.queries, collection.documents, reranker.score_lists(collection.queries, collection.documents)
        ):
            prompts = reranker.encoder.encode_many(query, documents)
            start = prompts[0].document_start
            rows.append((row, [start, *(len(prompt.ids) - start for prompt in prompts)]))
        say(f"{collection.name} at {reranker.encoder.longest} tokens: {reranker.cuts}")
    return rows


def cascade(short: tuple[Any, list[int]], whole: tuple[Any, list[int]], depth: int) -> tuple[list[float], int]:
    """Return (scores of the combined order, computed tokens): the best `depth` documents of the first pass are ordered by the
    second pass, above the rest.
    """
    order = sorted(range(len(short[0])), key=lambda i: -short[0][i])
    head = sorted(order[:depth], key=lambda i: -whole[0][i])
    place = {i: -rank for rank, i in enumerate([*head, *order[depth:]])}
    return [float(place[i]) for i in range(len(order))], sum(short[1]) + whole[1][0] + sum(whole[1][1 + i] for i in head)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="a trained checkpoint")
    parser.add_argument("--data", nargs="*", default=["dl19", "scifact"])
    parser.add_argument("--queries", type=int, default=20, help="queries of each collection")
    parser.add_argument("--documents", type=int, default=100, help="documents per query")
    parser.add_argument("--length", type=int, help="maximum tokens of a prompt; the checkpoint's own by default")
    parser.add_argument("--short", type=int, nargs="*", default=[96, 128], help="maximum tokens of a prompt in the first pass")
    parser.add_argument("--depth", type=int, nargs="*", default=[10, 20, 30, 50], help="documents of the second pass")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    lists = [real_lists(name, options.queries, options.documents) for name in options.data]
    labels = [row for collection in lists for row in collection.labels]
    whole = scored(options, options.length, lists)
    best, cost = [ndcg(y, row) for y, (row, _) in zip(labels, whole)], sum(sum(tokens) for _, tokens in whole)
    print(f"{'first look':>12}{'second look':>13}{'nDCG@10':>9}{'less':>9}{'p':>7}{'tokens':>9}")
    print(f"{'–':>12}{'all':>13}{statistics.mean(best):>9.4f}{'':>9}{'':>7}{'100 %':>9}")
    table = []
    for length in options.short:
        short = scored(options, length, lists)
        for depth in [0, *options.depth]:
            joined = [cascade(a, b, depth) for a, b in zip(short, whole)]
            got = [ndcg(y, row) for y, (row, _) in zip(labels, joined)]
            share = sum(tokens for _, tokens in joined) / cost
            less, p = statistics.mean(best) - statistics.mean(got), randomisation_test(best, got)
            print(f"{length:>12}{depth:>13}{statistics.mean(got):>9.4f}{less:>+9.4f}{p:>7.3f}{100 * share:>7.0f} %")
            table.append({"short": length, "depth": depth, "ndcg": statistics.mean(got), "less": less, "p": p, "tokens": share})
    print(json.dumps({"cascade": table, "whole": statistics.mean(best), "queries": len(best), **vars(options), **machine()}))


if __name__ == "__main__":
    main()
