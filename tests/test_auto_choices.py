"""The choices of `auto` are reported: by the Reranker, in reports, in a run's folder, by `prorank info` and `prorank -v`."""

import json
from dataclasses import replace

import pytest
import torch
from typer.testing import CliRunner

from prorank.cli.command_line import app
from prorank.engine import auto
from prorank.engine.auto import COMPILED, PLAIN, Choice
from prorank.engine.kernels import Kernels
from prorank.errors import ConfigError, ModelError
from prorank.evaluate.benchmark import evaluate
from prorank.reranker import Reranker
from prorank.train import choices
from prorank.train.choices import choices_of, chosen_settings, keep_choices
from prorank.train.settings.stage_settings import Score
from tests.evaluate_toy import write_beir

CPU = torch.device("cpu")


def test_a_reranker_reports_its_choices(tiny_llama_dir):
    reranker = Reranker(tiny_llama_dir, device="cpu")
    assert reranker.choices["dtype"].value == "fp32" and "too small" in reranker.choices["dtype"].reason
    assert Reranker(tiny_llama_dir, device="cpu", dtype="bf16").choices["dtype"] == Choice("bf16", "as asked for")


@pytest.mark.parametrize("compile", ["yes", None, 2, "true"])
def test_compile_is_true_false_or_auto(tiny_llama_dir, compile):
    with pytest.raises(ConfigError, match="compile must be true, false or auto"):
        Reranker(tiny_llama_dir, compile=compile)


def test_an_unknown_dtype_is_refused_before_the_checkpoint_is_looked_for():
    with pytest.raises(ModelError, match="unknown dtype 'fp23'; did you mean 'fp32'"):
        Reranker("no/such/folder", dtype="fp23")


def test_steps_are_compiled_before_the_call_that_is_long_enough(tiny_llama_dir, monkeypatch):
    made = []
    monkeypatch.setattr("prorank.rank.lazy_compile.Kernels", lambda compiled: made.append(compiled) or Kernels(False))
    asked = []

    def choose(config, purpose, dtype, tokens):
        asked.append(tokens)
        return Choice(COMPILED if tokens > 100 else PLAIN, "a reason")

    monkeypatch.setattr("prorank.rank.lazy_compile.choose_compile_for", choose)
    reranker = Reranker(tiny_llama_dir, device="cpu")
    reranker.rank("river", ["a stone", "a castle"])
    assert made == [] and reranker.choices["compile"].value == PLAIN
    reranker.rank("river", ["a stone in the river " * 10] * 4)
    assert made == [True] and reranker.choices["compile"] == Choice(COMPILED, "a reason")
    reranker.rank("river", ["a stone in the river " * 10] * 4)
    assert made == [True] and len(asked) == 2  # compiled once, and not asked again
    Reranker(tiny_llama_dir, device="cpu", compile=False).rank("river", ["stone " * 500])
    assert len(asked) == 2


def test_a_broken_compiler_leaves_auto_with_plain_steps(monkeypatch):
    def broken(*_):
        raise ModelError("compile needs a working C++ compiler")

    monkeypatch.setattr(auto, "compiled_speed", broken)
    monkeypatch.setattr(auto, "layer_speed", lambda *_: replace_speed())
    monkeypatch.setattr(auto.shutil, "which", lambda name: name)
    assert auto.choose_compile(None, "ranking", "fp32", 1e6) == Choice(PLAIN, "compile needs a working C++ compiler")


def replace_speed():
    from prorank.engine.layer_speed import LayerSpeed

    return LayerSpeed("p", 2, "2.13", "s", "ranking", 1000, {"fp32": 1.0, "bf16": 1.0})


def test_reports_name_the_choices_of_every_system(tiny_llama_dir, tmp_path):
    found = evaluate([write_beir(tmp_path / "toy")], [Reranker(tiny_llama_dir, device="cpu")], out=tmp_path / "out")
    name = next(row.system for row in found.rows if row.kind == "model")
    assert found.settings[f"dtype of {name}"].startswith("fp32 (")
    assert json.loads((tmp_path / "out" / "results.json").read_text())["settings"][f"dtype of {name}"].startswith("fp32 (")
    assert "fp32 (" in (tmp_path / "out" / "report.html").read_text()


