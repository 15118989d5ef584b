"""Stages end to end on a tiny model: they learn, they resume after a kill as if nothing had happened, they leave whole folders.

The kill is a real SIGKILL of a real process, at a step drawn by the stage and inside a checkpoint write.
"""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from random import Random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from prorank.data.examples import Group
from prorank.errors import ConfigError
from prorank.reranker import Reranker
from prorank.train.curves import read_metrics
from prorank.train.run import train
from prorank.train.schedule import checkpoints
from prorank.train.settings.stage_settings import make_settings
from prorank.train.teacher_scores import with_teacher

COMMON = {"dtype": "fp32", "max_length": 96, "log_every": 1, "seed": 3}


def run(out: Path, data: Path, base: Path | str, **changes) -> Path:
    values = {"base": str(base), "data": str(data), "out": str(out), **COMMON, **changes}
    return train(make_settings(values), resume=(out / "config.yaml").is_file())


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(next(folder.glob("*.safetensors")))


def same(a: Path, b: Path) -> bool:
    left, right = weights(a), weights(b)
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


def coffee_lists(path: Path) -> Path:
    """Lists a two-layer random model can learn in seconds: what is relevant speaks of coffee."""
    with open(path, "w", encoding="utf-8") as handle:
        for i in range(48):
            others = [f"the {age} {word} is near {i}" for age, word in (("old", "bread"), ("new", "violin"), ("old", "horse"))]
            handle.write(json.dumps({"query": f"what to drink {i}", "pos": [f"the old coffee is near {i}"], "neg": others}) + "\n")
    return path


def test_two_stages_learn_and_leave_whole_folders(tmp_path, tiny_llama_dir):
    data = coffee_lists(tmp_path / "lists.jsonl")
    warm = run(tmp_path / "w", data, tiny_llama_dir, stage="warmup", steps=30, learning_rate=3e-3, batch_size=8, dev_queries=8)
    lines = read_metrics(tmp_path / "w")
    trained = [line for line in lines if "reward" in line]
    assert trained[-1]["reward"] > trained[0]["reward"] + 0.3
    assert trained[-1]["format_rate"] == 1.0
    parts = {"reward_format", "reward_relevance", "accuracy", "kl", "entropy", "zero_variance", "examples_per_second"}
    assert parts <= set(trained[0])
    fine = run(
        tmp_path / "s",
        data,
        tmp_path / "w",
        stage="score",
        epochs=4,
        learning_rate=3e-3,
        batch_size=4,
        dev_queries=10,
        num_evaluations=4,
    )
    dev = [line["dev_ndcg@10"] for line in read_metrics(tmp_path / "s") if "dev_ndcg@10" in line]
    assert len(dev) == 5  # one before the first step
    assert max(dev) > 0.8, dev
    done = json.loads((tmp_path / "s" / "done.json").read_text())
    assert done["best"]["ndcg@10"] == max(dev[1:]) and done["before"]["ndcg@10"] == dev[0]
    assert (tmp_path / "s" / "train_curves.png").read_bytes().startswith(b"\x89PNG")
    assert {"prompt.json", "modules.json", "README.md", "tokenizer.json"} <= {p.name for p in fine.iterdir()}
    hits = Reranker(fine, dtype="fp32").rank("what to drink", ["the old bread is near 5", "the old coffee is near 5"])
    assert hits[0].index == 1
    assert warm.is_dir()
    assert not [p for p in tmp_path.rglob("*.tmp")] and not (tmp_path / "s" / ".saving").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"advantage": "sampled", "scale_rewards": "leave-one-out"},
        {"advantage": "exact", "num_generations": 0, "exploration_rate": 0.25},
        {"advantage": "sampled", "updates": 2, "steps": 24, "save_every": 0},
        {"lora": {"r": 8, "alpha": 16}, "learning_rate": 1e-2},
    ],
)
def test_every_kind_of_warmup_brings_the_form(changes, tmp_path, toy_file, tiny_llama_dir):
    # Without the balance term, which slows the form down in a model that never answers: so few steps are for the form alone.
    settings = {"stage": "warmup", "steps": 24, "learning_rate": 3e-3, "batch_size": 8, "dev_queries": 0, "balance_weight": 0}
    folder = run(tmp_path / "w", toy_file, tiny_llama_dir, **settings | changes)
    rates = [line["format_rate"] for line in read_metrics(tmp_path / "w") if "format_rate" in line]
    assert rates[-1] >= 0.9 > rates[0]
    assert (folder / "adapter_config.json").is_file() == ("lora" in changes)


@pytest.mark.parametrize("loss", [{"bce": 1.0}, {"kl": 1.0}, {"listnet": 0.5, "kl": 0.5}])
def test_losses_and_teachers(loss, tmp_path, toy_file, tiny_qwen2_dir):
    teacher = {"teacher": "query-likelihood"} if "kl" in loss else {}
    run(tmp_path / "s", toy_file, tiny_qwen2_dir, stage="score", steps=4, loss=loss, dev_queries=4, **teacher)
    lines = [line for line in read_metrics(tmp_path / "s") if "loss" in line]
    assert {f"loss_{name}" for name in loss} <= set(lines[0])
    assert (tmp_path / "s" / "teacher.json").is_file() == ("kl" in loss)


