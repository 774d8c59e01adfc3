"""What is asked of single features: shapes, straight lines, knots, terms that may vanish."""

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import optimize

from gam_model import GAMClassifier, GAMRegressor
from gam_model._families import find_family
from gam_model._links import LINKS
from gam_model.page import write_page
from gam_model.report import write_report
from program_toolkit.limits import find_far

GRID = np.linspace(-0.5, 1.5, 2001)  # the training range is 0 to 1


def draw(seed, n=200, noise=0.5):
    rng = np.random.default_rng(seed)
    X = rng.uniform(size=(n, 2))
    truth = 1 / (1 + np.exp(-12 * (X[:, 0] - 0.5)))
    return X, truth + np.sin(6 * X[:, 1]) + rng.normal(scale=noise, size=n), truth


def across(j):
    """Return rows in which only feature j varies."""
    rows = np.full((len(GRID), 2), 0.5)
    rows[:, j] = GRID
    return rows


def test_a_rising_truth_is_found_with_less_error_and_never_falls():
    errors = []
    for seed in range(100):
        X, y, truth = draw(seed)
        plain, rising = GAMRegressor().fit(X, y), GAMRegressor(monotonic_cst={"x0": 1}).fit(X, y)
        curve = rising.predict(across(0))
        assert np.diff(curve).min() >= -1e-14 * abs(curve).max()  # but for rounding
        assert (np.diff(rising.terms_.terms[0].coef) >= 0).all()
        centred = truth - truth.mean()
        errors.append(
            [np.mean((gam.contributions(X)[:, 0] - centred) ** 2) for gam in (plain, rising)]
        )
    plain, rising = np.mean(errors, axis=0)
    assert rising < 0.95 * plain


@pytest.mark.parametrize("family", ["gaussian", "poisson", "scaled_t"])
@pytest.mark.parametrize("shape", [{"monotonic_cst": [-1, 0]}, {"convex_cst": {"x0": 1}}])
def test_a_constrained_fit_is_the_minimum_within_the_constraint(family, shape):
    """Found anew by a general optimiser, in the coordinates of the fit."""
    X, y, _ = draw(1)
    y = np.floor(np.exp(y)) if family == "poisson" else y
    gam = GAMRegressor(family=family, df=8, alpha=0.01, **shape).fit(X, y)
    basis, frozen = gam._posterior.basis, gam.terms_
    weights = np.full(len(basis.owners), 0.02)
    law = {"gaussian": 1.0, "poisson": 1.0, "scaled_t": gam.scale_}[family]
    design = np.column_stack(
        [np.ones(len(X)), *(
            term.design(X[:, j], "linear", None)[:, 1:] for j, term in enumerate(basis.terms)
        )]
    )  # fmt: skip
    design[:, : basis.n_dense] = design @ basis.rotation
    found_family, link = find_family(gam._family)[0], LINKS[frozen.link]
    if found_family.unknown is not None:
        found_family = found_family.unknown.build(np.log(law))

    def loss(b):
        mu = link.inverse(design @ b)
        return np.sum(found_family.unit_deviance(y, mu)) + basis.penalize(weights) @ b**2

    constraints = basis.constraints()
    start = np.zeros(design.shape[1])
    start[0] = frozen.intercept
    best = optimize.minimize(
        loss, start, method="SLSQP", options={"maxiter": 2000, "ftol": 1e-12},
        constraints=optimize.LinearConstraint(constraints, 0, np.inf),
    )  # fmt: skip
    ours = loss(np.linalg.lstsq(design, frozen.eta(X), rcond=None)[0])
    assert ours <= best.fun * (1 + 1e-6)
    free = GAMRegressor(family=family, df=8, alpha=0.01).fit(X, y)
    assert abs(free.predict(X) - gam.predict(X)).max() > 1e-3  # the constraint has something to do


