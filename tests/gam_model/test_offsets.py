"""An offset given to `fit` is given to whatever predicts, and moves each answer as it should."""

import numpy as np
import pandas as pd
import pytest
import sklearn
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.metrics import r2_score
from sklearn.model_selection import GridSearchCV, KFold, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from gam_model import GAMClassifier, GAMRegressor
from gam_model.plots import plot_contributions, plot_diagnostics
from gam_model.report import write_report


@pytest.fixture(scope="module")
def claims():
    """Counts at unlike exposures: X, y, log exposure, and the rate of one unit."""
    rng = np.random.default_rng(0)
    X = rng.uniform(size=(1500, 2))
    rate = np.exp(np.sin(6 * X[:, 0]))
    exposure = np.exp(rng.normal(scale=1.5, size=len(X)))
    return X, rng.poisson(rate * exposure).astype(float), np.log(exposure), rate


@pytest.fixture(scope="module")
def gam(claims):
    X, y, offset, _ = claims
    return GAMRegressor(family="poisson").fit(X, y, offset=offset)


@pytest.fixture
def routing():
    with sklearn.config_context(enable_metadata_routing=True):
        yield


class TestRegressor:
    def test_predicts_counts_with_it_and_rates_without(self, gam, claims):
        X, _, offset, rate = claims
        assert_allclose(gam.predict(X, offset), gam.predict(X) * np.exp(offset), rtol=1e-12)
        assert np.corrcoef(gam.predict(X), rate)[0, 1] > 0.98
        assert_allclose(gam.predict(X, 2.0), gam.predict(X) * np.exp(2.0), rtol=1e-12)
        assert_array_equal(gam.predict(X, offset=list(offset)), gam.predict(X, offset=offset))
        assert_array_equal(gam.predict(pd.DataFrame(X), pd.Series(offset)), gam.predict(X, offset))

    def test_batch_equals_rows(self, gam, claims):
        X, _, offset, _ = claims
        rows = [gam.predict(X[[k]], offset[[k]])[0] for k in range(20)]
        assert_array_equal(rows, gam.predict(X[:20], offset[:20]))

    def test_the_frozen_model_takes_it(self, gam, claims):
        X, _, offset, _ = claims
        assert_array_equal(gam.terms_.predict(X, offset), gam.predict(X, offset))
        assert_allclose(gam.terms_.eta(X, offset), gam.terms_.eta(X) + offset)
        for rows in (X, X[:1]):
            with pytest.raises(ValueError, match=r"offset must have shape \(\d+,\), got \(3,\)"):
                gam.terms_.eta(rows, np.zeros(3))

    def test_score(self, gam, claims):
        X, y, offset, _ = claims
        assert gam.score(X, y, offset=offset) == r2_score(y, gam.predict(X, offset))
        assert gam.score(X, y, offset=offset) > 0.8
        weight = np.arange(len(y))
        weighted = r2_score(y, gam.predict(X, offset), sample_weight=weight)
        assert gam.score(X, y, sample_weight=weight, offset=offset) == weighted

    @pytest.mark.parametrize("kind", ["confidence", "prediction"])
    def test_intervals(self, gam, claims, kind):
        X, y, offset, _ = claims
        low, high = gam.predict_interval(X, kind=kind, offset=offset).T
        mu = gam.predict(X, offset)
        assert ((low <= mu) & (mu <= high)).all()
        if kind == "prediction":
            assert 0.94 < np.mean((low <= y) & (y <= high)) < 0.99
        else:
            plain = gam.predict_interval(X)
            assert_allclose(np.column_stack([low, high]), plain * np.exp(offset)[:, None])

    def test_explain_has_a_row_of_it(self, gam, claims):
        X, _, offset, _ = claims
        table = gam.explain(X[:1], offset=offset[:1])
        assert list(table.index[[0, -2, -1]]) == ["intercept", "offset", "eta"]
        assert_array_equal(table.loc["offset"].iloc[1:].astype(float), offset[0])
        assert table["contribution"]["eta"] == pytest.approx(
            np.log(gam.predict(X[:1], offset[:1])[0])
        )
        assert table["contribution"][:-1].sum() == pytest.approx(table["contribution"]["eta"])
        assert "offset" not in gam.explain(X[:1]).index
        assert_array_equal(gam.explain(X[:1], offset=1.5), gam.explain(X[:1], offset=[1.5]))

    @pytest.mark.parametrize(
        ("offset", "message"),
        [
            ([1.0, 2.0], r"offset must have shape \(1500,\), got \(2,\)"),
            (np.nan, "offset contains NaN"),
            (np.inf, "offset contains infinity"),
        ],
    )
    def test_bad_ones_are_refused(self, gam, claims, offset, message):
        X, y, _, _ = claims
        asks = (
            lambda: gam.predict(X, offset),
            lambda: gam.score(X, y, offset=offset),
            lambda: gam.predict_interval(X, offset=offset),
            lambda: plot_diagnostics(gam, X, y, offset=offset),
        )
        for ask in asks:
            with pytest.raises(ValueError, match=message):
                ask()

    def test_an_offset_that_overflows_is_refused(self, gam, claims):
        offset = np.zeros(3)
        offset[1] = 1e3
        with pytest.raises(ValueError, match="row 1 is so far outside"):
            gam.predict(claims[0][:3], offset)

    def test_whatever_compares_with_y_asks_for_it(self, gam, claims, tmp_path):
        """Of a rate and a count nothing could be learned, and no one would see it."""
        X, y, _, _ = claims
        asks = (
            lambda: gam.score(X, y),
            lambda: plot_diagnostics(gam, X, y),
            lambda: write_report(tmp_path / "report.html", gam, X=X, y=y),
        )
        for ask in asks:
            with pytest.raises(ValueError, match=r"fitted with an offset, so .* pass offset="):
                ask()
        assert gam.score(X, y, offset=0) < 0.5
        again = GAMRegressor(family="poisson").fit(X, y, offset=np.ones(len(y)))
        assert again.fit(X, y).score(X, y) > -1  # the last fit counts


