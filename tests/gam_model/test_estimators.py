"""scikit-learn's manners, and data on which a plain GLMGam breaks."""

import contextlib
import pickle
import re
import threading
import time

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from gam_model import GAMClassifier, GAMRegressor


# One of the checks fits 15 rows of 30 columns, many fit blobs that lie apart.
@pytest.mark.filterwarnings("ignore:.* rows are too few to identify the slopes of 30 columns")
@pytest.mark.filterwarnings("ignore:y is separated by")
@parametrize_with_checks(
    [
        GAMRegressor(),
        GAMRegressor(alpha=1.0),
        GAMRegressor(interactions=2),
        GAMRegressor(alpha=1.0, interactions=[(0, 1)]),
        GAMClassifier(),
        GAMClassifier(interactions="auto"),
        GAMRegressor(monotonic_cst={0: -1}, select=True),
        GAMClassifier(monotonic_cst=-1, select=True),
        GAMRegressor(family="scaled_t"),
    ]
)
def test_scikit_learn(estimator, check):
    check(estimator)


def exactly(message):
    return f"^{re.escape(message)}$"


class TestParameters:
    @pytest.mark.parametrize(
        "alpha", [-1, 0, 0.0, np.nan, np.inf, -np.inf, "1", None, True, [-1.0], [True], 1j]
    )
    def test_alpha(self, gauss3, alpha):
        message = (
            'alpha must be a positive finite number, one per feature, or "auto", '
            f"got alpha={alpha!r}"
        )
        with pytest.raises(ValueError, match=exactly(message)):
            GAMRegressor(alpha=alpha).fit(*gauss3)

    @pytest.mark.parametrize("degree", [-1, 0, 1, 6, 3.0, "3", None, True, np.nan])
    def test_degree(self, gauss3, degree):
        message = f"degree must be an integer from 2 to 5, got degree={degree!r}"
        with pytest.raises(ValueError, match=exactly(message)):
            GAMRegressor(degree=degree).fit(*gauss3)

    @pytest.mark.parametrize("df", [-1, 0, 3, 15.0, "15", None, True, np.nan, np.inf])
    def test_df(self, gauss3, df):
        message = f"df must be an integer of at least degree + 1 = 4, got df={df!r}"
        with pytest.raises(ValueError, match=exactly(message)):
            GAMRegressor(df=df).fit(*gauss3)

    @pytest.mark.parametrize("extrapolate", ["cubic", None, True, 1, ["cubic"]])
    def test_extrapolate(self, gauss3, extrapolate):
        message = (
            "extrapolate must be one of ('linear', 'constant', 'error'), "
            f"got extrapolate={extrapolate!r}"
        )
        with pytest.raises(ValueError, match=exactly(message)):
            GAMRegressor(extrapolate=extrapolate).fit(*gauss3)

    @pytest.mark.parametrize("verbose", [-1, None, "1", 0.5])
    def test_verbose(self, gauss3, verbose):
        message = f"verbose must be 0 or a positive integer, got {verbose!r}"
        with pytest.raises(ValueError, match=exactly(message)):
            GAMRegressor(verbose=verbose).fit(*gauss3)

    def test_numpy_scalars_are_numbers(self, gauss3):
        X, y = gauss3
        gam = GAMRegressor(df=np.int64(20), alpha=np.float32(0.5), degree=np.int32(2))
        plain = GAMRegressor(df=20, alpha=0.5, degree=2)
        assert_array_equal(gam.fit(X, y).predict(X), plain.fit(X, y).predict(X))

    def test_constructor_only_stores(self):
        odd = {"df": "many", "alpha": object(), "degree": None, "extrapolate": 3}
        odd |= {"family": 1, "link": 2, "criterion": 3, "solver": object()}
        odd |= {
            "categorical_features": 4,
            "weighting": 5,
            "warp": 6,
            "atoms": 7,
            "interactions": 8,
            "knots": 9,
            "linear": 10,
            "cyclic": 11,
            "monotonic_cst": "up",
            "convex_cst": "down",
            "select": "some",
            "verbose": "very",
        }
        assert clone(GAMRegressor(**odd), safe=False).get_params().keys() == odd.keys()
        assert GAMRegressor(**odd).get_params() == odd


