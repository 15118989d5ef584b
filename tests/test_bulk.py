"""Bulk scoring in one process: the scores of the Reranker, shards that are whole or absent, runs that continue."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from prorank.bulk import PairColumns, score_pairs
from prorank.bulk.manifest import MANIFEST
from prorank.errors import DataError
from prorank.reranker import Reranker
from tests.bulk_toy import read_shards, toy_pairs, write_pairs

OPTIONS = {"device": "cpu", "dtype": "fp32"}
FLAGS = ["--device", "cpu", "--dtype", "fp32"]


def scored(pairs, out, model, **options):
    return score_pairs(pairs, out, model, **{"shard_rows": 50} | OPTIONS | options)


@pytest.mark.parametrize("suffix", ["parquet", "arrow", "feather", "jsonl"])
def test_scores_are_those_of_the_reranker_in_the_order_of_the_input(suffix, tmp_path, tiny_llama_dir):
    rows = toy_pairs(120)
    result = scored(write_pairs(tmp_path / f"pairs.{suffix}", rows), tmp_path / "out", tiny_llama_dir)
    shards = read_shards(tmp_path / "out")
    assert (result.rows, result.shards, result.scored_rows) == (120, 3, 120)
    assert [row["row"] for row in shards] == list(range(120)) and [row["id"] for row in shards] == [row["id"] for row in rows]
    expected = Reranker(tiny_llama_dir, **OPTIONS).score([(row["query"], row["document"]) for row in rows])
    assert np.allclose([row["score"] for row in shards], expected, atol=1e-5) and np.std(expected) > 0.01
    assert "probability" not in shards[0]


def test_a_rerun_has_nothing_to_do_and_a_missing_shard_is_made_again(tmp_path, tiny_llama_dir):
    path, out = write_pairs(tmp_path / "pairs.jsonl", toy_pairs(120)), tmp_path / "out"
    first = str(scored(path, out, tiny_llama_dir))
    assert "120 pairs in 3 shards; 3 shards scored now; 0 of 120 documents cut" in first
    before = read_shards(out)
    times = {file.name: file.stat().st_mtime_ns for file in out.iterdir()}
    assert "nothing to do, all 120 pairs in 3 shards are there" in str(scored(path, out, tiny_llama_dir))
    assert {file.name: file.stat().st_mtime_ns for file in out.iterdir()} == times
    (out / "part-00000001.parquet").unlink()
    (out / "part-00000002.parquet").write_bytes(b"")  # a file system that lost power
    again = scored(path, out, tiny_llama_dir)
    assert again.scored_shards == 2 and "1 were there" in str(again) and read_shards(out) == before


def test_probabilities_of_a_calibrated_model(tmp_path, calibrated_dir):
    path = write_pairs(tmp_path / "pairs.parquet", toy_pairs(20))
    scored(path, tmp_path / "out", calibrated_dir)
    for row in read_shards(tmp_path / "out"):
        assert row["probability"] == pytest.approx(1 / (1 + np.exp(-row["score"] / 4)), abs=1e-6)
    scored(path, tmp_path / "other", calibrated_dir, instruction="Find it.")
    assert "probability" not in read_shards(tmp_path / "other")[0]


@pytest.mark.parametrize("form", ["jsonl", "arrow"])
def test_other_formats_have_the_same_rows(form, tmp_path, tiny_llama_dir):
    path = write_pairs(tmp_path / "pairs.parquet", toy_pairs(20))
    for name in ("parquet", form):
        scored(path, tmp_path / name, tiny_llama_dir, form=name, shard_rows=20)
    file = tmp_path / form / f"part-00000000.{form}"
    rows = (
        [json.loads(line) for line in file.read_text().splitlines()]
        if form == "jsonl"
        else pa.ipc.open_file(file).read_all().to_pylist()
    )
    assert rows == read_shards(tmp_path / "parquet")


def test_named_columns_and_several_files(tmp_path, tiny_llama_dir):
    rows = [{"q": row["query"], "text": row["document"], "n": i, "url": "u"} for i, row in enumerate(toy_pairs(30))]
    write_pairs(tmp_path / "in/b.jsonl", [row | {"n": str(row["n"])} for row in rows[20:]])
    pq.write_table(
        pa.Table.from_pylist([row | {"n": str(row["n"])} for row in rows[:20]]).set_column(
            0, "q", pa.array([row["q"] for row in rows[:20]]).dictionary_encode()
        ),
        tmp_path / "in/a.parquet",
    )
    scored(tmp_path / "in", tmp_path / "out", tiny_llama_dir, columns=PairColumns("q", "text", ("n",)), shard_rows=8)
    shards = read_shards(tmp_path / "out")
    assert list(shards[0]) == ["row", "n", "score"] and [row["n"] for row in shards] == [str(i) for i in range(30)]
    assert sorted(file.name for file in (tmp_path / "out").glob("part-*")) == [f"part-0000000{i}.parquet" for i in range(5)]


def test_memory_urls_stand_for_object_stores(tiny_llama_dir, tmp_path):
    import fsspec

    store, path = fsspec.filesystem("memory"), write_pairs(tmp_path / "pairs.parquet", toy_pairs(60))
    store.pipe_file("/bucket/in/pairs.parquet", path.read_bytes())
    run = lambda: scored("memory://bucket/in", "memory://bucket/out", tiny_llama_dir)  # noqa: E731
    assert run().scored_shards == 2
    names = sorted(name.rsplit("/", 1)[1] for name in store.find("/bucket/out"))
    assert names == [MANIFEST, "part-00000000.parquet", "part-00000001.parquet"]
    assert run().scored_shards == 0
    store.rm("/bucket/out/part-00000000.parquet")
    assert run().scored_shards == 1
    store.rm("/bucket", recursive=True)


def test_another_input_model_prompt_or_setting_is_refused(tmp_path, tiny_llama_dir, tiny_qwen2_dir):
    rows, out = toy_pairs(60), tmp_path / "out"
    path = write_pairs(tmp_path / "pairs.jsonl", rows)
    scored(path, out, tiny_llama_dir)
    (out / "part-00000001.parquet").unlink()
    before = {file.name: file.read_bytes() for file in out.iterdir()}
    for model, options, words in [
        (tiny_qwen2_dir, {}, "made with another model"),
        (tiny_llama_dir, {"prompt": "plain"}, "made with another prompt"),
        (tiny_llama_dir, {"max_length": 100}, "made with max_length 1024, now 100|another prompt"),
        (tiny_llama_dir, {"instruction": "x"}, "made with instruction none, now x"),
        (tiny_llama_dir, {"dtype": "bf16"}, "made with dtype fp32, now bf16"),
        (tiny_llama_dir, {"shard_rows": 30}, "made with shard_rows 50, now 30"),
        (tiny_llama_dir, {"form": "jsonl"}, "made with format parquet, now jsonl"),
        (tiny_llama_dir, {"columns": PairColumns(ids=())}, "made with ids id, now none"),
    ]:
        with pytest.raises(DataError, match=f"out: its shards were {words}; write into a new folder"):
            scored(path, out, model, **options)
    write_pairs(path, [*rows[:40], rows[40] | {"document": "other"}, *rows[41:]])
    with pytest.raises(DataError, match=r"out: the input has changed since .*pairs.jsonl, rows from 0"):
        scored(path, out, tiny_llama_dir)
    write_pairs(path, [*rows, rows[0]])
    with pytest.raises(DataError, match=r"out: the input has changed since .*pairs.jsonl, rows from 50"):
        scored(path, out, tiny_llama_dir)
    with pytest.raises(DataError, match=r"other files \(first difference: more.jsonl\)"):
        scored(write_pairs(tmp_path / "more.jsonl", rows), out, tiny_llama_dir)
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before
    write_pairs(path, rows)  # another time stamp, the same rows
    assert scored(path, out, tiny_llama_dir).scored_shards == 1


def test_auto_keeps_the_dtype_of_an_earlier_run(tmp_path, tiny_llama_dir):
    path = write_pairs(tmp_path / "pairs.jsonl", toy_pairs(4))
    scored(path, tmp_path / "out", tiny_llama_dir, dtype="bf16")
    before = read_shards(tmp_path / "out")
    (tmp_path / "out/part-00000000.parquet").unlink()
    assert scored(path, tmp_path / "out", tiny_llama_dir, dtype="auto").scored_shards == 1
    assert read_shards(tmp_path / "out") == before


def test_foreign_and_damaged_folders_are_refused(tmp_path, tiny_llama_dir):
    path = write_pairs(tmp_path / "pairs.jsonl", toy_pairs(4))
    (tmp_path / "full").mkdir()
    (tmp_path / "full/thesis.txt").write_text("x")
    with pytest.raises(DataError, match=f"full: holds thesis.txt but no {MANIFEST}"):
        scored(path, tmp_path / "full", tiny_llama_dir)
    scored(path, tmp_path / "out", tiny_llama_dir)
    for text in ("{", "{}", '{"version": 9}', '{"version": 1, "settings": {}, "files": [], "shards": [[0, 0, 1, "", 0, 1]]}'):
        (tmp_path / "out" / MANIFEST).write_text(text)
        with pytest.raises(DataError, match=f"out: {MANIFEST} (is damaged|has version 9)"):
            scored(path, tmp_path / "out", tiny_llama_dir)
    with pytest.raises(NotADirectoryError):
        scored(path, path, tiny_llama_dir)


def test_two_processes_cannot_write_into_one_folder(tmp_path, tiny_llama_dir):
    from filelock import FileLock

    path = write_pairs(tmp_path / "pairs.jsonl", toy_pairs(4))
    (tmp_path / "out").mkdir()
    with FileLock(tmp_path / "out/.lock"), pytest.raises(DataError, match="out: another process writes into this folder"):
        scored(path, tmp_path / "out", tiny_llama_dir)


def test_a_file_that_changes_during_the_work_is_refused(tmp_path, tiny_llama_dir):
    rows = toy_pairs(100)
    path = write_pairs(tmp_path / "pairs.jsonl", rows)
    change = lambda *_: write_pairs(path, [row | {"document": row["document"].upper()} for row in rows])  # noqa: E731
    with pytest.raises(DataError, match="pairs.jsonl: changed while it was read"):
        scored(path, tmp_path / "out", tiny_llama_dir, report=change)
    assert len(read_shards(tmp_path / "out")) == 50


def test_killed_in_the_middle_and_run_again_every_pair_is_there_once(tmp_path, tiny_llama_dir):
    rows = toy_pairs(1000)
    path, out = write_pairs(tmp_path / "pairs.parquet", rows, 300), tmp_path / "out"
    command = [sys.executable, "-m", "prorank", "score-pairs", str(path), str(out), "--model", str(tiny_llama_dir)]
    command += ["--shard-rows", "10", *FLAGS]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while len(list(out.glob("part-*"))) < 5 and process.poll() is None:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, process.stderr.read()
    whole = len(list(out.glob("part-*")))
    assert 5 <= whole < 100
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"1000 pairs in 100 shards; {100 - whole} shards scored now, {whole} were there" in done.stdout
    assert [row["row"] for row in read_shards(out)] == list(range(1000))
    scored(path, tmp_path / "other", tiny_llama_dir, shard_rows=10)
    assert read_shards(out) == read_shards(tmp_path / "other")
    assert {file.name for file in out.iterdir() if not file.name.startswith("part-")} <= {MANIFEST, ".lock"}
