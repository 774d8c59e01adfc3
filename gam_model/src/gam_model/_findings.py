"""Warnings about a fit: no convergence, or separation of y."""

import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from gam_model._functions import LevelBasis
from gam_model._pairs import name_pair

_NAMED = 3  # columns or levels listed in a warning
_EXPECTED = 10  # expected rows of an outcome at a level that has none


def warn_of_fit(fit, totals, family, names, levels, stacklevel):
    """
    Warn about a fit that did not converge, and about columns and levels that separate y.

    Parameters
    ----------
    fit : Fit
        The fit.
    totals : Totals
        Provides a sample of the rows.
    family : Family
        Distribution of the response.
    names : list of str
        Names of the columns of X.
    levels : dict of int to list
        Levels of each categorical column.
    stacklevel : int
        Stack level of the warnings, relative to the caller.
    """
    if not fit.settled:
        warnings.warn(
            "the fit did not converge: smoothing parameters and coefficients were still changing "
            "at the last step, so refitting the same rows may give another result; set alpha to a "
            "number, or remove nearly collinear columns",
            ConvergenceWarning,
            stacklevel=stacklevel + 1,
        )
    if fit.vanished is not None:
        share = abs(fit.vanished)
        largest = np.argsort(-share, kind="stable")[:_NAMED]
        largest = largest[share[largest] >= 0.5 * share.max()]
        coefs = fit.basis.lines_held[largest]
        columns = [
            name_pair(names[j] for j in np.atleast_1d(term.feature))
            for coef in coefs
            for term, block in zip(fit.basis.terms, fit.basis.blocks, strict=True)
            if block.start <= coef < block.stop
        ]
        warnings.warn(
            f"y is separated by {', '.join(map(repr, columns))}: the likelihood has no maximum, "
            "so the slopes of all columns are shrunk towards 0, as far as the data allow. Leave "
            "out a column that determines y, or use more rows",
            UserWarning,
            stacklevel=stacklevel + 1,
        )
    if not family.estimates_scale:
        separating = _find_levels(fit.basis.terms, totals, family, names, levels)
        if separating:
            warnings.warn(
                f"y has only one value at {'; '.join(separating)}: only the penalty keeps the "
                "effect finite. Merge the level with another, or leave out a column that gives "
                "the answer away",
                UserWarning,
                stacklevel=stacklevel + 1,
            )


def _find_levels(terms, totals, family, names, levels):
    """Describe levels with a single outcome where many rows of the other are expected."""
    found, sample = [], totals.sample
    for term in terms:
        if not isinstance(term, LevelBasis):
            continue
        codes = term.mark(sample.X[:, term.feature])
        rows = np.bincount(codes, sample.weight, minlength=term.size)
        total = np.bincount(codes, sample.weight * sample.y, minlength=term.size)
        without = (total == 0) & (rows * totals.mean >= _EXPECTED)
        if family.two_outcomes:
            without |= (total == rows) & (rows * (1 - totals.mean) >= _EXPECTED)
        for code in np.flatnonzero(without):
            level = "missing" if code >= term.n_levels else repr(levels[term.feature][code])
            found.append(f"{names[term.feature]!r} = {level} ({rows[code]:g} rows)")
    if len(found) > _NAMED:
        found[_NAMED:] = [f"{len(found) - _NAMED} more levels"]
    return found
