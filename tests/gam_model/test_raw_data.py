"""Data as files have them: heavy tails, ties, rare events, separable classes, few rows, ids."""

import time
import tracemalloc
import warnings

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from scipy.special import expit
from sklearn import datasets
from sklearn.ensemble import AdaBoostClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.model_selection import train_test_split

from gam_model import GAMClassifier, GAMRegressor


def lender(seed, n=120_000):
    """A lender's raw file: amounts with a heavy tail, counts with a code of 98, missing cells."""
    rng = np.random.default_rng(seed)
    debt = np.where(rng.random(n) < 0.2, np.exp(rng.normal(7, 1.5, n)), rng.gamma(2, 0.18, n))
    income = np.exp(rng.normal(8.5, 0.8, n))
    income[rng.random(n) < 0.2] = np.nan
    late = rng.poisson(0.1, n).astype(float)
    late[rng.random(n) < 0.0018] = 98
    late2 = np.where(late == 98, 98.0, rng.poisson(0.08, n))
    eta = -3.2 + 0.9 * np.minimum(late, 3) + 0.7 * np.minimum(late2, 3) + 0.3 * (debt > 0.8)
    eta -= 0.15 * np.log1p(np.nan_to_num(income)) / 3
    y = (rng.random(n) < 1 / (1 + np.exp(-eta))).astype(int)
    return np.column_stack([debt, income, late, late2]), y


class TestHeavyTails:
    @staticmethod
    def auc(X, y):
        gam = GAMClassifier().fit(X, y)
        assert gam.statistics_.deviance < gam.statistics_.null_deviance
        assert abs(gam.intercept_) < 20
        assert max(abs(gam.contributions(X)).max(axis=0)) < 20
        return roc_auc_score(y, gam.predict_proba(X)[:, 1])

    @pytest.mark.parametrize("seed", [1, 6, 17])
    def test_a_raw_column_does_as_well_as_one_cut_or_logged_by_hand(self, seed):
        X, y = lender(seed)
        cut = np.minimum(X, np.nanquantile(X, 0.999, axis=0))
        raw = self.auc(X, y)
        assert raw == pytest.approx(self.auc(cut, y), abs=0.002)
        assert raw == pytest.approx(self.auc(np.log1p(X), y), abs=0.002)

    @pytest.mark.parametrize("unit", [1e-6, 1e6])
    def test_units_do_not_matter(self, unit):
        X, y = lender(1, 20_000)
        assert_allclose(
            GAMClassifier().fit(X * unit, y).predict_proba(X * unit),
            GAMClassifier().fit(X, y).predict_proba(X),
            rtol=1e-4,
        )

    def test_a_scale_of_its_own_is_shown_and_can_be_refused(self):
        X, y = lender(1, 20_000)
        gam = GAMClassifier().fit(X, y)
        assert gam.terms_.terms[0].warp is not None
        plain = GAMClassifier(warp=None).fit(X, y)
        assert all(term.warp is None for term in plain.terms_.terms)
        assert "arcsinh" in gam.summary().as_text()
        assert "arcsinh" not in plain.summary().as_text()

    @pytest.mark.parametrize("family", ["gaussian", "poisson", "gamma"])
    @pytest.mark.parametrize("seed", range(5))
    def test_no_fit_is_worse_than_the_constant(self, family, seed):
        rng = np.random.default_rng(seed)
        X = np.exp(rng.normal(size=(3000, 3)) * [1, 3, 5])
        X[rng.random((3000, 3)) < 0.05] = 1e9
        mean = np.exp(0.3 * np.log(X[:, 0]).clip(-2, 2))
        if family == "gaussian":
            y = mean + rng.standard_t(2, 3000)
        else:
            y = rng.poisson(mean) if family == "poisson" else rng.gamma(0.5, mean) + 1e-9
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            gam = GAMRegressor(family=family, link="identity" if family == "gaussian" else "log")
            found = gam.fit(X, y).statistics_
        assert found.deviance <= found.null_deviance * (1 + 1e-9)


