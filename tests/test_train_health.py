"""Failing runs: numbers that are not finite and full disks end them with a clear error, and saved files stay complete.

Weights are poisoned during a real run, and writes fail by the operating system's limit on the size of files.
"""

import json
import resource
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from prorank.adapt import adapt
from prorank.calibrate import calibrate
from prorank.cli import command_line as cli
from prorank.errors import ModelError, TrainingError
from prorank.train import run
from prorank.train import stage_trainer as base
from prorank.train.schedule import checkpoints
from prorank.train.settings.stage_settings import dump_settings, make_settings
from prorank.utils.strict_json import dumps
from tests.tiny import toy_lists, write_jsonl

COMMON = {"dtype": "fp32", "device": "cpu", "max_length": 96, "log_every": 1, "seed": 3, "batch_size": 2, "dev_queries": 4}
COMMON |= {"steps": 4, "num_evaluations": 2, "save_every": 2}
WRITTEN = {"max_new_tokens": 8, "max_think_tokens": 4, "temperature": 1.0, "reward": {"min_think_tokens": 1, "max_think_tokens": 9}}
THINKING = {"prompt": {"preset": "rerank-r0", "system": "Judge."}, "max_length": 120}
STAGES = {
    "warmup": {}, "warmup, sampled": {"advantage": "sampled"}, "score": {}, "score, lora": {"lora": {"r": 4, "alpha": 8}},
    "order": {}, "sft": THINKING, "reason, ppo": THINKING | WRITTEN | {"algorithm": "ppo", "ppo": {"num_ppo_epochs": 1}},
    "reason, grpo": THINKING | WRITTEN | {"algorithm": "grpo", "grpo": {"num_generations": 2}},
}  # fmt: skip


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch):
    monkeypatch.setattr("prorank.train.run.plot", lambda run: None)  # a second a run, tested elsewhere


@pytest.fixture
def settings(tmp_path, tiny_llama_dir):
    """A function that makes settings of a short run in `tmp_path / "run"`."""

    def made(stage: str = "score", **changes):
        rows = [row | {"query": f"{row['query']} {i}"} for i, row in enumerate(toy_lists(20, negatives=2))]
        if stage == "sft":
            rows = [{"query": f"tea {i}", "document": "hot tea", "think": f"it is {i}", "answer": "yes"} for i in range(20)]
        data = write_jsonl(tmp_path / "data.jsonl", rows)
        values = {"stage": stage.partition(",")[0], "base": str(tiny_llama_dir), "data": str(data), "out": str(tmp_path / "run")}
        return make_settings(COMMON | values | STAGES[stage] | changes)

    return made


def poison(monkeypatch, step: int, name: str | None = None, after: bool = False) -> None:
    """Let one weight become NaN right before (or `after`) a step: the one of this name, by default the first trained one."""
    real = base.StageTrainer.training_step

    def training_step(self, *given, **named):
        def spoil():
            trained = {key: weight for key, weight in self.model.named_parameters() if weight.requires_grad}
            with torch.no_grad():
                trained[name or next(iter(trained))].view(-1)[0] = torch.nan

        if self.state.global_step == step - 1 and not after:
            spoil()
        loss = real(self, *given, **named)
        if self.state.global_step == step - 1 and after:
            spoil()
        return loss

    monkeypatch.setattr(base.StageTrainer, "training_step", training_step)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {key: weight for file in sorted(folder.glob("*.safetensors")) for key, weight in load_file(file).items()}


def same(a: Path, b: Path) -> bool:
    left, right = weights(a), weights(b)
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


