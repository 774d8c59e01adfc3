"""Paired rows and posterior draws, against the coefficients' covariance written out."""

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats

from gam_model import GAMClassifier, GAMRegressor

Z = stats.norm.ppf(0.975)


def sample(n=1500, seed=0):
    """Two numbers, one partly missing, and texts of 3 and of 400 levels."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "a": rng.uniform(size=n),
            "holed": np.where(rng.uniform(size=n) < 0.1, np.nan, rng.uniform(size=n)),
            "city": rng.choice(["Bern", "Oslo", "Rome"], n, p=[0.6, 0.3, 0.1]),
            "code": rng.choice([f"c{k}" for k in range(400)], n),
        }
    )
    eta = (
        np.sin(5 * frame["a"])
        + frame["a"] * frame["holed"].fillna(0.3)
        - (frame["city"] == "Oslo")
    )
    return frame, eta.to_numpy(), rng


@pytest.fixture(scope="module")
def fitted():
    frame, eta, rng = sample()
    y = eta + rng.normal(scale=0.4, size=len(frame))
    pairs = [("a", "holed"), ("city", "a")]
    return frame, GAMRegressor(df=8, interactions=pairs).fit(frame, y)


def with_unseen(frame):
    rows = frame[:60].copy()
    rows.loc[rows.index[[3, 4, 5]], "code"] = "new"
    rows.loc[rows.index[[5, 6]], "city"] = "Paris"
    return rows


def write_out(gam, rows):
    """Return the functions of each row, all levels included."""
    posterior = gam._posterior
    basis, X = posterior.basis, gam._validate(rows)
    design = np.ones((len(X), len(posterior.coef)))
    for k, (term, block) in enumerate(zip(basis.terms, basis.blocks, strict=True)):
        if k != basis.last:
            design[:, block] = posterior._design(k, X[:, term.feature])
            continue
        codes = X[:, term.feature].astype(int)
        design[:, block] = np.where(
            codes[:, None] < 0, posterior.means[block], np.eye(term.size)[codes]
        )
    return design


@pytest.mark.filterwarnings("ignore:column .* holds levels")
def test_differences_are_those_of_the_design_written_out(fitted):
    frame, gam = fitted
    assert gam._posterior.basis.last is not None
    a = with_unseen(frame)
    b = a.iloc[np.random.default_rng(1).permutation(len(a))].reset_index(drop=True)
    apart = write_out(gam, a) - write_out(gam, b)
    error = np.sqrt(np.einsum("ij,ij->i", apart @ gam._posterior.covariance.fill(), apart))
    difference, low, high = gam.predict_difference(a, b).T
    assert_allclose(difference, gam.predict(a) - gam.predict(b), atol=1e-12)
    assert_allclose(high - difference, Z * error, rtol=1e-7, atol=1e-9)
    assert_allclose(difference - low, Z * error, rtol=1e-7, atol=1e-9)
    swapped = gam.predict_difference(b, a).T
    assert_allclose(swapped, [-difference, -high, -low], rtol=1e-8, atol=1e-9)
    assert_allclose(gam.predict_difference(a, b, kind="response").T, [difference, low, high])


def test_equal_rows_do_not_differ(fitted):
    frame, gam = fitted
    assert_array_equal(gam.predict_difference(frame[:50], frame[:50]), 0)


def test_a_change_of_one_feature_is_known_better_than_two_predictions(fitted):
    frame, gam = fitted
    b = frame[:200].assign(a=frame["a"][:200] * 0.9)
    width = np.diff(gam.predict_difference(frame[:200], b)[:, 1:])[:, 0]
    apart = [np.diff(gam.predict_interval(rows))[:, 0] for rows in (frame[:200], b)]
    assert (width < np.hypot(*apart)).mean() > 0.95
    assert np.median(width / np.hypot(*apart)) < 0.7


def test_one_row_is_compared_with_each(fitted):
    frame, gam = fitted
    repeated = frame.iloc[np.zeros(9, dtype=int)]
    one = gam.predict_difference(frame[:9], frame[:1])
    assert_allclose(one, gam.predict_difference(frame[:9], repeated), atol=1e-12)


def test_differences_of_means_follow_the_draws():
    frame, eta, rng = sample(3000)
    y = rng.uniform(size=len(frame)) < 1 / (1 + np.exp(-eta))
    gam = GAMClassifier(df=8).fit(frame, np.where(y, "yes", "no"))
    a, b = frame[:40], frame[40:80]
    mu = 1 / (1 + np.exp(-gam.sample_posterior(pd.concat([a, b]), 20_000, random_state=0)))
    drawn = mu[:, :40] - mu[:, 40:]
    difference, low, high = gam.predict_difference(a, b, kind="response").T
    assert_allclose(
        difference, gam.predict_proba(a)[:, 1] - gam.predict_proba(b)[:, 1], atol=1e-12
    )
    assert_allclose((high - low) / 2 / Z, drawn.std(axis=0), rtol=0.06)  # to first order
    assert (low >= -1).all()
    assert (high <= 1).all()


def test_differences_cover():
    """Averaged over 60 sets, of 200 pairs of rows each."""
    covered = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        X = rng.uniform(size=(400, 2))
        eta = 1 + np.sin(2 * np.pi * X[:, 0])
        gam = GAMRegressor(family="poisson", df=12).fit(X, rng.poisson(np.exp(eta)))
        for kind, truth in (("link", eta), ("response", np.exp(eta))):
            _, low, high = gam.predict_difference(X[:200], X[200:], kind=kind).T
            apart = truth[:200] - truth[200:]
            covered.append(np.mean((low <= apart) & (apart <= high)))
    assert 0.92 < np.mean(covered) < 0.98


def test_offsets_count_for_means_only():
    rng = np.random.default_rng(0)
    X, offset = rng.uniform(size=(500, 1)), rng.normal(size=500)
    gam = GAMRegressor(family="poisson").fit(
        X, rng.poisson(np.exp(X[:, 0] + offset)), offset=offset
    )
    a, b = X[:50], X[50:100]
    assert_array_equal(gam.predict_difference(a, b, offset=3), gam.predict_difference(a, b))
    plain = gam.predict_difference(a, b, kind="response")
    assert_allclose(
        gam.predict_difference(a, b, kind="response", offset=np.log(7)), 7 * plain, rtol=1e-9
    )
    drawn = [gam.sample_posterior(a, 3, random_state=0, offset=shift) for shift in (0, 2)]
    assert_allclose(drawn[1], drawn[0] + 2)


@pytest.mark.filterwarnings("ignore:column .* holds levels")
def test_draws_have_the_covariance_of_the_design_written_out(fitted):
    frame, gam = fitted
    rows, n = with_unseen(frame)[:8], 40_000
    drawn = gam.sample_posterior(rows, n, random_state=0)
    design = write_out(gam, rows)
    covariance = design @ gam._posterior.covariance.fill() @ design.T
    size = np.sqrt(covariance.diagonal())
    assert drawn.shape == (n, 8)
    assert_allclose((drawn.mean(axis=0) - gam.predict(rows)) / size, 0, atol=4 / np.sqrt(n))
    assert_allclose(
        np.cov(drawn.T) / np.outer(size, size), covariance / np.outer(size, size), atol=0.03
    )


def test_draws_are_of_the_whole_model(fitted):
    frame, gam = fitted
    all_rows = gam.sample_posterior(frame[:300], 5, random_state=3)
    assert_allclose(gam.sample_posterior(frame[100:120], 5, random_state=3), all_rows[:, 100:120])


def test_what_cannot_be_compared_is_refused(fitted):
    frame, gam = fitted
    with pytest.raises(ValueError, match="have 4 and 3 rows"):
        gam.predict_difference(frame[:4], frame[:3])
    with pytest.raises(ValueError, match="kind must be one of"):
        gam.predict_difference(frame[:4], frame[:4], kind="odds")
    with pytest.raises(ValueError, match="coverage must be"):
        gam.predict_difference(frame[:4], frame[:4], coverage=95)
    for n_draws in (0, True, 1.5):
        with pytest.raises(ValueError, match="n_draws must be a positive integer"):
            gam.sample_posterior(frame[:4], n_draws)
