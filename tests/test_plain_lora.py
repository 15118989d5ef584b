"""Plain LoRA without peft: the merged weights are peft's to the last bit, and what is not plain is left to peft."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from prorank.checkpoints.adapters import with_adapter
from prorank.checkpoints.plain_lora import PlainLora, read_plain_lora
from tests.tiny import save_adapter, save_tiny

LINEAR = ["q_proj", "v_proj", "down_proj"]


def save_lora(folder: Path, kind: str = "llama", dtype: torch.dtype = torch.float32, **options) -> tuple[Path, Path]:
    """(adapter, base): a LoRA adapter with random factors."""
    base = save_tiny(folder / "base", kind)
    options = {"target_modules": LINEAR, "r": 4, "task_type": "CAUSAL_LM"} | options
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(**options))
    torch.manual_seed(0)
    for name, weight in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight, std=0.2)
    model.save_pretrained(folder / "adapter")
    file = folder / "adapter" / "adapter_model.safetensors"
    save_file({key: weight.to(dtype) for key, weight in load_file(file).items()}, file, {"format": "pt"})
    return folder / "adapter", base


CASES = {
    "as trained": {},
    "rank-stabilised": {"use_rslora": True, "lora_alpha": 6},
    "dropout": {"lora_dropout": 0.1},
    "biases of the base": {"kind": "qwen2"},
    "bf16 factors": {"dtype": torch.bfloat16},
    "no task": {"task_type": None},
}


@pytest.mark.parametrize("case", list(CASES))
def test_weights_are_those_of_pefts_merge(tmp_path, monkeypatch, case):
    adapter, base = save_lora(tmp_path, **CASES[case])
    want = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter).merge_and_unload().state_dict()
    plain = AutoModelForCausalLM.from_pretrained(base)
    before = {key: weight.clone() for key, weight in plain.state_dict().items()}
    monkeypatch.setattr("prorank.checkpoints.adapters._applied", lambda *_: pytest.fail("peft was used"))
    merged = with_adapter(plain, adapter, base, train=False).state_dict()
    assert merged.keys() == want.keys() and all(torch.equal(merged[key], want[key]) for key in want)
    changed = {key for key in want if not torch.equal(before[key], merged[key])}
    assert changed == {key for key in want if key.endswith(".weight") and key.split(".")[-2] in LINEAR}


def test_peft_is_not_imported_for_it(tmp_path, tiny_llama_dir):
    folder = save_adapter(tmp_path / "adapter", tiny_llama_dir)
    code = f"""
import sys
from prorank import Reranker
Reranker({str(folder)!r}, device="cpu").score([("a", "b")])
print("peft" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr


def test_the_scale_is_that_of_the_settings():
    config = {"peft_type": "LORA", "r": 16, "lora_alpha": 32, "target_modules": ["q_proj"]}
    assert read_plain_lora(config) == PlainLora(2.0, 16, ("q_proj",))
    assert read_plain_lora(config | {"use_rslora": True}) == PlainLora(8.0, 16, ("q_proj",))


OTHERS = [
    {"peft_type": "LOHA"}, {"use_dora": True}, {"bias": "all"}, {"lora_bias": True}, {"modules_to_save": ["lm_head"]},
    {"rank_pattern": {"q_proj": 2}}, {"alpha_pattern": {"q_proj": 2}}, {"fan_in_fan_out": True}, {"target_modules": "all-linear"},
    {"target_modules": []}, {"init_lora_weights": "pissa"}, {"trainable_token_indices": [1]}, {"layers_to_transform": [0]},
    {"exclude_modules": ["v_proj"]}, {"layer_replication": [[0, 1]]}, {"use_qalora": True}, {"a_later_setting": 1}, {"r": "4"},
]  # fmt: skip


@pytest.mark.parametrize("change", OTHERS, ids=lambda change: next(iter(change)))
def test_settings_that_are_not_plain_are_left_to_peft(change):
    config = {"peft_type": "LORA", "r": 16, "lora_alpha": 32, "target_modules": ["q_proj"], "bias": "none"}
    assert read_plain_lora(config) and read_plain_lora(config | change) is None


@pytest.mark.parametrize("target", ["embed_tokens", "lm_head"])
def test_embeddings_and_output_matrix_are_left_to_peft(tmp_path, monkeypatch, target):
    adapter, base = save_lora(tmp_path, target_modules=[*LINEAR, target])
    monkeypatch.setattr("prorank.checkpoints.adapters._applied", lambda *_: (_ for _ in ()).throw(RuntimeError("peft was used")))
    with pytest.raises(RuntimeError, match="peft was used"):
        with_adapter(AutoModelForCausalLM.from_pretrained(base), adapter, base, train=False)


def test_a_rank_that_is_not_the_files_is_left_to_peft(tmp_path, monkeypatch):
    adapter, base = save_lora(tmp_path)
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"r": 2}))
    monkeypatch.setattr("prorank.checkpoints.adapters._applied", lambda *_: (_ for _ in ()).throw(RuntimeError("peft was used")))
    with pytest.raises(RuntimeError, match="peft was used"):
        with_adapter(AutoModelForCausalLM.from_pretrained(base), adapter, base, train=False)
