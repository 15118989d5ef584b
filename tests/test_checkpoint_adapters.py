"""peft adapters: scores equal those of peft's unmerged model, or the adapter is refused; and how an adapter's base is found.

The oracle is peft itself, called by hand on a base that transformers loaded.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import (
    AdaLoraConfig,
    IA3Config,
    LNTuningConfig,
    LoHaConfig,
    LoraConfig,
    OFTConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptEncoderConfig,
    PromptTuningConfig,
    get_peft_model,
)
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from prorank.checkpoints.loading import load_model
from prorank.checkpoints.resolve import resolve
from prorank.cli.command_line import app
from prorank.engine.modules import merged_copy
from prorank.errors import ModelError
from prorank.export import export
from prorank.prompts.prompt import Prompt
from prorank.reranker import Reranker
from tests.tiny import save_adapter, save_tiny

CPU = torch.device("cpu")
PAIRS = [("garden", "we saw the garden today"), ("garden", "bread"), ("river 12", "the old river")]
Q = ["q_proj", "v_proj"]
CAUSAL = "CAUSAL_LM"


def lora(*more: str, **options) -> LoraConfig:
    return LoraConfig(r=4, target_modules=[*Q, *more], task_type=CAUSAL, **options)


def made(folder: Path, config, tie: bool = True, kind: str = "llama", tokens: int = 0) -> tuple[Path, Path]:
    """(adapter, base): an adapter of this kind with weights that are not zero, trained after so many tokens were added."""
    base = save_tiny(folder / "base", kind, tie=tie)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(base), AutoTokenizer.from_pretrained(base)
    if tokens:
        tokenizer.add_tokens([f"<new{i}>" for i in range(tokens)])
        model.resize_token_embeddings(len(tokenizer))
        tokenizer.save_pretrained(folder / "adapter")
    model = get_peft_model(model, config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        for weight in model.parameters():
            if weight.requires_grad:
                weight.data += 0.1 * torch.randn_like(weight)
    model.save_pretrained(folder / "adapter")
    return folder / "adapter", base


@torch.inference_mode()
def peft_scores(adapter: Path, base: Path) -> list[float]:
    """Scores of peft's unmerged model."""
    place = adapter if (adapter / "tokenizer.json").is_file() else base
    model, tokenizer = AutoModelForCausalLM.from_pretrained(base), AutoTokenizer.from_pretrained(place)
    if len(tokenizer) > model.config.vocab_size:
        model.resize_token_embeddings(len(tokenizer))
    model, bound = PeftModel.from_pretrained(model, adapter).eval(), Prompt.preset("prorank").bind(tokenizer)
    logits = [model(input_ids=torch.tensor([bound.encode(*pair).ids])).logits[0, -1] for pair in PAIRS]
    no, yes = bound.answer_ids
    return [float(row[yes] - row[no]) for row in logits]


