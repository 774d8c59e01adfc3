"""Means stay in the range of their family, estimates in their intervals, deviances keep digits."""

import re
import warnings
from decimal import Decimal, getcontext
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import optimize, special, stats

import gam_model
from gam_model import AdditiveModel, GAMClassifier, GAMRegressor
from gam_model._families import FAMILIES, find_family
from gam_model._links import LINKS
from gam_model._splines import penalize_curvature
from gam_model._terms import SmoothTerm

PAIRS = [(family, link.name) for family in FAMILIES for link in FAMILIES[family].links]
REFUSED = "is so far outside the training range that its mean is not finite"


def draw(family, link, n=400, seed=0):
    """Draw x in (0, 1) and y whose eta falls, or for the inverse link rises, towards an end."""
    rng = np.random.default_rng(seed)
    x = np.sort(rng.uniform(size=n))
    eta = {"inverse": 0.05 + 3 * x, "sqrt": 2.5 * (1 - x), "identity": -2 * x}.get(link, 1 - 2 * x)
    mu, family = LINKS[link].inverse(eta), family.removeprefix("quasi")
    if family in ("gaussian", "scaled_t"):
        return x[:, None], mu + rng.normal(scale=0.3, size=n)
    if family == "binomial":
        return x[:, None], rng.binomial(1, mu).astype(float)
    if family in ("poisson", "negative_binomial"):
        return x[:, None], rng.poisson(mu).astype(float)
    return x[:, None], rng.gamma(4, mu / 4)


@pytest.mark.parametrize("name", LINKS)
def test_inverses_rise_or_fall_but_at_their_turn(name):
    link = LINKS[name]
    large = 10.0 ** np.arange(-300, 308)
    eta = np.concatenate([[-np.inf], -large[::-1], [0.0], large, [np.inf]])
    with np.errstate(over="ignore", divide="ignore"):
        mu = link.inverse(eta)
    assert not np.isnan(mu).any()
    after = mu[eta >= link.turning_point] if link.turning_point is not None else mu
    steps = np.diff(after[np.isfinite(after)])
    assert (steps >= 0).all() or (steps <= 0).all()
    good = link.reaches(eta)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # inside the domain there is nothing to be quiet about
        assert np.isfinite(link.inverse(eta[good])).all()
    assert_array_equal(good, [link.reaches(one) for one in eta.tolist()])
    if name != "identity":
        assert ((mu >= link.means[0]) & (mu <= link.means[1])).all()
    inside = np.linspace(max(link.domain[0], -2), min(link.domain[1], 2), 21)[1:]
    if name == "sqrt":
        inside = inside[inside > 0]
    assert_allclose(link.link(link.inverse(inside)), inside, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("family", "link"), PAIRS)
@pytest.mark.parametrize("reach", [1, 3, 1e3, 1e9])
def test_every_estimate_lies_in_its_interval(family, link, reach):
    X, y = draw(family, link)
    gam = GAMRegressor(family=family, link=link).fit(X, y)
    link_, refused = LINKS[link], 0
    for row in np.append(0.5 + reach * np.linspace(-1, 1, 21), X[:, 0].mean())[:, None]:
        if not link_.reaches(gam.terms_.eta([row])[0]):
            for ask in (gam.predict, gam.terms_.predict, gam.predict_interval):
                with pytest.raises(ValueError, match=f"{REFUSED}.*most of it from 'x0'"):
                    ask([row])
            refused += 1
            continue
        (mu,) = gam.predict([row])
        assert mu == gam.terms_.predict([row])[0]
        kinds = ["confidence", "prediction"][: 1 + (FAMILIES[family].quantile is not None)]
        ends = np.array([gam.predict_interval([row], kind=kind)[0] for kind in kinds])
        assert (ends[:, 0] <= mu).all()
        assert (mu <= ends[:, 1]).all()
        assert (ends[-1, 0] <= ends[0, 0]) & (ends[0, 1] <= ends[-1, 1])
        if not FAMILIES[family].accepts(-1, 1):
            assert ends.min() >= 0
            assert mu >= 0 if FAMILIES[family].two_outcomes else mu > 0
        if FAMILIES[family].two_outcomes:
            assert ends.max() <= 1
            assert mu <= 1
        assert np.isfinite(mu)
        assert not np.isnan(ends).any()
    assert refused < 21


