"""Many rows are summed up in bins, and the fit is that of the rows."""

import numpy as np
import pandas as pd
import pytest

from gam_model import GAMClassifier, GAMRegressor, _binned

N = 40_000


def draw_frame(n=N):
    """Return a table with what columns may hold, and the eta of a smooth truth."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "even": rng.uniform(size=n),
            "related": rng.normal(size=n),
            "amount": np.exp(rng.normal(8, 2, n)),
            "hours": np.where(rng.uniform(size=n) < 0.4, 40.0, rng.normal(40, 10, n).round(1)),
            "holes": np.where(rng.uniform(size=n) < 0.2, np.nan, rng.uniform(size=n)),
            "yes": rng.integers(0, 2, n).astype(float),
            "colour": rng.choice(["red", "green", "blue"], n),
            "place": rng.integers(0, 90, n).astype(str),
        }
    )
    frame["related"] += 2 * frame["even"]
    eta = np.sin(6 * frame["even"]) + np.log(frame["amount"]) / 5 + 0.3 * frame["yes"]
    eta += 0.5 * (frame["hours"] == 40) + frame["holes"].fillna(0.3) ** 2
    eta += frame["place"].astype(int) / 200
    return frame, eta - eta.mean()


def fit_both(monkeypatch, gam, X, y, **more):
    """Fit in bins, and row by row."""
    assert len(y) >= _binned.MANY
    made = []

    class Watched(_binned.BinnedRows):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            made.append(self)

    with monkeypatch.context() as patch:
        patch.setattr(_binned, "BinnedRows", Watched)
        binned = gam(X, y, **more)
    assert made
    with monkeypatch.context() as patch:
        patch.setattr(_binned, "MANY", np.inf)
        return binned, gam(X, y, **more)


def check_alike(binned, exact, X, tol):
    """Compare the models' contributions."""
    X = X[:2000]
    ours, theirs = (gam.contributions(X) for gam in (binned, exact))
    size = np.abs(theirs).max()
    assert np.abs(ours - theirs).max() < tol * size
    assert binned.intercept_ == pytest.approx(exact.intercept_, abs=tol * size)


class TestGivenSmoothing:
    """With given smoothing parameters the coefficients are those of the rows to 1e-8."""

    @pytest.mark.parametrize("family", ["gaussian", "poisson", "gamma"])
    def test_families(self, monkeypatch, family):
        frame, eta = draw_frame()
        rng = np.random.default_rng(1)
        mu = np.exp(eta)
        y = {
            "gaussian": eta + rng.normal(size=N),
            "poisson": rng.poisson(mu),
            "gamma": rng.gamma(2, mu / 2),
        }[family]
        weight = rng.uniform(0.5, 2, N)
        if family == "gamma":  # whose steps contract too slowly to tell 1e-8, with such amounts
            frame = frame.drop(columns="amount")

        def fit(X, y, **more):
            return GAMRegressor(family=family, alpha=0.1).fit(X, y, **more)

        offset = None if family == "gamma" else rng.normal(0, 0.1, N)
        both = fit_both(monkeypatch, fit, frame, y, sample_weight=weight, offset=offset)
        check_alike(*both, frame, 1e-8)

    def test_classes(self, monkeypatch):
        frame, eta = draw_frame()
        y = np.random.default_rng(2).uniform(size=N) < 1 / (1 + np.exp(-eta))
        both = fit_both(monkeypatch, GAMClassifier(alpha=0.1).fit, frame, y)
        check_alike(*both, frame, 1e-8)

    @pytest.mark.parametrize("degree", [2, 5])
    def test_degrees_and_many_knots(self, monkeypatch, degree):
        rng = np.random.default_rng(3)
        X = rng.uniform(size=(N, 3))
        y = np.sin(9 * X[:, 0]) + rng.normal(size=N)
        both = fit_both(monkeypatch, GAMRegressor(alpha=0.1, degree=degree, df=60).fit, X, y)
        check_alike(*both, X, 1e-8)

    def test_columns_of_one_origin(self, monkeypatch):
        rng = np.random.default_rng(4)
        x = rng.normal(size=N)
        X = np.column_stack([x, x + 0.1 * rng.normal(size=N), -x + 0.1 * rng.normal(size=N)])
        y = np.sin(X[:, 0]) + X[:, 1] ** 2 / 4 + rng.normal(size=N)
        binned, exact = fit_both(monkeypatch, GAMRegressor(alpha=0.1).fit, X, y)
        np.testing.assert_allclose(binned.predict(X), exact.predict(X), rtol=0, atol=1e-7)

    def test_an_outlier_beyond_all_others(self, monkeypatch):
        """All other rows then lie in a bin or two of their interval."""
        rng = np.random.default_rng(5)
        x = rng.normal(size=N)
        X = np.column_stack([np.where(np.arange(N) == 7, 1e12, x), rng.uniform(size=N)])
        y = x + rng.normal(size=N)
        for gam in (GAMRegressor(alpha=0.1), GAMRegressor()):
            binned, exact = fit_both(monkeypatch, gam.fit, X, y)
            np.testing.assert_allclose(binned.predict(X), exact.predict(X), rtol=0, atol=1e-4)


