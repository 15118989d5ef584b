"""The files of an input: a file, a folder or a pattern, local or behind a URL; and the check of every row before work."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

from ..errors import DataError
from .pair_columns import PairColumns
from .pair_readers import READERS, make_reader
from .shard_plan import FilePart
from .storage import file_system, is_local, reading_errors

PATTERN = "*?["  # characters of a pattern of file names
READ_AT_ONCE = 16  # files whose columns are read at once, since a remote file takes a while to answer


@dataclass(frozen=True)
class PairFile:
    """A file of pairs.

    Attributes:
        url: absolute path or URL.
        name: its name in the input, which stays the same if the input is moved.
        stamp: changes with the file (size and time, or the tag of an object store); equal stamps mean an unchanged file.
    """

    url: str
    name: str
    stamp: str


def list_pair_files(pairs: str | os.PathLike) -> list[PairFile]:
    """Return the files of an input, by name. Names that begin with "." or "_" are skipped in folders, as Spark does.

    Args:
        pairs: file, folder (with its subfolders), or pattern such as s3://bucket/part-*.parquet.

    Raises:
        DataError: there are no files, or they cannot be listed.
        ConfigError: the suffix of a file is unknown.
    """
    url = os.fspath(pairs)
    fs, path = file_system(url)
    with reading_errors(url):
        fs.invalidate_cache()
        root = path.rstrip("/")
        if fs.isdir(path):
            names = [name for name in fs.find(path) if not _is_hidden(name.removeprefix(root))]
            names = [name for name in names if name.lower().endswith(tuple(READERS))]
        elif set(PATTERN) & set(path) and not fs.exists(path):
            names, root = fs.glob(path), path.split("*")[0].rpartition("/")[0]
        else:
            fs.info(path)  # raises FileNotFoundError
            names, root = [path], root.rpartition("/")[0]
        if not names:
            raise DataError(f"{url}: no files that end in {', '.join(READERS)}")
        local = is_local(fs)
        return [
            PairFile(name if local else fs.unstrip_protocol(name), name.removeprefix(root).lstrip("/"), str(fs.checksum(name)))
            for name in sorted(names)
        ]


def _is_hidden(name: str) -> bool:
    return any(part.startswith((".", "_")) for part in name.split("/") if part)


def columns_of(files: Sequence[PairFile], columns: PairColumns) -> PairColumns:
    """Return the columns of an input; those of ids are chosen by the first file.

    Raises:
        DataError: a file lacks a column, or a column of ids has another type than in the first file.
    """
    first: dict[str, str] = {}
    with ThreadPoolExecutor(READ_AT_ONCE) as pool:
        types_of_files = list(pool.map(lambda file: make_reader(file.url).column_types(), files))
    for file, types in zip(files, types_of_files):
        columns = columns.of_input(list(types), file.url)
        first = first or types
        for name in columns.ids or ():
            if types[name] != first[name] and types[name] and first[name]:
                raise DataError(
                    f"{file.url}: column {name!r} is {types[name]}, but {first[name]} in {files[0].url}; cast one of them"
                )
    return columns


@dataclass(frozen=True)
class FileChecker:
    """Checks the rows of files, and cuts them into parts.

    Attributes:
        files: the files.
        columns: the columns to read.
        shard_rows: number of rows of a part.
    """

    files: Sequence[PairFile]
    columns: PairColumns
    shard_rows: int

    def __call__(self, number: int) -> list[dict[str, Any]]:
        """Return the parts of the file of this number, as dicts. Raises DataError naming file, row and column."""
        parts = make_reader(self.files[number].url).parts(self.columns, self.shard_rows)
        return [asdict(part) for part in parts]


def parts_of_dicts(values: Sequence[dict[str, Any]]) -> list[FilePart]:
    """Return the parts of a result of `FileChecker`."""
    return [FilePart(**value) for value in values]
