"""What regression and classification share: reading, checking, fitting, explaining."""

import functools
import warnings
from collections.abc import Iterator
from numbers import Integral, Real

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_array, check_is_fitted, check_X_y, validate_data
from threadpoolctl import ThreadpoolController

from gam_model._basis import Basis, LevelBasis, SplineBasis
from gam_model._explanation import ExplanationMixin
from gam_model._features import Features
from gam_model._glmgam import fit_glmgam
from gam_model._inference import Posterior, check_term, summarize
from gam_model._rows import SAMPLE, Block, Rows, scan
from gam_model._smoothing import (
    choose_by_gcv,
    choose_by_reml,
    estimate_scale,
    residual_square,
)
from gam_model._solver import iterate
from gam_model._splines import place_knots
from gam_model._terms import AdditiveModel, LevelTerm, SmoothTerm

EXTRAPOLATIONS = ("linear", "constant", "error")
CRITERIA = ("reml", "gcv")
SOLVERS = ("stream", "statsmodels")
_FEW = 10_000  # rows on which P-IRLS looks for its start, where there are many more
_RANKED = 100_000  # rows over which contributions are averaged for the importances


class AdditiveEstimator(ExplanationMixin, BaseEstimator):
    """
    Base of the estimators, which add their parameters, `fit` and `predict`.

    The parameters df, alpha, degree, extrapolate, criterion, categorical_features and solver are
    as in `GAMRegressor`.
    """

    def __sklearn_tags__(self):
        """Tell scikit-learn that cells may be missing and columns categorical."""
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.categorical = True
        return tags

    def fit_chunks(self, chunks):
        """
        Fit rows that need not be in memory together, such as those of a large file.

        Parameters
        ----------
        chunks : iterable of tuple
            (X, y), (X, y, sample_weight) or (X, y, sample_weight, offset), each as in `fit`. It is
            passed over several times, so its `__iter__` must begin anew each time, as that of a
            list does, or of an object that opens the file there.

        Returns
        -------
        AdditiveEstimator
            Itself.

        Raises
        ------
        TypeError
            If `chunks` can be passed over only once.
        ValueError
            As `fit`.

        Notes
        -----
        One pass learns the levels of categorical columns and the classes, if there are any, one
        the ranges, and one fits a gaussian model with identity link; other families take one for
        each step, about ten. Up to 200,000 rows give what `fit` gives; beyond, knots are placed at
        the quantiles of a sample of so many rows, which is the same in each call.

        Examples
        --------
        >>> import numpy as np
        >>> from gam_model import GAMRegressor
        >>> X = np.linspace(0, 3, 400)[:, None]
        >>> chunks = [(X[k : k + 100], np.sin(X[k : k + 100, 0])) for k in range(0, 400, 100)]
        >>> gam = GAMRegressor().fit_chunks(chunks)
        >>> gam.predict([[1.5]]).round(4)
        array([0.9975])
        """
        if isinstance(chunks, Iterator):
            raise TypeError(
                "chunks can be passed over only once, and several passes are needed; give a list, "
                "or an object whose __iter__ opens the file anew"
            )
        return self._fit(chunks, streamed=True)

    # ---------------------------------------------------------------- reading

    def _validate(self, X):
        """Return X as the frozen model reads it; warn of what it has not seen."""
        check_is_fitted(self)
        if not self._features.levels:
            X = validate_data(
                self, X, dtype=np.float64, ensure_all_finite="allow-nan", reset=False
            )
        else:
            validate_data(self, X, reset=False, skip_check_array=True)
            X = check_array(
                self._features.read(X), dtype=np.float64, ensure_all_finite="allow-nan"
            )
        for term in self.terms_.terms:
            x = X[:, term.feature]
            unseen = isinstance(term, LevelTerm) and (x < 0).any()
            if unseen or (term.missing is None and np.isnan(x).any()):
                warnings.warn(
                    f"column {term.name!r} holds "
                    f"{'levels' if unseen else 'missing cells'} that fit has not seen; they are "
                    "predicted as the base: a contribution of 0",
                    UserWarning,
                    stacklevel=3,
                )
        return X

    def _read(self, chunk, reset):
        """Return one chunk, a tuple (X, y, sample_weight, offset), as a Block."""
        X, y, sample_weight, offset = (*chunk, None, None)[:4]
        if not reset:
            validate_data(self, X, reset=False, skip_check_array=True)
        read, y = check_X_y(
            self._features.read(X),
            y,
            dtype=np.float64,
            ensure_all_finite="allow-nan",
            y_numeric=self._y_numeric,
            estimator=self,
        )
        if reset:
            validate_data(self, X, skip_check_array=True)
        y = self._read_response(y)
        weight = _check_rows(sample_weight, "sample_weight", len(y), default=1, at_least=0)
        shift = _check_rows(offset, "offset", len(y), default=0)
        block, there = Block(read, y, weight, shift), weight > 0
        return block if there.all() else block.take(there)  # a row of weight 0 is none

    # ---------------------------------------------------------------- fitting

    def _fit(self, chunks, streamed=False):
        """Fit chunks, tuples (X, y, sample_weight, offset), of which there is one or a stream."""
        self._check_parameters()
        family, link = self._find_family()
        self._features = Features(self.categorical_features)
        self._learn(chunks, streamed)
        if streamed:
            blocks = _Blocks(self, chunks)
        else:
            blocks = [self._read(chunks[0], reset=True)]
            if not len(blocks[0].y):
                raise ValueError("every sample_weight is zero: no row is left to fit")
        totals = scan(blocks, family, SAMPLE if streamed else None)
        basis = self._build(totals, weighted=streamed or chunks[0][2] is not None)
        alpha = self._check_alpha(self.n_features_in_)
        if alpha is not None:
            alpha = np.array([alpha[term.feature] for term in basis.terms])[basis.owners]
        offset = bool(totals.sample.offset.any())
        if self.solver == "statsmodels":
            plain = all(isinstance(term, SplineBasis) and not term.missing for term in basis.terms)
            plain = plain and _is_linear(family, link)
            if streamed or alpha is None or offset or not plain or not basis.terms:
                raise ValueError(
                    'solver="statsmodels" fits numeric columns without missing cells, of which '
                    "not all are constant, in the gaussian family with identity link, with a "
                    'number for alpha and no offset; take solver="stream"'
                )
            fit = fit_glmgam(basis, blocks[0], totals, alpha)
        else:
            n_lines = np.inf if streamed else totals.n_lines
            # The matrices are small: threads would wait for one another for longer than they work.
            with _find_blas().limit(limits=1, user_api="blas"):
                fit = self._stream(basis, blocks, totals, family, link, alpha, n_lines)
        if offset:
            totals = totals._replace(null_deviance=_fit_null(blocks, totals, family, link))
        return self._freeze(fit, basis, totals, family, link)

    def _learn(self, chunks, streamed):
        self._forget_response()
        for X, y, *_ in chunks:
            self._features.learn(X)
            more = self._learn_response(y)
            if streamed and not (more or self._features.levels):
                break  # nothing that a pass over all chunks would tell

    def _build(self, totals, weighted):
        terms, X = [], totals.sample.X
        for j in range(X.shape[1]):
            missing, x = bool(totals.missing[j]), X[:, j]
            if j in self._features.levels:
                terms.append(LevelBasis(j, len(self._features.levels[j]), missing))
                continue
            there = ~np.isnan(x) if missing else slice(None)
            counts = totals.sample.weight[there] if weighted else None
            knots = None
            if np.isfinite(totals.low[j]):  # else every cell is missing
                ends = totals.low[j], totals.high[j]
                knots = place_knots(x[there], self.df, self.degree, counts, ends)
            if knots is not None or (missing and np.isfinite(totals.low[j])):
                terms.append(SplineBasis(j, knots, int(self.degree), missing))
        return Basis(terms)

    def _stream(self, basis, blocks, totals, family, link, alpha, n_lines):
        linear = _is_linear(family, link)
        centre = totals.mean if linear else 0.0  # squares of what is far from 0 would lose digits
        rows = Rows(basis, blocks, totals.n_rows, totals.mean, centre, n_lines)

        def choose(normal, weights):
            if alpha is not None:
                return 2 * alpha
            if not basis.terms:
                return np.empty(0)
            if self.criterion == "gcv":
                return choose_by_gcv(normal, basis, weights)
            return choose_by_reml(normal, basis, family.scale, weights)

        start = None
        if not linear and totals.n_lines > 4 * _FEW:
            few = totals.sample.take(slice(None, None, max(1, len(totals.sample.y) // _FEW)))
            n_few = float(few.weight.sum())
            thin = Rows(basis, [few], n_few, totals.mean, n_lines=len(few.y))
            start = iterate(thin, family, link, choose, tol=1e-3).solution.coef
        tol = 1e-10 if alpha is not None else 1e-5
        fit = iterate(rows, family, link, choose, start, tol)
        if linear:  # the deviance was that of the mean
            deviance = residual_square(fit.normal, fit.solution.coef)
            fit = fit._replace(normal=fit.normal._replace(deviance=deviance))
            fit.solution.coef[0] += centre
        return fit

    def _freeze(self, fit, basis, totals, family, link):
        normal, (coef, inverse) = fit.normal, fit.solution
        p, names = self.n_features_in_, self._names()
        influence = inverse @ normal.gram
        edf = influence.diagonal()
        ref_df = 2 * edf - np.einsum("ij,ji->i", influence, influence)
        splines = basis.turn @ coef
        means = np.append(1.0, normal.means[basis.kept[1:]])
        self.edf_, self.alpha_ = np.zeros(p), np.full(p, np.nan)
        self.intercept_, terms = float(means @ splines), []
        for k, (term, block) in enumerate(zip(basis.terms, basis.blocks, strict=True)):
            # Functions sum to one, so a term is centred by shifting all its coefficients, that
            # of the first B-spline, 0, included.
            own = (
                np.append(np.zeros(term.left_out), splines[block]) - means[block] @ splines[block]
            )
            hole = float(own[-1]) if term.missing else None
            own = own[: len(own) - term.missing]
            j = term.feature
            if isinstance(term, LevelBasis):
                frozen = LevelTerm(j, names[j], self._features.levels[j], own, hole)
            elif term.left_out:
                frozen = SmoothTerm(j, names[j], term.knots, own, self.extrapolate, hole)
            else:  # constant where it isn't missing
                x = totals.low[j]
                flat = -means[block] @ splines[block]
                frozen = SmoothTerm(
                    j, names[j], [x, x, x + 1, x + 1], [flat, flat], "constant", hole
                )
            terms.append(frozen)
            self.edf_[j] = edf[block].sum()
            self.alpha_[j] = fit.weights[basis.owners == k][0] / 2
        self.terms_ = AdditiveModel(self.intercept_, terms, names, link.name)

        left = max(totals.n_rows - edf.sum(), 1.0)
        if _is_linear(family, link):
            self.scale_ = float(normal.deviance / left)
        else:
            self.scale_ = float(family.scale or estimate_scale(normal, coef, inverse))
        covariance = basis.turn @ (self.scale_ * inverse) @ basis.turn.T
        self._posterior = Posterior(basis.terms, splines, covariance, means, self.extrapolate)
        self._family = family.name
        self.statistics_ = summarize(
            family,
            totals.n_rows,
            float(edf.sum()),
            self.scale_,
            normal.deviance,
            totals.null_deviance,
            totals.log_base,
        )
        gram = basis.turn @ normal.gram @ basis.turn.T
        residual_df = None if family.scale else max(self.statistics_.residual_df, 1.0)
        self._tests = [
            check_term(
                splines[block],
                covariance[block, block],
                gram[block, block] - np.outer(gram[0, block], gram[0, block]) / gram[0, 0],
                float(ref_df[block].sum()),
                residual_df,
            )
            for block in basis.blocks
        ]
        few = totals.sample.take(slice(None, None, 1 + (len(totals.sample.y) - 1) // _RANKED))
        size = abs(self.terms_.contributions(few.X))
        self.feature_importances_ = np.average(size, axis=0, weights=few.weight)
        return self

    def _names(self):
        given = getattr(self, "feature_names_in_", map("x{}".format, range(self.n_features_in_)))
        return [str(name) for name in given]

    # ---------------------------------------------------------------- checking

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


@functools.cache
def _find_blas():
    return ThreadpoolController()


class _Blocks:
    """Chunks, read anew at each pass."""

    def __init__(self, estimator, chunks):
        self._estimator, self._chunks, self._fresh = estimator, chunks, True

    def __iter__(self):
        for chunk in self._chunks:
            yield self._estimator._read(chunk, reset=self._fresh)
            self._fresh = False


def _fit_null(blocks, totals, family, link):
    """Return the deviance of an intercept and the offsets alone."""
    rows = Rows(Basis([]), blocks, totals.n_rows, totals.mean)
    fit = iterate(rows, family, link, lambda normal, weights: np.empty(0))
    if _is_linear(family, link):
        return residual_square(fit.normal, fit.solution.coef)
    return fit.normal.deviance


def _is_linear(family, link):
    return family.name == "gaussian" and link.name == "identity"


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