def all_finite(out: Path) -> bool:
    """Whether every saved weight is finite and every line of JSON is one."""
    lines = [line for file in out.rglob("*.jsonl") for line in file.read_text(encoding="utf-8").splitlines()]
    for line in lines:
        json.loads(line, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    return all(bool(torch.isfinite(w).all()) for f in out.rglob("*.safetensors") for w in load_file(f).values())


@pytest.mark.parametrize("stage", STAGES)
def test_a_run_stops_at_the_first_loss_that_is_not_finite(stage, settings, tmp_path, monkeypatch):
    """In every stage, naming step, loss and remedy; the best before and its checkpoint stay, and resume goes on there."""
    head = "value_head.weight" if stage.endswith("ppo") else None
    chosen, out = settings(stage), tmp_path / "run"
    with monkeypatch.context() as patch:
        poison(patch, 3, head)
        with pytest.raises(TrainingError) as error:
            run.train(chosen)
    told = str(error.value)
    remedy = f"start again with another 'out' and a lower learning_rate (now {chosen.learning_rate:g})"
    assert "\n" not in told and "step 3: the loss is nan" in told and remedy in told
    assert f"{out / 'model'} contains the best weights so far, of step 2; {out / 'checkpoint-2'} is a complete checkpoint" in told
    assert [folder.name for folder in checkpoints(out)] == ["checkpoint-2"] and not (out / "done.json").exists()
    assert all_finite(out) and weights(out / "model")
    run.train(chosen, resume=True)
    assert (out / "done.json").is_file() and [folder.name for folder in checkpoints(out)] == ["checkpoint-4"] and all_finite(out)


def test_gradients_that_are_not_finite_stop_it_before_they_touch_the_weights(settings, tmp_path):
    """A learning rate that throws the first step's weights so far that the second one has a loss and no gradient."""
    with pytest.raises(TrainingError, match=r"step 2: the (gradient norm|loss) is (nan|inf).*now 1e\+30.*No weights of this run"):
        run.train(settings(learning_rate=1e30, save_every=0))
    assert all_finite(tmp_path / "run") and not (tmp_path / "run" / "model").exists()


@pytest.mark.parametrize("stage", ["warmup", "score", "order"])
def test_weights_that_collapsed_are_not_called_the_best(stage, settings, tmp_path):
    """Learning_rate=1e6, where losses stay finite and every document gets the same score."""
    with pytest.raises(TrainingError, match="step 2: all documents of the dev set get the same score"):
        run.train(settings(stage, learning_rate=1e6))
    assert not (tmp_path / "run" / "model").exists()


@pytest.mark.parametrize("num_evaluations", [2, 0])
def test_weights_that_are_not_finite_are_never_saved(num_evaluations, settings, tmp_path, monkeypatch):
    """The last step of all spoils them: neither a dev measure nor the end of the run nor a checkpoint takes them."""
    poison(monkeypatch, 4, after=True)
    with pytest.raises(TrainingError, match="step 4: weight '.*' is not finite"):
        run.train(settings(num_evaluations=num_evaluations))
    assert all_finite(tmp_path / "run") and (tmp_path / "run" / "checkpoint-2").is_dir()
    assert (tmp_path / "run" / "model").is_dir() == bool(num_evaluations)


def test_a_dev_measure_that_is_not_finite_is_not_the_best(settings, tmp_path, monkeypatch):
    """Weights and losses are finite, the measure is not."""
    real = base.StageTrainer._measured

    def evaluate(stage, model):
        return {"ndcg@10": float("nan"), "score": float("nan")}

    def measured(self):
        if self.state.global_step:
            monkeypatch.setattr(type(self.stage), "evaluate", evaluate)
        return real(self)

    monkeypatch.setattr(base.StageTrainer, "_measured", measured)
    with pytest.raises(TrainingError, match=r"step 2: the dev measure ndcg@10 is nan"):
        run.train(settings())
    assert not (tmp_path / "run" / "model").exists()


@pytest.mark.parametrize("weight", ["model.embed_tokens.weight", "model.layers.1.mlp.down_proj.weight", "model.norm.weight"])
def test_a_base_that_is_damaged_is_refused_by_name(weight, settings, tmp_path, tiny_llama_dir, monkeypatch, capsys):
    """On the command line too, with code 2, one line, and nothing on disk."""
    folder = shutil.copytree(tiny_llama_dir, tmp_path / "base")
    damaged = load_file(folder / "model.safetensors")
    damaged[weight].view(-1)[7] = float("inf")
    save_file(damaged, folder / "model.safetensors", {"format": "pt"})
    chosen = settings(base=str(folder))
    with pytest.raises(ModelError, match=f"base .*: weight '{weight}' has values that are not finite"):
        run.train(chosen)
    (tmp_path / "c.yaml").write_text(dump_settings(chosen))
    monkeypatch.setattr(sys, "argv", ["prorank", "train", str(tmp_path / "c.yaml")])
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        cli.main()
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert end.value.code == 2 and len(lines) == 1 and weight in lines[0] and not (tmp_path / "run").exists()


def test_a_damaged_checkpoint_is_neither_adapted_nor_calibrated(settings, tmp_path, tiny_llama_dir):
    """And nothing is written that says it was."""
    folder, data = shutil.copytree(tiny_llama_dir, tmp_path / "base"), settings().data
    damaged = load_file(folder / "model.safetensors")
    damaged["model.norm.weight"][3] = torch.nan
    save_file(damaged, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match="weight 'model.norm.weight' has values that are not finite"):
        adapt(data, str(folder), tmp_path / "adapted", minutes=0.01, device="cpu")
    with pytest.raises(ModelError, match="not finite"):
        calibrate(folder, data, device="cpu", prompt={"preset": "prorank", "max_length": 96})
    assert not (tmp_path / "adapted" / "adapted.json").exists() and not (folder / "calibration.json").exists()


class Full:
    """Writes beyond so many bytes of a file fail from now on, as on a full disk."""

    def __init__(self) -> None:
        self.before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(self, size: int = 1000) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, self.before[1]))

    def free(self) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, self.before)


