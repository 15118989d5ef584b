"""Training data in the forms of other packages: Tevatron's passages, triplets as sentence-transformers and MS MARCO have them.

Hard fact: a query's triplets become one list, its documents in the order in which they first come; a text that is relevant
in one of them is relevant in all.

    {"query_id": "1", "query": "…", "positive_passages": [{"docid": "d", "title": "…", "text": "…"}], "negative_passages": […]}
    {"anchor": "…", "positive": "…", "negative": "…"}     or with "query", and negative_1, negative_2, …; a line may lack negatives
    query<TAB>positive<TAB>negative                       triples.train.tsv
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from ..errors import DataError
from .examples import Group
from .jsonl import filled, get
from .trec import numbered_lines

Triplet = tuple[str, list[str], list[str]]  # query, relevant texts, others


def is_foreign(row: dict) -> bool:
    """Whether a file's first object is in one of the forms above."""
    return "positive_passages" in row or "positive" in row


def foreign_groups(path: Path, rows: Iterable[tuple[int, dict]]) -> list[Group]:
    """Groups of objects in the forms above. Raises DataError with file and line."""
    rows = list(rows)
    if "positive_passages" in rows[0][1]:
        return [_passages(row, f"{path}:{number}") for number, row in rows]
    return _gathered(_triplet(row, f"{path}:{number}") for number, row in rows)


def tsv_groups(path: Path) -> list[Group]:
    """Groups of a file of triples, three columns a line. Raises DataError with file and line."""
    return _gathered(_columns(path))


def _columns(path: Path) -> Iterator[Triplet]:
    for number, line in numbered_lines(path):
        columns = line.rstrip("\r\n").split("\t")
        if len(columns) != 3 or not all(column.strip() for column in columns):
            raise DataError(f"{path}:{number}: expected query, positive and negative with tabs between, got {len(columns)} columns")
        yield columns[0], [columns[1]], [columns[2]]


def _triplet(row: dict, where: str) -> Triplet:
    query = filled(row, "anchor" if "anchor" in row else "query", where)
    negatives = [key for key in row if key == "negative" or (key.startswith("negative_") and key[9:].isdigit())]
    return query, [get(row, "positive", str, where)], [get(row, key, str, where) for key in negatives]


def _gathered(triplets: Iterable[Triplet]) -> list[Group]:
    """One group a query, with each text once."""
    by_query: dict[str, dict[str, float]] = {}
    for query, positives, negatives in triplets:
        labels = by_query.setdefault(query, {})
        for text, label in [*((one, 1.0) for one in positives), *((one, 0.0) for one in negatives)]:
            labels[text] = max(label, labels.get(text, 0.0))
    if not by_query:
        raise DataError("no triplets in the file")
    return [Group(query, tuple(labels), tuple(labels.values())) for query, labels in by_query.items()]


def _passages(row: dict, where: str) -> Group:
    query, qid = filled(row, "query", where), get(row, "query_id", str, where, "")
    documents, labels, ids = [], [], []
    for key, label in (("positive_passages", 1.0), ("negative_passages", 0.0)):
        for passage in get(row, key, list, where):
            if not isinstance(passage, dict):
                raise DataError(f"{where}: '{key}' must hold objects with 'text', got {str(passage)[:60]!r}")
            title = get(passage, "title", str, where, "")
            documents.append(f"{title} {get(passage, 'text', str, where)}".strip())
            labels.append(label)
            ids.append(get(passage, "docid", str, where, ""))
    if not documents:
        raise DataError(f"{where}: no passages")
    return Group(query, tuple(documents), tuple(labels), qid, tuple(ids) if all(ids) else ())
