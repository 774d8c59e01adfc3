"""The functions of a column that goes round: B-splines that meet where a period ends."""

import numpy as np
from scipy.interpolate import BSpline

from gam_model._functions import SplineBasis
from gam_model._splines import penalize_curvature, place_knots, wrap
from gam_model._terms import SmoothTerm


class CyclicBasis(SplineBasis):
    """
    Periodic B-splines of one column, and a function for its missing cells.

    There is one function for each interval between knots of one period, and each repeats itself
    every period. They sum to one, so the first is left out. All the others are penalised, as a
    straight line that meets itself is a constant.

    Parameters
    ----------
    feature : int
        Column of X.
    knots : ndarray of shape (m + 1 + 2 degree,)
        Those of one period, from its start to its end, with m intervals, and `degree` more on
        either side, which continue them.
    degree : int
        Degree of the splines; at least degree + 1 intervals.
    missing : bool, default=False
        Whether cells are missing.

    References
    ----------
    Wood (2017), "Generalized Additive Models", 2nd edition, section 5.3.2.
    """

    def __init__(self, feature, knots, degree, missing=False):
        super().__init__(feature, knots, degree, missing)
        self.n_splines = len(knots) - 1 - 2 * degree
        self.size = self.n_splines + missing
        # The functions that the B-splines over these knots are parts of, and the missing cells'.
        parts = np.arange(self.n_splines + degree) % self.n_splines
        self.repeats = np.append(parts, np.arange(self.n_splines, self.size))

    def _wrap(self, x):
        return wrap(x, self.knots[self.degree], self.knots[-self.degree - 1])

    def penalties(self):
        """Return the penalty of what is not left out, as `SplineBasis.penalties` does."""
        kept, m = self.size - self.left_out, self.n_splines
        fold = np.eye(m)[:, self.repeats[: m + self.degree]]
        curvature = fold @ penalize_curvature(self.knots, self.degree) @ fold.T
        rotation, own = np.eye(kept), slice(m - 1)
        curvature, rotation[own, own] = np.linalg.eigh(curvature[1:, 1:])
        diagonals = [np.append(np.maximum(curvature, 0.0), np.zeros(int(self.missing)))]
        if self.missing:
            diagonals.append(np.eye(kept)[-1])
        return rotation, np.array(diagonals)

    def evaluate(self, x):
        """Evaluate what is not zero, as `SplineBasis.evaluate` does."""
        order, is_missing = self.degree + 1, np.isnan(x)
        columns = np.full((len(x), self.slots), self.n_splines)
        values = np.empty(columns.shape)
        inside = np.where(is_missing, self.knots[self.degree], self._wrap(x))
        matrix = BSpline.design_matrix(inside, self.knots, self.degree)
        columns[:, :order] = matrix.indices.reshape(-1, order) % self.n_splines
        values[:, :order] = matrix.data.reshape(-1, order)
        if self.missing:
            values[:, -1] = is_missing
            values[is_missing, :-1] = 0.0
        return columns, values

    def design(self, x, extrapolate, mean):
        """Evaluate all functions, as `SplineBasis.design` does."""
        rows, is_missing = np.zeros((len(x), self.size)), np.isnan(x)
        inside = np.where(is_missing, self.knots[self.degree], self._wrap(x))
        matrix = BSpline.design_matrix(inside, self.knots, self.degree).toarray()
        np.add.at(rows.T, self.repeats[: matrix.shape[1]], matrix.T)
        rows[is_missing] = np.eye(self.size)[-1] if self.missing else mean
        return rows

    def freeze(self, coef, mean, names, features, extrapolate):
        """Return the fitted term, centred, a `SmoothTerm`; as `SplineBasis.freeze`."""
        j, unit = self.feature, features.units.get(self.feature)
        curve = (coef - mean)[self.repeats[: self.n_splines + self.degree]]
        missing = float(coef[-1] - mean) if self.missing else None
        return SmoothTerm(j, names[j], self.knots, curve, "cyclic", missing, unit=unit)


def place_cyclic_knots(x, low, own, weight):
    """
    Place the knots of a column that goes round, at quantiles of its values within the period.

    Parameters
    ----------
    x : ndarray of shape (n_samples,)
        Its values.
    low : float
        The least of them, at which the period starts.
    own : Setting
        What is asked of the column.
    weight : ndarray of shape (n_samples,) or None
        How often each value counts.

    Returns
    -------
    ndarray of shape (n_functions + 1 + 2 degree,)
        As `CyclicBasis` takes them.

    Raises
    ------
    ValueError
        If there are too few distinct values within the period.
    """
    ends, degree = np.array([low, low + own.cyclic]), own.degree
    knots, found = place_knots(wrap(x, *ends), own.df + degree, degree, weight, ends)
    once = knots[found:-found]
    if found < degree or len(once) < degree + 2:
        raise ValueError(
            f"column {own.name!r} has too few distinct values within a period of {own.cyclic:g} "
            "for a cyclic curve; leave it out of cyclic, or make it categorical"
        )
    before, after = once[-degree - 1 : -1] - own.cyclic, once[1 : degree + 1] + own.cyclic
    return np.concatenate([before, once, after])
