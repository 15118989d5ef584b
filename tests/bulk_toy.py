"""Files of toy pairs for the tests of bulk scoring, in every format."""

import json
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tests.tiny import WORDS


def toy_pairs(count: int, seed: int = 0, longest: int = 30) -> list[dict]:
    """Pairs of up to `longest` words with ids in no order; every query has about eight documents."""
    rng = random.Random(seed)
    ids = rng.sample(range(10 * count), count)
    return [
        {
            "id": f"p{ids[i]}",
            "query": f"the {WORDS[i // 8 % len(WORDS)]}",
            "document": " ".join(rng.choices(WORDS, k=rng.randint(1, longest))),
        }
        for i in range(count)
    ]


def write_pairs(path: Path, rows: list[dict], group: int = 64) -> Path:
    """Write pairs in the format of the suffix; `group` rows make a row group or a batch."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        return path
    table = pa.Table.from_pylist(rows)
    if path.suffix == ".parquet":
        pq.write_table(table, path, row_group_size=group)
    else:
        make = pa.ipc.new_file if path.suffix == ".arrow" else pa.ipc.new_stream
        with pa.OSFile(str(path), "wb") as sink, make(sink, table.schema) as file:
            file.write_table(table, max_chunksize=group)
    return path


def read_shards(folder: Path) -> list[dict]:
    """All rows of a folder of Parquet shards, in the order of the shards."""
    return [row for path in sorted(folder.glob("part-*.parquet")) for row in pq.read_table(path).to_pylist()]
