"""Choice of basis functions for each column: levels, or splines, possibly on a warped scale."""

import numpy as np

from gam_model._atoms import find_atoms, find_distinct, repeats, stand_out
from gam_model._basis import Basis
from gam_model._cyclic import CyclicBasis, place_cyclic_knots
from gam_model._families import FAMILIES, IDENTITY
from gam_model._functions import LevelBasis, SplineBasis
from gam_model._normal import residual_square, solve
from gam_model._rows import Block, Rows
from gam_model._smoothing import Smoothing
from gam_model._solver import Reference, accumulate
from gam_model._splines import find_values, place_knots
from gam_model._warp import propose_warps

_LOOKED_AT = 20_000  # values from which the unevenness of a column is measured
_BINS = 2000  # of a column's values, for the comparison of scales by AIC
_BETTER = 4.0  # difference in AIC above which a warped scale is rejected


def build_basis(totals, levels, settings, warped, with_atoms, family, link):
    """
    Give each column its basis functions.

    For a very unevenly distributed column, AIC compares its original scale with those that
    `propose_warps` finds, each in a one-column model of the residuals of the constant model.

    Parameters
    ----------
    totals : Totals
        Provide a sample of the rows and the range of each column.
    levels : dict of int to list
        Levels of each categorical column.
    settings : list of Setting
        What is asked of each column.
    warped : bool
        Whether columns may get a warped scale, where their smoothing is chosen.
    with_atoms : bool
        Whether values that many rows share may deviate from the curve there.
    family : Family
        Distribution of the response.
    link : Link
        Its link.

    Returns
    -------
    Basis
        Without columns that are constant or entirely missing.

    Raises
    ------
    ValueError
        If a knot that is asked for is not inside the range of its column.
    """
    terms, X, distinct = [], totals.sample.X, None
    rest = _leave(totals, family, link) if warped or with_atoms else None
    for j in range(X.shape[1]):
        missing = bool(totals.missing[j])
        if j in levels:
            terms.append(LevelBasis(j, len(levels[j]), missing))
            continue
        if not np.isfinite(totals.low[j]):  # every cell is missing
            continue
        there = ~np.isnan(X[:, j]) if missing else slice(None)
        x, ends = X[there, j], np.array([totals.low[j], totals.high[j]])
        counts = totals.sample.weight[there] if totals.counted else None
        own = settings[j]
        if own.cyclic:
            knots = place_cyclic_knots(x, ends[0], own, counts)
            terms.append(CyclicBasis(j, knots, own.degree, missing))
            continue
        df, degree = (2, 1) if own.linear else (own.df, own.degree)
        scales = [(None, *place_knots(x, df, degree, counts, ends))]
        if own.knots is not None and scales[0][1] is not None:
            scales = [(None, *_take_knots(own, ends))]
        may_warp = warped and np.isnan(own.alpha) and own.knots is None
        thin = np.append(x[:: 1 + len(x) // _LOOKED_AT], ends)
        may_warp = may_warp and not (own.linear or own.convex)
        warps = propose_warps(np.unique(thin)) if may_warp else []
        for warp in warps:
            scales.append((warp, *place_knots(warp(x), df, degree, counts, warp(ends))))
        values = find_values(x, own.df)
        atoms = ()
        may_deviate = with_atoms and np.isnan(own.alpha) and not own.is_shaped
        if may_deviate and values is None and repeats(x):
            if distinct is None:
                distinct = find_distinct([*X.T, totals.sample.y, totals.sample.offset])
            atoms = find_atoms(x[distinct[there]])
        best = 0
        if warps or len(atoms):
            alone = Block(x, *(column[there] for column in rest[1:]))
            fits = [_fit_alone(scale, *_condense(alone), totals.n_rows) for scale in scales]
            best = int(np.argmin([aic - _BETTER * (k > 0) for k, (aic, _) in enumerate(fits)]))
            if len(atoms) and not _deviate(
                scales[best], fits[best][1], alone, distinct[there], atoms
            ):
                atoms = ()
        warp, knots, degree_here = scales[best]
        if knots is not None or missing:
            term = SplineBasis(j, knots, degree_here, missing, warp, float(ends[0]), atoms)
            term.values = values
            shape = {"monotonic": link.sign * own.monotonic, "convex": link.sign * own.convex}
            term.setting = own._replace(**shape)
            terms.append(term)
    return Basis(terms)


def _take_knots(own, ends):
    """Return the knots that are asked for, with the ends of the range, and the degree."""
    if not (ends[0] < own.knots[0] and own.knots[-1] < ends[1]):
        raise ValueError(
            f"knots of {own.name!r} must lie inside its range, from {ends[0]:g} to {ends[1]:g}, "
            f"got {own.knots.tolist()}"
        )
    low, high = ([end] * (own.degree + 1) for end in ends)
    return np.concatenate([low, own.knots, high]), own.degree


def _leave(totals, family, link):
    """Return the sample of the rows with the residuals of the constant model as y."""
    rows = totals.sample
    mu = link.inverse(link.link(np.float64(totals.mean)) + rows.offset - rows.offset.mean())
    return rows._replace(y=rows.y - mu, weight=rows.weight * totals.unit)


def _condense(rows):
    """
    Average rows of one column over bins of its values.

    x of `rows` has shape (n,). Returns the averages, and the sum of squares of y within the bins.
    """
    x, y, weight, _ = rows
    values, which, counts = np.unique(x, return_inverse=True, return_counts=True)
    if len(values) > _BINS:
        upto = (np.cumsum(counts) - 1) * _BINS // len(x)
        which = np.unique(upto[which], return_inverse=True)[1]
    total = np.bincount(which, weight)
    x, means = (np.bincount(which, weight * column) / total for column in (x, y))
    within = float(weight @ (y - means[which]) ** 2)
    return Block(x[:, None], means, total, np.zeros(len(means))), within


def _fit_alone(scale, rows, within, n_rows):
    """
    Fit a one-column gaussian model on a given scale.

    Returns its AIC, up to a constant, and the coefficients of its functions.
    """
    warp, knots, degree = scale
    basis, smoothing = Basis([SplineBasis(0, knots, degree, warp=warp)]), Smoothing(None)
    passed = Rows(basis, [rows], n_rows, float(rows.weight.sum()), n_lines=len(rows.y))
    normal = accumulate(passed, FAMILIES["gaussian"], IDENTITY, np.zeros(len(basis.curvature)))
    normal = normal._replace(square=normal.square + within)
    bounds = smoothing.bound(Reference.read(normal, basis), basis, 0.0)
    penalty = basis.penalize(smoothing.choose(normal, basis, bounds, None))
    solution = solve(normal, penalty)
    edf = solution.determined.sum() - penalty @ solution.inverse.diagonal()
    left = max(residual_square(normal, solution.coef), np.finfo(float).tiny)
    return n_rows * np.log(left) + 2 * edf, basis.rotate(solution.coef)


def _deviate(scale, coef, rows, distinct, atoms):
    """Return whether atoms deviate from the curve that `_fit_alone` has found."""
    warp, knots, degree = scale
    term = SplineBasis(0, knots, degree, warp=warp, atoms=atoms)
    columns, values = term.evaluate(rows.X)
    effects = np.append(0.0, coef[1:])  # the first B-spline is left out
    fitted = coef[0] + np.einsum("ij,ij->i", effects[columns], values)
    return stand_out(term.mark(rows.X), rows.y - fitted, rows.weight, distinct, len(atoms))
