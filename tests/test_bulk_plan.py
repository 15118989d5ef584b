"""Shards: every row once, in order, whatever the batches of the file; hashes that see every change."""

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prorank.bulk.pair_columns import PairColumns
from prorank.bulk.pair_files import columns_of, list_pair_files
from prorank.bulk.pair_readers import make_reader
from prorank.bulk.shard_plan import FilePart, Shard, by_length, count_rows, digest_of, in_sizes, make_shards
from tests.bulk_toy import toy_pairs, write_pairs

SIZES = st.integers(1, 40)


@given(st.lists(st.integers(0, 60), max_size=12), SIZES)
def test_tables_are_cut_into_equal_sizes_in_order(lengths, size):
    starts = [sum(lengths[:i]) for i in range(len(lengths))]
    tables = [pa.table({"n": pa.array(range(start, start + length), pa.int64())}) for start, length in zip(starts, lengths)]
    cut = [table.column("n").to_pylist() for table in in_sizes(iter(tables), size)]
    assert [n for part in cut for n in part] == list(range(sum(lengths)))
    assert all(len(part) == size for part in cut[:-1]) and all(1 <= len(part) <= size for part in cut[-1:])


@given(st.lists(st.lists(st.integers(1, 9), max_size=5), max_size=5))
def test_shards_are_numbered_through_all_files(rows_of_files):
    parts = [[FilePart(sum(rows[:i]), count, "") for i, count in enumerate(rows)] for rows in rows_of_files]
    shards = make_shards(parts)
    assert [shard.number for shard in shards] == list(range(sum(map(len, rows_of_files))))
    assert count_rows(shards) == sum(map(sum, rows_of_files))
    covered = [pair for shard in shards for pair in range(shard.first_pair, shard.first_pair + shard.part.rows)]
    assert covered == list(range(count_rows(shards)))
    assert [Shard.of_dict(shard.as_dict()) for shard in shards] == shards


@pytest.mark.parametrize("suffix", ["parquet", "arrow", "feather", "jsonl"])
@given(count=st.integers(1, 70), size=SIZES, group=SIZES)
def test_the_parts_of_a_file_are_its_rows(suffix, count, size, group, tmp_path_factory):
    """Whatever the row groups: parts are `size` rows, and each is read again by itself."""
    rows = toy_pairs(count)
    path = write_pairs(tmp_path_factory.mktemp("parts") / f"pairs.{suffix}", rows, group)
    reader, columns = make_reader(str(path)), PairColumns(ids=("id",))
    parts = list(reader.parts(columns, size))
    assert [part.rows for part in parts] == [min(size, count - first) for first in range(0, count, size)]
    tables = [reader.read(columns, part) for part in reversed(parts)]
    assert pa.concat_tables(reversed(tables)).to_pylist() == [
        {key: row[key] for key in ("query", "document", "id")} for row in rows
    ]


@given(st.lists(st.text(max_size=5), min_size=1, max_size=5), st.data())
def test_the_hash_sees_every_change(texts, data):
    table = pa.table({"query": texts, "document": texts})
    place = data.draw(st.integers(0, len(texts) - 1))
    changed = [text + "x" if i == place else text for i, text in enumerate(texts)]
    chunks = pa.table({"query": pa.chunked_array([texts[:1], texts[1:]], pa.large_string()), "document": texts})
    assert digest_of(chunks) == digest_of(table) != digest_of(pa.table({"query": texts, "document": changed}))


@given(st.lists(st.text(max_size=9)))
def test_rows_are_read_from_the_longest_to_the_shortest(documents):
    order = by_length(documents)
    assert sorted(order) == list(range(len(documents)))
    lengths = [len(documents[i]) for i in order]
    assert lengths == sorted(lengths, reverse=True)


def test_blank_lines_and_marks_are_skipped_and_counted(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(
        b'\xef\xbb\xbf{"query": "a", "document": "b"}\n\n  \n{"query": "c", "document": "d"}\n{"query": "e", "document": ""}'
    )
    reader = make_reader(str(path))
    parts = list(reader.parts(PairColumns(), 1))
    assert [part.line for part in parts] == [1, 4, 5]
    assert [reader.read(PairColumns(), part).to_pylist()[0]["query"] for part in parts] == ["a", "c", "e"]


def test_files_of_folders_and_patterns_come_by_name(tmp_path):
    rows = toy_pairs(4)
    for name in ("b.parquet", "a.jsonl", "sub/c.parquet", "_hidden.parquet", ".x/d.parquet", "sub/_temporary/e.parquet"):
        write_pairs(tmp_path / "in" / name, rows)
    (tmp_path / "in" / "README.md").write_text("x")
    assert [file.name for file in list_pair_files(tmp_path / "in")] == ["a.jsonl", "b.parquet", "sub/c.parquet"]
    assert [file.name for file in list_pair_files(f"{tmp_path}/in/*.parquet")] == ["_hidden.parquet", "b.parquet"]
    (file,) = list_pair_files(f"file://{tmp_path}/in/a.jsonl")
    assert file.name == "a.jsonl" and file.url == f"{tmp_path}/in/a.jsonl"


def test_ids_are_chosen_by_the_first_file(tmp_path):
    rows = [row | {"doc_id": row["id"], "note": 1} for row in toy_pairs(3)]
    write_pairs(tmp_path / "a.parquet", rows)
    write_pairs(tmp_path / "b.jsonl", rows)
    files = list_pair_files(tmp_path)
    assert columns_of(files, PairColumns()).ids == ("id", "doc_id")
    assert columns_of(files, PairColumns(ids=("note",))).ids == ("note",)
    assert columns_of(files, PairColumns(ids=())).ids == ()
