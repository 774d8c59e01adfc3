"""Identities that hold on any table: columns, rows and weights as real files have them."""

import os
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from gam_model import AdditiveModel, GAMClassifier, GAMRegressor
from gam_model._links import LINKS

# The same tables in each run. For others and more of them: TABLES=1000 pytest ...
MORE = int(os.environ.get("TABLES", "0"))
common = settings(
    max_examples=MORE or 15,
    derandomize=not MORE,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)

CANONICAL = {"gaussian": "identity", "binomial": "logit", "poisson": "log", "gamma": "inverse"}
COLUMNS = {
    "normal": lambda rng, n: rng.normal(size=n),
    "flag": lambda rng, n: (rng.random(n) < 0.2).astype(float),
    "count": lambda rng, n: rng.poisson(1.5, n).astype(float),
    "zeros": lambda rng, n: np.where(rng.random(n) < 0.85, 0, rng.random(n)),
    "amount": lambda rng, n: np.exp(3 * rng.normal(size=n)),
    "code": lambda rng, n: np.where(rng.random(n) < 0.02, 9999.0, rng.integers(0, 5, n)),
    "tiny": lambda rng, n: 1e-9 * rng.normal(size=n),
    "far": lambda rng, n: 1e9 + rng.normal(size=n),
    "constant": lambda rng, n: np.full(n, 3.0),
    "missing": lambda rng, n: np.where(rng.random(n) < 0.3, np.nan, rng.normal(size=n)),
    "empty": lambda rng, n: np.full(n, np.nan),
    "rounded": lambda rng, n: rng.normal(size=n).round(1),
}
LEVELS = {
    "word": lambda rng, n: rng.choice(["red", "green", "blue", None], n, p=[0.4, 0.3, 0.2, 0.1]),
    "rare": lambda rng, n: np.where(rng.random(n) < 0.02, "odd", "usual"),
    "shop": lambda rng, n: np.char.add("s", rng.integers(0, 60, n).astype(str)),
    "day": lambda rng, n: np.datetime64("2024-01-01") + rng.integers(0, 500, n),
}


class Table:
    """A table that is drawn, and a response that its first columns have to do with."""

    def __init__(self, seed, n, kinds, levels, family, twin=False):
        self.drawn = f"Table({seed}, {n}, {kinds}, {levels}, {family!r}, twin={twin})"
        rng = np.random.default_rng(seed)
        self.rng, self.family, self.n = rng, family, n
        columns = {f"{kind}{k}": COLUMNS[kind](rng, n) for k, kind in enumerate(kinds)}
        if twin:
            columns["twin"] = next(iter(columns.values()))
        columns |= {kind: LEVELS[kind](rng, n) for kind in levels}
        self.X = pd.DataFrame(columns)
        first = np.nan_to_num(next(iter(columns.values())))
        wave = np.sin(2 * (first - first.mean()) / (first.std() or 1.0))
        if family == "gaussian":
            self.y = 5 + wave + rng.normal(size=n)
        elif family == "binomial":
            self.y = (rng.random(n) < 1 / (1 + np.exp(1 - wave))).astype(float)
        elif family == "poisson":
            self.y = rng.poisson(np.exp(wave - 1)).astype(float)
        else:
            self.y = rng.gamma(2, 1.5 + wave) + 1e-6

    def __repr__(self):
        return self.drawn

    def fit(self, X=None, y=None, **rows):
        """Fit it, quietly; a table that is refused is none for these tests."""
        X, y = (self.X, self.y) if X is None else (X, y)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", RuntimeWarning)
            try:
                return GAMRegressor(family=self.family, link=CANONICAL[self.family]).fit(
                    X, y, **rows
                )
            except ValueError as error:
                check_refusal(str(error))
                assume(False)


def check_refusal(message):
    """It is a sentence of ours, and not of a library's below."""
    assert message.startswith(("y is ", "y of ", "every ", "y must", "family", "the family", "X "))
    assert len(message) < 400


