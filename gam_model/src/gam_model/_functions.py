"""
The functions of one column: B-splines or levels, with their penalties.

A term of a model names the column it reads (`feature`), evaluates its functions, holds its
penalties as diagonals in coordinates of its own, and freezes itself.
"""

import numpy as np
from scipy.interpolate import BSpline

from gam_model._atoms import bracket, locate
from gam_model._splines import penalize_curvature
from gam_model._terms import LevelTerm, SmoothTerm

_MARKED = 16  # levels above which a row's level is a mark instead of a value of the design


class SplineBasis:
    """
    B-splines of one column, and a function for each of its atoms and for its missing cells.

    Atoms are values that many rows share and that may deviate from the curve; the penalty of their
    deviations is the sum of the squares.

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
    value : float, optional
        The value of a column that is constant apart from missing cells.
    atoms : ndarray of shape (n_atoms,), optional
        Values that may deviate from the curve, ascending.

    Attributes
    ----------
    size : int
        Number of functions, the one left out included.
    left_out : int
        Number of functions left out, the first ones.
    slots : int
        Number of values in one row.
    n_marks : int
        Number of functions, the last but that of missing cells, that are indicators of which a
        row has one at most; `mark` tells which.
    is_random : bool
        Whether all coefficients are penalised effects.
    values : ndarray or None
        The column's distinct values, if it has no more than functions.
    setting : Setting or None
        What is asked of the column alone; its shapes are those of eta.
    repeats : slice or ndarray of int
        Which function each coefficient of the frozen term is of.
    """

    values = setting = None
    repeats = slice(None)

    def __init__(self, feature, knots, degree, missing=False, warp=None, value=None, atoms=()):
        self.feature, self.knots, self.degree, self.missing = feature, knots, degree, missing
        self.warp, self.value, self.is_random = warp, value, knots is None
        self.left_out = 0 if knots is None else 1
        self.n_splines = 0 if knots is None else len(knots) - degree - 1
        self.atoms, self.n_marks = np.asarray(atoms, dtype=float), len(atoms)
        self._low, self._high = bracket(self.atoms)
        self.size = self.n_splines + self.n_marks + missing
        # Of the two functions of a straight line, one is left out.
        self.slots = missing + (1 if self.n_splines == 2 else (degree + 1) * self.left_out)

    def penalties(self):
        """
        Return the penalties of what is not left out, in rotated coordinates.

        Returns
        -------
        rotation : ndarray of shape (k, k)
            From the rotated coefficients to those of the functions; orthogonal.
        diagonals : ndarray of shape (n_penalties, k)
            Not negative. The straight line, which comes first, has a penalty of 0.
        """
        kept = self.size - self.left_out
        rotation, diagonals = np.eye(kept), []
        if self.left_out:
            own = slice(self.n_splines - 1)
            curvature, axes = np.linalg.eigh(penalize_curvature(self.knots, self.degree)[1:, 1:])
            curvature[0] = 0.0  # of the straight line, 0 up to rounding
            rotation[own, own] = axes
            if curvature.any():
                diagonals.append(np.append(curvature, np.zeros(kept - len(curvature))))
            if self.setting is not None and self.setting.select:
                diagonals.append(np.eye(kept)[0])
        if self.n_marks:
            marks = np.arange(kept) - (self.n_splines - self.left_out)
            diagonals.append(((marks >= 0) & (marks < self.n_marks)).astype(float))
        if self.missing:
            diagonals.append(np.eye(kept)[-1])
        return rotation, np.reshape(diagonals, (-1, kept))

    def constraints(self):
        """
        Return what keeps the curve in the shape that is asked for.

        A rising curve has coefficients that rise; a convex one has coefficients that rise in ever
        larger steps, by distance of the averages of knots that they stand at. Both are sufficient,
        beyond the range too.

        Returns
        -------
        ndarray of shape (n_constraints, k)
            Not negative, times the coefficients of what is not left out.

        References
        ----------
        de Boor (2001), "A Practical Guide to Splines", chapter XI.
        """
        own, rows = self.setting, []
        if own is not None and self.left_out:
            rise = np.diff(np.eye(self.n_splines), axis=0)
            if own.monotonic:
                rows.append(own.monotonic * rise)
            if own.convex and self.n_splines > 2:
                d = self.degree
                slopes = rise / (self.knots[d + 1 : -1] - self.knots[1 : -d - 1])[:, None]
                rows.append(own.convex * np.diff(slopes, axis=0))
        kept = np.zeros((sum(map(len, rows)), self.size - self.left_out))
        if rows:
            kept[:, : self.n_splines - 1] = np.concatenate(rows)[:, 1:]
        return kept

    def mark(self, x):
        """
        Return the atom of each row.

        Parameters
        ----------
        x : ndarray of shape (n_samples,)
            Any values, or NaN.

        Returns
        -------
        ndarray of shape (n_samples,), int
            Position in `atoms`; -1 for all other values.
        """
        return locate(x, self._low, self._high)

    def evaluate(self, x):
        """
        Evaluate what is not zero, but for marks.

        Parameters
        ----------
        x : ndarray of shape (n_samples,)
            Training values, or NaN.

        Returns
        -------
        columns : ndarray of shape (n_samples, slots), int
            The functions, counted without marks.
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
        if self.setting is not None:
            extrapolate = self.setting.extrapolate
        is_missing, rows = np.isnan(x), np.zeros((len(x), self.size))
        if self.n_marks:
            mark = self.mark(x)
            there = np.flatnonzero(mark >= 0)
            rows[there, self.n_splines + mark[there]] = 1.0
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

    def freeze(self, coef, mean, names, features, extrapolate):
        """
        Return the fitted term, centred.

        Parameters
        ----------
        coef : ndarray of shape (size,)
            Coefficients of the functions, 0 for those left out.
        mean : float
            Mean of the term over the training rows.
        names : list of str
            Names of the columns of X.
        features : Features
            What the columns hold.
        extrapolate : {"linear", "constant", "error"}
            How the curve goes on beyond the range.

        Returns
        -------
        SmoothTerm
        """
        j, unit = self.feature, features.units.get(self.feature)
        if self.setting is not None:
            extrapolate = self.setting.extrapolate
        # B-splines sum to one, so that the curve is centred by shifting all its coefficients.
        curve = coef[: self.n_splines] - mean
        if self.left_out and self.setting is not None and self.setting.monotonic:
            sign = self.setting.monotonic
            curve = sign * np.maximum.accumulate(sign * curve)  # what rounding left
        missing = float(coef[-1] - mean) if self.missing else None
        if self.left_out:
            effects = coef[self.n_splines :][: self.n_marks]
            atoms = np.stack([self.atoms, effects]) if self.n_marks else None
            return SmoothTerm(
                j, names[j], self.knots, curve, extrapolate, missing, self.warp, unit, atoms
            )
        x = self.value  # the column is constant apart from missing cells
        knots = [x, x, x + 1, x + 1]
        return SmoothTerm(j, names[j], knots, [-mean, -mean], "constant", missing, unit=unit)


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
    size, left_out, slots, n_marks, is_random
        As in `SplineBasis`. Of more than 16 levels, a row's level is a mark.

    References
    ----------
    Wood (2017), "Generalized Additive Models", 2nd edition, section 5.8.
    """

    left_out, is_random = 0, True

    def __init__(self, feature, n_levels, missing=False):
        self.feature, self.n_levels, self.missing = feature, n_levels, missing
        self.size = n_levels + missing
        self.n_marks = self.size if self.size > _MARKED else 0
        self.slots = 0 if self.n_marks else 1

    def penalties(self):
        """Return the penalty of all effects, as `SplineBasis.penalties` does."""
        return np.eye(self.size), np.ones((1, self.size))

    def mark(self, x):
        """
        Return the level of each row.

        Parameters
        ----------
        x : ndarray of shape (n_samples,)
            Codes, or NaN.

        Returns
        -------
        ndarray of shape (n_samples,), int
        """
        return np.where(np.isnan(x), self.n_levels, x).astype(np.intp)

    def evaluate(self, x):
        """
        Evaluate what is not zero.

        Parameters
        ----------
        x : ndarray of shape (n_samples,)
            Codes, or NaN.

        Returns
        -------
        columns : ndarray of shape (n_samples, slots), int
            The levels.
        values : ndarray of shape (n_samples, slots)
            Ones.
        """
        ones = np.ones((len(x), self.slots))
        return self.mark(x)[:, None][:, : self.slots], ones

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

    def freeze(self, coef, mean, names, features, extrapolate):
        """Return the fitted term, centred, a `LevelTerm`; as `SplineBasis.freeze`."""
        effects, j = coef - mean, self.feature
        missing = float(effects[-1]) if self.missing else None
        levels = features.levels[j]
        return LevelTerm(j, names[j], levels, effects[: self.n_levels], missing)