@pytest.fixture
def disk():
    made = Full()
    yield made
    made.free()


PLACES = {  # what is being written when the disk is full: a method of the trainer, and its step
    "a line of figures": ("_append", 4), "weights of a checkpoint": ("checkpoint", 4), "the best weights": ("measure", 4),
    "the optimiser": ("_save_optimizer_and_scheduler", 4), "the state": ("_publish", 4),
}  # fmt: skip


@pytest.mark.parametrize("where", PLACES)
def test_a_full_disk_gives_one_line_and_saved_files_stay_complete(where, settings, tmp_path, monkeypatch, disk):
    """Wherever the write fails; with room again the run goes on and ends as if nothing had been."""
    method, step = PLACES[where]
    chosen, out = settings(), tmp_path / "run"
    real = getattr(base.StageTrainer, method)

    def full(self, *given, **named):
        if self.state.global_step == step:
            disk.fill(1 if method in ("_append", "_publish") else 1000)
        return real(self, *given, **named)

    with monkeypatch.context() as patch:
        patch.setattr(base.StageTrainer, method, full)
        with pytest.raises(TrainingError) as error:
            run.train(chosen)
    disk.free()
    told = str(error.value)
    assert "\n" not in told and "cannot be read or written" in told and "continue with the same command" in told
    assert f"{out / 'model'} contains the best" in told and f"{out / 'checkpoint-2'} is a complete checkpoint" in told
    left = [path.name for path in out.iterdir()]
    assert not [name for name in left if name.startswith(".")] and all_finite(out) and "done.json" not in left
    if where == "the state":  # the last place of all: the longest way back
        run.train(chosen, resume=True)
        again = out.rename(tmp_path / "again")
        run.train(chosen)
        assert all(same(again / name, out / name) for name in ("model", "checkpoint-4"))


def test_json_has_only_finite_numbers():
    """Null in their place, however deep they lie."""
    value = {"a": float("nan"), "b": [1.0, float("-inf"), {"c": (float("inf"), 2)}], "d": True, "e": "NaN"}
    assert json.loads(dumps(value)) == {"a": None, "b": [1.0, None, {"c": [None, 2]}], "d": True, "e": "NaN"}
