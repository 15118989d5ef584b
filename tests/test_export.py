"""Exports: classifiers whose logit is the score, merged adapters, and what is refused.

Everything is loaded from the folder by transformers only, as by a server.
"""

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from typer.testing import CliRunner

from prorank.checkpoints.resolve import resolve
from prorank.checkpoints.saving import save_checkpoint
from prorank.cli.command_line import app
from prorank.errors import ConfigError, ModelError, PromptError
from prorank.export import classifier as module
from prorank.export import export
from prorank.export.classifier import build_classifier
from prorank.prompts.prompt import Prompt
from prorank.reranker import Reranker
from tests.test_saving import DOCUMENTS, QUERY, adapter, cross_encoder
from tests.tiny import byte_tokenizer, save_tiny, tiny_llama, tiny_llama4, tiny_qwen2, tiny_qwen3

KINDS = {"llama": ("smollm", tiny_llama), "qwen2": ("qwen2", tiny_qwen2), "qwen3": ("qwen3", tiny_qwen3)}


def saved(folder, kind: str, preset: str = "prorank", **changes):
    style, build = KINDS[kind]
    tokenizer = byte_tokenizer(style)
    return save_checkpoint(folder, build(tokenizer), Prompt.preset(preset, **changes).bind(tokenizer))


@torch.inference_mode()
def logits(folder, documents, **options) -> np.ndarray:
    """Logits of plain transformers for an exported folder."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForSequenceClassification.from_pretrained(folder)
    options = {"padding": True, "truncation": "only_second", "return_tensors": "pt", **options}
    batch = tokenizer([QUERY] * len(documents), documents, **options)
    return model.float()(**batch).logits[:, 0].numpy()


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_classifiers_logits_are_the_scores(kind, tmp_path):
    source = saved(tmp_path / "model", kind, max_length=192)
    result = export(source, tmp_path / "out")
    reranker = Reranker(source, dtype="fp32", long_documents="truncate")
    want = reranker.score([(QUERY, document) for document in DOCUMENTS])
    assert reranker.cuts.documents == 2 and np.ptp(want) > 0.05  # or equality would say little
    np.testing.assert_allclose(logits(tmp_path / "out", DOCUMENTS), want, atol=1e-4)
    np.testing.assert_allclose(logits(tmp_path / "out", DOCUMENTS, padding_side="left"), want, atol=1e-4)
    assert [float(logits(tmp_path / "out", [document])[0]) for document in DOCUMENTS] == pytest.approx(want.tolist(), abs=1e-4)
    assert result.difference < 1e-4 and result.pairs >= 3
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["architectures"] == [f"{kind.capitalize()}ForSequenceClassification"] and config["id2label"] == {"0": "relevance"}
    assert config["pad_token_id"] is not None and "prorank" not in json.dumps(config)
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"]  # where transformers 4 looks for it
    tokens = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert tokens["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert sorted(os.listdir(tmp_path)) == ["model", "out"]


def test_sentence_transformers_reads_a_classifier(tmp_path):
    source = saved(tmp_path / "model", "qwen2")
    export(source, tmp_path / "out")
    pairs = [(QUERY, document) for document in DOCUMENTS[:5]]
    want = Reranker(source, dtype="fp32").score(pairs)
    np.testing.assert_allclose(cross_encoder(tmp_path / "out").predict(pairs), want, atol=1e-4)


def test_the_folder_names_the_length_of_pairs_and_commands_of_servers(tmp_path):
    result = export(saved(tmp_path / "model", "llama", max_length=192), tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text()
    expected = [
        'logit of "1" minus logit of "0"',
        "to 192 tokens in total",
        result.command,
        "None of them was run",
        "LlamaForSequence",
    ]
    assert all(part in text for part in [*expected, "license: other"])
    assert json.loads((tmp_path / "out" / "sentence_bert_config.json").read_text()) == {"max_seq_length": 192}
    inner = json.loads((tmp_path / "out" / "tokenizer.json").read_text())
    assert inner["truncation"]["strategy"] == "OnlySecond" and inner["truncation"]["max_length"] == 192
    assert Prompt.load(tmp_path / "out") == Prompt.load(tmp_path / "model")


def test_a_prompt_that_repeats_the_query(tmp_path):
    source = saved(tmp_path / "model", "qwen2", "echo", max_length=256)
    export(source, tmp_path / "out")
    short = DOCUMENTS[:4]
    want = Reranker(source, dtype="fp32").score([(QUERY, document) for document in short])
    np.testing.assert_allclose(logits(tmp_path / "out", short), want, atol=1e-4)
    assert not (tmp_path / "out" / "sentence_bert_config.json").exists()
    assert "without the repeated query" in (tmp_path / "out" / "README.md").read_text()


def test_a_thinking_checkpoint_answers_at_once(tmp_path):
    source = saved(tmp_path / "model", "qwen3", "rerank-r0")
    export(source, tmp_path / "out")
    want = Reranker(source, dtype="fp32", think=False).score([(QUERY, document) for document in DOCUMENTS[:4]])
    np.testing.assert_allclose(logits(tmp_path / "out", DOCUMENTS[:4]), want, atol=1e-4)


def test_an_instruction_is_baked_in(tmp_path):
    source = saved(tmp_path / "model", "llama")
    export(source, tmp_path / "out", instruction="find 🦊")
    want = Reranker(source, dtype="fp32").score([(QUERY, document) for document in DOCUMENTS[:4]], instruction="find 🦊")
    np.testing.assert_allclose(logits(tmp_path / "out", DOCUMENTS[:4]), want, atol=1e-4)
    assert Prompt.load(tmp_path / "out").instruction == "find 🦊"


def test_without_template_texts_are_rendered_by_the_caller(tmp_path):
    source = save_tiny(tmp_path / "model", "qwen3")
    with pytest.raises(PromptError, match="--no-template"):
        export(source, tmp_path / "out", prompt="qwen3-reranker")
    assert sorted(os.listdir(tmp_path)) == ["model"]
    result = export(source, tmp_path / "out", prompt="qwen3-reranker", template=False)
    assert result.difference < 1e-4 and result.command.endswith("--chat-template " + str(tmp_path / "out" / "chat_template.jinja"))
    assert (tmp_path / "out" / "chat_template.jinja").is_file()
    pairs = [(QUERY, document) for document in DOCUMENTS[:4]]
    want = Reranker(source, dtype="fp32", prompt="qwen3-reranker").score(pairs)
    np.testing.assert_allclose(cross_encoder(tmp_path / "out").predict(pairs), want, atol=1e-4)


def test_bf16_halves_the_file_and_stays_near(tmp_path):
    source = saved(tmp_path / "model", "qwen2")
    full, half = export(source, tmp_path / "full"), export(source, tmp_path / "half", dtype="bf16")
    sizes = [(result.folder / "model.safetensors").stat().st_size for result in (full, half)]
    assert sizes[1] < 0.55 * sizes[0] and full.difference < 1e-4 < half.difference < 0.5


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_merged_adapters_are_plain_models(tmp_path, tiny_llama_dir, dtype):
    _, folder = adapter(tmp_path / "lora", tiny_llama_dir)
    result = export(folder, tmp_path / "out", format="merged", dtype=dtype)
    pairs = [(QUERY, document) for document in DOCUMENTS]
    got, want = Reranker(tmp_path / "out", dtype=dtype).score(pairs), Reranker(folder, dtype=dtype).score(pairs)
    np.testing.assert_allclose(got, want, atol=1e-5)
    AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert not resolve(tmp_path / "out").adapter and result.difference is None
    overrides = json.loads(result.command.split("'")[1])
    tokens = {"classifier_from_token": ["0", "1"], "method": "from_2_way_softmax"}
    assert overrides == {"architectures": ["LlamaForSequenceClassification"], **tokens}
    assert (tmp_path / "out" / "chat_template.jinja").is_file()


def test_an_adapter_becomes_a_classifier(tmp_path, tiny_llama_dir):
    _, folder = adapter(tmp_path / "lora", tiny_llama_dir)
    export(folder, tmp_path / "out")
    want = Reranker(folder, dtype="fp32", long_documents="truncate").score([(QUERY, document) for document in DOCUMENTS])
    np.testing.assert_allclose(logits(tmp_path / "out", DOCUMENTS), want, atol=1e-4)


def test_a_prompt_of_lists_is_merged_but_no_classifier(tmp_path):
    tokenizer = byte_tokenizer("smollm")
    encoder = Prompt.preset("setwise").bind_list(tokenizer)
    card = "---\nlicense: mit\n---\n# card\n\n## Training\n\nlong\n"
    source = save_checkpoint(tmp_path / "model", tiny_llama(tokenizer), encoder, card=card)
    with pytest.raises(ConfigError, match="shows several documents, but a classifier reads one; use --format merged"):
        export(source, tmp_path / "out")
    assert export(source, tmp_path / "out", format="merged").command == ""
    card = (tmp_path / "out" / "README.md").read_text()  # says what it was made from
    assert f"`prorank export --format merged` from `{tmp_path / 'model'}`; weights in fp32 (licence: mit)" in card
    assert f'Reranker("{tmp_path / "out"}", method="listwise")' in card
    assert "it cannot be a `CrossEncoder`" in card and "\nlong\n" in card
    ranked = [Reranker(place, method="setwise", dtype="fp32").rank(QUERY, DOCUMENTS[:4]) for place in (source, tmp_path / "out")]
    assert ranked[0] == ranked[1]


def test_a_head_with_a_bias_is_refused():
    tokenizer = byte_tokenizer("smollm")
    model, encoder = tiny_llama(tokenizer, tie=False), Prompt.preset("prorank").bind(tokenizer)
    model.lm_head.bias = torch.nn.Parameter(torch.zeros(model.config.vocab_size))
    assert build_classifier(model, encoder, 0).score.weight.shape == (1, 64)  # the same bias for both answers changes no score
    model.lm_head.bias.data[encoder.answer_ids[1]] = 0.5
    with pytest.raises(ModelError, match="its head has a bias, which a classifier cannot have; use --format merged"):
        build_classifier(model, encoder, 0)


def test_models_without_classifier_are_refused():
    tokenizer = byte_tokenizer("smollm")
    with pytest.raises(ModelError, match="transformers has no classifier for Llama4ForCausalLM; use --format merged"):
        build_classifier(tiny_llama4(tokenizer), Prompt.preset("prorank").bind(tokenizer), 0)


def test_a_classifier_with_other_scores_is_not_written(tmp_path, tiny_llama_dir, monkeypatch):
    monkeypatch.setattr(module, "model_scores", lambda model, encoder, pairs: torch.full((len(pairs),), 9.0))
    with pytest.raises(ModelError, match="the classifier's logits differ by .* nothing was written"):
        export(tiny_llama_dir, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_an_existing_folder_is_not_changed(tmp_path, tiny_llama_dir):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious").write_text("x")
    result = CliRunner().invoke(app, ["export", str(tiny_llama_dir), str(tmp_path / "out")])
    assert isinstance(result.exception, ConfigError) and "already exists; name a new folder" in str(result.exception)
    with pytest.raises(ConfigError, match="unknown format 'seqcls'; did you mean 'seq-cls'"):
        export(tiny_llama_dir, tmp_path / "new", format="seqcls")
    with pytest.raises(ConfigError, match="unknown dtype 'int8'; valid: bf16, fp32"):
        export(tiny_llama_dir, tmp_path / "new", dtype="int8")
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "precious"]


def test_the_verb_prints_what_it_wrote(tmp_path, tiny_qwen2_dir):
    result = CliRunner().invoke(app, ["export", str(tiny_qwen2_dir), str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    first, second = result.stdout.strip().splitlines()
    assert "scores differ from the model's by" in first and second == f"vLLM: vllm serve {tmp_path / 'out'}"


def test_the_pages_examples_run(tmp_path, tiny_qwen2_dir, monkeypatch, capsys):
    """The Python examples of docs/guides/export.md, the one that writes the folder first; `make test-exports` runs that of ONNX."""
    page = (Path(__file__).parent.parent / "docs" / "guides" / "export.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", page, re.M | re.S)
    others = ("llama_cpp", "onnxruntime")  # make test-exports runs these
    use, render, write = (block for block in blocks if not any(name in block for name in others))
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for code in (write.replace("runs/smollm2-135m/score", str(tiny_qwen2_dir)), use):
        exec(compile(code, "docs/guides/export.md", "exec"), names)
    assert "vllm serve out/classifier" in capsys.readouterr().out
    assert isinstance(names["exported"].difference, float) and names["model"](**names["batch"]).logits.shape == (1, 1)
    export(tiny_qwen2_dir, "out/rendered", template=False)
    names["tokenizer"] = AutoTokenizer.from_pretrained("out/rendered")
    exec(compile(render, "docs/guides/export.md", "exec"), names)
    assert names["ids"] == Prompt.load("out/rendered").bind(names["tokenizer"]).encode("a query", "a document").ids
