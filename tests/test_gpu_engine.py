"""The code that runs on a GPU, on a CPU: attention over sequences, batches made in threads, compiling after some use.

What needs the device itself is replaced at one place each: `varlen_attn` by a function with its signature that follows its
documentation, and `Spans.to` so that batches carry their sequences.
"""

import copy
import inspect
import logging
import threading
from contextlib import nullcontext
from functools import partial, update_wrapper

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention import varlen

from prorank.data.examples import Group
from prorank.engine import batches, sequence_attention
from prorank.engine.auto import COMPILED, PLAIN
from prorank.engine.cpu_engine import Engine, training_engine
from prorank.engine.flat_attention import is_flat
from prorank.engine.heads import last_hidden, logits_of_hidden, vocabulary_logits
from prorank.engine.kernels import Kernels
from prorank.engine.packing import collate
from prorank.engine.sequence_attention import (
    ONE_BY_ONE,
    TOLERANCE,
    VARLEN,
    attend_sequences,
    choose_attention,
    gathered,
    one_by_one,
)
from prorank.engine.sequences import Spans, sequences_of
from prorank.errors import ModelError, PromptError
from prorank.prompts.prompt import Prompt
from prorank.rank.documents import Cost
from prorank.rank.lazy_compile import GPU_COMPILE_SECONDS, GpuLazyCompile
from prorank.reranker import Reranker
from prorank.train.settings.stage_settings import Score
from prorank.train.stages.score import ScoreStage
from tests.test_engine import LISTS, loaded  # noqa: F401  (a fixture)
from tests.test_engine_shapes import pack_of
from tests.test_flat import packs_of_lengths

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
PACKS = st.lists(
    st.tuples(st.integers(0, 9), st.lists(st.integers(1, 30), min_size=1, max_size=5)), min_size=1, max_size=4
)  # fmt: skip
TRUE_SIGNATURE = inspect.signature(varlen.varlen_attn)


