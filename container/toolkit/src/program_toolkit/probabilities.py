"""How well predicted probabilities rank outcomes, and how well they are calibrated."""

import numpy as np

_NEAR_0 = np.finfo(float).eps


def measure(split: str, y: np.ndarray, p: np.ndarray, replicates: int = 0) -> dict[str, float]:
    """Measure how well probabilities rank, and how well they are calibrated.

    Parameters
    ----------
    split : str
        What the metrics' names end in.
    y, p : ndarray, shape (n,)
        Outcomes, 0 and 1, and their predicted probabilities.
    replicates : int
        Bootstrap samples of the rows; the 2.5 % and 97.5 % quantiles over them bound each metric.

    Returns
    -------
    dict of str to float
        auc, log_loss and brier; calibration_gap, the mean prediction minus the share of ones;
        calibration_slope, that of a logistic regression of y on logit(p), below 1 where the
        predictions are too extreme. With replicates, also each with ``_low`` and ``_high``.
    """
    n, rng = len(y), np.random.default_rng(0)
    metrics = {f"{name}_{split}": one[0] for name, one in _weigh(y, p, np.ones((1, n))).items()}
    if replicates:
        draws = [np.bincount(rng.integers(n, size=n), minlength=n) for _ in range(replicates)]
        draws = [draw for draw in draws if 0 < draw @ y < n]  # else it has no AUC
        at_once = 1 + 2_000_000 // n
        parts = [
            _weigh(y, p, np.array(draws[start : start + at_once], dtype=float))
            for start in range(0, len(draws), at_once)
        ]
        for name in parts[0]:
            samples = np.concatenate([part[name] for part in parts])
            low, high = np.quantile(samples, (0.025, 0.975))
            metrics |= {f"{name}_{split}_low": low, f"{name}_{split}_high": high}
    return {name: float(value) for name, value in metrics.items()}


def _weigh(y: np.ndarray, p: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Return each metric under each row of weights: shape (m, n) in, shape (m,) out."""
    order = np.argsort(p)
    y, p, weights = y[order], p[order], weights[:, order]
    total, clipped = weights.sum(axis=1), np.clip(p, _NEAR_0, 1 - _NEAR_0)
    starts = np.flatnonzero(np.diff(p, prepend=-1.0))  # of equal predictions
    ones = np.add.reduceat(weights * y, starts, axis=1)
    zeros = np.add.reduceat(weights * (1 - y), starts, axis=1)
    below = np.cumsum(zeros, axis=1) - zeros / 2
    return {
        "auc": (ones * below).sum(axis=1) / (ones.sum(axis=1) * zeros.sum(axis=1)),
        "log_loss": -weights @ np.log(np.where(y == 1, clipped, 1 - clipped)) / total,
        "brier": weights @ (p - y) ** 2 / total,
        "calibration_gap": weights @ (p - y) / total,
        "calibration_slope": _slope(y, np.log(clipped / (1 - clipped)), weights),
    }


def _slope(y: np.ndarray, x: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the slope of a logistic regression of y on x under each row of weights."""
    coef = np.tile([0.0, 1.0], (len(weights), 1))  # of a perfect calibration

    def loss(coef: np.ndarray) -> np.ndarray:
        eta = coef[:, :1] + coef[:, 1:] * x
        return (weights * (np.logaddexp(0, eta) - y * eta)).sum(axis=1)

    before = loss(coef)
    for _ in range(30):  # Newton's steps; where x separates y they would never end
        mu = np.exp(-np.logaddexp(0, -coef[:, :1] - coef[:, 1:] * x))
        residual, spread = weights * (y - mu), weights * mu * (1 - mu)
        gradient = np.column_stack([residual.sum(axis=1), residual @ x])
        moments = np.column_stack([spread.sum(axis=1), spread @ x, spread @ x**2])
        curvature = moments[:, [[0, 1], [1, 2]]]
        step = (np.linalg.pinv(curvature, hermitian=True) @ gradient[:, :, None])[:, :, 0]
        reach = np.abs(step[:, :1] + step[:, 1:] * [x.min(), x.max()]).max(axis=1, keepdims=True)
        step *= 5 / np.maximum(reach, 5)
        for _ in range(30):
            after = loss(coef + step)
            worse = ~(after <= before)
            if not worse.any():
                break
            step[worse] /= 2
        step[worse] = 0
        coef, before = coef + step, np.where(worse, before, after)
        if np.abs(step).max() < 1e-6:  # the next would be its square
            break
    return coef[:, 1]


def calibrate(y: np.ndarray, p: np.ndarray, bins: int = 10) -> list[dict[str, float]]:
    """Compare predicted with observed shares, in bins of about as many rows each, by rising p."""
    parts = np.array_split(np.argsort(p, kind="stable"), min(bins, len(p)))
    return [
        {"rows": len(part), "predicted": float(p[part].mean()), "observed": float(y[part].mean())}
        for part in parts
    ]
