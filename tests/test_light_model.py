"""The models that rank on a CPU without transformers' classes: the same bits, and every other checkpoint as before."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from prorank import Reranker
from prorank.checkpoints.light_loading import light_config, load_ranking_config, load_ranking_model
from prorank.checkpoints.loading import load_model, load_tokenizer
from prorank.checkpoints.plain_tokenizer import load_plain_tokenizer
from prorank.checkpoints.resolve import resolve
from prorank.engine.auto import layer_weights
from prorank.engine.layer_speed import RANKING, layer_speed, shapes_of
from prorank.engine.light_model import LightConfig, LightModel
from prorank.errors import ModelError
from tests.tiny import SENTENCES, byte_tokenizer, save_adapter, save_tiny, tiny_qwen2

CPU = torch.device("cpu")
KINDS = {
    "llama": {"kind": "llama"},
    "untied llama": {"kind": "llama", "tie": False},
    "qwen2": {"kind": "qwen2"},
    "tied qwen2": {"kind": "qwen2", "tie": True},
}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
PAIRS = [(text.split()[-1], text) for text in SENTENCES] + [("what?", "<|im_end|> 42 Ünï\ncode"), ("cat", "")]


def load_light(folder: Path, dtype: torch.dtype = torch.float32, device: torch.device = CPU):
    """What a Reranker of this folder would load."""
    resolved = resolve(folder)
    return load_ranking_model(resolved, load_ranking_config(resolved, device), dtype, device, load_tokenizer(resolved))


def old_scores(monkeypatch: pytest.MonkeyPatch, folder: Path, dtype: str):
    """Scores of the model of transformers, with the same engine."""
    with monkeypatch.context() as patch:
        patch.setattr("prorank.checkpoints.light_loading.light_config", lambda values: None)
        reranker = Reranker(folder, device="cpu", dtype=dtype)
        assert not isinstance(reranker.model, LightModel)
        return reranker.score(PAIRS)


def changed(source: Path, folder: Path, **settings) -> Path:
    """A copy of a checkpoint with other settings in its config.json; ... removes one."""
    shutil.copytree(source, folder)
    values = json.loads((folder / "config.json").read_text()) | settings
    (folder / "config.json").write_text(json.dumps({key: value for key, value in values.items() if value is not ...}))
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tiny checkpoints by name; the biases of Qwen2 are not zero."""
    root, made = tmp_path_factory.mktemp("light"), {}
    for name, options in KINDS.items():
        made[name] = save_tiny(root / name.replace(" ", "_"), **options)
        if "qwen2" in name:
            tokenizer = byte_tokenizer("qwen2")
            model = tiny_qwen2(tokenizer, tie="tied" in name)
            with torch.no_grad():
                for key, weight in model.named_parameters():
                    if key.endswith("bias"):
                        weight.copy_(torch.linspace(-1, 1, len(weight)))
            model.save_pretrained(made[name])
    return made


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", KINDS)
def test_states_and_logits_are_those_of_transformers(folders: dict[str, Path], name: str, dtype: str) -> None:
    """Bit for bit, over whole sequences; the parameters have the same names, values and dtype."""
    light, full = load_light(folders[name], DTYPES[dtype]), load_model(resolve(folders[name]), DTYPES[dtype], CPU)
    assert isinstance(light, LightModel) and not light.training and light.dtype == full.dtype == DTYPES[dtype]
    ids = torch.randint(light.config.vocab_size, (3, 17), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(light.model(input_ids=ids).last_hidden_state, full.model(input_ids=ids).last_hidden_state)
        assert torch.equal(light(ids).logits, full(ids).logits)
        assert torch.equal(light(ids, logits_to_keep=2).logits, full(ids, logits_to_keep=2).logits)
        mask = torch.ones_like(ids)
        assert torch.equal(light(ids, attention_mask=mask).logits, full(ids, attention_mask=mask).logits)
    ours, theirs = dict(light.named_parameters()), dict(full.named_parameters())
    assert set(ours) == set(theirs) and all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert light.model.rotary_emb.inv_freq.dtype == torch.float32
    assert torch.equal(light.model.rotary_emb.inv_freq, full.model.rotary_emb.inv_freq)
    assert (light.lm_head.weight is light.model.embed_tokens.weight) == light.config.tie_word_embeddings


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "int8"])
@pytest.mark.parametrize("name", KINDS)
def test_scores_are_those_of_the_model_of_transformers(
    folders: dict[str, Path], name: str, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit, in each number format."""
    reranker = Reranker(folders[name], device="cpu", dtype=dtype)
    assert isinstance(reranker.model, LightModel)
    assert reranker.score(PAIRS).tolist() == old_scores(monkeypatch, folders[name], dtype).tolist()


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "int8"])
def test_an_adapter_of_plain_lora_is_merged_to_the_same_bits(
    folders: dict[str, Path], tmp_path: Path, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Merged in fp32 and rounded once."""
    adapter = save_adapter(tmp_path / "adapter", folders["llama"])
    reranker = Reranker(adapter, device="cpu", dtype=dtype)
    assert isinstance(reranker.model, LightModel)
    assert reranker.score(PAIRS).tolist() == old_scores(monkeypatch, adapter, dtype).tolist()


def test_shards_and_other_dtypes_in_the_files(folders: dict[str, Path], tmp_path: Path) -> None:
    """Weights in several files, stored in bf16, are read as from one."""
    model = AutoModelForCausalLM.from_pretrained(folders["llama"], dtype=torch.bfloat16)
    shutil.copytree(folders["llama"], tmp_path / "sharded")
    (tmp_path / "sharded" / "model.safetensors").unlink()
    model.save_pretrained(tmp_path / "sharded", max_shard_size="40KB")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 1
    light, ids = load_light(tmp_path / "sharded"), torch.arange(20)[None]
    assert isinstance(light, LightModel) and light.dtype == torch.float32
    assert torch.equal(light(ids).logits, load_model(resolve(tmp_path / "sharded"), torch.float32, CPU)(ids).logits)


REFUSED = {
    "an unknown setting": {"logit_scale": 2.0},
    "scaled rotary positions": {"rope_parameters": {"rope_theta": 10000.0, "rope_type": "linear", "factor": 2.0}},
    "no base of the frequencies": {"rope_parameters": ...},
    "two bases": {"rope_theta": 5.0},
    "another activation": {"hidden_act": "gelu"},
    "biases of attention": {"attention_bias": True},
    "biases of the feed-forward part": {"mlp_bias": True},
    "a sliding window": {"sliding_window": 64},
    "layers with a window": {"layer_types": ["sliding_attention", "full_attention"]},
    "another architecture": {"architectures": ["LlamaModel"]},
    "no architecture": {"architectures": ...},
    "a missing size": {"num_key_value_heads": ...},
    "a size that is no number": {"hidden_size": "64"},
    "heads that do not divide": {"num_attention_heads": 3},
    "code of its own": {"auto_map": {"AutoModelForCausalLM": "own.Own"}},
    "quantised weights": {"quantization_config": {"bits": 4}},
    "a padding token beyond the vocabulary": {"pad_token_id": 10**6},
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_settings_are_left_to_transformers(folders: dict[str, Path], tmp_path: Path, name: str) -> None:
    """Every setting that is not known to be plain."""
    folder = changed(folders["llama"], tmp_path / "m", **REFUSED[name])
    assert light_config(json.loads((folder / "config.json").read_text())) is None
    assert light_config(json.loads((folders["llama"] / "config.json").read_text())) is not None


@pytest.mark.parametrize("kind", ["qwen3", "llama4"])
def test_other_models_are_loaded_by_transformers(tmp_path: Path, kind: str) -> None:
    """They rank as before."""
    reranker = Reranker(save_tiny(tmp_path / kind, kind), device="cpu", dtype="fp32")
    assert not isinstance(reranker.model, LightModel) and len(reranker.rank("cat", ["a cat", "bread"])) == 2


def test_code_of_the_checkpoint_is_left_to_transformers(folders: dict[str, Path]) -> None:
    """With trust_remote_code, or on another device, nothing is taken to be plain."""
    resolved = resolve(folders["llama"], trust_remote_code=True)
    assert not isinstance(load_ranking_config(resolved, CPU), LightConfig)
    assert not isinstance(load_ranking_config(resolve(folders["llama"]), torch.device("cuda")), LightConfig)
    assert isinstance(load_ranking_config(resolve(folders["llama"]), CPU), LightConfig)


def rewrite(folder: Path, change) -> None:
    """Change the weights of a folder."""
    from safetensors.torch import load_file, save_file

    save_file(change(load_file(folder / "model.safetensors")), folder / "model.safetensors", {"format": "pt"})


def without(weights: dict, name: str) -> dict:
    return {key: value for key, value in weights.items() if key != name}


NORM = "model.norm.weight"
FAULTS = {
    "missing": (lambda w: without(w, NORM), f"'{NORM}' is missing"),
    "unexpected": (lambda w: w | {"extra.weight": torch.ones(2)}, "'extra.weight' has no place in the model"),
    "another shape": (lambda w: w | {NORM: torch.ones(3)}, "has shape [3] in place of [64]"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_weights_that_do_not_fit_are_refused_as_before(folders: dict[str, Path], tmp_path: Path, name: str) -> None:
    """With the message of `load_model`."""
    folder = changed(folders["llama"], tmp_path / "m")
    rewrite(folder, FAULTS[name][0])
    with pytest.raises(ModelError) as before:
        load_model(resolve(folder), torch.float32, CPU)
    with pytest.raises(ModelError) as now:
        Reranker(folder, device="cpu", dtype="fp32")
    assert str(now.value) == str(before.value) and FAULTS[name][1] in str(now.value)


def test_weights_that_transformers_drops_or_reads_in_its_own_way(folders: dict[str, Path], tmp_path: Path) -> None:
    """Buffers are no weights; a head beside tied embeddings is left to transformers."""
    folder = changed(folders["llama"], tmp_path / "buffers")
    rewrite(folder, lambda w: w | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)})
    assert isinstance(load_light(folder), LightModel)
    folder = changed(folders["llama"], tmp_path / "head")
    rewrite(folder, lambda w: w | {"lm_head.weight": w["model.embed_tokens.weight"].clone()})
    assert not isinstance(load_light(folder), LightModel)


def test_padding_is_refused(folders: dict[str, Path]) -> None:
    """A mask that hides tokens would be ignored."""
    light = load_light(folders["llama"])
    with pytest.raises(ValueError, match="does not support padding"):
        light(torch.arange(4)[None], attention_mask=torch.tensor([[0, 1, 1, 1]]))


@pytest.mark.parametrize("name", KINDS)
def test_the_speed_of_a_layer_is_known_by_the_same_sizes(
    folders: dict[str, Path], name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`auto` reads what was measured with the configuration of transformers, and measures without it."""
    light, full = load_ranking_config(resolve(folders[name]), CPU), AutoConfig.from_pretrained(folders[name])
    assert shapes_of(light) == shapes_of(full) and layer_weights(light) == layer_weights(full)
    monkeypatch.setenv("PRORANK_CACHE", str(tmp_path))
    measured = layer_speed(light, RANKING, remeasure=True)
    assert layer_speed(full, RANKING) is measured and all(seconds > 0 for seconds in measured.seconds.values())


TEXTS = [
    *SENTENCES,
    "",
    " ",
    "\n\n",
    "<|im_start|>user\n<|im_end|>",
    "<|endoftext|>",
    "Ünïcödé 日本語 🙂",
    "a\x00b",
    "1234 56",
    "  two  spaces ",
]


@pytest.mark.parametrize("style", ["smollm", "plain", "r1"])
def test_a_plain_tokenizer_is_that_of_auto_tokenizer(tmp_path: Path, style: str) -> None:
    """Same class, ids, tokens, template and settings."""
    folder = save_tiny(tmp_path / "m", "llama", style)
    ours = load_plain_tokenizer(folder, padding_side="left")
    theirs = AutoTokenizer.from_pretrained(folder, padding_side="left", local_files_only=True)
    assert ours is not None and type(ours) is type(theirs) and repr(ours) == repr(theirs)
    for options in ({}, {"add_special_tokens": False}, {"split_special_tokens": True}):
        assert ours(TEXTS, **options)["input_ids"] == theirs(TEXTS, **options)["input_ids"]
    assert ours.get_vocab() == theirs.get_vocab() and ours.added_tokens_decoder == theirs.added_tokens_decoder
    assert (
        ours.init_kwargs == theirs.init_kwargs
        and ours.special_tokens_map == theirs.special_tokens_map
        and ours.chat_template == theirs.chat_template
    )
    assert ours.backend_tokenizer.to_str() == theirs.backend_tokenizer.to_str()


def test_other_tokenizers_are_left_to_auto_tokenizer(folders: dict[str, Path], tmp_path: Path) -> None:
    """Those of Qwen2 have a class of their own; code and classes that are not generic are never guessed."""
    assert load_plain_tokenizer(folders["qwen2"]) is None
    for number, settings in enumerate(
        ({"tokenizer_class": "GPT2TokenizerFast"}, {"auto_map": {"AutoTokenizer": ["own.Own", None]}})
    ):
        folder = changed(folders["llama"], tmp_path / str(number))
        path = folder / "tokenizer_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | settings))
        assert load_plain_tokenizer(folder) is None


IMPORTS = """
import sys
from prorank import Reranker
reranker = Reranker(sys.argv[1], device="cpu", dtype=sys.argv[2])
assert len(reranker.rank("what is a cat", ["cats are pets", "bread"])) == 2
print(*[name for name in ("transformers.modeling_utils", "peft", "torch._dynamo", "sympy", "scipy") if name in sys.modules])
"""


OLDER = tuple(map(int, transformers.__version__.split(".")[:2])) < (5, 23)


@pytest.mark.skipif(OLDER, reason="AutoTokenizer of transformers 5.8 imports torch._dynamo")
@pytest.mark.parametrize("name", ["llama", "qwen2", "adapter"])
def test_ranking_on_a_cpu_imports_no_model_classes(folders: dict[str, Path], tmp_path: Path, name: str) -> None:
    """They take longer to import than a small model takes to load and rank."""
    folder = save_adapter(tmp_path / "adapter", folders["llama"]) if name == "adapter" else folders[name]
    words = [sys.executable, "-c", IMPORTS, str(folder), "auto" if name == "llama" else "bf16"]
    done = subprocess.run(words, capture_output=True, text=True, env=os.environ | {"PRORANK_CACHE": str(tmp_path)})
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []
