"""The fp32 head: fp32 logits under autocast, the same parameters and names as the head it replaces, and it can be undone."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from prorank.engine.heads import Fp32Head, use_fp32_head, use_plain_head
from prorank.engine.modules import body
from tests.tiny import byte_tokenizer, tiny_llama, tiny_qwen2

IDS = torch.tensor([[1, 2, 3]])


def tiny_gpt2(tokenizer):
    return GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), n_positions=64, n_embd=16, n_layer=1, n_head=2))


def adapted(tokenizer):
    return get_peft_model(tiny_llama(tokenizer), LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))


def with_bias(tokenizer):
    model = tiny_llama(tokenizer)
    head = torch.nn.Linear(model.config.hidden_size, len(tokenizer))
    model.set_output_embeddings(head)
    return model


builds = pytest.mark.parametrize("build", [tiny_llama, tiny_qwen2, tiny_gpt2, adapted, with_bias])


@builds
def test_logits_are_fp32_under_autocast_and_the_same_without(build):
    model = build(byte_tokenizer()).eval()
    with torch.no_grad():
        want = model(input_ids=IDS).logits
        use_fp32_head(model)
        assert isinstance(body(model)[1], Fp32Head)
        assert torch.equal(model(input_ids=IDS).logits, want)
        with torch.autocast("cpu", torch.bfloat16):
            assert model(input_ids=IDS).logits.dtype == torch.float32
            use_plain_head(model)
            assert model(input_ids=IDS).logits.dtype == torch.bfloat16
    assert type(body(model)[1]) is torch.nn.Linear


@builds
def test_parameters_keep_their_names_and_are_shared(build):
    model = build(byte_tokenizer())
    names, parameters = list(model.state_dict()), dict(model.named_parameters())
    random_state = torch.random.get_rng_state()
    for change in (use_fp32_head, use_fp32_head, use_plain_head):
        change(model)
        assert list(model.state_dict()) == names
        now = dict(model.named_parameters())
        assert now.keys() == parameters.keys() and all(now[name] is parameters[name] for name in names if name in now)
    assert torch.equal(torch.random.get_rng_state(), random_state)  # a run's random numbers do not depend on it


@pytest.mark.parametrize("build", [tiny_llama, tiny_gpt2])
def test_tied_weights_stay_tied_in_copies_and_saved_folders(build, tmp_path):
    model = build(byte_tokenizer()).eval()
    tied = model.get_input_embeddings().weight is body(model)[1].weight
    use_fp32_head(model)
    twin = copy.deepcopy(model)
    assert (twin.get_input_embeddings().weight is body(twin)[1].weight) == tied
    model.save_pretrained(tmp_path)
    saved = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(body(saved)[1]) is torch.nn.Linear
    with torch.no_grad():
        torch.testing.assert_close(saved(input_ids=IDS).logits, model(input_ids=IDS).logits)


def test_a_copy_computes_with_its_own_weights():
    model = tiny_llama(byte_tokenizer()).eval()
    use_fp32_head(model)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        before = model(input_ids=IDS).logits
        body(twin)[1].weight.zero_()
        assert twin(input_ids=IDS).logits.abs().max() == 0
        if not model.config.tie_word_embeddings:
            assert torch.equal(model(input_ids=IDS).logits, before)