@pytest.mark.parametrize("seed", range(5))
def test_an_interval_across_the_zero_of_the_square_root(seed):
    X, y = draw("poisson", "sqrt", seed=seed)
    gam = GAMRegressor(family="poisson", link="sqrt").fit(X, y)
    low, high = gam.predict_interval(X).T
    mu, eta = gam.predict(X), gam.terms_.eta(X)
    assert ((low <= mu) & (mu <= high)).all()
    reach = stats.norm.ppf(0.975) * np.sqrt(gam._posterior.variance(X))
    across = (eta - reach < 0) & (eta + reach > 0)
    assert across.any()
    assert (low[across] < 1e-100).all()
    assert_allclose(high, (abs(eta) + reach) ** 2)
    assert_allclose(low[~across], ((abs(eta) - reach) ** 2)[~across])


def test_an_interval_up_to_the_pole_has_no_upper_end():
    X, y = draw("gamma", "inverse")
    gam = GAMRegressor(family="gamma", link="inverse").fit(X, y)
    (term,) = gam.terms_.terms
    slope = (term.at(-1e-3) - term.at(0.0)) / -1e-3
    near = np.array([[-(gam.intercept_ + term.at(0.0)) / slope + 1e-3]])  # just before it
    low, high = gam.predict_interval(near)[0]
    assert low <= gam.predict(near)[0]
    assert high == np.inf
    with pytest.raises(ValueError, match=r"row 1 .* but link='inverse' needs"):
        gam.predict([[0.5], [near[0, 0] - 0.1], [0.6]])


def test_rows_are_refused_alone_as_in_company():
    steep = SmoothTerm(1, "age", knots=[0, 0, 0, 1, 1, 1], coef=[0, 0, 900.0])
    model = AdditiveModel(0.0, [steep], ["id", "age"], "log")
    assert_array_equal(model.predict([[0, 0.5], [0, 0.7]])[:1], model.predict([[0, 0.5]]))
    message = f"row 0 {REFUSED}: its eta is 900, most of it from 'age', but link='log' needs"
    with pytest.raises(ValueError, match=message):
        model.predict([[0, 1.0]])
    with pytest.raises(ValueError, match=message.replace("row 0", "row 2")):
        model.predict([[0, 0.1], [0, 0.2], [0, 1.0]])
    assert model.predict([[0, -1e9]]) > 0  # of a falling tangent: a mean of 0 but for its digits
    assert model.predict(np.empty((0, 2))).shape == (0,)


@pytest.mark.parametrize("cell", [np.inf, -np.inf])
def test_infinite_cells_are_no_prediction(cell):
    line = SmoothTerm(0, "age", knots=[0, 0, 0, 1, 1, 1], coef=[0, 0.5, 1.0])
    for link in LINKS:
        with np.errstate(invalid="ignore"), pytest.raises(ValueError, match=REFUSED):
            AdditiveModel(0.0, [line], ["age"], link).predict([[cell]])


def test_a_classifiers_probabilities_stay_in_theirs():
    X, y = draw("binomial", "cloglog")
    for link in ("logit", "probit", "cloglog"):
        gam = GAMClassifier(link=link).fit(X, y)
        rows = np.linspace(-1e4, 1e4, 50)[:, None]
        second = gam.predict_proba(rows)[:, 1]
        low, high = gam.predict_interval(rows).T
        assert ((low >= 0) & (low <= second) & (second <= high) & (high <= 1)).all()


@pytest.mark.parametrize("shift", [-0.01, -1.0, -1e6])
def test_a_mean_that_the_link_cannot_take(shift):
    X, y = draw("gaussian", "identity")
    y = y - y.mean() + shift
    with pytest.raises(
        ValueError, match=r"with link='log' the mean of y must lie between 0 and inf"
    ):
        GAMRegressor(link="log").fit(X, y)


def test_negative_values_with_a_positive_mean():
    X, y = draw("gaussian", "log")
    y[::50] = -3.0  # where the family's own start, half way to the mean, is below 0
    gam = GAMRegressor(link="log").fit(X, y)
    assert (gam.predict(X) > 0).all()
    assert gam.score(X, y) > 0


