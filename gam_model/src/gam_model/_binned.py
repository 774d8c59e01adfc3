"""
Many rows for the solver, each column in bins.

With B_j the functions of column j, T_j their means over each bin, and N_jk the joint histogram of
the working weights of two columns,

    B_j'W B_k  =  T_j' N_jk T_k,  and for j = k, plus the covariance within the bins,

but for what two columns have in common within a pair of bins. The gradient is exact: in a bin,
functions are polynomials around its centre, whose sums over rows are sums of powers. So each step
of the solver is a little off, and where it ends is not.
"""

import math

import numpy as np
from scipy.interpolate import BSpline

from gam_model._functions import LevelBasis, SplineBasis
from gam_model._normal import Arrowhead, Normal, expand
from gam_model._rows import Rows

_BINS = 240  # of a curve, about
_ROWS = 1.8  # in a pair of bins, were rows spread evenly: fewer rows, fewer bins
_LEAST = 4  # bins in each interval between knots
_PIECE = 2**17  # rows at a time for joint histograms
_SLICE = 2**14  # and for what is worked out row by row, which fits in a core's cache
_CACHED = 2**24  # cells of X whose bins and places in them are kept between passes
_CELLS = 2**23  # of all joint histograms: 64 MB
_FEW = 32  # knots up to which a linear scan beats binary search


class _Curve:
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
        sums : ndarray of shape (order, n_bins)
            Sums over all rows, by prior weight, of the powers of their distance from the centre.
        """
        moments = sums / np.where(sums[0] > 0, sums[0], 1.0)
        moments[0] = 1.0
        self.totals = np.einsum("pb,pbk->k", sums, self._functions)
        self._means = np.einsum("pb,pbk->bk", moments, self._rotated)
        self._spread = 0.0
        for p, first in enumerate(self._rotated[1:], 1):
            for q, second in enumerate(self._rotated[1:], 1):
                if p + q < len(moments):  # the rest is of a higher order in the bin's width
                    shared = moments[p + q] - moments[p] * moments[q]
                    self._spread += np.einsum("b,bk,bl->bkl", shared, first, second)

    def cross(self, joint):
        """Sum another column's joint histogram with this one, (m, n_bins), over the functions."""
        return joint @ self._means

    def gram(self, weight):
        """Return B'WB of the functions alone, from the sums of the weights in each bin."""
        gram = self._means.T @ (weight[:, None] * self._means)
        return gram + np.tensordot(weight, self._spread, 1) if np.ndim(self._spread) else gram


class _Levels:
    """A categorical column: each level is a bin. Methods are those of `_Curve`."""

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