EQUAL = {
    "linear": (lora(), {}),
    "no task": (LoraConfig(r=4, target_modules=Q), {}),
    "tied embeddings": (lora("embed_tokens"), {}),
    "tied head": (lora("lm_head"), {}),
    "both, tied": (lora("embed_tokens", "lm_head"), {}),
    "both, not tied": (lora("embed_tokens", "lm_head"), {"tie": False}),
    "embeddings whole": (lora(modules_to_save=["embed_tokens"]), {}),
    "head whole": (lora(modules_to_save=["lm_head"]), {}),
    "some tokens": (lora(trainable_token_indices=[5, 60]), {}),
    "weight-decomposed": (lora(use_dora=True), {}),
    "biases": (lora(bias="all"), {"kind": "qwen2"}),
    "IA3": (IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"], task_type=CAUSAL), {}),
    "LoHa": (LoHaConfig(r=4, target_modules=Q, task_type=CAUSAL), {}),
    "AdaLoRA": (AdaLoraConfig(init_r=4, target_r=2, total_step=10, target_modules=Q, task_type=CAUSAL), {}),
    "OFT": (OFTConfig(r=4, oft_block_size=0, target_modules=Q, task_type=CAUSAL), {}),
    "norms": (LNTuningConfig(target_modules=["input_layernorm"], task_type=CAUSAL), {}),
    "more tokens": (lora(), {"tokens": 3}),
    "more tokens, whole": (lora(modules_to_save=["embed_tokens", "lm_head"]), {"tokens": 3, "tie": False}),
    "more tokens, low rank": (lora("embed_tokens"), {"tokens": 3}),
}


@pytest.mark.parametrize("case", list(EQUAL))
def test_merged_scores_are_those_of_peft(tmp_path, case):
    """Whatever an adapter trains, embeddings that are tied to the head and new tokens too."""
    config, how = EQUAL[case]
    adapter, base = made(tmp_path, config, **how)
    want = peft_scores(adapter, base)
    assert np.abs(Reranker(base, device="cpu", dtype="fp32").score(PAIRS) - want).max() > 0.02  # the adapter does something
    np.testing.assert_allclose(Reranker(adapter, device="cpu", dtype="fp32").score(PAIRS), want, atol=1e-3)
    if case in ("tied embeddings", "more tokens"):
        export(adapter, tmp_path / "out", format="merged")
        np.testing.assert_allclose(Reranker(tmp_path / "out", device="cpu", dtype="fp32").score(PAIRS), want, atol=1e-3)


REFUSED = {
    "classifier": (LoraConfig(r=4, target_modules=Q, task_type="SEQ_CLS"), "was trained for task SEQ_CLS"),
    "prefix": (PrefixTuningConfig(num_virtual_tokens=4, task_type=CAUSAL), "PREFIX_TUNING puts vectors before the prompt"),
    "prompt": (PromptTuningConfig(num_virtual_tokens=4, task_type=CAUSAL), "PROMPT_TUNING puts vectors before the prompt"),
    "p-tuning": (PromptEncoderConfig(num_virtual_tokens=4, task_type=CAUSAL), "P_TUNING puts vectors before the prompt"),
    "bias of its own": (lora(lora_bias=True), "cannot be merged"),
}


@pytest.mark.parametrize("case", list(REFUSED))
def test_adapters_that_cannot_be_merged_are_refused(tmp_path, case):
    """A score head that is dropped, vectors that are no weights."""
    config, part = REFUSED[case]
    adapter, _ = made(tmp_path, config)
    with pytest.raises(ModelError, match=part) as error:
        Reranker(adapter, device="cpu")
    assert "\n" not in str(error.value) and str(adapter) in str(error.value)


def test_a_score_head_is_not_dropped_whatever_the_task_is_called(tmp_path):
    """Two classifiers over one causal base would score the same."""
    from safetensors.torch import load_file, save_file

    adapter, _ = made(tmp_path, lora())
    weights = load_file(adapter / "adapter_model.safetensors") | {"base_model.model.score.weight": torch.ones(1, 64)}
    save_file(weights, adapter / "adapter_model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match="'base_model.model.score.weight' has no place in the model"):
        Reranker(adapter, device="cpu")


def test_a_merge_that_changes_the_scores_is_refused(tmp_path, monkeypatch):
    """The check looks at logits, not at the method's name."""
    adapter, _ = made(tmp_path, lora("embed_tokens"))
    monkeypatch.setattr("prorank.engine.modules._untie", lambda model: None)
    with pytest.raises(ModelError, match="merged, its logits differ by"):
        Reranker(adapter, device="cpu")


def test_weights_that_are_not_finite_are_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    adapter, _ = made(tmp_path, lora())
    weights = {key: weight * float("nan") for key, weight in load_file(adapter / "adapter_model.safetensors").items()}
    save_file(weights, adapter / "adapter_model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match="its logits are not finite"):
        Reranker(adapter, device="cpu")


def test_added_tokens_without_embeddings_are_refused(tmp_path):
    """The adapter's tokenizer has ids without a row in the model's embeddings."""
    adapter, base = made(tmp_path, lora())
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_tokens(["<new>"])
    tokenizer.save_pretrained(adapter)
    with pytest.raises(ModelError, match=r"token '<new>' has the id 4\d\d, and the model has 4\d\d rows"):
        Reranker(adapter, device="cpu")


def test_training_goes_on_from_an_adapter_with_more_tokens(tmp_path):
    adapter, _ = made(tmp_path, lora(), tokens=3)
    model = load_model(resolve(adapter), torch.float32, CPU, train=True)
    assert model.config.vocab_size == len(AutoTokenizer.from_pretrained(adapter)) and hasattr(model, "peft_config")


def test_a_copy_in_training_is_merged_in_the_same_way(tmp_path):
    """Dev measures and references of a training use merged copies."""
    adapter, base = made(tmp_path, lora("embed_tokens"))
    model, tokenizer = load_model(resolve(adapter), torch.float32, CPU, train=True), AutoTokenizer.from_pretrained(base)
    scores = Reranker.of(merged_copy(model), tokenizer, Prompt.preset("prorank")).score(PAIRS)
    np.testing.assert_allclose(scores, peft_scores(adapter, base), atol=1e-3)


@pytest.mark.parametrize("config", [lora("lm_head"), lora(modules_to_save=["lm_head"])], ids=["low rank", "whole"])
def test_training_from_an_adapter_of_the_output_matrix_is_refused(tmp_path, config):
    """Stages read that matrix without the adapter, so they would train and evaluate another model."""
    adapter, _ = made(tmp_path, config)
    with pytest.raises(ModelError, match="changes the output matrix"):
        load_model(resolve(adapter), torch.float32, CPU, train=True)


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """A folder in which an adapter was trained over a base that was named from there."""
    monkeypatch.chdir(tmp_path)
    save_tiny(Path("runs/base/model"))
    save_adapter(Path("runs/tuned/model"), Path("runs/base"), "runs/base")
    (tmp_path / "elsewhere").mkdir()
    return tmp_path


@pytest.mark.parametrize("asked", ["runs/tuned", "runs/tuned/model"])
def test_a_relative_base_is_found_from_any_folder(project, monkeypatch, asked):
    """The name is resolved relative to the parents of the adapter's folder."""
    want = Reranker(asked, device="cpu", dtype="fp32").score(PAIRS)
    monkeypatch.chdir(project / "elsewhere")
    np.testing.assert_array_equal(Reranker(project / asked, device="cpu", dtype="fp32").score(PAIRS), want)
    monkeypatch.chdir("/")
    assert resolve(project / asked).path == project / "runs/base/model"


def test_another_folder_with_the_same_name_is_skipped(project, monkeypatch):
    """The hash selects one of two; without a match the adapter is refused."""
    other = save_tiny(project / "elsewhere" / "runs" / "base", seed=1)
    monkeypatch.chdir(project / "elsewhere")
    assert resolve(project / "runs/tuned").path == project / "runs/base/model"
    shutil.rmtree(project / "runs/base")
    with pytest.raises(ModelError, match="trained on another base: runs/base has other weights"):
        resolve(project / "runs/tuned")
    assert other.is_dir()


def test_the_base_can_be_named(project, monkeypatch):
    """Base= and --base, wherever a model is loaded."""
    (project / "runs/base").rename(project / "moved")
    with pytest.raises(ModelError, match=r"the base of this adapter cannot be loaded: runs/base: .*\(base= or --base\)"):
        resolve("runs/tuned")
    assert resolve("runs/tuned", base="moved").path == Path("moved/model")
    Reranker("runs/tuned", device="cpu", base=project / "moved")
    export("runs/tuned", "out", base="moved")
    Path("docs.txt").write_text("bread\n")
    words = ["rerank", "docs.txt", "--query", "garden", "--model", "runs/tuned"]
    assert isinstance(CliRunner().invoke(app, words).exception, ModelError)
    result = CliRunner().invoke(app, [*words, "--base", "moved"])
    assert result.exit_code == 0, result.exception


def test_base_is_only_valid_for_adapters_and_must_match(project):
    other = save_tiny(project / "other", seed=1)
    with pytest.raises(ModelError, match="trained on another base: other has other weights"):
        resolve("runs/tuned", base="other")
    with pytest.raises(ModelError, match="is not an adapter, so it has no base"):
        resolve(other, base="runs/base")


@pytest.mark.parametrize("base", [".", "model", "runs/tuned/model", "../tuned/model"])
def test_an_adapter_that_is_its_own_base_is_refused(project, base):
    """The name of the base resolves to the adapter."""
    path = Path("runs/tuned/model/base.json")
    path.write_text(json.dumps({"name": base}))
    with pytest.raises(ModelError, match="the base of this adapter cannot be loaded"):
        resolve("runs/tuned")
