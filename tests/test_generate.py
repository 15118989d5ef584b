"""Generation of thoughts: equal to plain decoding of the same model, in any batch.

Transformers' `generate` is the reference for both decoders, the engine's and that of a model's own layers.
"""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prorank.checkpoints.loading import load_model, load_tokenizer
from prorank.checkpoints.resolve import resolve
from prorank.engine.cpu_engine import Engine, is_supported
from prorank.engine.generation import CLOSE, Sampler, make_generator, make_training_generator
from prorank.engine.packing import pack, packs_of
from prorank.engine.sampling import Completion, Sampling, StopAt, draw
from prorank.errors import ConfigError
from prorank.prompts.prompt import Prompt
from prorank.rank.model_runtime import ModelRuntime
from prorank.rank.thinking import ThinkingStrategy
from prorank.reranker import Reranker
from tests.tiny import byte_tokenizer, save_tiny

CPU = torch.device("cpu")
PAIRS = [("coffee", "the old coffee is near"), ("bread", "we saw a castle today, then another and another"), ("horse", "no")]


def encoder_for(tokenizer, **changes):
    return Prompt.preset("rerank-r0", max_length=1500, system="Judge.", **changes).bind(tokenizer)


@pytest.fixture(scope="module", params=["llama", "qwen2", "llama4"])
def model_and_encoder(request, tmp_path_factory):
    resolved = resolve(save_tiny(tmp_path_factory.mktemp("tiny"), request.param))
    return load_model(resolved, torch.float32, CPU), encoder_for(load_tokenizer(resolved))


def generators(model):
    """Generators of the model's own layers, of the engine if it supports the model, and as in training."""
    engines = [make_generator(model, Engine(copy.deepcopy(model)))] if is_supported(model) else []
    return [make_generator(model, None), *engines, make_training_generator(model, False, False)]


def singles(prompts):
    return [pack([p], [i], share=False) for i, p in enumerate(prompts)]


def test_greedy_rows_are_those_of_generate(model_and_encoder):
    model, encoder = model_and_encoder
    prompts = [encoder.encode(*pair) for pair in PAIRS]
    want = []
    for prompt in prompts:
        out = model.generate(torch.tensor([prompt.ids]), max_new_tokens=24, do_sample=False, attention_mask=None)
        want.append(out[0, len(prompt.ids) :].tolist())
    for generator in generators(model):
        rows = Sampler(generator, encoder, Sampling(0.0, max_tokens=24))(singles(prompts), [[str(i)] for i in range(3)])
        assert [some[0].ids for some in rows] == want
        assert all(some[0].finished == (some[0].ids[-1] == encoder.tokenizer.eos_token_id) for some in rows)


def test_prompts_that_share_their_query_write_the_same(model_and_encoder):
    model, encoder = model_and_encoder
    prompts = encoder.encode_many("coffee", [document for _, document in PAIRS])
    for generator in generators(model):
        sampler = Sampler(generator, encoder, Sampling(0.9, max_tokens=12))
        keys = [[f"{i}/{k}" for k in range(4)] for i in range(3)]
        alone = sampler(singles(prompts), keys)
        shared = sampler(list(packs_of(prompts, range(3))), keys)  # longest first: another order of prompts
        assert [[row.ids for row in some] for some in alone] == [[row.ids for row in some] for some in shared]
        assert len({tuple(row.ids) for row in alone[0]}) > 1


def test_a_completion_does_not_depend_on_its_batch(model_and_encoder):
    model, encoder = model_and_encoder
    prompts = [encoder.encode(*pair) for pair in PAIRS]
    for generator in generators(model):
        sampler = Sampler(generator, encoder, Sampling(1.0, top_p=0.9, max_tokens=16))
        together = sampler(singles(prompts), [[f"{i}/{k}" for k in range(3)] for i in range(3)])
        for i, prompt in enumerate(prompts):
            alone = sampler(singles([prompt]), [[f"{i}/{k}" for k in range(3)]])
            assert [row.ids for row in alone[0]] == [row.ids for row in together[i]]