class TestProgress:
    @pytest.fixture
    def slow(self, monkeypatch):
        """Chunks that take their time, and a fit that takes note of it."""
        monkeypatch.setattr("gam_model._progress.EVERY", 0.02)

        class Slow:
            def __iter__(self):
                x = np.random.default_rng(0).normal(size=(300, 1))
                for k in (0, 100, 200):
                    time.sleep(0.05)
                    yield x[k : k + 100], x[k : k + 100, 0] > x[99::-1, 0]

        return Slow()

    @pytest.mark.parametrize("verbose", [1, True, 2])
    def test_a_long_fit_says_how_far_it_is(self, slow, capsys, verbose):
        gam = GAMClassifier(verbose=verbose).fit_chunks(slow)
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) > 5
        assert any(re.fullmatch(r"GAMClassifier: \d+ s, chunk 1", line) for line in lines)
        last = r"GAMClassifier: \d+ s, chunk [123], step \d+, deviance [\d.]+, .*"
        assert re.fullmatch(last, lines[-1])
        assert pickle.loads(pickle.dumps(gam)).verbose == verbose
        time.sleep(0.1)
        assert capsys.readouterr().out == ""

    def test_otherwise_it_is_silent(self, slow, capsys, gauss3, monkeypatch):
        GAMClassifier().fit_chunks(slow)
        assert capsys.readouterr().out == ""
        monkeypatch.undo()  # five seconds again
        GAMRegressor(verbose=1).fit(*gauss3)
        assert capsys.readouterr().out == ""

    def test_no_thread_is_left_by_a_fit_that_fails(self, slow):
        before = threading.active_count()
        with pytest.raises(ValueError, match="two classes"):
            GAMClassifier(verbose=1).fit([[0.0], [1.0]], [1, 1])
        assert threading.active_count() == before


class TestTables:
    @pytest.fixture
    def table(self, additive):
        return pd.DataFrame(additive[0], columns=["age", "rate", "income", "debt", "noise"])

    def test_names_are_kept(self, table, additive):
        gam = GAMRegressor(extrapolate="error").fit(table, additive[1])
        assert_array_equal(gam.feature_names_in_, table.columns)
        assert "income" in gam.summary().as_text()
        with pytest.raises(ValueError, match="income = 101 in row 2"):
            gam.predict(table.assign(income=np.where(table.index == 2, 101, table.income)))

    def test_other_names_are_refused(self, table, additive):
        gam = GAMRegressor().fit(table, additive[1])
        with pytest.raises(ValueError, match="feature names should match"):
            gam.predict(table[table.columns[::-1]])

    def test_names_are_forgotten_by_a_fit_without(self, table, additive):
        gam = GAMRegressor().fit(table, additive[1]).fit(*additive[:2])
        assert not hasattr(gam, "feature_names_in_")
        assert "x2" in gam.summary().as_text()


def test_pipeline_and_grid_search(gauss3):
    model = make_pipeline(StandardScaler(), GAMRegressor(df=20))
    grid = GridSearchCV(
        model,
        {"gamregressor__alpha": [1e-6, 1e-4, 1e6]},
        cv=KFold(3, shuffle=True, random_state=0),
    )
    grid.fit(*gauss3)
    assert grid.best_params_["gamregressor__alpha"] < 1
    assert np.isfinite(grid.cv_results_["mean_test_score"]).all()


@pytest.mark.parametrize("method", ["predict", "contributions", "summary"])
def test_not_fitted(gauss3, method):
    with pytest.raises(NotFittedError):
        getattr(GAMRegressor(), method)(*[] if method == "summary" else [gauss3[0]])


class TestConstantColumns:
    def test_contributes_nothing_anywhere(self, additive):
        X, y, _ = additive
        without = GAMRegressor().fit(X, y)
        X = np.insert(X, 2, 7.0, axis=1)
        gam = GAMRegressor().fit(X, y)
        X[:, 2] = np.linspace(-1e9, 1e9, len(X))
        assert_array_equal(gam.contributions(X)[:, 2], 0.0)
        assert_array_equal(gam.predict(X), without.predict(np.delete(X, 2, axis=1)))

    def test_but_for_rounding(self, gauss3):
        X, y = gauss3
        jitter = np.where(X > 100, 0.1 + 0.2, 0.3)
        gam = GAMRegressor().fit(np.hstack([X, jitter]), y)
        assert_array_equal(gam.contributions([[5.0, 1e3]])[:, 1], 0.0)

    @pytest.mark.parametrize("n", [1, 2, 30])
    def test_only(self, n):
        y = np.arange(n) ** 2.0
        gam = GAMRegressor().fit(np.ones((n, 3)), y)
        assert_allclose(gam.predict(np.zeros((2, 3))), y.mean())
        assert gam.summary_frame()["statistic"].isna().all()
        gam.summary().as_text()


