"""Bad input of bulk scoring: a typed error with file, row, column and remedy before a shard is written."""

import json
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from prorank.bulk import PairColumns, score_pairs
from prorank.errors import ConfigError, DataError
from tests.bulk_toy import toy_pairs, write_pairs

ROWS = toy_pairs(6)


def refused(pairs, tmp_path, model, match, error=DataError, **options):
    """Scoring raises the error, on one line, and leaves no shard."""
    with pytest.raises(error, match=match) as raised:
        score_pairs(pairs, tmp_path / "out", model, shard_rows=2, device="cpu", dtype="fp32", **options)
    assert "\n" not in str(raised.value)
    assert not list((tmp_path / "out").glob("*")) if (tmp_path / "out").exists() else True


@pytest.mark.parametrize("suffix", ["parquet", "arrow", "jsonl"])
@pytest.mark.parametrize(
    "column, value, words",
    [("query", None, "missing"), ("query", " \t", "blank"), ("document", None, "missing")],
)
def test_a_bad_value_is_named_by_file_row_and_column(suffix, column, value, words, tmp_path, tiny_llama_dir):
    rows = [dict(row) for row in ROWS]
    rows[4][column] = value
    path = write_pairs(tmp_path / f"pairs.{suffix}", rows)
    where = f"{path}:5: .*{column}" if suffix == "jsonl" else rf"{path}: row 4 \(the first is 0\): column '{column}' is {words}"
    refused(path, tmp_path, tiny_llama_dir, where.replace("\\(", r"\("))


def test_a_column_that_is_missing_or_no_text(tmp_path, tiny_llama_dir):
    path = write_pairs(tmp_path / "a.parquet", [{"querys": "a", "document": "b", "n": 1}])
    refused(path, tmp_path, tiny_llama_dir, "a.parquet: no column 'query'; did you mean 'querys'.*; name it by --query-column")
    columns = PairColumns(query="querys", document="n")
    refused(path, tmp_path, tiny_llama_dir, "a.parquet: column 'n' holds int64, not text; cast it to string", columns=columns)
    columns = PairColumns(query="querys", ids=("nr",))
    refused(path, tmp_path, tiny_llama_dir, "a.parquet: no column 'nr'.*--id-columns", columns=columns)
    lines = write_pairs(tmp_path / "b.jsonl", [{"query": "a", "text": "b"}])
    refused(lines, tmp_path, tiny_llama_dir, "b.jsonl: no column 'document'.*--document-column")


def test_lines_that_are_no_objects(tmp_path, tiny_llama_dir):
    path = write_pairs(tmp_path / "pairs.jsonl", ROWS)
    good = path.read_bytes()
    for line, words in ((b"{", "malformed JSON"), (b"[1]", "expected a JSON object"), (b'{"query": "\xff"}', "not UTF-8")):
        path.write_bytes(good + line + b"\n")
        refused(path, tmp_path, tiny_llama_dir, f"pairs.jsonl:7: {words}")
    path.write_bytes(good + json.dumps(ROWS[0] | {"document": "\ud800"}).encode() + b"\n")
    refused(path, tmp_path, tiny_llama_dir, "pairs.jsonl:7: 'document' is not UTF-8 text")


def test_bytes_that_are_not_utf8_in_a_column_of_text(tmp_path, tiny_llama_dir):
    texts = pa.array([b"a", b"b", b"\xff\xfe"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"query": ["x"] * 3, "document": texts}), tmp_path / "pairs.parquet")
    refused(tmp_path / "pairs.parquet", tmp_path, tiny_llama_dir, "row 2 .*: column 'document' is not UTF-8 text")


def test_files_that_cannot_be_read(tmp_path, tiny_llama_dir):
    (tmp_path / "empty").mkdir()
    (tmp_path / "x.parquet").write_text("no Parquet")
    (tmp_path / "x.arrow").write_text("no Arrow at all")
    (tmp_path / "none.jsonl").write_text("\n")
    (tmp_path / "x.csv").write_text("query,document\n")
    (tmp_path / "x.jsonl.gz").write_text("")
    (tmp_path / "packed.jsonl").write_bytes(b"\x1f\x8b\x08")
    for name, words, error in [
        ("empty", "no files that end in .parquet", DataError),
        ("nowhere.parquet", "no such file or folder", DataError),
        ("x.parquet", "is not a Parquet file", DataError),
        ("x.arrow", "is not an Arrow file", DataError),
        ("none.jsonl", "no column 'query'; it has none", DataError),
        ("x.csv", "expected a file that ends in .*; convert it to Parquet or JSONL", ConfigError),
        ("x.jsonl.gz", "unpack it", ConfigError),
        ("packed.jsonl", "is compressed with gzip; unpack it", DataError),
        ("nope://x/y.parquet", "Protocol not known: nope", ConfigError),
    ]:
        where = name if "://" in name else tmp_path / name
        refused(where, tmp_path, tiny_llama_dir, f"{re.escape(name)}: .*{words}", error)


def test_columns_of_ids_have_one_type(tmp_path, tiny_llama_dir):
    write_pairs(tmp_path / "in/a.parquet", [row | {"id": 1} for row in ROWS])
    write_pairs(tmp_path / "in/b.parquet", ROWS)
    words = "b.parquet: column 'id' is .*string, but int64 in .*a.parquet; cast one of them"
    refused(tmp_path / "in", tmp_path, tiny_llama_dir, words)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"columns": {"query": "a", "document": "a"}}, "'a' is named twice"),
        ({"columns": {"ids": ("score",)}}, "id column 'score' has the name of a column of the output"),
        ({"form": "csv"}, "unknown output format 'csv'"),
        ({"shard_rows": 0}, "shard_rows must be a whole number of at least 1"),
    ],
)
def test_bad_settings(options, words, tmp_path, tiny_llama_dir):
    path = write_pairs(tmp_path / "pairs.parquet", ROWS)
    with pytest.raises(ConfigError, match=words):
        columns = PairColumns(**options.pop("columns", {}))
        score_pairs(path, tmp_path / "out", tiny_llama_dir, columns=columns, **{"shard_rows": 2, "device": "cpu"} | options)


def test_a_method_of_lists_has_no_scores_of_pairs(tmp_path, tiny_llama_dir):
    path = write_pairs(tmp_path / "pairs.parquet", ROWS)
    refused(path, tmp_path, tiny_llama_dir, "compares documents with each other", ConfigError, method="setwise", prompt="setwise")
