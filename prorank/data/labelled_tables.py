"""Read training rows from CSV and TSV files: pairs and triples with a header, and MS MARCO's triples without one.

MS MARCO's `triples.train.tsv` has three columns, separated by tabs and without quoting: query, relevant passage, other passage. A
file without a header is read like this only if it cannot be anything else.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from ..errors import DataError
from ..utils.files import parse_json, text_lines
from .tables import Table, header_fields, is_column, read_table, shown_columns, table_suffix

log = logging.getLogger("prorank")
Rows = Iterator[tuple[int, dict]]  # (line number, record)
PAIRS, TRIPLES = "pairs", "triples"
COLUMNS = {
    PAIRS: frozenset(("query", "document", "label", "query_id", "doc_id")),
    TRIPLES: frozenset(("query", "anchor", "positive", "negative")),
}
EXPECTED = "expected the columns query, document, label (pairs) or query, positive, negative (triples)"
NEGATIVE = re.compile(r"negative_\d+")
WORD = re.compile(r"[^\W\d][\w-]{2,24}")  # looks like a column name
NUMBER = re.compile(r"[+-]?\d+([.,]\d+)?")


def training_rows(path: Path) -> tuple[str, Rows]:
    """Read the rows of a table.

    Returns:
        (PAIRS or TRIPLES, records with the keys of the JSONL formats).

    Raises:
        DataError: the header has other columns, quoting is broken, or a row does not fit (file:line); or a file of three columns
            without a header has numbers in the third, or a first row that looks like a header.
    """
    lines = text_lines(path)
    start: list[str] = []
    for line in lines:
        start.append(line)
        if line.strip():
            break
    else:
        raise DataError(f"{path}: the file is empty; {EXPECTED}")
    first = start[-1].rstrip("\n")
    fields = first.split("\t") if "\t" in first else header_fields(first)[1]
    if table_suffix(path) == ".tsv" and not any(map(is_column, fields)):
        return TRIPLES, _bare_triples(path, enumerate(chain(start, lines), 1))
    table = read_table(path, [*start, *lines])
    form = _form(table)
    if not table.rows:
        raise DataError(f"{path}: no rows below the header")
    return form, _records(table, form)


def _form(table: Table) -> str:
    """Recognise the format by the header. Raises DataError naming the columns of any other header."""
    names = set(table.columns.values())
    where, columns = f"{table.path}:{table.line}", shown_columns(table.columns)
    form = TRIPLES if "positive" in names else PAIRS
    missing = {PAIRS: {"query", "document", "label"}, TRIPLES: {"positive"}}[form] - names
    if form == TRIPLES and not names & {"query", "anchor"}:
        missing.add("query")
    if missing:
        raise DataError(f"{where}: no column {' or '.join(sorted(missing))}; found {columns}; {EXPECTED}")
    if form == TRIPLES and names & {"document", "label"}:
        raise DataError(f"{where}: columns of pairs and of triples in one table: {columns}; {EXPECTED}")
    return form


def _records(table: Table, form: str) -> Rows:
    """Records of a table. Empty fields of optional columns are dropped."""
    known = {name for name in table.columns.values() if name in COLUMNS[form] or form == TRIPLES and NEGATIVE.fullmatch(name)}
    ignored = [name for name, column in table.columns.items() if column not in known]
    if ignored:
        log.warning("%s: ignored columns that %s do not have: %s", table.path, form, shown_columns(ignored))
    optional = {name for name in known if name.endswith("_id") or name.startswith("negative")}
    for number, fields in table.records(known):
        record = {name: text for name, text in fields.items() if name in known and (text or name not in optional)}
        yield number, record | ({"label": _number(record["label"])} if form == PAIRS else {})


def _number(text: str) -> Any:
    """Parse a number as JSON does; return the text itself if it is not a number."""
    try:
        return parse_json(text)
    except ValueError:
        return text


def _bare_triples(path: Path, lines: Iterable[tuple[int, str]]) -> Rows:
    """Records of triples without a header."""
    count = numbers = 0
    for number, line in lines:
        if not line.strip():
            continue
        columns = line.rstrip("\r\n").split("\t")
        if len(columns) != 3 or not all(column.strip() for column in columns):
            raise DataError(f"{path}:{number}: expected query, positive and negative separated by tabs, got {len(columns)} columns")
        if not count and all(map(WORD.fullmatch, columns)) and len(set(columns)) == 3:
            named = "a first row with those names defines triples"
            raise DataError(f"{path}:{number}: {shown_columns(columns)} look like a header; {EXPECTED}, and {named}")
        count += 1
        numbers += bool(NUMBER.fullmatch(columns[2].strip())) and not NUMBER.fullmatch(columns[1].strip())
        yield number, dict(zip(("query", "positive", "negative"), columns))
    if count == numbers > 1:
        raise DataError(f"{path}: the third column holds numbers; if they are labels, add the header row query, document, label")
