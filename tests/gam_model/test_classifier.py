"""Two classes of any label."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.multiclass import OneVsRestClassifier

from gam_model import GAMClassifier, GAMRegressor


@pytest.fixture(scope="module")
def two_classes():
    rng = np.random.default_rng(5)
    X = rng.uniform(-2, 2, size=(1500, 2))
    eta = 2 * np.sin(2 * X[:, 0]) + X[:, 1]
    return X, eta, rng.uniform(size=len(X)) < 1 / (1 + np.exp(-eta))


@pytest.mark.parametrize("labels", [[0, 1], [-1, 7], ["no", "yes"], [False, True]])
def test_labels(two_classes, labels):
    X, eta, second = two_classes
    gam = GAMClassifier().fit(X, np.array(labels)[second.astype(int)])
    assert_array_equal(gam.classes_, labels)
    assert_array_equal(
        gam.predict(X), np.array(labels)[(gam.decision_function(X) > 0).astype(int)]
    )
    proba = gam.predict_proba(X)
    assert_allclose(proba.sum(axis=1), 1)
    assert abs(proba[:, 1] - 1 / (1 + np.exp(-eta))).mean() < 0.03


def test_is_the_binomial_regression(two_classes):
    X, _, second = two_classes
    classifier = GAMClassifier(link="probit").fit(X, second)
    regressor = GAMRegressor(family="binomial", link="probit", alpha="auto")
    assert_allclose(
        classifier.predict_proba(X)[:, 1], regressor.fit(X, second.astype(float)).predict(X)
    )


def test_contributions_add_up_on_the_scale_of_the_link(two_classes):
    X, _, second = two_classes
    gam = GAMClassifier().fit(X, second)
    eta = gam.intercept_ + gam.contributions(X).sum(axis=1)
    assert_allclose(eta, gam.decision_function(X), rtol=1e-12)
    assert_allclose(gam.contributions(X).mean(axis=0), 0, atol=1e-10)


@pytest.mark.parametrize("alpha", ["auto", 1e-6, 1.0])
def test_separable_classes_get_finite_answers(alpha):
    x = np.linspace(-1, 1, 200)[:, None]
    with pytest.warns(UserWarning, match="y is separated by 'x0': the likelihood has no maximum"):
        gam = GAMClassifier(alpha=alpha).fit(x, x[:, 0] > 0)
    assert np.isfinite(gam.decision_function(x)).all()
    assert gam.edf_[0] >= 1  # a straight line
    assert 1e-12 < gam.predict_proba([[0.5]])[0, 0] < 0.05
    assert_array_equal(gam.predict(x), x[:, 0] > 0)


def test_three_classes_are_told_what_to_do(two_classes):
    X, _, _ = two_classes
    y = np.digitize(X[:, 0], [-0.5, 0.5])
    with pytest.raises(ValueError, match=r"two classes, got 3.*OneVsRestClassifier"):
        GAMClassifier().fit(X, y)
    with pytest.warns(UserWarning, match="y is separated by 'x0'"):
        many = OneVsRestClassifier(GAMClassifier()).fit(X, y)
    assert many.score(X, y) > 0.95
