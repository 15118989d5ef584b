"""The engine: scores equal those of transformers for every kind of model, in any batch, and int8 is close to them."""

import os

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import Qwen3Config, Qwen3ForCausalLM

from prorank.checkpoints.loading import load_model, load_tokenizer
from prorank.checkpoints.resolve import resolve
from prorank.engine import prefix_attention as attention
from prorank.engine.cpu_engine import Engine, is_supported, scoring_engine
from prorank.engine.heads import last_hidden
from prorank.engine.int8 import Int8Linear
from prorank.engine.kernels import quantise
from prorank.engine.layers import PackedLinear
from prorank.engine.packing import collate
from prorank.errors import ModelError
from prorank.prompts.prompt import Prompt
from prorank.reranker import Reranker
from tests.test_flat import packs_of_lengths
from tests.tiny import byte_tokenizer, save_tiny, tiny_llama

CPU = torch.device("cpu")
LISTS = st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=5), min_size=1, max_size=4)


def save_qwen3(folder):
    """A tiny Qwen3: heads with norms of their own, wider than hidden size / heads."""
    save_tiny(folder, "qwen2")
    tokenizer = load_tokenizer(resolve(folder))
    config = Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=48, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, max_position_embeddings=512, tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(config)
    for name, weight in model.named_parameters():
        if "norm" in name:
            torch.nn.init.normal_(weight, 1.0, 0.3)  # all ones would hide a norm that is left out
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=["llama", "qwen2", "qwen3"])
def loaded(request, tmp_path_factory):
    """(folder, model, prompt encoder)."""
    folder = tmp_path_factory.mktemp("engine") / request.param
    resolved = resolve(save_qwen3(folder) if request.param == "qwen3" else save_tiny(folder, request.param))
    encoder = Prompt.preset("echo", max_length=200).bind(load_tokenizer(resolved))
    return folder, load_model(resolved, torch.float32, CPU), encoder


def both(model, encoder, lists, share=True, **more):
    batch = collate(packs_of_lengths(encoder, lists, share), encoder.tokenizer.pad_token_id, True)
    with torch.inference_mode():
        return last_hidden(model, batch), Engine(model, **more)(batch)


@settings(max_examples=25)
@given(lists=LISTS, share=st.booleans())
def test_hidden_states_are_those_of_transformers(loaded, lists, share):
    _, model, encoder = loaded
    want, got = both(model, encoder, lists, share)
    assert got.shape == want.shape
    torch.testing.assert_close(got, want, atol=1e-4, rtol=0)


def test_long_prompts_use_no_mask(loaded, monkeypatch):
    _, model, encoder = loaded
    monkeypatch.setattr(attention, "LONG_PROMPT", 60)
    want, got = both(model, encoder, [[5, 30, 12], [40, 1], [2]])
    torch.testing.assert_close(got, want, atol=1e-4, rtol=0)


