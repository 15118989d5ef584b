"""The engine's products come in few sizes, and what fills a size up changes no score."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prorank.engine.cpu_engine import Engine
from prorank.engine.kernels import softmax
from prorank.engine.packing import Pack, collate
from prorank.engine.prefix_attention import attend, plan_of
from prorank.engine.shapes import padded_length, padded_size, powers_of_two, repeat_last
from tests.tiny import byte_tokenizer, tiny_llama


@given(st.integers(1, 20_000))
def test_a_padded_size_is_no_smaller_and_wastes_little(rows):
    size = padded_size(rows)
    assert size >= rows and padded_size(size) == size
    assert size - rows < max(64, rows / 8)
    assert size == 2 or size <= 2 * rows


def test_there_are_few_sizes():
    assert len({padded_size(rows) for rows in range(1, 16_385)}) < 100
    assert len({padded_length(tokens) for tokens in range(1, 1025)}) < 40


@given(st.integers(1, 5000))
def test_powers_of_two_add_up(count):
    parts = powers_of_two(count)
    assert sum(parts) == count and len(set(parts)) == len(parts) and all(part.bit_count() == 1 for part in parts)


def test_repeat_last_keeps_what_is_long_enough():
    values = torch.arange(6).view(3, 2)
    assert repeat_last(values, 3) is values
    assert repeat_last(values, 5).tolist() == [[0, 1], [2, 3], [4, 5], [4, 5], [4, 5]]


def pack_of(prefix: int, documents: list[int]) -> Pack:
    """A pack of documents of so many tokens behind a prefix."""
    ends = [prefix + sum(documents[: k + 1]) for k in range(len(documents))]
    return Pack([7 + i % 90 for i in range(ends[-1])], prefix, ends, [end - 1 for end in ends], list(range(len(documents))))


packs = st.tuples(st.integers(0, 20), st.lists(st.integers(1, 70), min_size=1, max_size=9).map(lambda x: sorted(x, reverse=True)))


@given(packs, st.integers(0, 2**31))
def test_attention_in_padded_sizes_is_that_of_each_prompt_alone(shape, seed):
    prefix, documents = shape
    batch = collate([pack_of(prefix, documents)], 0, flat=True)
    spans, tokens, num_heads, num_kv_heads, width = batch.inputs["spans"], prefix + sum(documents), 4, 2, 8
    rng = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(tokens, n, width, generator=rng) for n in (num_heads, num_kv_heads, num_kv_heads))
    got = attend(q, k, v, plan_of(spans, num_heads, num_kv_heads), softmax, torch.float32)
    for number, some in enumerate(spans.gather.split(spans.lengths)):
        parts = (t[some].transpose(0, 1)[None] for t in (q, k, v))
        want = torch.nn.functional.scaled_dot_product_attention(*parts, is_causal=True, scale=1.0, enable_gqa=True)[0]
        own = slice(0 if number == 0 else prefix, None)
        torch.testing.assert_close(got[some[own]], want.transpose(0, 1).flatten(1)[own], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_batches_of_many_lengths_meet_few_shapes(dtype, monkeypatch):
    """Memory: each shape of a product costs half a megabyte under oneDNN, for good."""
    import random

    model = tiny_llama(byte_tokenizer()).to(dtype)
    engine, products, attentions = Engine(model), set(), set()
    bmm = torch.bmm
    monkeypatch.setattr(torch, "bmm", lambda a, b: attentions.add((*a.shape, *b.shape)) or bmm(a, b))
    for layer in engine.layers:
        for name in ("qkv", "out", "gate_up", "down"):
            product = getattr(layer, name)
            counted = lambda rows, name=name, product=product: products.add((name, len(rows))) or product(rows)  # noqa: E731
            object.__setattr__(layer, name, counted)
    rng = random.Random(0)
    with torch.inference_mode():
        for _ in range(300):
            documents = sorted((rng.randint(1, 120) for _ in range(rng.randint(1, 6))), reverse=True)
            engine(collate([pack_of(12, documents)], 0, flat=True))
    assert len(products) <= 4 * len({padded_size(n) for n in range(1, 800)})
    assert len(attentions) < 60