class TestReach:
    @pytest.mark.parametrize("unit", [1e-39, 1e-12, 1e12, 1e39])
    def test_units_far_from_one(self, unit):
        x = np.linspace(-2, 2, 300)[:, None]
        y = np.sin(2 * x[:, 0])
        expected = GAMRegressor().fit(x, y + 0.1 * x[::-1, 0] ** 2)
        gam = GAMRegressor().fit(x * unit, y + 0.1 * x[::-1, 0] ** 2)
        assert_allclose(gam.predict(x * unit), expected.predict(x), rtol=1e-5)

    @pytest.mark.parametrize("unit", [1e-300, 1e-120, 1e120, 1e300])
    def test_what_is_beyond_all_units_is_refused_by_name(self, unit):
        x = np.linspace(-2, 2, 300)
        with pytest.raises(
            ValueError, match=r"column .x0. has values from .* multiply the values by"
        ):
            GAMRegressor().fit(x[:, None] * unit, x)
        with pytest.raises(ValueError, match=r"y has values from .* multiply the values by"):
            GAMRegressor().fit(x[:, None], x * unit)


class TestTotals:
    """With the canonical link, fitted and observed total are equal: the intercept's score."""

    x = np.linspace(0, 3, 300)[:, None]
    curve = np.exp(np.sin(2 * x[:, 0]))

    def check(self, family, y, weight):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "y is separated by")
            gam = GAMRegressor(family=family).fit(self.x, y, sample_weight=weight)
        assert weight @ gam.predict(self.x) == pytest.approx(weight @ y, rel=1e-8)
        found = gam.statistics_
        assert found.deviance <= found.null_deviance * (1 + 1e-9)
        if 1000 < weight @ y < 1e8:  # what is left over is noise, and not what 15 splines lack
            assert found.deviance < 1.3 * len(y)

    @pytest.mark.parametrize(
        ("rate", "trials"),
        [(r, n) for r in (1e-1, 1e-3, 1e-5, 1e-7) for n in (1, 100, 1e6, 1e9) if r * n > 0.05],
    )
    def test_binomial(self, rate, trials):
        events = np.random.default_rng(0).binomial(int(trials), rate * self.curve)
        self.check("binomial", events / trials, np.full(len(events), trials))

    @pytest.mark.parametrize(
        ("rate", "exposure"),
        [(r, n) for r in (1e-1, 1e-3, 1e-7) for n in (1, 1e3, 1e6, 1e9) if r * n > 0.05],
    )
    def test_poisson(self, rate, exposure):
        counts = np.random.default_rng(0).poisson(rate * exposure * self.curve)
        self.check("poisson", counts / exposure, np.full(len(counts), exposure))

    @pytest.mark.parametrize("scale", [1e-7, 1.0, 1e9])
    @pytest.mark.parametrize("family", ["gamma", "gaussian"])
    def test_amounts(self, family, scale):
        y = np.random.default_rng(0).gamma(3, scale * self.curve)
        link = "inverse" if family == "gamma" else "identity"
        gam = GAMRegressor(family=family, link=link).fit(self.x, y)
        assert gam.predict(self.x).sum() == pytest.approx(y.sum(), rel=1e-8)

    def test_a_small_deviance_is_no_reason_to_stop(self):
        x, rng = np.arange(50.0), np.random.default_rng(1)
        events = rng.poisson(10 * np.exp(np.sin(x / 8)))
        population = np.full(50, 1e6)
        gam = GAMRegressor(family="binomial")
        gam.fit(x[:, None], events / population, sample_weight=population)
        assert 1e6 * gam.predict(x[:, None]).sum() == pytest.approx(events.sum(), rel=1e-8)


