"""Intervals cover, tests find what is there, and both are mgcv's."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from scipy import stats

from gam_model import GAMClassifier, GAMRegressor, _inference

GOLDENS = Path(__file__).parent / "goldens"


def load(name):
    return json.loads((GOLDENS / f"{name}.json").read_text())


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


def draw_levels(seed, sd, n=400, n_levels=20, family="gaussian"):
    """Draw a column of text of which eta is a random effect, and y."""
    rng = np.random.default_rng(seed)
    level = rng.choice(n_levels, size=n, p=rng.dirichlet(np.full(n_levels, 3.0)))
    eta = rng.normal(scale=sd, size=n_levels)[level]
    X = pd.DataFrame({"level": [f"l{k}" for k in level]})
    if family == "gaussian":
        return X, eta + rng.normal(size=n)
    if family == "poisson":
        return X, rng.poisson(np.exp(eta)).astype(float)
    return X, rng.binomial(1, 1 / (1 + np.exp(-eta))).astype(float)


class TestEffects:
    """A column of text is tested as a random effect."""

    # The figures of the smooth term differ in the same digits: smoothing parameters of the
    # families other than gaussian are mgcv's but roughly; see test_smoothing.
    @pytest.mark.parametrize(
        ("name", "tolerance"),
        [
            ("levels_gaussian", 1e-3),
            ("levels_nested", 1e-3),
            ("levels_crossed", 0.1),
            ("levels_binary", 0.1),
        ],
    )
    def test_is_mgcvs(self, name, tolerance):
        golden = load(name)
        data = pd.DataFrame(golden["data"])
        gam = GAMRegressor(df=golden["k"], family=golden["family"])
        frame = gam.fit(data[golden["features"]], data["y"]).summary_frame()
        assert_allclose(frame["ref_df"], golden["ref_df"], rtol=tolerance)
        # Of effects without variance the statistic goes to 0 with the variance's estimate.
        there = np.array(golden["edf"]) > 1e-3
        assert_allclose(
            frame["statistic"][there], np.array(golden["statistic"])[there], rtol=tolerance
        )
        assert_allclose(frame["p_value"], golden["p_value"], rtol=tolerance, atol=1e-6)

    @pytest.mark.parametrize("family", ["gaussian", "poisson", "binomial"])
    def test_p_values_are_uniform_where_nothing_is(self, family):
        p_values = []
        for seed in range(400):
            X, y = draw_levels(seed, 0.0, family=family)
            p_values.append(
                GAMRegressor(family=family).fit(X, y).summary_frame()["p_value"].item()
            )
        # 400 draws: an sd of .011 about .05, and of .025 about .5.
        assert 0.017 < np.mean(np.array(p_values) < 0.05) < 0.083
        assert 0.425 < np.mean(np.array(p_values) < 0.5) < 0.575

    def test_finds_what_an_analysis_of_variance_finds(self):
        found = []
        for seed in range(200):
            X, y = draw_levels(seed, 0.25)
            groups = [y[X["level"] == level] for level in X["level"].unique()]
            ours = GAMRegressor().fit(X, y).summary_frame()["p_value"]["level"]
            found.append((ours < 0.05, stats.f_oneway(*groups).pvalue < 0.05))
        ours, theirs = np.mean(found, axis=0)
        assert ours > 0.7
        assert ours > theirs - 0.03

    @pytest.mark.parametrize("family", ["gaussian", "poisson"])
    def test_many_levels_by_moments(self, family, monkeypatch):
        X, y = draw_levels(0, 0.17, n=1500, n_levels=300, family=family)
        exact = GAMRegressor(family=family).fit(X, y).summary_frame().loc["level"]
        monkeypatch.setattr(_inference, "_FEW_EFFECTS", 10)
        near = GAMRegressor(family=family).fit(X, y).summary_frame().loc["level"]
        assert 1e-6 < exact["p_value"] < 1e-2
        assert near["p_value"] == pytest.approx(exact["p_value"], rel=0.2)
        assert near["statistic"] == pytest.approx(exact["statistic"])

    def test_missing_cells_of_a_constant_column(self):
        rng = np.random.default_rng(0)
        x = np.where(rng.random(500) < 0.3, np.nan, 1.0)
        y = 0.2 * np.isnan(x) + rng.normal(size=500)
        ours = GAMRegressor().fit(x[:, None], y).summary_frame().loc["x0"]
        assert ours["ref_df"] == 1
        theirs = stats.ttest_ind(y[np.isnan(x)], y[~np.isnan(x)]).pvalue
        assert ours["p_value"] == pytest.approx(theirs, rel=0.05)

    @pytest.mark.parametrize("alpha", [1e-6, 1e12])
    def test_whatever_the_penalty(self, alpha):
        X, y = draw_levels(0, 0.25)
        frame = GAMRegressor(alpha=alpha).fit(X, y).summary_frame()
        groups = [y[X["level"] == level] for level in X["level"].unique()]
        assert frame["ref_df"]["level"] == len(groups) - 1
        if alpha < 1:  # not held back, effects are those of an analysis of variance
            test = stats.f_oneway(*groups)
            assert frame["statistic"]["level"] == pytest.approx(test.statistic)
            assert frame["p_value"]["level"] == pytest.approx(test.pvalue)
        assert 0 < frame["p_value"]["level"] < 0.05


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
    with pytest.raises(ValueError, match="is 0 or 1; use kind="):
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