@pytest.mark.parametrize("mu", [1e-9, 1e-7, 1e-3, 0.3, 0.9, 1 - 1e-9, 5.0, 1e6, 1e12])
@pytest.mark.parametrize("step", [0.0, 1e-12, 1e-8, -1e-6, 1e-4, -0.3, 0.04])
def test_deviances_keep_their_digits(mu, step):
    getcontext().prec = 60
    y = mu * (1 + step)
    exact_y, exact_mu = Decimal(y), Decimal(mu)

    def part(y, mu):
        return 2 * ((y * (y / mu).ln() if y else 0) - (y - mu))

    expected = {
        "poisson": part(exact_y, exact_mu),
        "gamma": 2 * ((exact_y - exact_mu) / exact_mu - (exact_y / exact_mu).ln()),
    }
    if 0 < y < 1 > mu:
        expected["binomial"] = part(exact_y, exact_mu) + part(1 - exact_y, 1 - exact_mu)
    for name, value in expected.items():
        found = FAMILIES[name].unit_deviance(np.array([y]), np.array([mu]))[0]
        # As many digits as the difference of y and mu has.
        digits = max(1e-13, 1e-15 / max(abs(y / mu - 1), 1e-15))
        assert found == pytest.approx(float(value), rel=min(digits, 1), abs=1e-30 * max(mu, 1))


def test_deviances_at_the_ends():
    binomial, poisson = FAMILIES["binomial"].unit_deviance, FAMILIES["poisson"].unit_deviance
    mu = np.array([1e-9, 0.2, 0.9])
    assert_allclose(binomial(np.ones(3), mu), -2 * np.log(mu))
    assert_allclose(binomial(np.zeros(3), mu), -2 * np.log1p(-mu), rtol=1e-7)
    assert_allclose(poisson(np.zeros(3), mu), 2 * mu)
    assert_allclose(poisson(np.ones(1), np.array([1e-200])), 2 * (200 * np.log(10) - 1))


def test_only_a_family_knows_its_law():
    """Whatever a family is asked, it answers itself: elsewhere no code compares names."""
    sources = Path(gam_model.__file__).parent.glob("*.py")
    asking = re.compile(r"family(\.name)? (==|!=) |_family (==|!=) ")
    found = [path.name for path in sources if asking.search(path.read_text(encoding="utf-8"))]
    assert found == []


@pytest.mark.parametrize(("family", "link"), [("quasipoisson", "log"), ("quasibinomial", "logit")])
def test_quasi_families_only_scale_the_variance(family, link):
    """At the same alpha the curves are those of the namesake; bands are wider by the scale."""
    X, y = draw(family, link)
    quasi = GAMRegressor(family=family, alpha=0.01).fit(X, y)
    plain = GAMRegressor(family=family.removeprefix("quasi"), alpha=0.01).fit(X, y)
    assert_allclose(quasi.predict(X), plain.predict(X), rtol=1e-8)
    ours, theirs = (m._posterior.variance(X) ** 0.5 for m in (quasi, plain))
    assert_allclose(ours, quasi.scale_**0.5 * theirs, rtol=1e-6)
    assert np.isnan(quasi.statistics_.aic)
    with pytest.raises(ValueError, match="a single response of family"):
        quasi.predict_interval(X, kind="prediction")


def test_inverse_gaussian_is_the_minimum_of_its_penalised_deviance():
    """Found anew by a general optimiser, from the curve's own basis and penalty."""
    rng = np.random.default_rng(1)
    x = rng.uniform(size=500)
    y = rng.wald(np.exp(1 + np.sin(6 * x)), 4.0)
    gam = GAMRegressor(df=8, alpha=0.01, family="inverse_gaussian").fit(x[:, None], y)
    (term,) = gam._posterior.basis.terms
    B = np.column_stack([np.ones(500), term.design(x, "linear", None)[:, 1:]])
    S = np.zeros((8, 8))
    S[1:, 1:] = 2 * 0.01 * penalize_curvature(term.knots, 3)[1:, 1:]

    def loss(b):
        mu = np.exp(B @ b)
        slope = -2 * B.T @ ((y - mu) / mu**2)
        return np.sum((y - mu) ** 2 / (mu**2 * y)) + b @ S @ b, slope + 2 * S @ b

    found = optimize.minimize(loss, np.eye(8)[0], jac=True, method="BFGS", tol=1e-9)
    assert_allclose(gam.predict(x[:, None]), np.exp(B @ found.x), rtol=1e-5)


