"""Automatic smoothing finds what mgcv's REML finds."""

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose

from gam_model import GAMRegressor

GOLDENS = Path(__file__).parent / "goldens"


def load(name):
    return json.loads((GOLDENS / f"{name}.json").read_text())


def fit(golden, **parameters):
    X = np.column_stack([golden["data"][name] for name in golden["features"]])
    weight = golden["data"].get("weights")
    if weight is not None:  # ours count rows, so they must sum to their number
        weight = np.array(weight) / np.mean(weight)
    family = golden["name"] if golden.get("parameters") else golden["family"]
    gam = GAMRegressor(
        df=golden["k"], alpha="auto", family=family, link=golden["link"], **parameters
    )
    return gam.fit(X, np.array(golden["data"]["y"]), sample_weight=weight), X


# mgcv optimises the Laplace approximation of the restricted likelihood; the Fellner-Schall
# updates that of the working model, which is the same for the gaussian family and near it for the
# others. Knots are quantiles, of weighted rows here and of all rows alike there.
# For quasi families its criterion is an extended quasi-likelihood.
# In standard errors of the curve.
@pytest.mark.parametrize(
    ("name", "tolerance"),
    [
        ("gauss3", 1e-3),
        ("null_term", 5e-3),
        ("linear_term", 5e-3),
        ("weights", 0.1),
        ("counts", 0.02),
        ("gamma", 0.02),
        ("binary", 0.1),
        ("quasipoisson", 0.1),
        ("quasibinomial", 0.1),
        ("negative_binomial", 0.1),
        ("tweedie", 0.1),
        ("scaled_t", 0.1),
    ],
)
def test_curves_are_mgcvs(name, tolerance):
    golden = load(name)
    gam, X = fit(golden)
    for j, feature in enumerate(golden["features"]):
        term = golden["terms"][feature]
        rows = np.tile(X.mean(axis=0), (50, 1))
        rows[:, j] = term["grid"]
        # mgcv centres over the rows, whatever their weight.
        curve = gam.contributions(rows)[:, j] - gam.contributions(X)[:, j].mean()
        assert abs(curve - term["fit"]).max() < tolerance * max(term["se"])
    assert_allclose(gam.edf_, golden["edf"], atol=2 * tolerance)
    unit = np.mean(golden["data"].get("weights", 1))
    if name != "scaled_t":  # of which mgcv calls the scale sigma^2; see below
        assert_allclose(gam.scale_ * unit, golden["scale"], rtol=tolerance)


@pytest.mark.parametrize(
    ("name", "tolerance"),
    [
        ("gauss3", 1e-5),
        ("null_term", 1e-3),
        ("linear_term", 1e-3),
        ("counts", 1e-2),
        ("gamma", 1e-2),
        ("binary", 5e-2),
        ("quasipoisson", 5e-2),
        ("quasibinomial", 5e-2),
        ("negative_binomial", 5e-2),
        ("tweedie", 5e-2),
        ("scaled_t", 5e-2),
    ],
)
def test_tables_are_mgcvs(name, tolerance):
    """As close as the smoothing parameters are; see test_smoothing."""
    golden = load(name)
    gam, _ = fit(golden)
    frame, statistics = gam.summary_frame(), gam.statistics_
    assert_allclose(frame["ref_df"], golden["ref_df"], rtol=tolerance)
    unit, statistic = 1.0, np.array(golden["statistic"])
    if name == "scaled_t":  # mgcv takes its scale as known
        unit, statistic = golden["parameters"][1] ** 2, statistic / golden["ref_df"]
    assert_allclose(frame["statistic"], statistic, rtol=tolerance)
    # R prints what is below 1e-16 as 0.
    assert_allclose(frame["p_value"], golden["p_value"], atol=max(1e-6, tolerance / 100))
    if golden["aic"] is None:
        assert np.isnan([statistics.aic, statistics.log_likelihood]).all()
    else:
        learned = len(golden.get("parameters", []))  # which mgcv does not count
        assert statistics.aic - 2 * learned == pytest.approx(golden["aic"], abs=1)
    near = {"rel": tolerance} if golden.get("parameters") else {}
    assert statistics.null_deviance == pytest.approx(golden["null_deviance"] * unit, **near)
    assert statistics.deviance == pytest.approx(golden["deviance"] * unit, rel=tolerance)
    for j, curve in enumerate(golden["terms"].values()):
        variance = gam._posterior.term_variance(j, np.array(curve["grid"]))
        assert_allclose(np.sqrt(variance), curve["se"], rtol=tolerance)


@pytest.mark.parametrize("name", ["negative_binomial", "tweedie", "scaled_t"])
def test_parameters_of_families_are_mgcvs(name):
    golden = load(name)
    gam, _ = fit(golden)
    shape, *sigma = golden["parameters"]
    assert float(gam._family.removeprefix(name).strip("()")) == pytest.approx(shape, rel=0.02)
    assert gam.scale_ == pytest.approx(sigma[0] ** 2 if sigma else golden["scale"], rel=0.03)


def test_a_null_term_has_no_curve_and_no_slope():
    golden = load("null_term")
    gam, X = fit(golden)
    assert gam.edf_[1] == pytest.approx(1, abs=1e-3)
    assert np.ptp(gam.contributions(X)[:, 1]) < 4 * max(
        golden["terms"][golden["features"][1]]["se"]
    )


def test_a_linear_term_is_a_straight_line():
    gam, X = fit(load("linear_term"))
    line = np.polyfit(X[:, 0], gam.contributions(X)[:, 0], 1)
    assert_allclose(gam.contributions(X)[:, 0], np.polyval(line, X[:, 0]), atol=1e-4)
    assert line[0] == pytest.approx(2, abs=0.1)


@pytest.mark.parametrize("criterion", ["reml", "gcv"])
@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_units_do_not_matter(additive, criterion, scale):
    X, y, _ = additive
    plain = GAMRegressor(alpha="auto", criterion=criterion).fit(X, y)
    other = GAMRegressor(alpha="auto", criterion=criterion).fit(X * scale, y * scale + 1e9 * scale)
    assert_allclose(other.predict(X * scale) / scale - 1e9, plain.predict(X), atol=1e-4)
    assert_allclose(other.edf_, plain.edf_, atol=1e-3)


@pytest.mark.parametrize("criterion", ["reml", "gcv"])
def test_recovers_curves(additive, criterion):
    X, y, truth = additive
    gam = GAMRegressor(alpha="auto", criterion=criterion).fit(X, y)
    error = gam.contributions(X) - (truth - truth.mean(axis=0))
    assert np.sqrt((error**2).mean(axis=0)).max() < 0.02


def test_gcv_is_at_its_minimum(additive):
    X, y, _ = additive
    best = GAMRegressor(alpha="auto", criterion="gcv").fit(X, y)

    def score(alpha):
        gam = GAMRegressor(alpha=alpha, solver="stream").fit(X, y)
        rss = np.sum((y - gam.predict(X)) ** 2)
        return len(y) * rss / (len(y) - 1 - gam.edf_.sum()) ** 2

    least = score(best.alpha_)
    for j in range(X.shape[1]):
        for factor in (0.8, 1.25):
            alpha = best.alpha_.copy()
            alpha[j] *= factor
            assert score(alpha) >= least * (1 - 1e-9)


def test_fewer_rows_than_coefficients(additive):
    X, y, _ = additive
    gam = GAMRegressor(alpha="auto").fit(X[:40], y[:40])
    assert np.isfinite(gam.predict(X)).all()
    assert (gam.edf_ > 0).all()
