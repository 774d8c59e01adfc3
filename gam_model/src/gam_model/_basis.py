"""The basis of each term, B-splines or levels, and what of it is penalised."""

import numpy as np
from scipy.interpolate import BSpline

from gam_model._splines import penalize_curvature


class SplineBasis:
    """
    The B-splines of one column, and one function more for its missing cells, if there are any.

    The first B-spline is left out of the model, as B-splines sum to the column of ones. A row has
    degree + 1 values that are not zero; only these are worked out. A missing cell has a 1 in the
    last function and 0 in all others.

    Parameters
    ----------
    feature : int
        Column of X.
    knots : ndarray of shape (n_splines + degree + 1,) or None
        All knots in ascending order; None for a column that is constant where it isn't missing.
    degree : int
        Degree of the splines.
    missing : bool, default=False
        Whether cells are missing.

    Attributes
    ----------
    size : int
        Number of functions, the one left out included.
    left_out : int
        Number of functions left out, the first ones.
    slots : int
        Number of functions that may be other than zero in one row.
    """

    def __init__(self, feature, knots, degree, missing=False):
        self.feature, self.knots, self.degree, self.missing = feature, knots, degree, missing
        self.left_out = 0 if knots is None else 1
        self.n_splines = 0 if knots is None else len(knots) - degree - 1
        self.size = self.n_splines + missing
        self.slots = (degree + 1) * self.left_out + missing

    def penalties(self):
        """Return the penalty matrices of what is not left out, along the diagonal."""
        matrices = []
        if self.left_out:
            matrices.append(penalize_curvature(self.knots, self.degree)[1:, 1:])
        if self.missing:
            matrices.append(np.ones((1, 1)))
        return matrices

    def evaluate(self, x):
        """
        Evaluate what is not zero.

        Parameters
        ----------
        x : ndarray of shape (n_samples,)
            Values inside the knots' range, or NaN.

        Returns
        -------
        columns : ndarray of shape (n_samples, slots), int
            The functions.
        values : ndarray of shape (n_samples, slots)
            Their values.
        """
        columns = np.full((len(x), self.slots), self.n_splines)
        values = np.empty(columns.shape)
        if self.missing:
            hole = np.isnan(x)
            values[:, -1] = hole
            if self.left_out:
                x = np.where(hole, self.knots[0], x)
        if self.left_out:
            order = self.degree + 1
            matrix = BSpline.design_matrix(x, self.knots, self.degree, extrapolate=True)
            columns[:, :order] = matrix.indices.reshape(-1, order)
            values[:, :order] = matrix.data.reshape(-1, order)
            if self.missing:
                values[hole, :order] = 0.0
        return columns, values

    def design(self, x, extrapolate, mean):
        """
        Evaluate all functions, beyond the range of the knots too.

        Parameters
        ----------
        x : ndarray of shape (n_samples,)
            Any values.
        extrapolate : {"linear", "constant", "error"}
            How the functions go on beyond the range.
        mean : ndarray of shape (size,)
            What stands in for a missing cell, if there were none in training.

        Returns
        -------
        ndarray of shape (n_samples, size)
            Values of the functions.
        """
        hole, rows = np.isnan(x), np.zeros((len(x), self.size))
        if self.left_out:
            ends = self.knots[[0, -1]]
            inside = np.clip(np.where(hole, ends[0], x), *ends)
            matrix = BSpline.design_matrix(inside, self.knots, self.degree)
            rows[:, : self.n_splines] = matrix.toarray()
            if extrapolate != "constant":
                slopes = BSpline(self.knots, np.eye(self.n_splines), self.degree)(ends, nu=1)
                beyond = np.where(hole, 0.0, x - inside)
                rows[:, : self.n_splines] += beyond[:, None] * slopes[(beyond > 0).astype(int)]
        rows[hole] = np.eye(self.size)[-1] if self.missing else mean
        return rows


class LevelBasis:
    """
    The levels of one categorical column, with their effects penalised towards their mean.

    The penalty is the sum of the squared effects, so no level needs to be left out: a level with
    few rows is drawn to the base, as a random effect is. Missing cells are a level like others.

    Parameters
    ----------
    feature : int
        Column of X, which holds the levels' codes 0, 1, ..., and NaN for missing cells.
    n_levels : int
        Number of levels.
    missing : bool, default=False
        Whether cells are missing.

    Attributes
    ----------
    size, left_out, slots : int
        As in `SplineBasis`.

    References
    ----------
    Wood (2017), "Generalized Additive Models", 2nd edition, section 5.8.
    """

    left_out, slots = 0, 1

    def __init__(self, feature, n_levels, missing=False):
        self.feature, self.n_levels, self.missing = feature, n_levels, missing
        self.size = n_levels + missing

    def penalties(self):
        """Return the penalty matrix of all effects."""
        return [np.eye(self.size)]

    def evaluate(self, x):
        """
        Evaluate what is not zero.

        Parameters
        ----------
        x : ndarray of shape (n_samples,)
            Codes, or NaN.

        Returns
        -------
        columns : ndarray of shape (n_samples, 1), int
            The levels.
        values : ndarray of shape (n_samples, 1)
            Ones.
        """
        levels = np.where(np.isnan(x), self.n_levels, x).astype(np.intp)
        return levels[:, None], np.ones((len(x), 1))

    def design(self, x, extrapolate, mean):
        """
        Evaluate all functions, as `SplineBasis.design` does; an unseen level is -1.

        Parameters
        ----------
        x : ndarray of shape (n_samples,)
            Codes, -1 or NaN.
        extrapolate : str
            Not used.
        mean : ndarray of shape (size,)
            What stands in for an unseen level.

        Returns
        -------
        ndarray of shape (n_samples, size)
            Indicators of the levels.
        """
        codes = np.where(np.isnan(x), self.n_levels if self.missing else -1, x).astype(int)
        rows = np.eye(self.size)[codes]
        rows[codes < 0] = mean
        return rows


