"""Which of steps, minutes and epochs bounds a run, and what is computed once within it.

A file with two of them is refused as before, since nothing in it says which came later.
"""

import json
import logging

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from prorank.checkpoints.loading import load_model, load_tokenizer
from prorank.checkpoints.resolve import resolve
from prorank.data.formats import read_groups
from prorank.errors import ConfigError
from prorank.prompts.prompt import Prompt
from prorank.train.micro_batches import MicroBatches, by_length, comes_again, total_steps
from prorank.train.settings.common_settings import BUDGETS
from prorank.train.settings.stage_settings import Score, Warmup, dump_settings, load_settings, make_settings
from prorank.train.stages.warmup import WarmupStage

OWN = {"stage": "score", "data": "d", "out": "o"}


def budget(settings) -> dict:
    return {key: getattr(settings, key) for key in (*BUDGETS, "max_epochs") if getattr(settings, key) is not None}


def recipe(folder, **values):
    path = folder / "r.yaml"
    path.write_text(yaml.safe_dump(OWN | values))
    return path


CASES = [
    ({"steps": 80}, ["minutes=20"], {"minutes": 20.0}, ["minutes=20 replaces steps=80"]),
    ({"minutes": 20.0}, ["steps=5"], {"steps": 5}, ["steps=5 replaces minutes=20.0"]),
    ({"minutes": 20.0}, ["epochs=2"], {"epochs": 2.0}, ["epochs=2 replaces minutes=20.0"]),
    ({"epochs": 3.0}, ["steps=5"], {"steps": 5}, ["steps=5 replaces epochs=3.0"]),
    ({"minutes": 20.0, "max_epochs": 4.0}, ["steps=5"], {"steps": 5}, ["steps=5 replaces minutes=20.0, max_epochs=4.0"]),
    ({"minutes": 20.0, "max_epochs": 4.0}, ["minutes=9"], {"minutes": 9.0, "max_epochs": 4.0}, []),
    ({"steps": 8}, ["minutes=20", "max_epochs=2"], {"minutes": 20.0, "max_epochs": 2.0}, ["minutes=20 replaces steps=8"]),
    ({}, ["minutes=20", "steps=5"], {"steps": 5}, ["steps=5 replaces minutes=20"]),
    ({}, ["steps=5", "steps=7"], {"steps": 7}, ["steps=7 replaces steps=5"]),
    ({"minutes": 20.0}, ["minutes=", "steps=5"], {"steps": 5}, []),
    ({"steps": 80}, ["learning_rate=1e-4"], {"steps": 80}, []),
]


@pytest.mark.parametrize(("own", "texts", "wanted", "lines"), CASES)
def test_a_later_budget_replaces_the_other_with_a_note(own, texts, wanted, lines, tmp_path, caplog):
    path = recipe(tmp_path, **own)
    assert budget(load_settings(path, texts)) == wanted
    assert [record.getMessage() for record in caplog.records] == [f"{path}: {line}" for line in lines]


@pytest.mark.parametrize("two", [("steps", "minutes"), ("steps", "epochs"), ("epochs", "minutes")])
def test_two_in_one_file_are_refused(two, tmp_path):
    path = recipe(tmp_path, **dict.fromkeys(two, 5))
    with pytest.raises(ConfigError, match=f"r.yaml: key '{two[1]}' and {two[0]} exclude each other; give one"):
        load_settings(path)


def test_a_refused_command_line_is_one_line(tmp_path, caplog):
    """No word of budgets beside the error."""
    with pytest.raises(ConfigError, match="key 'minutes' must be above 0"):
        load_settings(recipe(tmp_path, steps=80), ["minutes=0"])
    with pytest.raises(ConfigError, match="key 'max_epochs' is only valid with minutes"):
        load_settings(recipe(tmp_path, minutes=20), ["max_epochs=2", "steps=5"])
    assert not caplog.records


TEXTS = st.lists(st.sampled_from(["steps=3", "minutes=2", "epochs=4", "minutes="]), max_size=5)


