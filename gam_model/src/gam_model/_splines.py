"""Penalised splines of one feature: knots, polynomial pieces, and curvature penalty."""

import numpy as np
from scipy.interpolate import BSpline, PPoly

_TIE = 1e-8  # relative to the range: closer knots would make the penalty dominate


def place_knots(x, df, degree, weight=None, ends=None):
    """
    Place the knots of one feature's B-splines at its quantiles, as statsmodels does.

    Inner knot k of m is the k / (m + 1) quantile of `x`, m = df - degree - 1, and the ends of the
    range are repeated degree + 1 times. Where values are repeated so often that quantiles
    coincide, a value counts for no more than one share, 1 / (m + 1), so that the other knots are
    spread over the rest. A column of v distinct values has v functions at most, of a degree of
    v - 1 at most: two values are joined by a straight line.

    Parameters
    ----------
    x : ndarray of shape (n_samples,)
        Training values of the feature, in its own units.
    df : int
        Number of basis functions at most, at least degree + 1.
    degree : int
        Degree of the splines at most.
    weight : ndarray of shape (n_samples,), optional
        How often each value counts.
    ends : ndarray of shape (2,), optional
        Least and greatest value, where `x` is a sample that may lack them.

    Returns
    -------
    knots : ndarray of shape (n_basis + degree + 1,) or None
        All knots in ascending order, in the units of `x`; None if `x` is constant.
    degree : int
        Degree of the splines.

    References
    ----------
    Eilers and Marx (1996), "Flexible smoothing with B-splines and penalties",
    Statistical Science 11(2), section 2.

    Examples
    --------
    >>> place_knots(np.arange(9.0), df=6, degree=2)
    (array([0., 0., 0., 2., 4., 6., 8., 8., 8.]), 2)
    >>> place_knots(np.array([0.0, 1.0, 1.0]), df=6, degree=2)
    (array([0., 0., 1., 1.]), 1)
    """
    low, high = (x.min(), x.max()) if ends is None else ends
    if high - low <= 8 * np.spacing(max(abs(low), abs(high))):  # constant up to rounding
        return None, degree
    gap, counted = _TIE * (high - low), None
    if np.unique(x[: 100 * df]).size < df:  # a prefix decides; sorting all is slow
        counted = _count(x, weight, (low, high))
        df = min(df, len(counted[0]))
        degree = min(degree, df - 1)
    inner = find_quantiles(x, np.linspace(0, 1, df - degree + 1)[1:-1], weight)
    if not np.all(np.diff([low, *inner, high]) > gap):
        values, counts = counted or _count(x, weight, (low, high))
        df = min(df, len(values))
        degree = min(degree, df - 1)
        inner = _spread(values, counts, df - degree - 1, degree)
    return np.concatenate([[low] * (degree + 1), inner, [high] * (degree + 1)]), degree


def wrap(x, low, high):
    """
    Bring values into one period.

    Parameters
    ----------
    x : ndarray of shape (n_samples,)
        Values, or NaN.
    low, high : float
        Ends of the period.

    Returns
    -------
    ndarray of shape (n_samples,)
        Those inside, as they are; others by whole periods nearer; NaN for NaN.

    Examples
    --------
    >>> wrap(np.array([-1.0, 5.5, 24.0]), 0.0, 24.0)
    array([23. ,  5.5,  0. ])
    """
    inside = (low <= x) & (x < high)
    return np.where(inside, x, low + np.mod(x - low, high - low))


def find_values(x, most):
    """
    Return the distinct values of a column, if there are few.

    Parameters
    ----------
    x : ndarray of shape (n_samples,)
        The column.
    most : int
        Maximum number of distinct values.

    Returns
    -------
    ndarray of shape (n_values,) or None
        In ascending order; None if there are more.
    """
    if np.unique(x[: 100 * most]).size > most:  # a prefix decides; sorting all is slow
        return None
    values = np.unique(x)
    return values if len(values) <= most else None


def find_quantiles(x, at, weight):
    """
    Return quantiles of a column.

    Parameters
    ----------
    x : ndarray of shape (n_samples,)
        The column.
    at : ndarray of shape (n_quantiles,)
        Which quantiles, from 0 to 1.
    weight : ndarray of shape (n_samples,) or None
        How often each value counts.

    Returns
    -------
    ndarray of shape (n_quantiles,)
    """
    if weight is None or (weight == 1).all():
        values, last = np.sort(x), x.size - 1
        places = [np.floor(at * last).astype(int) + k for k in (0, 1)]
    else:
        order = np.argsort(x)
        values, upto = x[order], np.cumsum(weight[order])
        last = upto[-1] - 1
        places = [np.searchsorted(upto, np.floor(at * last) + k, side="right") for k in (0, 1)]
    low, high = (values[place.clip(max=x.size - 1)] for place in places)
    return low + (high - low) * (at * last % 1)


def _count(x, weight, ends):
    """Return the distinct values, of which some all but coincide, and how often each occurs."""
    values, which = np.unique(np.append(x, ends), return_inverse=True)
    counts = np.ones(len(x)) if weight is None else weight
    counts = np.bincount(which, np.append(counts, [0, 0]))
    first = np.diff(values, prepend=-np.inf) > _TIE * (ends[1] - ends[0])
    return values[first], np.bincount(np.cumsum(first) - 1, counts)


def _spread(values, counts, n_knots, degree):
    """Place distinct inner knots for tied values."""
    if not n_knots:
        return []
    if len(values) == n_knots + degree + 1:  # a function for each value
        return np.convolve(values[1:-1], np.full(degree, 1 / degree), "valid")
    for _ in range(100):
        share = counts.sum() / (n_knots + 1)
        if counts.max() <= share * (1 + 1e-6):
            break
        counts = np.minimum(counts, share)
    upto = np.cumsum(counts)
    return np.interp(np.linspace(0, 1, n_knots + 2)[1:-1], (upto - counts / 2) / upto[-1], values)


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
    inside = slice(degree, -degree)  # the repeated end knots make intervals of zero length
    spline = BSpline(knots, coef, degree)
    return PPoly(PPoly.from_spline(spline).c[:, inside], knots[inside])


def penalize_curvature(knots, degree):
    """
    Integrate the products of the B-splines' second derivatives.

    S[k, l] = integral B_k''(x) B_l''(x) dx, exactly, by Gauss-Legendre quadrature between knots.

    Parameters
    ----------
    knots : ndarray of shape (n_basis + degree + 1,)
        All knots in ascending order; the integral is over the range without the first and last
        `degree` of them, which repeat its ends or lie outside.
    degree : int
        Degree of the splines.

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
    if degree < 2:
        return np.zeros((len(knots) - degree - 1,) * 2)
    nodes, weights = np.polynomial.legendre.leggauss(degree - 1)
    distinct = np.unique(knots[degree : len(knots) - degree])
    half = np.diff(distinct)[:, None] / 2
    points = (distinct[:-1, None] + half + half * nodes).ravel()
    curvature = BSpline(knots, np.eye(len(knots) - degree - 1), degree)(points, nu=2)
    return curvature.T @ (curvature * (half * weights).ravel()[:, None])
