"""Weights of checkpoints: unless the files contain exactly the model's weights, every verb refuses the checkpoint."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from prorank.checkpoints.loading import load_model
from prorank.checkpoints.resolve import resolve
from prorank.checkpoints.weights import NO_WEIGHT, check_report, check_resumable
from prorank.cli.command_line import app
from prorank.errors import ModelError
from prorank.reranker import Reranker
from tests.evaluate_toy import write_beir
from tests.tiny import byte_tokenizer, save_adapter, save_tiny, tiny_llama

CPU = torch.device("cpu")
PAIRS = [("garden", "we saw the garden today"), ("garden", "bread")]
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2\nsize 538090408\n"
LAYER = "model.layers.1."


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A tiny Llama whose output matrix is its own. Read only."""
    return save_tiny(tmp_path_factory.mktemp("whole") / "m", tie=False)


@pytest.fixture
def folder(whole, tmp_path) -> Path:
    return shutil.copytree(whole, tmp_path / "m")


def rewrite(folder: Path, change, name: str = "model.safetensors") -> None:
    """Replace the weights of a folder by the result of `change`."""
    weights = change(load_file(folder / name))
    save_file(weights, folder / name, {"format": "pt"})


def without(part: str):
    return lambda weights: {key: value for key, value in weights.items() if part not in key}


def renamed(old: str, new: str):
    return lambda weights: {key.replace(old, new): value for key, value in weights.items()}


def refused(folder: Path, *parts: str, **options) -> str:
    """Loading must raise a ModelError of one line with these parts."""
    with pytest.raises(ModelError) as error:
        Reranker(folder, device="cpu", dtype="fp32", **options)
    assert all(part in str(error.value) for part in parts) and "\n" not in str(error.value), str(error.value)
    return str(error.value)


MISFITS = {
    "no head": (without("lm_head"), ["'lm_head.weight' is missing"]),
    "no layer": (without(LAYER), [f"'{LAYER}input_layernorm.weight' (and 8 more) is missing"]),
    "renamed": (renamed("q_proj", "query"), ["q_proj.weight' (and 1 more) is missing", "query.weight' (and 1 more) has no place"]),
    "other prefix": (renamed("model.", "decoder."), ["is missing", "has no place in the model"]),
    "a layer more": (lambda w: {**w, "model.layers.2.mlp.up_proj.weight": torch.ones(2)}, ["up_proj.weight' has no place"]),
    "a bias more": (lambda w: {**w, LAYER + "self_attn.q_proj.bias": torch.ones(64)}, ["q_proj.bias' has no place"]),
    "wrong shape": (
        lambda w: {**w, LAYER + "mlp.up_proj.weight": torch.ones(8, 8)},
        [f"'{LAYER}mlp.up_proj.weight' has shape [8, 8] in place of [128, 64]"],
    ),
    "no weight at all": (lambda w: {"x": torch.ones(1)}, ["is missing", "'x' has no place"]),
}  # fmt: skip


@pytest.mark.parametrize("case", list(MISFITS))
def test_a_checkpoint_whose_weights_do_not_fit_is_refused(folder, case):
    """Transformers fills what is missing with random numbers and only warns."""
    change, parts = MISFITS[case]
    rewrite(folder, change)
    refused(folder, str(folder), "do not fit its config", *parts)


def test_weights_are_refused_in_shards_too(tmp_path):
    """With complete files and a complete index."""
    tokenizer = byte_tokenizer()
    tiny_llama(tokenizer, tie=False).save_pretrained(tmp_path / "m", max_shard_size="60KB")
    tokenizer.save_pretrained(tmp_path / "m")
    assert Reranker(tmp_path / "m", dtype="fp32").score(PAIRS).shape == (2,)
    index = json.loads((tmp_path / "m" / "model.safetensors.index.json").read_text())
    file = index["weight_map"].pop("lm_head.weight")
    rewrite(tmp_path / "m", without("lm_head"), file)
    (tmp_path / "m" / "model.safetensors.index.json").write_text(json.dumps(index))
    refused(tmp_path / "m", "'lm_head.weight' is missing")


BROKEN = {
    "cut": (lambda data: data[:-100], "truncated or damaged"),
    "cut in its head": (lambda data: data[:50], "truncated or damaged"),
    "empty": (lambda data: b"", "is empty"),
    "pointer": (lambda data: POINTER, "is a pointer of git-lfs, not the weights; run git lfs pull"),
    "text": (lambda data: b"<html>404 not found</html>" * 9, "truncated or damaged"),
    "longer": (lambda data: data + b"x", "truncated or damaged"),
}


