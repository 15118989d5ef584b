"""BEIR folders: documents, queries and labels of one split.

A document's text is `(title + " " + text).strip()`, BEIR's rule; any other shifts every published figure.
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
        name: the folder's name.
        corpus: text by document id.
        queries: text by query id, those with labels only.
        qrels: label by query id and document id; may name documents or queries without text, see `unknown`.
        qrels_path: the label file, for messages.
        excluded: (query id, document id) pairs left out of `qrels`, to be left out of runs as well (`trec.drop_pairs`).
    """

    name: str
    corpus: dict[str, str]
    queries: dict[str, str]
    qrels: Qrels
    qrels_path: Path | None = None
    excluded: frozenset[tuple[str, str]] = field(default_factory=frozenset)

    def unknown(self) -> tuple[list[tuple[str, str]], list[str]]:
        """(labelled (query id, document id) pairs whose document has no text, labelled query ids without text)."""
        documents = [(qid, doc) for qid, row in self.qrels.items() for doc in row if doc not in self.corpus]
        return documents, [qid for qid in self.qrels if qid not in self.queries]

    def check_training(self) -> None:
        """Raise DataError with file:line if a label that is not excluded names an unknown document or query, or is negative."""
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
    """Read a BEIR folder: corpus.jsonl, queries.jsonl, qrels/SPLIT.tsv (each may end in .gz).

    Labels of documents without text are no error here (evaluation counts them); training calls `check_training`.

    Args:
        folder: the folder.
        split: name of the label file.
        qrels: label file to use instead, TREC or BEIR form.
        exclude: file of (query id, document id) pairs to leave out.

    Raises:
        DataError: missing file, malformed line (file:line), duplicate id, empty corpus, labels for no known query.
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
    """(documents, queries) of a BEIR folder, text by id; labels are not looked at. Raises DataError as `read_beir` does."""
    folder = _checked(folder)
    return _texts(_existing_file(folder, "corpus.jsonl")), _texts(_existing_file(folder, "queries.jsonl"), titles=False)


def _checked(folder: str | Path) -> Path:
    """The folder as a path. Raises DataError if there is none."""
    if not Path(folder).is_dir():
        raise DataError(f"{folder}: no such folder; expected a BEIR folder with corpus.jsonl, queries.jsonl, qrels/")
    return Path(folder)


def _existing_file(folder: Path, name: str) -> Path:
    """`folder/name` or `folder/name.gz`."""
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise DataError(f"{folder / name}: no such file; a BEIR folder holds corpus.jsonl, queries.jsonl, qrels/SPLIT.tsv")


def _split_file(folder: Path, split: str) -> Path:
    for path in (folder / "qrels" / f"{split}.tsv", folder / "qrels" / f"{split}.tsv.gz"):
        if path.is_file():
            return path
    known = sorted(p.name.split(".tsv")[0] for p in (folder / "qrels").glob("*.tsv*"))
    raise DataError(f"{folder}: no split {split!r} (qrels/{split}.tsv); there is {', '.join(known) or 'none'}")


def _texts(path: Path, titles: bool = True) -> dict[str, str]:
    """Text by id of a corpus or query file."""
    texts: dict[str, str] = {}
    for number, row in objects(path):
        where = f"{path}:{number}"
        key = id_of(row, "_id", where)
        if not key or key in texts:
            raise DataError(f"{where}: {f'the id {key!r} comes a second time' if key else 'the _id is empty'}")
        title = get(row, "title", str, where, "") if titles else ""
        texts[key] = f"{title} {get(row, 'text', str, where)}".strip()
        if not titles and not texts[key]:
            raise DataError(f"{where}: the query {key!r} is empty")
    if not texts:
        raise DataError(f"{path}: the {'corpus' if titles else 'query file'} is empty")
    return texts
