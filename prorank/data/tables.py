"""Tables: CSV and TSV files, read by the names in their header row.

    query,document,label        pairs; optional query_id, doc_id
    query,positive,negative     triples; or anchor, and negative_1, negative_2, …
    id,title,text               documents to rank

Names may come in any order and case. Fields are parted by a comma, a semicolon or a tab, whichever fits the header, and quoted as
spreadsheets and Python's `csv` module quote them: a quoted field may hold line breaks, and quotes inside it are doubled.
"""

from __future__ import annotations

import contextlib
import csv
import re
import sys
import threading
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import DataError
from ..utils.files import text_lines

DELIMITERS = "\t,;"  # by preference
NO_DELIMITER = "\ufdd0"  # of a table of one column: no character, so it is in no text
SUFFIXES = (".csv", ".tsv")
ALIASES = {
    "qid": "query_id", "queryid": "query_id", "docid": "doc_id", "document_id": "doc_id", "pos": "positive", "neg": "negative",
}  # fmt: skip
# Names by which a header row is recognised where a file may lack one; some of them name columns that no form here has.
HEADER_NAMES = frozenset(
    "id _id doc_id query_id corpus_id pid text title document documents passage passages content contents body abstract query "
    "queries question anchor label labels score relevance rating grade positive negative sentence1 sentence2".split()
)
_limit = threading.Lock()  # the csv module has one size limit for the whole process


@dataclass(frozen=True)
class Table:
    """A table's header and rows.

    Attributes:
        path: for messages.
        line: number of the header's line.
        columns: normalised name by name as written, in order.
        rows: (line number, fields) below the header.
    """

    path: str
    line: int
    columns: dict[str, str]
    rows: list[tuple[int, list[str]]]

    def records(self, known: Container[str]) -> Iterator[tuple[int, dict[str, str]]]:
        """(line number, fields by column) of each row: by normalised name where that is known, else by the name as written; columns
        without a name are left out."""
        keys = [name and (name if name in known else written) for written, name in self.columns.items()]
        for number, row in self.rows:
            yield number, {key: field for key, field in zip(keys, row) if key}


def is_table(path: str | Path) -> bool:
    """Whether a file's name says that it is a table: .csv or .tsv, gzipped or not."""
    return table_suffix(path) in SUFFIXES


def table_suffix(path: str | Path) -> str:
    """The end of a file's name in lower case, without .gz."""
    return Path(Path(path).name.lower().removesuffix(".gz")).suffix


def normalise_column(name: str) -> str:
    """A column's name in lower case with underscores, by its common spelling: "Query ID" and "qid" are query_id."""
    name = re.sub(r"[\s-]+", "_", name.strip().lower())
    return ALIASES.get(name, name)


def is_column(name: str) -> bool:
    """Whether a field is the name of a column."""
    return normalise_column(name) in HEADER_NAMES


def header_fields(line: str) -> tuple[str, list[str]]:
    """(delimiter, fields) of a line, split at the delimiter that gives most known column names."""
    splits = [(NO_DELIMITER, [line])]
    for delimiter in DELIMITERS:
        with contextlib.suppress(csv.Error):
            splits.append((delimiter, next(csv.reader([line], delimiter=delimiter, strict=True), [])))
    return max(splits, key=lambda one: (sum(map(is_column, one[1])), len(one[1]) > 1))


def shown_columns(names: Iterable[str]) -> str:
    """Column names for a message, the first ten, each shortened."""
    names = list(names)
    return ", ".join(repr(name[:40]) for name in names[:10]) + (" and more" if len(names) > 10 else "")


def read_table(path: str | Path, lines: Sequence[str] | None = None) -> Table:
    """Read a table with a header row.

    Args:
        path: file, plain or gzip; only for messages where `lines` are given.
        lines: the lines with their ends.

    Raises:
        DataError: with file:line for broken quoting or a row with more or fewer fields than the header; a column named twice; an
            empty file.
    """
    lines = list(text_lines(path)) if lines is None else lines
    start = next((number for number, line in enumerate(lines) if line.strip()), None)
    if start is None:
        raise DataError(f"{path}: the file is empty; expected a header row")
    delimiter, names = header_fields(lines[start].rstrip("\r\n"))
    (line, names), *rows = _parsed(str(path), lines, start, delimiter if len(names) > 1 else NO_DELIMITER)
    columns = _columns(names, f"{path}:{line}")
    for number, row in rows:
        if len(row) != len(names):
            quoting = "fields with a delimiter or a line break need quotes"
            raise DataError(f"{path}:{number}: {len(row)} fields, but the header has {len(names)}; {quoting}")
    return Table(str(path), line, columns, rows)


def _parsed(path: str, lines: Sequence[str], start: int, delimiter: str) -> list[tuple[int, list[str]]]:
    """(number of its first line, fields) of each row from line `start` on that is not blank."""
    rows: list[tuple[int, list[str]]] = []
    number = start + 1
    with _limit:
        before = csv.field_size_limit(sys.maxsize)
        try:
            reader = csv.reader(lines[start:], delimiter=delimiter, strict=True)
            for row in reader:
                end = start + reader.line_num
                _check_quotes(lines[number - 1 : end], delimiter, len(row), f"{path}:{number}")
                if row and (len(row) > 1 or row[0].strip() or len(rows[0][1]) == 1):
                    rows.append((number, row))
                number = end + 1
        except csv.Error as error:
            remedy = "a field that begins with a quote must end with one, and quotes inside it must be doubled"
            raise DataError(f"{path}:{number}: broken quoting ({error}); {remedy}") from error
        finally:
            csv.field_size_limit(before)
    return rows


def _check_quotes(lines: Sequence[str], delimiter: str, width: int, where: str) -> None:
    """Raise DataError for a row of several lines with tabs, each of which could be a row: in such files quotes may mean nothing."""
    if delimiter == "\t" and len(lines) > 1 and all(line.count("\t") == width - 1 for line in lines):
        remedy = "if they mean nothing, double them and put the field in quotes"
        raise DataError(f"{where}: a field opens with a quote here and ends {len(lines) - 1} rows below; {remedy}")


def _columns(names: list[str], where: str) -> dict[str, str]:
    """Normalised name by name. Raises DataError for one that comes twice."""
    known: dict[str, str] = {}
    for place, name in enumerate(names):
        normalised = normalise_column(name)
        if normalised and normalised in known.values():
            raise DataError(f"{where}: the column {normalised!r} comes twice")
        known[name.strip() or f"column {place + 1}"] = normalised
    return known