class BinnedRows:
    """
    All rows, for repeated passes; as `Rows`, where there are many.

    Parameters
    ----------
    basis : Basis
        The functions.
    blocks : iterable of Block
        The rows; each pass begins anew.
    n_rows : float
        Number of rows.
    weight : float
        Sum of their weights times `unit`.
    unit : float, default=1.0
        Multiplies the weights.
    centre : float, default=0.0
        Subtracted from y, to avoid cancellation.
    n_lines : int, optional
        Number of rows, where they lie in memory.
    """

    exact = False

    def __init__(self, basis, blocks, n_rows, weight, unit=1.0, centre=0.0, n_lines=np.inf):
        self._as_given = basis, blocks, n_rows, weight, unit, centre, n_lines
        self.basis, self.n_rows, self.weight = basis, n_rows, weight
        self._blocks, self._unit, self._centre, self._pieces = blocks, unit, centre, None
        self._kept = n_lines * len(basis.terms) <= _CACHED
        n_bins = choose_bins(basis, n_rows)
        self._columns = [
            _Levels(term)
            if isinstance(term, LevelBasis)
            else _Curve(term, basis.rotation[own, own], n_bins)
            for term, own in zip(basis.terms, basis.blocks, strict=True)
        ]
        self._gram = None
        self._look()

    def spread_out(self):
        """Return the same rows without bins, as `Rows`."""
        return Rows(*self._as_given)

    def __iter__(self):
        """Pass over all rows: (bins and places of each column, y, weight, offset)."""
        if self._kept and self._pieces is None:
            self._pieces = list(self._evaluate())
        return iter(self._pieces) if self._kept else self._evaluate()

    def _evaluate(self):
        for X, y, weight, offset in _cut_evenly(self._blocks):
            places = []
            for column in self._columns:
                x = np.ascontiguousarray(X[:, column.term.feature])
                bins, beside = column.place(x)
                places.append((bins.astype(np.min_scalar_type(column.n_bins)), beside))
            weight = weight if self._unit == 1 else weight * self._unit
            yield places, y - self._centre, weight, offset

    def _look(self):
        """Sum up the prior weights."""
        sums = [np.zeros(column.shape) for column in self._columns]
        self._equal = True
        for places, _, weight, _ in self:
            self._equal = self._equal and bool((weight == 1).all())
            for rows in _slice(len(weight)):
                for total, place in zip(sums, places, strict=True):
                    _add_powers(total, place, rows, None if self._equal else weight[rows])
        for total, column in zip(sums, self._columns, strict=True):
            column.settle(total)

    def accumulate(self, family, link, coef):
        """
        Sum up the normal equations of one P-IRLS step.

        Parameters
        ----------
        family : Family
            Distribution of the response.
        link : Link
            Its link.
        coef : ndarray of shape (n_coef,)
            Where to expand.

        Returns
        -------
        Normal
            Its gradient there, B'Wz - B'WB coef, is exact, and so are the squares of the working
            residuals and the deviance; B'WB is that of the bins.
        """
        basis, columns = self.basis, self._columns
        parts = list(zip(columns, basis.blocks, strict=True))
        tables = [column.tabulate(coef[own]) if coef[own].any() else [] for column, own in parts]
        sums = [np.zeros(column.shape) for column in columns]
        solved = link is family.one_step  # the weights are the same in every step
        histograms = None if solved and self._gram is not None else _Histograms(columns)
        total, slope, square, deviance = 0.0, 0.0, 0.0, 0.0
        for places, y, weight, offset in self:
            working = np.empty(len(y))
            for rows in _slice(len(y)):
                eta = coef[0] + offset[rows]
                for place, table in zip(places, tables, strict=True):
                    if table:
                        eta += _evaluate(table, place, rows)
                working[rows], residual, lost = expand(family, link, eta, y[rows], weight[rows])
                deviance += lost
                pull = working[rows] * residual
                slope += float(pull.sum())
                square += float(pull @ residual)
                for own, place in zip(sums, places, strict=True):
                    _add_powers(own, place, rows, pull)
            if histograms is not None:
                total += float(working.sum())
                ones = solved and self._equal
                histograms.add([bins for bins, _ in places], None if ones else working)
        gram = self._gram if histograms is None else self._assemble(total, histograms)
        self._gram = gram if solved else None
        gradient, means = np.full(len(coef), slope), np.ones(len(coef))
        for (column, own), powers in zip(parts, sums, strict=True):
            gradient[own] = column.collect(powers)
            means[own] = column.totals / self.weight
        product = gram.dot(coef)
        square += 2 * float(coef @ gradient) + float(coef @ product)
        return Normal(gram, gradient + product, square, deviance, means, self.n_rows)

    def _assemble(self, total, histograms):
        basis, columns, k = self.basis, self._columns, self.basis.n_dense
        n_levels = len(basis.curvature) - k
        dense, cross, own_part = np.zeros((k, k)), np.zeros((n_levels, k)), np.zeros(n_levels)
        dense[0, 0] = total
        for i, (column, own) in enumerate(zip(columns, basis.blocks, strict=True)):
            weight = histograms.single[i]
            if i == basis.last:
                own_part[:] = cross[:, 0] = weight
            else:
                dense[0, own] = dense[own, 0] = column.cross(weight)
                dense[own, own] = column.gram(weight)
        for (i, j), joint in histograms.joint.items():
            if j == basis.last:
                i, j, joint = j, i, joint.T
            if i == basis.last:
                cross[:, basis.blocks[j]] = columns[j].cross(joint)
            else:
                a, b = basis.blocks[i], basis.blocks[j]
                block = columns[i].cross(columns[j].cross(joint).T)
                dense[b, a], dense[a, b] = block, block.T
        return Arrowhead(dense, cross, own_part)


class _Histograms:
    """Histograms of each column and of each two."""

    def __init__(self, columns):
        self._sizes = [column.n_bins for column in columns]
        self.single = [np.zeros(size) for size in self._sizes]
        p = range(len(columns))
        self.joint = {
            (i, j): np.zeros((self._sizes[i], self._sizes[j])) for i in p for j in p if i < j
        }

    def add(self, bins, weight):
        """Add rows with the given bins of each column."""
        for single, own in zip(self.single, bins, strict=True):
            single += np.bincount(own, weight, len(single))
        for (i, j), joint in self.joint.items():
            kind = np.min_scalar_type(joint.size - 1)
            cell = bins[i].astype(kind) * kind.type(joint.shape[1])
            cell += bins[j].astype(kind)
            joint += np.bincount(cell, weight, joint.size).reshape(joint.shape)


def _add_powers(sums, place, rows, values):
    """Add values, or ones, times powers of the distance from the centre, bin by bin."""
    bins, beside = place
    bins = bins[rows].astype(np.intp)
    sums[0] += np.bincount(bins, values, sums.shape[1])
    if beside is not None:
        beside, powers = beside[rows], values
        for own in sums[1:]:
            powers = beside if powers is None else powers * beside
            own += np.bincount(bins, powers, sums.shape[1])


def _evaluate(table, place, rows):
    bins, beside = place
    bins = bins[rows].astype(np.intp)
    value = table[-1].take(bins)
    if beside is not None:
        beside = beside[rows]
        for power in table[-2::-1]:
            value *= beside
            value += power.take(bins)
    return value


def _slice(n_rows):
    return (slice(start, start + _SLICE) for start in range(0, n_rows, _SLICE))


def _cut_evenly(blocks):
    """Yield the same rows in pieces of about equal size."""
    left = None
    for block in blocks:
        if left is not None:
            block = type(block)(*(np.concatenate(pair) for pair in zip(left, block, strict=True)))
            left = None
        if len(block.y) < _PIECE:
            left = block
            continue
        for start in range(0, len(block.y), _PIECE):
            yield block.take(slice(start, start + _PIECE))
    if left is not None:
        yield left
