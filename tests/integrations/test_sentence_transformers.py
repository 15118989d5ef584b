"""Our CrossEncoder against the real one on the same saved checkpoint, and in the real package's evaluator and miner.

Both read one folder; the real one renders the chat template that the folder carries.
"""

import numpy as np
import pytest
import torch
from datasets import Dataset
from sentence_transformers import CrossEncoder as Real
from sentence_transformers import SentenceTransformer
from sentence_transformers.cross_encoder.evaluation import CrossEncoderRerankingEvaluator
from sentence_transformers.sentence_transformer.modules import BoW
from sentence_transformers.util import mine_hard_negatives

from prorank.errors import ConfigError
from prorank.integrations.sentence_transformers import CrossEncoder
from tests.integrations.conftest import QUERY, TEXTS
from tests.tiny import WORDS, toy_lists

PAIRS = [(QUERY, text) for text in TEXTS]


@pytest.fixture(scope="module")
def both(finished_run):
    real = Real(str(finished_run / "model"), device="cpu", model_kwargs={"dtype": torch.float32})
    return CrossEncoder(finished_run, dtype="fp32"), real


def test_predict_returns_what_the_real_one_does(both):
    ours, real = both
    sigmoid = {"activation_fn": torch.nn.Sigmoid()}
    for how in ({}, {"convert_to_tensor": True}, {"convert_to_numpy": False}, sigmoid, {"prompt": "find rivers"}):
        got, want = ours.predict(PAIRS, **how), real.predict(PAIRS, **how)
        assert type(got) is type(want)
        np.testing.assert_allclose([float(x) for x in got], [float(x) for x in want], atol=1e-3)
    for single in (PAIRS[1], list(PAIRS[1])):
        assert float(ours.predict(single)) == pytest.approx(float(real.predict(single)), abs=1e-3)
    assert np.shape(ours.predict(PAIRS[1])) == () and ours.predict(np.array(PAIRS)).shape == (5,)
    assert len(ours.predict([])) == 0


def test_rank_returns_what_the_real_one_does(both):
    ours, real = both
    got, want = (model.rank(QUERY, TEXTS, top_k=3, return_documents=True) for model in both)
    assert [(hit["corpus_id"], hit["text"]) for hit in got] == [(hit["corpus_id"], hit["text"]) for hit in want]
    assert [hit["score"] for hit in got] == pytest.approx([hit["score"] for hit in want], abs=1e-3)
    assert list(ours.rank(QUERY, TEXTS)[0]) == list(real.rank(QUERY, TEXTS)[0]) == ["corpus_id", "score"]


def test_rank_takes_every_form_that_predict_gives(both):
    ours, real = both
    want = ours.rank(QUERY, TEXTS)
    for how in ({"convert_to_numpy": False}, {"convert_to_tensor": True}):
        assert ours.rank(QUERY, TEXTS, **how) == want
        assert [hit["corpus_id"] for hit in real.rank(QUERY, TEXTS, **how)] == [hit["corpus_id"] for hit in want]
    assert ours.rank(QUERY, [], convert_to_numpy=False) == []


def test_the_evaluator_takes_it(both):
    samples = [{"query": row["query"], "positive": row["pos"], "negative": row["neg"]} for row in toy_lists(8)]
    evaluator = CrossEncoderRerankingEvaluator(samples, write_csv=False)
    got, want = (evaluator(model) for model in both)
    assert got == pytest.approx(want, abs=1e-6) and 0 < got["ndcg@10"] <= 1


def test_the_miner_takes_it(both):
    words = SentenceTransformer(modules=[BoW(vocab=list(WORDS))], device="cpu")
    lists = toy_lists(6)
    data = Dataset.from_dict({"query": [row["query"] for row in lists], "answer": [row["pos"][0] for row in lists]})
    how = {"num_negatives": 1, "max_score": 1e9, "use_faiss": False, "verbose": False, "output_scores": True}
    got, want = (mine_hard_negatives(data, words, cross_encoder=model, **how).to_pandas() for model in both)
    assert len(got) and got["negative"].tolist() == want["negative"].tolist()


def test_mistakes_are_named(both):
    ours, _ = both
    with pytest.raises(ConfigError, match="'pool' has no meaning for a Reranker"):
        ours.predict(PAIRS, pool={"input": 1})
    with pytest.raises(ConfigError, match="no prompt is called 'serach'; did you mean 'search'"):
        CrossEncoder(ours.reranker, prompts={"search": "x"}).predict(PAIRS, prompt_name="serach")
    named = CrossEncoder(ours.reranker, prompts={"search": "find rivers"}).predict(PAIRS, prompt_name="search")
    np.testing.assert_array_equal(named, ours.predict(PAIRS, prompt="find rivers"))
