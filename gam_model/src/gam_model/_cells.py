"""
Columns in bins, and the functions of their terms there.

In each bin of a curve the functions are polynomials around its centre, so that sums over its rows
are sums of powers of their distances from it.
"""

import math

import numpy as np
from scipy.interpolate import BSpline
from scipy.sparse import csr_array

from gam_model._functions import LevelBasis, SplineBasis

_BINS = 240  # of a curve, about
_ROWS = 1.8  # in a pair of bins, were rows spread evenly: fewer rows, fewer bins
_LEAST = 4  # bins in each interval between knots
_CELLS = 2**23  # of all joint histograms: 64 MB
_LOOKED_AT = 10_000  # rows from which it is told whether columns can be told apart
_ALIKE = 0.1  # share of a column's variance within its bins that another one explains there
_COLLINEAR = 1e-4  # smallest eigenvalue of the columns' correlations
_FEW = 32  # knots up to which a linear scan beats binary search


def put_in_bins(term, rotation, n_bins):
    """
    Return a term's column in bins.

    Parameters
    ----------
    term : SplineBasis or LevelBasis
        The term.
    rotation : ndarray of shape (k, k)
        From the model's coefficients to those of the functions that are kept; not used for levels.
    n_bins : int
        Number of bins of a curve, about.

    Returns
    -------
    BinnedCurve or BinnedLevels
    """
    if isinstance(term, LevelBasis):
        return BinnedLevels(term)
    return BinnedCurve(term, rotation, n_bins)


class BinnedCurve:
    """
    A numeric column in bins.

    There are some in each interval between knots, one for each atom, and one for missing cells. In
    each, the functions are polynomials around its centre.

    Parameters
    ----------
    term : SplineBasis
        The term.
    rotation : ndarray of shape (k, k)
        From the model's coefficients to those of the functions that are kept.
    n_bins : int
        Number of bins of the curve, about.
    """

    def __init__(self, term, rotation, n_bins):
        self.term, order = term, 1
        centres = np.zeros(1)  # of the only bin of a constant
        if term.left_out:
            order = term.degree + 1
            distinct = np.unique(term.knots)
            self._each = _split(distinct, n_bins)
            self._inner, self._starts = distinct[1:-1], distinct[:-1]
            self._per_unit = self._each / np.diff(distinct)
            shares = (np.arange(self._each) + 0.5) / self._each
            centres = (distinct[:-1, None] + np.diff(distinct)[:, None] * shares).ravel()
        self._n_curve = len(centres)
        atoms = term.atoms if term.warp is None else term.warp(term.atoms)
        self.n_bins = _count_bins(term, n_bins)
        self._centres = np.concatenate([centres, atoms, np.zeros(int(term.missing))])
        functions = np.zeros((order, self.n_bins, term.size))
        numbers = slice(self.n_bins - term.missing)
        if term.left_out:
            spline = BSpline(term.knots, np.eye(term.n_splines), term.degree)
            for power in range(order):
                functions[power, numbers, : term.n_splines] = spline(
                    self._centres[numbers], nu=power
                ) / math.factorial(power)
        for k in range(term.n_marks):
            functions[0, self._n_curve + k, term.n_splines + k] = 1.0
        if term.missing:
            functions[0, -1, -1] = 1.0
        self._functions = functions[:, :, term.left_out :]
        self._rotated = self._functions @ rotation

    @property
    def shape(self):
        """Shape of the sums of powers: their number, and that of the bins."""
        return self._functions.shape[:2]

    @property
    def n_moments(self):
        """Number of powers that `settle` takes, up to the squares at least."""
        return max(3, len(self._functions)) if self.term.left_out else 1

    def place(self, x):
        """
        Find the bins.

        Parameters
        ----------
        x : ndarray of shape (n_samples,)
            Training values, or NaN.

        Returns
        -------
        bins : ndarray of shape (n_samples,), int
            Number of the bin.
        beside : ndarray of shape (n_samples,) or None
            How far the value lies from the bin's centre; None where this makes no difference.
        """
        term = self.term
        t = x if term.warp is None else term.warp(x)
        if term.missing:
            is_missing = np.isnan(x)
            t = np.where(is_missing, 0.0, t)
        bins = np.zeros(len(x), dtype=np.intp)
        if term.left_out:
            if len(self._inner) <= _FEW:
                interval = np.zeros(len(x), dtype=np.uint8)
                for knot in self._inner:
                    interval += t >= knot
                interval = interval.astype(np.intp)
            else:
                interval = np.searchsorted(self._inner, t, side="right")
            within = (t - self._starts.take(interval)) * self._per_unit.take(interval)
            bins = np.clip(within.astype(np.intp), 0, self._each - 1)
            bins += interval * self._each
        if term.n_marks:
            mark = term.mark(x)
            bins = np.where(mark >= 0, self._n_curve + mark, bins)
        if term.missing:
            bins[is_missing] = self.n_bins - 1
        if not term.left_out:
            return bins, None
        beside = t - self._centres.take(bins)
        if term.missing:
            beside[is_missing] = 0.0
        return bins, beside

    def measure(self, bins, beside):
        """Return the values on the term's own scale, 0 for missing cells."""
        return self._centres.take(bins) + beside

    def tabulate(self, coef):
        """Return the curve's polynomial in each bin, a list with an ndarray for each power."""
        return list(self._rotated @ coef)

    def collect(self, sums):
        """Return the sums of the model's functions, from those of powers."""
        return np.einsum("pb,pbk->k", sums, self._rotated)

    def settle(self, sums):
        """
        Average the functions over each bin.

        Parameters
        ----------
        sums : ndarray of shape (n_moments, n_bins)
            Sums over all rows, by prior weight, of the powers of their distance from the centre.
        """
        moments = sums / np.where(sums[0] > 0, sums[0], 1.0)
        moments[0], order = 1.0, len(self._rotated)
        self.totals = np.einsum("pb,pbk->k", sums[:order], self._functions)
        self._means = np.einsum("pb,pbk->bk", moments[:order], self._rotated)
        # Of what is left of two functions within a bin, only the slopes' part: so the whole is a
        # sum of squares, and never indefinite.
        self._spread = None
        if len(self._rotated) > 1:
            shared, slopes = moments[2] - moments[1] ** 2, self._rotated[1]
            self._spread = np.einsum("b,bk,bl->bkl", shared, slopes, slopes)

    def cross(self, joint):
        """Sum another column's joint histogram with this one, (m, n_bins), over the functions."""
        return joint @ self._means

    def gram(self, weight):
        """Return B'WB of the functions alone, from the sums of the weights in each bin."""
        gram = self._means.T @ (weight[:, None] * self._means)
        return gram if self._spread is None else gram + np.tensordot(weight, self._spread, 1)


