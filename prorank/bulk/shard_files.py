"""Files of scored shards: their names, and their content as Parquet, JSONL or Arrow."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from ..errors import ConfigError, extra, nearest
from ..utils.strict_json import dumps
from .pair_columns import PairColumns
from .shard_plan import Shard

FORMATS = ("parquet", "jsonl", "arrow")


def check_format(name: str) -> str:
    """Return the name of a format. Raises ConfigError if it is unknown."""
    if name not in FORMATS:
        raise ConfigError(f"unknown output format {name!r}{nearest(name, FORMATS)}")
    return name


def shard_name(shard: Shard, form: str) -> str:
    """Return the name of a shard's file; names in alphabetical order are in the order of the input."""
    return f"part-{shard.number:08d}.{form}"


def scored_table(rows: Any, columns: PairColumns, shard: Shard, scores: np.ndarray, probabilities: np.ndarray | None) -> Any:
    """Return the table to write: row, columns of ids, score, and probability if there is one.

    Args:
        rows: table of the shard's input.
        columns: its columns.
        shard: the shard.
        scores: fp32 [n].
        probabilities: fp64 [n], or None.
    """
    with extra("bulk"):
        import pyarrow as pa
    table = rows.select(list(columns.ids or ()))
    numbers = np.arange(shard.first_pair, shard.first_pair + shard.part.rows, dtype=np.int64)
    table = table.add_column(0, "row", pa.array(numbers)) if table.num_columns else pa.table({"row": pa.array(numbers)})
    table = table.append_column("score", pa.array(scores.astype(np.float32)))
    return table if probabilities is None else table.append_column("probability", pa.array(probabilities))


def encode_table(table: Any, form: str) -> bytes:
    """Return the content of a file with this table."""
    with extra("bulk"):
        import pyarrow as pa
        import pyarrow.parquet as parquet
    if form == "jsonl":
        return "".join(dumps(row, ensure_ascii=False, default=str) + "\n" for row in table.to_pylist()).encode()
    buffer = io.BytesIO()
    if form == "parquet":
        parquet.write_table(table, buffer, compression="zstd")
    else:
        with pa.ipc.new_file(buffer, table.schema) as file:
            file.write_table(table)
    return buffer.getvalue()


def read_scored(contents: bytes, form: str) -> Any:
    """Return the table of a file's content, for the formats "parquet" and "arrow"."""
    with extra("bulk"):
        import pyarrow as pa
        import pyarrow.parquet as parquet
    buffer = pa.BufferReader(contents)
    return parquet.read_table(buffer) if form == "parquet" else pa.ipc.open_file(buffer).read_all()
