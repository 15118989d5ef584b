"""The listwise likelihood: units of scores do not count, a better order is likelier, no order is a uniform guess.

The slope is checked against a grid, not against the bisection that finds it.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prorank.evaluate.list_likelihood import log_likelihood

LABELS = [[1, 0, 0], [0, 2, 1, 0], [0, 0, 1, 0, 0]]


def drawn(seed, clear=1.0):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=len(row)) + clear * np.array(row) for row in LABELS]


def at(slope, scores, gain="linear"):
    """The definition, list by list."""
    values = []
    for row, labels in zip(scores, LABELS):
        gains = np.exp2(labels) - 1 if gain == "exponential" else np.array(labels)
        values.append((gains / gains.sum() * (slope * row - np.logaddexp.reduce(slope * row))).sum())
    return np.array(values)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.01, 100), st.floats(-50, 50))
def test_units_and_origin_of_scores_do_not_count(seed, scale, origin):
    scores = drawn(seed)
    others = [scale * row + origin for row in scores]
    np.testing.assert_allclose(log_likelihood(others, LABELS), log_likelihood(scores, LABELS), atol=1e-6)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(["linear", "exponential"]))
def test_the_slope_is_the_best_one(seed, gain):
    scores = drawn(seed)
    best = max(at(slope, scores, gain).mean() for slope in [0, *np.geomspace(1e-3, 3e3, 2000)])
    assert log_likelihood(scores, LABELS, gain).mean() == pytest.approx(best, abs=1e-3)


def test_an_order_that_tells_nothing_is_a_uniform_guess():
    uniform = -np.log([3, 4, 5])
    for scores in ([np.zeros(n) for n in (3, 4, 5)], [-np.array(row, float) for row in LABELS]):
        np.testing.assert_allclose(log_likelihood(scores, LABELS), uniform)
    assert log_likelihood(drawn(0, clear=9.0), LABELS).mean() > uniform.mean() + 0.5


def test_a_list_without_relevant_documents_has_value_0():
    values = log_likelihood([[1.0, 0.0], [3.0, 1.0]], [[0, 0], [1, 0]])
    assert values[0] == 0 and values[1] == pytest.approx(0, abs=1e-6)