class BinnedLevels:
    """A categorical column: each level is a bin. Methods are those of `BinnedCurve`."""

    n_moments = 1

    def __init__(self, term):
        self.term, self.n_bins, self.shape = term, term.size, (1, term.size)

    def place(self, x):
        """Return the levels, and None."""
        return self.term.mark(x), None

    def tabulate(self, coef):
        """Return the effects."""
        return [coef]

    def collect(self, sums):
        """Return the sums."""
        return sums[0]

    def settle(self, sums):
        """Take the weights of the levels."""
        self.totals = sums[0]

    def cross(self, joint):
        """Return the histogram itself."""
        return joint

    def gram(self, weight):
        """Return the weights as a diagonal."""
        return np.diag(weight)


def _split(distinct, n_bins):
    return max(_LEAST, n_bins // (len(distinct) - 1))


def _count_bins(term, n_bins):
    if isinstance(term, LevelBasis):
        return term.size
    distinct = np.unique(term.knots) if term.left_out else np.zeros(2)
    curve = (len(distinct) - 1) * _split(distinct, n_bins) if term.left_out else 1
    return curve + term.n_marks + int(term.missing)


def choose_bins(basis, n_rows):
    """
    Choose into how many bins to cut a curve.

    Parameters
    ----------
    basis : Basis
        The functions.
    n_rows : float
        Number of rows.

    Returns
    -------
    int
        0 if the joint histograms of each two columns would be too large, or a term is another
        than a curve or the levels of a single column.
    """
    if not all(type(term) in (SplineBasis, LevelBasis) for term in basis.terms):
        return 0
    n_pairs = max(1, len(basis.terms) * (len(basis.terms) - 1) // 2)
    n_bins = int(min(_BINS, (n_rows / _ROWS) ** 0.5, (_CELLS / n_pairs) ** 0.5))
    sizes = np.array([_count_bins(term, n_bins) for term in basis.terms], dtype=float)
    n_cells = (sizes.sum() ** 2 - sizes @ sizes) / 2
    return n_bins if n_cells <= 1.5 * _CELLS else 0


def are_alike(columns, X):
    """
    Tell whether bins leave out what matters: columns that say nearly the same.

    Within a bin of one, such a column moves with another, or is known from it. A fit would then
    count a direction as told by the rows of which they tell nothing.

    Parameters
    ----------
    columns : list of BinnedCurve or BinnedLevels
        The columns.
    X : ndarray of shape (n_samples, n_features)
        Some of the rows.

    Returns
    -------
    bool
    """
    X = X[:: 1 + (len(X) - 1) // _LOOKED_AT]
    places = [column.place(np.ascontiguousarray(X[:, column.term.feature])) for column in columns]
    curves = [k for k, (_, beside) in enumerate(places) if beside is not None]
    if len(columns) < 2 or not curves:
        return False
    numbers = np.column_stack([columns[k].measure(*places[k]) for k in curves])
    within = np.column_stack([places[k][1] for k in curves])
    groups = []
    for (bins, _), column in zip(places, columns, strict=True):
        ones = (np.ones(len(X)), bins, np.arange(len(X) + 1))
        groups.append(csr_array(ones, shape=(len(X), column.n_bins)).T)
    for k, at in enumerate(curves):  # less their means in each bin
        size = np.maximum(groups[at].sum(axis=1), 1)
        within[:, k] -= ((groups[at] @ within[:, k]) / size).take(places[at][0])
    total = np.maximum((within**2).sum(axis=0), np.finfo(float).tiny)
    for k, (_, beside) in enumerate(places):
        own = np.ones(len(X)) if beside is None else within[:, curves.index(k)]
        size = groups[k] @ own**2
        slopes = groups[k] @ (own[:, None] * within)
        there = size > 0
        explained = (slopes[there] ** 2 / size[there, None]).sum(axis=0) / total
        chance = there.sum() / len(X)
        explained = (explained - chance) / max(1 - chance, 0.1)
        if beside is not None:
            explained[curves.index(k)] = 0.0
        if explained.max() > _ALIKE:
            return True
    spread = numbers.std(axis=0)
    numbers = (numbers - numbers.mean(axis=0))[:, spread > 0] / spread[spread > 0]
    return bool(np.linalg.eigvalsh(numbers.T @ numbers / len(X))[0] < _COLLINEAR)


def add_powers(sums, place, rows, values):
    """
    Add values, or ones, times powers of the distance from the centre, bin by bin.

    Parameters
    ----------
    sums : ndarray of shape (order, n_bins)
        What is added to.
    place : tuple of ndarray
        As `BinnedCurve.place` returns it.
    rows : slice
        Which of its rows.
    values : ndarray of shape (n_samples,) or None
        One for each of these rows; None for ones.
    """
    bins, beside = place
    bins = bins[rows].astype(np.intp)
    sums[0] += np.bincount(bins, values, sums.shape[1])
    if beside is not None:
        beside, powers = beside[rows], values
        for own in sums[1:]:
            powers = beside if powers is None else powers * beside
            own += np.bincount(bins, powers, sums.shape[1])


def evaluate(table, place, rows):
    """
    Evaluate a term in rows whose bins are known.

    Parameters
    ----------
    table : list of ndarray of shape (n_bins,)
        As `BinnedCurve.tabulate` returns it.
    place, rows
        As in `add_powers`.

    Returns
    -------
    ndarray of shape (n_samples,)
    """
    bins, beside = place
    bins = bins[rows].astype(np.intp)
    value = table[-1].take(bins)
    if beside is not None:
        beside = beside[rows]
        for power in table[-2::-1]:
            value *= beside
            value += power.take(bins)
    return value
