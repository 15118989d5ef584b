"""Training groups: BEIR folders, `ir_datasets:NAME`, JSONL pairs, JSONL lists; files plain or gzip, told apart by themselves.

Hard fact: grades and teacher scores survive `write_groups` and `read_groups`; relevant ones first is the only change.

    {"query": "…", "document": "…", "label": 1}     pairs; optional query_id, doc_id
    {"query": "…", "pos": ["…"], "neg": ["…"]}      lists; optional query_id, pos_ids, neg_ids, pos_labels (grades > 0),
                                                    pos_scores, neg_scores (a teacher's); FlagEmbedding's files, too
    Tevatron's passages and triplets                see `foreign`
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..errors import DataError
from ..files import atomic_file
from .beir import Collection, read_beir
from .examples import Group
from .foreign import foreign_groups, is_foreign, tsv_groups
from .irds import is_irds, read_irds
from .jsonl import filled, get, line_of, number_of, numbers, objects, strings
from .trec import read_qrels, read_run, write_run

__all__ = [
    "Collection", "is_collection", "read_beir", "read_collection", "read_groups", "write_groups", "read_qrels", "read_run",
    "write_run",
]  # fmt: skip


def is_collection(source: str | Path) -> bool:
    """Whether these data are documents, queries and labels apart: a folder, or a name of ir_datasets."""
    return is_irds(source) or Path(source).is_dir()


def read_collection(
    source: str | Path, split: str = "test", qrels: str | Path | None = None, exclude: str | Path | None = None,
    documents: Iterable[str] | None = None,
) -> Collection:  # fmt: skip
    """A BEIR folder, see `read_beir`, or `ir_datasets:NAME`, see `read_irds`: of that the name stands for the split, and where
    `documents` are given these and the labelled ones alone are read."""
    return read_irds(source, qrels, exclude, documents) if is_irds(source) else read_beir(source, split, qrels, exclude)


def read_groups(path: str | Path, split: str = "train") -> list[Group]:
    """Training groups from a BEIR folder or `ir_datasets:NAME` (with judged non-relevant documents), a JSONL file of pairs or of
    lists, or a file in another package's form (see `foreign`).

    The form is told by folder or file and by the keys of the first line. Grades and teacher scores are kept.

    Args:
        path: folder, file or name.
        split: label file of a BEIR folder.

    Raises:
        DataError: with file:line and what was expected; a folder without judged non-relevant documents is to be mined.
    """
    if is_collection(path):
        return _judged_groups(path, split)
    path = Path(path)
    if path.name.removesuffix(".gz").endswith(".tsv"):
        return tsv_groups(path)
    rows = list(objects(path))
    if not rows:
        raise DataError(f"{path}: the file is empty; expected JSONL pairs or lists")
    number, first = rows[0]
    if "pos" in first or "neg" in first:
        return [_list_group(row, f"{path}:{number}") for number, row in rows]
    if is_foreign(first):
        return foreign_groups(path, rows)
    if "document" in first or "label" in first:
        return _pair_groups(path, rows)
    raise DataError(
        f"{path}:{number}: expected the keys query, document, label (pairs) or query, pos, neg (lists), "
        f"got {', '.join(first) or 'none'}"
    )


def _judged_groups(source: str | Path, split: str) -> list[Group]:
    """Groups of the judged documents of a collection."""
    collection = read_collection(source, split, documents=())
    collection.check_training()
    if all(label > 0 for row in collection.qrels.values() for label in row.values()):
        of_split = "" if is_irds(source) else f" --split {split}"
        raise DataError(
            f"{collection.qrels_path or source}: only relevant documents are labelled, training needs others too; "
            f"run `prorank mine {source} lists.jsonl{of_split}` and train on lists.jsonl"
        )
    return [
        Group(
            collection.queries[qid],
            tuple(collection.corpus[doc] for doc in row),
            tuple(map(float, row.values())),
            qid,
            tuple(row),
        )
        for qid, row in collection.qrels.items()
    ]


def _pair_groups(path: Path, rows: list[tuple[int, dict]]) -> list[Group]:
    """Pairs gathered by query id, or by query text where there is none."""
    gathered: dict[str, tuple[str, str, dict[tuple[str, str], float]]] = {}
    for number, row in rows:
        where = f"{path}:{number}"
        query, qid = filled(row, "query", where), get(row, "query_id", str, where, "")
        doc_id = get(row, "doc_id", str, where, "")
        key = (get(row, "document", str, where), doc_id)
        label = number_of(row.get("label"), f"{where}: 'label'", low=0.0)
        known_query, _, labels = gathered.setdefault(qid or f"\n{query}", (query, qid, {}))
        if known_query != query:
            raise DataError(f"{where}: query_id {qid!r} has another query before: {known_query[:60]!r}")
        if labels.setdefault(key, label) != label:
            raise DataError(f"{where}: label {label:g} here, {labels[key]:g} before, for the same query and document")
    return [_gathered(*entry) for entry in gathered.values()]


def _gathered(query: str, qid: str, labels: dict[tuple[str, str], float]) -> Group:
    ids = tuple(doc_id for _, doc_id in labels)
    return Group(query, tuple(text for text, _ in labels), tuple(labels.values()), qid, ids if all(ids) else ())


def _list_group(row: dict, where: str) -> Group:
    """A group from one line in list form."""
    query, pos, neg = filled(row, "query", where), strings(row, "pos", where), strings(row, "neg", where)
    if not pos + neg:
        raise DataError(f"{where}: 'pos' and 'neg' are both empty")
    labels = numbers(row, "pos_labels", len(pos), where, low=0.0) or [1.0] * len(pos)
    if 0.0 in labels:
        raise DataError(f"{where}: 'pos_labels' must be > 0")
    if ("pos_scores" in row) != ("neg_scores" in row):
        raise DataError(f"{where}: 'pos_scores' and 'neg_scores' must be given together")
    teacher = numbers(row, "pos_scores", len(pos), where) + numbers(row, "neg_scores", len(neg), where)
    ids = [i for key in ("pos_ids", "neg_ids") if key in row for i in strings(row, key, where)]
    if ids and len(ids) != len(pos + neg):
        raise DataError(f"{where}: {len(pos + neg)} documents but {len(ids)} ids in 'pos_ids' and 'neg_ids'")
    qid = get(row, "query_id", str, where, "")
    return Group(query, (*pos, *neg), (*labels, *[0.0] * len(neg)), qid, tuple(ids), tuple(teacher) or None)


def write_groups(path: str | Path, groups: list[Group]) -> None:
    """Write groups as JSONL lists that `read_groups` reads back, relevant documents first; whole or not at all.

    `pos_labels` is written where a grade is not 1, the ids and teacher scores where the group has them.
    """
    with atomic_file(path) as handle:
        for group in groups:
            handle.write(line_of(_as_list(group)))


def _as_list(group: Group) -> dict[str, Any]:
    pos = [i for i, label in enumerate(group.labels) if label > 0]
    neg = [i for i, label in enumerate(group.labels) if label <= 0]
    row: dict[str, Any] = {"query_id": group.query_id} if group.query_id else {}
    row |= {"query": group.query, "pos": [group.documents[i] for i in pos], "neg": [group.documents[i] for i in neg]}
    if any(group.labels[i] != 1 for i in pos):
        row["pos_labels"] = [group.labels[i] for i in pos]
    for name, values in (("ids", group.doc_ids), ("scores", group.teacher)):
        if values:
            row |= {f"pos_{name}": [values[i] for i in pos], f"neg_{name}": [values[i] for i in neg]}
    return row