def by_definition(lower_right, *args, **kwargs):
    """Attention as `varlen_attn` documents it, by loops. `lower_right`: whether the causal mask ends at the last key."""
    bound = TRUE_SIGNATURE.bind(*args, **kwargs).arguments
    q, k, v, starts, key_starts = (bound[name] for name in ("query", "key", "value", "cu_seq_q", "cu_seq_k"))
    assert starts.dtype == key_starts.dtype == torch.int32 and all(t.is_contiguous() for t in (q, k, v))
    assert bound["window_size"] == (-1, 0) and (bound["enable_gqa"] or q.shape[1] == k.shape[1])
    assert bound["max_q"] == starts.diff().max() and bound["max_k"] == key_starts.diff().max()
    rows = []
    for i in range(len(starts) - 1):
        x, y, z = q[starts[i] : starts[i + 1]], *(t[key_starts[i] : key_starts[i + 1]] for t in (k, v))
        y, z = (t.repeat_interleave(q.shape[1] // k.shape[1], 1) for t in (y, z))
        scores = torch.einsum("qhd,khd->hqk", x, y) * bound["scale"]
        shift = len(y) - len(x) if lower_right else 0
        allowed = torch.ones(len(x), len(y), dtype=torch.bool).tril(shift)
        rows.append(torch.einsum("hqk,khd->qhd", scores.masked_fill(~allowed, -torch.inf).softmax(-1), z))
    return torch.cat(rows)


def replacement(lower_right):
    """`by_definition` with the signature of the function that it replaces."""
    return update_wrapper(partial(by_definition, lower_right), varlen.varlen_attn)


@pytest.fixture
def on_sequences(monkeypatch):
    """Let batches on the CPU carry sequences, as on a GPU."""
    monkeypatch.setattr(Spans, "to", lambda spans, device: Spans(spans.packs, sequences_of(spans).to(device)))


def gpu_like(batch):
    spans = batch.inputs["spans"]
    return type(batch)(batch.inputs | {"spans": Spans(spans.packs, sequences_of(spans))}, batch.rows, batch.columns, batch.owners)


@settings(max_examples=40)
@given(PACKS, st.integers(0, 2**31))
def test_both_attentions_are_that_of_each_prompt_alone(shapes, seed):
    packs = [pack_of(prefix, sorted(documents, reverse=True)) for prefix, documents in shapes]
    spans = collate(packs, 0, flat=True).inputs["spans"]
    rng = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(sum(map(len, packs)), heads, 8, generator=rng) for heads in (4, 2, 2))
    sequences = sequences_of(spans)
    got = attend_sequences(q, k, v, sequences, 0.3, torch.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(varlen, "varlen_attn", replacement(lower_right=True))
        flash = sequence_attention._varlen(q, gathered(k, sequences), gathered(v, sequences), sequences, 0.3)
    torch.testing.assert_close(flash, got, atol=1e-5, rtol=0)
    for indices in spans.gather.split(spans.lengths):
        x, y, z = (t[indices].transpose(0, 1)[None] for t in (q, k, v))
        alone = torch.nn.functional.scaled_dot_product_attention(x, y, z, is_causal=True, scale=0.3, enable_gqa=True)
        torch.testing.assert_close(got[indices], alone[0].transpose(0, 1), atol=1e-5, rtol=0)


def test_sequences_without_a_shared_prefix_copy_no_keys():
    spans = collate([pack_of(0, [3]), pack_of(0, [5])], 0, flat=True).inputs["spans"]
    assert sequences_of(spans).keys is None and sequences_of(spans).lengths == [(3, 3), (5, 5)]


@settings(max_examples=15)
@given(lists=LISTS, share=st.booleans())
def test_the_engine_over_sequences_is_transformers(loaded, lists, share):  # noqa: F811
    _, model, encoder = loaded
    batch = collate(packs_of_lengths(encoder, lists, share), 0, True)
    with torch.inference_mode():
        want = last_hidden(model, batch)
        engine = Engine(copy.deepcopy(model))  # it replaces the weights by joined ones
        torch.testing.assert_close(engine(gpu_like(batch)), want, atol=1e-4, rtol=0)
        torch.testing.assert_close(last_hidden(model, gpu_like(batch)), want, atol=1e-4, rtol=0)


@pytest.mark.parametrize("how", ["layers", "engine"])
def test_losses_and_gradients_over_sequences_are_those_of_padded_batches(loaded, how):  # noqa: F811
    _, model, encoder = loaded
    packs, losses, gradients = packs_of_lengths(encoder, [[5, 30, 12], [20, 1]]), [], []
    engine = training_engine(model, False, torch.float32)
    for flat in (True, False):
        model.zero_grad()
        batch = gpu_like(collate(packs, 0, True)) if flat else collate(packs, 0, False)
        of_engine = flat and how == "engine"
        logits = logits_of_hidden(model, engine(batch)) if of_engine else vocabulary_logits(model, batch)
        losses.append(logits.logsumexp(-1).sum())
        losses[-1].backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    model.zero_grad()
    torch.testing.assert_close(*losses, rtol=1e-5, atol=0)
    assert (gradients[0] - gradients[1]).norm() < 1e-5 * gradients[1].norm()


def test_autocast_attends_in_its_dtype(loaded, monkeypatch):  # noqa: F811
    _, model, encoder = loaded
    packs, dtypes = packs_of_lengths(encoder, [[5, 30, 12], [20, 1]]), set()

    def recorded(q, k, v, sequences, scale):
        dtypes.update((q.dtype, k.dtype, v.dtype))
        return one_by_one(q, k, v, sequences, scale)

    monkeypatch.setattr(sequence_attention, "one_by_one", recorded)
    with torch.no_grad():
        exact = last_hidden(model, collate(packs, 0, True))
        with torch.autocast("cpu", torch.bfloat16):
            got = last_hidden(model, gpu_like(collate(packs, 0, True))).float()
            padded = last_hidden(model, collate(packs, 0, False)).float()
    assert dtypes == {torch.bfloat16}
    assert (got - exact).norm() < 2 * (padded - exact).norm() + 1e-3 * exact.norm()


@pytest.mark.parametrize("compiled, flat_training", [(True, "engine"), (False, "layers")])
def test_a_stage_on_a_gpu_has_the_loss_and_gradient_of_the_padded_step(loaded, compiled, flat_training, monkeypatch):  # noqa: F811
    _, model, encoder = loaded
    monkeypatch.setattr("prorank.engine.cpu_engine._on_cpu", lambda _: False)
    monkeypatch.setattr("prorank.engine.cpu_engine.Kernels", lambda _: Kernels(False))  # compiling takes a minute
    groups = [Group(q, ("river stone", "winter " * 9, "music"), (1.0, 0.0, 0.0)) for q in ("winter river", "castle")]
    losses, gradients = [], []
    for plain in (True, False):
        settings = Score(data="", out="", list_size=3, batch_size=2, baseline_step=plain, compile=compiled and not plain)
        stage = ScoreStage(groups, encoder, settings, None)
        model.zero_grad()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Spans, "to", lambda spans, device: Spans(spans.packs, sequences_of(spans)))
            loss, _ = stage.loss(model, [stage.example(i) for i in range(2)])
        assert plain or (stage.logits._engine is None) == (flat_training == "layers")
        loss.backward()
        losses.append(loss.detach())
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    model.zero_grad()
    torch.testing.assert_close(*losses, rtol=1e-5, atol=1e-6)
    assert (gradients[0] - gradients[1]).norm() < 1e-4 * gradients[0].norm()


@pytest.mark.parametrize("lower_right", [True, False])
def test_variable_length_attention_is_compared_before_it_is_used(lower_right, monkeypatch, caplog):
    monkeypatch.setattr(varlen, "varlen_attn", replacement(lower_right))
    difference = sequence_attention._difference(CPU, torch.bfloat16, 9, 3, 16)
    assert (difference < TOLERANCE / 3) == lower_right and (difference > 2 * TOLERANCE) != lower_right
    monkeypatch.setattr(sequence_attention, "_difference", lambda *_: difference)
    assert _chosen(monkeypatch).value == (VARLEN if lower_right else ONE_BY_ONE)
    assert ("differs from SDPA by" in caplog.text and "slower" in caplog.text) != lower_right


def _chosen(monkeypatch, device=CUDA, dtype=torch.bfloat16):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "a card")
    return choose_attention.__wrapped__(device, dtype, 9, 3, 16)


