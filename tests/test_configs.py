"""Shipped recipes: every key is explained, every recipe runs.

Each recipe is run unchanged, except for the base (a tiny model of the same class), the toy data and the budget.
"""

import re
from dataclasses import MISSING, fields
from pathlib import Path

import pytest
import yaml

from prorank.checkpoints.resolve import resolve
from prorank.train.run import train
from prorank.train.settings.stage_settings import Lora, list_keys, load_settings

RECIPES = Path(__file__).parent.parent / "configs" / "prorank"
STAGES = {"smollm2-135m": ("warmup", "score", "order")}  # where more than the two
BASES = {"smollm2-135m": "tiny_llama_dir", "qwen2.5-0.5b": "tiny_qwen2_dir", "qwen2.5-1.5b": "tiny_qwen2_dir"}
FILES = sorted(RECIPES.glob("*/*.yaml"))
KEY = re.compile(r"^( *)(\w+):")


def stages_of(base: str) -> tuple[str, ...]:
    return STAGES.get(base, ("warmup", "score"))


def shown(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


def explained(path: Path) -> dict[str, str]:
    """Each key of a recipe (nested ones as "lora.r") and the comment right above it."""
    found, comment, parent = {}, [], ""
    for line in path.read_text(encoding="utf-8").splitlines():
        key = KEY.match(line)
        if line.lstrip().startswith("#"):
            comment.append(line.strip(" #"))
        elif key:
            name = f"{parent}.{key[2]}" if key[1] else key[2]
            parent = parent if key[1] else key[2]
            found[name], comment = " ".join(comment), []
        else:
            comment = []
    return found


def defaults(kind: type) -> dict[str, object]:
    values = {f.name: f.default if f.default is not MISSING else f.default_factory() for f in fields(kind)}
    nested = {f"lora.{f.name}": f.default for f in fields(Lora)}
    return values | nested | {f"loss.{name}": weight for name, weight in values.get("loss", {}).items()}


def test_there_is_a_recipe_for_each_base_and_stage():
    assert {shown(path) for path in FILES} == {f"{base}/{stage}.yaml" for base in BASES for stage in stages_of(base)}


@pytest.mark.parametrize("path", FILES, ids=shown)
def test_every_key_is_explained_with_type_and_true_default(path):
    settings = load_settings(path)
    known, told = defaults(type(settings)), explained(path)
    assert {f.name for f in fields(settings)} == {name for name in told if "." not in name}
    for key in list_keys(settings.stage):
        assert told.get(key.name, key.description).startswith(key.description), key.name
    for key, comment in told.items():
        stated = re.search(r"\. Type: [\w ]+, default: (.+)$", comment)
        assert stated, f"{key}: no comment with type and default above it"
        if not stated[1].startswith("none"):
            assert as_type_of(known[key], yaml.safe_load(stated[1])) == known[key], key


def as_type_of(default: object, value: object) -> object:
    """YAML 1.1 reads 2e-05 as a string; settings take it as a number."""
    return float(value) if isinstance(default, float) else value


@pytest.mark.parametrize("base", BASES)
def test_stages_start_from_each_other_and_headers_name_the_commands(base):
    settings = [load_settings(RECIPES / base / f"{stage}.yaml") for stage in stages_of(base)]
    warm = settings[0]
    for before, after in zip(settings, settings[1:]):
        assert after.base == before.out
    for stage in stages_of(base):
        head = (RECIPES / base / f"{stage}.yaml").read_text(encoding="utf-8").split("\n\n# What runs")[0]
        assert f"prorank mine path/to/dataset {warm.data}" in head
        assert f"prorank train configs/prorank/{base}/{stage}.yaml" in head


@pytest.mark.parametrize("base", BASES)
def test_recipes_run_one_after_the_other(base, request, tmp_path, toy_file):
    short = [f"data={toy_file}", "steps=2", "max_length=96", "dtype=fp32", "device=cpu", "num_evaluations=1", "dev_queries=4"]
    start = request.getfixturevalue(BASES[base])
    for stage in stages_of(base):
        changes = [*short, f"base={start}", f"out={tmp_path / stage}"]
        folder = train(load_settings(RECIPES / base / f"{stage}.yaml", changes))
        assert (tmp_path / stage / "train_curves.png").is_file()
        assert (folder / "adapter_config.json").is_file() == (base == "qwen2.5-1.5b")
        start = tmp_path / stage
    assert resolve(start).folder == tmp_path / stages_of(base)[-1] / "model"
