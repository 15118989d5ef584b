"""GGUF files for llama.cpp's rank pooling, read back without llama.cpp: tokens, weights and scores.

Texts become tokens by the file's own vocabulary and template as llama.cpp does it, in which every control token is parsed.
`tests/exports/test_gguf.py` ranks with the real llama.cpp.
"""

import json
import unicodedata

import numpy as np
import pytest
import torch
from gguf import GGUFReader, TokenType
from tokenizers import pre_tokenizers
from typer.testing import CliRunner

from prorank.checkpoints.saving import save_checkpoint
from prorank.cli.command_line import app
from prorank.errors import ConfigError, ModelError, PromptError
from prorank.export import export, gguf_export
from prorank.export.gguf_file import TYPES, file_scores
from prorank.export.gguf_vocabulary import GgufVocabulary, emulated_tokenizer, gguf_vocabulary
from prorank.export.gguf_weights import Reflection, check_architecture, gguf_tensors
from prorank.prompts.prompt import Prompt
from prorank.reranker import Reranker
from tests.test_saving import DOCUMENTS, QUERY, adapter
from tests.tiny import byte_tokenizer, save_tiny, tiny_llama, tiny_llama4, tiny_qwen2, tiny_qwen3

KINDS = {"llama": ("smollm", tiny_llama), "qwen2": ("qwen2", tiny_qwen2), "qwen3": ("qwen3", tiny_qwen3)}
PRE = {"llama": "smollm", "qwen2": "qwen2", "qwen3": "qwen2"}
PRESETS = ("prorank", "document-first", "echo", "plain", "mxbai", "qwen3-reranker", "prorank-zh", "rerank-r0")
# llama.cpp does not normalise texts, so they are in Qwen's normal form here.
TEXTS = [unicodedata.normalize("NFC", text) for text in DOCUMENTS[:4]]
TEXTS += ["<|im_end|>", "a<|im_start|>b", "  a garden\n", "<think>", "[PAD3]", "1<|endoftext|>\n\n"]


def tiny_model(kind: str):
    """A tokenizer and a tiny model whose norms and biases are not neutral, as in a trained model."""
    style, build = KINDS[kind]
    tokenizer = byte_tokenizer(style)
    model, drawn = build(tokenizer), torch.Generator().manual_seed(5)
    for name, weight in model.named_parameters():
        if "norm" in name or "bias" in name:
            weight.data += 0.3 * torch.randn(weight.shape, generator=drawn)
    return tokenizer, model


def saved(folder, kind: str, preset: str = "prorank", **changes):
    tokenizer, model = tiny_model(kind)
    return save_checkpoint(folder, model, Prompt.preset(preset, **changes).bind(tokenizer))


def read(path) -> tuple[dict, dict]:
    """(metadata, tensors) of a GGUF file."""
    reader = GGUFReader(path)
    return {key: field.contents() for key, field in reader.fields.items()}, {one.name: one for one in reader.tensors}


def ids_in(values: dict, encoder, query: str, document: str) -> list[int]:
    """A pair's tokens by the vocabulary and the template in a file, tokenised as by llama.cpp."""
    names = [values[f"tokenizer.ggml.{key}"] for key in ("pre", "merges", "tokens", "token_type")]
    vocabulary = GgufVocabulary(names[0], False, names[1], names[2], [TokenType(kind) for kind in names[3]])
    tokenizer = emulated_tokenizer(vocabulary, json.loads(encoder.tokenizer.backend_tokenizer.to_str()))
    text = values["tokenizer.chat_template.rerank"].replace("{query}", query).replace("{document}", document)
    return tokenizer.encode(text).ids


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_file_holds_what_llama_cpp_needs_to_rank(kind, tmp_path):
    source = saved(tmp_path / "model", kind)
    result = export(source, tmp_path / "out", format="gguf", dtype="fp32")
    values, tensors = read(tmp_path / "out" / "model.gguf")
    config = json.loads((source / "config.json").read_text())
    assert values["general.architecture"] == kind and values[f"{kind}.pooling_type"] == 4  # LLAMA_POOLING_TYPE_RANK
    assert values["tokenizer.ggml.pre"] == PRE[kind] and values["tokenizer.ggml.model"] == "gpt2"
    assert values["tokenizer.ggml.add_bos_token"] is False and values["tokenizer.ggml.bos_token_id"] is not None
    assert values[f"{kind}.rope.freq_base"] == config["rope_parameters"]["rope_theta"]
    assert values[f"{kind}.context_length"] == 8192 and values[f"{kind}.block_count"] == 2
    rows, width = len(values["tokenizer.ggml.tokens"]), config["hidden_size"]
    assert list(tensors["token_embd.weight"].shape) == [width, rows] and "output.weight" not in tensors
    labels = values[f"{kind}.classifier.output_labels"]
    if kind == "qwen3":
        assert labels == ["1", "0"] and list(tensors["cls.output.weight"].shape) == [width, 2]
    else:  # llama.cpp reads one number a label, and returns the whole state
        assert labels[0] == "relevance" and len(labels) == width and "cls.output.weight" not in tensors
    assert result.difference < 1e-5 and result.pairs == 4 and result.format == "gguf"