class TestSeparation:
    @pytest.mark.parametrize(
        ("load", "positive"),
        [
            (datasets.load_breast_cancer, 1),
            (datasets.load_iris, 0),
            (datasets.load_iris, 2),
            (datasets.load_wine, 0),
            (datasets.load_wine, 1),
        ],
    )
    def test_predicts_as_well_as_a_logistic_regression(self, load, positive):
        X, y = load(return_X_y=True)
        losses = []
        for seed in range(2):
            x, x_test, c, c_test = train_test_split(X, y == positive, random_state=seed)
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "y is separated by")
                gam = GAMClassifier().fit(x, c)
            other = LogisticRegression(max_iter=10_000).fit(x, c)
            losses.append([log_loss(c_test, m.predict_proba(x_test)) for m in (gam, other)])
            # A curve has two dimensions that are not penalised: its level, which the intercept
            # has, and its slope.
            assert (gam.edf_ > 0.99).all()
        ours, theirs = np.mean(losses, axis=0)
        assert ours < theirs + 0.05

    def test_what_separates_is_named(self):
        x = np.linspace(-1, 1, 200)
        noise = np.random.default_rng(0).normal(size=200)
        frame = pd.DataFrame({"noise": noise, "answer": x})
        with pytest.warns(UserWarning, match="y is separated by 'answer':"):
            gam = GAMClassifier().fit(frame, x > 0)
        assert (gam.edf_ >= 0.99).all()
        p = gam.predict_proba(frame)[:, 1]
        assert 1e-12 < p.min() < 0.01
        assert 0.99 < p.max() < 1
        table = gam.summary_frame()
        assert np.isfinite(table.to_numpy(float)).all()

    def test_a_level_that_separates_is_named(self):
        rng = np.random.default_rng(0)
        shop = rng.choice(list("abc"), 600)
        y = np.where(shop == "b", 0, rng.random(600) < 0.4)
        with pytest.warns(UserWarning, match=r"y has only one value at 'shop' = 'b' \(\d+ rows\)"):
            gam = GAMClassifier().fit(pd.DataFrame({"shop": shop}), y)
        assert 0 < gam.predict_proba(pd.DataFrame({"shop": ["b"]}))[0, 1] < 0.05

    @pytest.mark.parametrize("n_events", [1, 2, 5, 20])
    def test_rare_events(self, n_events):
        rng = np.random.default_rng(n_events)
        X = rng.normal(size=(20_000, 3))
        y = np.zeros(20_000, dtype=int)
        y[rng.choice(20_000, n_events, replace=False)] = 1
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "y is separated by")
            gam = GAMClassifier().fit(X, y)
        p = gam.predict_proba(X)[:, 1]
        assert p.sum() == pytest.approx(n_events, rel=1e-6)
        assert p.max() < 0.9 or n_events == 1
        assert (gam.edf_ > 0.99).all()

    def test_aic_falls_as_the_likelihood_rises(self):
        """Along a family of ever better separated classes."""
        x = np.linspace(-1, 1, 400)[:, None]
        rng, found = np.random.default_rng(0), []
        u = rng.random(400)
        for steepness in (1, 2, 4, 8, 16, 32, 1e3):
            y = u < expit(steepness * x[:, 0])
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "y is separated by")
                found.append(GAMClassifier().fit(x, y).statistics_)
        assert (np.diff([f.deviance for f in found]) < 0).all()
        assert (np.diff([f.aic for f in found]) < 0).all()


class TestTies:
    def test_a_curve_beside_many_zeros(self):
        rng = np.random.default_rng(1)
        x = np.where(rng.uniform(size=4000) < 0.85, 0, rng.uniform(size=4000))
        y = np.sin(12 * x) + rng.normal(scale=0.2, size=4000)
        gam = GAMRegressor().fit(x[:, None], y)
        truth = np.sin(12 * x)
        assert np.sqrt(np.mean((gam.predict(x[:, None]) - truth) ** 2)) < 0.05
        grid = np.linspace(0.01, 0.99, 99)
        low, high = gam.predict_interval(grid[:, None]).T
        covered = (low <= np.sin(12 * grid)) & (np.sin(12 * grid) <= high)
        assert covered.mean() > 0.8

    @pytest.mark.parametrize("draw", ["counts", "rounded", "two heaps", "capped"])
    def test_other_ties(self, draw):
        rng = np.random.default_rng(2)
        x = {
            "counts": rng.poisson(3, 5000).astype(float),
            "rounded": rng.normal(size=5000).round(1),
            "two heaps": np.where(
                rng.random(5000) < 0.9, rng.choice([0.0, 1.0], 5000), rng.random(5000)
            ),
            "capped": np.minimum(rng.exponential(size=5000), 0.7),
        }[draw]
        wave = np.sin(2 * x)
        y = wave + rng.normal(scale=0.3, size=5000)
        gam = GAMRegressor().fit(x[:, None], y)
        assert np.sqrt(np.mean((gam.predict(x[:, None]) - wave) ** 2)) < 0.06

    def test_two_values_are_a_straight_line(self):
        rng = np.random.default_rng(0)
        flag = rng.choice([0.0, 1.0], 500)
        gam = GAMRegressor().fit(flag[:, None], 2 * flag + rng.normal(size=500))
        assert gam.edf_[0] == pytest.approx(1)
        between = np.linspace(0, 1, 11)[:, None]
        line = gam.predict(between)
        assert_allclose(np.diff(line, 2), 0, atol=1e-10)
        low, high = gam.predict_interval(between).T
        assert (high - low).max() < 0.5


