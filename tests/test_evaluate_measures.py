"""Measures: values by hand, ties in our order, absent queries, graded and binary sets of queries."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prorank.errors import ConfigError
from prorank.evaluate.measures import means, measure, names, rank_scores, ranking_of, with_positive

QRELS = {"a": {"x": 2, "y": 0, "z": 1}, "b": {"x": 1}, "c": {"x": 0}}


def test_values_by_hand():
    values = measure(QRELS, {"a": ["y", "z", "x"], "b": ["x"]}, recall_at=(2,))
    gain = (1 / math.log2(3) + 2 / math.log2(4)) / (2 + 1 / math.log2(3))
    assert values["nDCG@10"]["a"] == pytest.approx(gain)
    assert values["MRR@10"]["a"] == pytest.approx(1 / 2)
    assert values["MAP"]["a"] == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert values["R@2"]["a"] == pytest.approx(1 / 2)
    assert list(values) == names((2,))


def test_query_without_positive_does_not_count_and_absent_one_counts_zero():
    values = measure(QRELS, {"a": ["x", "z"], "c": ["x"]})
    assert set(values["nDCG@10"]) == {"a", "b"}
    assert values["nDCG@10"]["b"] == 0.0
    assert means(values)["MRR@10"] == pytest.approx(0.5)
    assert means(measure(QRELS, {}))["nDCG@10"] == 0.0
    assert means(measure(QRELS, {"a": []}, queries=["a"]))["R@100"] == 0.0


def test_min_rel_moves_the_binary_measures_only():
    values = measure(QRELS, {"a": ["z", "x"], "b": ["x"]}, min_rel=2)
    assert set(values["nDCG@10"]) == {"a", "b"} and set(values["MRR@10"]) == {"a"}
    assert values["MRR@10"]["a"] == pytest.approx(1 / 2)
    assert with_positive(QRELS, 2) == ["a"]
    with pytest.raises(ConfigError, match="min_rel must be at least 1, not 0"):
        measure(QRELS, {}, min_rel=0)


def test_no_query_with_the_label_gives_nan_not_zero():
    assert math.isnan(means(measure({"a": {"x": 1}}, {"a": ["x"]}, min_rel=3))["MAP"])


@pytest.mark.parametrize("order", [["a1", "a2"], ["a2", "a1"]])
def test_ties_keep_our_order(order):
    """trec_eval alone would put the larger document id first, whichever came first in the run."""
    ranking = ranking_of({"q": dict.fromkeys(order, 1.0)})
    assert ranking["q"] == order
    assert measure({"q": {"a1": 1}}, ranking)["MRR@10"]["q"] == 1 / (1 + order.index("a1"))


@given(st.dictionaries(st.text("abc", min_size=1), st.floats(allow_nan=False, width=32), min_size=1))
def test_rank_scores_hold_the_order_strictly(scores):
    ranking = ranking_of({"q": scores})
    given_scores = list(rank_scores(ranking)["q"].values())
    assert all(a > b for a, b in zip(given_scores, given_scores[1:]))
    assert [scores[d] for d in ranking["q"]] == sorted(scores.values(), reverse=True)
