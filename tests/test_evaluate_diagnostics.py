"""Diagnostics: effective rank and cosine at their extremes, ties, orders by answers alone."""

import numpy as np
import pytest

from prorank.errors import DataError
from prorank.evaluate.diagnostics import answers_only, diagnose, effective_rank, format_rate, mean_cosine, tie_share
from tests.evaluate_toy import Fake


def test_effective_rank_at_its_extremes():
    line = np.outer(np.arange(10.0), [1, 2, 3])
    assert effective_rank(line) == pytest.approx(1, abs=1e-6)
    assert effective_rank(np.ones((6, 4))) == 0
    simplex = np.eye(5)  # centred, its 4 directions are equally strong
    assert effective_rank(simplex) == pytest.approx(4)
    assert effective_rank(3 * simplex + 100) == pytest.approx(4)  # neither scale nor place matter


def test_effective_rank_follows_its_formula():
    hidden = np.random.default_rng(0).standard_normal((20, 6)) * [5, 3, 1, 1, 0.1, 0.01]
    s = np.linalg.svd(hidden - hidden.mean(0), compute_uv=False)
    p = s / s.sum()
    assert effective_rank(hidden) == pytest.approx(np.exp(-(p * np.log(p)).sum()))


def test_mean_cosine_equals_the_mean_over_pairs():
    hidden = np.random.default_rng(1).standard_normal((7, 5)) + 0.5
    directions = hidden / np.linalg.norm(hidden, axis=1, keepdims=True)
    pairs = [directions[i] @ directions[j] for i in range(7) for j in range(7) if i != j]
    assert mean_cosine(hidden) == pytest.approx(np.mean(pairs))
    assert mean_cosine(np.array([[1.0, 0], [0, 1]])) == pytest.approx(0)
    assert np.isnan(mean_cosine(np.ones((1, 3))))


def test_tie_share_counts_documents_within_a_query():
    assert tie_share({"a": [1.0, 1.0, 2.0], "b": [1.0]}) == 0.5
    assert tie_share({}) == 0.0
    assert tie_share({"a": np.float32([0.1, np.nextafter(np.float32(0.1), 1)])}) == 0.0


def test_answers_only_keeps_first_stage_order_among_equals():
    assert answers_only([-1.0, 3.0, 0.0, 0.5]).tolist() == [1, 3, 0, 2]


def test_diagnose_sums_up_the_pairs():
    findings = diagnose(Fake(), ["a", "b"], [["the baker", "x"], ["y", "z"]])
    assert (findings.pairs, findings.format_rate, findings.relevant_share, findings.format_mass) == (4, 0.75, 0.25, 0.5)
    assert 0 < findings.effective_rank <= 3 and format_rate([True, False]) == 0.5
    with pytest.raises(DataError, match="no pairs"):
        diagnose(Fake(), ["a"], [[]])