def wavy(seed, n, linear=False):
    """14 columns: two curves, two straight lines and ten of noise."""
    rng = np.random.default_rng(seed)
    X = rng.uniform(-1, 1, size=(n + 2000, 14))
    eta = np.sin(4 * X[:, 0]) + X[:, 1] ** 2 * 2 + X[:, 2] - X[:, 3] / 2
    y = (X[:, :4].sum(axis=1) if linear else eta) + rng.normal(scale=0.5, size=n + 2000)
    return X[:n], y[:n], X[n:], y[n:]


class TestFewRows:
    def test_there_is_no_jump(self):
        """As rows get more, the test error gets less, and never much above a linear model's."""
        ratios = []
        for n in (30, 46, 64, 90, 128, 196, 198, 300, 400):
            errors = []
            for seed in range(5):
                X, y, X_test, y_test = wavy(seed, n)
                with warnings.catch_warnings():
                    warnings.filterwarnings("ignore", ".* rows are too few to identify the slopes")
                    models = GAMRegressor().fit(X, y), LinearRegression().fit(X, y)
                errors.append([np.mean((m.predict(X_test) - y_test) ** 2) for m in models])
            ours, theirs = np.median(errors, axis=0)
            ratios.append(ours / theirs)
            assert ours < (1.15 if n < 200 else 1.0) * theirs
        assert (np.diff(ratios) < 0.1).all()

    def test_more_columns_than_the_rows_can_tell_apart(self):
        """Time grows with the cube of the functions, so there are no more than rows can use."""
        rng = np.random.default_rng(0)
        X = rng.normal(size=(300, 100))
        y = np.sin(2 * X[:, 0]) + X[:, 1] + rng.normal(scale=0.3, size=300)
        start = time.process_time()
        gam = GAMRegressor().fit(X, y)
        assert time.process_time() - start < 30  # with 15 for each, minutes
        assert sum(term.knots.size - 4 for term in gam.terms_.terms) <= 600
        X_test = rng.normal(size=(1000, 100))
        assert gam.score(X_test, np.sin(2 * X_test[:, 0]) + X_test[:, 1]) > 0.7
        given = GAMRegressor(alpha=1.0, solver="stream").fit(X[:, :50], y)
        assert all(term.knots.size == 19 for term in given.terms_.terms)

    def test_no_more_rows_than_slopes(self):
        X, y, X_test, y_test = wavy(0, 12)
        with pytest.warns(
            UserWarning, match="12 rows are too few to identify the slopes of 14 columns"
        ):
            gam = GAMRegressor().fit(X, y)
        assert np.mean((gam.predict(X_test) - y_test) ** 2) < 3 * y_test.var()


