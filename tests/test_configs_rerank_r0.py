"""Rerank-R0's own file: loaded unchanged, and every key in it does something.

Each key is changed separately, and the result of a run, a rollout or a reward must change with it.
"""

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from prorank.errors import ConfigError
from prorank.prompts.prompt import PRESETS, Prompt
from prorank.rewards.rules import RuleReward
from prorank.train.curves import read_metrics
from prorank.train.run import train
from prorank.train.settings.stage_settings import Reason, dump_settings, load_settings
from tests.tiny import write_jsonl

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "configs" / "rerank-r0"
NOTE = FOLDER / "stage_a.yaml"
DIGEST = "23c39d976d1753051c3273ae31f3bfed8e67afe1ecd661a7e085067ce0f5810c"  # of the note's text

ROWS = [{"query": f"drink {i}", "document": f"{('bread', 'coffee')[i % 2]} {i}", "label": i % 2} for i in range(8)]
# What makes two steps of a tiny model show every key: few tokens, and a rate that moves the policy out of its clips.
SMALL = ["learning_rate=0.02", "max_new_tokens=12", "reward.min_think_tokens=1", "temperature=1.0", "gradient_checkpointing=false"]
LONG = ["steps=4", "dtype=fp32", "device=cpu", "log_every=1", "num_evaluations=0", "dev_queries=0", "save_every=0"]
LONG += ["max_length=800"]


def keys(values: dict, above: str = "") -> list[str]:
    """Every key of a mapping, those of mappings in it with dots."""
    some = [keys(value, f"{key}.") if isinstance(value, dict) else [above + key] for key, value in values.items()]
    return [name for names in some for name in names]


def test_it_is_the_notes_own_text():
    assert hashlib.sha256(NOTE.read_bytes()).hexdigest() == DIGEST
    settings = load_settings(NOTE, ["data=d", "out=o"])
    assert isinstance(settings, Reason) and settings.algorithm == "ppo" and settings.learning_rate == 0.000006
    assert settings.base == "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B" and settings.system_prompt == PRESETS["rerank-r0"].system


def test_its_keys_are_translated_and_ours_take_precedence():
    settings = load_settings(NOTE, ["data=d", "out=o", "kl_coef=0.3", "ppo.cliprange=0.1", "ppo.epsilon_value=0.4"])
    assert (settings.beta, settings.ppo.epsilon, settings.ppo.epsilon_value) == (0.3, 0.1, 0.4)
    assert "kl_coef" not in dump_settings(settings) and "cliprange" not in dump_settings(settings)


@pytest.mark.parametrize(("change", "key"), [("kl_coef=0.3", "kl_coef"), ("ppo.cliprange=0.1", "ppo.cliprange")])
def test_its_keys_are_unknown_in_other_files(change, key):
    with pytest.raises(ConfigError, match=f"smollm2_cpu.yaml: unknown key '{key}'; valid: "):
        load_settings(FOLDER / "smollm2_cpu.yaml", ["data=d", "out=o", change])


@pytest.fixture(scope="module")
def ran(tmp_path_factory, tiny_llama_dir):
    """(figures of every step, run folder) of the file with some changes; the same changes are run once."""
    folder, done = tmp_path_factory.mktemp("note"), {}
    data = write_jsonl(folder / "data.jsonl", ROWS)

    def run(*changes: str):
        if changes not in done:
            out = folder / str(len(done))
            given = [f"base={tiny_llama_dir}", f"data={data}", f"out={out}", *LONG, *SMALL, *changes]
            train(load_settings(NOTE, given))
            lines = [{k: v for k, v in line.items() if "second" not in k and k != "minutes"} for line in read_metrics(out)]
            done[changes] = lines, out
        return done[changes]

    return run


IN_TRAINING = {
    "batch_size": 4, "learning_rate": 0.002, "kl_coef": 0.5, "seed": 1, "max_new_tokens": 6, "temperature": 0.5, "top_p": 0.5,
    "max_think_tokens": 2, "missing_eos_penalty": 0.1, "ppo.num_ppo_epochs": 1, "ppo.cliprange": 0.01, "ppo.cliprange_value": 0.001,
    "ppo.vf_coef": 5.0, "ppo.gamma": 0.5, "ppo.lam": 0.1, "ppo.whiten_rewards": "true", "system_prompt": "Judge.",
}  # fmt: skip
IN_REWARDS = {
    "format_weight": ("<think>a</think><answer>yes</answer>", 0),
    "acc_weight": ("<think>a</think><answer>yes</answer>", 1),
    "length_penalty": ("<think>" + "word " * 300 + "</think><answer>yes</answer>", 1),
    "max_think_tokens": ("<think>" + "word " * 150 + "</think><answer>yes</answer>", 1),
    "extra_text_penalty": ("<think>a</think><answer>yes</answer> more", 1),
    "invalid_tag_penalty": ("<answer>yes</answer>", 1),
    "missing_answer_penalty": ("nothing", 1),
    "think_bonus": ("<think>" + "word " * 100 + "</think><answer>yes</answer>", 1),
    "min_think_tokens": ("<think>" + "word " * 70 + "</think><answer>yes</answer>", 1),
}