def test_a_shape_that_the_rows_have_anyway_changes_nothing():
    X, y, _ = draw(0, noise=0.01)
    y = X[:, 0] + np.sin(6 * X[:, 1])
    plain = GAMRegressor(atoms=None, warp=None).fit(X, y)
    shaped = GAMRegressor(atoms=None, warp=None, monotonic_cst=[1, 0]).fit(X, y)
    assert_array_equal(plain.predict(X), shaped.predict(X))


@pytest.mark.parametrize("sign", [1, -1])
def test_convex_and_concave_curves_bend_one_way_only(sign):
    X, y, _ = draw(3)
    gam = GAMRegressor(convex_cst={"x1": sign}).fit(X, y)
    bends = sign * np.diff(gam.terms_.eta(across(1)), 2)
    assert bends.min() > -1e-12
    assert bends.max() > 1e-6


@pytest.mark.parametrize("link", ["log", "inverse"])
def test_the_prediction_rises_whichever_way_the_link_goes(link):
    X, y, _ = draw(4)
    gam = GAMRegressor(family="gamma", link=link, monotonic_cst=[1, 0]).fit(X, np.exp(y / 4))
    inside = across(0)[(GRID > 0.02) & (GRID < 0.98)]
    steps = np.diff(gam.predict(inside))
    assert steps.min() >= -1e-13
    assert steps.max() > 0


def test_a_classifier_and_its_missing_cells_and_levels(tmp_path):
    rng = np.random.default_rng(0)
    X, y, _ = draw(5, n=400)
    frame = pd.DataFrame(X, columns=["age", "dose"])
    frame.loc[::9, "age"] = np.nan
    frame["town"] = rng.choice([f"t{k}" for k in range(60)], size=400)  # stands apart
    frame["level"] = rng.choice(["a", "b"], size=400)
    gam = GAMClassifier(monotonic_cst={"age": -1}, linear=["dose"]).fit(frame, y > 0.5)
    rows = frame.iloc[[0] * 500].assign(age=np.linspace(-1, 2, 500))
    steps = np.diff(gam.predict_proba(rows)[:, 1])
    assert steps.max() <= 1e-14
    assert len(gam.terms_.terms[1].coef) == 2
    write_page(gam, tmp_path / "page.html", frame)  # a curve like others


def test_rows_of_large_data_and_chunks_keep_the_shape():
    X, y, _ = draw(6, n=1200)
    y = np.floor(np.exp(y))
    how = {"family": "poisson", "monotonic_cst": [-1, 0]}
    whole = GAMRegressor(**how).fit(X, y)
    chunked = GAMRegressor(**how).fit_chunks([(X[k::3], y[k::3]) for k in range(3)])
    assert_allclose(chunked.predict(X), whole.predict(X), rtol=1e-5)
    assert np.diff(chunked.predict(across(0))).max() <= 1e-14


def test_select_drops_terms_without_effect_and_keeps_the_others():
    kept, dropped = [], []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        X = rng.normal(size=(300, 6))
        gam = GAMRegressor(select=True).fit(
            X, np.sin(X[:, 0]) + 0.5 * X[:, 1] + rng.normal(size=300)
        )
        kept.append(gam.edf_[:2])
        dropped.append(gam.edf_[2:])
    assert np.min(kept) > 0.8
    assert np.median(dropped) < 0.01
    assert np.mean(dropped) < 0.5


