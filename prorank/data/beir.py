"""Read BEIR folders: documents, queries and the labels of one split.

The text of a document is `(title + " " + text).strip()`, as in BEIR. Any other rule changes published scores.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import DataError
from .jsonl import get, id_of, objects
from .trec import Qrels, drop_pairs, iter_qrels, read_exclude, read_qrels


@dataclass
class Collection:
    """Documents, queries and labels.

    Attributes:
        name: name of the folder.
        corpus: text by document id.
        queries: text by query id, for the queries that have labels.
        qrels: label by query id and document id. May contain ids without a text, see `unknown`.
        qrels_path: file of the labels, for error messages.
        excluded: (query id, document id) pairs removed from `qrels`; remove them from runs with `trec.drop_pairs`.
    """

    name: str
    corpus: dict[str, str]
    queries: dict[str, str]
    qrels: Qrels
    qrels_path: Path | None = None
    excluded: frozenset[tuple[str, str]] = field(default_factory=frozenset)

    def unknown(self) -> tuple[list[tuple[str, str]], list[str]]:
        """Labels without texts.

        Returns:
            (labelled pairs of query id and document id whose document has no text, labelled query ids without a text).
        """
        documents = [(qid, doc) for qid, row in self.qrels.items() for doc in row if doc not in self.corpus]
        return documents, [qid for qid in self.qrels if qid not in self.queries]

    def check_training(self) -> None:
        """Raise DataError if a label is negative or names an unknown query or document, unless the pair is excluded.

        The message names file and line.
        """
        rows = iter_qrels(self.qrels_path) if self.qrels_path else self._rows()
        for number, qid, doc_id, label in rows:
            if (qid, doc_id) in self.excluded:
                continue
            where = f"{self.qrels_path}:{number}" if self.qrels_path else self.name
            if qid not in self.queries:
                raise DataError(f"{where}: query {qid!r} is not in the queries")
            if doc_id not in self.corpus:
                raise DataError(f"{where}: document {doc_id!r} (query {qid!r}) is not in the corpus")
            if label < 0:
                raise DataError(f"{where}: label {label} is out of range; training labels are >= 0")

    def _rows(self) -> Iterator[tuple[int, str, str, int]]:
        return ((0, qid, doc, label) for qid, row in self.qrels.items() for doc, label in row.items())


def read_beir(
    folder: str | Path, split: str = "test", qrels: str | Path | None = None, exclude: str | Path | None = None
) -> Collection:
    """Read a BEIR folder: corpus.jsonl, queries.jsonl and qrels/SPLIT.tsv, each plain or with .gz.

    Labels may name documents without a text; evaluation counts them, and training rejects them (`Collection.check_training`).

    Args:
        folder: the folder.
        split: name of the split.
        qrels: label file to use instead of the split's, in TREC or BEIR format.
        exclude: file of (query id, document id) pairs to leave out.

    Raises:
        DataError: a file is missing, a line is malformed, an id occurs twice, the corpus is empty, or no labelled query has a text.
    """
    folder = _checked(folder)
    qrels_path = Path(qrels) if qrels else _split_file(folder, split)
    excluded = read_exclude(exclude) if exclude else frozenset()
    labels = drop_pairs(read_qrels(qrels_path), excluded)
    corpus, queries = read_texts(folder)
    used = {qid: queries[qid] for qid in labels if qid in queries}
    if not used:
        raise DataError(f"{qrels_path}: none of its {len(labels)} queries is in {folder / 'queries.jsonl'}")
    return Collection(folder.resolve().name, corpus, used, labels, qrels_path, excluded)


def read_texts(folder: str | Path) -> tuple[dict[str, str], dict[str, str]]:
    """Read the texts of a BEIR folder without its labels.

    Returns:
        (documents, queries), each text by id.

    Raises:
        DataError: see `read_beir`.
    """
    folder = _checked(folder)
    return _texts(_existing_file(folder, "corpus.jsonl")), _texts(_existing_file(folder, "queries.jsonl"), titles=False)


def _checked(folder: str | Path) -> Path:
    """Return the folder as a Path. Raises DataError if it does not exist."""
    if not Path(folder).is_dir():
        raise DataError(f"{folder}: no such folder; expected a BEIR folder with corpus.jsonl, queries.jsonl, qrels/")
    return Path(folder)


def find_file(folder: Path, name: str) -> Path | None:
    """Return `folder/name` or `folder/name.gz`, the first that exists; None if neither does."""
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def _existing_file(folder: Path, name: str) -> Path:
    """`find_file`. Raises DataError if there is none."""
    path = find_file(folder, name)
    if path is None:
        raise DataError(f"{folder / name}: no such file; a BEIR folder contains corpus.jsonl, queries.jsonl, qrels/SPLIT.tsv")
    return path


def _split_file(folder: Path, split: str) -> Path:
    path = find_file(folder / "qrels", f"{split}.tsv")
    if path is not None:
        return path
    known = sorted(p.name.split(".tsv")[0] for p in (folder / "qrels").glob("*.tsv*"))
    raise DataError(f"{folder}: no split {split!r} (qrels/{split}.tsv); splits: {', '.join(known) or 'none'}")


def _texts(path: Path, titles: bool = True) -> dict[str, str]:
    """Text by id in a corpus or query file."""
    texts: dict[str, str] = {}
    for number, row in objects(path):
        where = f"{path}:{number}"
        key = id_of(row, "_id", where)
        if not key or key in texts:
            raise DataError(f"{where}: {f'the id {key!r} occurs a second time' if key else 'the _id is empty'}")
        title = get(row, "title", str, where, "") if titles else ""
        texts[key] = f"{title} {get(row, 'text', str, where)}".strip()
        if not titles and not texts[key]:
            raise DataError(f"{where}: the query {key!r} is empty")
    if not texts:
        raise DataError(f"{path}: the {'corpus' if titles else 'query file'} is empty")
    return texts
