"""
The Tweedie distribution of power 1 < p < 2: a Poisson number of gamma amounts, zero among them.

V(mu) = mu^p.  N ~ Poisson(mu^(2 - p) / (scale (2 - p))), and y is the sum of N amounts, each gamma
of shape (2 - p) / (p - 1) and scale (p - 1) scale mu^(p - 1).
"""

import numpy as np
from scipy.special import gammainc, gammaincc, gammaln

_FAR = 9.0  # standard deviations of the number of amounts beyond which terms do not count
_MANY = 20_000  # terms of a series above which the saddlepoint is as good
_CELLS = 1 << 20  # of one matrix, which bounds memory
_BISECTIONS = 44  # to 1e-11 of the value


def _sum_over(centre, width, log_term):
    """
    Return log sum_j exp(log_term(j, rows)) over j = 1, 2, ... within `width` of `centre`.

    Both have shape (n,); rows of similar width are worked out in one matrix.
    """
    first = np.maximum(np.floor(centre - width), 1.0)
    counts = np.ceil(centre + width) - first + 1
    total, groups = np.empty(len(centre)), np.ceil(np.log2(counts))
    for group in np.unique(groups):
        many, size = np.flatnonzero(groups == group), int(2**group)
        step = max(1, _CELLS // size)
        for rows in (many[k : k + step] for k in range(0, len(many), step)):
            terms = log_term(first[rows, None] + np.arange(size), rows)
            top = terms.max(axis=1)
            total[rows] = top + np.log(np.exp(terms - top[:, None]).sum(axis=1))
    return total


def log_saturated(y, power, scale):
    """
    Return the log-density at mu = y.

    Parameters
    ----------
    y : ndarray of shape (n_samples,)
        Not negative.
    power, scale : float
        p and the scale.

    Returns
    -------
    ndarray of shape (n_samples,)
        By Dunn and Smyth's series; where it has very many terms, by the saddlepoint; 0 at y = 0,
        the limit, where the whole probability is that of no amount.

    References
    ----------
    Dunn and Smyth (2005), "Series evaluation of Tweedie exponential dispersion model densities",
    Statistics and Computing 15(4).
    """
    density = np.zeros(len(y))
    there = np.flatnonzero(y > 0)
    y, slope = y[there], (2 - power) / (power - 1)
    centre = y ** (2 - power) / (scale * (2 - power))
    width = _FAR * np.sqrt(np.maximum(centre, 1.0) / (1 + slope)) + 8
    log_y = np.log(y)
    few = width < _MANY
    at = slope * (log_y - np.log(power - 1)) - (1 + slope) * np.log(scale) - np.log(2 - power)
    at = at[few]

    def log_term(j, rows):
        return j * at[rows, None] - gammaln(j + 1) - gammaln(slope * j)

    found = -0.5 * np.log(2 * np.pi * scale) - power / 2 * log_y
    sums = _sum_over(centre[few], width[few], log_term)
    found[few] = sums - log_y[few] - centre[few] * (1 + slope)
    density[there] = found
    return density


def tail(y, mu, power, scale, above=False):
    """
    Return the probability of positive responses below y, or of those above.

    Parameters
    ----------
    y, mu, scale : ndarray of shape (n_samples,)
        Responses, not negative, their means and scales.
    power : float
        p.
    above : bool, default=False
        Which tail.

    Returns
    -------
    ndarray of shape (n_samples,)
        Neither tail includes the probability of exactly 0, which is `none`.
    """
    amounts = mu ** (2 - power) / (scale * (2 - power))
    shape, unit = (2 - power) / (power - 1), scale * (power - 1) * mu ** (power - 1)
    log_amounts, ratio, gamma = np.log(amounts), y / unit, gammaincc if above else gammainc

    def log_term(j, rows):
        law = j * log_amounts[rows, None] - amounts[rows, None] - gammaln(j + 1)
        return law + np.log(gamma(j * shape, ratio[rows, None]))

    with np.errstate(invalid="ignore", divide="ignore"):  # of a tail that is 0
        sums = _sum_over(amounts, _FAR * np.sqrt(amounts) + 15, log_term)
    return np.nan_to_num(np.exp(sums))


def none(mu, power, scale):
    """Return the probability of exactly 0, of the shape of `mu`."""
    return np.exp(-(mu ** (2 - power)) / (scale * (2 - power)))


def quantile(p, mu, power, scale):
    """
    Return quantiles, by bisection of the logarithm.

    Parameters
    ----------
    p, mu, scale : ndarray of shape (n,)
        Probabilities, means and scales.
    power : float
        The power.

    Returns
    -------
    ndarray of shape (n,)
        Not negative; 0 where no amount is at least as probable as p.
    """
    found, at_zero = np.zeros(len(mu)), none(mu, power, scale)
    some = at_zero < p
    p, mu, scale = p[some] - at_zero[some], mu[some], scale[some]
    low, high = np.log(mu) - 60.0, np.log(mu + 60 * np.sqrt(scale * mu**power))
    for _ in range(_BISECTIONS):
        half = (low + high) / 2
        under = tail(np.exp(half), mu, power, scale) < p
        low, high = np.where(under, half, low), np.where(under, high, half)
    found[some] = np.exp(high)
    return found
