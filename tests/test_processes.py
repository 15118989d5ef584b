"""Two processes of one run take the steps of one process, with DeepSpeed's ZeRO-2 too.

The very command that users give is started, twice over, by torchrun.
"""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from prorank.errors import ConfigError
from prorank.train.curves import read_metrics
from prorank.train.run import train
from prorank.train.settings.stage_settings import dump_settings, make_settings
from tests.tiny import write_jsonl

ROWS = [
    {"query": f"coffee {i}", "document": f"{'the coffee' if i % 2 else 'some bread'} {i}", "think": f"it is {i}",
     "answer": "yes" if i % 2 else "no", "label": i % 2} for i in range(24)
]  # fmt: skip


ZERO2 = Path(__file__).parent.parent / "configs" / "deepspeed_zero2.json"
LAUNCH = ["-m", "accelerate.commands.launch", "--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no", "--use_deepspeed"]
LAUNCH += [f"--deepspeed_config_file={ZERO2}"]


def values_of(stage: str, tmp_path: Path, base: Path) -> dict:
    """Settings of a short run of sft, of score behind thoughts, or of stage reason by an algorithm."""
    values = {
        "stage": "sft" if stage == "sft" else "reason", "base": str(base), "dtype": "fp32", "steps": 4, "batch_size": 4,
        "data": str(write_jsonl(tmp_path / "data.jsonl", ROWS)), "prompt": {"preset": "rerank-r0", "system": "Judge."},
        "max_length": 120, "log_every": 1, "dev_queries": 4, "num_evaluations": 1, "learning_rate": 1e-3, "device": "cpu",
    }  # fmt: skip
    if stage == "score":
        others = [row | {"document": f"the horse {i}", "label": 1 - row["label"]} for i, row in enumerate(ROWS)]
        prompt = values["prompt"] | {"max_think_tokens": 6}
        data = str(write_jsonl(tmp_path / "data.jsonl", [*ROWS, *others]))
        values |= {"stage": "score", "thoughts": True, "refresh_thoughts": 1, "steps": 7, "prompt": prompt, "data": data}
    elif stage != "sft":
        values |= {"algorithm": stage, "max_new_tokens": 10, "max_think_tokens": 6, "temperature": 1.0}
        values |= {"reward": {"min_think_tokens": 1, "max_think_tokens": 9}}
    return values


def started(
    tmp_path: Path, name: str, processes: int, values: dict, zero2: bool = False, module: str = "prorank"
) -> list[dict]:  # fmt: skip
    """Figures of a run by so many processes of the command that a module is."""
    settings = make_settings(values | {"out": str(tmp_path / name)})
    config = tmp_path / f"{name}.yaml"
    config.write_text(dump_settings(settings))
    command = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes > 1 else []
    command = [*LAUNCH, f"--num_processes={processes}"] if zero2 else command
    done = subprocess.run(
        [sys.executable, *command, "-m", module, "train", str(config)], capture_output=True, text=True, timeout=400, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (tmp_path / name / "stdout").write_text(done.stdout)
    return read_metrics(tmp_path / name)


@pytest.mark.parametrize("stage", ["sft", "score", "ppo", "grpo"])
def test_two_processes_give_the_losses_of_one(tmp_path, tiny_llama_dir, stage):
    values = values_of(stage, tmp_path, tiny_llama_dir)
    one, two = (started(tmp_path, str(n), n, values) for n in (1, 2))
    assert len(one) == len(two) >= 4
    for a, b in zip(one, two):
        assert a.keys() == b.keys()
        for key in {"loss", "dev_score"} & a.keys():
            assert a[key] == pytest.approx(b[key], rel=0, abs=1e-4), (a["step"], key)
    assert (tmp_path / "2" / "model" / "prompt.json").is_file()
    if stage == "score":
        assert thoughts(tmp_path / "1") == thoughts(tmp_path / "2")
        assert {number for number, *_ in thoughts(tmp_path / "1")} == {0, 1}  # five steps a pass


def test_sharded_weights_are_refused(tmp_path, tiny_llama_dir, monkeypatch):
    """accelerate shards nothing on a CPU, and elsewhere our mean of the gradients would mix different weights."""
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    settings = make_settings(values_of("sft", tmp_path, tiny_llama_dir) | {"out": str(tmp_path / "run")})
    with pytest.raises(ConfigError, match="FSDP .* is not supported; start the processes by torchrun, .* DeepSpeed's ZeRO-2"):
        train(settings)
    assert not (tmp_path / "run").exists()


def test_two_processes_with_a_strict_backend_take_the_steps_of_one(tmp_path, tiny_llama_dir):
    """Every tensor of a collective lies on the process's device, as NCCL wants it."""
    values = values_of("sft", tmp_path, tiny_llama_dir) | {"save_every": 2}
    one, two = (started(tmp_path, str(n), n, values, module="tests.nccl") for n in (1, 2))
    losses = [[line["loss"] for line in lines if "loss" in line] for lines in (one, two)]
    assert len(losses[0]) == 4 and losses[0] == pytest.approx(losses[1], rel=0, abs=1e-4)
    said = (tmp_path / "2" / "stdout").read_text()
    assert "'all_reduce'" in said and "'barrier'" in said and said.count("checkpoint: ") == 1
    done = [json.loads((tmp_path / str(n) / "done.json").read_text()) for n in (1, 2)]
    assert done[0]["documents"] == done[1]["documents"] == 16  # all processes' together


@pytest.mark.parametrize("processes", [1, 2])
def test_a_loss_that_is_not_finite_ends_all_processes(tmp_path, tiny_llama_dir, processes):
    """The process that has it and the one that has not stop with the same words, and torchrun with a code that is not 0."""
    values = values_of("sft", tmp_path, tiny_llama_dir) | {"learning_rate": 1e30, "out": str(tmp_path / "run")}
    config = tmp_path / "c.yaml"
    config.write_text(dump_settings(make_settings(values)))
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"] if processes > 1 else []
    words = [sys.executable, *command, "-m", "prorank", "train", str(config)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == (2 if processes == 1 else 1), done.stderr[-3000:]
    told = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert told and len(set(told)) == 1 and "step 2: the " in told[0] and "lower learning_rate" in told[0]
    assert not list((tmp_path / "run").rglob("*.safetensors"))


def thoughts(run: Path) -> list[tuple]:
    """What was written in a run, in order of rounds and texts."""
    rows = [json.loads(line) for line in (run / "thoughts.jsonl").read_text(encoding="utf-8").split("\n") if line]
    return sorted((row["round"], row["query"], row["document"], row["ids"]) for row in rows)


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("deepspeed"), reason="deepspeed is not installed")
@pytest.mark.parametrize("stage", ["sft", "ppo", "grpo"])
def test_zero2_takes_the_plain_steps(tmp_path, tiny_llama_dir, stage):
    values = values_of(stage, tmp_path, tiny_llama_dir) | {"steps": 6, "dev_queries": 0}
    plain = started(tmp_path, "plain", 1, values)
    for processes in (1, 2):
        sharded = started(tmp_path, f"zero2-{processes}", processes, values, zero2=True)
        assert len(plain) == len(sharded) >= 5
        for a, b in zip(plain, sharded):
            for key in {"loss", "grad_norm"} & a.keys():
                assert a[key] == pytest.approx(b[key], rel=1e-3, abs=1e-4), (a["step"], key)
