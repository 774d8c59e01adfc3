"""Which pairs of features matter, told from one pass over the rows."""

import itertools
from typing import NamedTuple

import numpy as np
from scipy import stats

from gam_model._basis import Basis
from gam_model._inference import check_fit
from gam_model._interactions import PairBasis
from gam_model._normal import Arrowhead, expand, solve
from gam_model._smoothing import estimate_scale
from gam_model._solver import Fit, Reference
from gam_model._splines import find_quantiles

_BINS = 24  # of a numeric feature, in the joint histograms
_SURE = 0.001  # chance that "auto" takes any pair if there is none
_KEPT = 0.01  # p-value up to which it keeps one beside the others
_MOST = 10  # pairs that "auto" takes
_NO_INFORMATION = 1e-8  # relative to the largest eigenvalue: below it is rounding error


class Candidate(NamedTuple):
    """
    What the residuals of a model without pairs tell of one pair.

    features are its columns of X; gain is what AIC would gain by its functions; sureness is how
    many standard deviations the evidence lies beyond chance.
    """

    features: tuple
    gain: float
    sureness: float


def find_pairs(interactions, margins, totals, blocks, model, family, link, scale):
    """
    Find the pairs that matter most.

    Of each pair the joint histogram of the scores and of the information is taken, as FAST does,
    and from it the statistic by which a score test compares a model with the functions of the pair
    to one without them, but with those of either feature alone:

        T = u' V^-1 u - u_0' V_0^-1 u_0,  u = sum_i w_i r_i d_i,

    where w_i and r_i are the working weights and residuals of P-IRLS, d_i the products of the
    functions of both features and of 1, V their information,
    and u_0 and V_0 the same of the functions of one feature.

    Parameters
    ----------
    interactions : int or "auto"
        How many pairs; "auto" for those that are sure, at most 10.
    margins : dict of int to Margin
        The functions of each feature.
    totals : Totals
        Provide a sample of the rows.
    blocks : iterable of Block
        Passed over once.
    model : AdditiveModel
        The fit without pairs.
    family : Family
        Its family.
    link : Link
        Its link.
    scale : float
        Its scale.

    Returns
    -------
    list of tuple of int
        Columns of each pair, the most important first.

    References
    ----------
    Lou, Caruana, Gehrke and Hooker (2013), "Accurate intelligible models with pairwise
    interactions", KDD 2013.
    """
    pairs = list(itertools.combinations(sorted(margins), 2))
    if not pairs or scale <= 0:
        return []
    sample = totals.sample
    weight = sample.weight if totals.counted else np.ones(len(sample.y))
    bins = {j: _Bins(margin, sample.X[:, j], weight) for j, margin in margins.items()}
    scores, information = (dict.fromkeys(pairs, 0.0) for _ in range(2))
    for block in blocks:
        eta = model.eta(block.X, block.offset)
        working, residual, _ = expand(family, link, eta, block.y, totals.unit * block.weight)
        score = working * residual
        places = {j: own.find(block.X[:, j]) for j, own in bins.items()}
        for j, k in pairs:
            shape = bins[j].size, bins[k].size
            cell = places[j] * shape[1] + places[k]
            for sums, column in ((scores, score), (information, working)):
                found = np.bincount(cell, column, shape[0] * shape[1]).reshape(shape)
                sums[j, k] = sums[j, k] + found
    found = [
        _judge((j, k), scores[j, k], information[j, k], bins[j].values, bins[k].values, scale)
        for j, k in pairs
    ]
    found.sort(key=lambda candidate: -candidate.gain)
    if interactions == "auto":
        enough = stats.norm.isf(_SURE / len(pairs))
        found = [one for one in found if one.sureness > enough and one.gain > 0][:_MOST]
    else:
        found = found[:interactions]
    return [candidate.features for candidate in found]


