"""The functions of all terms side by side, penalties diagonal."""

import copy

import numpy as np

from gam_model._functions import LevelBasis

_MANY = 50  # levels above which a column may be eliminated separately by the solver


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
    places, members : ndarray of shape (n_entries,), int
        A coefficient, and a smoothing parameter that it is under; it may be under several.
    sizes : ndarray of shape (n_entries,)
        What that penalty makes of the coefficient, at size 1: for splines the integrated squared
        second derivative. Positive.
    owners : ndarray of shape (n_penalties,), int
        The term of each smoothing parameter; -1 for the one of all straight lines, if there is
        one.
    rotation : ndarray of shape (n_dense, n_dense)
        From the model's coefficients to those of the functions; orthogonal, block by block.
    marked : ndarray of shape (n_marked,), int
        Coefficients of the indicators that `evaluate` marks, ascending; `wide` has the others
        before the term that stands last.
    curvature : ndarray of shape (n_coef,)
        Penalty of each coefficient where all smoothing parameters are 1.

    Examples
    --------
    >>> from gam_model._functions import SplineBasis
    >>> basis = Basis([SplineBasis(0, np.array([0.0, 0, 0, 1, 1, 1]), degree=2)])
    >>> columns, values, marks, levels = basis.evaluate(np.array([[0.5]]))
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
        self.rotation, self.owners = np.eye(self.n_dense), np.empty(0, dtype=int)
        self.places, self.members = np.empty((2, 0), dtype=int)
        self.sizes, marked = np.empty(0), []
        for k in order:
            own, term = self.blocks[k], terms[k]
            if k == self.last:
                self._penalise(own, np.ones(term.size), k)
                continue
            self.rotation[own, own], diagonals = term.penalties()
            for diagonal in diagonals:
                self._penalise(own, diagonal, k)
            stop = own.stop - (term.missing and term.left_out)
            marked.append(np.arange(stop - term.n_marks, stop))
        self._finish(n_coef)
        self.marked = np.concatenate([np.empty(0, dtype=int), *marked])
        self.wide = np.delete(np.arange(self.n_dense), self.marked)

    def _penalise(self, own, diagonal, owner):
        places = own.start + np.flatnonzero(diagonal)
        self.places = np.append(self.places, places)
        self.members = np.append(self.members, np.full(len(places), len(self.owners)))
        self.sizes = np.append(self.sizes, diagonal[diagonal != 0])
        self.owners = np.append(self.owners, owner)

    def _finish(self, n_coef):
        self.curvature = np.bincount(self.places, self.sizes, minlength=n_coef)

    @property
    def lines(self):
        """Coefficients that no penalty is on but the intercept's, an ndarray of int."""
        return 1 + np.flatnonzero(self.curvature[1:] == 0)

    @property
    def lines_held(self):
        """Coefficients of the straight lines that `hold_lines` has put a penalty on."""
        return self.places[self.owners[self.members] < 0]

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
        held, lines, n_coef = copy.copy(self), self.lines, len(self.curvature)
        held.places = np.append(self.places, lines)
        held.members = np.append(self.members, np.full(len(lines), len(self.owners)))
        held.sizes = np.append(self.sizes, np.where(variances > 0, variances, 1.0))
        held.owners = np.append(self.owners, -1)
        held._finish(n_coef)
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
            Functions to which a row's values belong, counted in `wide`; the number of these for
            functions that are left out.
        values : ndarray of the same shape
            Values of the functions.
        marks : ndarray of shape (n_samples, n_marking), int
            Indicators that are 1 in a row, counted in `marked`; the number of these for none.
        levels : ndarray of shape (n_samples,), int, or None
            Level of the term that stands last, counted from 0; None if there is no such term.
        """
        dense = [k for k in range(len(self.terms)) if k != self.last]
        n_slots = sum(self.terms[k].slots for k in dense)
        marking = [k for k in dense if self.terms[k].n_marks]
        columns, values = np.empty((len(X), n_slots), dtype=np.intp), np.empty((len(X), n_slots))
        marks, stop = np.empty((len(X), len(marking)), dtype=np.intp), 0
        for k in dense:
            term, x = self.terms[k], np.ascontiguousarray(X[:, self.terms[k].feature])
            own, start = slice(stop, stop + term.slots), self.blocks[k].start
            if term.slots:
                functions, values[:, own] = term.evaluate(x)
                first = np.searchsorted(self.wide, start) - term.left_out
                np.add(functions, first, out=columns[:, own])
                if term.left_out:
                    columns[:, own][functions < term.left_out] = len(self.wide)
            if term.n_marks:
                mark, place = term.mark(x), marking.index(k)
                first = np.searchsorted(self.marked, start)
                marks[:, place] = np.where(mark < 0, len(self.marked), first + mark)
            stop = own.stop
        if self.last is None:
            return columns, values, marks, None
        term = self.terms[self.last]
        return columns, values, marks, term.mark(X[:, term.feature])

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
        sizes = self.sizes * weights[self.members]
        return np.bincount(self.places, sizes, minlength=len(self.curvature))

    def constraints(self):
        """
        Return what keeps the curves in the shapes that are asked for.

        Returns
        -------
        ndarray of shape (n_constraints, n_coef)
            Not negative, times the coefficients.
        """
        rows = []
        for k, own in enumerate(self.blocks):
            shape = getattr(self.terms[k], "constraints", None)
            if k != self.last and shape is not None and len(own_rows := shape()):
                rows.append(np.zeros((len(own_rows), len(self.curvature))))
                rows[-1][:, own] = own_rows @ self.rotation[own, own]
        return np.concatenate(rows) if rows else np.empty((0, len(self.curvature)))

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
        return np.bincount(self.members, values[self.places], minlength=len(self.owners))

    def weigh(self, weights, values):
        """
        Sum over the coefficients under each smoothing parameter, times its penalty on them.

        Parameters
        ----------
        weights : ndarray of shape (n_penalties,)
            lambda of each.
        values : ndarray of shape (n_coef,)
            One for each coefficient.

        Returns
        -------
        ndarray of shape (n_penalties,)
        """
        sizes = self.sizes * weights[self.members] * values[self.places]
        return np.bincount(self.members, sizes, minlength=len(self.owners))

    def scatter(self, weights):
        """
        Weigh each penalty on its own.

        Parameters
        ----------
        weights : ndarray of shape (n_penalties,)
            lambda of each.

        Returns
        -------
        ndarray of shape (n_coef, n_penalties)
            Diagonals of the penalty matrices, side by side.
        """
        diagonals = np.zeros((len(self.curvature), len(self.owners)))
        diagonals[self.places, self.members] = self.sizes * weights[self.members]
        return diagonals

    def log_det(self, weights):
        """
        Measure the penalty as a whole.

        Parameters
        ----------
        weights : ndarray of shape (n_penalties,)
            lambda of each.

        Returns
        -------
        value : float
            log |P|+, the determinant over what is penalised, less that at weights of 1.
        gradient : ndarray of shape (n_penalties,)
            Its derivatives by log lambda: the number of coefficients under each, shared out where
            a coefficient is under several.
        hessian : ndarray of shape (n_penalties, n_penalties)
            Its second derivatives.
        """
        penalty, on = self.penalize(weights), self.curvature > 0
        if len(self.places) == on.sum():  # each coefficient is under one
            counts = self.total(np.ones(len(penalty)))
            return float(counts @ np.log(weights)), counts, np.zeros((len(counts),) * 2)
        value = np.log(penalty[on] / self.curvature[on]).sum()
        shares = self.sizes * weights[self.members] / penalty[self.places]
        gradient = np.bincount(self.members, shares, minlength=len(self.owners))
        share = np.zeros((len(penalty), len(gradient)))
        share[self.places, self.members] = shares
        return float(value), gradient, np.diag(gradient) - share.T @ share
