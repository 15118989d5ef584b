"""Flat batches: the same scores and gradients as padded ones and as single prompts."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prorank.checkpoints.loading import load_model, load_tokenizer
from prorank.checkpoints.resolve import resolve
from prorank.engine import flat_attention as flat
from prorank.engine.heads import last_hidden, vocabulary_logits
from prorank.engine.packing import batches_of, collate, pack
from prorank.prompts.prompt import Prompt
from tests.tiny import byte_tokenizer, save_tiny, tiny_llama, tiny_qwen2

CPU = torch.device("cpu")
WORDS = "river castle garden music winter harbour stone"


@pytest.fixture(scope="module", params=["llama", "qwen2"])
def loaded(request, tmp_path_factory):
    """(model that takes flat batches, prompt encoder)."""
    resolved = resolve(save_tiny(tmp_path_factory.mktemp("flat") / request.param, request.param))
    tokenizer = load_tokenizer(resolved)
    return load_model(resolved, torch.float32, CPU), Prompt.preset("echo", max_length=200).bind(tokenizer)


def packs_of_lengths(encoder, lists, share=True):
    packs, owner = [], 0
    for number, lengths in enumerate(lists):
        prompts = encoder.encode_many(WORDS.split()[number], [WORDS[:n] for n in lengths])
        packs.append(pack(prompts, range(owner, owner + len(prompts)), share))
        owner += len(prompts)
    return packs


@settings(max_examples=25)
@given(lists=st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=5), min_size=1, max_size=4), share=st.booleans())
def test_flat_padded_and_single_prompts_score_alike(loaded, lists, share):
    model, encoder = loaded
    packs, pad = packs_of_lengths(encoder, lists, share), encoder.tokenizer.pad_token_id
    with torch.no_grad():
        rows = [vocabulary_logits(model, collate(packs, pad, kind)) for kind in (True, False)]
        alone = [ids for p in packs_of_lengths(encoder, lists, share=False) for ids in _prompts(p)]
        rows.append(torch.cat([model(input_ids=torch.tensor([ids])).logits[:, -1] for ids in alone]))
    for other in rows[1:]:
        torch.testing.assert_close(rows[0], other, atol=1e-4, rtol=0)


def _prompts(one):
    ends = [0, *(answer + 1 for answer in one.answers)]
    return [one.ids[a:b] for a, b in zip(ends, ends[1:])]


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_are_those_of_padded_batches(loaded, checkpointing):
    model, encoder = loaded
    packs, gradients = packs_of_lengths(encoder, [[5, 30, 12], [20, 1]]), []
    if checkpointing:
        model.train().gradient_checkpointing_enable({"use_reentrant": False})
    for kind in (True, False):
        model.zero_grad()
        vocabulary_logits(model, collate(packs, 0, kind)).logsumexp(-1).sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    model.gradient_checkpointing_disable()
    model.eval()
    assert gradients[0].norm() > 0
    assert (gradients[0] - gradients[1]).norm() < 1e-5 * gradients[1].norm()


def test_autocast_is_as_near_to_fp32_as_a_padded_batch(loaded):
    model, encoder = loaded
    packs = packs_of_lengths(encoder, [[5, 30, 12], [20, 1]])
    with torch.no_grad():
        exact = last_hidden(model, collate(packs, 0, True))
        with torch.autocast("cpu", torch.bfloat16):
            rough = [last_hidden(model, collate(packs, 0, kind)).float() for kind in (True, False)]
    errors = [float((one - exact).norm() / exact.norm()) for one in rough]
    assert errors[0] < 2 * errors[1] + 1e-3


def test_plain_calls_and_saved_folders_know_nothing_of_it(tmp_path):
    tokenizer = byte_tokenizer()
    model, ids = tiny_llama(tokenizer), torch.arange(12)[None]
    with torch.no_grad():
        before = model(input_ids=ids).logits
        flat.enable(model)
        assert flat.is_flat(model)
        torch.testing.assert_close(model(input_ids=ids).logits, before)
        padded = model(input_ids=ids, attention_mask=torch.tensor([[0] * 3 + [1] * 9])).logits[:, -1]
        want = model(input_ids=ids[:, 3:]).logits[:, -1]
    torch.testing.assert_close(padded, want, atol=1e-5, rtol=0)
    model.save_pretrained(tmp_path)
    assert flat.NAME not in (tmp_path / "config.json").read_text()


def test_models_with_other_attention_stay_as_they_are():
    tokenizer = byte_tokenizer("qwen2")
    sliding, eager, unknown = tiny_qwen2(tokenizer), tiny_llama(tokenizer), tiny_llama(tokenizer)
    sliding.config.layer_types = ["sliding_attention", "full_attention"]
    eager.set_attn_implementation("eager")
    unknown.config.model_type = "novel"
    for model in (sliding, eager, unknown):
        flat.enable(model)
        assert not flat.is_flat(model)


def test_flat_batches_are_bounded_by_their_tokens(loaded):
    packs = packs_of_lengths(loaded[1], [[3], [40, 40], [5, 6, 7], [1]])
    for batch in batches_of(packs, 300, flat=True):
        assert len(batch) == 1 or sum(map(len, batch)) <= 300
    assert [p for batch in batches_of(packs, 300, flat=True) for p in batch] == packs