def test_what_is_asked_of_single_features():
    X, y, _ = draw(7)
    gam = GAMRegressor(
        df={"x0": 30}, degree={1: 2}, alpha={"x1": 0.1}, extrapolate={"x0": "constant"},
        knots={"x1": [0.2, 0.7]},
    ).fit(X, y)  # fmt: skip
    first, second = gam.terms_.terms
    assert len(first.coef) == 30
    assert_allclose(second.knots[3:-3], [0.2, 0.7])
    assert gam.alpha_[1] == pytest.approx(0.1)
    assert gam.alpha_[0] not in (0.1, 0.2)
    ends = gam.predict(across(0))[[-1, -2]]
    assert ends[0] == ends[1]
    assert np.ptp(gam.predict(across(1))[-2:]) > 0
    band = gam._posterior.term_variance(0, np.array([2.0, 3.0]))
    assert band[0] == band[1]
    same = GAMRegressor(
        df=[30, 15], degree=[3, 2], alpha=["auto", 0.1], extrapolate=["constant", "linear"],
        knots={1: [0.2, 0.7]},
    ).fit(X, y)  # fmt: skip
    assert_array_equal(same.predict(X), gam.predict(X))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"df": {"z": 9}}, "df names the feature 'z', but X has the features 'x0', 'x1'"),
        ({"df": {"x0": 3}}, "df must be an integer of at least degree \\+ 1 = 4, got df=3"),
        ({"alpha": {"x0": -1}}, "alpha must be a positive finite number"),
        ({"knots": {"x1": [0.2, 1.7]}}, "knots of 'x1' must lie inside its range, from"),
        ({"knots": {"x1": [0.7, 0.2]}}, "knots of 'x1' must be finite numbers in ascending order"),
        ({"knots": [0.5]}, "knots must be a dict"),
        ({"monotonic_cst": [1, 0, 0]}, "monotonic_cst must have one number per feature, 2"),
        ({"monotonic_cst": {"x0": 2}}, r"monotonic_cst must be 1 \(rising\), -1 \(falling\) or 0"),
        ({"linear": ["q"]}, "linear names the feature 'q'"),
        (
            {"convex_cst": {"x0": 1}, "extrapolate": "constant"},
            "cannot be convex or concave and go",
        ),
        ({"select": 1}, "select must be True or False, got select=1"),
        (
            {"monotonic_cst": [1, 0], "solver": "statsmodels", "alpha": 1.0},
            "solver=\"statsmodels\" cannot keep the shape of 'x0'",
        ),
        (
            {"monotonic_cst": [1, 0], "family": "poisson", "link": "sqrt"},
            "link='sqrt' cannot keep the shape of 'x0'",
        ),
        (
            {"monotonic_cst": [1, 0], "categorical_features": [0]},
            "column 'x0' is categorical, and so has no shape or knots",
        ),
    ],
)
def test_what_cannot_be_asked(parameters, message):
    X, y, _ = draw(8)
    with pytest.raises(ValueError, match=message):
        GAMRegressor(**parameters).fit(X.round(1), abs(y).round())


def around(hour):
    return np.sin(2 * np.pi * hour / 24) + 0.5 * np.cos(4 * np.pi * hour / 24)


def test_a_cyclic_curve_goes_round(tmp_path):
    rng = np.random.default_rng(0)
    X = pd.DataFrame({"hour": rng.uniform(0, 24, size=1500), "x": rng.uniform(size=1500)})
    y = around(X["hour"]) + X["x"] + rng.normal(scale=0.3, size=1500)
    gam = GAMRegressor(cyclic={"hour": 24}).fit(X, y)
    rows = X.iloc[[0] * 2001].assign(hour=np.linspace(-48, 48, 2001))
    curve, (term, _) = gam.contributions(rows)[:, 0], gam.terms_.terms
    assert_allclose(curve, around(rows["hour"]), atol=0.1)
    assert np.std(curve - around(rows["hour"])) < 0.04
    shifted = gam.contributions(rows.assign(hour=rows["hour"] + 24))[:, 0]
    assert_allclose(shifted, curve, atol=1e-12)
    low, high = term.range
    assert high - low == pytest.approx(24)
    steps = np.array([low - 1e-3, low - 1e-9, low, low + 1e-9, low + 1e-3])
    assert np.ptp(np.diff(term(steps))[[0, 3]]) < 1e-5  # no jump, and no corner
    assert abs(np.diff(term(steps))[[1, 2]]).max() < 1e-8
    band = gam._posterior.term_variance(0, rows["hour"].to_numpy()) ** 0.5
    assert_allclose(band[:1000], band[500:1500], rtol=1e-9)
    inside = abs(curve - around(rows["hour"])) < 1.96 * band
    assert inside.mean() > 0.8
    assert [gam.predict(rows.iloc[[k]])[0] for k in (0, 77, 2000)] == [
        gam.predict(rows)[k] for k in (0, 77, 2000)
    ]
    gam.terms_.save(tmp_path / "gam.json")
    assert '"version":4' in (tmp_path / "gam.json").read_text()
    assert_array_equal(type(gam.terms_).load(tmp_path / "gam.json").contributions(
        gam._validate(rows)), gam.contributions(rows))  # fmt: skip


