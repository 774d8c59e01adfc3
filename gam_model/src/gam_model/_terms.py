"""The fitted model, frozen: an intercept and one centred smooth function per feature."""

from bisect import bisect_right
from dataclasses import dataclass

import numpy as np

from gam_model._basis import fold_spline
from gam_model._families import LINKS


@dataclass(frozen=True, eq=False)
class SmoothTerm:
    """
    One feature's smooth function, centred to mean 0 over the training rows.

    f(x) = sum_k coef_k B_k(x) inside [knots[0], knots[-1]], folded into one polynomial per
    interval, so that evaluating it is one search and one Horner scheme. Beyond the range two more
    pieces carry it on. Only the arguments below are pickled.

    Parameters
    ----------
    feature : int
        Column of X that the term reads.
    name : str
        Name of that column, for messages.
    knots : ndarray of shape (n_basis + degree + 1,)
        All knots in ascending order, in the feature's units.
    coef : ndarray of shape (n_basis,)
        B-spline coefficients, in the units of y.
    extrapolate : {"linear", "constant", "error"}
        What the term is outside its training range.

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

    def __post_init__(self):
        """Fold the spline, and add one piece to either end."""
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
        for name, array in frozen.items():
            array.flags.writeable = False
            object.__setattr__(self, name, array)
        # For one value at a time, where a call into NumPy costs more than the arithmetic.
        object.__setattr__(self, "_steps", self._breaks.tolist())
        object.__setattr__(
            self,
            "_by_piece",
            list(zip(self._origins.tolist(), *self._pieces.tolist(), strict=True)),
        )

    def __reduce__(self):
        """Pickle knots and coefficients; the polynomials are folded again on loading."""
        return type(self), (self.feature, self.name, self.knots, self.coef, self.extrapolate)

    def __call__(self, x):
        """
        Evaluate the term.

        Parameters
        ----------
        x : ndarray of shape (n_samples,), float64
            Values of the feature; NaN gives NaN.

        Returns
        -------
        ndarray of shape (n_samples,), float64
            Contribution of the feature, in the units of y.

        Raises
        ------
        ValueError
            If extrapolate="error" and a value lies outside the training range by more than the
            rounding of float32.
        """
        if self.extrapolate == "error":
            self._refuse_outside(x)
        piece = np.searchsorted(self._breaks, x, side="right")
        step = x - self._origins[piece]
        value = self._pieces[0, piece]
        for coef in self._pieces[1:]:
            value *= step
            value += coef[piece]
        return value

    def at(self, x):
        """
        Evaluate the term at one value, to the same bits as in an array.

        Parameters
        ----------
        x : float
            Value of the feature.

        Returns
        -------
        float
            Contribution of the feature, on the scale of the link.

        Raises
        ------
        ValueError
            As for arrays.
        """
        if self.extrapolate == "error":
            self._refuse_outside(np.array([x]))
        origin, value, *coefs = self._by_piece[bisect_right(self._steps, x)]
        step = x - origin
        for coef in coefs:
            value = value * step + coef
        return value

    def _refuse_outside(self, x):
        low, high = self._breaks[[0, -1]]
        rounding = np.finfo(np.float32).eps * max(abs(low), abs(high))
        outside = ~((x >= low - rounding) & (x <= high + rounding))  # so that NaN is outside too
        if outside.any():
            row = int(outside.argmax())
            raise ValueError(
                f"{self.name} = {x[row]:g} in row {row} lies outside the training range "
                f'[{low:g}, {high:g}]; mend the value, or fit with extrapolate="linear"'
            )


@dataclass(frozen=True, eq=False)
class AdditiveModel:
    """
    A fitted additive model: what a server needs of an estimator, without its validation.

    g(mu) = eta(x) = intercept + sum_j f_j(x_j), summed in the order of `terms`, so that a row's
    answer is the same to the last bit whichever rows come with it.

    Parameters
    ----------
    intercept : float
        Mean eta over the training rows.
    terms : tuple of SmoothTerm
        The smooth functions; a feature without a term contributes 0.
    n_features : int
        Number of columns of X.
    link : str, default="identity"
        Name of the link g.

    Examples
    --------
    >>> square = SmoothTerm(1, "age", knots=[0, 0, 0, 1, 1, 1], coef=[0, 0, 1])
    >>> model = AdditiveModel(intercept=10.0, terms=(square,), n_features=2)
    >>> model.predict([[7.0, 0.5]])
    array([10.25])
    >>> model.contributions([[7.0, 0.5]])
    array([[0.  , 0.25]])
    """

    intercept: float
    terms: tuple[SmoothTerm, ...]
    n_features: int
    link: str = "identity"

    def eta(self, X):
        """
        Predict on the scale of the link.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Finite values.

        Returns
        -------
        ndarray of shape (n_samples,), float64
            eta, on the scale of the link.

        Raises
        ------
        ValueError
            If `X` has another shape, or lies outside the training range and extrapolate="error".
        """
        X = self._as_rows(X)
        if len(X) == 1:
            (row,), total = X.tolist(), self.intercept
            for term in self.terms:
                total += term.at(row[term.feature])
            return np.array([total])
        eta = np.full(len(X), self.intercept)
        for term in self.terms:
            eta += term(X[:, term.feature])
        return eta

    def predict(self, X):
        """
        Predict the mean response.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Finite values.

        Returns
        -------
        ndarray of shape (n_samples,), float64
            mu, in the units of y.

        Raises
        ------
        ValueError
            As `eta`.
        """
        return LINKS[self.link].inverse(self.eta(X))

    def contributions(self, X):
        """
        Split each prediction into the contributions of the features.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Finite values.

        Returns
        -------
        ndarray of shape (n_samples, n_features), float64
            f_j(x_ij), on the scale of the link; `intercept` plus the sum of a row is its eta.

        Raises
        ------
        ValueError
            As `eta`.
        """
        X = self._as_rows(X)
        values = np.zeros(X.shape)
        for term in self.terms:
            values[:, term.feature] = term(X[:, term.feature])
        return values

    def _as_rows(self, X):
        X = np.asarray(X, dtype=float)
        if X.ndim != 2 or X.shape[1] != self.n_features:
            raise ValueError(f"X must have shape (n_samples, {self.n_features}), got {X.shape}")
        return X
