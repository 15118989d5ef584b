"""Shards: consecutive rows of one input file, which are scored and written as one output file.

Shards are numbered in the order of the input (files by name, then rows), so their files in order hold the pairs in order. The cut
depends on the rows and the shard size alone, so every run makes the same shards.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..errors import extra


@dataclass(frozen=True)
class FilePart:
    """Consecutive rows of a file.

    Attributes:
        first_row: index of the first row in the file, from 0.
        rows: number of rows, at least 1.
        digest: hash of the values to read, see `digest_of`.
        offset: position of the first row in bytes; of JSONL files only.
        line: line number of the first row, from 1; of JSONL files only.
    """

    first_row: int
    rows: int
    digest: str
    offset: int = 0
    line: int = 1


@dataclass(frozen=True)
class Shard:
    """A part of the input that is scored and written whole.

    Attributes:
        number: its number, from 0.
        file: number of its file.
        first_pair: index of its first row in the whole input, from 0.
        part: its rows in the file.
    """

    number: int
    file: int
    first_pair: int
    part: FilePart

    def as_dict(self) -> dict[str, Any]:
        """Return the shard as nested dicts for JSON."""
        return asdict(self)

    @classmethod
    def of_dict(cls, values: dict[str, Any]) -> Shard:
        """Return the shard of `as_dict`."""
        return cls(**values | {"part": FilePart(**values["part"])})


def make_shards(parts_of_files: Sequence[Sequence[FilePart]]) -> list[Shard]:
    """Number the parts of all files. A file may have no parts."""
    shards: list[Shard] = []
    first_pair = 0
    for file, parts in enumerate(parts_of_files):
        for part in parts:
            shards.append(Shard(len(shards), file, first_pair, part))
            first_pair += part.rows
    return shards


def count_rows(shards: Iterable[Shard]) -> int:
    """Return the number of rows in shards."""
    return sum(shard.part.rows for shard in shards)


def in_sizes(tables: Iterable[Any], size: int) -> Iterator[Any]:
    """Cut a stream of tables into tables of `size` rows, the last one shorter; tables may have any number of rows.

    Args:
        tables: tables of pyarrow with one schema.
        size: number of rows, at least 1.
    """
    with extra("bulk"):
        import pyarrow as pa
    waiting: list[Any] = []
    count = 0
    for table in tables:
        while count + table.num_rows >= size:
            head = table.slice(0, size - count)
            yield pa.concat_tables([*waiting, head])
            table, waiting, count = table.slice(size - count), [], 0
        if table.num_rows:
            waiting.append(table)
            count += table.num_rows
    if waiting:
        yield pa.concat_tables(waiting)


def digest_of(table: Any) -> str:
    """Return a hash of a table's column names and values; it does not depend on how Arrow stores them."""
    hashed = hashlib.blake2b(digest_size=16)
    for name, column in zip(table.column_names, table.columns):
        hashed.update(f"{name}\n".encode())
        for value in column.to_pylist():
            hashed.update(repr(value).encode("utf-8", "surrogatepass") + b"\n")
    return hashed.hexdigest()


def by_length(documents: Sequence[str]) -> list[int]:
    """Return the indices of documents from the longest to the shortest, so that a batch holds prompts of similar lengths."""
    return sorted(range(len(documents)), key=lambda i: -len(documents[i]))
