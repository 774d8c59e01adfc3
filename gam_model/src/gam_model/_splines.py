"""Penalised splines of one feature: where knots lie, what is between them, how bent it is."""

import numpy as np
from scipy.interpolate import BSpline, PPoly


def place_knots(x, df, degree, weight=None, ends=None):
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
    weight : ndarray of shape (n_samples,), optional
        How often each value counts.
    ends : tuple of float, optional
        Least and greatest value, where `x` is a sample that may lack them.

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
    low, high = ends or (x.min(), x.max())
    if high - low <= 8 * np.spacing(max(abs(low), abs(high))):  # constant but for rounding
        return None
    distinct = np.unique(x[: 100 * df]).size  # mostly enough; sorting all takes far longer
    if distinct < df:
        df = min(df, max(np.unique(x).size, degree + 1))
    inner = _quantiles(x, np.linspace(0, 1, df - degree + 1)[1:-1], weight)
    gap = 1e-8 * (high - low)  # closer, and the penalty, growing as gap^-3, drowns the data
    inner = inner[(np.diff(inner, prepend=low) > gap) & (inner < high - gap)]
    return np.concatenate([[low] * (degree + 1), inner, [high] * (degree + 1)])


def _quantiles(x, at, weight):
    if weight is None:
        return np.percentile(x, 100 * at)
    # The same of x with each value repeated as often as its weight says.
    order = np.argsort(x)
    upto = np.cumsum(weight[order])
    place = at * (upto[-1] - 1)
    low, high = (
        x[order[np.searchsorted(upto, np.floor(place) + k, side="right").clip(max=x.size - 1)]]
        for k in (0, 1)
    )
    return low + (high - low) * (place % 1)


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


def penalize_curvature(knots, degree):
    """
    Integrate the products of the B-splines' second derivatives.

    S[k, l] = integral B_k''(x) B_l''(x) dx, exactly, by Gauss-Legendre quadrature between knots.

    Parameters
    ----------
    knots : ndarray of shape (n_basis + degree + 1,)
        All knots in ascending order, the ends repeated degree + 1 times.
    degree : int
        Degree of the splines, at least 2.

    Returns
    -------
    ndarray of shape (n_basis, n_basis)
        Symmetric, positive semidefinite; b' S b = 0 for a straight line.

    References
    ----------
    Wood (2017), "Generalized Additive Models", 2nd edition, section 5.1.2.

    Examples
    --------
    >>> S = penalize_curvature(np.array([0.0, 0, 0, 2, 2, 2]), degree=2)
    >>> float(np.array([0, 0, 4]) @ S @ np.array([0, 0, 4]))  # x^2 has B'' = 2 on [0, 2]
    8.0
    """
    nodes, weights = np.polynomial.legendre.leggauss(degree - 1)
    distinct = np.unique(knots)
    half = np.diff(distinct)[:, None] / 2
    points = (distinct[:-1, None] + half + half * nodes).ravel()
    curvature = BSpline(knots, np.eye(len(knots) - degree - 1), degree)(points, nu=2)
    return curvature.T @ (curvature * (half * weights).ravel()[:, None])