def keep_pairs(normal, basis, smooth):
    """
    Drop pairs that are nothing beside the others, one by one.

    Parameters
    ----------
    normal : Normal
        The working model of all pairs where the fit without them ended.
    basis : Basis
        Its basis; the pairs come last.
    smooth : callable
        Returns the `Smoothing` of a basis.

    Returns
    -------
    Basis
        Pairs of which each has a p-value below .01 beside the others, with smoothing parameters
        chosen for them.
    """
    while any(isinstance(term, PairBasis) for term in basis.terms):
        smoothing = smooth(basis)
        reference = Reference.read(normal, basis)
        bounds = smoothing.bound(reference, basis, 0.0)
        weights = smoothing.choose(normal, basis, bounds, None)
        penalty = basis.penalize(weights)
        solution = solve(normal, penalty)
        fit = Fit(normal, basis, weights, solution, reference)
        edf = solution.determined.sum() - penalty @ solution.inverse.diagonal()
        left = None if smoothing.scale else max(normal.n_rows - edf, 1.0)
        scale = smoothing.scale or estimate_scale(normal, solution, penalty)
        tests = check_fit(fit, penalty, scale, left)
        chances = [
            np.nan_to_num(test.p_value, nan=1.0) if isinstance(term, PairBasis) else 0.0
            for term, test in zip(basis.terms, tests, strict=True)
        ]
        worst = int(np.argmax(chances))
        if chances[worst] <= _KEPT:
            break
        kept = np.delete(np.arange(len(normal.moment)), basis.blocks[worst])
        dense, cross, own = normal.gram
        inner = kept[kept < len(dense)]
        normal = normal._replace(
            gram=Arrowhead(dense[np.ix_(inner, inner)], cross[:, inner], own),
            moment=normal.moment[kept],
            means=normal.means[kept],
        )
        basis = Basis([term for k, term in enumerate(basis.terms) if k != worst])
    return basis


class _Bins:
    """Bins of one feature: quantiles, or groups of levels; missing cells in the last."""

    def __init__(self, margin, x, weight):
        self._place = margin.place if margin.is_levels else None
        if margin.is_levels:
            self.size = len(margin.place.pieces) + 1
        else:
            known = ~np.isnan(x)
            at = np.linspace(0, 1, _BINS + 1)[1:-1]
            self._edges = np.unique(find_quantiles(x[known], at, weight[known]))
            self.size = len(self._edges) + 2
        functions, where = margin.evaluate(x), self.find(x)
        rows = np.maximum(np.bincount(where, weight, self.size), 1e-300)
        columns = [np.bincount(where, weight * f, self.size) / rows for f in functions.T]
        # 1, and the functions' means in each bin
        self.values = np.column_stack([np.ones(self.size), *columns])

    def find(self, x):
        """Return the bin of each value, an ndarray of int."""
        if self._place is None:
            found, there = np.searchsorted(self._edges, x, side="right"), ~np.isnan(x)
        else:
            found, _, there = self._place.locate(x)
        return np.where(there, found, self.size - 1)


def _judge(pair, score, information, a, b, scale):
    """Return the `Candidate` of one pair from its joint histograms."""
    u = a.T @ score @ b
    squares = [(one[:, :, None] * one[:, None, :]).reshape(len(one), -1) for one in (a, b)]
    V = (squares[0].T @ information @ squares[1]).reshape(*2 * u.shape[:1], *2 * u.shape[1:])
    V = V.transpose(0, 2, 1, 3).reshape(u.size, u.size)
    alone = np.zeros(u.shape, dtype=bool)
    alone[0], alone[:, 0] = True, True
    alone, u = alone.ravel(), u.ravel()
    whole, df = _measure(u, V)
    part, df_alone = _measure(u[alone], V[np.ix_(alone, alone)])
    statistic, df = (whole - part) / scale, df - df_alone
    if df <= 0:
        return Candidate(pair, -np.inf, -np.inf)
    # Wilson and Hilferty's normal of a chi-square, as tails of 1e-300 are to be ranked
    spread = 2 / (9 * df)
    sureness = ((max(statistic, 0.0) / df) ** (1 / 3) - 1 + spread) / np.sqrt(spread)
    return Candidate(pair, float(statistic - 2 * df), float(sureness))


def _measure(u, V):
    """Return u' V^-1 u and the rank of V."""
    size = np.sqrt(np.maximum(V.diagonal(), np.finfo(float).tiny))
    values, axes = np.linalg.eigh(V / np.outer(size, size))
    there = values > _NO_INFORMATION * values[-1]
    turned = axes[:, there].T @ (u / size)
    return float(turned @ (turned / values[there])), int(there.sum())
