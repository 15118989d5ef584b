"""Read a file of queries.

{"_id": "1", "text": "…"}       JSONL, as BEIR's queries.jsonl; also id, query_id, qid and query
1<tab>the query                 TSV, with or without a header row, as MS MARCO's
id,query                        CSV with a header row
the query                       text: one query per line; the id is the line number
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ..data.beir import find_file
from ..data.jsonl import filled, id_of, objects
from ..data.tables import is_table, read_table, shown_columns, table_suffix
from ..errors import DataError
from ..utils.reading import numbered_lines

ID_KEYS = ("_id", "id", "query_id", "qid")
TEXT_KEYS = ("text", "query")
HEADERS = frozenset(("query-id", "query_id", "queryid", "qid", "id", "_id", "topic"))


def read_queries(path: str | Path) -> dict[str, str]:
    """Read query texts by id, in the order of the file.

    Args:
        path: a file in one of the forms above, plain or gzip, or a BEIR folder.

    Raises:
        DataError: a line is malformed, a query is empty, an id occurs twice (file:line), or there are no queries.
    """
    path = _file_of(Path(path))
    queries: dict[str, str] = {}
    for number, name, text in _rows(path):
        where = f"{path}:{number}"
        if not text.strip():
            raise DataError(f"{where}: the query {name!r} is empty")
        if name in queries:
            raise DataError(f"{where}: the id {name!r} occurs a second time")
        queries[name] = text.strip()
    if not queries:
        raise DataError(f"{path}: contains no queries")
    return queries


def _file_of(path: Path) -> Path:
    """Return the query file of a BEIR folder, or the file itself."""
    if not path.is_dir():
        return path
    file = find_file(path, "queries.jsonl")
    if file is None:
        raise DataError(f"{path}: the folder has no queries.jsonl; name a file of queries")
    return file


def _rows(path: Path) -> Iterable[tuple[int, str, str]]:
    """Yield (line number, id, text) of each query."""
    if table_suffix(path) in (".jsonl", ".json", ".ndjson"):
        return (_object(path, number, row) for number, row in objects(path))
    if is_table(path) and table_suffix(path) == ".csv":
        return _table_rows(path)
    lines = list(numbered_lines(path))
    if table_suffix(path) == ".tsv" or all("\t" in line for _, line in lines):
        return _tab_rows(path, lines)
    return ((number, str(number), line) for number, line in lines)


def _object(path: Path, number: int, row: dict[str, Any]) -> tuple[int, str, str]:
    where = f"{path}:{number}"
    id_key = next((key for key in ID_KEYS if row.get(key) is not None), None)
    text_key = next((key for key in TEXT_KEYS if key in row), "text")
    name = id_of(row, id_key, where) if id_key else str(number)
    return number, name, filled(row, text_key, where, f"the query {name!r}")


def _table_rows(path: Path) -> Iterator[tuple[int, str, str]]:
    table = read_table(path)
    known = table.columns.values()
    text_key = next((key for key in TEXT_KEYS if key in known), None)
    if text_key is None:
        expected = "expected the columns id and query"
        raise DataError(f"{path}:{table.line}: no column query or text; found {shown_columns(table.columns)}; {expected}")
    id_key = next((key for key in ID_KEYS if key in known), None)
    for number, row in table.records((*ID_KEYS, *TEXT_KEYS)):
        yield number, row[id_key] if id_key else str(number), row[text_key]


def _tab_rows(path: Path, lines: Iterable[tuple[int, str]]) -> Iterator[tuple[int, str, str]]:
    for position, (number, line) in enumerate(lines):
        name, tab, text = line.partition("\t")
        if not tab or "\t" in text:
            raise DataError(f"{path}:{number}: expected `id<tab>query`, got {line[:80]!r}")
        if position > 0 or name.strip().lower() not in HEADERS:
            yield number, name.strip(), text
