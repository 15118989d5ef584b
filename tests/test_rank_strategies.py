"""Ranking strategies: one interface, held by a Reranker, and what each of them tells about itself."""

import inspect

import numpy as np
import pytest

from prorank.errors import ConfigError, ModelError, PromptError
from prorank.prompts.list_encoder import ListPromptEncoder
from prorank.prompts.pair_encoder import PairPromptEncoder
from prorank.prompts.prompt import Prompt
from prorank.rank.base_reranker import LoadedReranker
from prorank.rank.documents import GeneratedThought
from prorank.rank.list_strategy import ListStrategy
from prorank.rank.methods import Listwise, Setwise
from prorank.rank.pointwise import PointwiseStrategy
from prorank.rank.strategy import RankingStrategy, ScoredLists
from prorank.rank.thinking import ThinkingStrategy, sampling_key
from prorank.rank.thinking_head import ThinkingHeadStrategy
from prorank.reranker import Reranker
from tests.test_reranker import DOCUMENTS, QUERY

THINKING = {"prompt": {"preset": "rerank-r0", "max_length": 300, "system": "Judge.", "max_think_tokens": 5}}
KINDS = {
    "pointwise": ({}, PointwiseStrategy),
    "thinking": (THINKING, ThinkingStrategy),
    "thinking of the head": (THINKING | {"think_top": 2}, ThinkingHeadStrategy),
    "thinking at once": (THINKING | {"think": False}, PointwiseStrategy),
    "setwise": ({"method": "setwise", "branching": 3, "k": 2}, ListStrategy),
    "listwise": ({"method": "listwise", "prompt": "listwise", "window": 4, "step": 2}, ListStrategy),
}

STRATEGIES = (PointwiseStrategy, ThinkingStrategy, ThinkingHeadStrategy, ListStrategy)


@pytest.fixture(scope="module", params=list(KINDS))
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def reranker(kind, tiny_llama_dir):
    return Reranker(tiny_llama_dir, device="cpu", dtype="fp32", **KINDS[kind][0])


def test_a_reranker_holds_the_strategy_of_its_options(kind, reranker):
    strategy = reranker.strategy
    assert type(strategy) is KINDS[kind][1]
    assert reranker.thinks == (kind in ("thinking", "thinking of the head")) and reranker.compares_documents == isinstance(
        strategy, ListStrategy
    )
    assert reranker.encoder is strategy.encoder
    assert isinstance(reranker.encoder, ListPromptEncoder if reranker.compares_documents else PairPromptEncoder)
    assert type(reranker.prompt) is Prompt and reranker.prompt == reranker.encoder.prompt


def test_all_strategies_have_one_signature():
    score = inspect.signature(RankingStrategy.score)
    assert all(inspect.signature(each.score) == score for each in STRATEGIES)


def test_a_strategy_scores_what_the_reranker_ranks(reranker):
    """The strategy's scores, ordered, are the hits, with its thoughts."""
    texts = [DOCUMENTS, DOCUMENTS[:2], []]
    heard = []
    scored = reranker.strategy.score([QUERY, "bread", "none"], texts, progress=heard.append)
    assert [len(row) for row in scored.scores] == [len(row) for row in texts] and sum(heard) == sum(map(len, texts))
    assert all(row.dtype == np.float32 for row in scored.scores)
    hits = sorted(reranker.rank(QUERY, DOCUMENTS), key=lambda hit: hit.index)
    assert [hit.score for hit in hits] == pytest.approx(scored.scores[0].tolist(), abs=1e-5)
    thoughts = [thought and thought.text for thought in scored.thoughts[0]]
    assert [hit.thought for hit in hits] == (thoughts if reranker.thinks else [None] * len(hits))


