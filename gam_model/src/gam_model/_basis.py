"""The basis functions of each term, B-splines or levels, and their penalties."""

import copy

import numpy as np
from scipy.interpolate import BSpline

from gam_model._splines import penalize_curvature

_MANY = 50  # levels above which a column may be eliminated separately by the solver


class SplineBasis:
    """
    B-splines of one column, plus one function for its missing cells, if there are any.

    The first B-spline is left out of the model, as B-splines sum to the column of ones. A row has
    degree + 1 nonzero values, or one for a straight line; only these are computed. A missing cell
    has a 1 in the last function and 0 in all others.

    Parameters
    ----------
    feature : int
        Column of X.
    knots : ndarray of shape (n_splines + degree + 1,) or None
        All knots in ascending order, on the scale of `warp`; None for a column that is constant
        apart from missing cells.
    degree : int
        Degree of the splines; with degree 1 and no inner knots they are a straight line.
    missing : bool, default=False
        Whether cells are missing.
    warp : Warp, optional
        The column's own scale.

    Attributes
    ----------
    size : int
        Number of functions, the one left out included.
    left_out : int
        Number of functions left out, the first ones.
    slots : int
        Number of values in one row.
    values : ndarray or None
        The column's distinct values, if it has no more than functions.
    """

    values = None

    def __init__(self, feature, knots, degree, missing=False, warp=None):
        self.feature, self.knots, self.degree, self.missing = feature, knots, degree, missing
        self.warp = warp
        self.left_out = 0 if knots is None else 1
        self.n_splines = 0 if knots is None else len(knots) - degree - 1
        self.size = self.n_splines + missing
        # Of the two functions of a straight line, one is left out.
        self.slots = missing + (1 if self.n_splines == 2 else (degree + 1) * self.left_out)

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
            Training values, or NaN.

        Returns
        -------
        columns : ndarray of shape (n_samples, slots), int
            The functions.
        values : ndarray of shape (n_samples, slots)
            Their values.
        """
        columns = np.full((len(x), self.slots), self.n_splines)
        values = np.empty(columns.shape)
        if self.warp is not None:
            x = self.warp(x)
        if self.missing:
            is_missing = np.isnan(x)
            values[:, -1] = is_missing
            if self.left_out:
                x = np.where(is_missing, self.knots[0], x)
        if self.n_splines == 2:  # a straight line
            columns[:, 0] = 1
            values[:, 0] = (x - self.knots[0]) / (self.knots[-1] - self.knots[0])
        elif self.left_out:
            order = self.degree + 1
            matrix = BSpline.design_matrix(x, self.knots, self.degree, extrapolate=True)
            columns[:, :order] = matrix.indices.reshape(-1, order)
            values[:, :order] = matrix.data.reshape(-1, order)
        if self.missing:
            values[is_missing, :-1] = 0.0
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
        is_missing, rows = np.isnan(x), np.zeros((len(x), self.size))
        if self.warp is not None:
            x = self.warp(x)
        if self.left_out:
            ends = self.knots[[0, -1]]
            inside = np.clip(np.where(is_missing, ends[0], x), *ends)
            matrix = BSpline.design_matrix(inside, self.knots, self.degree)
            rows[:, : self.n_splines] = matrix.toarray()
            if extrapolate != "constant":
                slopes = BSpline(self.knots, np.eye(self.n_splines), self.degree)(ends, nu=1)
                beyond = np.where(is_missing, 0.0, x - inside)
                rows[:, : self.n_splines] += beyond[:, None] * slopes[(beyond > 0).astype(int)]
        rows[is_missing] = np.eye(self.size)[-1] if self.missing else mean
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

    A term's coefficients are rotated so that its penalty is diagonal: the first of a spline is
    then its straight line, which goes unpenalised, and no digits are lost to it when the rest is
    penalised to nothing.

    The levels of a categorical column never meet in a row. Of the columns with more than 50
    levels, the one with the most stands last, and the solver makes use of that.

    Parameters
    ----------
    terms : list of SplineBasis or LevelBasis
        The terms.

    Attributes
    ----------
    n_dense : int
        Number of coefficients before those of the term that stands last.
    blocks : list of slice
        Coefficients of each term, among those kept.
    member : ndarray of shape (n_coef,), int
        The smoothing parameter that each coefficient is under; -1 for none.
    owners : ndarray of shape (n_penalties,), int
        The term of each smoothing parameter; -1 for the one of all straight lines, if there is
        one.
    rotation : ndarray of shape (n_dense, n_dense)
        From the model's coefficients to those of the functions; orthogonal, block by block.
    curvature : ndarray of shape (n_coef,)
        What the penalty makes of each of the model's coefficients, at size 1: for splines the
        integrated squared second derivative.

    Examples
    --------
    >>> basis = Basis([SplineBasis(0, np.array([0.0, 0, 0, 1, 1, 1]), degree=2)])
    >>> columns, values, levels = basis.evaluate(np.array([[0.5]]))
    >>> columns, values
    (array([[3, 1, 2]]), array([[0.25, 0.5 , 0.25]]))
    """

    def __init__(self, terms):
        self.terms = terms
        many = [term.size if isinstance(term, LevelBasis) else 0 for term in terms]
        self.last = int(np.argmax(many)) if max(many, default=0) > _MANY else None
        order = [k for k in range(len(terms)) if k != self.last]
        order += [] if self.last is None else [self.last]
        self.blocks, n_coef = [slice(0)] * len(terms), 1
        for k in order:
            self.blocks[k] = slice(n_coef, n_coef + terms[k].size - terms[k].left_out)
            n_coef = self.blocks[k].stop
        self.n_dense = n_coef if self.last is None else self.blocks[self.last].start
        self.rotation, self.curvature = np.eye(self.n_dense), np.zeros(n_coef)
        self.member, self.owners = np.full(n_coef, -1), np.empty(0, dtype=int)
        for k in order:
            start = self.blocks[k].start
            if k == self.last:
                self._penalise(self.blocks[k], np.ones(terms[k].size), k)
                continue
            for matrix in terms[k].penalties():
                own = slice(start, start + len(matrix))
                curvature, axes = np.linalg.eigh(matrix)
                if start == self.blocks[k].start and terms[k].left_out:
                    curvature[0] = 0.0  # the straight line's, but for rounding
                self.rotation[own, own] = axes
                self._penalise(own, curvature, k)
                start = own.stop

    def _penalise(self, own, curvature, owner):
        if curvature.any():
            self.curvature[own] = curvature
            self.member[own] = np.where(curvature > 0, len(self.owners), -1)
            self.owners = np.append(self.owners, owner)

    @property
    def lines(self):
        """Coefficients that no penalty is on but the intercept's, an ndarray of int."""
        return 1 + np.flatnonzero(self.member[1:] < 0)

    @property
    def lines_held(self):
        """Coefficients of the straight lines that `hold_lines` has put a penalty on."""
        return np.flatnonzero(np.append(self.owners < 0, False)[self.member])

    def hold_lines(self, variances):
        """
        Put a penalty on the straight lines, one for all.

        Parameters
        ----------
        variances : ndarray of shape (n_lines,)
            Of each of them over the rows, at size 1.

        Returns
        -------
        Basis
            A copy, with one smoothing parameter more.
        """
        held = copy.copy(self)
        lines = self.lines
        held.curvature, held.member = self.curvature.copy(), self.member.copy()
        held.curvature[lines] = variances
        held.member[lines] = len(self.owners)
        held.owners = np.append(self.owners, -1)
        return held

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
            Coefficients to which a row's values belong, but for the term that stands last;
            n_dense for functions that are left out.
        values : ndarray of the same shape
            Values of the functions.
        levels : ndarray of shape (n_samples,), int, or None
            Level of the term that stands last, counted from 0; None if there is no such term.
        """
        dense = [k for k in range(len(self.terms)) if k != self.last]
        n_slots = sum(self.terms[k].slots for k in dense)
        columns, values = np.empty((len(X), n_slots), dtype=np.intp), np.empty((len(X), n_slots))
        stop = 0
        for k in dense:
            term = self.terms[k]
            own = slice(stop, stop + term.slots)
            functions, values[:, own] = term.evaluate(np.ascontiguousarray(X[:, term.feature]))
            np.add(functions, self.blocks[k].start - term.left_out, out=columns[:, own])
            if term.left_out:
                columns[:, own][functions < term.left_out] = self.n_dense
            stop = own.stop
        if self.last is None:
            return columns, values, None
        term = self.terms[self.last]
        return columns, values, term.evaluate(X[:, term.feature])[0][:, 0]

    def rotate(self, coef):
        """Return the coefficients of the functions kept, an ndarray of shape (n_coef,)."""
        dense = self.rotation @ coef[: self.n_dense]
        return np.append(dense, coef[self.n_dense :])

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
        return self.curvature * np.append(weights, 0.0)[self.member]

    def total(self, values):
        """
        Sum over the coefficients under each smoothing parameter.

        Parameters
        ----------
        values : ndarray of shape (n_coef,)
            One for each coefficient.

        Returns
        -------
        ndarray of shape (n_penalties,)
        """
        under = self.member >= 0
        return np.bincount(self.member[under], values[under], minlength=len(self.owners))