@pytest.mark.parametrize("case", list(BROKEN))
@pytest.mark.parametrize("kind", ["model", "adapter"])
def test_a_damaged_file_is_refused_before_anything_is_loaded(folder, tmp_path, case, kind, monkeypatch):
    """Cut, empty, pointers of git-lfs: of models, adapters, and the bases of adapters."""
    change, part = BROKEN[case]
    asked = folder if kind == "model" else save_adapter(tmp_path / "a", folder)
    file = asked / ("model.safetensors" if kind == "model" else "adapter_model.safetensors")
    file.write_bytes(change(file.read_bytes()))
    monkeypatch.setattr("prorank.rank.load_reranker.load_tokenizer", lambda *_: pytest.fail("something was loaded"))
    refused(asked, str(file), part)
    if kind == "model":
        over = tmp_path / "over"
        over.mkdir()
        (over / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(folder), "peft_type": "LORA"}))
        save_file({"x": torch.ones(1)}, over / "adapter_model.safetensors")
        refused(over, str(over), "the base of this adapter cannot be loaded", str(file), part)


@pytest.mark.parametrize(
    "content, part",
    [
        ('{"weight_map": {"a": "m-1.safetensors"}}', "m-1.safetensors: is missing, and model.safetensors.index.json names"),
        ("{", "model.safetensors.index.json: cannot be read"),
        ("[]", "expected an object in braces, found list"),
        ('{"weight_map": {}}', "has no weight_map"),
        ('{"weight_map": {"a": 3}}', "has no weight_map"),
        ("\ud800".encode("utf-8", "surrogatepass").decode("latin-1"), "cannot be read"),
    ],
)
def test_an_index_that_is_wrong_is_refused(folder, content, part):
    """An index.json that names a missing file, or is malformed."""
    (folder / "model.safetensors").rename(folder / "other.safetensors")
    (folder / "model.safetensors.index.json").write_text(content)
    refused(folder, part)


def test_weights_under_another_name_are_not_taken_for_the_models(folder):
    (folder / "model.safetensors").rename(folder / "consolidated.safetensors")
    refused(folder, "no .safetensors weights (model.safetensors)")


def test_allowed_missing_and_additional_weights(tmp_path, whole):
    """Files with tied embeddings lack the output matrix; old files contain buffers and value heads. Scores do not change."""
    tied = save_tiny(tmp_path / "tied")
    assert "lm_head.weight" not in load_file(tied / "model.safetensors")
    want = Reranker(tied, dtype="fp32").score(PAIRS)
    more = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8), "v_head.summary.weight": torch.ones(1, 64)}
    rewrite(tied, lambda weights: {**weights, **more})
    np.testing.assert_array_equal(Reranker(tied, dtype="fp32").score(PAIRS), want)
    rewrite(tied, renamed("model.embed_tokens", "lm_head"))
    np.testing.assert_array_equal(Reranker(tied, dtype="fp32").score(PAIRS), want)
    rewrite(tied, without("lm_head"))
    refused(tied, "is missing")


@given(st.sets(st.sampled_from(["a.weight", "b.weight", "c.rotary_emb.inv_freq", "value_head.bias"])))
def test_a_report_with_remaining_names_is_an_error(names):
    """Every remaining name is reported, except buffers and value heads."""
    wrong = sorted(name for name in names if not NO_WEIGHT.search(name))
    report = {"missing_keys": set(), "unexpected_keys": names, "mismatched_keys": set()}
    if not wrong:
        return check_report(Path("x"), report)
    with pytest.raises(ModelError, match=re.escape(f"'{wrong[0]}'")):
        check_report(Path("x"), report)


@pytest.mark.parametrize(
    "file, content, part",
    [
        ("config.json", "{", "config.json: cannot be read"),
        ("config.json", "[1]", "config.json: expected an object"),
        ("tokenizer.json", '{"model": 3}', "its tokenizer cannot be read"),
    ],
)
def test_damaged_settings_give_one_line(folder, file, content, part):
    """A settings file that is damaged."""
    (folder / file).write_text(content)
    refused(folder, part)


