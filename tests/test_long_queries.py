"""Queries that are longer than their share of a prompt: complete if they fit, else truncated and counted once.

A truncated query counts once, however many documents it has.
"""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prorank.engine.kernels import Kernels
from prorank.engine.packing import pack, packs_of
from prorank.prompts.pair_encoder import TruncationCounts
from prorank.prompts.prompt import Prompt
from prorank.prompts.truncation import Truncation
from prorank.remote.client import Remote
from prorank.reranker import Reranker
from tests.serving import running
from tests.test_reranker import alone, small
from tests.tiny import WORDS, byte_tokenizer, save_tiny

TOKENIZER = byte_tokenizer("qwen2")
PAIRS = {name: Prompt.preset(name, max_length=300).bind(TOKENIZER) for name in ("prorank", "echo", "document-first")}
LISTS = {name: Prompt.preset(name, max_length=600).bind_list(TOKENIZER) for name in ("setwise", "setwise-echo", "listwise")}
texts = st.lists(st.sampled_from(WORDS), max_size=150).map(" ".join)
LONG = " ".join(WORDS * 20)[:1100]
SHORT, LONGER = "the garden", "the river " * 60


def ids(text: str) -> list[int]:
    return TOKENIZER(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("name", list(PAIRS))
@settings(suppress_health_check=[HealthCheck.too_slow], max_examples=60)
@given(query=texts, document=texts)
def test_nothing_is_truncated_if_both_fit(name, query, document):
    """And what does not fit keeps the share that it had."""
    bound = PAIRS[name]
    found = bound.encode(query, document)
    whole = replace(bound.prompt, max_length=100_000).bind(TOKENIZER).encode(query, document)
    if len(whole.ids) <= bound.longest:
        assert found.ids == whole.ids and found.query_cut == found.document_cut == 0
    else:
        assert found.document_cut or found.query_cut
        assert found.query_cut == max(0, len(ids(query)) - bound.query_limit())
    assert len(found.ids) <= bound.longest


@pytest.mark.parametrize("name", list(LISTS))
@settings(suppress_health_check=[HealthCheck.too_slow], max_examples=40)
@given(query=texts.filter(len), documents=st.lists(texts, min_size=1, max_size=4))
def test_lists_cut_nothing_where_all_fit(name, query, documents):
    bound = LISTS[name]
    found = bound.encode(query, documents)
    whole = replace(bound.prompt, max_length=100_000).bind_list(TOKENIZER).encode(query, documents)
    assert len(found.ids) <= bound.longest and not whole.query_cut
    assert (found.ids == whole.ids) == (len(whole.ids) <= bound.longest) == (not found.query_cut and not any(found.document_cuts))


def test_the_released_models_cap_the_query_in_any_case():
    """Their rule cuts the query at its share whatever the document is, see test_prompt_mxbai."""
    bound = Prompt.preset("mxbai", max_length=120).bind(TOKENIZER)
    query = " ".join(WORDS * 8)
    found = bound.encode(query, "a")
    assert found.query_cut > 0 and len(found.ids) < bound.longest


def test_requested_limits_are_kept():
    """Tokens of the query, of the document and of the prompt, as servers take them."""
    bound = PAIRS["prorank"]
    query = " ".join(WORDS)
    assert len(ids(query)) > 10
    assert bound.encode_chunks(LONG, [SHORT], truncation=Truncation(max_query_tokens=10))[0][0].query_cut == len(ids(LONG)) - 10
    few = bound.encode_chunks(LONG, [LONGER], truncation=Truncation(max_document_tokens=3))[0][0]
    assert few.query_cut == 0 and few.document_end - few.document_start == 3
    limit = Truncation(max_prompt_tokens=len(bound.encode(LONG, SHORT).ids) - 1)
    tight = bound.encode_chunks(LONG, [SHORT], truncation=limit)[0][0]
    assert tight.query_cut == len(ids(LONG)) - bound.query_limit()
    for one in bound.encode_chunks(LONG, [LONGER], truncation=Truncation(max_chunks=3))[0]:
        assert one.query_cut > 0 and len(one.ids) <= bound.longest


def test_documents_with_the_whole_query_and_with_the_cut_one_are_packed_apart():
    """A pack's documents share what comes before them."""
    bound = PAIRS["prorank"]
    prompts = bound.encode_many(LONG, [SHORT, LONGER, "river", LONGER + "a", SHORT])
    assert len({prompt.document_start for prompt in prompts}) == 2
    packs = list(packs_of(prompts, range(5), 10_000, 16))
    assert sorted(sorted(one.owners) for one in packs) == [[0, 2, 4], [1, 3]]
    for one in [*packs, pack(prompts, range(5))]:
        for k, owner in enumerate(one.owners, 1):
            assert [i for i, s in zip(one.ids, one.segments) if s in (0, k)] == prompts[owner].ids


def reranker(**changes):
    """A model that reads the beginning of long documents, so that they are cut."""
    one = small("qwen2", max_length=300, **changes)
    return Reranker.of(one.model, one.tokenizer, one.prompt, long_documents="truncate")


@pytest.mark.parametrize("preset", ["prorank", "echo"])
def test_scores_do_not_depend_on_the_other_documents(preset):
    model = small("qwen2")
    one = Reranker.of(model.model, model.tokenizer, Prompt.preset(preset, max_length=300))
    documents = [SHORT, LONGER, "river", "", LONGER[:300]]
    got = one.score_lists([LONG], [documents])[0]
    np.testing.assert_allclose(got, [alone(one, LONG, document)[0] for document in documents], atol=1e-4)


def test_a_query_is_counted_once_with_its_lost_tokens(monkeypatch):
    """Over 21 documents, in several windows, in every way of scoring."""
    monkeypatch.setattr("prorank.rank.pointwise.WINDOW", 4)
    one = reranker()
    one.rank(LONG, [f"{LONGER} {i}" for i in range(21)])
    cut = len(ids(LONG)) - one.encoder.query_limit()
    assert (one.cuts.total, one.cuts.documents, one.cuts.queries, one.cuts.query_tokens) == (21, 21, 1, cut)
    assert str(one.cuts) == f"21 of 21 documents cut, 1 query cut by {cut} tokens"
    one.rank(LONG, [f"{SHORT} {i}" for i in range(21)])
    assert (one.cuts.total, one.cuts.queries) == (42, 1)  # all fit
    one.score([(LONG, LONGER), ("garden", LONGER), (LONG, LONGER + "!")])
    one.rank_many([LONG, LONG], [[LONGER], [SHORT, LONGER]])
    assert (one.cuts.queries, one.cuts.query_tokens) == (4, 4 * cut)
    assert str(one.cuts).endswith(f"4 queries cut by {4 * cut} tokens in all")
    assert str(TruncationCounts(3, 1)) == "1 of 3 documents cut, 0 queries cut"


@pytest.mark.parametrize("method", [{"method": "setwise", "branching": 2, "k": 3, "permutations": 2}, {"method": "listwise"}])
def test_lists_count_a_query_and_a_document_once(method, tmp_path):
    """In however many comparisons they are shown."""
    one = Reranker(save_tiny(tmp_path / "m", "qwen2"), dtype="fp32", max_length=600, **method)
    one.rank(LONG * 2, [f"{LONGER * 3} {i}" for i in range(6)])
    assert (one.cuts.total, one.cuts.documents, one.cuts.queries) == (6, 6, 1) and one.cuts.query_tokens > 0
    one.rank("garden", ["a", "b", "c"])
    assert (one.cuts.total, one.cuts.documents, one.cuts.queries) == (9, 6, 1)


def test_a_query_in_several_requests_to_a_server_counts_once(monkeypatch):
    with running(reranker()) as server, Remote(server.url) as remote:
        remote.max_documents = 4
        remote.score_lists([LONG, "garden"], [[f"{LONGER} {i}" for i in range(10)], [SHORT]])
        assert (remote.cuts.total, remote.cuts.documents, remote.cuts.queries) == (11, 10, 1)
        assert str(remote.cuts) == "10 of 11 documents cut, 1 query cut"


def test_likelihood_reads_a_long_query_whole_where_there_is_room():
    """Two queries that differ behind their share."""
    one = reranker()
    queries = [LONG + " garden", LONG + " castle"]
    short, long = (one.likelihood(queries, [[document]] * 2) for document in ("a", "river " * 300))
    assert abs(short[0][0] - short[1][0]) > 1e-4 and abs(long[0][0] - long[1][0]) < 1e-6


def test_compiling_counts_nothing(monkeypatch, tiny_llama_dir):
    """The documents that a Reranker is warmed up with are not the caller's."""
    monkeypatch.setattr("prorank.engine.cpu_engine.Kernels", lambda compiled: Kernels(False))
    one = Reranker(tiny_llama_dir, device="cpu", dtype="fp32", compile=True)
    assert one.cuts == TruncationCounts() and (one.cost.calls, one.cost.prompt_tokens, one.cost.seconds) == (0, 0, 0.0)
    one.rank("garden", ["river"])
    assert (one.cuts.total, one.cost.calls) == (1, 1)
