"""Check training data for overlap with all test sets: equal and nearly equal queries and documents. `--drop` removes them.

Run it on the final training data, including mined lists, because a negative can also be a test document.

    python -m recipes.default.overlap data/texts/* --drop
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections import Counter
from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path

from prorank.data.beir import read_texts
from prorank.data.jsonl import objects
from prorank.data.trec import read_qrels
from prorank.errors import DataError, ProRankError
from prorank.utils.files import atomic_file, atomic_folder

from .held_out import KINDS, Index, test_index


@dataclass
class Checked:
    """Overlap of one piece of training data: ids or texts to drop, and counts by (kind, test set)."""

    queries: set[str]
    documents: set[str]
    counts: Counter
    read: tuple[int, int]


def checked(path: Path, index: Index, spared: Container[str] = ()) -> Checked:
    """Look up training data in the index.

    Args:
        path: a BEIR folder (texts with training labels), or a file of lists or pairs.
        index: index of the test sets.
        spared: test sets whose texts are counted but not dropped.

    Raises:
        DataError: a folder has no training labels, or a file is malformed.
    """
    queries, documents = _folder_texts(path) if path.is_dir() else _file_texts(path)
    counts: Counter = Counter()
    dropped: tuple[set[str], set[str]] = (set(), set())
    for texts, find, out in ((queries, index.query, dropped[0]), (documents, index.document, dropped[1])):
        for key, text in texts.items():
            if hit := find(text):
                counts[hit] += 1
                if hit[1] not in spared:
                    out.add(key)
    return Checked(*dropped, counts, (len(queries), len(documents)))


def _folder_texts(folder: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Queries and documents by id; only those with training labels if there are other splits."""
    corpus, queries = read_texts(folder)
    if not (folder / "qrels" / "train.tsv").is_file():
        raise DataError(f"{folder}: no qrels/train.tsv; expected a BEIR folder of training data or a JSONL file")
    if len(list((folder / "qrels").glob("*.tsv"))) == 1:
        return queries, corpus
    labels = read_qrels(folder / "qrels" / "train.tsv")
    wanted = {doc for row in labels.values() for doc in row}
    return {qid: queries[qid] for qid in labels if qid in queries}, {doc: corpus[doc] for doc in wanted if doc in corpus}


def _file_texts(path: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Queries and documents of a file of lists or pairs, with the text as id."""
    queries, documents = {}, {}
    for _, row in objects(path):
        queries[str(row.get("query", ""))] = str(row.get("query", ""))
        for text in [row.get("document"), *_many(row.get("pos")), *_many(row.get("neg"))]:
            if isinstance(text, str):
                documents[text] = text
    return queries, documents


def _many(value: object) -> list:
    return value if isinstance(value, list) else []


def drop(path: Path, overlap: Checked) -> None:
    """Remove the overlapping texts from a BEIR folder or a file of lists, atomically and in place."""
    if path.is_dir():
        with atomic_folder(path) as beside:
            shutil.copytree(path, beside, dirs_exist_ok=True)
            for name, keys in (("queries", overlap.queries), ("corpus", overlap.documents)):
                _rewrite(beside / f"{name}.jsonl", lambda row, keys=keys: row if str(row["_id"]) not in keys else None)
            _labels(beside / "qrels" / "train.tsv", overlap)
            _note(beside, overlap)
    else:
        _rewrite(path, lambda row: _kept_list(row, overlap))


def _rewrite(path: Path, change) -> None:
    rows = [changed for _, row in objects(path) if (changed := change(row)) is not None]
    with atomic_file(path) as handle:
        handle.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _kept_list(row: dict, overlap: Checked) -> dict | None:
    """A list without overlapping documents; None if its query overlaps or no relevant document is left."""
    if row.get("query") in overlap.queries or row.get("document") in overlap.documents:
        return None
    for side in ("pos", "neg"):
        keep = [i for i, text in enumerate(_many(row.get(side))) if text not in overlap.documents]
        row |= {key: [row[key][i] for i in keep] for key in row if key.split("_")[0] == side and isinstance(row[key], list)}
    return None if row.get("pos") == [] else row


def _labels(path: Path, overlap: Checked) -> None:
    """Remove labels of dropped queries and documents. Queries without labels are not trained on."""
    head, *rows = path.read_text(encoding="utf-8").splitlines()
    kept = [row for row in rows if row.split("\t")[0] not in overlap.queries and row.split("\t")[1] not in overlap.documents]
    with atomic_file(path) as handle:
        handle.writelines(f"{row}\n" for row in [head, *kept])
    labelled = {row.split("\t")[0] for row in kept}
    _rewrite(path.parent.parent / "queries.jsonl", lambda row: row if str(row["_id"]) in labelled else None)


def _note(folder: Path, overlap: Checked) -> None:
    """Update the counts in a source's record, and note what was dropped."""
    path = folder / "source.json"
    if path.is_file():
        corpus, queries = read_texts(folder)
        labels = sum(map(len, read_qrels(folder / "qrels" / "train.tsv").values()))
        record = json.loads(path.read_text(encoding="utf-8"))
        record |= {"queries": len(queries), "documents": len(corpus), "labels": labels, "overlap": _named(overlap)}
        path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def _named(overlap: Checked) -> dict[str, int]:
    return {f"{test}: {kind}": count for (kind, test), count in sorted(overlap.counts.items())}


def table(name: str, overlap: Checked) -> Iterator[str]:
    """Yield the lines of the report: counts of one piece of data, then by test set."""
    totals = {kind: sum(n for (k, _), n in overlap.counts.items() if k == kind) for kind in KINDS}
    shown = ", ".join(f"{n} {kind}" for kind, n in totals.items())
    yield f"{name}: {overlap.read[0]} queries, {overlap.read[1]} documents; {shown}"
    for (kind, test), count in sorted(overlap.counts.items()):
        yield f"    {test:24} {count:6} {kind}"


def main(argv: list[str] | None = None) -> int:
    """Print the overlap of each piece of training data with the test sets; with --drop, remove it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, nargs="+", help="BEIR folders (their training split), JSONL files of lists or pairs")
    parser.add_argument("--tests", type=Path, default=os.environ.get("PRORANK_DATA"), help="test sets; $PRORANK_DATA without it")
    parser.add_argument("--drop", action="store_true", help="remove the overlapping texts, in place")
    parser.add_argument("--spare", nargs="+", default=(), help="test sets to count without dropping")
    parser.add_argument("--json", type=Path, help="write the counts there, too")
    options = parser.parse_args(argv)
    try:
        if options.tests is None:
            raise DataError("no test sets: set PRORANK_DATA or --tests to the folder of their BEIR folders")
        index, report = test_index(Path(options.tests)), {}
        for path in options.data:
            overlap = checked(path, index, options.spare)
            print(*table(path.name, overlap), sep="\n", flush=True)
            report[path.name] = _named(overlap)
            if options.drop:
                drop(path, overlap)
        if options.json:
            with atomic_file(options.json) as handle:
                json.dump(report, handle, indent=1)
    except ProRankError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
