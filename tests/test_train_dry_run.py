"""`prorank train --dry-run`: what a run needs, held against the peak memory of the run itself."""

import json
import re
import subprocess
import sys

import pytest
import torch
from typer.testing import CliRunner

from prorank.checkpoints.loading import load_model
from prorank.checkpoints.resolve import resolve
from prorank.cli.command_line import app
from prorank.train.dry_run import dry_run, saved_bytes
from prorank.train.settings.stage_settings import make_settings
from tests.test_train_reason import run
from tests.tiny import toy_lists, write_jsonl

PEAK = "import resource, subprocess, sys; done = subprocess.run(sys.argv[1:]).returncode; " + (
    "print('peak', resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024); sys.exit(done)"
)


def score_settings(tmp_path, base, **more):
    data = write_jsonl(tmp_path / "lists.jsonl", toy_lists(40))
    values = {
        "stage": "score",
        "base": str(base),
        "data": str(data),
        "out": str(tmp_path / "run"),
        "dtype": "fp32",
        "compile": False,
    }
    return make_settings(values | {"batch_size": 4, "list_size": 3, "dev_queries": 0, "max_length": 160, "epochs": 2} | more)


def test_weights_gradients_and_optimiser_follow_from_the_parameters(tmp_path, tiny_llama_dir):
    result = dry_run(score_settings(tmp_path, tiny_llama_dir))
    model = load_model(resolve(tiny_llama_dir), torch.float32, torch.device("cpu"))
    count = sum(weight.numel() for weight in model.parameters())
    memory = result.memory
    assert result.parameters == result.trained == count
    assert (memory.weights, memory.gradients, memory.optimizer) == (4 * count, 4 * count, 8 * count)
    assert memory.activations > 0 == memory.reference == memory.rollouts == memory.generator
    assert result.steps == 20 and result.seconds > 0 and result.peak > memory.backward
    assert not (tmp_path / "run").exists()


def test_an_adapter_needs_no_reference_and_little_for_the_optimiser(tmp_path, tiny_llama_dir):
    settings = run(tmp_path, "r", tiny_llama_dir, algorithm="grpo", steps=50, lora={"r": 2})
    result = dry_run(settings)
    assert result.trained < result.parameters / 2 and result.memory.optimizer == 8 * result.trained
    assert result.memory.reference == 0 < result.memory.rollouts and result.memory.generator == 4 * result.parameters
    assert result.steps == 50 and "rollouts" in str(result)
    full = dry_run(run(tmp_path, "r", tiny_llama_dir, algorithm="ppo", steps=50))
    assert full.memory.reference > 0 and full.trained == full.parameters


def test_minutes_become_steps(tmp_path, tiny_llama_dir):
    result = dry_run(score_settings(tmp_path, tiny_llama_dir, epochs=None, minutes=3))
    assert result.steps == max(1, round(180 / result.seconds))


def test_saved_bytes_are_those_of_the_graph():
    layer = torch.nn.Linear(8, 16, bias=False)
    with saved_bytes(layer) as sizes:
        kept = layer(torch.ones(4, 8, requires_grad=True)).exp().sum()
    # The input (for the weight's gradient) and the result of exp; the weight itself does not count.
    assert kept.requires_grad and sum(sizes.values()) == 4 * (4 * 8 + 4 * 16)


def test_the_command_prints_and_writes_nothing(tmp_path, tiny_llama_dir):
    settings = score_settings(tmp_path, tiny_llama_dir)
    config = tmp_path / "c.yaml"
    config.write_text(json.dumps({k: v for k, v in vars(settings).items() if v is not None}))
    done = CliRunner().invoke(app, ["train", str(config), "--dry-run"])
    assert done.exit_code == 0, done.output
    assert re.search(r"parameters +[\d,]+, of which [\d,]+ are trained", done.stdout) and "seconds a step" in done.stdout
    assert not (tmp_path / "run").exists()
    wrong = CliRunner().invoke(app, ["train", str(config), "--dry-run", "--resume"])
    assert "exclude each other" in str(wrong.exception)


def peaks(tmp_path, overrides):
    """(peak of the dry run, peak of the run), in bytes."""
    found = []
    for more in (["--dry-run"], []):
        command = [sys.executable, "-c", PEAK, sys.executable, "-m", "prorank", "train", *overrides, *more]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1500)
        assert done.returncode == 0, done.stderr[-2000:]
        if more:
            found.append(float(re.search(r"peak \(measured\) +([\d,.]+) MB", done.stdout)[1].replace(",", "")) * 1e6)
        else:
            found.append(float(re.search(r"peak (\d+)", done.stdout)[1]))
    return found


def overrides_of(tmp_path, base, **more):
    config = tmp_path / "c.yaml"
    settings = score_settings(tmp_path, base, **more)
    config.write_text(json.dumps({k: v for k, v in vars(settings).items() if v is not None}))
    return [str(config)]


@pytest.mark.slow
def test_the_peak_is_that_of_the_run_for_a_tiny_model(tmp_path, tiny_llama_dir):
    dry, real = peaks(tmp_path, overrides_of(tmp_path, tiny_llama_dir, epochs=1))
    assert dry == pytest.approx(real, rel=0.2)


@pytest.mark.slow
def test_the_peak_is_that_of_the_run_for_the_135m_model(tmp_path):
    dry, real = peaks(tmp_path, overrides_of(tmp_path, "smollm2-135m", epochs=None, steps=4, batch_size=2))
    assert dry == pytest.approx(real, rel=0.2)