def test_a_shift_of_every_offset_is_the_intercepts():
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(300, 1))
    y = rng.gamma(4, np.exp(x[:, 0]) / 4)
    one = GAMRegressor(family="gamma").fit(x, y)
    two = GAMRegressor(family="gamma").fit(x, y, offset=np.full(300, 0.7))
    assert_allclose(two.predict(x, 0.7), one.predict(x), rtol=1e-4)
    assert two.intercept_ == pytest.approx(one.intercept_ - 0.7, abs=1e-4)


class TestClassifier:
    def test_knows_what_is_known(self):
        """A case-control sample: the odds of each row are known but for a factor."""
        rng = np.random.default_rng(0)
        X, offset = rng.uniform(-1, 1, size=(3000, 1)), rng.normal(scale=3, size=3000)
        y = np.where(rng.logistic(size=3000) < 2 * np.sin(3 * X[:, 0]) + offset, "yes", "no")
        gam = GAMClassifier().fit(X, y, offset=offset)
        eta = gam.decision_function(X)
        assert abs(eta - 2 * np.sin(3 * X[:, 0])).mean() < 0.15
        assert_allclose(gam.decision_function(X, offset), eta + offset)
        proba = gam.predict_proba(X, offset)
        assert_allclose(proba[:, 1], 1 / (1 + np.exp(-eta - offset)), rtol=1e-10)
        assert_array_equal(gam.predict(X, offset) == "yes", proba[:, 1] > 0.5)
        assert gam.score(X, y, offset=offset) == np.mean(gam.predict(X, offset) == y)
        assert gam.score(X, y, offset=offset) > gam.score(X, y, offset=0) + 0.1
        with pytest.raises(ValueError, match="so score needs the offset"):
            gam.score(X, y)
        half = slice(1500), slice(1500, None)
        chunked = GAMClassifier().fit_chunks([(X[k], y[k], None, offset[k]) for k in half])
        assert_allclose(chunked.decision_function(X), eta, atol=1e-4)


