"""Documents that do not fit into a prompt: read whole in chunks, or their beginning, and the user is told."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prorank import Reranker
from prorank.errors import ConfigError
from prorank.prompts.encoded import Encoded
from prorank.prompts.prompt import Prompt
from prorank.prompts.truncation import MAX_CHUNKS, Truncation, truncation_of
from prorank.rank.chunk_scores import ChunkScores

WORDS = "bread needs flour and water while rivers run to the sea and castles stand on hills of stone".split()
LONG = " ".join(WORDS[i % len(WORDS)] for i in range(400))
DOCUMENTS = ["bread", LONG, "a river", LONG.upper()]
HOW = {"device": "cpu", "dtype": "fp32", "prompt": Prompt.preset("echo", max_length=200)}


@pytest.fixture(scope="module")
def chunked(tiny_llama_dir) -> Reranker:
    return Reranker(tiny_llama_dir, **HOW)


def test_a_document_has_the_score_of_its_best_chunk(chunked, tiny_llama_dir):
    scores = chunked.score_lists(["bread"], [DOCUMENTS])[0]
    cut = Reranker(tiny_llama_dir, **HOW, long_documents="truncate")
    prompts = chunked.encoder.encode_chunks("bread", DOCUMENTS, truncation=Truncation(max_chunks=MAX_CHUNKS))
    assert len(prompts[0]) == 1 and len(prompts[1]) > 1
    for document, chunks, score in zip(DOCUMENTS, prompts, scores):
        (alone,) = cut.score_encoded([(chunks, [document] * len(chunks))]).scores
        assert score == pytest.approx(float(alone.max()), abs=1e-4)
    first = cut.score_lists(["bread"], [DOCUMENTS])[0]
    assert scores[[0, 2]] == pytest.approx(first[[0, 2]], abs=1e-4) and (scores >= first - 1e-4).all()
    assert chunked.fingerprint != cut.fingerprint and chunked.prompt_fingerprint == cut.prompt_fingerprint


def test_chunks_are_counted_and_nothing_is_cut(tiny_llama_dir):
    whole, cut = Reranker(tiny_llama_dir, **HOW), Reranker(tiny_llama_dir, **HOW, long_documents="truncate")
    calls: list[int] = []
    whole.score_lists(["bread", "sea"], [DOCUMENTS, DOCUMENTS[:1]], progress=calls.append)
    cut.score_lists(["bread", "sea"], [DOCUMENTS, DOCUMENTS[:1]])
    assert sum(calls) == 5  # documents, not chunks
    assert (whole.cuts.total, whole.cuts.documents, whole.cuts.chunked) == (5, 0, 2) and whole.cuts.chunks > 4
    assert (cut.cuts.total, cut.cuts.documents, cut.cuts.chunked, cut.cuts.chunks) == (5, 2, 0, 0)
    assert whole.cost.calls == 3 + whole.cuts.chunks and cut.cost.calls == 5


def test_the_probability_is_that_of_the_best_chunk(calibrated_dir):
    reranker = Reranker(calibrated_dir, device="cpu", dtype="fp32")
    far = "bread " * reranker.encoder.longest * 2
    hits = reranker.rank("bread", ["bread", far])
    assert reranker.cuts.chunked == 1 and reranker.calibration is not None
    assert [hit.probability for hit in hits] == pytest.approx(reranker.calibration.apply(np.array([hit.score for hit in hits])))


def test_a_prompt_says_how_long_a_chunk_is(tiny_llama_dir):
    """Longer documents are read in chunks although they would fit, and a long query stays whole."""
    prompt = Prompt.preset("echo", max_length=1000, chunk_length=100, query_share=0.2)
    reranker = Reranker(tiny_llama_dir, device="cpu", dtype="fp32", prompt=prompt)
    truncation = reranker.strategy.truncation
    chunks = reranker.encoder.encode_chunks("bread", [LONG, "bread", LONG[:60]], truncation=truncation)
    spans = [[prompt.document_end - prompt.document_start for prompt in row] for row in chunks]
    assert len(spans[0]) > 5 and max(spans[0]) == 100 and [len(row) for row in spans[1:]] == [1, 1]
    (long_query,) = reranker.encoder.encode_chunks("is bread made of flour " * 20, [LONG], truncation=truncation)
    assert {prompt.query_cut for prompt in long_query} == {0} and len(long_query) == len(chunks[0])
    (cut,) = reranker.encoder.encode_chunks("bread", [LONG])
    assert len(cut) == 1 and cut[0].ids == chunks[0][0].ids and cut[0].document_cut > 0
    assert Reranker(tiny_llama_dir, **HOW, long_documents="truncate").reads_chunks is False


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"long_documents": "split"}, "long_documents 'split' is not known; valid: auto, truncate, chunk"),
        ({"long_documents": "chunk", "method": "setwise"}, "chunk.*single documents.*use 'truncate'"),
    ],
)
def test_wrong_values_are_refused_before_the_weights_are_read(tiny_llama_dir, monkeypatch, options, message):
    monkeypatch.setattr("prorank.rank.load_reranker.load_ranking_model", lambda *_: pytest.fail("weights were read"))
    with pytest.raises(ConfigError, match=message):
        Reranker(tiny_llama_dir, device="cpu", dtype="fp32", **options)


def test_auto_chunks_where_it_can():
    assert truncation_of("auto", can_chunk=True).max_chunks == MAX_CHUNKS
    assert truncation_of("auto", can_chunk=False).max_chunks == truncation_of("truncate", can_chunk=True).max_chunks == 1


@given(st.lists(st.lists(st.integers(1, 4), max_size=5), min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_scores_may_come_in_any_order(shapes, draw):
    """For each query the numbers of prompts of its documents: the best of each document counts, whatever the batches."""
    numbers = iter(range(1000))
    queries = [[[Encoded([next(numbers)], 0, 1) for _ in range(count)] for count in row] for row in shapes]
    collected = ChunkScores()
    prompts = {first + i: prompt.ids[0] for first, part in collected.parts(queries) for i, prompt in enumerate(part)}
    assert sorted(prompts) == list(range(len(prompts))) == sorted(prompts.values())
    order = draw.sample(sorted(prompts), len(prompts))
    value = {number: draw.random() for number in prompts}
    finished = sum(collected.add([number], [value[prompts[number]]]) for number in order)
    scored = collected.scored_lists([len(row) for row in shapes])
    assert finished == sum(map(len, shapes))
    for row, documents in zip(scored.scores, queries):
        assert row.tolist() == [np.float32(max(value[chunk.ids[0]] for chunk in chunks)) for chunks in documents]


def test_a_score_that_is_not_a_number_stays_one():
    collected = ChunkScores()
    list(collected.parts([[[Encoded([1], 0, 1), Encoded([2], 0, 1), Encoded([3], 0, 1)]]]))
    collected.add([0, 1, 2], [0.5, float("nan"), 1.0])
    assert np.isnan(collected.scored_lists([1]).scores[0]).all()