def test_single_prompts_are_scored_and_diagnosed_unless_documents_are_compared(reranker):
    if reranker.compares_documents:
        assert not reranker.can_diagnose
        with pytest.raises(ConfigError, match="a method of lists has no answer per document to diagnose"):
            reranker.diagnose([QUERY], [DOCUMENTS])
        with pytest.raises(ConfigError, match="a method of lists cannot score single prompts"):
            reranker.score_encoded([])
        return
    prompts = reranker.encoder.encode_many(QUERY, DOCUMENTS)
    scored = reranker.score_encoded([(prompts, [sampling_key(QUERY, text) for text in DOCUMENTS])])
    np.testing.assert_allclose(scored.scores[0], reranker.score_lists([QUERY], [DOCUMENTS])[0], atol=1e-5)
    assert len(scored.thoughts[0]) == (len(DOCUMENTS) if reranker.thinks else 0)
    assert reranker.can_diagnose and len(reranker.diagnose([QUERY], [DOCUMENTS]).scores) == len(DOCUMENTS)
    assert reranker.score_encoded([]).scores == []


def test_fingerprints_differ_between_strategies_and_their_options(tiny_llama_dir):
    options = [options for options, _ in KINDS.values()]
    options += [THINKING | {"samples": 2}, {"method": "setwise", "branching": 4, "k": 2}, {"max_length": 150}]
    made = [Reranker(tiny_llama_dir, device="cpu", dtype="fp32", **each) for each in options]
    assert len({one.fingerprint for one in made}) == len(made) and None not in {one.fingerprint for one in made}
    assert len({one.prompt_fingerprint for one in made[:3]}) == 3 and all(
        one.weight_hashes == made[0].weight_hashes for one in made
    )


def test_in_memory_rerankers_take_each_strategy(tiny_llama_dir):
    one = Reranker(tiny_llama_dir, device="cpu", dtype="fp32")
    thinking, setwise = Prompt.of(THINKING["prompt"]), Prompt.preset("setwise")
    made = [
        Reranker.of(one.model, one.tokenizer, one.prompt),
        Reranker.of(one.model, one.tokenizer, thinking, think=True),
        Reranker.of(one.model, one.tokenizer, setwise, method=Listwise()),
        Reranker.of(one.model, one.tokenizer, setwise, method=Setwise()),
    ]
    assert [type(each.strategy) for each in made] == [PointwiseStrategy, ThinkingStrategy, ListStrategy, ListStrategy]
    np.testing.assert_allclose(made[0].score_lists([QUERY], [DOCUMENTS])[0], one.score_lists([QUERY], [DOCUMENTS])[0], atol=1e-4)
    for each in made:
        assert len(each.rank(QUERY, DOCUMENTS)) == len(DOCUMENTS)
        assert each.fingerprint is None and each.weight_hashes == [] and each.calibration is None and each.choices == {}
        with pytest.raises(ModelError, match="a model in memory cannot be pickled"):
            each.__reduce__()
    with pytest.raises(PromptError, match="use a list method"):
        Reranker.of(one.model, one.tokenizer, setwise)


def test_a_reranker_of_loaded_parts_shares_them(tiny_llama_dir):
    one = Reranker(tiny_llama_dir, device="cpu", dtype="fp32")
    other = Reranker(LoadedReranker("other", one.runtime, one.strategy))
    assert other.name == "other" and other.rank(QUERY, DOCUMENTS) == one.rank(QUERY, DOCUMENTS) and other.cuts is one.cuts


def test_equal_texts_tie():
    thoughts = [[GeneratedThought(str(i), False) for i in range(4)], ()]
    scored = ScoredLists([np.array([1, 2, 3, 4], np.float32), np.array([5, 6], np.float32)], thoughts)
    tied = scored.tie_equal_texts([["a", "b", "a", "b"], ["c", "c"]])
    assert [row.tolist() for row in tied.scores] == [[1, 2, 1, 2], [5, 5]]
    assert [thought.text for thought in tied.thoughts[0]] == ["0", "1", "0", "1"] and tied.thoughts[1] == ()
