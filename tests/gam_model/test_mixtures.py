"""Tail probabilities of sums of chi-squared variables, against closed forms."""

import numpy as np
import pytest
from scipy import stats

from gam_model._mixtures import exceed

PROBABILITIES = [0.999, 0.5, 0.05, 1e-6, 1e-30, 1e-200]


@pytest.mark.parametrize("p", PROBABILITIES)
@pytest.mark.parametrize("n", [1, 2, 5, 50, 400])
def test_equal_weights_are_a_chi_square(n, p):
    x = stats.chi2.isf(p, n)
    assert exceed(3 * x, np.full(n, 3.0), np.ones(n)) == pytest.approx(p, rel=1e-7)
    assert exceed(x, np.ones(1), np.array([n])) == pytest.approx(p, rel=1e-7)


@pytest.mark.parametrize("p", PROBABILITIES[:4])
@pytest.mark.parametrize("residual_df", [3.5, 30, 1e4, 1e7])
@pytest.mark.parametrize("n", [1, 2, 5, 50, 400])
def test_an_estimated_scale_makes_it_an_f(n, residual_df, p):
    x = stats.f.isf(p, n, residual_df)
    weights, df = np.append(np.ones(n), -n * x / residual_df), np.append(np.ones(n), residual_df)
    assert exceed(0.0, weights, df) == pytest.approx(p, rel=1e-6)


@pytest.mark.parametrize("x", [1e-3, 1.0, 10.0, 100.0, 1000.0])
@pytest.mark.parametrize("weights", [[1.0, 3.0], [0.1, 0.5, 1, 2, 4], [5.0, 1e-3]])
def test_pairs_are_exponentials(weights, x):
    """Of two degrees of freedom each: P = sum_i prod_j a_i / (a_i - a_j) exp(-x / 2 a_i)."""
    expected = sum(
        np.prod([a / (a - b) for b in weights if b != a]) * np.exp(-x / 2 / a) for a in weights
    )
    found = exceed(x, np.array(weights), np.full(len(weights), 2))
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("negative", [[-1.0], [-0.01, -7.0], [-1e4, -2e4, -3e4]])
def test_differences_of_exponentials(negative):
    """P(sum > 0) is that sum over the positive weights."""
    positive = [0.3, 1.0, 2.5]
    weights = [*positive, *negative]
    expected = sum(np.prod([a / (a - b) for b in weights if b != a]) for a in positive)
    found = exceed(0.0, np.array(weights), np.full(len(weights), 2))
    assert found == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize("x", [-30.0, -3.0, -0.1, 0.1, 3.0, 30.0])
def test_shifted_ratio(x):
    """An independent way: average over the denominator."""
    n, residual_df, weight = 7.5, 40.0, 0.6
    u = (np.arange(200_000) + 0.5) / 200_000
    lower = x + weight * stats.chi2.ppf(u, residual_df)
    expected = stats.chi2.sf(lower, n).mean()
    found = exceed(x, np.array([1.0, -weight]), np.array([n, residual_df]))
    assert found == pytest.approx(expected, rel=1e-4)


def test_ends():
    one = np.ones(1)
    assert exceed(0.0, one, one) == 1.0
    assert exceed(-5.0, one, one) == 1.0
    assert exceed(1e20, one, one) == 0.0