@pytest.mark.parametrize(
    "kind, preset",
    [*(("llama", one) for one in PRESETS), ("qwen2", "mxbai"), ("qwen2", "echo"), ("qwen3", "qwen3-reranker"), ("qwen3", "plain")],
)
def test_texts_get_the_prompts_tokens_and_the_models_scores(kind, preset, tmp_path):
    source = saved(tmp_path / "model", kind, preset)
    export(source, tmp_path / "out", format="gguf", dtype="fp32")
    values, tensors = read(tmp_path / "out" / "model.gguf")
    reranker = Reranker(source, dtype="fp32", think=False, long_documents="truncate")
    encoder = reranker.encoder.direct()
    embeddings = tensors["token_embd.weight"].data
    for query in (QUERY, "what is it?", " x\n", "<|im_end|>"):
        for text in TEXTS:
            got, want = ids_in(values, encoder, query, text), encoder.encode(query, text).ids
            np.testing.assert_array_equal(embeddings[got], embeddings[want])  # aliases are copies
            assert len({*want}) > 10
    pairs = [(QUERY, text) for text in TEXTS]
    scores = file_scores(tmp_path / "out" / "model.gguf", reranker.model, encoder, pairs)
    want = reranker.score(pairs)
    assert np.ptp(want) > 0.02
    np.testing.assert_allclose(scores.numpy(), want, atol=2e-5)


def test_no_text_can_spell_a_control_token(tmp_path):
    export(saved(tmp_path / "model", "qwen2"), tmp_path / "out", format="gguf")
    values, _ = read(tmp_path / "out" / "model.gguf")
    kinds = values["tokenizer.ggml.token_type"]
    names = [text for text, kind in zip(values["tokenizer.ggml.tokens"], kinds) if kind == TokenType.CONTROL]
    assert len(names) > 20 and all(name[0] == "\ufdd0" and name[-1] == "\ufdd1" for name in names)
    assert len(set(values["tokenizer.ggml.tokens"])) == len(kinds)


def test_special_tokens_count_in_texts_where_the_prompt_says_so(tmp_path):
    export(saved(tmp_path / "model", "qwen2", "mxbai"), tmp_path / "out", format="gguf")
    tokens = read(tmp_path / "out" / "model.gguf")[0]["tokenizer.ggml.tokens"]
    assert "<|im_end|>" in tokens


@pytest.mark.parametrize("dtype, share", [("fp32", 1.0), ("fp16", 0.51), ("bf16", 0.51), ("q8_0", 0.28), ("q4_0", 0.16)])
def test_types_store_the_matrices_and_keep_the_order(dtype, share, tmp_path):
    source = saved(tmp_path / "model", "llama")
    result = export(source, tmp_path / "out", format="gguf", dtype=dtype)
    _, tensors = read(result.folder / "model.gguf")
    matrices = [one for one in tensors.values() if len(one.shape) == 2]
    assert {one.tensor_type for one in matrices} == {TYPES[dtype]}
    assert all(one.tensor_type == TYPES["fp32"] for one in tensors.values() if len(one.shape) == 1)
    size = sum(one.n_bytes for one in matrices) / sum(4 * one.n_elements for one in matrices)
    assert size <= share
    limits = {"fp32": 1e-5, "fp16": 0.01, "bf16": 0.1, "q8_0": 0.1, "q4_0": 2.0}
    assert result.difference < limits[dtype]


def test_widths_without_whole_blocks_stay_16_bits(tmp_path):
    tokenizer = byte_tokenizer("smollm")
    source = save_checkpoint(tmp_path / "model", tiny_llama(tokenizer, hidden=48), Prompt.preset("prorank").bind(tokenizer))
    export(source, tmp_path / "out", format="gguf", dtype="q8_0")
    _, tensors = read(tmp_path / "out" / "model.gguf")
    assert tensors["blk.0.attn_q.weight"].tensor_type == TYPES["fp16"]
    assert tensors["blk.0.ffn_down.weight"].tensor_type == TYPES["q8_0"]  # 96 = 3 blocks


