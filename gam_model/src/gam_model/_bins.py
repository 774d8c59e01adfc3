"""Binned means and intervals of shares, for the diagnostic plots."""

from typing import NamedTuple

import numpy as np


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
