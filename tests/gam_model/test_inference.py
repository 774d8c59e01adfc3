"""Intervals cover, tests find what is there, and both are mgcv's."""

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose

from gam_model import GAMClassifier, GAMRegressor


def simulate(family, seed, n=400):
    """Draw X, the mean of y, and a function that draws y."""
    rng = np.random.default_rng(seed)
    X = rng.uniform(size=(n, 3))
    eta = np.sin(2 * np.pi * X[:, 0]) + 2 * (X[:, 1] - 0.5)  # and nothing of the third
    if family == "gaussian":
        return X, eta, lambda: eta + rng.normal(scale=0.5, size=n)
    if family == "binomial":
        mu = 1 / (1 + np.exp(-eta))
        return X, mu, lambda: rng.binomial(1, mu).astype(float)
    mu = np.exp(1 + eta)
    if family == "poisson":
        return X, mu, lambda: rng.poisson(mu).astype(float)
    return X, mu, lambda: rng.gamma(4, mu / 4)


@pytest.mark.parametrize("family", ["gaussian", "binomial", "poisson", "gamma"])
def test_confidence_intervals_cover(family):
    """Averaged over rows and 100 sets, whose coverages differ with an sd of about 4 %."""
    covered = []
    for seed in range(100):
        X, mu, draw = simulate(family, seed, n=600)
        gam = GAMRegressor(family=family, df=12).fit(X, draw())
        low, high = gam.predict_interval(X).T
        covered.append(np.mean((low <= mu) & (mu <= high)))
    assert 0.93 < np.mean(covered) < 0.97


@pytest.mark.parametrize("family", ["gaussian", "poisson", "gamma"])
def test_prediction_intervals_cover(family):
    covered = []
    for seed in range(30):
        X, _, draw = simulate(family, seed)
        gam = GAMRegressor(family=family, df=12).fit(X, draw())
        low, high = gam.predict_interval(X, kind="prediction").T
        y = draw()
        covered.append(np.mean((low <= y) & (y <= high)))
    # Counts are whole numbers, and their intervals cover what is needed, or a little more.
    assert 0.93 < np.mean(covered) < (0.985 if family == "poisson" else 0.97)


def test_bands_of_terms_cover():
    covered = []
    for seed in range(60):
        X, _, draw = simulate("gaussian", seed)
        gam = GAMRegressor(df=12).fit(X, draw())
        curve = gam.terms()["x0"]
        truth = np.sin(2 * np.pi * curve["x"]) - np.sin(2 * np.pi * X[:, 0]).mean()
        covered.append(np.mean((curve["lower"] <= truth) & (truth <= curve["upper"])))
    assert 0.93 < np.mean(covered) < 0.98


def test_p_values_of_a_null_term_are_uniform():
    p_values = []
    for seed in range(200):
        X, _, draw = simulate("gaussian", seed, n=200)
        p_values.append(GAMRegressor(df=8).fit(X, draw()).summary_frame()["p_value"]["x2"])
    # 200 draws: an sd of .015 about .05, and of .035 about .5.
    assert 0.005 < np.mean(np.array(p_values) < 0.05) < 0.11
    assert 0.37 < np.mean(np.array(p_values) < 0.5) < 0.63


def test_null_deviance_knows_offsets():
    rng = np.random.default_rng(0)
    exposure = rng.uniform(0.1, 10, size=500)
    y = rng.poisson(2 * exposure).astype(float)
    gam = GAMRegressor(family="poisson").fit(rng.normal(size=(500, 1)), y, offset=np.log(exposure))
    rate = exposure * y.sum() / exposure.sum()
    expected = 2 * np.sum(y * np.log(np.where(y > 0, y / rate, 1)) - (y - rate))
    assert gam.statistics_.null_deviance == pytest.approx(expected)
    assert abs(gam.statistics_.explained) < 0.05


class TestExplain:
    @pytest.fixture
    def gam(self):
        rng = np.random.default_rng(0)
        X = pd.DataFrame(
            {
                "age": rng.uniform(20, 70, size=500),
                "job": rng.choice(["cook", "judge"], size=500),
                "noise": rng.normal(size=500),
            }
        )
        y = X["age"] / 10 + 3 * (X["job"] == "judge") + rng.normal(scale=0.1, size=500)
        return GAMRegressor().fit(X, y)

    def test_table(self, gam):
        row = pd.DataFrame({"age": [50.0], "job": ["judge"], "noise": [0.0]})
        table = gam.explain(row)
        assert list(table.index) == ["intercept", "job", "age", "noise", "eta"]
        assert list(table["value"][1:-1]) == ["judge", 50.0, 0.0]
        assert table["contribution"][:-1].sum() == pytest.approx(table["contribution"]["eta"])
        assert table["contribution"]["eta"] == gam.predict(row)[0]
        assert (table["lower"] < table["upper"]).all()
        ends = table.loc["eta", ["lower", "upper"]].astype(float)
        assert_allclose(ends, gam.predict_interval(row)[0])

    def test_one_row_only(self, gam):
        rows = pd.DataFrame({"age": [50.0, 1], "job": ["judge", "cook"], "noise": [0.0, 1]})
        with pytest.raises(ValueError, match="explain takes one row, got 2"):
            gam.explain(rows)

    def test_importances_rank(self, gam):
        age, job, noise = gam.feature_importances_
        assert job == pytest.approx(1.5, abs=0.05)
        assert age == pytest.approx(1.25, abs=0.1)
        assert noise < 0.05

    def test_summary(self, gam):
        text = gam.summary().as_text()
        for words in ("GAMRegressor", "Deviance explained", "AIC", "GCV", "P>F", "job", "ref df"):
            assert words in text
        assert "<table" in gam.summary().as_html()


def test_a_classifier_speaks_of_chi_square_and_probabilities():
    rng = np.random.default_rng(0)
    X = rng.uniform(-1, 1, size=(400, 2))
    y = np.where(X[:, 0] + rng.normal(size=400) > 0, "yes", "no")
    gam = GAMClassifier().fit(X, y)
    assert "P>chi2" in gam.summary().as_text()
    low, high = gam.predict_interval(X).T
    second = gam.predict_proba(X)[:, 1]
    assert ((low >= 0) & (low <= second) & (second <= high) & (high <= 1)).all()
    with pytest.raises(ValueError, match="is 0 or 1; ask for kind="):
        gam.predict_interval(X, kind="prediction")


@pytest.mark.parametrize("coverage", [0, 1, -0.5, 95, "0.95", True, np.nan])
def test_coverage_is_a_probability(coverage):
    gam = GAMRegressor().fit(np.arange(9.0)[:, None], np.arange(9.0))
    for ask in (gam.predict_interval, gam.explain):
        with pytest.raises(ValueError, match="coverage must be a number between 0 and 1"):
            ask([[1.0]], coverage=coverage)


def test_bands_widen_beyond_the_training_range(additive):
    X, y, _ = additive
    gam = GAMRegressor().fit(X, y)
    middle = np.tile(X.mean(axis=0), (3, 1))
    middle[:, 0] = X[:, 0].max() + np.array([0, 1, 2]) * np.ptp(X[:, 0])
    inside, near, far = np.diff(gam.predict_interval(middle))[:, 0]
    assert inside < near < far