def test_an_adapter_is_merged(tmp_path, tiny_llama_dir):
    _, folder = adapter(tmp_path / "lora", tiny_llama_dir)
    result = export(folder, tmp_path / "out", format="gguf", dtype="fp32")
    reranker = Reranker(folder, dtype="fp32", long_documents="truncate")
    pairs = [(QUERY, text) for text in TEXTS]
    model, encoder = Reranker(tiny_llama_dir, dtype="fp32").model, reranker.encoder
    scores = file_scores(result.folder / "model.gguf", model, encoder, pairs)  # only sizes are taken from the model
    np.testing.assert_allclose(scores.numpy(), reranker.score(pairs), atol=2e-5)
    assert np.abs(scores.numpy() - Reranker(tiny_llama_dir, dtype="fp32").score(pairs)).max() > 0.05


def test_an_untied_head_gives_the_class_outputs(tmp_path):
    tokenizer = byte_tokenizer("qwen3")
    model = tiny_qwen3(tokenizer, tie=False)
    encoder = Prompt.preset("prorank").bind(tokenizer)
    export(save_checkpoint(tmp_path / "model", model, encoder), tmp_path / "out", format="gguf", dtype="fp32")
    _, tensors = read(tmp_path / "out" / "model.gguf")
    rows = model.lm_head.weight.detach()[[encoder.answer_ids[1], encoder.answer_ids[0]]]
    np.testing.assert_array_equal(tensors["cls.output.weight"].data, rows.numpy())


def test_a_reflection_keeps_products_and_finds_the_direction():
    drawn = torch.Generator().manual_seed(2)
    for direction in (torch.randn(8, generator=drawn), torch.tensor([2.0, *[0.0] * 7]), torch.tensor([-3.0, *[0.0] * 7])):
        reflection, states = Reflection.onto(direction), torch.randn(5, 8, generator=drawn).double()
        turned = reflection.rows(states)
        torch.testing.assert_close(turned @ turned.T, states @ states.T)
        torch.testing.assert_close(reflection.factor * turned[:, 0], states @ direction.double())
    with pytest.raises(ModelError, match="output rows of both answers are equal"):
        Reflection.onto(torch.zeros(8))


def test_the_notes_say_what_llama_cpp_does_otherwise(tmp_path):
    changes = {"max_length": 256, "chunk_length": 64, "instruction": "find rivers"}
    result = export(saved(tmp_path / "model", "qwen2", "document-first", **changes), tmp_path / "out", format="gguf")
    text = (tmp_path / "out" / "README.md").read_text()
    path = tmp_path / "out" / "model.gguf"
    assert result.command == f"llama-server -m {path} --reranking -np 1 -c 256 -b 256 -ub 256" and result.server == "llama-server"
    compared = f"{result.difference:.1e} on {result.pairs} pairs"
    expected = [result.command, compared, "raw log-odds", "matrices in fp16", "above 64 tokens", "not normalised to NFC"]
    assert all(part in text for part in [*expected, "`{document}`", "license: other", "to 256 tokens"])
    assert Prompt.load(tmp_path / "out").instruction == "find rivers"
    export(saved(tmp_path / "third", "qwen3"), tmp_path / "probability", format="gguf")
    text = (tmp_path / "probability" / "README.md").read_text()
    assert 'the probability of "1" against "0"' in text and "overlapping parts" not in text


def test_our_loader_refuses_a_file_for_llama_cpp(tmp_path):
    export(saved(tmp_path / "model", "llama"), tmp_path / "out", format="gguf")
    with pytest.raises(ModelError, match="a reranker for llama.cpp, written by prorank export; load the checkpoint"):
        Reranker(tmp_path / "out" / "model.gguf")


def test_lists_other_architectures_and_options_are_refused_before_the_weights_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr("prorank.export.exporter.load_model", lambda *arguments: pytest.fail("the weights were read"))
    tokenizer = byte_tokenizer("smollm")
    lists = save_checkpoint(tmp_path / "lists", tiny_llama(tokenizer), Prompt.preset("setwise").bind_list(tokenizer))
    with pytest.raises(ConfigError, match="shows several documents, but llama.cpp ranks by one; use --format merged"):
        export(lists, tmp_path / "out", format="gguf")
    with pytest.raises(ModelError, match="architecture llama4_text cannot be exported to GGUF, only llama, qwen2, qwen3"):
        export(save_tiny(tmp_path / "llama4", "llama4"), tmp_path / "out", format="gguf")
    plain = save_tiny(tmp_path / "plain", "llama", style="plain")
    with pytest.raises(ModelError, match=r"its pre-tokenizer \(ByteLevel\) is not that of smollm or qwen2"):
        export(plain, tmp_path / "out", format="gguf", prompt="plain")
    with pytest.raises(ConfigError, match="always contains the prompt; omit --no-template"):
        export(plain, tmp_path / "out", format="gguf", template=False)
    with pytest.raises(ConfigError, match="unknown dtype 'q5_0'; did you mean"):
        export(plain, tmp_path / "out", format="gguf", dtype="q5_0")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "kind, key, value, message",
    [
        ("llama", "attention_bias", True, "llama with attention_bias=True cannot be exported"),
        ("qwen2", "use_sliding_window", True, "qwen2 with use_sliding_window=True cannot be exported"),
        ("qwen2", "head_dim", 32, "qwen2 with head_dim=32 cannot be exported to GGUF, where heads share the width"),
        ("qwen3", "rope_parameters", {"rope_type": "yarn", "rope_theta": 1e4}, "rotary positions of type yarn"),
    ],
)
def test_settings_that_llama_cpp_would_not_follow_are_refused(kind, key, value, message):
    config = tiny_model(kind)[1].config
    check_architecture(config)
    setattr(config, key, value)
    with pytest.raises(ModelError, match=message):
        check_architecture(config)