@pytest.mark.parametrize("content", ["{", "[]", "3", "\x00"])
@pytest.mark.parametrize("file", ["adapter_config.json", "base.json"])
def test_adapter_settings_that_are_no_object_give_one_line(tmp_path, tiny_llama_dir, file, content):
    """Both adapter_config.json and base.json."""
    folder = save_adapter(tmp_path / "a", tiny_llama_dir)
    (folder / file).write_text(content)
    refused(folder, str(folder / file))


@pytest.mark.parametrize("content", ["{", "[]", '{"max_length": "x"}', '{"lenght": 3}', "3"])
def test_a_damaged_prompt_names_its_file(folder, content):
    from prorank.errors import PromptError

    (folder / "prompt.json").write_text(content)
    with pytest.raises(PromptError, match=re.escape(str(folder / "prompt.json"))):
        Reranker(folder)


ADAPTERS = {
    "another name": (renamed("q_proj", "query"), ["q_proj.lora_A.weight' (and 3 more) is missing", "query.lora_A.weight'"]),
    "no layer": (without("layers.1."), ["layers.1.mlp.down_proj.lora_A.weight' (and 5 more) is missing"]),
    "another prefix": (renamed("base_model.model.", ""), ["is missing"]),
    "wrong shape": (
        lambda w: {k: torch.ones(4, 3) if "lora_A" in k else v for k, v in w.items()}, ["does not fit its base", "size mismatch"]
    ),
    "a head": (lambda w: {**w, "base_model.model.score.weight": torch.ones(1, 64)}, ["score.weight' has no place in the model"]),
}  # fmt: skip


@pytest.mark.parametrize("case", list(ADAPTERS))
def test_an_adapter_whose_weights_do_not_fit_is_refused(tmp_path, tiny_llama_dir, case):
    """peft initialises missing weights, drops unexpected ones, and only warns."""
    folder = save_adapter(tmp_path / "a", tiny_llama_dir)
    change, parts = ADAPTERS[case]
    rewrite(folder, change, "adapter_model.safetensors")
    refused(folder, str(folder), *parts)
    with pytest.raises(ModelError):
        load_model(resolve(folder), torch.float32, CPU, train=True)


VERBS = ("rerank", "evaluate", "export", "calibrate", "adapt", "train", "serve")


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("fault", ["cut", "no head"])
def test_every_verb_refuses_it(folder, tmp_path, toy_file, verb, fault):
    """All of them use the same check."""
    if fault == "cut":
        (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-9])
    else:
        rewrite(folder, without("lm_head"))
    lists, out = shutil.copy(toy_file, tmp_path / "l.jsonl"), tmp_path / "out"
    (tmp_path / "x.yaml").write_text(f"stage: score\nbase: {folder}\ndata: {lists}\nout: {out}\nsteps: 1\ndevice: cpu\n")
    (tmp_path / "docs.txt").write_text("bread\n")
    words = {
        "rerank": [tmp_path / "docs.txt", "--query", "garden", "--model", folder],
        "evaluate": [write_beir(tmp_path / "toy"), "--model", folder],
        "export": [folder, out],
        "calibrate": ["--data", lists, folder],
        "adapt": ["--data", lists, "--model", folder, "--out", out, "--device", "cpu"],
        "train": [tmp_path / "x.yaml"],
        "serve": ["--model", folder, "--port", 0],
    }[verb]
    result = CliRunner().invoke(app, [verb, *map(str, words)])
    assert isinstance(result.exception, ModelError), result.output
    assert ("truncated or damaged" if fault == "cut" else "'lm_head.weight' is missing") in str(result.exception)


@pytest.mark.parametrize("name", ["model.safetensors", "value_head.pt", "optimizer.pt", "rng_state.pth", "run.json"])
def test_a_training_does_not_resume_from_a_damaged_checkpoint(tmp_path, name):
    """Checkpoints for resuming are checked as well."""
    save_file({"x": torch.ones(9)}, tmp_path / "model.safetensors")
    for other in ("value_head.pt", "optimizer.pt", "rng_state.pth"):
        torch.save({"x": torch.ones(9)}, tmp_path / other)
    (tmp_path / "run.json").write_text('{"minutes": 1, "best": {}}')
    check_resumable(tmp_path)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-5])
    with pytest.raises(ModelError, match=re.escape(str(tmp_path / name))):
        check_resumable(tmp_path)