@pytest.mark.parametrize("error", [RuntimeError("no kernel image\nmore"), ImportError("no module"), TypeError("an argument")])
def test_attention_that_does_not_run_is_replaced_with_a_warning(error, monkeypatch, caplog):
    def broken(*_):
        raise error

    monkeypatch.setattr(sequence_attention, "_difference", broken)
    with caplog.at_level(logging.WARNING, "prorank"):
        choice = _chosen(monkeypatch)
    assert choice.value == ONE_BY_ONE and str(error).splitlines()[0] in choice.reason
    assert "does not run on a card" in caplog.text and len(caplog.records) == 1


@pytest.mark.parametrize("device, dtype, reason", [(CPU, torch.bfloat16, "needs a GPU"), (CUDA, torch.float32, "16 bits")])
def test_fp32_and_cpus_attend_one_by_one(device, dtype, reason, monkeypatch):
    choice = _chosen(monkeypatch, device, dtype)
    assert choice.value == ONE_BY_ONE and reason in choice.reason


def test_the_chosen_attention_runs(monkeypatch):
    spans = collate([pack_of(2, [3, 1])], 0, flat=True).inputs["spans"]
    q = torch.randn(6, 2, 8)
    want = attend_sequences(q, q, q, sequences_of(spans), 0.5, torch.float32)
    calls = []
    monkeypatch.setattr(sequence_attention, "choose_attention", lambda *_: sequence_attention.Choice(VARLEN, ""))
    monkeypatch.setattr(sequence_attention, "_varlen", lambda *args: calls.append(args) or want)
    assert attend_sequences(q, q, q, sequences_of(spans), 0.5, torch.float32) is want and len(calls) == 1


def reranker(folder, ahead=True, **options):
    one = Reranker(folder, prompt=Prompt.preset("echo", max_length=120), dtype="fp32", device="cpu", **options)
    one.runtime.ahead, one.runtime.batches_per_copy = ahead, 3 if ahead else 1
    return one


