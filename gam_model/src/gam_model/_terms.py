"""The terms of a fitted model, frozen: one centred function per feature."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from gam_model._atoms import bracket, locate
from gam_model._splines import fold_spline, wrap
from gam_model._warp import Warp
from gam_model.dates import write_iso

_FEW = 32  # pieces up to which a linear scan beats binary search


@dataclass(frozen=True, eq=False)
class SmoothTerm:
    """
    One feature's smooth function, centred to mean 0 over the training rows.

    f(x) = sum_k coef_k B_k(x) inside [knots[0], knots[-1]], folded into one polynomial per
    interval, so that evaluating it is one search and one Horner scheme. Beyond the range two more
    pieces carry it on. Only the arguments below are saved.

    Parameters
    ----------
    feature : int
        Column of X that the term reads.
    name : str
        Name of that column, for messages.
    knots : array-like of shape (n_basis + degree + 1,)
        All knots in ascending order, in the feature's units or on the scale of `warp`.
    coef : array-like of shape (n_basis,)
        B-spline coefficients, on the scale of the link.
    extrapolate : {"linear", "constant", "error", "cyclic"}, default="linear"
        How the term continues outside its training range; "cyclic" repeats it.
    missing : float or None, default=None
        Contribution of a missing cell; None, meaning 0, if training had none.
    warp : Warp or pair of float, optional
        The feature's own scale, on which the knots lie.
    unit : {"date", "duration"} or None, default=None
        What the days are that the term reads, if they are days; `gam_model.dates.read_iso` turns
        text into them.
    atoms : array-like of shape (2, n_atoms) or None, default=None
        Values of the feature, ascending, that deviate from the curve, and by how much, on the
        scale of the link. A number counts as such a value if float32 cannot tell them apart.

    Examples
    --------
    >>> square = SmoothTerm(0, "age", knots=[0, 0, 0, 1, 1, 1], coef=[0, 0, 1])
    >>> square(np.array([-1.0, 0.5, 2.0]))
    array([0.  , 0.25, 3.  ])
    """

    feature: int
    name: str
    knots: np.ndarray
    coef: np.ndarray
    extrapolate: str = "linear"
    missing: float | None = None
    warp: Warp | None = None
    unit: str | None = None
    atoms: np.ndarray | None = None

    def __post_init__(self):
        """Fold the spline, and add one piece to either end."""
        if self.warp is not None:
            object.__setattr__(self, "warp", Warp(*self.warp))
        knots, coef = np.array(self.knots, dtype=float), np.array(self.coef, dtype=float)
        curve = fold_spline(knots, coef)
        ends = curve.x[[0, -1]]
        tails = np.zeros((len(curve.c), 2))
        tails[-1] = curve(ends)
        if self.extrapolate != "constant":
            tails[-2] = curve(ends, 1)
        frozen = {
            "knots": knots,
            "coef": coef,
            "_breaks": curve.x,
            "_origins": np.append(curve.x[0], curve.x),
            "_pieces": np.column_stack([tails[:, 0], curve.c, tails[:, 1]]),
        }
        if self.atoms is not None:
            frozen["atoms"] = np.array(self.atoms, dtype=float)
            frozen["_low"], frozen["_high"] = bracket(frozen["atoms"][0])
        for name, array in frozen.items():
            array.flags.writeable = False
            object.__setattr__(self, name, array)
        # For single values, where NumPy's call overhead exceeds the arithmetic.
        object.__setattr__(self, "_steps", self._breaks.tolist())
        object.__setattr__(
            self,
            "_by_piece",
            list(zip(self._origins.tolist(), *self._pieces.tolist(), strict=True)),
        )
        few = () if self.atoms is None else (self._low, self._high, self.atoms[1])
        object.__setattr__(self, "_by_atom", tuple(part.tolist() for part in few))

    def __reduce__(self):
        """Pickle the arguments; the polynomials are folded again on loading."""
        return type(self), tuple(getattr(self, field.name) for field in fields(self))

    @property
    def range(self):
        """Smallest and largest training value, a tuple of float in the feature's units."""
        ends = self._steps[0], self._steps[-1]
        return ends if self.warp is None else tuple(self.warp.invert(np.array(ends)).tolist())

    def __call__(self, x):
        """
        Evaluate the term.

        Parameters
        ----------
        x : ndarray of shape (n_samples,), float64
            Values of the feature; NaN where they are missing.

        Returns
        -------
        ndarray of shape (n_samples,), float64
            Contribution of the feature, on the scale of the link.

        Raises
        ------
        ValueError
            If extrapolate="error" and a value lies outside the training range by more than the
            rounding of float32.
        """
        value = self.curve(x)
        if self.atoms is not None:
            atom = locate(x, self._low, self._high)
            value += np.append(self.atoms[1], 0.0).take(atom)
        return value

    def curve(self, x):
        """
        Evaluate the term without what its atoms deviate by.

        Parameters
        ----------
        x : ndarray of shape (n_samples,), float64
            As for the term.

        Returns
        -------
        ndarray of shape (n_samples,), float64
            On the scale of the link.

        Raises
        ------
        ValueError
            As for the term.
        """
        if self.extrapolate == "error":
            self._refuse_outside(x)
        if self.warp is not None:
            x = self.warp(x)
        if self.extrapolate == "cyclic":
            x = wrap(x, *self.range)
        if len(self._steps) > _FEW:
            piece = np.searchsorted(self._breaks, x, side="right")
        else:
            piece = np.zeros(len(x), dtype=np.uint8)
            for step in self._steps:
                piece += x >= step
            piece = piece.astype(np.intp)
        step = x - self._origins.take(piece)
        value = self._pieces[0].take(piece)
        for coef in self._pieces[1:]:
            value *= step
            value += coef.take(piece)
        is_missing = np.isnan(x)
        if is_missing.any():
            value[is_missing] = self.missing or 0.0
        return value

    def at(self, x):
        """
        Evaluate the term at one value, bit for bit as in an array.

        Parameters
        ----------
        x : float
            Value of the feature, or NaN.

        Returns
        -------
        float
            Contribution of the feature, on the scale of the link.

        Raises
        ------
        ValueError
            As for arrays.
        """
        if x != x:
            return self.missing or 0.0
        if self.extrapolate == "error":
            self._refuse_outside(np.array([x]))
        t = x if self.warp is None else float(self.warp(x))
        if self.extrapolate == "cyclic":
            low, high = self.range
            t = t if low <= t < high else low + (t - low) % (high - low)
        origin, value, *coefs = self._by_piece[bisect_right(self._steps, t)]
        step = t - origin
        for coef in coefs:
            value = value * step + coef
        if self._by_atom:
            low, high, effects = self._by_atom
            atom = bisect_right(low, x) - 1
            if atom >= 0 and x <= high[atom]:
                value += effects[atom]
        return value

    def show(self, x):
        """
        Format one value of the feature, for messages.

        Parameters
        ----------
        x : float
            Value of the feature.

        Returns
        -------
        str
            ISO 8601 where the feature is a date or a duration.
        """
        return write_iso(x, self.unit) if self.unit else f"{x:g}"

    def _refuse_outside(self, x):
        low, high = self.range
        rounding = np.finfo(np.float32).eps * max(abs(low), abs(high))
        outside = (x < low - rounding) | (x > high + rounding)
        if outside.any():
            row = int(outside.argmax())
            raise ValueError(
                f"{self.name} = {self.show(x[row])} in row {row} lies outside the training range "
                f"[{self.show(low)}, {self.show(high)}]; correct the value, or fit with "
                'extrapolate="linear"'
            )


