"""`auto`: the dtype that was measured faster on this machine, and compiled steps for long jobs; stored per machine."""

import json
from dataclasses import replace

import pytest
import torch
from transformers import LlamaConfig

from prorank.engine import auto, layer_speed
from prorank.engine.auto import choose_compile, choose_dtype, job_seconds, layer_weights
from prorank.engine.layer_speed import RANKING, TRAINING, LayerSpeed
from prorank.errors import ModelError

CPU = torch.device("cpu")
CONFIG = LlamaConfig(hidden_size=576, intermediate_size=1536, num_attention_heads=9, num_key_value_heads=3, num_hidden_layers=30)


def speed(fp32: float, bf16: float, **more) -> LayerSpeed:
    return LayerSpeed("a processor", 2, "2.13", "shapes", RANKING, 1000, {"fp32": fp32, "bf16": bf16}, **more)


@pytest.mark.parametrize(
    "fp32, bf16, wanted",
    [(1.0, 0.5, "bf16"), (1.0, 1.8, "fp32"), (1.0, 1.0, "fp32"), (1.0, 0.97, "fp32"), (1.0, 0.94, "bf16")],
)
def test_auto_takes_the_faster_dtype_and_fp32_when_they_tie(fp32, bf16, wanted, monkeypatch):
    monkeypatch.setattr(auto, "layer_speed", lambda config, purpose: speed(fp32, bf16))
    choice = choose_dtype("auto", CPU, CONFIG)
    assert choice.value == wanted
    assert f"fp32 {1000 * fp32:.1f} ms, bf16 {1000 * bf16:.1f} ms" in choice.reason
    assert choose_dtype("int8", CPU, CONFIG).value == wanted  # what is not int8 is as with auto


def test_ranking_and_training_may_take_different_dtypes(monkeypatch):
    figures = {RANKING: speed(1.0, 0.5), TRAINING: speed(1.0, 1.5)}
    monkeypatch.setattr(auto, "layer_speed", lambda config, purpose: figures[purpose])
    assert [choose_dtype("auto", CPU, CONFIG, purpose).value for purpose in (RANKING, TRAINING)] == ["bf16", "fp32"]


def test_explicit_values_need_no_measurement(monkeypatch):
    monkeypatch.setattr(auto, "layer_speed", lambda *_: pytest.fail("measured"))
    assert choose_dtype("bfloat16", CPU, CONFIG).value == "bf16"
    assert choose_dtype("fp32", CPU, CONFIG).value == "fp32"
    small = LlamaConfig(hidden_size=32, intermediate_size=64, num_attention_heads=4)
    assert choose_dtype("auto", CPU, small).value == "fp32"
    with pytest.raises(ModelError, match="unknown dtype 'bf61'; did you mean 'bf16'"):
        choose_dtype("bf61", CPU, CONFIG)
    with pytest.raises(ModelError, match="int8 runs on CPUs only"):
        choose_dtype("int8", torch.device("cuda"), CONFIG)


def test_a_measurement_is_stored_by_machine_and_shapes(tmp_path, monkeypatch):
    monkeypatch.setenv("PRORANK_CACHE", str(tmp_path))
    monkeypatch.setattr(layer_speed, "_known", {})
    monkeypatch.setattr(layer_speed, "MIN_CPU_SHARE", 0.0)  # whatever else runs here
    config = LlamaConfig(hidden_size=64, intermediate_size=128, num_attention_heads=4, num_key_value_heads=2)
    speed_now = layer_speed.layer_speed(config)
    assert set(speed_now.seconds) == {"fp32", "bf16"} and min(speed_now.seconds.values()) > 0
    (kept,) = (tmp_path / "speed").iterdir()
    assert json.loads(kept.read_text())["shapes"] == speed_now.shapes

    monkeypatch.setattr(layer_speed, "_known", {})
    monkeypatch.setattr(layer_speed, "_measure", lambda *_: pytest.fail("measured again"))
    assert layer_speed.layer_speed(config) == speed_now
    other = LlamaConfig(hidden_size=96, intermediate_size=128, num_attention_heads=4, num_key_value_heads=2)
    for changed in (lambda: layer_speed.layer_speed(other), lambda: layer_speed.layer_speed(config, TRAINING)):
        with pytest.raises(pytest.fail.Exception):
            changed()
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")  # other kernels, another machine
    with pytest.raises(pytest.fail.Exception):
        layer_speed.layer_speed(config)


