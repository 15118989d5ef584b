"""Read CSV and TSV files by the column names of their header.

    query,document,label        pairs; optional query_id, doc_id
    query,positive,negative     triples; or anchor, and negative_1, negative_2, …
    id,title,text               documents to rank

Columns may be in any order and case. The delimiter is a comma, a semicolon or a tab, whichever fits the header. Quoting is that of
spreadsheets and Python's `csv` module: a quoted field may contain line breaks, and quotes inside it are doubled.
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

DELIMITERS = "\t,;"  # in order of preference
NO_DELIMITER = "\ufdd0"  # for tables of one column: a noncharacter, which no text contains
SUFFIXES = (".csv", ".tsv")
ALIASES = {
    "qid": "query_id", "queryid": "query_id", "docid": "doc_id", "document_id": "doc_id", "pos": "positive", "neg": "negative",
}  # fmt: skip
# Column names by which an optional header is recognised, including names that no format here uses.
HEADER_NAMES = frozenset(
    "id _id doc_id query_id corpus_id pid text title document documents passage passages content contents body abstract query "
    "queries question anchor label labels score relevance rating grade positive negative sentence1 sentence2".split()
)
_limit = threading.Lock()  # the csv module has one size limit for the whole process


@dataclass(frozen=True)
class Table:
    """Header and rows of a table.

    Attributes:
        path: the file, for messages.
        line: line number of the header.
        columns: normalised name by original name, in order.
        rows: (line number, fields) of each row below the header.
    """

    path: str
    line: int
    columns: dict[str, str]
    rows: list[tuple[int, list[str]]]

    def records(self, known: Container[str]) -> Iterator[tuple[int, dict[str, str]]]:
        """Yield (line number, fields by column name) of each row.

        Args:
            known: normalised names to use as keys. Other columns keep their original name; columns without a name are dropped.
        """
        keys = [name and (name if name in known else written) for written, name in self.columns.items()]
        for number, row in self.rows:
            yield number, {key: field for key, field in zip(keys, row) if key}


def is_table(path: str | Path) -> bool:
    """Whether a file name ends in .csv or .tsv, optionally followed by .gz."""
    return table_suffix(path) in SUFFIXES


def table_suffix(path: str | Path) -> str:
    """Return the suffix of a file name in lower case, ignoring .gz."""
    return Path(Path(path).name.lower().removesuffix(".gz")).suffix


def normalise_column(name: str) -> str:
    """Return a column name in lower case with underscores and its usual spelling: "Query ID" and "qid" become query_id."""
    name = re.sub(r"[\s-]+", "_", name.strip().lower())
    return ALIASES.get(name, name)


def is_column(name: str) -> bool:
    """Whether a field is a known column name."""
    return normalise_column(name) in HEADER_NAMES


def header_fields(line: str) -> tuple[str, list[str]]:
    """Split a header line. Returns (delimiter, fields) for the delimiter that gives the most known column names."""
    splits = [(NO_DELIMITER, [line])]
    for delimiter in DELIMITERS:
        with contextlib.suppress(csv.Error):
            splits.append((delimiter, next(csv.reader([line], delimiter=delimiter, strict=True), [])))
    return max(splits, key=lambda one: (sum(map(is_column, one[1])), len(one[1]) > 1))


def shown_columns(names: Iterable[str]) -> str:
    """Format column names for a message: the first ten, each shortened."""
    names = list(names)
    return ", ".join(repr(name[:40]) for name in names[:10]) + (" and more" if len(names) > 10 else "")


def read_table(path: str | Path, lines: Sequence[str] | None = None) -> Table:
    """Read a table with a header.

    Args:
        path: file, plain or gzip; only used in messages if `lines` is given.
        lines: lines of the table with their line ends.

    Raises:
        DataError: quoting is broken, a row does not have as many fields as the header (file:line), a column name occurs twice, or
            the file is empty.
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
    """Raise DataError if a row spans several lines that could each be a row with tabs: quotes may be plain text in such files."""
    if delimiter == "\t" and len(lines) > 1 and all(line.count("\t") == width - 1 for line in lines):
        remedy = "if they mean nothing, double them and put the field in quotes"
        raise DataError(f"{where}: a field opens with a quote here and ends {len(lines) - 1} rows below; {remedy}")


def _columns(names: list[str], where: str) -> dict[str, str]:
    """Normalised name by original name. Raises DataError if a name occurs twice."""
    known: dict[str, str] = {}
    for place, name in enumerate(names):
        normalised = normalise_column(name)
        if normalised and normalised in known.values():
            raise DataError(f"{where}: the column {normalised!r} occurs twice")
        known[name.strip() or f"column {place + 1}"] = normalised
    return known