class ScriptedGenerator:
    """A generator that writes fixed rows of tokens, `says`, and then repeats the last token of each."""

    def __init__(self, says, vocabulary):
        self.says, self.vocabulary, self.kept = says, vocabulary, []

    def decoder(self, room):
        self.at, self.rows, self.fed = 0, list(range(len(self.says))), [[] for _ in self.says]
        return self

    def start(self, packs, samples):
        return self._wanted()

    def step(self, tokens):
        for row, token in zip(self.rows, tokens.tolist()):
            self.fed[row].append(token)
        self.at += 1
        return self._wanted()

    def keep(self, rows):
        self.rows = [self.rows[i] for i in rows.tolist()]
        self.kept.append(len(self.rows))

    def _wanted(self):
        return torch.tensor([[float(self.says[r][min(self.at, len(self.says[r]) - 1)])] for r in self.rows])

    def head(self, hidden):
        return torch.nn.functional.one_hot(hidden[:, 0].long(), self.vocabulary).float()


def sample_scripted(encoder, texts, sampling, stop=StopAt.END_TOKEN, ends=()):
    """(completions, generator) of a model that writes these texts, those in `ends` with an end token behind."""
    says = [encoder._tokens(text) + [encoder.tokenizer.eos_token_id] * (i in ends) for i, text in enumerate(texts)]
    generator = ScriptedGenerator(says, len(encoder.tokenizer))
    rows = Sampler(generator, encoder, sampling, stop)([None] * len(texts), [[str(i)] for i in range(len(texts))])
    return [some[0] for some in rows], generator


@pytest.mark.parametrize("style", ["smollm", "qwen2", "r1"])
def test_in_training_rows_end_at_their_end_token_alone(style):
    encoder = encoder_for(byte_tokenizer(style))
    texts = ["<think>a</think><answer>yes</answer> and more", "<think>b</think>", "x"]
    (long, cut, never), generator = sample_scripted(encoder, texts, Sampling(0.0, max_tokens=200), ends={0})
    assert long.finished and encoder.tokenizer.decode(long.ids[:-1]) == texts[0] and not long.forced_positions
    assert not cut.finished and not never.finished and len(never.ids) == len(cut.ids) == 200
    assert generator.kept  # the one that was done left


@pytest.mark.parametrize("style", ["smollm", "r1"])
def test_in_training_a_thought_over_its_budget_is_closed_and_what_was_put_in_is_marked(style):
    encoder = encoder_for(byte_tokenizer(style))
    opened = "" if encoder.opened else "<think>\n"
    texts = [f"{opened}{'a b c d ' * 20}", f"{opened}a</think><answer>no</answer>", *([] if encoder.opened else ["a b c d " * 9])]
    rows, _ = sample_scripted(encoder, texts, Sampling(0.0, max_tokens=60, max_think_tokens=10), ends={1})
    first = rows[0].forced_positions[0]
    assert (
        first == 10 + len(encoder.opener)
        and [rows[0].ids[i] for i in rows[0].forced_positions] == encoder.shut
        and rows[0].thought_truncated
    )
    assert all(not row.forced_positions and not row.thought_truncated for row in rows[1:])  # closed in time, or never opened


@pytest.mark.parametrize("style", ["smollm", "qwen2", "plain", "r1"])
def test_on_the_way_to_the_answer_a_thought_is_closed_once(style):
    encoder = encoder_for(byte_tokenizer(style))
    texts = ["a\n</think>\n<answer>yes</answer>", "a</think> yes", "a b c d e f g h i j k l m n o p", "a b"]
    rows, generator = sample_scripted(encoder, texts, Sampling(0.0, max_tokens=12), stop=StopAt.ANSWER_START, ends={3})
    decode = encoder.tokenizer.decode
    assert decode(rows[0].ids).endswith("a\n</think>\n<answer>") and decode(rows[1].ids) == "a</think>\n<answer>"
    assert [row.thought_truncated for row in rows] == [False, False, True, False]
    assert decode(rows[2].ids).endswith("\n</think>\n<answer>") and decode(rows[3].ids) == "a b\n</think>\n<answer>"
    for row, fed in zip(rows, generator.fed):
        assert row.state is not None and fed[: len(row.ids)] == row.ids and CLOSE in decode(row.ids)