class Basis:
    """
    The functions of all terms side by side, after a column of ones.

    A term's coefficients are turned so that its penalty is diagonal: the first of a spline is then
    its straight line, which goes unpenalised, and no digits are lost to it when the rest is
    penalised to nothing.

    Parameters
    ----------
    terms : list of SplineBasis or LevelBasis
        The terms.

    Attributes
    ----------
    width : int
        Number of columns, those left out included.
    kept : ndarray of shape (n_coef,)
        The columns that are not left out, the intercept's first.
    blocks : list of slice
        Coefficients of each term, among those kept.
    penalties : list of slice
        Coefficients under each smoothing parameter: a term's own, then that of its missing cells.
    owners : ndarray of shape (n_penalties,), int
        The term that each of them belongs to.
    turn : ndarray of shape (n_coef, n_coef)
        From the model's coefficients to those of the functions; orthogonal, block by block.
    curvature : ndarray of shape (n_coef,)
        What the penalty makes of each of the model's coefficients, at size 1: for splines the
        integrated squared second derivative.

    Examples
    --------
    >>> basis = Basis([SplineBasis(0, np.array([0.0, 0, 0, 1, 1, 1]), degree=2)])
    >>> columns, values = basis.evaluate(np.array([[0.5]]))
    >>> columns, values
    (array([[1, 2, 3]]), array([[0.25, 0.5 , 0.25]]))
    """

    def __init__(self, terms):
        self.terms = terms
        sizes = np.array([term.size for term in terms], dtype=int)
        left_out = np.array([term.left_out for term in terms], dtype=int)
        self._starts = 1 + np.cumsum(sizes) - sizes
        self.width = 1 + int(sizes.sum())
        self.kept = np.setdiff1d(np.arange(self.width), self._starts[left_out > 0])
        ends = 1 + np.cumsum(sizes - left_out)
        self.blocks = [slice(e - k, e) for e, k in zip(ends, sizes - left_out, strict=True)]
        self.turn, self.curvature = np.eye(len(self.kept)), np.zeros(len(self.kept))
        self.penalties, owners = [], []
        for k, (term, block) in enumerate(zip(terms, self.blocks, strict=True)):
            start = block.start
            for matrix in term.penalties():
                own = slice(start, start + len(matrix))
                curvature, axes = np.linalg.eigh(matrix)
                if start == block.start and term.left_out:
                    curvature[0] = 0.0  # the straight line's, but for rounding
                self.turn[own, own], self.curvature[own] = axes, curvature
                self.penalties.append(own)
                owners.append(k)
                start = own.stop
        self.owners = np.array(owners, dtype=int)

    def evaluate(self, X):
        """
        Evaluate what is not zero.

        Parameters
        ----------
        X : ndarray of shape (n_samples, n_features)
            Training rows.

        Returns
        -------
        columns : ndarray of shape (n_samples, n_slots), int
            Columns in which a row's values stand.
        values : ndarray of the same shape
            Values of the functions.
        """
        stops = np.cumsum([term.slots for term in self.terms], dtype=int)
        columns = np.empty((len(X), stops[-1] if len(stops) else 0), dtype=np.intp)
        values = np.empty(columns.shape)
        for term, start, stop in zip(self.terms, self._starts, stops, strict=True):
            own = slice(stop - term.slots, stop)
            functions, values[:, own] = term.evaluate(np.ascontiguousarray(X[:, term.feature]))
            np.add(functions, start, out=columns[:, own])
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
            The functions' coefficients, 0 for those left out.
        """
        full = np.zeros(self.width)
        full[self.kept] = self.turn @ coef
        return full

    def penalize(self, weights):
        """
        Weigh each penalty.

        Parameters
        ----------
        weights : ndarray of shape (n_penalties,)
            lambda of each.

        Returns
        -------
        ndarray of shape (n_coef,)
            Diagonal of the penalty matrix.
        """
        sizes = [own.stop - own.start for own in self.penalties]
        return self.curvature * np.append(0.0, np.repeat(weights, sizes))
