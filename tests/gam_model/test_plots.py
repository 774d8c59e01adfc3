"""What is drawn is what the model says, and can be read."""

import copy
import io
import itertools
import pickle
import sys
import threading

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LinearRegression

from gam_model import GAMClassifier, GAMRegressor
from gam_model._bins import average, bound_share
from gam_model._families import FAMILIES
from gam_model.plots import plot_contributions, plot_diagnostics, plot_terms

pytest.importorskip("matplotlib")

MINUS = "\N{MINUS SIGN}"
HOSTILE = [
    "<script>alert(1)</script>",
    "$x_1$",
    "$broken_{",
    "line\nbreak\ttab",
    "null\x00byte",
    "a long name " * 20,
    "größe Ω",
    "年齢💶",
    "&amp;",
]


def render(figure):
    """Draw, which is when matplotlib warns of glyphs and of layouts that don't fit."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=50)
    return content.getvalue()


def titles(figure):
    return [axes.get_title(loc="left") for axes in figure.axes]


def find(axes, label):
    """The artist of this label; of an error bar, a tuple of points and segments."""
    for artist in [*axes.lines, *axes.containers]:
        if artist.get_label() == label:
            return artist
    raise AssertionError(f"nothing drawn is labelled {label!r}")


def read_bars(container):
    """x, y, lower and upper of an error bar."""
    points, _, (segments,) = container
    ends = np.array(segments.get_segments())[:, :, 1]
    return (*points.get_data(), ends[:, 0], ends[:, 1])


@pytest.fixture(scope="module")
def table():
    """Numbers, levels, missing cells in both, and a column that is constant."""
    rng = np.random.default_rng(0)
    n = 600
    X = pd.DataFrame(
        {
            "age": rng.integers(18, 80, size=n).astype(float),
            "job": rng.choice(["clerk", "nurse", "pilot", "$no$"], size=n),
            "income": rng.lognormal(sigma=2.5, size=n),
            "always": 1.0,
        }
    )
    eta = np.sin(X["age"] / 10) + (X["job"] == "pilot") + 0.3 * np.log(X["income"])
    X.loc[::7, "age"] = np.nan
    X.loc[::11, "job"] = None
    return X, eta + rng.normal(scale=0.3, size=n)


@pytest.fixture(scope="module")
def gam(table):
    return GAMRegressor().fit(*table)


@pytest.fixture(scope="module")
def classifier(table):
    X, y = table
    return GAMClassifier().fit(X, np.where(y > 0.5, "yes", "no"))


class TestTerms:
    def test_curves_are_the_models(self, additive):
        X, y, _ = additive
        gam = GAMRegressor().fit(X, y)
        figure = plot_terms(gam, coverage=0.8)
        order = [f"x{j}" for j in np.argsort(-gam.feature_importances_)]
        assert titles(figure) == order
        for name, axes in zip(order, figure.axes, strict=True):
            curve = gam.terms(coverage=0.8)[name]
            x, y = find(axes, "curve").get_data()
            assert_allclose(x, curve["x"])
            assert_allclose(y, curve["contribution"], atol=1e-12)
            (band,) = axes.collections
            outline = band.get_paths()[0].vertices
            at = outline[:, 0] == x[30]
            ends = outline[at, 1].min(), outline[at, 1].max()
            assert_allclose(ends, curve.loc[30, ["lower", "upper"]].astype(float))
            assert axes.texts[0].get_text().startswith(f"edf {gam.edf_[int(name[1])]:.1f}")

    def test_levels_and_missing_cells(self, gam):
        (axes,) = plot_terms(gam, features="job").axes
        job = gam.terms()["job"]
        x, y, lower, upper = read_bars(find(axes, "levels"))
        assert_array_equal(x, range(4))
        assert_allclose(y, job["contribution"][:-1])
        assert_allclose(lower, job["lower"][:-1])
        assert_allclose(upper, job["upper"][:-1])
        assert [text.get_text() for text in axes.get_xticklabels()] == list(job["x"][:-1])
        hole = read_bars(find(axes, "missing"))
        assert hole[0] > x.max()
        assert_allclose(np.ravel(hole[1:]), job.iloc[-1, 1:].astype(float))

    def test_missing_cells_of_a_number(self, gam):
        (axes,) = plot_terms(gam, features=["age"]).axes
        age = gam.terms()["age"]
        hole = read_bars(find(axes, "missing"))
        assert age["x"].max() < hole[0] < axes.get_xlim()[1]
        assert_allclose(np.ravel(hole[1:]), age.iloc[-1, 1:].astype(float))
        assert axes.get_xticks().max() <= age["x"].max()
        assert "missing" in [text.get_text() for text in axes.texts]

    def test_outliers_are_drawn_on_a_logarithmic_axis(self, gam, table):
        X = table[0]
        (axes,) = plot_terms(gam, features=["income"]).axes
        assert axes.get_xscale() == "symlog"
        assert axes.get_xlabel().startswith("logarithmic beyond ")
        x, y = find(axes, "curve").get_data()
        assert (x[0], x[-1]) == pytest.approx((X["income"].min(), X["income"].max()))
        rows = X.iloc[[1] * len(x)].assign(income=x)
        assert_allclose(y, gam.contributions(rows)[:, 2], atol=1e-12)
        assert plot_terms(gam, features=["age"]).axes[0].get_xscale() == "linear"

    def test_knots_rows_or_a_histogram_at_the_edge(self, gam, table):
        X = table[0]
        knots = next(term.knots for term in gam.terms_.terms if term.name == "age")
        rug = find(plot_terms(gam, features=["age"]).axes[0], "rug")
        assert set(rug.get_xdata()) == set(knots)
        rug = find(plot_terms(gam, X[:50], features=["age"]).axes[0], "rug")
        assert_array_equal(rug.get_xdata()[::3], X["age"][:50].dropna())
        smooth, levels = plot_terms(gam, X, features=["age", "job"]).axes
        counts = np.histogram(X["age"].dropna(), 40)[0]
        (steps,) = smooth.patches
        assert_allclose(steps.get_data().values, 0.12 * counts / counts.max())
        heights = np.array([bar.get_height() for bar in levels.patches])
        counts = X["job"].value_counts()[["$no$", "clerk", "nurse", "pilot"]]
        assert_allclose(heights, 0.12 * counts / counts.max())

    def test_one_scale_or_one_each(self, additive):
        X, y, _ = additive
        gam = GAMRegressor().fit(X, y)
        assert len({axes.get_ylim() for axes in plot_terms(gam).axes}) == 1
        assert len({axes.get_ylim() for axes in plot_terms(gam, share_y=False).axes}) == 5

    def test_a_curve_that_would_flatten_the_others_has_its_own_scale(self):
        rng = np.random.default_rng(0)
        X = np.column_stack([rng.uniform(size=500), np.append(rng.uniform(size=499), 1000)])
        gam = GAMRegressor(alpha=1e-3).fit(X, np.sin(6 * X[:, 0]) + X[:, 1])
        first, second = plot_terms(gam, features=["x0", "x1"]).axes
        assert first.get_ylim()[1] < 10 < 900 < second.get_ylim()[1]
        assert [axes.texts[0].get_text().endswith("own scale") for axes in (first, second)] == [
            False,
            True,
        ]

    def test_curves_keep_a_third_of_the_height(self, additive):
        """Bands of few rows leave the picture."""
        X, y, _ = additive
        gam = GAMRegressor(df=4).fit(X[:12], y[:12])
        for axes in plot_terms(gam, share_y=False).axes:
            y = np.append(find(axes, "curve").get_ydata(), 0)
            low, high = axes.get_ylim()
            assert low < y.min() < y.max() < high
            assert np.ptp(y) > 0.25 * (high - low)

    def test_features_by_name_position_and_default(self, gam):
        assert set(titles(plot_terms(gam))) == {"age", "job", "income"}
        assert titles(plot_terms(gam, features=["job", 0])) == ["job", "age"]

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"features": ["size"]}, "no feature 'size'; there are 'age', 'job'"),
            ({"features": [4]}, "no feature 4"),
            ({"features": [True]}, "no feature True"),
            ({"features": []}, "at least one feature"),
            ({"features": ["always"]}, "'always' has no term: it was constant"),
            ({"coverage": 2}, "coverage=2"),
            ({"n_columns": 0}, "n_columns=0"),
            ({"X": pd.DataFrame({"age": [1.0]})}, "feature names"),
        ],
    )
    def test_refuses(self, gam, arguments, message):
        with pytest.raises(ValueError, match=message):
            plot_terms(gam, **arguments)

    def test_only_constant_columns(self):
        gam = GAMRegressor().fit(np.ones((20, 2)), np.arange(20.0))
        with pytest.raises(ValueError, match="all columns were constant"):
            plot_terms(gam)

    def test_constant_but_for_missing_cells(self):
        X = np.where(np.arange(60) % 3, 5.0, np.nan)[:, None]
        gam = GAMRegressor().fit(X, np.arange(60.0) % 3)
        (axes,) = plot_terms(gam, X).axes
        point, hole = read_bars(find(axes, "values")), read_bars(find(axes, "missing"))
        assert_allclose([point[1][0], hole[1][0]], gam.contributions([[5.0], [np.nan]])[:, 0])
        assert axes.get_xticks() == [5]
        render(plot_terms(gam))

    def test_thirty_features_and_forty_levels(self):
        rng = np.random.default_rng(0)
        X = pd.DataFrame(rng.normal(size=(300, 30))).rename(columns="feature {}".format)
        X["country"] = [f"a country of long name {k % 40}" for k in range(300)]
        gam = GAMRegressor(df=6).fit(X, X["feature 0"] + rng.normal(size=300))
        figure = plot_terms(gam)
        assert len(figure.axes) == 31
        render(figure)
        boxes = [axes.get_window_extent() for axes in figure.axes]
        heights = {round(box.height) for box in boxes}
        assert max(heights) - min(heights) <= 2
        assert min(heights) > figure.dpi * 1.2
        country = figure.axes[titles(figure).index("country")]
        assert country.get_window_extent().width > 2.5 * min(box.width for box in boxes)
        labels = [text.get_window_extent() for text in country.get_xticklabels()]
        assert all(a.x1 < b.x0 + 1 for a, b in itertools.pairwise(labels))

    def test_more_levels_than_can_be_read(self):
        rng = np.random.default_rng(0)
        X = pd.DataFrame({"zip": [f"{k % 200:05}" for k in range(2000)]})
        effects = rng.normal(size=200)
        gam = GAMRegressor().fit(X, np.tile(effects, 10) + rng.normal(scale=0.1, size=2000))
        (axes,) = plot_terms(gam, X).axes
        assert axes.get_xlabel() == "and 140 levels with smaller effects"
        drawn = read_bars(find(axes, "levels"))[1]
        all_of_them = gam.terms()["zip"]["contribution"]
        assert min(abs(drawn)) >= np.sort(abs(all_of_them))[-60]

    def test_an_axis_far_from_zero_tells_its_ticks_apart(self):
        x = 1.7e9 + np.arange(100.0)
        gam = GAMRegressor(alpha=1.0).fit(x[:, None], np.sin(x))
        figure = plot_terms(gam)
        render(figure)
        labels = [text.get_text() for text in figure.axes[0].get_xticklabels()]
        assert len(set(labels)) == len(labels) > 2


class TestContributions:
    def test_bars_lead_from_the_base_to_eta(self, gam, table):
        row = table[0].iloc[[3]]
        (axes,) = plot_contributions(gam, row).axes
        explained = gam.explain(row)
        bars = axes.patches
        assert_allclose([bar.get_width() for bar in bars], explained["contribution"][1:-1])
        assert bars[0].get_x() == pytest.approx(gam.intercept_)
        end = bars[-1].get_x() + bars[-1].get_width()
        assert end == pytest.approx(gam.predict(row)[0])
        joints = [bar.get_x() + bar.get_width() for bar in bars[:-1]]
        assert_allclose([bar.get_x() for bar in bars[1:]], joints)
        assert_allclose(axes.lines[0].get_xdata(), [gam.intercept_, end])
        assert axes.get_title(loc="left") == f"prediction = {gam.predict(row)[0]:.2f}".replace(
            "-", MINUS
        )

    def test_labels(self, gam, table):
        row = table[0].iloc[[1]].assign(age=41.0, job="$no$", income=2.5)
        (axes,) = plot_contributions(gam, row).axes
        labels = [text.get_text() for text in axes.get_yticklabels()]
        assert (labels[0], labels[-1]) == ("base", "prediction")
        assert set(labels[1:-1]) == {"age = 41", "job = $no$", "income = 2.5", "always = 1"}
        (axes,) = plot_contributions(gam, row.assign(age=np.nan, job=None)).axes
        labels = [text.get_text() for text in axes.get_yticklabels()]
        assert {"age missing", "job missing"} <= set(labels)
        with pytest.warns(UserWarning, match="did not see"):
            (axes,) = plot_contributions(gam, row.assign(job="king")).axes
        assert "job: unseen level" in [text.get_text() for text in axes.get_yticklabels()]

    def test_numbers_beside_the_bars(self, gam, table):
        row = table[0].iloc[[3]]
        (axes,) = plot_contributions(gam, row).axes
        base, *parts, eta = gam.explain(row)["contribution"]
        expected = [f"{base:.2f}", *(f"{part:+.2f}" for part in parts), f"{eta:.2f}"]
        assert [text.get_text().replace(MINUS, "-") for text in axes.texts] == expected

    @pytest.mark.parametrize(("max_features", "n_bars"), [(1, 2), (3, 4), (4, 5), (5, 5), (9, 5)])
    def test_the_rest_is_one_bar(self, additive, max_features, n_bars):
        X, y, _ = additive
        gam = GAMRegressor().fit(X, y)
        (axes,) = plot_contributions(gam, X[:1], max_features=max_features).axes
        widths = [bar.get_width() for bar in axes.patches]
        assert len(widths) == n_bars
        assert gam.intercept_ + sum(widths) == pytest.approx(gam.predict(X[:1])[0])
        labels = [text.get_text() for text in axes.get_yticklabels()]
        assert (labels[-2] == f"{5 - max_features} other features") == (n_bars < 5)

    def test_intervals(self, gam, table):
        row = table[0].iloc[[3]]
        (axes,) = plot_contributions(gam, row, coverage=0.9, max_features=2).axes
        *_, (segments,) = axes.containers[-1]
        ends = np.array(segments.get_segments())[:, :, 0]
        explained = gam.explain(row, coverage=0.9)
        drawn = explained.iloc[[1, 2, -1]]
        assert_allclose(ends[:, 1] - ends[:, 0], drawn["upper"] - drawn["lower"])
        assert_allclose(ends[-1], [explained["lower"].iloc[-1], explained["upper"].iloc[-1]])
        low, high = gam.predict_interval(row, coverage=0.9)[0]
        title = axes.get_title(loc="left").replace(MINUS, "-")
        assert title.endswith(f"(90 %: {low:.2f} to {high:.2f})")

    def test_a_classifier_shows_log_odds_and_the_probability(self, classifier, table):
        row = table[0].iloc[[5]]
        (axes,) = plot_contributions(classifier, row).axes
        probability = classifier.predict_proba(row)[0, 1]
        assert axes.get_title(loc="left") == f"P(yes) = {probability:.2f}"
        assert axes.get_xlabel() == "log-odds of yes"
        assert axes.lines[0].get_xdata()[1] == pytest.approx(classifier.decision_function(row)[0])

    def test_refuses(self, gam, table):
        with pytest.raises(ValueError, match="one row, got 2"):
            plot_contributions(gam, table[0][:2])
        with pytest.raises(ValueError, match="max_features=0"):
            plot_contributions(gam, table[0][:1], max_features=0)
        with pytest.raises(ValueError, match="coverage=1"):
            plot_contributions(gam, table[0][:1], coverage=1)


class TestDiagnostics:
    def draw(self, family, n=300):
        rng = np.random.default_rng(0)
        X = rng.uniform(size=(n, 1))
        mu = np.exp(1 + np.sin(6 * X[:, 0]))
        y = {
            "gaussian": rng.normal(mu, 0.5),
            "poisson": rng.poisson(mu).astype(float),
            "gamma": rng.gamma(4, mu / 4),
            "binomial": rng.beta(mu, 5),
        }[family]
        gam = GAMRegressor(family=family).fit(X, y)
        return gam, X, y, plot_diagnostics(gam, X, y)

    def test_gaussian(self):
        gam, X, y, figure = self.draw("gaussian")
        residuals = (y - gam.predict(X)) / gam.scale_**0.5
        quantiles, against, histogram, observed = figure.axes
        assert_allclose(find(quantiles, "rows").get_ydata(), np.sort(residuals))
        assert_allclose(find(against, "rows").get_data(), [gam.predict(X), residuals])
        assert_allclose(find(observed, "rows").get_data(), [gam.predict(X), y])
        assert histogram.patches[0].get_data().values.sum() == len(y)
        x, _, lower, upper = read_bars(find(against, "means"))
        assert len(x) == 20
        assert np.mean((lower < 0) & (upper > 0)) > 0.8
        render(figure)

    @pytest.mark.parametrize("family", ["poisson", "gamma", "binomial"])
    def test_other_families(self, family):
        gam, X, y, figure = self.draw(family)
        assert_allclose(find(figure.axes[3], "rows").get_data(), [gam.predict(X), y])
        assert len(figure.axes) == 4
        render(figure)

    def test_two_classes(self, classifier, table):
        X, y = table
        labels = np.where(y > 0.5, "yes", "no")
        figure = plot_diagnostics(classifier, X, labels)
        calibration, against, by_class, roc = figure.axes
        probability = classifier.predict_proba(X)[:, 1]
        bins = average(probability, (labels == "yes").astype(float), 10)
        x, share, lower, upper = read_bars(find(calibration, "means"))
        assert_allclose([x, share], [bins.x, bins.y])
        ends = bound_share(bins.y, bins.size, stats.norm.ppf(0.975))
        assert_allclose([lower, upper], ends, atol=1e-12)
        assert_allclose(read_bars(find(against, "means"))[1].mean(), 0, atol=0.01)
        assert [text.get_text() for text in by_class.get_legend().get_texts()] == ["no", "yes"]
        false, true = find(roc, "ROC").get_data()
        area = float(roc.get_title(loc="left").rpartition(" ")[2])
        assert np.sum(np.diff(false) * (true[1:] + true[:-1]) / 2) == pytest.approx(area, abs=2e-3)
        render(figure)

    def test_rows_of_one_class(self, classifier, table):
        X, _ = table
        render(plot_diagnostics(classifier, X, np.full(len(X), "no")))

    def test_many_rows_are_thinned_and_it_says_so(self):
        gam, X, y, figure = self.draw("gaussian", n=5000)
        assert len(find(figure.axes[3], "rows").get_xdata()) == 2000
        drawn = find(figure.axes[0], "rows").get_ydata()
        residuals = np.sort(y - gam.predict(X)) / gam.scale_**0.5
        assert_allclose(drawn[:100], residuals[:100])
        assert_allclose(drawn[-100:], residuals[-100:])
        assert figure.axes[2].patches[0].get_data().values.sum() == 5000
        assert figure.get_supxlabel().startswith("points: 2,000 of 5,000 rows")
        again = plot_diagnostics(gam, X, y)
        assert_array_equal(
            find(figure.axes[1], "rows").get_data(), find(again.axes[1], "rows").get_data()
        )

    def test_refuses(self, classifier, gam, table):
        X, y = table
        with pytest.raises(ValueError, match=r"classes \['no', 'yes'\], got 'maybe'"):
            plot_diagnostics(classifier, X, np.full(len(X), "maybe"))
        with pytest.raises(ValueError, match="inconsistent numbers of samples"):
            plot_diagnostics(gam, X, y[:-1])
        with pytest.raises(ValueError, match=r"shape \(n_samples,\)"):
            plot_diagnostics(gam, X, np.column_stack([y, y]))
        with pytest.raises(ValueError, match="must be finite"):
            plot_diagnostics(gam, X, np.full(len(X), np.inf))


class TestResiduals:
    @pytest.mark.parametrize("family", ["gaussian", "poisson", "gamma"])
    def test_are_standard_normal_if_the_model_holds(self, family):
        rng = np.random.default_rng(1)
        mu = rng.uniform(0.2, 8, size=20_000)
        y, scale = {
            "gaussian": (rng.normal(mu, 2.0), 4.0),
            "poisson": (rng.poisson(mu).astype(float), 1.0),
            "gamma": (rng.gamma(2.5, mu / 2.5), 0.4),
        }[family]
        residuals = FAMILIES[family].residuals(y, mu, scale)
        assert stats.kstest(residuals, "norm").pvalue > 0.01
        assert stats.kstest(residuals[mu < 1], "norm").pvalue > 0.01

    def test_are_finite_however_far_out(self):
        y, mu = np.array([0.0, 1e6]), np.array([1e6, 1e-3])
        for family in ("poisson", "gamma"):
            residuals = FAMILIES[family].residuals(y + (family == "gamma"), mu, 1.0)
            assert np.isfinite(residuals).all()
            assert residuals[0] < -4 < 4 < residuals[1]

    def test_of_what_is_no_count_are_deviance_residuals(self):
        y, mu = np.array([0.5, 3.5]), np.array([1.0, 2.0])
        expected = np.sign(y - mu) * np.sqrt(2 * (y * np.log(y / mu) - (y - mu)))
        assert_allclose(FAMILIES["poisson"].residuals(y, mu, 1.0), expected)

    def test_means_in_bins(self):
        rng = np.random.default_rng(0)
        x, y = rng.integers(0, 4, size=200), rng.normal(size=200)
        frame = pd.DataFrame({"x": x, "y": y}).groupby("x")["y"]
        bins = average(x.astype(float), y, 50)
        assert_allclose(bins.x, [0, 1, 2, 3])
        assert_allclose([bins.y, bins.error, bins.size], [frame.mean(), frame.sem(), frame.size()])

    def test_wilson(self):
        """The interval holds the shares that a score test doesn't refuse."""
        share, size, z = np.array([0.0, 0.3, 1.0]), np.array([5, 40, 9]), 1.96
        for end in bound_share(share, size, z):
            inside = (end > 0) & (end < 1)
            score = (share - end) / np.sqrt(end * (1 - end) / size, where=inside, out=end * 0 + 1)
            assert_allclose(abs(score[inside]), z)


