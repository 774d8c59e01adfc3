"""
Many rows for the solver, each column in bins.

With B_j the functions of column j, T_j their means over each bin, and N_jk the joint histogram of
the working weights of two columns,

    B_j'W B_k  =  T_j' N_jk T_k,  and for j = k, plus the covariance within the bins.

What two different columns covary by within a pair of bins is left out. The gradient is exact, as
it needs only sums of powers, see `_cells`. So each step of the solver is a little off, and where
it ends is not.
"""

import numpy as np

from gam_model._cells import add_powers, are_alike, choose_bins, evaluate, put_in_bins
from gam_model._normal import Arrowhead, Normal, expand
from gam_model._rows import Block, Rows

MANY = 30_000  # rows from which columns are put in bins
_PER_COEF = 30
_PIECE = 2**17  # rows at a time for joint histograms
_SLICE = 2**14  # and for what is worked out row by row, which fits in a core's cache
_CACHED = 2**24  # cells of X whose bins and places in them are kept between passes


def make_rows(basis, blocks, totals, centre, n_lines):
    """
    Return rows for the solver: in bins if there are many, and bins tell their columns apart.

    Parameters
    ----------
    basis : Basis
        The functions.
    blocks : iterable of Block
        The rows.
    totals : Totals
        Their totals.
    centre : float
        Subtracted from y, to avoid cancellation.
    n_lines : float
        Number of rows, where they lie in memory; else infinity.

    Returns
    -------
    Rows or BinnedRows
    """
    how = basis, blocks, totals.n_rows, totals.weight, totals.unit, centre, n_lines
    # With many coefficients, the smoothing takes most of the time. Under constraints, bins don't
    # tell how far a solution is to be moved.
    few = totals.n_lines < max(MANY, _PER_COEF * len(basis.curvature))
    if few or len(basis.constraints()):
        return Rows(*how)
    n_bins = choose_bins(basis, totals.n_lines)
    if not n_bins:
        return Rows(*how)
    columns = [
        put_in_bins(term, None if k == basis.last else basis.rotation[own, own], n_bins)
        for k, (term, own) in enumerate(zip(basis.terms, basis.blocks, strict=True))
    ]
    if are_alike(columns, totals.sample.X):
        return Rows(*how)
    return BinnedRows(columns, *how)


class BinnedRows(Rows):
    """
    Many rows, for repeated passes.

    Parameters
    ----------
    columns : list of BinnedCurve or BinnedLevels
        The columns of the basis's terms, in bins.
    basis, blocks, n_rows, weight, unit, centre, n_lines
        As in `Rows`.
    """

    exact = False

    def __init__(
        self, columns, basis, blocks, n_rows, weight, unit=1.0, centre=0.0, n_lines=np.inf
    ):
        super().__init__(basis, blocks, n_rows, weight, unit, centre, n_lines)
        self._kept = n_lines * len(basis.terms) <= _CACHED
        self._columns, self._n_lines, self._gram = columns, n_lines, None
        self._look()

    def spread_out(self):
        """Return the same rows without bins, as `Rows`."""
        how = self.n_rows, self.weight, self._unit, self._centre, self._n_lines
        return Rows(self.basis, self._blocks, *how)

    def _evaluate(self):
        """Yield (bins of each column and places in them, y, weight, offset)."""
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
        sums = [np.zeros((column.n_moments, column.n_bins)) for column in self._columns]
        self._equal = True
        for places, _, weight, _ in self:
            self._equal = self._equal and bool((weight == 1).all())
            for rows in _slice(len(weight)):
                for total, place in zip(sums, places, strict=True):
                    add_powers(total, place, rows, None if self._equal else weight[rows])
        for total, column in zip(sums, self._columns, strict=True):
            column.settle(total)

    def accumulate(self, family, link, coef):
        """
        Sum up the normal equations of one P-IRLS step, as `_solver.accumulate` does.

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
                        eta += evaluate(table, place, rows)
                working[rows], residual, lost = expand(family, link, eta, y[rows], weight[rows])
                deviance += lost
                pull = working[rows] * residual
                slope += float(pull.sum())
                square += float(pull @ residual)
                for own, place in zip(sums, places, strict=True):
                    add_powers(own, place, rows, pull)
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


def _slice(n_rows):
    return (slice(start, start + _SLICE) for start in range(0, n_rows, _SLICE))


def _cut_evenly(blocks):
    """Yield the same rows in pieces of about equal size."""
    waiting, n_waiting = [], 0
    for block in blocks:
        waiting.append(block)
        n_waiting += len(block.y)
        if n_waiting < _PIECE:
            continue
        block, waiting, n_waiting = _concatenate(waiting), [], 0
        for start in range(0, len(block.y), _PIECE):
            yield block.take(slice(start, start + _PIECE))
    if n_waiting:
        yield _concatenate(waiting)


def _concatenate(blocks):
    if len(blocks) == 1:
        return blocks[0]
    return Block(*map(np.concatenate, zip(*blocks, strict=True)))