class TestChosenSmoothing:
    """The smoothing is chosen on the bins, and so are the effective degrees of freedom."""

    def test_a_table(self, monkeypatch):
        frame, eta = draw_frame()
        y = eta + np.random.default_rng(5).normal(size=N)
        binned, exact = fit_both(monkeypatch, GAMRegressor().fit, frame, y)
        check_alike(binned, exact, frame, 1e-4)
        np.testing.assert_allclose(binned.edf_, exact.edf_, atol=2e-3)
        standard_errors = (gam.predict_interval(frame[:500]) for gam in (binned, exact))
        np.testing.assert_allclose(*standard_errors, rtol=1e-4, atol=1e-4)

    def test_chunks(self):
        frame, eta = draw_frame()
        y = eta + np.random.default_rng(6).normal(size=N)
        chunks = [(frame[k : k + 700], y[k : k + 700]) for k in range(0, N, 700)]
        whole, streamed = GAMRegressor().fit(frame, y), GAMRegressor().fit_chunks(chunks)
        check_alike(streamed, whole, frame, 1e-10)

    def test_separated_classes(self, monkeypatch):
        rng = np.random.default_rng(7)
        X = rng.normal(size=(N, 3))
        with pytest.warns(UserWarning, match="separate"):
            binned, exact = fit_both(monkeypatch, GAMClassifier().fit, X, X[:, 0] > 0.1)
        probabilities = (gam.predict_proba(X[:2000])[:, 1] for gam in (binned, exact))
        np.testing.assert_allclose(*probabilities, atol=2e-3)


@pytest.mark.parametrize(
    "other",
    [
        lambda x, rng: x,
        lambda x, rng: -x + 1e-3 * rng.normal(size=N),
        lambda x, rng: x**2,
        lambda x, rng: np.exp(x),
    ],
)
def test_columns_that_bins_cannot_tell_apart_are_summed_row_by_row(monkeypatch, other):
    """Otherwise a direction of which the rows tell nothing would count as told."""
    rng = np.random.default_rng(9)
    x = rng.normal(size=N)
    X = np.column_stack([x, rng.normal(size=N), other(x, rng)])
    monkeypatch.setattr(_binned, "BinnedRows", None)
    gam = GAMRegressor().fit(X, x + rng.normal(size=N))
    assert gam.edf_.sum() < 5


def test_a_sum_of_other_columns_is_summed_row_by_row(monkeypatch):
    rng = np.random.default_rng(10)
    X = rng.normal(size=(N, 3))
    X[:, 2] = X[:, 0] - X[:, 1]
    monkeypatch.setattr(_binned, "BinnedRows", None)
    GAMRegressor().fit(X, X[:, 0] + rng.normal(size=N))


def test_too_many_levels_are_summed_row_by_row(monkeypatch):
    monkeypatch.setattr(_binned, "BinnedRows", None)
    rng = np.random.default_rng(8)
    frame = pd.DataFrame({"id": rng.integers(0, 60_000, 2 * N)})
    for name in ("first", "second", "third"):
        frame[name] = rng.uniform(size=2 * N)
    GAMRegressor(categorical_features=["id"]).fit(frame, frame["first"])
