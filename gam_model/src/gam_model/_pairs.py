"""What two features do together, frozen: one function of both, without their own effects."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from gam_model._splines import fold_spline
from gam_model._warp import Warp


class SplineMargin:
    """
    B-splines of one feature of a pair; beyond their range they stay as they are at its end.

    Parameters
    ----------
    knots : array-like of shape (n_functions + degree + 1,)
        All knots in ascending order, on the scale of `warp`.
    degree : int
        Degree of the splines.
    warp : Warp or pair of float, optional
        The feature's own scale.

    Attributes
    ----------
    pieces : ndarray of shape (n_pieces, degree + 1, n_functions)
        Coefficients of the functions' polynomials, the highest power first, in the distance from
        the left end of each piece.
    """

    def __init__(self, knots, degree, warp=None):
        self.knots, self.degree = np.array(knots, dtype=float), int(degree)
        self.warp = None if warp is None else Warp(*warp)
        units = np.eye(len(self.knots) - self.degree - 1)
        self.pieces = np.stack([fold_spline(self.knots, unit).c.T for unit in units], axis=2)
        breaks = np.unique(self.knots)
        self._origins, self._inner = breaks[:-1], breaks[1:-1]
        self._ends = breaks[0].item(), breaks[-1].item()
        self._listed = self._origins.tolist(), self._inner.tolist()

    @property
    def range(self):
        """Smallest and largest training value, a tuple of float in the feature's units."""
        if self.warp is None:
            return self._ends
        return tuple(self.warp.invert(np.array(self._ends)).tolist())

    def describe(self):
        """Return the arguments, a dict."""
        return {"knots": self.knots, "degree": self.degree, "warp": self.warp}

    def locate(self, x):
        """
        Find the piece of each value.

        Parameters
        ----------
        x : ndarray of shape (n_samples,)
            Values, or NaN.

        Returns
        -------
        piece : ndarray of shape (n_samples,), int
            0 for a missing cell.
        step : ndarray of shape (n_samples,)
            Distance from its left end; 0 for a missing cell.
        there : ndarray of shape (n_samples,), bool
            False for a missing cell.
        """
        there = ~np.isnan(x)
        t = np.where(there, x, 0.0 if self.warp is None else self.warp.center)
        t = (t if self.warp is None else self.warp(t)).clip(*self._ends)
        piece = np.searchsorted(self._inner, t, side="right")
        return piece, np.where(there, t - self._origins[piece], 0.0), there

    def locate_one(self, x):
        """Find the piece of one value, a tuple (int, float); None for a missing cell."""
        if x != x:
            return None
        low, high = self._ends
        t = x if self.warp is None else float(self.warp(x))
        t = low if t < low else min(t, high)
        origins, inner = self._listed
        piece = bisect_right(inner, t)
        return piece, t - origins[piece]


class LevelMargin:
    """
    Indicators of groups of a categorical feature's levels.

    Parameters
    ----------
    groups : sequence of int
        Group of each code.

    Attributes
    ----------
    pieces : ndarray of shape (n_groups, 1, n_groups)
        As in `SplineMargin`: the functions are constant.
    """

    def __init__(self, groups):
        self.groups = [int(group) for group in groups]
        self.pieces = np.eye(max(self.groups) + 1)[:, None]

    def describe(self):
        """Return the arguments, a dict."""
        return {"groups": self.groups}

    def locate(self, x):
        """Find the group of each code, as `SplineMargin.locate`; what is no code is missing."""
        there = (x >= 0) & (x < len(self.groups))
        codes = np.where(there, x, 0).astype(np.intp)
        return np.array(self.groups)[codes], np.zeros(len(x)), there

    def locate_one(self, x):
        """Find the group of one code, a tuple (int, float); None for what is no code."""
        return (self.groups[int(x)], 0.0) if 0 <= x < len(self.groups) else None


