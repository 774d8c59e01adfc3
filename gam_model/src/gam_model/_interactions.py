"""Pairs of features: which of them matter, and their functions."""

from typing import NamedTuple

import numpy as np
from scipy.linalg import null_space

from gam_model._functions import LevelBasis
from gam_model._pairs import LevelMargin, PairTerm, SplineMargin, name_pair
from gam_model._splines import penalize_curvature, place_knots

_DF, _DEGREE = 6, 2  # of the B-splines of one feature of a pair
_GROUPS = 12  # of one feature's levels: those of most rows, and one of all others


class Margin(NamedTuple):
    """
    The functions of one feature of a pair, each of mean 0 over the training rows.

    Parameters
    ----------
    place : SplineMargin or LevelMargin
        Finds the place of a value.
    weights : ndarray of shape (n_functions, k)
        The functions from those of `place`; a missing cell or unseen level has 0 in all.
    penalty : ndarray of shape (k,)
        Of each function: the integrated squared second derivative; 1 for levels.
    """

    place: SplineMargin | LevelMargin
    weights: np.ndarray
    penalty: np.ndarray

    @property
    def is_levels(self):
        """Whether the feature is categorical."""
        return isinstance(self.place, LevelMargin)

    def evaluate(self, x):
        """Evaluate the functions, an ndarray of shape (n_samples, k)."""
        return evaluate(self.place, x) @ self.weights


def evaluate(place, x):
    """
    Evaluate the functions of a margin.

    Parameters
    ----------
    place : SplineMargin or LevelMargin
        The margin.
    x : ndarray of shape (n_samples,)
        Values or codes, or NaN.

    Returns
    -------
    ndarray of shape (n_samples, n_functions)
        0 for missing cells and unseen levels.
    """
    piece, step, there = place.locate(x)
    coefs = np.moveaxis(place.pieces, 1, 0)
    value = coefs[0][piece]
    for coef in coefs[1:]:
        value *= step[:, None]
        value += coef[piece]
    value[~there] = 0.0
    return value


def make_margins(basis, used, totals, blocks):
    """
    Make the margins of features that have a term of their own.

    They are centred over all rows, so that a product of two is 0 on average over the training
    values of either feature.

    Parameters
    ----------
    basis : Basis
        The terms, of which numeric features take their scale.
    used : set of int
        Columns that pairs read.
    totals : Totals
        Provide a sample of the rows, and the range of each column.
    blocks : iterable of Block
        Passed over once.

    Returns
    -------
    dict of int to Margin
        Without columns that are constant.
    """
    places = {
        term.feature: _place(term, totals)
        for term in basis.terms
        if term.feature in used and (isinstance(term, LevelBasis) or term.knots is not None)
    }
    sums = dict.fromkeys(places, 0.0)
    for block in blocks:
        for j, place in places.items():
            sums[j] = sums[j] + block.weight @ evaluate(place, block.X[:, j])
    margins = {}
    for j, place in places.items():
        weights = null_space(sums[j][None] / sums[j].sum())
        if isinstance(place, LevelMargin):
            margins[j] = Margin(place, weights, np.ones(weights.shape[1]))
            continue
        curvature = penalize_curvature(place.knots, place.degree)
        penalty, axes = np.linalg.eigh(weights.T @ curvature @ weights)
        penalty[0] = 0.0  # of the straight line, 0 up to rounding
        margins[j] = Margin(place, weights @ axes, penalty)
    return {j: margin for j, margin in margins.items() if len(margin.penalty)}


def _place(term, totals):
    rows = totals.sample
    x = rows.X[:, term.feature]
    there = ~np.isnan(x)
    if isinstance(term, LevelBasis):
        counts = np.bincount(x[there].astype(int), rows.weight[there], term.n_levels)
        groups = np.minimum(np.argsort(np.argsort(-counts, kind="stable")), _GROUPS - 1)
        return LevelMargin(groups)
    ends = np.array([totals.low[term.feature], totals.high[term.feature]])
    if term.warp is not None:
        x, ends = term.warp(x), term.warp(ends)
    counts = rows.weight[there] if totals.counted else None
    return SplineMargin(*place_knots(x[there], _DF, _DEGREE, counts, ends), term.warp)