def test_inverse_gaussian_intervals_hold_what_they_promise():
    rng = np.random.default_rng(0)
    x = rng.uniform(size=4000)
    mu = np.exp(1 + np.sin(6 * x))
    y = rng.wald(mu, 4.0)
    gam = GAMRegressor(family="inverse_gaussian").fit(x[:, None], y)
    assert gam.scale_ == pytest.approx(0.25, rel=0.1)
    low, high = gam.predict_interval(x[:, None], kind="prediction").T
    assert 0.94 < np.mean((low <= y) & (y <= high)) < 0.96
    law = stats.invgauss(mu * 0.25, scale=4.0)
    total = law.logpdf(y).sum()
    assert gam.statistics_.log_likelihood == pytest.approx(total, rel=0.01)
    assert stats.kstest(FAMILIES["inverse_gaussian"].residuals(y, mu, 0.25), "norm").pvalue > 0.01


def draw_tweedie(mu, power, scale, rng):
    """Draw a Poisson number of gamma amounts."""
    number = rng.poisson(mu ** (2 - power) / (scale * (2 - power)))
    shape = number * (2 - power) / (power - 1)
    return rng.gamma(np.maximum(shape, 1e-9), scale * (power - 1) * mu ** (power - 1)) * (
        number > 0
    )


@pytest.mark.parametrize("power", [1.05, 1.4, 1.9])
@pytest.mark.parametrize("scale", [0.01, 1.0, 20.0])
def test_tweedie_has_the_density_of_its_probabilities(power, scale):
    """Found anew from the derivative of the distribution function, and the sum over amounts."""
    mu = np.array([0.3, 2.0, 900.0])
    family = find_family(f"tweedie({power})")[0].unknown.build(np.log(scale))
    for y in (0.4 * mu, mu, 1.7 * mu):
        law = family.log_base(y) - family.unit_deviance(y, mu) / scale / 2
        counts = np.arange(1, 300_000)[:, None]
        shape, unit = (2 - power) / (power - 1), scale * (power - 1) * mu ** (power - 1)
        parts = stats.poisson.logpmf(counts, mu ** (2 - power) / (scale * (2 - power)))
        parts = parts + stats.gamma.logpdf(y, counts * shape, scale=unit)
        assert_allclose(law, special.logsumexp(parts, axis=0), rtol=1e-6, atol=1e-6)
        low, high = (family.tails(y * q, mu, scale) for q in (1 - 1e-5, 1 + 1e-5))
        assert_allclose(np.add(*low), 1.0, rtol=1e-9)
        slope = (high[0] - low[0]) / (2e-5 * y)
        assert_allclose(slope, np.exp(law), rtol=1e-4, atol=1e-9 / y.min())
    none = family.log_base(np.zeros(3)) - family.unit_deviance(np.zeros(3), mu) / scale / 2
    assert_allclose(none, -(mu ** (2 - power)) / (scale * (2 - power)))
    assert family.generator(np.zeros(1)) == 0


@pytest.mark.parametrize(
    ("name", "truth", "draw_y"),
    [
        ("negative_binomial", 2.0, lambda mu, rng: rng.negative_binomial(2, 2 / (2 + mu)) * 1.0),
        ("tweedie", 1.6, lambda mu, rng: draw_tweedie(mu, 1.6, 2.0, rng)),
        ("scaled_t", 4.0, lambda mu, rng: np.log(mu) + 0.3 * rng.standard_t(4, size=len(mu))),
    ],
)
def test_families_learn_their_parameters_and_keep_their_promises(name, truth, draw_y):
    """Of 12 draws: the parameter, the coverage of both intervals, and normal residuals."""
    learned, inside, held, above = [], [], [], []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        X = rng.uniform(size=(1500, 2))
        mu = np.exp(1.5 + np.sin(6 * X[:, 0]) + X[:, 1])
        y = draw_y(mu, rng)
        gam = GAMRegressor(family=name).fit(X, y)
        family = find_family(gam._family)[0]
        assert not gam._family.endswith("(1.5)")
        learned.append(float(gam._family.removeprefix(name).strip("()")))
        centre = np.log(mu) if name == "scaled_t" else mu
        low, high = gam.predict_interval(X).T
        inside.append(np.mean((low <= centre) & (centre <= high)))
        low, high = gam.predict_interval(X[:300], kind="prediction").T
        held.append(np.mean((low <= y[:300]) & (y[:300] <= high)))
        above.append(np.mean(y[:300] > high))
        if seed < 3:
            residuals = family.residuals(y, gam.predict(X), gam.scale_)
            assert stats.kstest(residuals, "norm").pvalue > 1e-3
    assert np.mean(learned) == pytest.approx(truth, rel=0.05)
    assert 0.93 < np.mean(inside) < 0.97
    # Counts and zeros have no interval of exactly 95 %, so theirs is one of at least that.
    assert 0.93 < np.mean(held) < (0.97 if name == "scaled_t" else 0.985)
    assert 0.01 < np.mean(above) < 0.035