class TestWeights:
    def rows(self):
        rng = np.random.default_rng(0)
        X = rng.uniform(size=(600, 2))
        return X, np.sin(6 * X[:, 0]) + X[:, 1] + rng.normal(scale=0.3, size=600), rng

    @pytest.mark.parametrize("factor", [1 / 600, 0.37, 1e-9, 1e6])
    @pytest.mark.parametrize("family", ["gaussian", "gamma"])
    def test_precisions_are_relative(self, family, factor):
        X, y, rng = self.rows()
        y = y if family == "gaussian" else np.exp(y)
        precision = rng.uniform(0.5, 2, size=600)
        one = GAMRegressor(family=family).fit(X, y, sample_weight=precision)
        other = GAMRegressor(family=family).fit(X, y, sample_weight=precision * factor)
        assert_allclose(other.predict(X), one.predict(X), rtol=1e-6)
        assert_allclose(other.predict_interval(X), one.predict_interval(X), rtol=1e-5)
        assert_allclose(other.edf_, one.edf_, rtol=1e-4)
        pd.testing.assert_frame_equal(other.summary_frame(), one.summary_frame(), rtol=1e-4)
        assert other.statistics_.aic == pytest.approx(one.statistics_.aic, rel=1e-6)

    def test_equal_weights_are_none(self):
        X, y, _ = self.rows()
        one = GAMRegressor().fit(X, y)
        other = GAMRegressor().fit(X, y, sample_weight=np.full(600, 1 / 600))
        assert_allclose(other.predict(X), one.predict(X), rtol=1e-6)
        assert_allclose(other.predict_interval(X), one.predict_interval(X), rtol=1e-5)

    def test_whole_numbers_are_counts(self):
        X, y, rng = self.rows()
        times = rng.integers(0, 4, size=600)
        again = np.repeat(np.arange(600), times)
        one = GAMRegressor().fit(X[again], y[again])
        other = GAMRegressor().fit(X, y, sample_weight=times)
        assert_allclose(other.predict(X), one.predict(X), rtol=1e-7)
        assert_allclose(other.predict_interval(X), one.predict_interval(X), rtol=1e-6)

    def test_inverse_variances_give_bands_that_cover(self):
        covered = []
        for seed in range(60):
            rng = np.random.default_rng(seed)
            x = rng.uniform(size=400)
            sd = rng.uniform(0.1, 2, size=400) * 30
            y = np.sin(6 * x) + sd * rng.normal(size=400) / 30
            gam = GAMRegressor().fit(x[:, None], y, sample_weight=1 / sd**2)
            low, high = gam.predict_interval(x[:, None]).T
            covered.append(np.mean((low <= np.sin(6 * x)) & (np.sin(6 * x) <= high)))
        assert 0.9 < np.mean(covered) < 0.99

    def test_a_rate_with_its_exposure_is_a_count_with_an_offset(self):
        X, _, rng = self.rows()
        exposure = rng.uniform(0.1, 30, size=600)
        counts = rng.poisson(exposure * np.exp(np.sin(6 * X[:, 0])))
        rate = GAMRegressor(family="poisson").fit(X, counts / exposure, sample_weight=exposure)
        count = GAMRegressor(family="poisson").fit(X, counts, offset=np.log(exposure))
        assert_allclose(rate.predict(X), count.predict(X), rtol=1e-5)
        assert_allclose(rate.edf_, count.edf_, rtol=1e-3)

    def test_boosting(self):
        X, y = datasets.make_moons(2000, noise=0.25, random_state=0)
        boosted = AdaBoostClassifier(GAMClassifier(), n_estimators=10, random_state=0)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "y is separated by")
            boosted.fit(X[:1000], y[:1000])
        alone = GAMClassifier().fit(X[:1000], y[:1000])
        assert boosted.score(X[1000:], y[1000:]) > alone.score(X[1000:], y[1000:]) - 0.01

    def test_one_argument_says_what_they_are(self):
        X, y, rng = self.rows()
        weight = rng.integers(1, 4, size=600)
        counts = GAMRegressor(weighting="counts").fit(X, y, sample_weight=weight)
        precision = GAMRegressor(weighting="precision").fit(X, y, sample_weight=weight)
        assert_allclose(
            GAMRegressor(weighting="precision").fit(X, y, sample_weight=7 * weight).predict(X),
            precision.predict(X),
            rtol=1e-7,
        )
        width = [np.ptp(m.predict_interval(X), axis=1).mean() for m in (counts, precision)]
        assert width[0] < 0.85 * width[1]  # twice the rows, on average


