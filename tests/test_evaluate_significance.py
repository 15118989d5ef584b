"""Significance: against scipy's permutation test, Holm by hand, coverage of the bootstrap interval."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prorank.errors import DataError
from prorank.evaluate.significance import bootstrap_ci, holm, randomisation_test


def _scipy_p(a, b, **how):
    stats = pytest.importorskip("scipy.stats")
    return stats.permutation_test(
        (a, b), lambda x, y, axis: np.mean(x - y, axis=axis), permutation_type="samples", vectorized=True, **how
    ).pvalue


@pytest.mark.parametrize("n", [2, 5, 11, 13])
def test_exact_equals_scipy(n):
    rng = np.random.default_rng(n)
    a, b = rng.random(n), rng.random(n)
    assert randomisation_test(a, b) == pytest.approx(_scipy_p(a, b, n_resamples=np.inf), abs=1e-12)


def test_exact_with_zeros_and_equal_differences():
    """Values on a grid give sums that are equal on paper, and zeros that have no sign."""
    a, b = np.array([0.3, 0.6, 0.9, 0.5, 0.5]), np.array([0.2, 0.7, 0.6, 0.5, 0.5])
    assert randomisation_test(a, b) == pytest.approx(_scipy_p(a, b, n_resamples=np.inf), abs=1e-12)
    assert randomisation_test([0.1, 0.2], [0.1, 0.2]) == 1.0


def test_monte_carlo_agrees_with_scipy_and_is_seeded():
    rng = np.random.default_rng(7)
    a = rng.random(60)
    b = a - 0.03 + 0.12 * rng.standard_normal(60)
    ours = randomisation_test(a, b, seed=1)
    theirs = _scipy_p(a, b, n_resamples=20_000, rng=np.random.default_rng(3))
    assert ours == pytest.approx(theirs, abs=4 * np.sqrt(theirs * (1 - theirs) / 10_000) + 1e-3)
    assert randomisation_test(a, b, seed=1) == ours != randomisation_test(a, b, seed=2)


def test_smallest_p_is_not_zero():
    assert randomisation_test(np.ones(50), np.zeros(50), flips=10_000) == 1 / 10_001


def test_under_the_null_p_is_uniform_enough():
    rng = np.random.default_rng(0)
    p_values = [randomisation_test(rng.random(10), rng.random(10)) for _ in range(400)]
    assert np.mean(np.array(p_values) <= 0.1) == pytest.approx(0.1, abs=4 * np.sqrt(0.09 / 400))


def test_wrong_input_is_refused():
    for a, b in (([1.0], [1.0, 2.0]), ([], []), ([np.nan], [0.0])):
        with pytest.raises(DataError, match="paired test"):
            randomisation_test(a, b)
    with pytest.raises(DataError, match="interval"):
        bootstrap_ci([])


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == [] and holm([0.2]) == [0.2]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_never_lowers_p_and_keeps_its_order(p_values):
    adjusted = holm(p_values)
    assert all(p <= q <= 1 for p, q in zip(p_values, adjusted))
    order = np.argsort(p_values, kind="stable")
    assert all(np.diff(np.array(adjusted)[order]) >= 0)
    assert max(adjusted) <= min(1, len(p_values) * max(p_values)) + 1e-12


def test_bootstrap_interval_covers_the_mean():
    rng = np.random.default_rng(0)
    intervals = [bootstrap_ci(rng.random(40), resamples=1000, seed=i) for i in range(200)]
    assert np.mean([low <= 0.5 <= high for low, high in intervals]) == pytest.approx(0.94, abs=0.06)
    assert bootstrap_ci([0.3] * 5) == pytest.approx((0.3, 0.3))