def settings_in(folder, **more) -> Score:
    return Score(base="b", data="d", out=str(folder), **more)


def test_a_resumed_training_keeps_its_choices(tmp_path, monkeypatch):
    settings = settings_in(tmp_path)
    monkeypatch.setattr(choices, "choose_dtype", lambda *_: Choice("bf16", "measured then"))
    monkeypatch.setattr(choices, "choose_compile_for", lambda *_: Choice(COMPILED, "it paid then"))
    begun = choices_of(settings, None, CPU, 100, 10, resume=False)
    keep_choices(begun, settings.out)
    monkeypatch.setattr(choices, "choose_dtype", lambda *_: Choice("fp32", "measured now"))
    monkeypatch.setattr(choices, "choose_compile_for", lambda *_: Choice(PLAIN, "it does not pay now"))
    assert choices_of(settings, None, CPU, 100, 10, resume=True) == begun
    chosen = chosen_settings(settings, begun)
    assert chosen == replace(settings, dtype="bf16", compile=True)
    assert choices_of(settings, None, CPU, 100, 10, resume=False)["dtype"].value == "fp32"


def test_the_length_of_a_training_follows_from_its_budget(tmp_path, monkeypatch):
    jobs = []
    monkeypatch.setattr(choices, "choose_dtype", lambda *_: Choice("fp32", ""))
    monkeypatch.setattr(choices, "choose_compile_for", lambda *given: jobs.append(given[-1]) or Choice(PLAIN, ""))
    monkeypatch.setattr(choices, "choose_compile", lambda *given: jobs.append(f"{given[-1]:g} s") or Choice(PLAIN, ""))
    lists = {"list_size": [4, 6], "batch_size": 2}
    choices_of(settings_in(tmp_path, steps=30, **lists), None, CPU, 100, 10, False)
    choices_of(settings_in(tmp_path, epochs=3, **lists), None, CPU, 100, 10, False)
    choices_of(settings_in(tmp_path, minutes=2, **lists), None, CPU, 100, 10, False)
    assert jobs == [30 * 2 * 6 * 100, 3 * 10 * 6 * 100, "120 s"]
    for settled in ({"compile": True}, {"compile": False}, {"gradient_checkpointing": True}, {"baseline_step": True}):
        choices_of(settings_in(tmp_path, **settled), None, CPU, 100, 10, False)
    assert len(jobs) == 3


def test_info_shows_and_measures(tiny_llama_dir, tmp_path, monkeypatch):
    monkeypatch.setenv("PRORANK_CACHE", str(tmp_path))
    done = CliRunner().invoke(app, ["info", "--model", str(tiny_llama_dir), "--device", "cpu", "--measure"])
    assert done.exit_code == 0, done.output
    for words in ("prorank", "torch: 2", "ranking: fp32 (", "training: fp32 (", str(tmp_path), "prorank-smollm2-135m", "compile"):
        assert words in done.stdout
    told = json.loads(CliRunner().invoke(app, ["info", "--model", str(tiny_llama_dir), "--device", "cpu", "--json"]).stdout)
    assert told["dtype"]["ranking"].startswith("fp32") and told["packages"]["torch"] == torch.__version__


def test_info_downloads_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("PRORANK_CACHE", str(tmp_path / "none"))
    monkeypatch.setattr("prorank.checkpoints.sources.built_in", lambda: pytest.fail("fetched"))
    done = CliRunner().invoke(app, ["info"])
    assert done.exit_code == 0 and "prorank pull" in done.stdout and not (tmp_path / "none").exists()


def test_verbose_says_why(tiny_llama_dir, tmp_path):
    import os
    import subprocess
    import sys

    (tmp_path / "docs.txt").write_text("a stone\na castle\n")
    command = ["rerank", str(tmp_path / "docs.txt"), "--query", "river", "--model", str(tiny_llama_dir), "--device", "cpu"]
    run = [subprocess.run([sys.executable, "-m", "prorank", *more, *command], capture_output=True, text=True, env=os.environ)
           for more in ([], ["-v"])]  # fmt: skip
    assert [one.returncode for one in run] == [0, 0], run[1].stderr
    assert "dtype fp32 (" not in run[0].stderr and "dtype fp32 (" in run[1].stderr and "steps plain (" in run[1].stderr