@settings(max_examples=10)
@given(sizes=st.lists(st.lists(st.integers(0, 400), max_size=12), min_size=1, max_size=4), batch=st.integers(1, 5) | st.none())
def test_scores_and_counts_of_batches_made_in_threads(loaded, sizes, batch):  # noqa: F811
    folder, _, _ = loaded
    queries = ["winter river", "stone " * 40, "music", "castle"][: len(sizes)]
    texts = [[f"{i} " + ("garden music winter river stone " * 20)[:n] for i, n in enumerate(row)] for row in sizes]
    results, counted, finished = [], [], []
    for ahead in (False, True):
        one = _kept.setdefault((folder, ahead), reranker(folder, ahead))
        one.cost.__init__()
        one.cuts.__init__()
        with pytest.MonkeyPatch.context() as patch:
            if ahead:
                patch.setattr(Spans, "to", lambda spans, device: Spans(spans.packs, sequences_of(spans).to(device)))
            documents = []
            results.append(one.score_lists(queries, texts, batch_size=batch, progress=documents.append))
        finished.append(sum(documents))
        counted.append((one.cost.calls, one.cost.prompt_tokens, vars(one.cuts)))
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)
    assert counted[0] == counted[1] and finished[0] == finished[1] == sum(map(len, texts))
    assert not _threads()


_kept: dict = {}


def _threads():
    return [thread for thread in threading.enumerate() if thread.name == "prorank-prefetch"]


