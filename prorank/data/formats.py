"""Read training groups from BEIR folders, `ir_datasets:NAME`, JSONL pairs or lists, and CSV or TSV tables, plain or gzip.

`write_groups` and `read_groups` keep grades and teacher scores; only the order changes (relevant documents first). A text has one
label per query in all formats, see `judgements`.

    {"query": "…", "document": "…", "label": 1}     pairs; optional query_id, doc_id
    {"query": "…", "pos": ["…"], "neg": ["…"]}      lists; optional query_id, pos_ids, neg_ids, pos_labels (grades > 0),
                                                    pos_scores, neg_scores (of a teacher), as in FlagEmbedding's files
    Tevatron's passages and triplets                see `other_formats`
    tables: .csv, .tsv                              see `labelled_tables`
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..errors import DataError
from ..utils.files import atomic_file
from .beir import Collection, read_beir, read_texts
from .examples import Group
from .irds import is_irds, read_irds, read_irds_texts
from .jsonl import filled, get, id_of, ids_of, line_of, number_of, numbers, objects, strings
from .judgements import Judgements, Key, settled_lists
from .labelled_tables import PAIRS, training_rows
from .other_formats import foreign_groups, is_foreign, triple_groups
from .tables import is_table
from .trec import read_qrels, read_run, write_run

__all__ = [
    "Collection", "is_collection", "read_beir", "read_collection", "read_collection_texts", "read_groups", "write_groups",
    "read_qrels", "read_run", "write_run",
]  # fmt: skip


def is_collection(source: str | Path) -> bool:
    """Whether a source keeps documents, queries and labels separately: a folder or a name of ir_datasets."""
    return is_irds(source) or Path(source).is_dir()


def read_collection(
    source: str | Path, split: str = "test", qrels: str | Path | None = None, exclude: str | Path | None = None,
    documents: Iterable[str] | None = None,
) -> Collection:  # fmt: skip
    """Read a BEIR folder (see `read_beir`) or `ir_datasets:NAME` (see `read_irds`).

    Args:
        source: folder or name.
        split: split of a BEIR folder; the names of ir_datasets contain it.
        qrels, exclude: see `read_beir`.
        documents: ids of documents to read from ir_datasets in addition to the labelled ones; None for all.
    """
    return read_irds(source, qrels, exclude, documents) if is_irds(source) else read_beir(source, split, qrels, exclude)


def read_collection_texts(
    source: str | Path, queries: Iterable[str], documents: Iterable[str]
) -> tuple[dict[str, str], dict[str, str]]:
    """Read the texts with these ids from a collection, without its labels.

    Returns:
        (documents, queries), each text by id. Ids without a text are left out.
    """
    if is_irds(source):
        return read_irds_texts(source, queries, documents)
    corpus, known = read_texts(source)
    return {i: corpus[i] for i in documents if i in corpus}, {i: known[i] for i in queries if i in known}


def read_groups(path: str | Path, split: str = "train") -> list[Group]:
    """Read training groups from a BEIR folder or `ir_datasets:NAME`, a JSONL file, a table, or a file of another package.

    The format is recognised by the file name, the keys of the first line (JSONL) or the header (.csv, .tsv). Collections need
    judged
    non-relevant documents. Grades and teacher scores are kept.

    Args:
        path: folder, file or name.
        split: split of a BEIR folder.

    Raises:
        DataError: a line is malformed (file:line), or a collection has no judged non-relevant documents and needs mining.
    """
    if is_collection(path):
        return _judged_groups(path, split)
    path = Path(path)
    if is_table(path):
        form, records = training_rows(path)
        return _pair_groups(path, records) if form == PAIRS else triple_groups(path, records)
    rows = list(objects(path))
    if not rows:
        raise DataError(f"{path}: the file is empty; expected JSONL pairs or lists")
    number, first = rows[0]
    if "pos" in first or "neg" in first:
        return settled_lists(path, rows, _list_group)
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
            f"{collection.qrels_path or source}: only relevant documents are labelled, but training also needs others; "
            f"run `prorank mine {source} lists.jsonl{of_split}` and train on lists.jsonl"
        )
    judgements, groups = Judgements(source), []
    for qid, row in collection.qrels.items():
        if row:  # no labels remain if all are excluded
            texts = tuple(collection.corpus[doc] for doc in row)
            groups.append(Group(collection.queries[qid], texts, tuple(map(float, row.values())), qid, tuple(row)))
            judgements.add_group(groups[-1], f"query {qid}")
    return judgements.settle(groups)


def _pair_groups(path: Path, rows: Iterable[tuple[int, dict]]) -> list[Group]:
    """Join pairs by query id, or by the query's text if it has no id. Each text is kept once, with its first id."""
    judgements = Judgements(path)
    known: dict[str, Key] = {}
    ids: dict[tuple[Key, str], str] = {}
    for number, row in rows:
        where = f"{path}:{number}"
        query, qid = filled(row, "query", where), id_of(row, "query_id", where, "")
        text, doc_id = get(row, "document", str, where), id_of(row, "doc_id", where, "")
        key = known.setdefault(qid or f"\n{query}", (qid, query))
        if key[1] != query:
            raise DataError(f"{where}: query_id {qid!r} has another query in an earlier line: {key[1][:60]!r}")
        judgements.add(key, text, number_of(row.get("label"), f"{where}: 'label'", low=0.0), number)
        ids[key, text] = ids.get((key, text)) or doc_id
    judgements.warn()
    return [_gathered(key, labels, [ids[key, text] for text in labels]) for key, labels in judgements.labels.items()]


def _gathered(key: Key, labels: dict[str, float], ids: list[str]) -> Group:
    return Group(key[1], tuple(labels), tuple(labels.values()), key[0], tuple(ids) if all(ids) else ())


def _list_group(row: dict, where: str) -> Group:
    """Make a group from one line in list format."""
    query, pos, neg = filled(row, "query", where), strings(row, "pos", where), strings(row, "neg", where)
    if not pos + neg:
        raise DataError(f"{where}: 'pos' and 'neg' are both empty")
    labels = numbers(row, "pos_labels", len(pos), where, low=0.0) or [1.0] * len(pos)
    if 0.0 in labels:
        raise DataError(f"{where}: 'pos_labels' must be > 0")
    if (row.get("pos_scores") is None) != (row.get("neg_scores") is None):
        raise DataError(f"{where}: 'pos_scores' and 'neg_scores' must be given together")
    teacher = numbers(row, "pos_scores", len(pos), where) + numbers(row, "neg_scores", len(neg), where)
    ids = ids_of(row, "pos_ids", where) + ids_of(row, "neg_ids", where)
    if ids and len(ids) != len(pos + neg):
        raise DataError(f"{where}: {len(pos + neg)} documents but {len(ids)} ids in 'pos_ids' and 'neg_ids'")
    qid, ids = id_of(row, "query_id", where, ""), ids if all(ids) else []
    return Group(query, (*pos, *neg), (*labels, *[0.0] * len(neg)), qid, tuple(ids), tuple(teacher) or None)


def write_groups(path: str | Path, groups: list[Group]) -> None:
    """Write groups as JSONL lists that `read_groups` reads, relevant documents first. The file is replaced atomically.

    `pos_labels` is written if a grade is not 1, ids and teacher scores if the group has them.
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
