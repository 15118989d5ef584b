"""Settings of the stages: every stage has them, every key is described, and what is wrong is named by its key."""

import pytest
import yaml

from prorank.errors import ConfigError
from prorank.train.settings.stage_settings import STAGE_SETTINGS, dump_settings, list_keys, make_settings
from prorank.train.stages.registry import STAGES


def test_every_stage_has_a_spec_and_settings_of_its_name():
    assert STAGES.keys() == STAGE_SETTINGS.keys()
    for name, spec in STAGES.items():
        assert spec.settings is STAGE_SETTINGS[name] and spec.settings().stage == name


@pytest.mark.parametrize("stage", STAGE_SETTINGS)
def test_every_key_is_described_in_a_sentence(stage):
    keys = list_keys(stage)
    assert all(key.description.endswith(".") and key.type for key in keys)
    assert {"lora", "lora.r"} <= {key.name for key in keys} and len({key.name for key in keys}) == len(keys)


@pytest.mark.parametrize(("values", "message"), [
    ({"lora": {"r": "many"}}, "key 'lora.r' is 'many'; expected int"),
    ({"lora": 3}, "key 'lora' is 3; expected Lora or nothing"),
    ({"list_size": [2, "x"]}, r"key 'list_size' is \[2, 'x'\]; expected int or list"),
    ({"compile": 1}, "key 'compile' is 1; expected bool or str"),
    ({"learning_rate": "fast"}, "key 'learning_rate' is 'fast'; expected float"),
    ({"learning_rate": True}, "key 'learning_rate' is True; expected float"),
    ({"stage": ["score"]}, r"stage: \['score'\] is not a stage"),
])  # fmt: skip
def test_wrong_types_are_named_by_key(values, message):
    with pytest.raises(ConfigError, match=f"s.yaml: {message}"):
        make_settings({"stage": "score", "data": "d", "out": "o"} | values, "s.yaml")


def test_numbers_in_scientific_notation_and_environment_variables_are_read(monkeypatch):
    monkeypatch.setenv("LISTS", "/lists")
    settings = make_settings({"stage": "score", "data": ["$LISTS/a", "b"], "out": "$LISTS/o", "learning_rate": "6e-6"})
    assert settings.data == ["/lists/a", "b"] and settings.out == "/lists/o" and settings.learning_rate == 6e-6
    assert make_settings(yaml.safe_load(dump_settings(settings))) == settings
