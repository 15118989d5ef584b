"""The benchmarks' own arithmetic, so that their tables can be believed."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import common
from benchmarks.evidence import recipe
from benchmarks.experiments import order_gain
from benchmarks.speed import bulk_size, growth, score_vs_peers, serve_cache, serve_load
from prorank.train.settings.stage_settings import load_settings
from tests.tiny import byte_tokenizer, tiny_llama

ROOT = Path(__file__).parent.parent
SCRIPTS = sorted((ROOT / "benchmarks").rglob("*.py"))


def test_slope_is_one_for_linear_and_two_for_square_growth():
    sizes = [100, 300, 1000, 10_000]
    assert growth.slope(sizes, [0.02 * n for n in sizes]) == pytest.approx(1)
    assert growth.slope(sizes, [1e-6 * n**2 for n in sizes]) == pytest.approx(2)


def test_a_job_is_sized_from_the_rate_of_a_machine():
    size = bulk_size.size_of(3600 * 100, rate=10, hours=3, shard_rows=1200)
    assert size == (10, 4, 2)


def test_ndcg_knows_the_best_and_the_worst_order():
    assert common.ndcg([2, 1, 0], [3.0, 2.0, 1.0]) == pytest.approx(1)
    assert common.ndcg([0, 0, 3], [3.0, 2.0, 1.0]) == pytest.approx(0.5)
    assert common.ndcg([0, 3], [1.0, 1.0]) < 1  # ties keep the list's order, which is not the best here


def test_layer_flops_count_every_matrix_once():
    model = tiny_llama(byte_tokenizer())
    c = model.config
    head = c.hidden_size // c.num_attention_heads
    attention = 2 * c.hidden_size * head * (c.num_attention_heads + c.num_key_value_heads)
    layer = attention + 3 * c.hidden_size * c.intermediate_size
    assert common.layer_flops(model) == 2 * c.num_hidden_layers * layer
    assert common.ceiling(model.to(torch.float32), rows=16) > 0


def test_ratios_are_paired_and_agreement_is_measured_under_one_prompt():
    lists = common.Lists("toy", ["a", "b"], [["x", "y", "z"]] * 2, [[0, 0, 1]] * 2)
    found = {
        "fp32": {"seconds": [4.0, 8.0], "scores": [[0.1, 0.2, 0.9]] * 2},
        "ours": {"seconds": [1.0, 2.0], "scores": [[0.2, 0.1, 0.9]] * 2},
        "ours-mxbai": {"seconds": [1.0, 1.0], "scores": [[0.3, 0.2, 0.1]] * 2},
    }
    rows = score_vs_peers.summary(lists, found)
    assert score_vs_peers.ratio(lists, found, "ours", "fp32") == 4.0
    assert rows["ours"]["tau"] == pytest.approx(1 / 3) and rows["fp32"]["tau"] == pytest.approx(1)
    assert "tau" not in rows["ours-mxbai"]  # another prompt, other scores
    assert rows["ours"]["documents_per_second"] == pytest.approx(2.25)


def test_the_load_of_a_server_is_measured(script, monkeypatch, capsys):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")  # given to the server, and put back
    words = "--data toy --queries 4 --clients 4 --minutes 0.02 --documents 3 --small 2 --large 20 --times 2 --check 3"
    words += " --offline-seconds 0.1"
    with pytest.raises(SystemExit) as end:
        script(serve_load, "--model", script.base, "--threads", 2, "--dtype", "fp32", *words.split(), "--", "--max-requests", "3")
    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    found = line["serve_load"]
    assert end.value.code == 0 == found["exit_code"] and line["clients"] == 4
    assert found["statuses"].keys() == {"200", "429"}  # three are let in, the fourth is told to come again
    assert found["compared"] and found["largest_difference"] < 1e-4
    assert min(found["ratio"], found["ratio_by_processor_time"], found["small_ratio"]) > 0


def test_the_cache_of_a_server_is_measured(script, monkeypatch, capsys):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    words = "--data toy --queries 4 --distinct 6 --documents 3 --requests 9 --clients 4 --threads 2 --dtype fp32 --tolerance 1e-4"
    options = ("--model", script.base, *words.split(), "--bytes", "1e6", "--", "--prompt", "document-first")
    with pytest.raises(SystemExit) as end:
        script(serve_cache, *options)
    report = json.loads(capsys.readouterr().out.splitlines()[-1])["serve_cache"]
    assert end.value.code == 0 and report["largest_difference"] < 1e-4
    assert report["without"]["answers"] == report["with"]["answers"] == 9
    assert report["without"]["found"] == 0 < report["with"]["found"] + report["with"]["computed"] == 27
    assert 0 < report["with"]["cache GB"] < 0.001

FAILING_QUEUE = """
import sys
from pathlib import Path
from benchmarks.jobs import Failures, Job, work

out = Path(sys.argv[1])


def arm(name):
    def do():
        if name == "second":
            raise RuntimeError("the disk is full")
        (out / name).write_text("done")

    return Job(out / name, (out / name).is_file, do)


failures = Failures()
work([arm(name) for name in ("first", "second", "third")], failures)
failures.finish()
"""


def test_a_queue_goes_on_after_a_failing_arm_and_exits_with_1(tmp_path):
    ended = subprocess.run([sys.executable, "-c", FAILING_QUEUE, str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 1
    assert (tmp_path / "first").is_file() and (tmp_path / "third").is_file() and not (tmp_path / "second").exists()
    last = ended.stderr.strip().splitlines()[-2:]
    assert last[0] == "1 failed:" and "second: RuntimeError: the disk is full" in last[1]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_scripts_that_collect_failures_report_them(path):
    """A queue that is never finished would hide what failed."""
    text = path.read_text(encoding="utf-8")
    assert "Failures()" not in text or path.stem == "jobs" or "failures.finish()" in text


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: f"{path.parent.name}.{path.stem}")
def test_every_script_is_imported_and_shows_its_help(path, monkeypatch, capsys):
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    module = importlib.import_module(name)
    if not hasattr(module, "main"):
        assert "argparse.ArgumentParser(" not in path.read_text(encoding="utf-8")
        return
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as end:
        module.main()
    shown, head = capsys.readouterr().out, module.__doc__.splitlines()[0]
    assert end.value.code == 0 and "".join(head.split()) in "".join(shown.split())  # argparse breaks lines at hyphens, too


@pytest.mark.parametrize(
    "stage, keys",
    [*(("warmup", settings) for _, settings in recipe.WARMUPS.values()), *(("score", keys) for keys in recipe.LOSSES.values()),
     *order_gain.ARMS.values()],
)  # fmt: skip
def test_arms_of_tables_have_keys_of_their_stage(stage, keys):
    settings = load_settings(recipe.RECIPE / f"{stage}.yaml", [f"{key}={value}" for key, value in keys.items()])
    assert settings.stage == stage
    assert all(getattr(settings, key) == value for key, value in keys.items() if key != "loss")


def test_the_share_of_the_ceiling_is_measured(tiny_llama_dir):
    lists = common.Lists("toy", ["a query"] * 2, [["one text", "another text"]] * 2, [[0, 1]] * 2)
    result = score_vs_peers.shares(str(tiny_llama_dir), lists, {"ours": {"documents_per_second": 2.0}}, "cpu", 1)
    assert result["ceiling"] > 0 and 0 < result["shares"]["ours"]