@settings(max_examples=15)
@given(sizes=st.lists(st.integers(1, 60), min_size=2, max_size=12), batch=st.integers(1, 5), data=st.data())
def test_scores_do_not_depend_on_order_neighbours_or_batch_size(loaded, sizes, batch, data):
    folder, _, _ = loaded
    reranker = _reranker(folder)
    documents = [f"{i} " + "garden music winter river stone " * (n // 8) + "a" * (n % 8) for i, n in enumerate(sizes)]
    alone = np.concatenate([reranker.score_lists(["winter"], [[d]])[0] for d in documents])
    order = data.draw(st.permutations(range(len(documents))))
    got = reranker.score_lists(["music", "winter"], [["stone"], [documents[i] for i in order]], batch_size=batch)[1]
    np.testing.assert_allclose(got, alone[list(order)], atol=1e-4)


@settings(max_examples=6, derandomize=True)  # noise is compared with noise: few documents would do so by luck
@given(seed=st.integers(0, 1000), size=st.integers(16, 32))
def test_bf16_scores_depend_on_neighbours_no_more_than_those_of_padded_batches(loaded, seed, size):
    folder, _, _ = loaded
    rng = np.random.default_rng(seed)
    documents = [f"{i} " + "garden music winter river stone "[: rng.integers(1, 32)] * rng.integers(1, 5) for i in range(size)]
    ours, plain = _reranker(folder, "bf16"), _reranker(folder, "bf16", engine=False)
    exact = _reranker(folder).score_lists(["winter"], [documents])[0]

    def noise(reranker, batch):
        return np.sqrt(np.mean((reranker.score_lists(["winter"], [documents], batch_size=batch)[0] - exact) ** 2))

    for batch in (1, 3, None):
        assert noise(ours, batch) <= 2 * max(noise(plain, 1), noise(plain, None)) + 1e-3


_kept: dict = {}


def _reranker(folder, dtype="fp32", engine=True):
    key = folder, dtype, engine
    if key not in _kept:
        _kept[key] = Reranker(folder, prompt=Prompt.preset("echo", max_length=200), dtype=dtype, device="cpu")
        assert _kept[key].runtime.engine is not None
        if not engine:  # transformers' own layers
            _kept[key].runtime.engine = None
    return _kept[key]


def test_weights_are_shared_not_copied(loaded):
    _, model, _ = loaded
    layer = Engine(model).layers[0]
    own = model.model.layers[0].self_attn
    assert layer.qkv.weight.data_ptr() == own.q_proj.weight.data_ptr()
    assert torch.equal(layer.qkv.weight[-len(own.v_proj.weight) :], own.v_proj.weight)


def test_int8_scores_are_close(loaded):
    _, model, encoder = loaded
    want, got = both(model, encoder, [[5, 30, 12], [20, 1]], int8=True)
    error = float((got - want).norm() / want.norm())
    assert 1e-5 < error < 0.15  # another path, and the same model


def test_int8_keeps_the_product_that_would_lose_most_and_turns_biased_values(tmp_path):
    resolved = resolve(save_tiny(tmp_path / "deep", "qwen2", layers=10))
    model = load_model(resolved, torch.float32, CPU)
    torch.manual_seed(0)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.v_proj.bias.normal_()
        model.model.layers[3].mlp.up_proj.weight[5] *= 1000  # one channel takes the steps of all others
        encoder = Prompt.preset("echo", max_length=200).bind(load_tokenizer(resolved))
        want, got = both(model, encoder, [[5, 30, 12], [20, 1]], int8=True)
    assert [type(layer.down) for layer in Engine(model, int8=True).layers].index(PackedLinear) == 3
    assert float((got - want).norm() / want.norm()) < 0.15


@settings(max_examples=50)
@given(values=st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=30))
def test_int8_rows_round_to_half_a_step(values):
    x = torch.tensor([values])
    whole, scale = quantise(x)
    back = (whole.float() - 128) * scale
    assert whole.dtype == torch.uint8
    assert ((back - x).abs() <= scale * 0.5001 + 1e-6).all()


def test_rows_of_the_answers_are_exact_in_int8():
    weight, rows, few = torch.randn(8, 64), torch.randn(6, 64), torch.tensor([1, 4])
    want = rows @ weight.T
    for exact in (True, False):
        whole, scale = quantise(rows)
        got = Int8Linear(weight, torch.float32, exact)(whole, scale, few, rows[few]) * scale
        apart = (got - want).abs().amax(-1) / want.abs().max()
        assert (apart[few] < 1e-5).all() == exact
        assert (apart < 0.05).all() and (apart[[0, 2, 3, 5]] > 1e-5).all()


def test_int8_is_a_dtype_of_the_reranker(loaded):
    folder, _, _ = loaded
    prompt = Prompt.preset("echo", max_length=200)
    exact, rough = (Reranker(folder, prompt=prompt, dtype=dtype, device="cpu") for dtype in ("fp32", "int8"))
    assert exact.fingerprint != rough.fingerprint
    documents = ["river garden", "music", "a winter harbour and a stone castle"]
    a, b = (r.score_lists(["river"], [documents])[0] for r in (exact, rough))
    assert 0 < np.abs(a - b).max() < 0.5


def test_an_engine_does_not_change_the_process(loaded, monkeypatch):
    before = dict(os.environ)
    monkeypatch.setattr("prorank.utils.memory._glibc", lambda name, *arguments: pytest.fail(f"{name}{arguments}"))
    Engine(loaded[1])
    assert dict(os.environ) == before


def test_other_layers_stay_with_transformers_and_have_no_int8():
    model = tiny_llama(byte_tokenizer())
    model.config.mlp_bias = True
    assert not is_supported(model) and scoring_engine(model, False, False) is None
    with pytest.raises(ModelError, match="int8 needs a CPU with oneDNN and plain layers of llama.*, not llama on cpu; use dtype"):
        scoring_engine(model, False, True)
    with pytest.raises(ModelError, match="compile needs .*omit it"):
        scoring_engine(model, True, False)


def test_a_missing_compiler_is_reported(loaded, monkeypatch):
    def broken(*_args, **_more):
        raise torch._dynamo.exc.BackendCompilerFailed(lambda: None, RuntimeError("No working C++ compiler found"), None)

    monkeypatch.setattr("prorank.engine.kernels.torch.compile", lambda f, **_: broken)
    with pytest.raises(ModelError, match="compile needs a working C.. compiler .*install g.. or omit compile"):
        Reranker(loaded[0], prompt=Prompt.preset("echo", max_length=200), compile=True, device="cpu")


def test_int8_is_refused_off_the_cpu():
    from prorank.engine.auto import check_dtype

    check_dtype("int8", CPU)
    with pytest.raises(ModelError, match="dtype int8 runs on CPUs only, not on cuda; use bf16 or fp32"):
        check_dtype("int8", torch.device("cuda"))


@pytest.mark.slow
def test_compiled_steps_give_the_same_and_few_graphs(loaded):
    from torch._dynamo.utils import counters

    _, model, encoder = loaded
    lists = [[5, 30, 12], [20, 1]]
    for int8 in (False, True):
        counters.clear()
        plain, compiled = Engine(model, False, int8), Engine(model, True, int8)
        for some in ([[7, 7, 7, 40]], lists, [[3]]):  # the first in a size that no width of the tiny model has
            batch = collate(packs_of_lengths(encoder, some), encoder.tokenizer.pad_token_id, True)
            with torch.inference_mode():
                torch.testing.assert_close(compiled(batch), plain(batch), atol=2e-2 if int8 else 1e-4, rtol=0)
        assert counters["stats"]["unique_graphs"] <= 4 + int8