def test_errors_of_threads_and_interrupts_surface_as_themselves(loaded, monkeypatch, on_sequences):  # noqa: F811
    one = reranker(loaded[0])
    texts = [[f"{i} river" for i in range(700)]]

    def interrupted(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        one.score_lists(["winter"], texts, batch_size=4, progress=interrupted)
    assert not _threads()
    encode, calls = one.encoder.encode_chunks, []

    def failing(*args):
        calls.append(threading.current_thread().name)
        if len(calls) == 2:
            raise PromptError("no room in the second slice")
        return encode(*args)

    monkeypatch.setattr(one.strategy.encoder, "encode_chunks", failing)
    with pytest.raises(PromptError, match="no room in the second slice"):
        one.score_lists(["winter"], texts)
    assert set(calls) == {"prorank-prefetch"} and not _threads()
    assert len(one.score_lists(["winter"], texts)[0]) == 700  # it goes on working


def test_a_full_gpu_is_a_typed_error(loaded, on_sequences):  # noqa: F811
    one = reranker(loaded[0])

    def full(_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    one.runtime.engine = full
    with pytest.raises(ModelError, match="GPU's memory has no room for a batch of .* tokens; set batch_size to 1, or free memory"):
        one.score_lists(["winter"], [["river", "stone"]])
    assert not _threads()


def test_batches_for_a_gpu_begin_short_and_grow(loaded, monkeypatch):  # noqa: F811
    encoder = loaded[2]
    monkeypatch.setattr(batches, "GPU_FIRST_TOKENS", 300)
    limits = batches.BatchLimits(1200, 250, 4)
    prompts = encoder.encode_many("winter", [f"{i} river stone" for i in range(100)])
    sizes, owners = [], []
    for batch in batches.streamed_batches([(0, prompts[:60]), (60, prompts[60:])], limits, None):
        sizes.append(batch.inputs["input_ids"].numel())
        owners += batch.owners
    assert sorted(owners) == list(range(100))
    assert sizes[0] <= 300 < sizes[1] <= 600 < sizes[2] <= 1200 and max(sizes) <= 1200
    few = batches.streamed_batches([(0, prompts)], limits, 3)
    assert {len(batch.owners) for batch in few} <= {1, 2, 3}


def test_batches_fit_into_the_free_memory(loaded):  # noqa: F811
    token = batches.activation_bytes(loaded[1].config, 2)
    assert token > 2 * 2 * loaded[1].config.intermediate_size
    for exponent in (13, 16):
        assert batches.tokens_in_memory(2 * token * 2**exponent, token) == 2**exponent
        assert batches.tokens_in_memory(2 * token * 2**exponent - 2, token) == 2 ** (exponent - 1)
    assert batches.tokens_in_memory(0, token) == 4096 and batches.tokens_in_memory(1 << 50, token) == 262_144


def lazy_compile(folder):
    engine = reranker(folder).runtime.engine
    return GpuLazyCompile("a model", engine, 100, Cost())


def test_steps_on_a_gpu_are_compiled_once_the_calls_took_long_enough(loaded, monkeypatch):  # noqa: F811
    made = []
    monkeypatch.setattr("prorank.rank.lazy_compile.Kernels", lambda compiled: made.append(compiled) or Kernels(False))
    lazy, texts = lazy_compile(loaded[0]), [["x" * 400] * 10]  # 1,000 tokens
    lazy.before_call(texts)
    assert lazy.choice.value == PLAIN and not made
    lazy.cost.seconds, lazy.cost.prompt_tokens = GPU_COMPILE_SECONDS / 4, 500  # with this call three times as long
    lazy.before_call(texts)
    assert lazy.choice.value == PLAIN and not made
    lazy.cost.seconds = GPU_COMPILE_SECONDS / 2
    lazy.before_call(texts)
    lazy.before_call(texts)
    assert lazy.choice.value == COMPILED and made == [True]


def test_steps_stay_plain_with_a_warning_if_they_cannot_be_compiled(loaded, monkeypatch, caplog):  # noqa: F811
    def broken(*_args, **_more):
        raise torch._dynamo.exc.BackendCompilerFailed(lambda: None, RuntimeError("Cannot find a working triton"), None)

    monkeypatch.setattr("prorank.engine.kernels.torch.compile", lambda f, **_: broken)
    lazy = lazy_compile(loaded[0])
    lazy.cost.seconds = GPU_COMPILE_SECONDS
    for _ in range(2):
        lazy.before_call([["river"]])
    assert lazy.choice.value == PLAIN and "compile needs a working" in lazy.choice.reason
    assert len(caplog.records) == 1 and "steps stay plain, which is slower" in caplog.text
    batch = collate(packs_of_lengths(loaded[2], [[5]]), 0, True)
    assert lazy.engine(batch).shape[0] == 1 and is_flat(loaded[1])


def test_no_tensor_of_the_cpu_gets_among_those_of_a_device(loaded, monkeypatch):  # noqa: F811
    """On device "meta" torch computes shapes only, and refuses to mix devices as a GPU does."""
    _, model, encoder = loaded
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # there is none for this device
    monkeypatch.setattr(sequence_attention, "choose_attention", lambda *_: sequence_attention.Choice(VARLEN, ""))
    meta = copy.deepcopy(model).to(torch.bfloat16).to("meta")
    batch = collate(packs_of_lengths(encoder, [[5, 30, 12], [20, 1]]), 0, True).to(torch.device("meta"))
    trained = Engine(meta, training_dtype=torch.bfloat16)(batch)
    trained.sum().backward()
    assert meta.model.layers[0].self_attn.v_proj.weight.grad.device.type == "meta"
    states = [trained, last_hidden(meta, batch), Engine(meta)(batch)]
    assert {(state.device.type, state.shape) for state in states} == {("meta", (5, model.config.hidden_size))}


def test_gradients_of_shared_keys_are_summed_in_fp32():
    """A GPU adds them in the dtype that was gathered."""
    sequences = sequences_of(collate([pack_of(4, [1] * 1000)], 0, flat=True).inputs["spans"])
    values = torch.ones(1004, 1, 8, dtype=torch.bfloat16, requires_grad=True)
    expanded = gathered(values, sequences)
    (expanded * 0.25).sum().backward()
    assert expanded.dtype == torch.float32 and values.grad[0, 0, 0] == 250
    assert gathered(values.detach(), sequences).dtype == torch.bfloat16


def test_a_pinned_batch_is_the_same_and_brings_its_sequences(loaded, monkeypatch):  # noqa: F811
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: pinned.append(tensor) or tensor.clone())
    batch = collate(packs_of_lengths(loaded[2], [[5, 30], [20]]), 0, True)
    copy_of, spans = batch.pinned(), batch.inputs["spans"]
    want, got = sequences_of(spans), copy_of.inputs["spans"].sequences
    for name in ("query_starts", "key_starts", "keys"):
        assert torch.equal(getattr(want, name), getattr(got, name))
    assert got.lengths == want.lengths and copy_of.owners == batch.owners and torch.equal(copy_of.columns, batch.columns)
    assert torch.equal(copy_of.inputs["input_ids"], batch.inputs["input_ids"]) and len(pinned) == 8
    moved = copy_of.to(torch.device("meta")).inputs["spans"].sequences  # pinned sequences are moved, not made again
    assert moved.lengths is got.lengths and moved.keys.device.type == "meta"
