"""The B-spline basis of one term: where its knots lie, and what a spline is between them."""

import numpy as np
from scipy.interpolate import BSpline, PPoly


def place_knots(x, df, degree, weight=None):
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


class Basis:
    """
    The B-splines of all terms side by side, after a column of ones.

    Each row has degree + 1 values per term that are not zero; only these are worked out. A term's
    first B-spline is left out of the model, as B-splines sum to the column of ones. The others
    are turned so that the curvature penalty is diagonal: the first coefficient of a term is then
    its straight line, which goes unpenalised, and no digits are lost to it when the rest is
    penalised to nothing.

    Parameters
    ----------
    knots : dict of int to ndarray
        Knots of each term, by the column of X that it reads.
    degree : int
        Degree of the splines.

    Attributes
    ----------
    width : int
        Number of columns, those left out included.
    kept : ndarray of shape (n_coef,)
        The columns that are not left out, the intercept's first.
    blocks : list of slice
        Coefficients of each term, among those kept.
    turn : ndarray of shape (n_coef, n_coef)
        From the model's coefficients to those of the B-splines; orthogonal, block by block.
    curvature : ndarray of shape (n_coef,)
        Integrated squared second derivative of each of the model's coefficients, at size 1.

    Examples
    --------
    >>> basis = Basis({0: np.array([0.0, 0, 0, 1, 1, 1])}, degree=2)
    >>> columns, values = basis.evaluate(np.array([[0.5]]))
    >>> columns, values
    (array([[1, 2, 3]]), array([[0.25, 0.5 , 0.25]]))
    """

    def __init__(self, knots, degree):
        self.knots = knots
        self.degree = degree
        sizes = np.array([len(t) - degree - 1 for t in knots.values()], dtype=int)
        self._starts = 1 + np.cumsum(sizes) - sizes
        self.width = 1 + int(sizes.sum())
        self.kept = np.setdiff1d(np.arange(self.width), self._starts)
        ends = 1 + np.cumsum(sizes - 1)
        self.blocks = [slice(e - k + 1, e) for e, k in zip(ends, sizes, strict=True)]
        self.turn, self.curvature = np.eye(len(self.kept)), np.zeros(len(self.kept))
        for block, t in zip(self.blocks, knots.values(), strict=True):
            curvature, axes = np.linalg.eigh(penalize_curvature(t, degree)[1:, 1:])
            curvature[0] = 0.0  # the straight line's, but for rounding
            self.turn[block, block], self.curvature[block] = axes, curvature

    def evaluate(self, X):
        """
        Evaluate what is not zero.

        Parameters
        ----------
        X : ndarray of shape (n_samples, n_features)
            Values inside the knots' range.

        Returns
        -------
        columns : ndarray of shape (n_samples, n_terms * (degree + 1)), int
            Columns in which a row's values stand.
        values : ndarray of the same shape
            B-spline values, in the features' units to the power of 0.
        """
        order = self.degree + 1
        columns = np.empty((len(X), len(self.knots) * order), dtype=np.intp)
        values = np.empty(columns.shape)
        for k, (feature, knots) in enumerate(self.knots.items()):
            x = np.ascontiguousarray(X[:, feature])
            matrix = BSpline.design_matrix(x, knots, self.degree)
            own = slice(k * order, (k + 1) * order)
            columns[:, own] = matrix.indices.reshape(-1, order) + self._starts[k]
            values[:, own] = matrix.data.reshape(-1, order)
        return columns, values

    def expand(self, coef):
        """
        Give each column its coefficient.

        Parameters
        ----------
        coef : ndarray of shape (n_coef,)
            The model's coefficients.

        Returns
        -------
        ndarray of shape (width,)
            The B-splines' coefficients, 0 for those left out.
        """
        full = np.zeros(self.width)
        full[self.kept] = self.turn @ coef
        return full

    def penalize(self, weights):
        """
        Weigh the curvature of each term.

        Parameters
        ----------
        weights : ndarray of shape (n_terms,)
            lambda_j of each.

        Returns
        -------
        ndarray of shape (n_coef,)
            Diagonal of the penalty matrix.
        """
        sizes = [block.stop - block.start for block in self.blocks]
        return self.curvature * np.append(0.0, np.repeat(weights, sizes))