def quietly(call, *args, **how):
    """Call it where levels may be asked for that had no row in training."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "column .* holds .* that fit did not see", UserWarning)
        return call(*args, **how)


@st.composite
def tables(draw, least=12, most=250, families=tuple(CANONICAL), levels=tuple(LEVELS)):
    return Table(
        seed=draw(st.integers(0, 10**6)),
        n=draw(st.integers(least, most)),
        kinds=draw(st.lists(st.sampled_from(sorted(COLUMNS)), min_size=1, max_size=5)),
        levels=draw(st.lists(st.sampled_from(sorted(levels)), max_size=2, unique=True))
        if levels
        else [],
        family=draw(st.sampled_from(families)),
        twin=draw(st.booleans()),
    )


@common
@given(tables())
def test_everything_is_finite_and_in_its_interval(table):
    gam = table.fit()
    mean = gam.predict(table.X)
    assert np.isfinite(mean).all()
    found = gam.statistics_
    assert found.deviance <= found.null_deviance * (1 + 1e-8) + 1e-12
    low, high = gam.predict_interval(table.X).T
    assert (low <= mean).all()
    assert (mean <= high).all()
    if table.family != "binomial":
        low, high = gam.predict_interval(table.X, kind="prediction").T
        assert (low <= high).all()
    frame = gam.summary_frame()
    there = frame["ref_df"] > 0  # a column of one level has no test
    assert (frame["edf"].dropna() > -1e-6).all()
    assert frame["p_value"][there].between(0, 1).all()
    eta = gam.intercept_ + gam.contributions(table.X).sum(axis=1)
    assert_allclose(LINKS[CANONICAL[table.family]].inverse(eta), mean, rtol=1e-9, atol=1e-12)


@common
@given(tables(), st.sampled_from(["none", "counts", "trials", "small"]))
def test_totals(table, kind):
    weight = {
        "none": np.ones(table.n),
        "counts": table.rng.integers(0, 4, table.n).astype(float),
        "trials": 10.0 ** table.rng.integers(0, 5, table.n),
        "small": table.rng.random(table.n) / table.n,
    }[kind]
    gam, there = table.fit(sample_weight=weight), weight > 0
    found = weight[there] @ gam.predict(table.X[there])
    assert found == pytest.approx(weight @ table.y, rel=1e-5)


@common
@given(tables(families=("poisson", "gaussian", "binomial")))
def test_totals_with_offsets(table):
    offset = table.rng.normal(size=table.n)
    gam = table.fit(offset=offset)
    assert gam.predict(table.X, offset=offset).sum() == pytest.approx(table.y.sum(), rel=1e-5)


@common
@given(tables(least=40))
def test_the_order_of_rows_and_columns_does_not_matter(table):
    rows, columns = table.rng.permutation(table.n), table.rng.permutation(table.X.columns)
    one, other = table.fit(), table.fit(table.X.iloc[rows][columns], table.y[rows])
    spread = np.ptp(table.y)
    assert_allclose(
        other.predict(table.X[columns]), one.predict(table.X), atol=2e-3 * spread, rtol=2e-3
    )


@common
@given(tables(least=40, levels=()), st.integers(-30, 30))
def test_units_do_not_matter(table, power):
    """Of powers of two, so that knots and values are the same to the last digit."""
    one, other = table.fit(), table.fit(table.X * 2.0**power, table.y)
    assert_allclose(other.predict(table.X * 2.0**power), one.predict(table.X), rtol=1e-4)
    assert_allclose(other.edf_, one.edf_, atol=1e-3)


@common
@given(tables(least=40))
def test_a_weight_is_the_row_again(table):
    times = table.rng.integers(0, 4, table.n)
    again = np.repeat(np.arange(table.n), times)
    one = table.fit(table.X.iloc[again], table.y[again])
    other = table.fit(sample_weight=times)
    ours, theirs = (quietly(gam.predict, table.X[times > 0]) for gam in (one, other))
    assert_allclose(ours, theirs, atol=2e-3 * np.ptp(table.y), rtol=2e-3)


@common
@given(tables())
def test_a_batch_is_its_rows(table):
    gam = table.fit()
    some = table.X[:20]
    alone = [gam.predict(some.iloc[[k]])[0] for k in range(len(some))]
    assert_allclose(gam.predict(some), alone, rtol=1e-12)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("models")


@common
@given(table=tables())
def test_saved_is_fitted(folder, table):
    gam = table.fit()
    gam.terms_.save(folder / "gam.json")
    model = AdditiveModel.load(folder / "gam.json")
    assert_array_equal(model.predict(gam._validate(table.X)), gam.predict(table.X))


@common
@given(tables(families=("gaussian", "binomial")))
def test_chunks_are_the_whole(table):
    whole = table.fit()
    cut = table.n // 3
    chunks = [(table.X[:0], table.y[:0])] + [
        (table.X[part], table.y[part]) for part in (slice(cut), slice(cut, None))
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        parts = GAMRegressor(family=table.family, link=CANONICAL[table.family]).fit_chunks(chunks)
    assert_allclose(
        parts.predict(table.X), whole.predict(table.X), rtol=1e-5, atol=1e-5 * np.ptp(table.y)
    )


@common
@given(tables(families=("binomial",)))
def test_a_classifier_is_the_regression_of_its_labels(table):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assume(0 < table.y.mean() < 1)
        p = GAMClassifier().fit(table.X, table.y).predict_proba(table.X)[:, 1]
    assert_allclose(p, table.fit().predict(table.X), rtol=1e-7)
