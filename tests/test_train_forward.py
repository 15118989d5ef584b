"""The training forward: the engine's logits and gradients are those of transformers' layers, and so are the losses of a run."""

import pytest
import torch
from peft import LoraConfig, get_peft_model

from prorank.checkpoints.loading import load_model, load_tokenizer
from prorank.checkpoints.resolve import resolve
from prorank.engine.cpu_engine import training_engine
from prorank.engine.heads import use_fp32_head, vocabulary_logits
from prorank.engine.layers import LoraLinear, TrainableLinear
from prorank.engine.packing import collate
from prorank.prompts.prompt import Prompt
from prorank.train.curves import read_metrics
from prorank.train.forward import Logits
from prorank.train.settings.stage_settings import Score
from tests.test_engine import save_qwen3
from tests.test_flat import packs_of_lengths
from tests.test_train_run import coffee_lists, run
from tests.tiny import save_tiny

CPU = torch.device("cpu")


@pytest.fixture(params=["llama", "qwen2", "qwen3", "llama-lora", "qwen2-lora"])
def loaded(request, tmp_path):
    """(model in training, batch)."""
    kind, _, lora = request.param.partition("-")
    resolved = resolve(save_qwen3(tmp_path) if kind == "qwen3" else save_tiny(tmp_path, kind))
    model = load_model(resolved, torch.float32, CPU)
    if lora:
        model = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM"))
    for name, weight in model.named_parameters():
        if "bias" in name:
            torch.nn.init.normal_(weight)  # zeros would hide a bias that is left out or added twice
    use_fp32_head(model)
    encoder = Prompt.preset("echo", max_length=200).bind(load_tokenizer(resolved))
    return model.train(), collate(packs_of_lengths(encoder, [[5, 30, 12], [20, 1]]), encoder.tokenizer.pad_token_id, True)


def forward(model, batch, bf16=False, **more):
    logits = Logits(Score(data="", out="", **more), bf16)(model, batch)
    model.zero_grad()
    logits.log_softmax(-1)[:, :5].sum().backward()
    return logits.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_logits_and_gradients_are_those_of_the_layers(loaded, compiled):
    model, batch = loaded
    assert training_engine(model, False, torch.float32) is not None
    (want, before), (got, after) = forward(model, batch, baseline_step=True), forward(model, batch, compile=compiled)
    torch.testing.assert_close(got, want, atol=1e-4, rtol=0)
    assert before.keys() == after.keys()
    for name, gradient in before.items():
        assert (gradient - after[name]).norm() <= 1e-4 * gradient.norm() + 1e-6, name


def test_bf16_is_as_near_to_fp32_as_autocast(loaded):
    model, batch = loaded
    exact, _ = forward(model, batch, baseline_step=True)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        plain = vocabulary_logits(model, batch)
    ours, gradients = forward(model, batch, bf16=True)
    assert 0 < (ours - exact).norm() < 2 * (plain - exact).norm()
    assert all(torch.isfinite(g).all() and g.dtype == torch.float32 for g in gradients.values())


def test_the_plain_step_trains_to_the_same_losses(tmp_path, tiny_llama_dir):
    data = coffee_lists(tmp_path / "lists.jsonl")
    losses = []
    for plain in (True, False):
        out = tmp_path / str(plain)
        run(out, data, tiny_llama_dir, stage="score", steps=50, dev_queries=0, save_every=0, num_evaluations=0, baseline_step=plain)
        losses.append([line["loss"] for line in read_metrics(out) if "loss" in line])
    assert len(losses[0]) == 50 and losses[0][0] > losses[0][-1]
    assert max(abs(a - b) for a, b in zip(*losses)) < 1e-4


def test_a_plain_adapter_is_thin_products_and_others_go_through_their_modules(tiny_llama_dir):
    model = load_model(resolve(tiny_llama_dir), torch.float32, CPU)
    plain = LoraConfig(r=4, target_modules=["q_proj", "k_proj", "v_proj", "down_proj"], init_lora_weights=False)
    model = get_peft_model(model, plain)
    layer = training_engine(model, False, torch.float32).layers[0]
    assert isinstance(layer.qkv, LoraLinear) and isinstance(layer.down, LoraLinear) and isinstance(layer.gate_up, TrainableLinear)
    rows = torch.randn(6, model.config.hidden_size)
    inner = model.get_base_model().model.layers[0].self_attn
    assert torch.allclose(layer.qkv(rows), torch.cat([p(rows) for p in (inner.q_proj, inner.k_proj, inner.v_proj)], -1), atol=1e-6)
    with model.disable_adapter():
        want = torch.cat([p.base_layer(rows) for p in (inner.q_proj, inner.k_proj, inner.v_proj)], -1)
        assert torch.allclose(layer.qkv(rows), want, atol=1e-6)


@pytest.mark.parametrize("more", [{"lora_dropout": 0.1}, {"use_dora": True}, {"lora_bias": True}])
def test_adapters_that_are_not_plain_keep_their_own_forward(tiny_llama_dir, more):
    model = load_model(resolve(tiny_llama_dir), torch.float32, CPU)
    model = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", **more))
    assert isinstance(training_engine(model, False, torch.float32).layers[0].qkv, TrainableLinear)