def test_several_teachers_are_averaged(tmp_path):
    some = [Group("hot tea", ("hot tea now", "cold stone", "tea"), (1.0, 0.0, 0.0)), Group("music", ("music", "a"), (1.0, 0.0))]
    run = [tmp_path / name for name in "ab"]
    alone = [g.teacher for g in with_teacher(some, "bm25", run[0], None, None, None)]
    both = [g.teacher for g in with_teacher(some, "bm25 + bm25", run[1], None, None, None)]
    spread = np.concatenate([np.subtract(row, np.mean(row)) for row in alone]).std()
    assert all(np.allclose(b, np.array(a) / spread) for a, b in zip(alone, both)) and spread > 0


def test_teacher_scores_are_kept_for_the_same_texts_only(tmp_path):
    some = Group("tea", ("tea and bread", "horse"), (1.0, 0.0))
    other = Group("horse", ("tea and bread", "horse"), (0.0, 1.0))
    first, again = (with_teacher([some], "bm25", tmp_path, None, None, None)[0].teacher for _ in range(2))
    assert first == again and first[0] > first[1]
    changed = with_teacher([other], "bm25", tmp_path, None, None, None)[0].teacher
    assert changed[1] > changed[0]


def test_training_goes_on_from_an_mxbai_prompt(tmp_path, toy_file, tiny_qwen2_dir):
    changes = {"steps": 2, "batch_size": 4, "dev_queries": 4, "prompt": "mxbai", "max_length": 64}
    run(tmp_path / "w", toy_file, tiny_qwen2_dir, stage="warmup", **changes)
    folder = run(tmp_path / "s", toy_file, tmp_path / "w", stage="score", **changes)
    assert json.loads((folder / "prompt.json").read_text())["name"] == "mxbai"


def test_training_may_read_less_than_the_checkpoint(tmp_path, tiny_qwen2_dir):
    data, tokens = tmp_path / "lists.jsonl", {}
    lists = [{"query": f"tea {i}", "pos": ["tea and bread " * 20], "neg": ["horse and garden " * 20]} for i in range(24)]
    data.write_text("".join(json.dumps(one) + "\n" for one in lists))
    for length in (None, 96):
        out = tmp_path / str(length)
        changes = {"steps": 2, "dev_queries": 4, "max_length": 200, "train_length": length, "prompt": "echo"}
        folder = run(out, data, tiny_qwen2_dir, stage="score", list_size=2, **changes)
        assert json.loads((folder / "prompt.json").read_text())["max_length"] == 200
        tokens[length] = max(line["tokens"] for line in read_metrics(out) if "tokens" in line)
    assert tokens[96] <= 2 * 96 and tokens[96] < tokens[None]
    with pytest.raises(ConfigError, match="key .train_length. must not be above max_length"):
        run(tmp_path / "x", data, tiny_qwen2_dir, stage="score", max_length=72, train_length=96)


def test_length_of_the_run_does_not_change_what_a_step_sees(toy_file, tiny_llama_dir, tmp_path):
    from prorank.checkpoints.loading import load_tokenizer
    from prorank.checkpoints.resolve import resolve
    from prorank.data.formats import read_groups
    from prorank.prompts.prompt import Prompt
    from prorank.train.settings.stage_settings import Score
    from prorank.train.stages.score import ScoreStage

    bound = Prompt.preset("prorank").bind(load_tokenizer(resolve(tiny_llama_dir)))
    groups = read_groups(toy_file)
    one, two = (ScoreStage(groups, bound, Score(data="d", out="o"), None) for _ in range(2))
    late = len(one) + 3
    [two.example(i) for i in range(late)]
    assert one.example(late) == two.example(late)
    assert one.example(late) != one.example(3)


SCRIPT = """
import json, os, signal, sys
import torch
torch.set_num_threads(1)
from prorank.train.settings.stage_settings import make_settings
from prorank.train import stage_trainer
from prorank.train.run import train
values, when = json.loads(sys.argv[1]), sys.argv[2]
if when == "inside":
    save = stage_trainer.StageTrainer._save_optimizer_and_scheduler
    def cut(self, folder):
        if self.state.global_step >= 8:
            os.kill(os.getpid(), signal.SIGKILL)
        save(self, folder)
    stage_trainer.StageTrainer._save_optimizer_and_scheduler = cut
elif when.isdigit():
    loss = stage_trainer.StageTrainer.compute_loss
    def cut(self, *args, **kwargs):
        if self.state.global_step >= int(when):
            os.kill(os.getpid(), signal.SIGKILL)
        return loss(self, *args, **kwargs)
    stage_trainer.StageTrainer.compute_loss = cut
train(make_settings(values), resume=True)
"""