@given(texts=TEXTS, own=st.sampled_from(["", *BUDGETS]))
def test_there_is_never_more_than_one(texts, own, tmp_path_factory):
    """Whatever is given in whatever order, the last one counts, and the settings written down can be read again."""
    logging.getLogger("prorank").setLevel(logging.ERROR)
    path = recipe(tmp_path_factory.mktemp("r"), **({own: 9} if own else {}))
    settings = load_settings(path, texts)
    logging.getLogger("prorank").setLevel(logging.NOTSET)
    set_last = [text.partition("=")[0] for text in texts if not text.endswith("=")][-1:] or [own] * bool(own)
    assert list(budget(settings)) in ([], set_last)
    assert make_settings(yaml.safe_load(dump_settings(settings))) == settings


@pytest.mark.parametrize("value", [".nan", ".inf", "-.inf"])
def test_numbers_that_are_not_finite_are_refused(value, tmp_path):
    """Settings must be finite numbers."""
    for key in ("learning_rate", "answer_mass_weight", "minutes"):
        with pytest.raises(ConfigError, match=f"key '{key}' is -?(nan|inf); expected a finite number"):
            load_settings(recipe(tmp_path), [f"{key}={value}"])
    with pytest.raises(ConfigError, match="needs a weight of at least 0"):
        load_settings(recipe(tmp_path), [f"loss.bce={value}"])


SPENT = [({"steps": 2}, False), ({"steps": 3}, True), ({"minutes": 1.0}, True), ({"epochs": 1.0}, False), ({"epochs": 2.0}, True),
         ({}, False), ({"minutes": 1.0, "max_epochs": 1.0}, False), ({"steps": 2, "updates": 2}, True)]  # fmt: skip


@pytest.mark.parametrize(("given", "again"), SPENT)
def test_the_reference_is_computed_once_if_prompts_repeat(given, again, tmp_path, tiny_llama_dir, monkeypatch):
    """Under any budget, not under epochs alone, and not kept where nothing comes again."""
    data = tmp_path / "d.jsonl"
    data.write_text("".join(json.dumps({"query": f"q {i}", "pos": [f"a {i}"], "neg": [f"b {i}"]}) + "\n" for i in range(4)))
    groups, model = read_groups(data), load_model(resolve(tiny_llama_dir), torch.float32, torch.device("cpu"))
    settings = Warmup(data=str(data), out="o", batch_size=4, **given)
    bound = Prompt.preset("prorank", max_length=128).bind(load_tokenizer(resolve(tiny_llama_dir)))
    stage = WarmupStage(groups, bound, settings, model, None, False)
    assert comes_again(settings, 8, settings.updates) == again == stage.caches_reference
    made, real = [], stage.reference.of
    monkeypatch.setattr(stage.reference, "of", lambda policy: made.append(1) or real(policy))
    first, second = ([stage.loss(model, [stage.example(at + i) for i in range(4)]) for at in (0, 4)] for _ in range(2))
    assert len(made) == (2 if again else 4)
    for (one, _), (other, _) in zip(first, second):
        assert float(one.detach()) == pytest.approx(float(other.detach()), abs=1e-3)  # kept in half precision


class Counted:
    """A stage that counts how often its examples are encoded."""

    cpu_examples = 4
    arrange = staticmethod(by_length)

    def __init__(self, examples: int) -> None:
        self.examples, self.calls = examples, []

    def __len__(self) -> int:
        return self.examples

    def example(self, index: int):
        self.calls.append(index)
        return type("Example", (), {"key": index, "length": -index % 7})()


@pytest.mark.parametrize(("micro", "repeat"), [(1, 1), (2, 1), (8, 1), (2, 3)])
def test_a_batch_is_encoded_once_for_all_of_its_micro_batches(micro, repeat):
    """8 examples per step, not 8 per micro-batch; a resumed run that begins within a step sees the same."""
    stage = Counted(64)
    steps = MicroBatches(stage, 4 * repeat, 8, micro, repeat)
    seen = [[example.key for example in steps[i]] for i in range(len(steps))]
    assert stage.calls == list(range(32))
    alone = [[example.key for example in MicroBatches(Counted(64), 4 * repeat, 8, micro, repeat)[i]] for i in range(len(steps))]
    assert seen == alone and sorted(key for some in seen[: 8 // micro] for key in some) == list(range(8))


def test_the_default_budget_is_one_pass():
    assert total_steps(Score(data="d", out="o", batch_size=4), 40, 1) == 10