class PairBasis:
    """
    Products of the functions of two features, without what either does alone.

    f(a, b) = sum_kl coef_kl D_k(a) E_l(b), with functions of mean 0 over the training rows, so
    that f is 0 on average over the training values of either feature: mgcv's `ti`. The penalty is

        lambda_1 sum_kl s_k coef_kl^2 + lambda_2 sum_kl t_l coef_kl^2,

    with s and t those of the functions, on two numeric features: how curved f is along each. On a
    numeric and a categorical one, the second is the sum of all coef^2, so that the curve of each
    level is shrunk to that of all; on two categorical ones it is the only one.

    Parameters
    ----------
    feature : pair of int
        Columns of X.
    margins : pair of Margin
        The functions of each.

    Attributes
    ----------
    size, left_out, slots, n_marks, is_random
        As in `SplineBasis`.

    References
    ----------
    Wood (2017), "Generalized Additive Models", 2nd edition, sections 5.6.2 and 5.6.3.
    """

    left_out, n_marks, missing = 0, 0, False

    def __init__(self, feature, margins):
        self.feature, self.margins = tuple(feature), tuple(margins)
        self.shape = tuple(len(margin.penalty) for margin in margins)
        self.size = self.slots = self.shape[0] * self.shape[1]
        self.is_random = any(margin.is_levels for margin in margins)

    def penalties(self):
        """Return the penalties, as `SplineBasis.penalties` does."""
        one, two = self.margins
        diagonals = [
            np.broadcast_to(penalty, self.shape).ravel()
            for margin, penalty in ((one, one.penalty[:, None]), (two, two.penalty))
            if not margin.is_levels and penalty.any()
        ]
        if self.is_random:
            diagonals.append(np.ones(self.size))
        return np.eye(self.size), np.reshape(diagonals, (-1, self.size))

    def evaluate(self, x):
        """
        Evaluate all functions.

        Parameters
        ----------
        x : ndarray of shape (n_samples, 2)
            Values or codes, or NaN.

        Returns
        -------
        columns : ndarray of shape (n_samples, size), int
            The functions.
        values : ndarray of shape (n_samples, size)
            Their values.
        """
        values = self.design(x)
        return np.broadcast_to(np.arange(self.size), values.shape), values

    def design(self, x, extrapolate=None, mean=None):
        """
        Evaluate all functions, beyond the range of the knots too.

        Parameters
        ----------
        x : ndarray of shape (n_samples, 2)
            Any values or codes, or NaN.
        extrapolate, mean : optional
            Not used: functions are constant beyond the range, and 0 where a cell is missing.

        Returns
        -------
        ndarray of shape (n_samples, size)
        """
        a, b = (margin.evaluate(x[:, k]) for k, margin in enumerate(self.margins))
        return (a[:, :, None] * b[:, None, :]).reshape(len(x), -1)

    def freeze(self, coef, mean, names):
        """
        Return the fitted term, centred.

        Parameters
        ----------
        coef : ndarray of shape (size,)
            Coefficients of the functions.
        mean : float
            Mean of the term over the training rows.
        names : list of str
            Names of the columns of X.

        Returns
        -------
        PairTerm
        """
        one, two = self.margins
        # Functions of a margin sum to one, so that shifting all coefficients centres the term.
        table = one.weights @ coef.reshape(self.shape) @ two.weights.T - mean
        named = tuple(names[j] for j in self.feature)
        return PairTerm(self.feature, named, (one.place, two.place), table, -mean)


def read_pairs(interactions, names):
    """
    Check the parameter `interactions`.

    Parameters
    ----------
    interactions : None, int, "auto" or list of pairs
        As in `GAMRegressor`.
    names : list of str
        Names of the columns of X.

    Returns
    -------
    int, "auto" or list of tuple of int
        Pairs as positions, in the order given.

    Raises
    ------
    ValueError
        If it is none of these, or a pair does not name two different columns of X.
    """
    if interactions is None:
        return []
    if isinstance(interactions, str):
        if interactions == "auto":
            return interactions
    elif isinstance(interactions, (int, np.integer)) and not isinstance(interactions, bool):
        if interactions >= 0:
            return int(interactions)
    elif isinstance(interactions, (list, tuple, np.ndarray)):
        pairs = [_read_pair(pair, names) for pair in interactions]
        for k, pair in enumerate(pairs):
            if set(pair) in map(set, pairs[:k]):
                raise ValueError(
                    f"interactions names the pair {name_pair(names[j] for j in pair)} twice"
                )
        return pairs
    raise ValueError(
        'interactions must be None, a number of pairs, "auto" or a list of pairs of columns, '
        f"got interactions={interactions!r}"
    )


def _read_pair(pair, names):
    if isinstance(pair, str) or not hasattr(pair, "__len__") or len(pair) != 2:
        raise ValueError(
            f"each of interactions must be a pair of columns, by name or position, got {pair!r}"
        )
    found = []
    for column in pair:
        if isinstance(column, str) and column in names:
            found.append(names.index(column))
        elif (
            isinstance(column, (int, np.integer))
            and not isinstance(column, bool)
            and 0 <= column < len(names)
        ):
            found.append(int(column))
        else:
            known = ", ".join(map(repr, names[:10])) + (", …" if len(names) > 10 else "")
            raise ValueError(
                f"interactions names {column!r}, which is not a column of X, which has "
                f"n_features={len(names)}: {known}"
            )
    if found[0] == found[1]:
        raise ValueError(f"interactions pairs {names[found[0]]!r} with itself; name two columns")
    return tuple(found)