class TestRouting:
    grid = {"alpha": [1e-6, 1e6]}  # noqa: RUF012
    cv = KFold(3, shuffle=True, random_state=0)

    def test_grid_search_picks_the_right_curve(self, claims, routing):
        X, y, offset, _ = claims
        grid = GridSearchCV(GAMRegressor(family="poisson"), self.grid, cv=self.cv)
        grid.fit(X, y, offset=offset)
        assert grid.best_params_ == {"alpha": 1e-6}
        assert (grid.cv_results_["mean_test_score"] > 0).all()
        train, test = next(self.cv.split(X))
        by_hand = GAMRegressor(family="poisson", alpha=1e-6).fit(
            X[train], y[train], offset=offset[train]
        )
        score = by_hand.score(X[test], y[test], offset=offset[test])
        assert grid.cv_results_["split0_test_score"][0] == pytest.approx(score)
        assert grid.score(X, y, offset=offset) == grid.best_estimator_.score(X, y, offset=offset)

    def test_requests_can_be_set(self, claims, routing):
        X, y, offset, _ = claims
        gam = GAMRegressor(family="poisson", alpha=1.0)
        gam.set_fit_request(offset="log_exposure").set_score_request(offset="log_exposure")
        scores = cross_validate(gam, X, y, cv=self.cv, params={"log_exposure": offset})
        assert (scores["test_score"] > 0.7).all()

    def test_pipelines_pass_it(self, claims, routing):
        X, y, offset, _ = claims
        pipeline = make_pipeline(StandardScaler(), GAMRegressor(family="poisson"))
        pipeline.fit(X, y, offset=offset)
        assert pipeline.score(X, y, offset=offset) > 0.8
        assert_allclose(
            pipeline.predict(X, offset=offset), pipeline.predict(X) * np.exp(offset), rtol=1e-12
        )

    def test_classifiers_methods_request_it(self, routing):
        requests = GAMClassifier().get_metadata_routing()
        for method in ("fit", "predict", "predict_proba", "decision_function", "score"):
            assert getattr(requests, method).requests["offset"] is True

    def test_without_routing_a_search_says_that_it_cannot_score(self, claims):
        X, y, offset, _ = claims
        grid = GridSearchCV(
            GAMRegressor(family="poisson"), self.grid, cv=self.cv, error_score="raise"
        )
        with pytest.raises(ValueError, match="so score needs the offset of its rows"):
            grid.fit(X, y, offset=offset)


class TestPictures:
    def test_diagnostics_are_of_the_counts(self, gam, claims):
        X, y, offset, _ = claims
        figure = plot_diagnostics(gam, X, y, offset=offset)
        rows = next(line for line in figure.axes[3].lines if line.get_label() == "rows")
        assert_allclose(rows.get_xdata(), gam.predict(X, offset))
        assert figure.axes[1].get_xlabel()
        residuals = next(line for line in figure.axes[1].lines if line.get_label() == "rows")
        assert_allclose(residuals.get_xdata(), np.log(gam.predict(X, offset)))
        assert abs(residuals.get_ydata()).std() < 1.2

    def test_report(self, gam, claims, tmp_path):
        X, y, offset, _ = claims
        write_report(tmp_path / "report.html", gam, X=X, y=y, offset=offset)
        assert "Diagnostics" in (tmp_path / "report.html").read_text()
        write_report(tmp_path / "report.html", gam, X=X)  # nothing is compared with y

    @pytest.mark.parametrize("max_features", [1, 10])
    def test_contributions_end_with_it(self, claims, max_features):
        X, y, offset, _ = claims
        X = np.hstack([X, X**2])
        gam = GAMRegressor(family="poisson").fit(X, y, offset=offset)
        figure = plot_contributions(
            gam, X[:1], offset=offset[:1], coverage=0.9, max_features=max_features
        )
        axes = figure.axes[0]
        labels = [text.get_text() for text in axes.get_yticklabels()]
        assert labels[0] == "base"
        assert labels[-2] == "offset"
        assert len(labels) == 2 + 1 + (2 if max_features == 1 else 4)
        widths = [bar.get_width() for bar in axes.patches]
        assert widths[-1] == offset[0]
        eta = gam.terms_.eta(X[:1], offset[:1])[0]
        assert gam.intercept_ + sum(widths) == pytest.approx(eta)
        assert f"{gam.predict(X[:1], offset[:1])[0]:.1f}" in axes.get_title(loc="left")
