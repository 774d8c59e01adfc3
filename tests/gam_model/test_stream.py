"""The streamed fit is GLMGam's, for every family and link, and keeps more digits."""

import tracemalloc
import warnings

import numpy as np
import pytest
import statsmodels.api as sm
from numpy.testing import assert_allclose
from statsmodels.gam.api import BSplines, GLMGam
from threadpoolctl import threadpool_info, threadpool_limits

from gam_model import GAMClassifier, GAMRegressor
from gam_model._families import FAMILIES

MODELS = [(family.name, link.name) for family in FAMILIES.values() for link in family.links]
ELSEWHERE = {"quasibinomial", "quasipoisson", "inverse_gaussian"}
ELSEWHERE |= {"negative_binomial", "tweedie", "scaled_t"}  # in test_families
MODELS = [(family, link) for family, link in MODELS if family not in ELSEWHERE]


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(3)
    X = rng.uniform(size=(600, 2))
    eta = np.sin(4 * X[:, 0]) + X[:, 1] ** 2  # between -.8 and 2
    return X, eta, rng


def response(family, link, eta, rng):
    if family == "gaussian":
        return np.exp(eta / 2) + rng.normal(scale=0.1, size=len(eta)) + 1
    if family == "binomial":
        return rng.binomial(1, 1 / (1 + np.exp(-eta))).astype(float)
    mean = {"log": np.exp(eta), "sqrt": (2 + eta) ** 2, "inverse": 1 / (2 + eta)}[link]
    return rng.poisson(mean).astype(float) if family == "poisson" else rng.gamma(3, mean / 3)


def glmgam(X, y, family, link, alpha, **options):
    links = sm.families.links
    kind = {"log": links.Log, "inverse": links.InversePower, "cloglog": links.CLogLog}
    kind |= {"identity": links.Identity, "logit": links.Logit, "probit": links.Probit}
    kind |= {"sqrt": links.Sqrt}
    family = getattr(sm.families, family.capitalize())(kind[link]())
    bases = BSplines(X, df=[10] * X.shape[1], degree=[3] * X.shape[1])
    model = GLMGam(
        y, exog=np.ones((len(y), 1)), smoother=bases, alpha=alpha, family=family, **options
    )
    return model.fit(tol=1e-13)


@pytest.mark.parametrize(("family", "link"), MODELS)
@pytest.mark.parametrize("alpha", [1e-3, 0.1])
def test_is_glmgam(rows, family, link, alpha):
    X, eta, rng = rows
    y = response(family, link, eta, rng)
    gam = GAMRegressor(df=10, alpha=alpha, family=family, link=link, solver="stream").fit(X, y)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sm.tools.sm_exceptions.DomainWarning)
        theirs = glmgam(X, y, family, link, alpha)
    assert_allclose(gam.predict(X), theirs.fittedvalues, rtol=1e-8)
    # theirs.edf, and with it their scale, takes the observed information, which is another with
    # links that aren't canonical.
    edf = theirs.get_hat_matrix_diag(observed=False).sum()
    assert 1 + gam.edf_.sum() == pytest.approx(edf, rel=1e-8)
    if FAMILIES[family].scale is None:
        assert gam.scale_ == pytest.approx(theirs.pearson_chi2 / (len(y) - edf), rel=1e-8)


def test_offset_is_glmgams(rows):
    X, eta, rng = rows
    exposure = rng.uniform(0.5, 4, size=len(eta))
    y = rng.poisson(exposure * np.exp(eta)).astype(float)
    gam = GAMRegressor(df=10, alpha=0.1, family="poisson").fit(X, y, offset=np.log(exposure))
    theirs = glmgam(X, y, "poisson", "log", 0.1, offset=np.log(exposure))
    assert_allclose(gam.predict(X) * exposure, theirs.fittedvalues, rtol=1e-8)


@pytest.mark.parametrize("family", ["gaussian", "poisson"])
@pytest.mark.parametrize("alpha", [0.1, "auto"])
def test_a_weight_counts_rows(rows, family, alpha):
    X, eta, rng = rows
    y = response(family, "log", eta, rng)
    weight = rng.integers(0, 4, size=len(y))
    gam = GAMRegressor(df=10, alpha=alpha, family=family)
    weighted = gam.fit(X, y, sample_weight=weight).predict(X)
    repeated = gam.fit(X.repeat(weight, axis=0), y.repeat(weight)).predict(X)
    assert_allclose(weighted, repeated, rtol=1e-6)


def test_both_solvers_agree(additive):
    X, y, _ = additive
    one, other = (
        GAMRegressor(alpha=[0.1, 1, 10, 1, 0.1], solver=solver).fit(X, y)
        for solver in ("stream", "statsmodels")
    )
    assert_allclose(one.contributions(X), other.contributions(X), atol=1e-9)
    assert_allclose(one.edf_, other.edf_, rtol=1e-8)


