"""Read and write TREC and BEIR label files and TREC runs.

trec_eval reads scores as 32-bit floats, sorts by them, breaks ties by document id and ignores the rank column. Therefore the
scores written here decrease strictly, even after rounding to 32 bits.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from ..errors import DataError
from ..utils.files import atomic_file, numbered_lines

Qrels = dict[str, dict[str, int]]
Run = dict[str, dict[str, float]]


def iter_qrels(path: str | Path) -> Iterator[tuple[int, str, str, int]]:
    """Yield (line number, query id, document id, label) of a label file.

    The TREC format is `qid 0 docid label`; the BEIR format is `qid docid label` after a header. Negative labels (TREC's "spam") are
    accepted here and rejected by training. Raises DataError naming file and line.
    """
    for number, line in numbered_lines(path):
        fields = _fields(line, (3, 4))
        if len(fields) not in (3, 4):
            raise DataError(f"{path}:{number}: expected `qid docid label` or `qid 0 docid label`, got {line[:80]!r}")
        if number == 1 and fields[0].lower().replace("_", "-") in ("query-id", "qid", "topic"):
            continue
        yield number, fields[0], fields[-2], _label(fields[-1], path, number)


def read_qrels(path: str | Path) -> Qrels:
    """Read labels by query and document from a TREC or BEIR label file, plain or gzip.

    Raises:
        DataError: a line is malformed, a label is not an integer, a document has two different labels, or there are no labels.
    """
    qrels: Qrels = {}
    for number, qid, doc_id, label in iter_qrels(path):
        known = qrels.setdefault(qid, {})
        if known.get(doc_id, label) != label:
            before = f"had label {known[doc_id]} before"
            raise DataError(f"{path}:{number}: query {qid}, document {doc_id} has label {label} here, {before}")
        known[doc_id] = label
    if not qrels:
        raise DataError(f"{path}: no labels")
    return qrels


def _fields(line: str, counts: tuple[int, ...]) -> list[str]:
    """Split a line at tabs if that gives a valid number of fields (ids may contain spaces), else at white space."""
    tabbed = [field.strip() for field in line.split("\t")]
    return tabbed if len(tabbed) in counts and all(tabbed) else line.split()


def _label(text: str, path: str | Path, number: int) -> int:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not value.is_integer():  # also excludes NaN and infinities
        raise DataError(f"{path}:{number}: expected a whole number as label, got {text!r}")
    return int(value)


def read_exclude(path: str | Path) -> frozenset[tuple[str, str]]:
    """Read (query id, document id) pairs to leave out of labels and runs: two columns, with or without a header.

    Raises:
        DataError: a line has another number of columns (file:line).
    """
    pairs = set()
    for number, line in numbered_lines(path):
        fields = _fields(line, (2,))
        if len(fields) != 2:
            raise DataError(f"{path}:{number}: expected `qid docid`, got {line[:80]!r}")
        if not (number == 1 and fields[0].lower().replace("_", "-") in ("query-id", "qid", "topic")):
            pairs.add((fields[0], fields[1]))
    return frozenset(pairs)


def drop_pairs(table: dict[str, dict], pairs: Iterable[tuple[str, str]]) -> dict[str, dict]:
    """Return a copy of labels or of a run without `pairs` of (query id, document id). Queries are kept even if they get empty."""
    gone = set(pairs)
    return {qid: {doc: value for doc, value in row.items() if (qid, doc) not in gone} for qid, row in table.items()}


def read_run(path: str | Path) -> Run:
    """Read a TREC run (`qid Q0 docid rank score tag`), plain or gzip.

    Returns:
        Scores by query and document, best first; ties keep the order of the file.

    Raises:
        DataError: a line is malformed, a score is not finite, a document occurs twice for a query (file:line), or the run is empty.
    """
    run: Run = {}
    for number, line in numbered_lines(path):
        fields = line.split()
        if len(fields) != 6:
            raise DataError(f"{path}:{number}: expected `qid Q0 docid rank score tag`, got {line[:80]!r}")
        scores = run.setdefault(fields[0], {})
        if fields[2] in scores:
            raise DataError(f"{path}:{number}: document {fields[2]} occurs twice for query {fields[0]}")
        scores[fields[2]] = _score(fields[4], path, number)
    if not run:
        raise DataError(f"{path}: the run is empty")
    return {qid: dict(ranked(scores)) for qid, scores in run.items()}


def _score(text: str, path: str | Path, number: int) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"{path}:{number}: expected a finite number as score, got {text!r}")
    return value


def ranked(scores: dict[str, float]) -> list[tuple[str, float]]:
    """Sort (document id, score) by score, best first. The sort is stable."""
    return sorted(scores.items(), key=lambda item: -item[1])


def write_run(path: str | Path, run: Run, tag: str = "prorank") -> None:
    """Write a TREC run, atomically, compressed if the path ends in .gz. Scores decrease strictly; ties are in insertion order.

    Args:
        path: the file.
        run: scores by query and document.
        tag: name of the system.

    Raises:
        DataError: a score is not finite, or an id or the tag is empty or contains white space.
    """
    with atomic_file(path) as handle:
        for qid, scores in run.items():
            order = ranked(scores)
            written = falling([score for _, score in order], f"{path}: query {qid}")
            for rank, ((doc_id, _), score) in enumerate(zip(order, written), 1):
                handle.write(" ".join((_word(qid), "Q0", _word(doc_id), str(rank), repr(score), _word(tag))) + "\n")


def _word(text: str) -> str:
    if text.split() != [text] or text[0] == "\ufeff":
        raise DataError(f"a TREC run cannot contain {text!r}: ids and tag must be words without white space")
    return text


def falling(scores: list[float], where: str = "run") -> list[float]:
    """Return scores that decrease strictly even as 32-bit floats.

    A score that ties with the one before it is lowered by the smallest step; others are unchanged. If 32 bits cannot represent such
    a
    list (scores near the largest float), the result is n, n-1, …, 1.

    Args:
        scores: scores, best first.
        where: file and query, for error messages.

    Raises:
        DataError: a score is not finite.
    """
    if not all(math.isfinite(score) for score in scores):
        raise DataError(f"{where}: scores must be finite")
    out: list[float] = []
    last = np.float32(np.inf)
    with np.errstate(over="ignore"):
        for score in scores:
            if not np.float32(score) < last:
                # Near 0 the next float is denormal, which some processors flush to 0, so take a larger step.
                score = float(min(np.nextafter(last, np.float32(-np.inf)), last - np.float32(1e-30)))
            last = np.float32(score)
            out.append(score)
        holds = np.isfinite(np.array(out, np.float32)).all()
    return out if holds else [float(n) for n in range(len(out), 0, -1)]