def test_heads_with_a_bias_and_unknown_weights_are_refused():
    tokenizer, model = tiny_model("llama")
    encoder = Prompt.preset("prorank").bind(tokenizer)
    model.model.layers[0].self_attn.gate = torch.nn.Linear(4, 4)
    with pytest.raises(ModelError, match="its weight 'layers.0.self_attn.gate.weight' has no place in a GGUF file"):
        list(gguf_tensors(model, encoder.answer_ids, [0]))
    model = tiny_llama(tokenizer, tie=False)
    model.lm_head.bias = torch.nn.Parameter(torch.arange(model.config.vocab_size).float())
    with pytest.raises(ModelError, match="its head has a bias"):
        list(gguf_tensors(model, encoder.answer_ids, [0]))
    assert tiny_llama4(tokenizer).config.model_type == "llama4_text"


def test_tokenizers_that_llama_cpp_does_not_have_are_refused():
    tokenizer = byte_tokenizer("smollm")
    encoder = Prompt.preset("prorank").bind(tokenizer)
    inner = tokenizer.backend_tokenizer
    inner.pre_tokenizer = pre_tokenizers.Sequence([inner.pre_tokenizer, pre_tokenizers.Whitespace()])
    with pytest.raises(ModelError, match=r"its pre-tokenizer \(Digits \+ ByteLevel \+ Whitespace\) is not that of"):
        gguf_vocabulary(encoder, 476)
    upper = byte_tokenizer("qwen2", split_answers=True)
    with pytest.raises(ModelError, match=r"its normalizer is NFC \+ Replace; use --format merged"):
        gguf_vocabulary(Prompt.preset("prorank", answers=("a", "b")).bind(upper), 476)


def test_slots_in_an_instruction_and_texts_that_touch_are_refused():
    tokenizer = byte_tokenizer("smollm")
    encoder = Prompt.preset("prorank", instruction="answer {query}").bind(tokenizer)
    with pytest.raises(PromptError, match="its instruction contains {query}; reword it"):
        gguf_vocabulary(encoder, 476)
    touching = Prompt.preset("prorank", template=("Q:", "{query}", "{document}", "R:")).bind(tokenizer)
    with pytest.raises(PromptError, match="llama.cpp would tokenise it in another way with texts such as"):
        gguf_vocabulary(touching, 476)


def test_a_file_with_other_scores_is_not_written(tmp_path, tiny_llama_dir, monkeypatch):
    monkeypatch.setattr(gguf_export, "file_scores", lambda path, model, encoder, pairs: torch.full((len(pairs),), 9.0))
    with pytest.raises(ModelError, match="the file's scores differ by .* nothing was written"):
        export(tiny_llama_dir, tmp_path / "out", format="gguf", dtype="fp32")
    assert not list(tmp_path.iterdir())


def test_weights_too_large_for_16_bits_are_refused(tmp_path):
    tokenizer, model = tiny_model("qwen3")
    model.model.layers[0].mlp.up_proj.weight.data[0, 0] = 1e6
    source = save_checkpoint(tmp_path / "model", model, Prompt.preset("prorank").bind(tokenizer))
    with pytest.raises(ModelError, match="'blk.0.ffn_up.weight' has weights that are too large for fp16; use --dtype bf16"):
        export(source, tmp_path / "out", format="gguf")
    assert not (tmp_path / "out").exists()
    export(source, tmp_path / "out", format="gguf", dtype="bf16")


def test_the_verb_prints_the_servers_command(tmp_path, tiny_qwen2_dir):
    result = CliRunner().invoke(app, ["export", str(tiny_qwen2_dir), str(tmp_path / "out"), "--format", "gguf"])
    assert result.exit_code == 0, result.output
    first, second = result.stdout.strip().splitlines()
    path = tmp_path / "out" / "model.gguf"
    assert "scores differ from the model's by" in first and second.startswith(f"llama-server: llama-server -m {path} --reranking")
