"""Bulk scoring on a real Ray cluster of this machine: two actors with one thread each, one of which is killed."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from prorank.bulk import LocalBackend, RayBackend, score_pairs
from prorank.cli.command_line import app
from prorank.data.formats import read_run
from prorank.errors import ClusterError, ConfigError, ModelError
from tests.bulk_toy import read_shards, toy_pairs, write_pairs
from tests.toy_data import write_collection

OPTIONS = {"device": "cpu", "dtype": "fp32"}
PAIRS, SHARD_ROWS = 20_000, 250


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """Two processors, a small object store, no dashboard, no reports to Ray's makers."""
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}  # by default workers yield to all other programs
    import ray

    ray.init("local", num_cpus=2, object_store_memory=100_000_000, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> Path:
    """20,000 pairs in two files."""
    folder = tmp_path_factory.mktemp("pairs")
    rows = toy_pairs(PAIRS, longest=6)
    write_pairs(folder / "a.parquet", rows[:12_345], 2000)
    write_pairs(folder / "b.jsonl", rows[12_345:])
    return folder


def test_a_killed_worker_costs_no_pair(pairs, tmp_path, tiny_llama_dir):
    out, killed, later = tmp_path / "ray", [], set()

    def kill_one(done: int, total: int, result: dict) -> None:
        if not killed and done > total // 4:
            killed.append(result["worker"])
            os.kill(int(result["worker"].rpartition(":")[2]), signal.SIGKILL)
        elif done > total // 2:
            later.add(result["worker"])

    result = score_pairs(pairs, out, tiny_llama_dir, shard_rows=SHARD_ROWS, backend=RayBackend(2), report=kill_one, **OPTIONS)
    assert killed and later and killed[0] not in later
    assert len(result.workers) >= 2 and result.scored_rows == result.rows == PAIRS
    rows = read_shards(out)
    assert [row["row"] for row in rows] == list(range(PAIRS))
    assert [row["id"] for row in rows] == [row["id"] for row in toy_pairs(PAIRS, longest=6)]
    assert not [name for name in os.listdir(out) if name.endswith(".tmp")]

    stamps = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    again = score_pairs(pairs, out, tiny_llama_dir, shard_rows=SHARD_ROWS, backend=RayBackend(2), **OPTIONS)
    assert again.scored_shards == 0 and "nothing to do" in str(again)
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == stamps

    torch.set_num_threads(1)
    score_pairs(pairs, tmp_path / "one", tiny_llama_dir, shard_rows=SHARD_ROWS, backend=LocalBackend(), **OPTIONS)
    assert read_shards(tmp_path / "one") == rows  # bit for bit


def test_what_one_process_began_the_cluster_finishes(pairs, tmp_path, tiny_llama_dir):
    small = tmp_path / "small.parquet"
    pq.write_table(pq.read_table(pairs / "a.parquet").slice(0, 500), small)
    score_pairs(small, tmp_path / "out", tiny_llama_dir, shard_rows=100, **OPTIONS)
    before = read_shards(tmp_path / "out")
    for number in (1, 3):
        (tmp_path / "out" / f"part-0000000{number}.parquet").unlink()
    result = score_pairs(small, tmp_path / "out", tiny_llama_dir, shard_rows=100, backend=RayBackend(1), **OPTIONS)
    assert result.scored_shards == 2
    rows = read_shards(tmp_path / "out")
    assert [row["row"] for row in rows] == [row["row"] for row in before]
    assert [row["score"] for row in rows] == pytest.approx([row["score"] for row in before], abs=1e-5)


def kill_worker(_: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_an_item_that_kills_every_worker_ends_the_job():
    with RayBackend(1) as backend, pytest.raises(ClusterError, match="was begun 4 times, and its worker died each time"):
        list(backend.run(kill_worker, [0]))


def test_errors_of_workers_keep_their_class_and_words(pairs, tmp_path):
    with pytest.raises(ModelError, match="nowhere"):
        score_pairs(pairs, tmp_path / "out", str(tmp_path / "nowhere"), backend=RayBackend(2), **OPTIONS)
    assert not (tmp_path / "out").exists()
    with pytest.raises(ConfigError, match="3 workers of 1 CPU need 3, but the cluster has 2; lower --workers or --cpus"):
        score_pairs(pairs, tmp_path / "out", backend=RayBackend(3))
    with pytest.raises(ConfigError, match="device cuda needs GPUs of the cluster"):
        score_pairs(pairs, tmp_path / "out", backend=RayBackend(1, gpus=0), device="cuda")


def test_a_run_is_reranked_by_workers_as_by_one_process(tmp_path, tiny_llama_dir):
    folder = write_collection(tmp_path, "toy")
    lines = [f"q{i} Q0 d{j} {j} {100 - j} x" for i in range(3) for j in range(3)]
    run = tmp_path / "in.run"
    run.write_text("\n".join(lines) + "\n")
    words = [
        "rerank",
        "--run",
        str(run),
        "--dataset",
        str(folder),
        "--model",
        str(tiny_llama_dir),
        "--device",
        "cpu",
        "--dtype",
        "fp32",
    ]
    app([*words, "--out", str(tmp_path / "one.run")], standalone_mode=False)
    app([*words, "--out", str(tmp_path / "two.run"), "--workers", "2"], standalone_mode=False)
    one, two = read_run(tmp_path / "one.run"), read_run(tmp_path / "two.run")
    assert {query: list(scores) for query, scores in one.items()} == {query: list(scores) for query, scores in two.items()}
    assert not (tmp_path / "two.run.parts").exists()
