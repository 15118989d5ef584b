"""Two processes of one run take the steps of one process.

Hard fact: the very command that users give is started, twice over, by torchrun.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from prorank.train.config import dump_settings, make_settings
from prorank.train.curves import read_metrics
from tests.tiny import write_jsonl

ROWS = [
    {"query": f"coffee {i}", "document": f"{'the coffee' if i % 2 else 'some bread'} {i}", "think": f"it is {i}",
     "answer": "yes" if i % 2 else "no", "label": i % 2} for i in range(24)
]  # fmt: skip


def started(tmp_path: Path, name: str, processes: int, values: dict) -> list[dict]:
    """Figures of a run by so many processes."""
    settings = make_settings(values | {"out": str(tmp_path / name)})
    config = tmp_path / f"{name}.yaml"
    config.write_text(dump_settings(settings))
    command = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes > 1 else []
    done = subprocess.run(
        [sys.executable, *command, "-m", "prorank", "train", str(config)], capture_output=True, text=True, timeout=400, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return read_metrics(tmp_path / name)


@pytest.mark.parametrize("stage", ["sft", "ppo", "grpo"])
def test_two_processes_give_the_losses_of_one(tmp_path, tiny_llama_dir, stage):
    values = {
        "stage": "sft" if stage == "sft" else "reason", "base": str(tiny_llama_dir), "dtype": "fp32", "steps": 4, "batch_size": 4,
        "data": str(write_jsonl(tmp_path / "data.jsonl", ROWS)), "prompt": {"preset": "rerank-r0", "system": "Judge."},
        "max_length": 120, "log_every": 1, "dev_queries": 4, "evals": 1, "learning_rate": 1e-3, "device": "cpu",
    }  # fmt: skip
    if stage != "sft":
        values |= {"algorithm": stage, "max_new_tokens": 10, "max_think_tokens": 6, "temperature": 1.0}
        values |= {"reward": {"min_think_tokens": 1, "max_think_tokens": 9}}
    one, two = (started(tmp_path, str(n), n, values) for n in (1, 2))
    assert len(one) == len(two) >= 4
    for a, b in zip(one, two):
        assert a.keys() == b.keys()
        for key in {"loss", "dev_score"} & a.keys():
            assert a[key] == pytest.approx(b[key], rel=0, abs=1e-4), (a["step"], key)
    assert (tmp_path / "2" / "model" / "prompt.json").is_file()
