"""Measures: values by hand, ties in our order, absent queries, graded and binary sets of queries."""

import math

import ir_measures
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prorank.errors import ConfigError, DataError
from prorank.evaluate.benchmark import evaluate
from prorank.evaluate.gains import GAINS, check_labels, gains_of, ndcg
from prorank.evaluate.measures import means, measure, names, ndcg_of, rank_scores, ranking_of, with_positive

QRELS = {"a": {"x": 2, "y": 0, "z": 1}, "b": {"x": 1}, "c": {"x": 0}}


def test_values_by_hand():
    values = measure(QRELS, {"a": ["y", "z", "x"], "b": ["x"]}, recall_at=(2,))
    gain = (1 / math.log2(3) + 2 / math.log2(4)) / (2 + 1 / math.log2(3))
    assert values["nDCG@10"]["a"] == pytest.approx(gain)
    assert values["MRR@10"]["a"] == pytest.approx(1 / 2)
    assert values["MAP"]["a"] == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert values["R@2"]["a"] == pytest.approx(1 / 2)
    assert list(values) == names((2,))


GRADES = st.lists(st.integers(-1, 5), min_size=1, max_size=12).filter(lambda grades: max(grades) > 0)


@given(grades=GRADES, data=st.data(), gain=st.sampled_from(GAINS), depth=st.integers(1, 12))
def test_ndcg_of_a_list_is_that_of_ir_measures(grades, data, gain, depth):
    """The one function of lists against trec_eval, which is told its gains one by one."""
    order = data.draw(st.permutations(range(len(grades))))
    gain_table = {grade: 2 ** max(0, grade) - 1 if gain == "exponential" else max(0, grade) for grade in range(-1, 6)}
    by_id = {f"{i:02}": gain_table[grade] for i, grade in enumerate(grades)}
    run = {f"{i:02}": float(-place) for place, i in enumerate(order)}
    theirs = ir_measures.calc_aggregate([ir_measures.nDCG @ depth], {"q": by_id}, {"q": run})[ir_measures.nDCG @ depth]
    assert ndcg([grades[i] for i in order], gain, depth) == pytest.approx(theirs, abs=1e-9)
    ours = measure({"q": {f"{i:02}": grade for i, grade in enumerate(grades)}}, {"q": [f"{i:02}" for i in order]}, gain=gain)
    listed = ndcg_of([grades], [[-order.index(i) for i in range(len(grades))]], gain)
    assert ours["nDCG@10"]["q"] == pytest.approx(listed[0], abs=1e-9)


def test_three_against_one_in_the_wrong_order():
    """The two definitions, by hand."""
    qrels, ranking = {"q": {"x": 3, "y": 1}}, {"q": ["y", "x"]}
    linear = (1 + 3 / math.log2(3)) / (3 + 1 / math.log2(3))
    exponential = (1 + 7 / math.log2(3)) / (7 + 1 / math.log2(3))
    assert measure(qrels, ranking)["nDCG@10"]["q"] == pytest.approx(linear) == pytest.approx(0.797, abs=1e-3)
    values = measure(qrels, ranking, gain="exponential")["nDCG@10"]["q"]
    assert values == pytest.approx(exponential) == pytest.approx(0.710, abs=1e-3)
    others = [measure(qrels, ranking, gain=gain) for gain in GAINS]
    assert all(others[0][name] == others[1][name] for name in ("MRR@10", "MAP", "R@100"))


@pytest.mark.parametrize(("gain", "worth"), [("linear", 0.5), ("exponential", 2**0.5 - 1)])
def test_a_label_between_two_grades_counts_as_it_is(gain, worth):
    """Half a grade is worth what the formula says of it, not a whole one."""
    want = (worth + 1 / math.log2(3)) / (1 + worth / math.log2(3))
    assert ndcg_of([[1.0, 0.5]], [[0.1, 0.2]], gain)[0] == pytest.approx(want)
    assert list(gains_of([0.5, -2, 0], gain)) == pytest.approx([worth, 0, 0])
    assert gains_of(torch.tensor([0.5, -2, 0]), gain).tolist() == pytest.approx([worth, 0, 0])


@pytest.mark.parametrize(("gain", "label"), [("linear", 2**20 + 1), ("exponential", 21), ("exponential", 5000)])
def test_labels_too_large_to_count_are_refused(gain, label):
    """Trec_eval keeps a counter for each gain up to the largest, and 2^label grows out of memory."""
    check_labels([label - 5 if label < 5000 else 20], gain, "x")
    with pytest.raises(DataError, match=f"x: label .* is too large for nDCG with {gain} gains"):
        check_labels([0, label], gain, "x")


def test_a_gain_that_is_unknown_is_named():
    calls = (lambda: measure(QRELS, {}, gain="log2"), lambda: evaluate(["nowhere"], gain="log2"), lambda: gains_of([1], "log2"))
    for call in calls:
        with pytest.raises(ConfigError, match="gain must be linear or exponential, not 'log2'"):
            call()


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
