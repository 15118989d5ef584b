"""ONNX exports in the real onnxruntime: scores equal Reranker's, padding on either side, files, and what is refused.

Needs the extra `onnx`. The default model's test also needs its base in the cache.
"""

import json
import os
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from scipy.stats import kendalltau
from transformers import AutoTokenizer
from typer.testing import CliRunner

from prorank.checkpoints.default_model import DEFAULT
from prorank.cli.command_line import app
from prorank.errors import ConfigError, ModelError, PromptError
from prorank.export import classifier, export, onnx_graph
from prorank.reranker import Reranker
from prorank.utils.files import cache_dir
from tests.exports.onnx_models import KINDS, saved
from tests.test_saving import DOCUMENTS, QUERY, adapter
from tests.tiny import byte_tokenizer, save_tiny, tiny_llama

FP32, INT8 = "onnx/model.onnx", "onnx/model_quantized.onnx"


def logits(folder: Path, file: str, documents, query: str = QUERY, **options) -> np.ndarray:
    """Logits by onnxruntime and transformers' tokenizer alone."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    options = {"padding": True, "truncation": "only_second", "return_tensors": "np", **options}
    batch = tokenizer([query] * len(documents), list(documents), **options)
    session = onnxruntime.InferenceSession(folder / file, providers=["CPUExecutionProvider"])
    assert [one.name for one in session.get_inputs()] == ["input_ids", "attention_mask"]
    [output] = session.get_outputs()
    values = session.run(None, dict(batch))[0]
    assert output.name == "logits" and values.shape == (len(documents), 1) and values.dtype == np.float32
    return values[:, 0]


def scores(source, documents, **options) -> np.ndarray:
    reranker = Reranker(source, device="cpu", dtype="fp32", long_documents="truncate", **options)
    return reranker.score([(QUERY, text) for text in documents])


@pytest.fixture(scope="module", params=list(KINDS))
def exported(request, tmp_path_factory):
    """(a checkpoint, its export, the result) of each kind. Read only."""
    root = tmp_path_factory.mktemp(request.param)
    source = saved(root / "model", request.param, max_length=192)
    result = export(source, root / "out", format="onnx")
    assert sorted(os.listdir(root)) == ["model", "out"]
    return source, root / "out", result


def test_logits_are_the_scores(exported):
    source, folder, result = exported
    want = scores(source, DOCUMENTS)
    assert np.ptp(want) > 0.05  # or equality would say little
    np.testing.assert_allclose(logits(folder, FP32, DOCUMENTS), want, atol=1e-3)
    np.testing.assert_allclose(logits(folder, FP32, DOCUMENTS, padding_side="left"), want, atol=1e-3)
    one_by_one = [float(logits(folder, FP32, [document])[0]) for document in DOCUMENTS]
    assert one_by_one == pytest.approx(want.tolist(), abs=1e-3)
    for side in ("right", "left"):
        rounded = logits(folder, INT8, DOCUMENTS, padding_side=side)
        assert kendalltau(rounded, want).statistic > 0.8 and np.abs(rounded - want).max() < 0.3
    assert result.difference < 1e-3 < result.int8_difference < 0.3 and result.format == "onnx" and result.command == ""


def test_the_folder_is_that_of_transformers_js(exported):
    _, folder, _ = exported
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    others = ["README.md", "config.json", "prompt.json", "sentence_bert_config.json", "tokenizer.json", "tokenizer_config.json"]
    assert files == sorted([FP32, INT8, *others])
    config = json.loads((folder / "config.json").read_text())
    assert config["model_type"] in KINDS and config["id2label"] == {"0": "relevance"} and "transformers.js_config" not in config
    for file in (FP32, INT8):
        graph = onnx.load(folder / file)
        onnx.checker.check_model(graph)
        assert {one.domain: one.version for one in graph.opset_import}[""] == 18
        assert b".py" not in graph.SerializeToString()  # torch notes the source files of this machine


def test_linear_layers_and_embeddings_are_int8_and_the_score_is_not(exported):
    graph = onnx.load(exported[1] / INT8).graph
    weights = {one.name: one for one in graph.initializer}
    large = {one.name for one in weights.values() if one.data_type == onnx.TensorProto.FLOAT and np.prod(one.dims) > 1000}
    kinds = [node.op_type for node in graph.node]
    assert not large and kinds.count("MatMulInteger") == 2 * 7 and kinds.count("MatMul") == 2 * 2  # attention's have no weights
    assert weights["row"].data_type == onnx.TensorProto.FLOAT and "Gemm" not in kinds


def test_the_notes_example_runs(exported):
    source, folder, result = exported
    text = (folder / "README.md").read_text()
    code = text.split("```python\n")[1].split("```")[0]
    names: dict = {}
    exec(compile(code, "README.md", "exec"), names)
    [want] = Reranker(source, dtype="fp32").score([("a query", "a document")])
    assert names["scores"].shape == (1,) and names["scores"][0] == pytest.approx(want, abs=0.3)
    differences = [f"{value:.1e}" for value in (result.difference, result.int8_difference)]
    assert all(part in text for part in ["license: other", 'logit of "1" minus logit of "0"', "192 tokens", *differences])


def test_a_prompt_that_repeats_the_query_an_instruction_and_a_thinking_checkpoint(tmp_path):
    source = saved(tmp_path / "echo", "qwen2", "echo", max_length=256)
    export(source, tmp_path / "out1", format="onnx", instruction="find 🦊")
    want = Reranker(source, dtype="fp32").score([(QUERY, text) for text in DOCUMENTS[:4]], instruction="find 🦊")
    np.testing.assert_allclose(logits(tmp_path / "out1", FP32, DOCUMENTS[:4]), want, atol=1e-3)
    source = saved(tmp_path / "thinking", "qwen3", "rerank-r0")
    export(source, tmp_path / "out2", format="onnx")
    want = scores(source, DOCUMENTS[:4], think=False)
    np.testing.assert_allclose(logits(tmp_path / "out2", FP32, DOCUMENTS[:4]), want, atol=1e-3)


def test_an_adapter_becomes_a_graph(tmp_path, tiny_llama_dir):
    _, folder = adapter(tmp_path / "lora", tiny_llama_dir)
    export(folder, tmp_path / "out", format="onnx")
    np.testing.assert_allclose(logits(tmp_path / "out", FP32, DOCUMENTS), scores(folder, DOCUMENTS), atol=1e-3)


def test_without_template_texts_are_rendered_by_the_caller(tmp_path):
    source = save_tiny(tmp_path / "model", "qwen3")
    with pytest.raises(PromptError, match="--no-template"):
        export(source, tmp_path / "out", format="onnx", prompt="qwen3-reranker")
    assert os.listdir(tmp_path) == ["model"]
    export(source, tmp_path / "out", format="onnx", prompt="qwen3-reranker", template=False)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    turns = [[{"role": "query", "content": QUERY}, {"role": "document", "content": text}] for text in DOCUMENTS[:4]]
    batch = tokenizer(tokenizer.apply_chat_template(turns, tokenize=False), padding=True, return_tensors="np")
    session = onnxruntime.InferenceSession(tmp_path / "out" / FP32)
    want = scores(source, DOCUMENTS[:4], prompt="qwen3-reranker")
    np.testing.assert_allclose(session.run(None, dict(batch))[0][:, 0], want, atol=1e-3)


def test_weights_too_large_for_one_file_lie_beside_it(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_graph, "FILE_LIMIT", 200_000)
    source = saved(tmp_path / "model", "llama")
    export(source, tmp_path / "out", format="onnx")
    assert sorted(os.listdir(tmp_path / "out" / "onnx")) == ["model.onnx", "model.onnx_data", "model_quantized.onnx"]
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["transformers.js_config"] == {"use_external_data_format": {"model.onnx": 1}}
    np.testing.assert_allclose(logits(tmp_path / "out", FP32, DOCUMENTS[:4]), scores(source, DOCUMENTS[:4]), atol=1e-3)
    logits(tmp_path / "out", INT8, DOCUMENTS[:4])
    export(source, tmp_path / "small", format="onnx", dtype="int8")
    assert os.listdir(tmp_path / "small" / "onnx") == ["model_quantized.onnx"]
    monkeypatch.setattr(onnx_graph, "FILE_LIMIT", 20_000)
    with pytest.raises(ModelError, match="are too many for an int8 ONNX file of 2 GB; use --format seq-cls"):
        export(source, tmp_path / "new", format="onnx")
    assert not (tmp_path / "new").exists()


def test_a_graph_with_other_scores_is_not_written(tmp_path, tiny_llama_dir, monkeypatch):
    monkeypatch.setattr(classifier, "model_scores", lambda model, encoder, pairs: torch.full((len(pairs),), 9.0))
    with pytest.raises(ModelError, match="the graph's logits differ by .* nothing was written"):
        export(tiny_llama_dir, tmp_path / "out", format="onnx")
    assert not list(tmp_path.iterdir())


def test_what_a_graph_cannot_express_is_refused_in_one_line(tmp_path, tiny_llama_dir):
    with pytest.raises(ConfigError, match="unknown dtype 'bf16'; valid: fp32, int8"):
        export(tiny_llama_dir, tmp_path / "out", format="onnx", dtype="bf16")
    with pytest.raises(ConfigError, match="shows several documents, but a classifier reads one; use --format merged"):
        export(tiny_llama_dir, tmp_path / "out", format="onnx", prompt="setwise")
    model = tiny_llama(byte_tokenizer("smollm"))
    model.config.rope_parameters = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
    model.save_pretrained(tmp_path / "bent")
    byte_tokenizer("smollm").save_pretrained(tmp_path / "bent")
    with pytest.raises(ModelError, match="rope_type=dynamic depends on the length of a batch, which ONNX cannot express") as error:
        export(tmp_path / "bent", tmp_path / "out", format="onnx")
    assert "\n" not in str(error.value) and os.listdir(tmp_path) == ["bent"]


def test_a_model_that_torch_cannot_export_is_refused(tmp_path, tiny_llama_dir, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("no such operator\nand a long trace")

    monkeypatch.setattr(torch.onnx, "export", fail)
    with pytest.raises(ModelError, match=r"torch cannot export it to ONNX \(no such operator\); use --format seq-cls"):
        export(tiny_llama_dir, tmp_path / "out", format="onnx")
    assert not list(tmp_path.iterdir())


def test_the_verb_prints_both_differences_and_the_pages_example_reads_its_folder(tmp_path, tiny_qwen2_dir, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["export", str(tiny_qwen2_dir), "out/onnx", "--format", "onnx"])
    assert result.exit_code == 0, result.output
    [line] = result.stdout.strip().splitlines()
    assert "scores differ from the model's by at most" in line and ", in int8 by" in line and line.endswith("on 4 pairs")
    page = (Path(__file__).parents[2] / "docs" / "guides" / "export.md").read_text(encoding="utf-8")
    code = next(text.split("```")[0] for text in page.split("```python\n") if text.startswith("import onnxruntime"))
    exec(compile(code, "docs/guides/export.md", "exec"), {})
    assert len(capsys.readouterr().out.split()) >= 2


@pytest.mark.timeout(3600)  # torch traces 30 layers: two minutes on an idle core
def test_the_default_model(tmp_path):
    if not (cache_dir() / "smollm2-135m").is_dir():
        pytest.fail("needs the base of the default model: prorank pull smollm2-135m")
    result = export(DEFAULT, tmp_path / "out", format="onnx")
    documents = [*DOCUMENTS[:5], "Vaccines train the immune system.", "The garden of the castle lies behind the river. " * 12]
    want = scores(DEFAULT, documents)
    assert np.ptp(want) > 1 and result.difference < 1e-3
    np.testing.assert_allclose(logits(tmp_path / "out", FP32, documents), want, atol=1e-3)
    np.testing.assert_allclose(logits(tmp_path / "out", FP32, documents, padding_side="left"), want, atol=1e-3)
    assert kendalltau(logits(tmp_path / "out", INT8, documents), want).statistic > 0.8
    sizes = [(tmp_path / "out" / file).stat().st_size for file in (FP32, INT8)]
    assert sizes[0] < 600e6 and sizes[1] < 0.3 * sizes[0]