def test_a_thinking_score_equals_that_of_the_whole_text_in_one_pass(model_and_encoder):
    model, encoder = model_and_encoder
    for generator in generators(model):
        for samples in (1, 3):
            prompt = Prompt.of(encoder.prompt, max_think_tokens=9)
            thinker = ThinkingStrategy(ModelRuntime(model, encoder.tokenizer), prompt, generator, samples)
            prompts = encoder.encode_many("coffee", [document for _, document in PAIRS])
            scored = thinker.score_encoded([(prompts, ["a", "b", "c"])])
            (scores,), (thoughts,) = scored.scores, scored.thoughts
            packs = [pack([replace(p, ids=p.ids + encoder.opener)], [i], share=False) for i, p in enumerate(prompts)]
            rows = thinker.sampler(packs, [[f"{key}/{k}" for k in range(samples)] for key in "abc"])
            for i, prompt in enumerate(prompts):
                each = []
                for row in rows[i]:
                    logits = model(torch.tensor([prompt.ids + encoder.opener + row.ids])).logits[0, -1]
                    each.append(float(logits[encoder.answer_ids[1]] - logits[encoder.answer_ids[0]]))
                assert scores[i] == pytest.approx(np.mean(each), abs=2e-4)
            assert all(thought.cut == row[0].thought_truncated for thought, row in zip(thoughts, rows))


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_a_thinking_checkpoint_thinks_by_default(tmp_path, kind):
    folder = save_tiny(tmp_path / kind, kind)
    Prompt.preset("rerank-r0", max_length=300, system="Judge.", max_think_tokens=7).save(folder)
    documents = [document for _, document in PAIRS] + [PAIRS[0][1]]
    hits = Reranker(folder, device="cpu", dtype="fp32").rank("coffee", documents)
    assert len(hits) == 4 and all(isinstance(hit.thought, str) for hit in hits)
    by_index = {hit.index: hit for hit in hits}
    assert by_index[0].score == by_index[3].score and by_index[0].thought == by_index[3].thought
    at_once = Reranker(folder, device="cpu", dtype="fp32", think=False)
    assert not at_once.thinks and all(hit.thought is None for hit in at_once.rank("coffee", documents))
    longer = Reranker(folder, device="cpu", dtype="fp32", max_think_tokens=20, samples=2)
    assert longer.thinks and longer.fingerprint != at_once.fingerprint
    with pytest.raises(ConfigError, match="samples and max_think_tokens are for thoughts"):
        Reranker(folder, device="cpu", think=False, samples=3)
    with pytest.raises(ConfigError, match="samples must be at least 1, not 0"):
        Reranker(folder, device="cpu", samples=0)


def test_many_queries_give_the_results_of_single_ones(tmp_path):
    folder = save_tiny(tmp_path / "m", "llama")
    Prompt.preset("rerank-r0", max_length=300, system="Judge.", max_think_tokens=5).save(folder)
    reranker = Reranker(folder, device="cpu", dtype="fp32")
    lists = [[document for _, document in PAIRS], ["a castle"] * 40, ["the bread and a horse", "coffee"]]
    queries = ["coffee", "bread", "horse"]
    together = reranker.score_lists(queries, lists)
    for query, some, scores in zip(queries, lists, together):
        np.testing.assert_allclose(scores, reranker.score_lists([query], [some])[0], atol=1e-4)


@settings(max_examples=40)
@given(seed=st.integers(0, 10_000), temperature=st.floats(0.2, 2.0), top_p=st.floats(0.05, 1.0))
def test_draws_invert_the_distribution(seed, temperature, top_p):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(1, 30, generator=generator) * 3
    noise = (torch.arange(4000) + 0.5) / 4000
    tokens = draw(logits.expand(4000, -1), noise, temperature, top_p)
    p = (logits[0] / temperature).softmax(-1)
    ordered, which = p.sort(descending=True)
    kept = which[ordered.cumsum(0) - ordered < top_p]
    want = torch.zeros(30).index_copy(0, kept, p[kept] / p[kept].sum())
    got = torch.bincount(tokens, minlength=30) / 4000
    assert (got - want).abs().max() <= 1.5 / 4000


def test_temperature_0_takes_the_likeliest_and_noise_belongs_to_its_key():
    logits = torch.tensor([[0.0, 2.0, 1.0]])
    assert draw(logits, torch.tensor([0.99]), 0.0, 1.0).item() == 1
    row = Completion(torch.zeros(3), forced_tokens=[5])
    row.append(7)
    row.append(8)
    assert row.ids == [5, 8] and row.forced_positions == [0]
