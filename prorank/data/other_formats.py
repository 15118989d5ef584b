"""Read training data in the formats of other packages: Tevatron's passages and sentence-transformers' triplets.

The triplets of a query become one list, with its documents in order of first occurrence.

    {"query_id": "1", "query": "…", "positive_passages": [{"docid": "d", "title": "…", "text": "…"}], "negative_passages": […]}
    {"anchor": "…", "positive": "…", "negative": "…"}     or with "query", and negative_1, negative_2, …; negatives are optional

MS MARCO's triples.train.tsv is read as triplets, see `labelled_tables`.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ..errors import DataError
from .examples import Group
from .jsonl import filled, get, id_of
from .judgements import Judgements, settled_lists


def is_foreign(row: dict) -> bool:
    """Whether the first object of a file is in one of these formats."""
    return "positive_passages" in row or "positive" in row


def foreign_groups(path: Path, rows: Iterable[tuple[int, dict]]) -> list[Group]:
    """Make groups of objects in these formats. Raises DataError naming file and line."""
    rows = list(rows)
    return settled_lists(path, rows, _passages) if "positive_passages" in rows[0][1] else triple_groups(path, rows)


def triple_groups(path: Path, rows: Iterable[tuple[int, dict]]) -> list[Group]:
    """Make one group per query of triplets, with each text once. Raises DataError naming file and line."""
    judgements = Judgements(path)
    for number, row in rows:
        query, positive, negatives = _triplet(row, f"{path}:{number}")
        for text, label in ((positive, 1.0), *((negative, 0.0) for negative in negatives)):
            judgements.add(("", query), text, label, number)
    if not judgements.labels:
        raise DataError(f"{path}: no triplets in the file")
    judgements.warn()
    return [Group(query, tuple(labels), tuple(labels.values())) for (_, query), labels in judgements.labels.items()]


def _triplet(row: dict, where: str) -> tuple[str, str, list[str]]:
    """(query, relevant text, other texts)."""
    query = filled(row, "anchor" if "anchor" in row else "query", where)
    keys = [key for key in row if key == "negative" or (key.startswith("negative_") and key[9:].isdigit())]
    negatives = [get(row, key, str, where, None) for key in keys]
    return query, get(row, "positive", str, where), [text for text in negatives if text is not None]


def _passages(row: dict, where: str) -> Group:
    query, qid = filled(row, "query", where), id_of(row, "query_id", where, "")
    documents, labels, ids = [], [], []
    for key, label in (("positive_passages", 1.0), ("negative_passages", 0.0)):
        for passage in get(row, key, list, where):
            if not isinstance(passage, dict):
                raise DataError(f"{where}: '{key}' must contain objects with 'text', got {str(passage)[:60]!r}")
            title = get(passage, "title", str, where, "")
            documents.append(f"{title} {get(passage, 'text', str, where)}".strip())
            labels.append(label)
            ids.append(id_of(passage, "docid", where, ""))
    if not documents:
        raise DataError(f"{where}: no passages")
    return Group(query, tuple(documents), tuple(labels), qid, tuple(ids) if all(ids) else ())