class TestStarts:
    @pytest.mark.parametrize(
        ("family", "link"),
        [("gamma", "log"), ("gamma", "inverse"), ("poisson", "log"), ("poisson", "sqrt")],
    )
    @pytest.mark.parametrize("seed", range(2))
    def test_prices(self, family, link, seed):
        """Amounts over three orders of size, which a few columns tell almost all of."""
        rng = np.random.default_rng(seed)
        carat = np.round(rng.gamma(2, 0.4, 4000) + 0.2, 2)
        size = np.cbrt(carat) * 6.5 + rng.normal(scale=0.02, size=4000)
        size[rng.random(4000) < 1e-3] = 0  # an entry that is missing
        cut = rng.choice(["Fair", "Good", "Ideal"], 4000)
        price = np.exp(8 + 1.7 * np.log(carat) + 0.1 * (cut == "Ideal"))
        y = np.round(price * np.exp(rng.normal(scale=0.15, size=4000)))
        frame = pd.DataFrame({"carat": carat, "x": size, "y": size[::-1], "cut": cut})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            gam = GAMRegressor(family=family, link=link).fit(frame, y)
        assert np.isfinite(gam.predict(frame)).all()
        assert gam.statistics_.explained > 0.9


class TestManyColumnsAndLevels:
    def test_an_id_of_noise_costs_nothing(self):
        rng = np.random.default_rng(0)
        frame = pd.DataFrame({"x": rng.uniform(size=6000), "id": rng.integers(0, 900, 6000)})
        frame["id"] = "k" + frame["id"].astype(str)
        y = np.sin(6 * frame["x"]) + rng.normal(scale=0.5, size=6000)
        train, test = frame[:3000], frame[3000:]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "column 'id' holds levels that fit did not see")
            ours = GAMRegressor().fit(train, y[:3000]).score(test, y[3000:])
        without = GAMRegressor().fit(train[["x"]], y[:3000]).score(test[["x"]], y[3000:])
        assert ours > without - 0.005

    @pytest.mark.parametrize("estimator", [GAMRegressor, GAMClassifier])
    def test_levels_apart_are_levels_together(self, estimator, monkeypatch):
        """Eliminating the levels of the longest column changes nothing but the time."""
        rng = np.random.default_rng(0)
        frame = pd.DataFrame({"x": rng.uniform(size=3000), "id": rng.integers(0, 80, 3000)})
        effect = 0.3 * rng.normal(size=80)[frame["id"]]
        y = np.sin(6 * frame["x"]) + effect + rng.normal(scale=0.5, size=3000)
        y = y if estimator is GAMRegressor else (y > 0).astype(int)
        frame["id"] = "k" + frame["id"].astype(str)
        apart = estimator().fit(frame, y)
        monkeypatch.setattr("gam_model._basis._MANY", 1000)
        together = estimator().fit(frame, y)
        assert_allclose(apart.contributions(frame), together.contributions(frame), atol=1e-5)
        assert_allclose(apart.edf_, together.edf_, rtol=1e-4)
        pd.testing.assert_frame_equal(
            apart.summary_frame(), together.summary_frame(), rtol=1e-3, atol=1e-6
        )

    def test_memory_grows_with_the_levels_and_not_with_their_square(self):
        rng = np.random.default_rng(0)
        frame = pd.DataFrame(
            {"x": rng.uniform(size=60_000), "id": rng.integers(0, 20_000, 60_000)}
        )
        y = np.sin(6 * frame["x"]) + rng.normal(size=20_000)[frame["id"]]
        tracemalloc.start()
        GAMRegressor(categorical_features=["id"]).fit(frame, y)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 300e6  # the square alone would be 3.2 GB

    def test_flags_are_one_function_each(self):
        rng = np.random.default_rng(0)
        flags = (rng.random((2000, 30)) < 0.3).astype(float)
        y = flags @ np.linspace(-1, 1, 30) + rng.normal(size=2000)
        gam = GAMRegressor().fit(flags, y)
        assert_allclose(gam.edf_, 1, atol=1e-6)
        line = LinearRegression().fit(flags, y)
        assert_allclose(gam.predict(flags), line.predict(flags), atol=1e-6)


@pytest.mark.parametrize("family", ["poisson", "gamma"])
def test_a_row_far_beyond_those_that_a_fit_starts_from(family):
    """Of many rows the fit starts from some; on another one their model may overflow."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=50_000)
    mu = np.exp(0.5 * x)
    y = rng.poisson(mu) if family == "poisson" else rng.gamma(2, mu / 2)
    x[7] = 3000
    gam = GAMRegressor(family=family, linear=[0]).fit(x[:, None], y)
    assert gam.statistics_.explained > 0
    assert np.isfinite(gam.predict(x[:100, None])).all()
