"""`prorank score-pairs` and `rerank --run --workers`: options that exclude each other, output, exit codes."""

import json
import sys

import pytest

from prorank.cli.bulk_command import LINE_SECONDS, pairs_progress
from prorank.cli.command_line import main
from tests.bulk_toy import read_shards, toy_pairs, write_pairs
from tests.toy_data import write_collection


@pytest.fixture
def command(tmp_path, tiny_llama_dir, monkeypatch, capsys):
    """A function that runs a command line in a folder with pairs.jsonl, and returns (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    write_pairs(tmp_path / "pairs.jsonl", toy_pairs(20))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["prorank", *words, "--model", str(tiny_llama_dir), "--device", "cpu", "--dtype", "fp32"])
        try:
            main()
            code = 0
        except SystemExit as error:
            code = int(error.code or 0)
        out, err = capsys.readouterr()
        return code, out, err

    return run


def test_pairs_are_scored_and_a_rerun_says_that_nothing_is_left(command, tmp_path):
    words = ("score-pairs", "pairs.jsonl", "out/", "--shard-rows", "8")
    code, out, err = command(*words)
    assert (code, err) == (0, "") and out.endswith(
        "20 pairs in 3 shards; 3 shards scored now; 0 of 20 documents cut, 0 queries cut\n"
    )
    assert [row["row"] for row in read_shards(tmp_path / "out")] == list(range(20))
    code, out, _ = command(*words)
    assert code == 0 and "nothing to do, all 20 pairs in 3 shards are there" in out
    code, _, err = command(*words, "--instruction", "other")
    assert code == 2 and err.startswith("error: ") and "made with instruction none, now other" in err


def test_columns_and_formats_are_options(command, tmp_path):
    rows = [{"q": row["query"], "d": row["document"], "n": i} for i, row in enumerate(toy_pairs(5))]
    write_pairs(tmp_path / "other.parquet", rows)
    names = ("--query-column", "q", "--document-column", "d", "--id-columns", "n", "--format", "jsonl")
    code, _, err = command("score-pairs", "other.parquet", "out", *names)
    assert code == 0, err
    lines = [json.loads(line) for line in (tmp_path / "out/part-00000000.jsonl").read_text().splitlines()]
    assert [(line["row"], line["n"]) for line in lines] == [(i, i) for i in range(5)] and all(line["score"] for line in lines)


@pytest.mark.parametrize(
    "words, message",
    [
        ("score-pairs pairs.jsonl out --engine rai", "--engine rai: unknown engine; did you mean 'ray'?"),
        ("score-pairs pairs.jsonl out --workers 2", "--workers is for workers of a cluster; add --engine ray or omit it"),
        ("score-pairs pairs.jsonl out --engine ray --workers 0", "--workers must be at least 1, not 0"),
        ("score-pairs pairs.jsonl out --engine ray --gpus -1", "--gpus must be at least 0, not -1"),
        ("score-pairs pairs.jsonl out --shard-rows 0", "--shard-rows must be at least 1, not 0"),
        ("score-pairs none.jsonl out", "no such file or folder"),
        ("score-pairs pairs.jsonl pairs.jsonl", "pairs.jsonl: Not a directory"),
        ("rerank pairs.jsonl -q x --workers 2", "--workers needs --run; the hits of one query are printed"),
        ("rerank --run in.run --dataset toy --out o --cpus 2", "--cpus needs --workers"),
        ("rerank --run in.run --dataset toy --out o --workers 0", "--workers must be at least 1, not 0"),
        (
            "rerank --run in.run --dataset toy --out o --workers 2 --method setwise",
            "--workers scores single documents, not --method",
        ),
        ("rerank --run in.run --dataset toy --out o --workers 2 --server http://x", "--workers is for a local model"),
    ],
)
def test_wrong_options_end_in_one_line(words, message, command, tmp_path):
    write_collection(tmp_path, "toy")
    (tmp_path / "in.run").write_text("q1 Q0 d1 1 1.0 x\n")
    before = sorted(tmp_path.rglob("*"))
    code, _, err = command(*words.split())
    assert code == 2 and err.startswith("error: ") and err.count("\n") == 1 and message in err, err
    assert sorted(tmp_path.rglob("*")) == before


def test_a_missing_ray_is_named(command, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "ray", None)
    code, _, err = command("score-pairs", "pairs.jsonl", "out", "--engine", "ray")
    assert code == 2 and "This needs the extra 'ray': pip install 'prorank[ray]'" in err and not (tmp_path / "out").exists()


def test_lines_of_progress_come_once_a_minute(monkeypatch, capsys):
    clock = iter([0.0, 1.0, LINE_SECONDS, LINE_SECONDS + 1])
    monkeypatch.setattr("prorank.cli.bulk_command.time.monotonic", lambda: next(clock))
    with pairs_progress("score-pairs") as report:
        for done in (1100, 1700, 2300):
            report(done, 5000, {"rows": 600})
    assert capsys.readouterr().err == "score-pairs: 1700 of 5000 pairs, 20.0 pairs/s\n"