@pytest.mark.parametrize("n", [4095, 4096, 4097, 10_000])
def test_chunks_leave_no_seam(n):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, 1))
    y = np.sin(X[:, 0])
    stream, whole = (
        GAMRegressor(alpha=1.0, solver=solver).fit(X, y) for solver in ("stream", "statsmodels")
    )
    assert_allclose(stream.predict(X), whole.predict(X), atol=1e-9)


def test_memory_does_not_grow_with_rows():
    rng = np.random.default_rng(0)
    X = rng.uniform(size=(400_000, 6))
    y = X.sum(axis=1)
    tracemalloc.start()
    GAMRegressor(alpha="auto").fit(X, y)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # A few columns of the rows' length; the whole design would take 400000 x 91 x 8 = 290 MB.
    assert peak < 60e6


def test_a_start_on_few_rows_changes_nothing():
    rng = np.random.default_rng(0)
    X = rng.uniform(size=(50_000, 1))
    y = rng.binomial(1, 0.5 + 0.4 * np.sin(6 * X[:, 0])).astype(float)
    gam = GAMRegressor(df=10, alpha=0.1, family="binomial").fit(X, y)
    theirs = glmgam(X, y, "binomial", "logit", 0.1)
    assert_allclose(gam.predict(X), theirs.fittedvalues, rtol=1e-8)


def test_large_offsets_and_small_scales_keep_their_digits(additive):
    X, y, _ = additive
    plain = GAMRegressor(alpha=0.1, solver="stream").fit(X, y)
    far = GAMRegressor(alpha=0.1, solver="stream").fit(X + 1e9, y + 1e9)
    assert_allclose(far.predict(X + 1e9) - 1e9, plain.predict(X), atol=1e-4)
    small = GAMRegressor(alpha=0.1e-18, solver="stream").fit(X * 1e-6, y)
    assert_allclose(small.predict(X * 1e-6), plain.predict(X), rtol=1e-8, atol=1e-8)


def test_an_exact_line_is_found_exactly(additive):
    X = additive[0]
    y = 3 * X[:, 0] - X[:, 1] + 5
    assert_allclose(GAMRegressor(alpha="auto").fit(X, y).predict(X), y, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("family", ["gaussian", "gamma"])
def test_little_noise_is_no_reason_to_stop_early(family):
    x = np.linspace(0, 3, 400)
    y = np.exp(np.sin(x)) * (1 + 1e-7 * np.cos(50 * x))
    gam = GAMRegressor(df=40, alpha=1e-9, family=family, link="log").fit(x[:, None], y)
    assert_allclose(gam.predict(x[:, None]), y, rtol=3e-6)


@pytest.mark.parametrize(
    ("family", "y", "message"),
    [
        ("binomial", [0.0, 1.0, 2.0], "between 0 and 1, got values from 0 to 2"),
        ("binomial", [-0.1, 1.0, 0.0], "between 0 and 1, got values from -0.1 to 1"),
        ("poisson", [0.0, 1.0, -1.0], "not negative"),
        ("poisson", [0.0, 0.0, 0.0], "not all 0"),
        ("gamma", [0.0, 1.0, 2.0], "must be positive, got values from 0 to 2"),
    ],
)
def test_a_response_that_the_family_cannot_have(family, y, message):
    with pytest.raises(ValueError, match=message):
        GAMRegressor(family=family).fit([[0.0], [1.0], [2.0]], y)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"family": "weibull"}, "family must be one of .* got family='weibull'"),
        ({"link": "logit"}, "link of gaussian must be one of .* got link='logit'"),
        ({"criterion": "aic"}, "criterion must be one of .* got criterion='aic'"),
        ({"solver": "qr"}, "solver must be one of .* got solver='qr'"),
        ({"alpha": [1.0, 2.0]}, r"one number per feature, 1, got alpha=\[1.0, 2.0\]"),
        ({"alpha": "auto", "solver": "statsmodels"}, 'use solver="stream"'),
    ],
)
def test_parameters_that_cannot_be(parameters, message):
    X = np.arange(20.0)[:, None]
    with pytest.raises(ValueError, match=message):
        GAMRegressor(**parameters).fit(X, X[:, 0])


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        ([1.0] * 19, r"sample_weight must have shape \(20,\), got \(19,\)"),
        ([-1.0] * 20, "sample_weight must be at least 0, got -1"),
        ([0.0] * 20, "every sample_weight is zero"),
        ([np.nan] * 20, "sample_weight contains NaN"),
    ],
)
def test_weights_that_cannot_be(weight, message):
    X = np.arange(20.0)[:, None]
    with pytest.raises(ValueError, match=message):
        GAMRegressor().fit(X, X[:, 0], sample_weight=weight)


class Recording:
    """Chunks that count how often they are passed over."""

    def __init__(self, chunks):
        self.chunks, self.passes = chunks, 0

    def __iter__(self):
        self.passes += 1
        return iter(self.chunks)