def process(values: dict, when: str) -> int:
    done = subprocess.run([sys.executable, "-c", SCRIPT, json.dumps(values), when], capture_output=True, text=True, timeout=300)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode


@pytest.mark.parametrize("stage", ["warmup", "score"])
def test_killed_and_resumed_equals_uninterrupted(stage, tmp_path, toy_file, tiny_llama_dir):
    values = {
        "stage": stage,
        "base": str(tiny_llama_dir),
        "data": str(toy_file),
        "steps": 14,
        "batch_size": 4,
        "learning_rate": 1e-3,
        "dev_queries": 4,
        "num_evaluations": 2,
        "save_every": 4,
        **COMMON,
        "lora": {"r": 4, "alpha": 8, "dropout": 0.1} if stage == "score" else None,
    }
    if stage == "warmup":
        values["advantage"] = "sampled"
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert process({**values, "out": str(whole)}, "never") == 0
    assert process({**values, "out": str(cut)}, "inside") == -signal.SIGKILL
    assert [c.name for c in checkpoints(cut)] == ["checkpoint-4"]
    half = cut / "checkpoint-8"
    half.mkdir(exist_ok=True)
    (half / "trainer_state.json").write_text("{")  # what a writer without care would leave
    later = Random(stage).randint(5, 13)
    assert process({**values, "out": str(cut)}, str(later)) == -signal.SIGKILL
    assert process({**values, "out": str(cut)}, "never") == 0
    assert same(whole / "model", cut / "model")
    assert same(whole / "checkpoint-12", cut / "checkpoint-12")
    steps = [line["step"] for line in read_metrics(cut) if "loss" in line]
    assert steps == sorted(set(steps)) == list(range(1, 15))


def test_ctrl_c_writes_a_checkpoint_and_resume_goes_on(tmp_path, toy_file, tiny_llama_dir):
    values = {
        "stage": "score",
        "base": str(tiny_llama_dir),
        "data": str(toy_file),
        "out": str(tmp_path / "s"),
        "steps": 400,
        "dev_queries": 0,
        "save_every": 0,
        **COMMON,
    }
    child = subprocess.Popen([sys.executable, "-c", SCRIPT, json.dumps(values), "never"], stderr=subprocess.PIPE, text=True)
    log = tmp_path / "s" / "metrics.jsonl"
    while child.poll() is None and not (log.is_file() and log.stat().st_size):
        time.sleep(0.1)
    os.kill(child.pid, signal.SIGINT)
    child.communicate()
    assert child.returncode != 0
    assert len(checkpoints(tmp_path / "s")) == 1
    assert not (tmp_path / "s" / "done.json").exists()


def test_a_budget_in_minutes_ends_in_time(tmp_path, toy_file, tiny_llama_dir, monkeypatch):
    from prorank.train import schedule as course

    ticks = itertools.count()
    # A second passes between two looks at the clock.
    monkeypatch.setattr(course, "time", SimpleNamespace(monotonic=lambda: float(next(ticks))))
    run(tmp_path / "s", toy_file, tiny_llama_dir, stage="score", minutes=1.0, dev_queries=4, num_evaluations=2)
    done = json.loads((tmp_path / "s" / "done.json").read_text())
    assert 1.0 <= done["minutes"] < 1.5 and 1 < done["step"] < 60


def test_minutes_end_early_after_so_many_passes(tmp_path, toy_file, tiny_llama_dir):
    common = {"stage": "score", "dev_queries": 4, "num_evaluations": 0}
    one = run(tmp_path / "one", toy_file, tiny_llama_dir, epochs=2, **common)
    most = run(tmp_path / "most", toy_file, tiny_llama_dir, minutes=9, max_epochs=2, **common)
    ends = [json.loads((folder.parent / "done.json").read_text())["step"] for folder in (one, most)]
    assert ends[0] == ends[1] > 1


def test_a_folder_that_cannot_be_written_is_told_before_data_are_read(tmp_path, monkeypatch):
    """A link to a folder of the kernel, where nobody can write, whatever the rights."""
    out = tmp_path / "run"
    out.symlink_to("/proc/self/fd")
    monkeypatch.setattr("prorank.train.run.STAGES", {"score": None})
    monkeypatch.setattr("prorank.train.run.resolve", None)
    with pytest.raises(OSError) as error:
        train(make_settings({"stage": "score", "data": "lists.jsonl", "out": str(out), **COMMON}))
    assert str(out) in str(error.value) and "\n" not in str(error.value)


def test_a_run_without_a_budget_is_one_pass(tmp_path, tiny_llama_dir):
    """With `compile: auto`, which asks how long the run will be."""
    run(tmp_path / "run", coffee_lists(tmp_path / "lists.jsonl"), tiny_llama_dir, stage="score", batch_size=16, dev_queries=0)
    assert [line["step"] for line in read_metrics(tmp_path / "run") if "loss" in line] == [1, 2, 3]
