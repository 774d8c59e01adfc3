"""Residuals and their binned means, for the diagnostic plots."""

from typing import NamedTuple

import numpy as np
from scipy import stats

_TINY = np.finfo(float).tiny


def find_residuals(family, y, mu, scale):
    """
    Return quantile residuals, which are standard normal if the model holds.

    r = Phi^-1(F(y; mu, scale)) with F the family's distribution function, which for the gaussian
    is (y - mu) / sqrt(scale); for counts, whose F has steps, a point drawn from the step. Values
    that are not counts, and the binomial, get deviance residuals, sign(y - mu) sqrt(d / scale).

    Parameters
    ----------
    family : Family
        Distribution of the response.
    y, mu : ndarray of shape (n_samples,)
        Response and its fitted mean.
    scale : float
        The family's scale.

    Returns
    -------
    ndarray of shape (n_samples,)
        Residuals, the same at each call.

    References
    ----------
    Dunn and Smyth (1996), "Randomized quantile residuals", Journal of Computational and Graphical
    Statistics 5(3).
    """
    scale = max(scale, _TINY)  # it is 0 for an exact fit
    if family.name == "gaussian":
        return (y - mu) / np.sqrt(scale)
    if family.name == "gamma":
        law = stats.gamma(1 / scale, scale=mu * scale)
        return _to_normal(law.cdf(y), law.sf(y))
    if family.name == "poisson" and np.array_equal(y, np.floor(y)):
        law, u = stats.poisson(mu), np.random.default_rng(0).uniform(size=len(y))
        step = u * law.pmf(y)
        return _to_normal(law.cdf(y - 1) + step, law.sf(y - 1) - step)
    deviance = np.maximum(family.unit_deviance(y, mu), 0.0)
    return np.sign(y - mu) * np.sqrt(deviance / scale)


def _to_normal(below, above):
    # Compute each tail probability directly, to keep its precision.
    low, high = (stats.norm.isf(np.clip(tail, _TINY, 1.0)) for tail in (below, above))
    return np.where(below < above, -low, high)


class Bins(NamedTuple):
    """Bins of rows: in each the mean of x and of y, the standard error of the latter, and rows."""

    x: np.ndarray
    y: np.ndarray
    error: np.ndarray
    size: np.ndarray


def average(x, y, n_bins):
    """
    Average y in bins of x with about equal numbers of rows.

    Parameters
    ----------
    x, y : ndarray of shape (n_samples,)
        What is cut into bins, and what is averaged.
    n_bins : int
        Number of bins; ties may leave fewer, down to one for each value.

    Returns
    -------
    Bins
        The nonempty bins, in the order of x.
    """
    edges = np.unique(x)[1:]
    if len(edges) >= n_bins:
        edges = np.quantile(x, np.linspace(0, 1, n_bins + 1))[1:-1]
    bins = np.searchsorted(edges, x, side="right")
    size = np.bincount(bins)
    kept = size > 0
    size = size[kept]
    x = np.bincount(bins, x)[kept] / size
    mean = np.bincount(bins, y)[kept] / size
    square = np.bincount(bins, (y - mean[np.cumsum(kept)[bins] - 1]) ** 2)[kept]
    return Bins(x, mean, np.sqrt(square / size / np.maximum(size - 1, 1)), size)


def bound_share(share, size, z):
    """
    Return the Wilson interval of a proportion.

    Parameters
    ----------
    share, size : ndarray of shape (n,)
        Share of the rows that are 1, and number of rows.
    z : float
        Normal quantile of the coverage, such as 1.96.

    Returns
    -------
    lower, upper : ndarray of shape (n,)
        Ends of the interval.

    References
    ----------
    Wilson (1927), "Probable inference, the law of succession, and statistical inference", Journal
    of the American Statistical Association 22.
    """
    total = size + z * z
    middle = (share * size + z * z / 2) / total
    half = z / total * np.sqrt(size * share * (1 - share) + z * z / 4)
    return middle - half, middle + half
