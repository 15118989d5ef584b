"""Sample (query, document) pairs to label, from the run of a first stage or from click logs.

A ranking is divided into equal parts, and one pair is sampled from each. So the labels cover both head and tail of the lists that
the model will rank; with the head only, it would not learn about easy documents.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from random import Random
from typing import Any

from ..errors import DataError
from ..utils.files import atomic_file
from .beir import read_texts
from .jsonl import filled, get, line_of, objects
from .trec import read_run


def pairs_of_run(run: str | Path, dataset: str | Path, per_query: int, depth: int = 100, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Sample pairs {"query", "document", "query_id", "doc_id", "rank"} from a TREC run.

    Args:
        run: the run.
        dataset: BEIR folder with the texts. It needs no labels. Documents without a text are left out.
        per_query: number of pairs per query.
        depth: lowest rank to use.
        seed: seed of the sample.

    Raises:
        DataError: none of the run's queries has a text.
    """
    corpus, queries = read_texts(dataset)
    known = {qid: list(scores)[:depth] for qid, scores in read_run(run).items() if qid in queries}
    if not known:
        raise DataError(f"{run}: none of its queries is in the queries of {dataset}")
    for qid, ranking in known.items():
        candidates = [(rank, doc) for rank, doc in enumerate(ranking, 1) if corpus.get(doc)]
        for rank, doc in spread(candidates, per_query, f"pairs/{seed}/{qid}"):
            yield {"query": queries[qid], "document": corpus[doc], "query_id": qid, "doc_id": doc, "rank": rank}


def pairs_of_clicks(path: str | Path, per_query: int, depth: int = 100, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Sample pairs {"query", "document", "rank", "clicked"} from a log of {"query", "shown": [{"text", "clicked"}, …]}.

    Lines with the same query are merged: a document keeps its best rank, and is clicked if it was clicked in any line. Raises
    DataError naming file and line.

    Args:
        path: JSONL file.
        per_query, depth, seed: see `pairs_of_run`.
    """
    logs: dict[str, dict[str, tuple[int, bool]]] = {}
    for number, row in objects(path):
        where = f"{path}:{number}"
        query = filled(row, "query", where)
        shown = logs.setdefault(query.strip(), {})
        for rank, one in enumerate(get(row, "shown", list, where)[:depth], 1):
            place = f"{where}: shown[{rank - 1}]"
            if not isinstance(one, dict):
                raise DataError(f"{place}: expected an object with text and clicked, got {json.dumps(one)[:40]}")
            text, clicked = get(one, "text", str, place), get(one, "clicked", bool, place)
            before = shown.get(text, (rank, False))
            shown[text] = min(before[0], rank), before[1] or clicked
    if not logs:
        raise DataError(f"{path}: the log is empty")
    for query, shown in logs.items():
        candidates = sorted((rank, text) for text, (rank, _) in shown.items() if text.strip())
        for rank, text in spread(candidates, per_query, f"pairs/{seed}/{query}"):
            yield {"query": query, "document": text, "rank": rank, "clicked": shown[text][1]}


def spread(items: list[Any], count: int, seed: str) -> list[Any]:
    """Sample `count` items, one from each of `count` equal parts of the list, in order.

    Args:
        items: the list. All items are returned if there are fewer than `count`.
        count: number of items.
        seed: seed of the sample.

    Raises:
        DataError: `count` is below 1.
    """
    if count < 1:
        raise DataError(f"at least 1 pair per query is needed, got {count}")
    if len(items) <= count:
        return items
    rng = Random(seed)
    edges = [len(items) * i // count for i in range(count + 1)]
    return [items[rng.randrange(low, high)] for low, high in zip(edges, edges[1:])]


def write_pairs(rows: Iterable[dict[str, Any]], out: str | Path) -> str:
    """Write pairs as JSONL, each (query, document) once. The file is replaced atomically. Returns a one-line summary."""
    seen: set[tuple[str, str]] = set()
    queries, doubled = set(), 0
    with atomic_file(out) as handle:
        for row in rows:
            key = row["query"], " ".join(row["document"].split())
            doubled += key in seen
            if key not in seen:
                handle.write(line_of(row))
            seen.add(key)
            queries.add(row["query"])
    return f"{out}: {len(seen)} pairs of {len(queries)} queries; {doubled} duplicates left out"