class TestTiedColumns:
    def test_binary(self):
        """Two levels are two means, and between them a straight line."""
        x = np.tile([0.0, 1.0, 1.0], 40)
        y = 3 + 2 * x + np.random.default_rng(0).normal(size=120)
        gam = GAMRegressor().fit(x[:, None], y)
        means = y[x == 0].mean(), y[x == 1].mean()
        assert_allclose(gam.predict([[0], [0.5], [1]]), [means[0], np.mean(means), means[1]])

    @pytest.mark.parametrize(
        "tie",
        [
            np.round,
            lambda x: np.maximum(x, 0),
            lambda x: np.clip(x, -1, 1),
            lambda x: np.round(x) + 1e-12 * x,
        ],
        ids=["levels", "half zeros", "both ends", "levels but for rounding"],
    )
    def test_knots_are_apart(self, tie):
        rng = np.random.default_rng(0)
        x = tie(rng.normal(size=500))
        y = x**2 + rng.normal(scale=0.1, size=500)
        gam = GAMRegressor(df=20, alpha=1e-3).fit(x[:, None], y)
        (term,) = gam.terms_.terms
        assert np.diff(term.knots[3:-3]).min() > 1e-8 * np.ptp(x)
        assert len(term.coef) == min(20, len(np.unique(np.round(x, 9))))
        assert gam.score(x[:, None], x**2) > 0.99 * np.corrcoef(y, x**2)[0, 1] ** 2

    def test_df_beyond_the_distinct_values_is_that_many(self):
        x = np.repeat(np.arange(7.0), 20)[:, None]
        (term,) = GAMRegressor(df=50).fit(x, x[:, 0] ** 2).terms_.terms
        assert len(term.coef) == 7


def few_rows(n, n_lines):
    """Expect a warning if there are no more rows than straight lines and an intercept."""
    if n > n_lines + 1:
        return contextlib.nullcontext()
    message = f"^{n} rows are too few to identify the slopes of {n_lines} columns, so the"
    return pytest.warns(UserWarning, match=message)


class TestExactFits:
    @pytest.mark.parametrize("value", [0.0, 3.5, -1e9, 1e-12])
    def test_constant_y(self, additive, value):
        X = additive[0]
        gam = GAMRegressor().fit(X, np.full(len(X), value))
        assert_allclose(gam.predict(2 * X), value, rtol=1e-9, atol=1e-12)

    def test_straight_line(self):
        x = np.linspace(0, 1, 50)[:, None]
        gam = GAMRegressor().fit(x, 1 + 2 * x[:, 0])
        assert_allclose(gam.predict([[-1.0], [0.3], [5.0]]), [-1, 1.6, 11], rtol=1e-6)
        assert gam.scale_ < 1e-12
        gam.summary().as_text()

    @pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
    @pytest.mark.parametrize("n", [2, 3, 7, 8, 40])
    def test_fewer_rows_than_splines(self, n, scale):
        rng = np.random.default_rng(n)
        X, y = rng.normal(size=(n, 6)), rng.normal(size=n) * scale
        with few_rows(n, n_lines=6):
            gam = GAMRegressor().fit(X, y)
        assert np.isfinite(gam.predict(X)).all()
        assert gam.score(X, y) > 0
        gam.summary().as_text()


def test_duplicated_columns_change_no_prediction_but_for_the_penalty(additive):
    """Two copies of a curve halve its penalty, so the copies with 2 alpha predict as one."""
    X, y, _ = additive
    one = GAMRegressor(alpha=1e-3).fit(X, y)
    two = GAMRegressor(alpha=2e-3).fit(np.hstack([X, X]), y)
    assert_allclose(two.predict(np.hstack([X, X])), one.predict(X), rtol=1e-6)


@pytest.mark.parametrize("bad", [-np.inf, np.inf])
def test_no_infinite_values(additive, bad):
    X, y, _ = additive
    gam = GAMRegressor(df=5).fit(X, y)
    X = X.copy()
    X[3, 1] = bad
    with pytest.raises(ValueError, match="Input X contains infinity"):
        gam.predict(X)
    with pytest.raises(ValueError, match="Input X contains infinity"):
        GAMRegressor().fit(X, y)
