"""Metrics of probabilities, and their intervals, against scikit-learn's."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score

from program_toolkit.probabilities import measure


def logit(p):
    return np.log(p / (1 - p))


def test_ties_and_certainty_have_metrics():
    y = np.array([0, 0, 1, 1, 1, 0])
    p = np.array([0.0, 0.5, 0.5, 0.5, 1.0, 1.0])
    metrics = measure("x", y, p, replicates=50)
    assert metrics["auc_x"] == pytest.approx(roc_auc_score(y, p))
    assert metrics["log_loss_x"] == pytest.approx(log_loss(y, p))
    assert all(np.isfinite(value) for value in metrics.values())
    same = measure("x", y, np.full(6, 0.5), replicates=50)
    assert same["auc_x"] == 0.5
    assert all(np.isfinite(value) for value in same.values())


@pytest.mark.parametrize("rate", [0.5, 0.05])
def test_the_samples_metrics_are_scikit_learns(rate):
    rng = np.random.default_rng(0)
    p = np.round(rng.beta(2, 2 / rate - 2, size=400), 2).clip(0.01, 0.99)  # with ties
    y = (rng.uniform(size=400) < p).astype(int)
    metrics = measure("x", y, p, replicates=50)
    rng, samples = np.random.default_rng(0), []  # the seed of `measure`
    for _ in range(50):
        w = np.bincount(rng.integers(400, size=400), minlength=400)
        slope = LogisticRegression(C=np.inf, tol=1e-10).fit(logit(p)[:, None], y, w).coef_[0, 0]
        samples.append(
            {
                "auc": roc_auc_score(y, p, sample_weight=w),
                "log_loss": log_loss(y, p, sample_weight=w),
                "brier": brier_score_loss(y, p, sample_weight=w),
                "calibration_gap": np.average(p - y, weights=w),
                "calibration_slope": slope,
            }
        )
    for name in samples[0]:
        expected = np.quantile([sample[name] for sample in samples], (0.025, 0.975))
        found = [metrics[f"{name}_x_{end}"] for end in ("low", "high")]
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-12)


def test_separated_samples_have_a_finite_slope():
    y, p = np.array([0, 0, 0, 1, 1, 1]), np.array([0.1, 0.2, 0.3, 0.7, 0.8, 0.9])
    metrics = measure("x", y, p, replicates=50)
    assert metrics["auc_x"] == metrics["auc_x_low"] == 1
    assert 5 < metrics["calibration_slope_x_low"] < metrics["calibration_slope_x_high"] < 1000


def test_intervals_hold_what_they_promise():
    """Of 100 samples from a known truth, about 95 have the true AUC in their interval."""
    rng, hits, true = np.random.default_rng(0), 0, 0.7602  # of N(1, 1) above N(0, 1)
    for _ in range(100):
        y = rng.integers(2, size=150)
        score = rng.normal(size=150) + y
        metrics = measure("x", y, 1 / (1 + np.exp(0.5 - score)), replicates=200)
        hits += metrics["auc_x_low"] <= true <= metrics["auc_x_high"]
    assert 88 <= hits <= 99