@pytest.mark.parametrize("key", IN_TRAINING)
def test_a_key_changes_what_is_learned(ran, key):
    as_it_is, changed = ran(), ran(f"{key}={IN_TRAINING[key]}")
    if key == "max_think_tokens":  # a random model opens no thought that could be closed, see test_generate
        assert Prompt.load(changed[1] / "model").max_think_tokens == 2
    else:
        assert changed[0] != as_it_is[0]


def test_the_same_file_gives_the_same_figures_and_checkpointing_changes_none(ran, monkeypatch):
    as_it_is = ran()[0]
    assert ran("seed=42")[0] == as_it_is
    from prorank.train.stages.reason import ReasonStage
    from prorank.train.value_head import policy_of

    saving, loss = [], ReasonStage.loss

    def noted(self, model, units):
        saving.append(policy_of(model).is_gradient_checkpointing)
        return loss(self, model, units)

    monkeypatch.setattr(ReasonStage, "loss", noted)
    checked = ran("gradient_checkpointing=true")[0]
    assert all(saving)
    assert [a["reward"] for a in checked[:2]] == [a["reward"] for a in as_it_is[:2]]


def test_epochs_are_passes_over_the_data(ran):
    one, two = (ran("steps=", f"epochs={n}")[0][-1]["step"] for n in (1, 2))
    assert (one, two) == (8, 16)  # 8 pairs in batches of 2, each seen twice


@pytest.mark.parametrize("key", IN_REWARDS)
def test_a_key_changes_the_reward(key):
    text, label = IN_REWARDS[key]
    before, after = (
        RuleReward(load_settings(NOTE, ["data=d", "out=o", *more]).rules, lambda t: len(t.split())).judge(text, label).reward
        for more in ([], [f"reward.{key}=120" if "tokens" in key else f"reward.{key}=0.01"])
    )
    assert before != after


def test_no_key_is_left_out():
    told = {*IN_TRAINING, *(f"reward.{key}" for key in IN_REWARDS), "epochs", "gradient_checkpointing"}
    assert set(keys(yaml.safe_load(NOTE.read_text(encoding="utf-8")))) == told


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.name)
def test_every_recipe_runs(tmp_path, tiny_llama_dir, path):
    rows = [row | {"think": "so", "answer": ("no", "yes")[row["label"]], "score": 1.5} for row in ROWS]
    data = write_jsonl(tmp_path / "t.jsonl", rows)
    changes = [f"base={tiny_llama_dir}", f"data={data}", f"out={tmp_path / 'run'}", "minutes=", "steps=2", "batch_size=2"]
    if load_settings(path, changes).stage == "reason":
        changes.append("max_new_tokens=8")
    if load_settings(path, changes).stage == "score":  # lists in place of pairs, and a base that thinks briefly
        others = [row | {"document": "the other", "label": 1 - row["label"]} for row in ROWS]
        write_jsonl(data, [*ROWS, *others])
        changes.append("prompt={preset: rerank-r0, max_think_tokens: 8}")
    changes += ["max_length=800", "num_evaluations=1", "dev_queries=2", "dtype=fp32", "device=cpu"]
    folder = train(load_settings(path, changes))
    assert Prompt.load(folder).kind == "thinking"
    assert (tmp_path / "run" / "thoughts.jsonl").is_file() == (path.name == "smollm2_cpu_score.yaml")


def test_the_notes_own_command_works(tmp_path, tiny_llama_dir):
    data = write_jsonl(tmp_path / "t.jsonl", ROWS)
    given = [f"base={tiny_llama_dir}", f"data={data}", f"out={tmp_path / 'run'}", *LONG, *SMALL, "steps=2"]
    command = [sys.executable, str(ROOT / "prorank" / "trainer.py"), "--config", str(NOTE), *given]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert f"checkpoint: {tmp_path / 'run' / 'model'}" in done.stdout