def test_the_penalty_of_a_cyclic_curve_is_its_bend():
    rng = np.random.default_rng(1)
    x = np.append(rng.uniform(0, 24, size=300), np.nan)
    y = np.append(around(x[:-1]), 5.0) + rng.normal(scale=0.3, size=301)
    gam = GAMRegressor(cyclic={0: 24}, alpha=0.5, degree=4).fit(x[:, None], y)
    (term,), basis = gam._posterior.basis.terms, gam._posterior.basis
    coef = np.append(0.0, gam._posterior.coef[1:])
    at = np.linspace(*gam.terms_.terms[0].range, 100_001)[:-1]
    curve = term.design(at, "linear", None)[:, : term.n_splines] @ coef[: term.n_splines]
    step = at[1] - at[0]
    bends = (np.roll(curve, 1) - 2 * curve + np.roll(curve, -1)) / step**2
    rotated = basis.rotation.T @ gam._posterior.coef
    curvature = np.where(basis.members == 0, basis.sizes, 0.0) @ rotated[basis.places] ** 2
    assert curvature == pytest.approx(np.sum(bends**2) * step, rel=1e-3)
    assert gam.predict([[np.nan]])[0] > 2  # the effect of the missing cell


@pytest.mark.parametrize(("values", "period"), [(24, 24), (7, 7), (12, 12)])
def test_cyclic_whole_numbers_and_chunks(values, period):
    rng = np.random.default_rng(2)
    x = rng.integers(0, values, size=(900, 1)).astype(float)
    y = np.sin(2 * np.pi * x[:, 0] / period) + rng.normal(scale=0.2, size=900)
    whole = GAMRegressor(cyclic={0: period}).fit(x, y)
    chunked = GAMRegressor(cyclic={0: period}).fit_chunks([(x[k::3], y[k::3]) for k in range(3)])
    assert np.std(whole.predict(x) - np.sin(2 * np.pi * x[:, 0] / period)) < 0.06
    assert_allclose(chunked.predict(x), whole.predict(x), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"cyclic": {0: -1}}, "the period of 0 must be a positive number, got -1"),
        ({"cyclic": 24}, "cyclic must be a dict of a feature's period by its name, got cyclic=24"),
        ({"cyclic": {"z": 3}}, "cyclic names the feature 'z'"),
        ({"cyclic": {0: 24}, "linear": [0]}, "column 'x0' is cyclic, so it cannot be categorical"),
        ({"cyclic": {0: 2}}, "column 'x0' has too few distinct values within a period of 2"),
    ],
)
def test_what_cannot_go_round(parameters, message):
    x = np.arange(40.0)[:, None]
    with pytest.raises(ValueError, match=message):
        GAMRegressor(**parameters).fit(x, x[:, 0])


def test_pictures_report_and_warnings_of_shaped_terms(tmp_path):
    rng = np.random.default_rng(3)
    X = pd.DataFrame({"hour": rng.integers(0, 24, size=400) * 1.0, "age": rng.uniform(size=400)})
    X["noise"] = rng.normal(size=400)
    y = rng.negative_binomial(2, 2 / (2 + np.exp(1 + np.sin(X["hour"] / 4) + X["age"]))) * 1.0
    gam = GAMRegressor(
        family="negative_binomial", cyclic={"hour": 24}, monotonic_cst={"age": 1}, select=True
    ).fit(X, y)
    write_report(tmp_path / "report.html", gam, X=X, y=y)
    assert "negative_binomial(" in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "negative_binomial(" in str(gam.summary())
    rows = np.array([[1e6, 0.5, 0.0], [3.0, 1e6, 0.0]])
    assert list(find_far(rows, gam.terms_)) == ["age"]  # an hour is never far
