"""What regression and classification share: checking, fitting, explaining."""

from numbers import Integral, Real

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_array, check_is_fitted, validate_data

from gam_model._basis import Basis, place_knots
from gam_model._glmgam import fit_glmgam
from gam_model._smoothing import choose_by_gcv, choose_by_reml, estimate_scale
from gam_model._solver import Rows, iterate
from gam_model._terms import AdditiveModel, SmoothTerm

EXTRAPOLATIONS = ("linear", "constant", "error")
CRITERIA = ("reml", "gcv")
SOLVERS = ("auto", "stream", "statsmodels")
_FEW = 10_000  # rows on which P-IRLS looks for its start, where there are many more


class AdditiveEstimator(BaseEstimator):
    """
    Base of the estimators, which add their parameters, `fit` and `predict`.

    The parameters df, alpha, degree, extrapolate, criterion and solver are as in `GAMRegressor`.
    """

    def contributions(self, X):
        """
        Split each prediction into the contributions of the features, which are its SHAP values.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Features, finite.

        Returns
        -------
        ndarray of shape (n_samples, n_features), float64
            f_j(x_ij), on the scale of the link, of mean 0 over the training rows; `intercept_`
            plus the sum of a row is its eta.

        Raises
        ------
        ValueError
            If `X` is not what `fit` saw, or leaves the training range and extrapolate="error".
        """
        X = self._validate(X)
        return self.terms_.contributions(X)

    def summary(self):
        """
        Describe the fit.

        Returns
        -------
        str
            solver="statsmodels": the summary of statsmodels' GLMGam, as it was at the time of
            `fit`, with its coefficients before centring. Else a table of the terms.
        """
        check_is_fitted(self)
        return self._summary

    def _validate(self, X):
        check_is_fitted(self)
        return validate_data(self, X, dtype=np.float64, reset=False)

    def _fit(self, X, y, family, link, sample_weight=None, offset=None):
        if not family.accepts(y):
            raise ValueError(
                f"y of family={family.name!r} must be {family.domain}, "
                f"got values from {y.min():g} to {y.max():g}"
            )
        weight = _check_rows(sample_weight, "sample_weight", len(y), default=1, at_least=0)
        if not weight.any():
            raise ValueError("every sample_weight is zero: no row is left to fit")
        shift = _check_rows(offset, "offset", len(y), default=0)
        there = weight > 0  # a row of weight 0 is none
        if not there.all():
            X, y, weight, shift = X[there], y[there], weight[there], shift[there]
        counts = None if sample_weight is None else weight
        knots = {
            j: t
            for j, x in enumerate(X.T)
            if (t := place_knots(x, self.df, self.degree, counts)) is not None
        }
        rows = Rows(Basis(knots, int(self.degree)), X, y, weight, shift)
        alpha = self._check_alpha(X.shape[1])
        if alpha is not None:
            alpha = alpha[list(knots)]
        able = family.name == "gaussian" and link.name == "identity"
        able = able and offset is None and alpha is not None
        if self.solver == "statsmodels" and not able:
            raise ValueError(
                'solver="statsmodels" fits the gaussian family with identity link, a number for '
                'alpha and no offset; take solver="auto"'
            )
        if able and knots and self.solver != "stream":
            coef, means, self.edf_, self.scale_, summary = fit_glmgam(rows, alpha, self._names())
        else:
            coef, means, self.edf_, self.scale_, alpha = self._stream(rows, family, link, alpha)
            summary = None
        return self._freeze(rows, link, coef, means, alpha, summary)

    def _stream(self, rows, family, link, alpha):
        basis, mean = rows.basis, 0.0
        if family.name == "gaussian" and link.name == "identity":
            # Sums of squares of what is far from 0 would lose digits.
            mean = np.average(rows.y, weights=rows.weight)
            rows = Rows(basis, rows.X, rows.y - mean, rows.weight, rows.offset)

        def choose(normal, weights):
            if alpha is not None:
                return 2 * alpha
            if not basis.knots:
                return np.empty(0)
            if self.criterion == "gcv":
                return choose_by_gcv(normal, basis, weights)
            return choose_by_reml(normal, basis, family.scale, weights)

        start = None
        if len(rows.y) > 4 * _FEW:
            start = iterate(rows.thin(_FEW), family, link, choose, tol=1e-3).solution.coef
        tol = 1e-10 if alpha is not None else 1e-5
        normal, weights, (coef, inverse) = iterate(rows, family, link, choose, start, tol)
        splines = basis.turn @ coef
        splines[0] += mean
        edf = np.einsum("ij,ji->i", inverse, normal.gram)
        scale = family.scale or estimate_scale(normal, coef, inverse)
        return splines, normal.means[basis.kept[1:]], edf, scale, weights / 2

    def _freeze(self, rows, link, coef, means, alpha, summary):
        p, names, basis = rows.X.shape[1], self._names(), rows.basis
        edf, self.edf_, self.alpha_ = self.edf_, np.zeros(p), np.full(p, np.nan)
        self.intercept_, terms = float(coef[0]), []
        for k, (j, block) in enumerate(zip(basis.knots, basis.blocks, strict=True)):
            # B-splines sum to one, so a curve is centred by shifting its coefficients, that of
            # the first B-spline, 0, included.
            mean = means[block.start - 1 : block.stop - 1] @ coef[block]
            self.intercept_ += float(mean)
            own = np.append(0.0, coef[block]) - mean
            terms.append(SmoothTerm(j, names[j], basis.knots[j], own, self.extrapolate))
            self.edf_[j], self.alpha_[j] = edf[block].sum(), alpha[k]
        self.terms_ = AdditiveModel(self.intercept_, tuple(terms), p, link.name)
        self._summary = summary or self._describe(link)
        return self

    def _names(self):
        given = getattr(self, "feature_names_in_", map("x{}".format, range(self.n_features_in_)))
        return [str(name) for name in given]

    def _describe(self, link):
        if not self.terms_.terms:
            return "Every column of X is constant: the model is the mean of y."
        lines = [
            f"Additive model, {link.name} link",
            f"intercept {self.intercept_:.6g}, scale {self.scale_:.6g}, "
            f"effective degrees of freedom {1 + self.edf_.sum():.2f}",
            "",
            f"{'term':<20} {'edf':>8} {'alpha':>12}",
        ]
        for name, edf, alpha in zip(self._names(), self.edf_, self.alpha_, strict=True):
            lines.append(f"{name:<20} {edf:>8.2f} {alpha:>12.4g}")
        return "\n".join(lines)

    def _check_parameters(self):
        df, degree = self.df, self.degree
        if not _is(Integral, degree) or not 2 <= degree <= 5:
            raise ValueError(f"degree must be an integer from 2 to 5, got degree={degree!r}")
        if not _is(Integral, df) or df < degree + 1:
            raise ValueError(
                f"df must be an integer of at least degree + 1 = {degree + 1}, got df={df!r}"
            )
        for name, choices in (
            ("extrapolate", EXTRAPOLATIONS),
            ("criterion", CRITERIA),
            ("solver", SOLVERS),
        ):
            value = getattr(self, name)
            if not isinstance(value, str) or value not in choices:
                raise ValueError(f"{name} must be one of {choices}, got {name}={value!r}")
        self._check_alpha(None)

    def _check_alpha(self, n_features):
        alpha = self.alpha
        if isinstance(alpha, str) and alpha == "auto":
            return None
        if isinstance(alpha, (list, tuple, np.ndarray)) and np.ndim(alpha) == 1:
            values = list(alpha)
            if n_features is not None and len(values) != n_features:
                raise ValueError(
                    f"alpha must have one number a feature, {n_features}, got alpha={alpha!r}"
                )
        else:
            values = [alpha] * (n_features or 1)
        if not all(_is(Real, value) and 0 < value < np.inf for value in values):
            raise ValueError(
                'alpha must be a positive finite number, one a feature, or "auto", '
                f"got alpha={alpha!r}"
            )
        return np.array(values, dtype=float)


def _is(kind, value):
    return isinstance(value, kind) and not isinstance(value, bool)


def _check_rows(values, name, n_rows, default, at_least=-np.inf):
    if values is None:
        return np.full(n_rows, float(default))
    values = check_array(values, ensure_2d=False, dtype=np.float64, input_name=name)
    if values.shape != (n_rows,):
        raise ValueError(f"{name} must have shape ({n_rows},), got {values.shape}")
    if values.min() < at_least:
        raise ValueError(f"{name} must be at least {at_least}, got {values.min():g}")
    return values
