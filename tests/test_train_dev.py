"""Dev measures: nDCG@10 as by ir-measures, and no credit for repeating the input order.

Files contain relevant documents first, so an unchanged order, or ties, would be perfect.
"""

import ir_measures
import numpy as np
import pytest
import torch

from prorank.data.examples import Group
from prorank.evaluate.measures import ndcg_of
from prorank.prompts.prompt import Prompt
from prorank.train.dev_set import DevSet

GROUPS = [Group(f"query {i}", tuple(f"document {i} {j}" for j in range(12)), (2.0, 1.0) + 10 * (0.0,)) for i in range(30)]


def measured(monkeypatch: pytest.MonkeyPatch, score, groups: list[Group] = GROUPS, **how) -> float:
    """nDCG@10 on a dev set of the model that a function from a list's documents to scores stands for."""

    class Model:
        thinks = False
        score_lists = staticmethod(lambda queries, rows: [np.asarray(score(row), np.float32) for row in rows])

    monkeypatch.setattr("prorank.train.dev_set.Reranker.of", lambda *given, **more: Model())
    return DevSet(groups, Prompt.preset("setwise"), None, False, **how).measure(torch.nn.Linear(1, 1))["ndcg@10"]


def rank(document: str) -> int:
    return int(document.split()[-1])


@pytest.mark.parametrize("place", [1, 0], ids=["the order shown", "all alike"])
def test_an_uninformed_model_gets_a_low_ndcg(monkeypatch, place):
    assert 0.2 < measured(monkeypatch, lambda row: -place * np.arange(len(row))) < 0.6


def test_a_perfect_model_gets_1_and_its_opposite_the_minimum(monkeypatch):
    assert measured(monkeypatch, lambda row: [-rank(d) for d in row]) == pytest.approx(1.0)
    assert measured(monkeypatch, lambda row: [rank(d) for d in row]) == 0


def test_the_order_is_the_same_each_time(monkeypatch):
    seen: list[list[str]] = []
    for _ in range(2):
        measured(monkeypatch, lambda row: seen.append(list(row)) or np.zeros(len(row)))
    assert seen[:30] == seen[30:] and len({tuple(map(rank, row)) for row in seen}) > 20


def test_long_lists_keep_relevant_documents_up_to_half(monkeypatch):
    long = [Group("a query", tuple(f"document {j}" for j in range(40)), 20 * (1.0,) + 20 * (0.0,))]
    kept: list[str] = []
    measured(monkeypatch, lambda row: kept.extend(row) or np.zeros(len(row)), long, limit=8)
    assert sorted(map(rank, kept)) == [0, 1, 2, 3, 20, 21, 22, 23]


@pytest.mark.parametrize(("gain", "worth"), [("linear", 2), ("exponential", 3)])
def test_the_gain_of_the_settings_is_the_dev_figures(monkeypatch, gain, worth):
    """Grades 2 and 1 in the wrong order."""
    found = measured(monkeypatch, lambda row: [{1: 2, 0: 1}.get(rank(d), 0) for d in row], gain=gain)
    assert found == pytest.approx((1 + worth / np.log2(3)) / (worth + 1 / np.log2(3)))


def test_ndcg_is_that_of_ir_measures():
    rng = np.random.default_rng(0)
    labels, scores = rng.integers(0, 4, (20, 15)), rng.permuted(np.tile(np.arange(15.0), (20, 1)), axis=1)
    labels[:, 0] = 1
    qrels = {str(i): {str(j): int(label) for j, label in enumerate(row)} for i, row in enumerate(labels)}
    run = {str(i): {str(j): float(s) for j, s in enumerate(row)} for i, row in enumerate(scores)}
    want = {found.query_id: found.value for found in ir_measures.iter_calc([ir_measures.nDCG @ 10], qrels, run)}
    np.testing.assert_allclose(ndcg_of(labels, scores), [want[str(i)] for i in range(20)])


def test_a_label_between_grades_is_relevant():
    assert ndcg_of([[0.5, 0.0], [0.0, 0.2]], [[1.0, 2.0], [1.0, 2.0]]) == pytest.approx([1 / np.log2(3), 1.0])