class TestChunks:
    @pytest.mark.parametrize("size", [1, 7, 300, 5000])
    def test_are_the_rows(self, additive, size):
        X, y, _ = additive
        weight = np.random.default_rng(0).integers(0, 3, size=len(y))
        chunks = [
            (X[k : k + size], y[k : k + size], weight[k : k + size])
            for k in range(0, len(y), size)
        ]
        gam = GAMRegressor().fit_chunks(chunks)
        whole = GAMRegressor().fit(X, y, sample_weight=weight)
        assert_allclose(gam.predict(X), whole.predict(X), rtol=1e-8)
        assert_allclose(gam.feature_importances_, whole.feature_importances_)
        assert gam.statistics_.aic == pytest.approx(whole.statistics_.aic)

    def test_a_gaussian_fit_takes_two_passes_and_a_look(self, additive):
        X, y, _ = additive
        chunks = Recording([(X[:400], y[:400]), (X[400:], y[400:])])
        GAMRegressor().fit_chunks(chunks)
        assert chunks.passes == 3

    def test_classes_are_found_wherever_they_are(self, additive):
        X, y, _ = additive
        label = np.where(y > y.mean(), "high", "low")
        order = np.argsort(label)  # so that a chunk has one class only
        chunks = [(X[k], label[k]) for k in np.array_split(order, 5)]
        gam = GAMClassifier().fit_chunks(chunks)
        whole = GAMClassifier().fit(X[order], label[order])
        assert list(gam.classes_) == ["high", "low"]
        assert_allclose(gam.predict_proba(X), whole.predict_proba(X), atol=1e-6)

    def test_offsets(self, rows):
        X, eta, rng = rows
        exposure = rng.uniform(0.5, 4, size=len(eta))
        y = rng.poisson(exposure * np.exp(eta)).astype(float)
        log = np.log(exposure)
        half = len(y) // 2
        chunks = [(X[k], y[k], None, log[k]) for k in (slice(half), slice(half, None))]
        gam = GAMRegressor(family="poisson").fit_chunks(chunks)
        whole = GAMRegressor(family="poisson").fit(X, y, offset=log)
        assert_allclose(gam.predict(X), whole.predict(X), rtol=1e-6)

    def test_more_rows_than_the_sample_holds(self, monkeypatch):
        monkeypatch.setattr("gam_model._additive.SAMPLE", 2000)
        rng = np.random.default_rng(0)
        x = np.sort(rng.normal(size=20_000))  # sorted, so that no chunk is like another
        y = np.sin(2 * x) + rng.normal(scale=0.1, size=len(x))
        chunks = [(x[k : k + 1500, None], y[k : k + 1500]) for k in range(0, len(x), 1500)]
        gam = GAMRegressor().fit_chunks(chunks)
        (term,) = gam.terms_.terms
        assert term.range == (x[0], x[-1])  # of all rows, not of the sample
        inner = term.knots[4:-4]
        assert abs(np.searchsorted(x, inner) / len(x) - np.arange(1, 12) / 12).max() < 0.04
        inside = x[200:-200, None]  # the last B-splines have few rows, and knots of their own
        whole = GAMRegressor().fit(x[:, None], y)
        assert_allclose(gam.predict(inside), whole.predict(inside), atol=0.05)
        again = GAMRegressor().fit_chunks([(x[:, None], y)])  # chunks of another size
        assert_allclose(again.terms_.terms[0].knots, term.knots)

    def test_memory_is_that_of_a_chunk(self):
        class Drawn:
            def __iter__(self):
                rng = np.random.default_rng(0)
                for _ in range(15):
                    X = rng.uniform(size=(20_000, 5))
                    yield X, X.sum(axis=1)

        tracemalloc.start()
        GAMRegressor().fit_chunks(Drawn())
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 60e6  # the design of all rows takes 300000 x 71 x 8 = 170 MB

    def test_a_pass_has_one_thread_and_leaves_the_others_as_they_were(self, additive):
        X, y, _ = additive
        n_threads = []

        def count():
            blas = [lib["num_threads"] for lib in threadpool_info() if lib["user_api"] == "blas"]
            n_threads.append(set(blas))

        class Counting:
            def __iter__(self):
                count()
                yield X, y

        with threadpool_limits(2, "blas"):
            GAMRegressor().fit_chunks(Counting())
            count()
        assert n_threads[0] == n_threads[-1] == {2}
        assert n_threads[-2] == {1}  # the solver's

    def test_an_iterator_is_refused(self, additive):
        X, y, _ = additive
        with pytest.raises(TypeError, match="chunks can be iterated over only once"):
            GAMRegressor().fit_chunks((X, y) for _ in range(2))

    def test_no_row(self):
        with pytest.raises(ValueError, match="there are no rows to fit"):
            GAMRegressor().fit_chunks([])

    def test_other_columns(self, additive):
        X, y, _ = additive
        with pytest.raises(ValueError, match="X has 4 features, but GAMRegressor is expecting 5"):
            GAMRegressor().fit_chunks([(X, y), (X[:, :4], y)])
