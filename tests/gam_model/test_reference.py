"""The fit is statsmodels' own, and finds a simulated truth."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import stats
from sklearn.model_selection import train_test_split
from statsmodels.gam.api import BSplines, GLMGam

from gam_model import GAMRegressor


def fit_glmgam(X, y, df, alpha, degree=3):
    p = X.shape[1]
    splines = BSplines(X, df=[df] * p, degree=[degree] * p, include_intercept=False)
    return GLMGam(y, exog=np.ones((len(y), 1)), smoother=splines, alpha=alpha).fit()


def assert_same_predictions(X, y, df, alpha, degree=3):
    gam = GAMRegressor(df=df, alpha=alpha, degree=degree, solver="statsmodels").fit(X, y)
    reference = fit_glmgam(X, y, df, alpha, degree)
    assert_allclose(gam.predict(X), reference.predict(), rtol=1e-10)
    between = np.random.default_rng(1).uniform(X.min(axis=0), X.max(axis=0), size=X.shape)
    expected = reference.predict(np.ones((len(X), 1)), between)
    assert_allclose(gam.predict(between), expected, rtol=1e-10)


@pytest.mark.parametrize("alpha", [1e-3, 1, 1e3])
@pytest.mark.parametrize("df", [4, 15, 40])
class TestGLMGam:
    def test_gauss3(self, gauss3, df, alpha):
        assert_same_predictions(*gauss3, df, alpha)

    def test_five_features(self, additive, df, alpha):
        X, y, _ = additive
        assert_same_predictions(X, y, df, alpha)


@pytest.mark.parametrize("degree", [2, 4, 5])
def test_other_degrees(gauss3, degree):
    assert_same_predictions(*gauss3, df=15, alpha=1.0, degree=degree)


@pytest.mark.parametrize("solver", ["stream", "statsmodels"])
def test_figures_of_merit_are_statsmodels(additive, solver):
    X, y, _ = additive
    gam = GAMRegressor(alpha=0.1, solver=solver).fit(X, y)
    theirs = fit_glmgam(X, y, 15, 0.1)
    assert gam.statistics_.deviance == pytest.approx(theirs.deviance, rel=1e-8)
    assert gam.statistics_.null_deviance == pytest.approx(theirs.null_deviance, rel=1e-8)
    assert 1 + gam.edf_.sum() == pytest.approx(theirs.edf.sum(), rel=1e-8)
    assert gam.scale_ == pytest.approx(theirs.scale, rel=1e-8)
    # Its covariance is of the coefficients before centring.
    design = np.column_stack([np.ones(len(y)), theirs.model.smoother.basis])
    expected = np.einsum("ij,jk,ik->i", design, theirs.cov_params(), design) ** 0.5
    half = gam.predict_interval(X) @ [-0.5, 0.5]
    assert_allclose(half, stats.norm.ppf(0.975) * expected, rtol=1e-7)


def test_recovers_curves(additive):
    X, y, truth = additive
    gam = GAMRegressor(alpha=1e-3).fit(X, y)
    error = gam.contributions(X) - (truth - truth.mean(axis=0))
    # 10 functions or so a curve from 800 rows: sd of about .1 sqrt(10 / 800) = .011
    assert np.sqrt((error**2).mean(axis=0)).max() < 0.02
    assert gam.intercept_ == pytest.approx(y.mean(), rel=1e-12)


def test_gauss3_test_score(gauss3):
    X, y = gauss3
    X, X_test, y, y_test = train_test_split(X, y, random_state=np.random.RandomState(42))
    assert GAMRegressor().fit(X, y).score(X_test, y_test) > 0.99


def test_strong_penalty_leaves_a_straight_line(gauss3):
    X, y = gauss3
    eta = GAMRegressor(alpha=1e12).fit(X, y).predict(X)
    assert_allclose(eta, np.polyval(np.polyfit(X[:, 0], y, 1), X[:, 0]), rtol=1e-4)