@pytest.fixture(scope="module")
def hostile():
    rng = np.random.default_rng(0)
    X = pd.DataFrame(rng.normal(size=(200, len(HOSTILE))), columns=HOSTILE)
    X["levels"] = [HOSTILE[k % len(HOSTILE)] for k in range(200)]
    label = np.where(X.iloc[:, 0] + rng.normal(size=200) > 0, "$a_{", "年<b>")
    return X, label, GAMClassifier(df=5).fit(X, label)


def test_hostile_names(hostile):
    """Nothing is read as mathematics, and no glyph is missing: warnings are errors here."""
    X, label, gam = hostile
    figure = plot_terms(gam, X)
    assert {"<script>alert(1)</script>", "$x_1$", "$broken_{", "line break tab"} <= set(
        titles(figure)
    )
    assert "\\u5e74\\u9f62\\u1f4b6" in titles(figure)
    for drawn in (
        figure,
        plot_contributions(gam, X[:1], coverage=0.9, max_features=20),
        plot_diagnostics(gam, X, label),
    ):
        render(drawn)
        for axes in drawn.axes:
            for text in axes.texts + axes.get_xticklabels() + axes.get_yticklabels():
                assert len(text.get_text()) < 70


@pytest.mark.parametrize("plot", [plot_terms, plot_contributions, plot_diagnostics])
def test_what_is_no_fitted_estimator(plot):
    arguments = {plot_terms: (), plot_contributions: ([[1.0]],), plot_diagnostics: ([[1.0]], [1])}
    with pytest.raises(NotFittedError):
        plot(GAMRegressor(), *arguments[plot])
    with pytest.raises(TypeError, match="got LinearRegression"):
        plot(LinearRegression(), *arguments[plot])


def test_figures_belong_to_no_window(gam):
    """They show in notebooks, can be copied, and pyplot never learns of them."""
    figure = plot_terms(gam)
    assert figure._repr_png_().startswith(b"\x89PNG")
    for again in (pickle.loads(pickle.dumps(figure)), copy.deepcopy(figure)):
        assert again._repr_png_().startswith(b"\x89PNG")
    from matplotlib import pyplot

    assert pyplot.get_fignums() == []


def test_threads_draw_at_once(gam, table):
    wanted, drawn = render(plot_terms(gam)), []
    threads = [
        threading.Thread(target=lambda: drawn.append(render(plot_terms(gam)))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert drawn == [wanted] * 3


def test_without_matplotlib(gam, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"gam_model\[plots\]"):
        plot_terms(gam)