@dataclass(frozen=True, eq=False)
class LevelTerm:
    """
    One categorical feature's effects, centred to mean 0 over the training rows.

    Parameters
    ----------
    feature : int
        Column of X that the term reads, as codes.
    name : str
        Name of that column.
    levels : sequence of str, int, float or bool
        Level of each code.
    effects : array-like of shape (n_levels,)
        Contribution of each level, on the scale of the link.
    missing : float or None, default=None
        Contribution of a missing cell; None, meaning 0, if training had none.

    Examples
    --------
    >>> color = LevelTerm(0, "color", levels=["blue", "red"], effects=[-1.0, 2.0])
    >>> color(np.array([1.0, 0.0, -1.0]))  # -1 is a level that training has not seen
    array([ 2., -1.,  0.])
    """

    feature: int
    name: str
    levels: Sequence
    effects: np.ndarray
    missing: float | None = None

    def __post_init__(self):
        """Append the contributions of unseen levels and missing cells to those of the levels."""
        effects = np.array(self.effects, dtype=float)
        by_code = np.concatenate([effects, [self.missing or 0.0, 0.0]])
        for name, array in (("effects", effects), ("_by_code", by_code)):
            array.flags.writeable = False
            object.__setattr__(self, name, array)
        object.__setattr__(self, "levels", tuple(self.levels))
        object.__setattr__(self, "_steps", by_code.tolist())

    def __reduce__(self):
        """Pickle the arguments."""
        arguments = self.feature, self.name, self.levels, self.effects, self.missing
        return type(self), arguments

    def __call__(self, x):
        """
        Evaluate the term.

        Parameters
        ----------
        x : ndarray of shape (n_samples,), float64
            Codes; -1, or whatever else is not a code, for an unseen level; NaN for a missing cell.

        Returns
        -------
        ndarray of shape (n_samples,), float64
            Contribution of the feature, on the scale of the link.
        """
        codes = np.where((x >= 0) & (x < len(self.levels)), x, -1.0)
        codes[np.isnan(x)] = len(self.levels)
        return self._by_code.take(codes.astype(np.intp))

    def at(self, x):
        """
        Evaluate the term at one code.

        Parameters
        ----------
        x : float
            As for arrays.

        Returns
        -------
        float
            Contribution of the feature, on the scale of the link.
        """
        if x != x:
            return self._steps[-2]
        return self._steps[int(x)] if 0 <= x < len(self.levels) else 0.0
