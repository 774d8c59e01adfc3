"""The B-spline basis of one term: where its knots lie, and what a spline is between them."""

import numpy as np
from scipy.interpolate import BSpline, PPoly


def place_knots(x, df, degree):
    """
    Place the knots of one feature's B-splines at its quantiles, as statsmodels does, without ties.

    Inner knot k of m is the k / (m + 1) quantile of `x`, m = df - degree - 1, and the ends of the
    range are repeated degree + 1 times. Knots that coincide are merged, and no more are placed
    than the distinct values of `x` can support, so a tied column has fewer than `df` functions.

    Parameters
    ----------
    x : ndarray of shape (n_samples,)
        Training values of the feature, in its own units.
    df : int
        Number of basis functions at most, at least degree + 1.
    degree : int
        Degree of the splines.

    Returns
    -------
    ndarray of shape (n_basis + degree + 1,) or None
        All knots in ascending order, in the units of `x`; None if `x` is constant.

    References
    ----------
    Eilers and Marx (1996), "Flexible smoothing with B-splines and penalties",
    Statistical Science 11(2), section 2.

    Examples
    --------
    >>> place_knots(np.arange(9.0), df=6, degree=2)
    array([0., 0., 0., 2., 4., 6., 8., 8., 8.])
    >>> place_knots(np.array([0.0, 1.0, 1.0]), df=6, degree=2)
    array([0., 0., 0., 1., 1., 1.])
    """
    low, high = x.min(), x.max()
    if high - low <= 8 * np.spacing(max(abs(low), abs(high))):  # constant but for rounding
        return None
    df = min(df, max(np.unique(x).size, degree + 1))
    inner = np.percentile(x, 100 * np.linspace(0, 1, df - degree + 1)[1:-1])
    gap = 1e-8 * (high - low)  # closer, and the penalty, growing as gap^-3, drowns the data
    inner = inner[(np.diff(inner, prepend=low) > gap) & (inner < high - gap)]
    return np.concatenate([[low] * (degree + 1), inner, [high] * (degree + 1)])


def fold_spline(knots, coef):
    """
    Fold a B-spline into one polynomial per interval between its distinct knots.

    sum_k coef_k B_k(x) = sum_m c[m, i] (x - knot_i)^(degree - m)  for  knot_i <= x <= knot_(i+1)

    Parameters
    ----------
    knots : ndarray of shape (n_basis + degree + 1,)
        All knots in ascending order, the ends repeated degree + 1 times.
    coef : ndarray of shape (n_basis,)
        Coefficient of each B-spline.

    Returns
    -------
    scipy.interpolate.PPoly
        The same function; its `x` are the distinct knots, its `c` has shape
        (degree + 1, n_intervals).

    References
    ----------
    de Boor (2001), "A Practical Guide to Splines", chapter X.

    Examples
    --------
    >>> line = fold_spline(np.array([0.0, 0, 0, 2, 2, 2]), np.array([1.0, 2, 3]))
    >>> line.c.ravel()
    array([0., 1., 1.])
    """
    degree = len(knots) - len(coef) - 1
    inside = slice(degree, -degree)  # the repeated end knots make intervals of no length
    spline = BSpline(knots, coef, degree)
    return PPoly(PPoly.from_spline(spline).c[:, inside], knots[inside])