def test_a_given_parameter_is_kept_and_an_impossible_one_refused():
    X, y = draw("poisson", "log")
    given = GAMRegressor(family="negative_binomial(2.5)").fit(X, y)
    assert given._family == "negative_binomial(2.5)"
    assert given.statistics_.aic == pytest.approx(
        2 * given.statistics_.edf - 2 * given.statistics_.log_likelihood
    )
    assert GAMRegressor(family="tweedie(1.3)").fit(X, y)._family == "tweedie(1.3)"
    for family, what in [
        ("tweedie(2.5)", "the power of tweedie must be a number between 1 and 2"),
        ("negative_binomial(x)", "the size of negative_binomial must be a number between 0"),
        ("scaled_t(1)", "the degrees of freedom of scaled_t must be a number between 1"),
        ("gamma(2)", "family must be one of"),
    ]:
        with pytest.raises(ValueError, match=what):
            GAMRegressor(family=family).fit(X, y)


def test_scaled_t_is_not_pulled_by_outliers():
    rng = np.random.default_rng(0)
    x = np.sort(rng.uniform(size=500))
    y = np.sin(6 * x) + rng.normal(scale=0.1, size=500)
    y[::10] += 30 * rng.uniform(size=50)
    errors = [
        np.sqrt(np.mean((GAMRegressor(family=f).fit(x[:, None], y).predict(x[:, None])
                         - np.sin(6 * x)) ** 2))
        for f in ("gaussian", "scaled_t")
    ]  # fmt: skip
    assert errors[1] < 0.05 < 0.5 < errors[0]


@pytest.mark.parametrize("name", ["negative_binomial", "tweedie", "scaled_t"])
def test_learned_families_stream(name):
    """Chunk by chunk, with an offset, a fit is that of all rows at once."""
    rng = np.random.default_rng(0)
    X, offset = rng.uniform(size=(900, 2)), rng.uniform(size=900)
    mu = np.exp(np.sin(6 * X[:, 0]) + offset)
    y = draw_tweedie(mu, 1.5, 1.0, rng) if name == "tweedie" else rng.poisson(mu) * 1.0
    if name == "negative_binomial":
        y = rng.negative_binomial(2, 2 / (2 + mu)) * 1.0
    link = "log" if name != "scaled_t" else "identity"
    whole = GAMRegressor(family=name, link=link).fit(X, y, offset=offset)
    parts = [(X[k : k + 300], y[k : k + 300], None, offset[k : k + 300]) for k in (0, 300, 600)]
    chunked = GAMRegressor(family=name, link=link).fit_chunks(parts)
    # Learning ends when a parameter changes by less than 2e-4.
    assert_allclose(chunked.terms_.eta(X), whole.terms_.eta(X), rtol=0, atol=5e-4)
    names, learned = zip(
        *(gam._family.strip(")").split("(") for gam in (chunked, whole)), strict=True
    )
    assert names == (name, name)
    assert float(learned[0]) == pytest.approx(float(learned[1]), rel=2e-3)


@pytest.mark.parametrize("name", ["negative_binomial", "tweedie", "scaled_t"])
def test_learned_families_count_a_weight_of_two_as_two_rows(name):
    rng = np.random.default_rng(0)
    X, weight = rng.uniform(size=(150, 1)), rng.integers(1, 4, size=150)
    y = rng.negative_binomial(2, 2 / (2 + np.exp(1 + np.sin(6 * X[:, 0])))) * 1.0
    weighted = GAMRegressor(family=name).fit(X, y, sample_weight=weight)
    repeated = GAMRegressor(family=name).fit(X.repeat(weight, axis=0), y.repeat(weight))
    assert_allclose(weighted.predict(X), repeated.predict(X), rtol=1e-4, atol=1e-4)
    assert weighted.scale_ == pytest.approx(repeated.scale_, rel=1e-3)
    ours, theirs = (
        float(gam._family.removeprefix(name).strip("()")) for gam in (weighted, repeated)
    )
    assert ours == pytest.approx(theirs, rel=1e-3)