def test_a_disturbed_measurement_is_not_stored(tmp_path, monkeypatch):
    monkeypatch.setenv("PRORANK_CACHE", str(tmp_path))
    monkeypatch.setattr(layer_speed, "_known", {})
    busy = replace(speed(1.0, 0.5), disturbed=True)
    monkeypatch.setattr(layer_speed, "_measure", lambda *_: busy)
    assert layer_speed.layer_speed(CONFIG) is busy
    assert not (tmp_path / "speed").exists()
    monkeypatch.setattr(layer_speed, "_measure", lambda *_: pytest.fail("measured again"))
    assert layer_speed.layer_speed(CONFIG) is busy
    assert "other processes disturbed it" in choose_dtype("auto", CPU, CONFIG).reason


def test_a_broken_or_unwritable_store_is_no_error(tmp_path, monkeypatch):
    monkeypatch.setenv("PRORANK_CACHE", str(tmp_path))
    monkeypatch.setattr(layer_speed, "_measure", lambda *_: speed(1.0, 0.5))
    for broken in ("", "[]", '{"tokens": 3}'):
        monkeypatch.setattr(layer_speed, "_known", {})
        path = layer_speed._file(CONFIG, RANKING)
        path.parent.mkdir(exist_ok=True)
        path.write_text(broken)
        assert layer_speed.layer_speed(CONFIG).seconds["bf16"] == 0.5
    monkeypatch.setattr(layer_speed, "_known", {})
    monkeypatch.setenv("PRORANK_CACHE", "/dev/null/no")
    assert layer_speed.layer_speed(CONFIG).seconds["bf16"] == 0.5


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_every_model_can_be_measured_for_both_purposes(kind, tmp_path, monkeypatch):
    from transformers import GPT2Config

    monkeypatch.setenv("PRORANK_CACHE", str(tmp_path))
    monkeypatch.setattr(layer_speed, "_known", {})
    small = {
        "llama": LlamaConfig(hidden_size=64, intermediate_size=128, num_attention_heads=4, num_key_value_heads=2),
        "gpt2": GPT2Config(n_embd=64, n_head=4, n_inner=128),
    }[kind]
    before = torch.random.get_rng_state()
    for purpose in (RANKING, TRAINING):
        assert layer_speed.layer_speed(small, purpose).seconds["fp32"] > 0
    assert torch.equal(before, torch.random.get_rng_state())  # a run's draws do not depend on whether it measured


def test_long_jobs_are_compiled(monkeypatch):
    known = speed(1.0, 0.5, compiled={"fp32": 0.8}, compile_seconds={"fp32": 20.0})
    monkeypatch.setattr(auto, "layer_speed", lambda *_: known)
    monkeypatch.setattr(auto, "compiled_speed", lambda *_: pytest.fail("measured"))
    monkeypatch.setattr(auto.shutil, "which", lambda name: f"/usr/bin/{name}")
    values = [choose_compile(CONFIG, RANKING, "fp32", seconds).value for seconds in (1, 29, 100, 199, 201, 10_000)]
    assert values == ["plain"] * 4 + ["compiled"] * 2
    assert choose_compile(CONFIG, RANKING, "bf16", 200).value == "plain"  # unknown, and too short to find out
    monkeypatch.setattr(auto, "compiled_speed", lambda *_: replace(known, compiled={"bf16": 0.6}, compile_seconds={"bf16": 20.0}))
    assert choose_compile(CONFIG, RANKING, "bf16", 10_000).value == "plain"  # it was slower
    monkeypatch.setattr(auto.shutil, "which", lambda name: None)
    assert "no C++ compiler" in choose_compile(CONFIG, RANKING, "fp32", 10_000).reason


def test_a_job_is_as_long_as_its_layers_take(monkeypatch):
    monkeypatch.setattr(auto, "layer_speed", lambda *_: speed(0.01, 0.005))
    assert job_seconds(CONFIG, RANKING, "fp32", 100_000) == pytest.approx(30 * 0.01 / 1000 * 100_000)
    assert layer_weights(CONFIG) == 576 * 64 * 2 * 12 + 3 * 576 * 1536
