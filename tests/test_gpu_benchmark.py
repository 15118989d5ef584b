"""`benchmarks/speed/gpu.sh` in its small form on a CPU: every part, one table, and parts that fail beside parts that go on."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.speed import gpu, gpu_parts

ROOT = Path(__file__).parent.parent


def run(script, folder, *words):
    script(gpu, "--device", "cpu", "--small", "--model", script.base, "--out", folder / "gpu.json", *words)


def test_all_parts_in_one_table(script, tmp_path, capsys):
    run(script, tmp_path)
    shown, figures = capsys.readouterr().out, json.loads((tmp_path / "gpu.json").read_text())
    title, _, head, _, *lines = shown.strip().splitlines()
    assert figures["processor"] in title and figures["torch"] in title and head.startswith("| part | what | value |")
    rows = figures["rows"]
    assert [line.split(" | ")[:2] for line in lines] == [[f"| {row['part']}", row["what"]] for row in rows]
    assert {row["part"] for row in rows} == set(gpu.SHARES)
    values = {row["what"]: row["value"] for row in rows}
    assert values["ours, fp32: largest difference from transformers fp32, 12 scores"] < 1e-4
    assert abs(values["ours: first loss minus that of the padded step"]) < 1e-4
    peers = [f"sentence-transformers, bf16, batches of {size}" for size in gpu_parts.PEER_BATCHES]
    for name in ("ours", "ours, host alone", "ours, device alone", *peers):
        assert values[f"random words (dl19's lengths): {name}"] > 0
    shares = [row["share"] for row in rows if row["what"].endswith(": ours")]
    assert len(shares) == 2 and all(0 < share < 1 for share in shares)


def test_a_part_that_fails_is_a_row_and_the_others_go_on(script, tmp_path, capsys, monkeypatch):
    def broken(options, add):
        add({"what": "before the error", "value": 2.0, "unit": "rows"})
        raise RuntimeError("no kernel image\nis available")

    monkeypatch.setitem(gpu_parts.FUNCTIONS, "parity", broken)
    monkeypatch.setattr(gpu_parts, "_cross_encoder", lambda *_: broken(None, lambda _: None))
    with pytest.raises(SystemExit) as end:
        run(script, tmp_path, "--parts", "parity", "scoring", "generation")
    lines = capsys.readouterr().out.splitlines()
    assert end.value.code == 1
    assert "| parity | before the error | 2 rows | |" in lines
    assert "| parity | failed | RuntimeError: is available | |" in lines
    peers = [line for line in lines if "batches of 128: failed | RuntimeError: no kernel image" in line]
    assert len(peers) == 1 and any(": transformers, bf16, batches of 32 |" in line for line in lines)
    assert any(line.startswith("| scoring | failed | PartError: failed: sentence-transformers") for line in lines)
    assert any(line.startswith("| generation | ours") for line in lines)


def test_a_part_in_its_own_process_has_a_time_limit_and_reports_its_error(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    options = {"model": str(tmp_path / "nothing"), "folder": str(tmp_path), "device": "cpu", "small": True}
    with pytest.raises(gpu.PartError, match="took longer than 0 s"):
        gpu.run_in_process("prepare", options, 0.01, print)
    with pytest.raises(gpu.PartError, match="^ModelError: .*nothing"):
        gpu.run_in_process("prepare", options, 300, print)


def test_the_script_takes_the_arguments_of_the_benchmark(tmp_path):
    environment = {**os.environ, "PYTHON": sys.executable, "KIT": str(tmp_path)}
    done = subprocess.run(
        ["bash", "benchmarks/speed/gpu.sh", "--help"], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0 and "--parts" in done.stdout and "--options" not in done.stdout