@dataclass(frozen=True, eq=False)
class PairTerm:
    """
    What two features do together beyond what each does alone, centred to mean 0.

    f(a, b) = sum_kl coef_kl B_k(a) C_l(b), folded into one polynomial per cell of the grid that
    the knots make, or one number per two levels. Averaged over the training values of either
    feature it is a constant, and over the training rows it is 0.

    Parameters
    ----------
    features : pair of int
        Columns of X that the term reads.
    names : pair of str
        Their names.
    margins : pair of SplineMargin, LevelMargin or dict
        The functions of each; a dict has their arguments.
    coef : array-like of shape (n_functions, n_functions)
        Coefficients of their products, on the scale of the link.
    missing : float
        Contribution where a cell is missing or a level unseen.

    Examples
    --------
    >>> line = {"knots": [0, 0, 1, 1], "degree": 1}
    >>> pair = PairTerm((0, 1), ("a", "b"), (line, line), [[1, -1], [-1, 1]], missing=0.0)
    >>> pair(np.array([0.0, 1.0, 0.5]), np.array([0.0, 0.0, np.nan]))
    array([ 1., -1.,  0.])
    """

    features: Sequence[int]
    names: Sequence[str]
    margins: Sequence
    coef: np.ndarray
    missing: float

    def __post_init__(self):
        """Fold the products into polynomials."""
        made = tuple(_make_margin(margin) for margin in self.margins)
        coef = np.array(self.coef, dtype=float)
        a, b = (margin.pieces for margin in made)
        cells = np.einsum("prk,kl,qsl->pqrs", a, coef, b)
        flat = np.ascontiguousarray(np.moveaxis(cells, (0, 1), (2, 3)))
        flat = flat.reshape(*flat.shape[:2], -1)
        for array in (coef, flat):
            array.flags.writeable = False
        frozen = {
            "features": tuple(map(int, self.features)),
            "names": tuple(self.names),
            "margins": made,
            "coef": coef,
            "_flat": flat,
            "_width": len(b),
            "_by_cell": [[_nest(cell) for cell in line] for line in cells.tolist()],
        }
        for name, value in frozen.items():
            object.__setattr__(self, name, value)

    def __reduce__(self):
        """Pickle the arguments; the polynomials are folded again on loading."""
        arguments = {field.name: getattr(self, field.name) for field in fields(self)}
        margins = tuple(margin.describe() for margin in self.margins)
        return type(self), tuple((arguments | {"margins": margins}).values())

    @property
    def name(self):
        """Name of the pair, a str: "a & b"."""
        return name_pair(self.names)

    def __call__(self, a, b):
        """
        Evaluate the term.

        Parameters
        ----------
        a, b : ndarray of shape (n_samples,), float64
            Values or codes of the two features; NaN where they are missing.

        Returns
        -------
        ndarray of shape (n_samples,), float64
            On the scale of the link.
        """
        (row, down, known), (column, across, known_b) = (
            margin.locate(x) for margin, x in zip(self.margins, (a, b), strict=True)
        )
        cell, value = row * self._width + column, None
        for first, *others in self._flat:
            inner = first.take(cell)
            for coef in others:
                inner *= across
                inner += coef.take(cell)
            if value is None:
                value = inner
            else:
                value *= down
                value += inner
        return np.where(known & known_b, value, self.missing)

    def at(self, a, b):
        """
        Evaluate the term at one value of each, bit for bit as in arrays.

        Parameters
        ----------
        a, b : float
            As for arrays.

        Returns
        -------
        float
            On the scale of the link.
        """
        one, two = self.margins
        one, two = one.locate_one(a), two.locate_one(b)
        if one is None or two is None:
            return self.missing
        (row, down), (column, across) = one, two
        (value, coefs), *others = self._by_cell[row][column]
        for coef in coefs:
            value = value * across + coef
        for inner, coefs in others:
            for coef in coefs:
                inner = inner * across + coef
            value = value * down + inner
        return value


def name_pair(names):
    """Return the name of a pair of features."""
    return " & ".join(names)


def _make_margin(margin):
    if not isinstance(margin, dict):
        return margin
    return LevelMargin(**margin) if "groups" in margin else SplineMargin(**margin)


def _nest(cell):
    return [(first, tuple(others)) for first, *others in cell]
