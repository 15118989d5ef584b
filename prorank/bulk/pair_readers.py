"""Read pairs from Parquet, Arrow and JSONL files, whole or a part of the rows.

To read a part of a Parquet file takes the row groups that it touches; of a JSONL file, its bytes. Local Arrow files are mapped into
memory; of remote ones, all bytes before the part are read.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import PurePath
from typing import Any, Protocol

from ..data.jsonl import filled, get, id_of, parsed
from ..errors import ConfigError, DataError, extra
from .pair_columns import PairColumns, check_rows, check_types
from .shard_plan import FilePart, digest_of, in_sizes
from .storage import file_system, is_local, reading_errors

GZIP = b"\x1f\x8b"
READ_ROWS = 4096  # rows of a Parquet file that are decoded at a time


class PairReader(Protocol):
    """Reads one file; its messages begin with the file and the row."""

    def column_types(self) -> dict[str, str]:
        """Return the type of each column by name; in JSONL files, those of the first object, without types."""

    def parts(self, columns: PairColumns, size: int) -> Iterator[FilePart]:
        """Check all rows, and yield parts of `size` rows. Raises DataError for the first bad row."""

    def read(self, columns: PairColumns, part: FilePart) -> Any:
        """Return the rows of a part as a table of pyarrow. Raises DataError if they are not those that were checked."""


def make_reader(url: str) -> PairReader:
    """Return the reader for a file by its suffix. Raises ConfigError for other formats."""
    suffix = PurePath(url).suffix.lower()
    if suffix not in READERS:
        packed = suffix == ".gz"
        remedy = "unpack it, since parts of a compressed file cannot be read" if packed else "convert it to Parquet or JSONL"
        raise ConfigError(f"{url}: expected a file that ends in {', '.join(READERS)}; {remedy}")
    return READERS[suffix](url)


class TableReader:
    """Reads a Parquet file.

    Args:
        url: path or URL of the file.
    """

    kind = "Parquet"

    def __init__(self, url: str) -> None:
        self.url = url

    def column_types(self) -> dict[str, str]:
        """See `PairReader`."""
        with self._opened() as (schema, _):
            return {field.name: str(field.type) for field in schema}

    def parts(self, columns: PairColumns, size: int) -> Iterator[FilePart]:
        """See `PairReader`."""
        first = 0
        with self._opened() as (schema, tables):
            check_types(schema, columns, self.url)
            for table in in_sizes(tables(columns.names, 0, None), size):
                table = check_rows(table, columns, self._where(first))
                yield FilePart(first, table.num_rows, digest_of(table))
                first += table.num_rows

    def read(self, columns: PairColumns, part: FilePart) -> Any:
        """See `PairReader`."""
        with extra("bulk"):
            import pyarrow as pa
        with self._opened() as (schema, tables):
            check_types(schema, columns, self.url)
            rows = list(tables(columns.names, part.first_row, part.first_row + part.rows))
        table = pa.concat_tables(rows) if rows else schema.empty_table()
        return _unchanged(check_rows(table, columns, self._where(part.first_row)), part, self.url)

    def _where(self, first: int) -> Any:
        return lambda row: f"{self.url}: row {first + row} (the first is 0)"

    @contextmanager
    def _opened(self) -> Iterator[tuple[Any, Any]]:
        """Yield (schema, function of (column names, first row, end row) that yields tables)."""
        with extra("bulk"):
            import pyarrow as pa
            import pyarrow.parquet as parquet
        with reading_errors(self.url), _opened(self.url) as handle:
            try:
                file = parquet.ParquetFile(handle)
            except pa.ArrowInvalid as error:
                raise DataError(f"{self.url}: is not a {self.kind} file ({error})") from error

            def tables(names: list[str], first: int, end: int | None) -> Iterator[Any]:
                begin, groups = 0, []
                start = None  # first row of the first group that is read
                for group in range(file.num_row_groups):
                    stop = begin + file.metadata.row_group(group).num_rows
                    if stop > first and (end is None or begin < end):
                        groups.append(group)
                        start = begin if start is None else start
                    begin = stop
                batches = file.iter_batches(READ_ROWS, row_groups=groups, columns=names)
                yield from _rows_between((pa.Table.from_batches([batch]) for batch in batches), start or 0, first, end)

            yield file.schema_arrow, tables


class ArrowReader(TableReader):
    """Reads an Arrow IPC file (Feather) or stream."""

    kind = "Arrow"

    @contextmanager
    def _opened(self) -> Iterator[tuple[Any, Any]]:
        with extra("bulk"):
            import pyarrow as pa
        with reading_errors(self.url), _opened(self.url, mapped=True) as handle:
            try:
                reader = pa.ipc.open_file(handle)
                batches = (reader.get_batch(i) for i in range(reader.num_record_batches))
            except pa.ArrowInvalid:
                handle.seek(0)
                try:
                    batches = reader = pa.ipc.open_stream(handle)
                except pa.ArrowInvalid as error:
                    raise DataError(f"{self.url}: is not an {self.kind} file ({error})") from error

            def tables(names: list[str], first: int, end: int | None) -> Iterator[Any]:
                yield from _rows_between((pa.Table.from_batches([batch]).select(names) for batch in batches), 0, first, end)

            yield reader.schema, tables


class LineReader:
    """Reads a JSONL file: one object a line. Values of id columns become strings.

    Args:
        url: path or URL of the file.
    """

    def __init__(self, url: str) -> None:
        self.url = url

    def column_types(self) -> dict[str, str]:
        """See `PairReader`."""
        with reading_errors(self.url), _opened(self.url) as handle:
            number, _, line = next(self._lines(handle), (0, 0, b"{}"))
            return dict.fromkeys(self._parsed(line, number), "")

    def parts(self, columns: PairColumns, size: int) -> Iterator[FilePart]:
        """See `PairReader`."""
        with reading_errors(self.url), _opened(self.url) as handle:
            first, lines = 0, self._lines(handle)
            while rows := list(islice(lines, size)):
                line, offset, _ = rows[0]
                yield FilePart(first, len(rows), digest_of(self._table(rows, columns)), offset, line)
                first += len(rows)

    def read(self, columns: PairColumns, part: FilePart) -> Any:
        """See `PairReader`."""
        with reading_errors(self.url), _opened(self.url) as handle:
            handle.seek(part.offset)
            rows = list(islice(self._lines(handle, part.line, part.offset), part.rows))
        return _unchanged(self._table(rows, columns), part, self.url)

    def _lines(self, handle: Any, number: int = 1, offset: int = 0) -> Iterator[tuple[int, int, bytes]]:
        """Yield (line number, position in bytes, line) of each line that is not blank, from the current position on."""
        for line in handle:
            if number == 1 and line.startswith(GZIP):
                raise DataError(f"{self.url}: is compressed with gzip; unpack it, since parts of it cannot be read")
            if line.strip():
                yield number, offset, line
            number, offset = number + 1, offset + len(line)

    def _parsed(self, line: bytes, number: int) -> dict[str, Any]:
        where = f"{self.url}:{number}"
        try:
            text = line.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise DataError(f"{where}: not UTF-8 text ({error.reason}); convert the file to UTF-8") from error
        return parsed(text, where)

    def _table(self, rows: list[tuple[int, int, bytes]], columns: PairColumns) -> Any:
        """Parse and check lines. Raises DataError naming file and line."""
        with extra("bulk"):
            import pyarrow as pa
        values: dict[str, list[str]] = {name: [] for name in columns.names}
        for number, _, line in rows:
            row, where = self._parsed(line, number), f"{self.url}:{number}"
            values[columns.query].append(filled(row, columns.query, where))
            values[columns.document].append(get(row, columns.document, str, where))
            for name in columns.ids or ():
                values[name].append(id_of(row, name, where))
        return pa.table({name: pa.array(texts, pa.large_string()) for name, texts in values.items()})


READERS: dict[str, Any] = {
    ".parquet": TableReader, ".pq": TableReader, ".arrow": ArrowReader, ".feather": ArrowReader, ".jsonl": LineReader,
    ".ndjson": LineReader,
}  # fmt: skip


@contextmanager
def _opened(url: str, mapped: bool = False) -> Iterator[Any]:
    """Open a file as a stream of bytes with random access; local files are mapped into memory if `mapped`."""
    fs, path = file_system(url)
    if mapped and is_local(fs) and os.path.getsize(path):
        with extra("bulk"):
            import pyarrow as pa
        with pa.memory_map(path) as handle:
            yield handle
        return
    with fs.open(path, "rb") as handle:
        yield handle if hasattr(handle, "readline") else io.BufferedReader(handle)


def _rows_between(tables: Iterator[Any], begin: int, first: int, end: int | None) -> Iterator[Any]:
    """Yield the rows from `first` to before `end` of tables whose first row is row `begin`."""
    for table in tables:
        stop = begin + table.num_rows
        if end is not None and begin >= end:
            return
        if stop > first:
            low, high = max(first - begin, 0), table.num_rows if end is None else min(end - begin, table.num_rows)
            yield table.slice(low, high - low)
        begin = stop


def _unchanged(table: Any, part: FilePart, url: str) -> Any:
    """Return the table. Raises DataError if it is not the one that was checked."""
    if digest_of(table) != part.digest:
        raise DataError(f"{url}: changed while it was read; restore it, or write into a new folder")
    return table
