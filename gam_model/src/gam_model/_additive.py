"""Base class of the estimators: input validation, fitting and explanation."""

import functools
import warnings
from collections.abc import Iterator
from numbers import Integral, Real
from typing import ClassVar

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils.validation import (
    _num_samples,
    check_array,
    check_is_fitted,
    check_X_y,
    validate_data,
)
from threadpoolctl import ThreadpoolController

from gam_model._basis import Basis
from gam_model._binned import make_rows
from gam_model._design import build_basis
from gam_model._explanation import ExplanationMixin
from gam_model._families import check_mean
from gam_model._features import Features
from gam_model._findings import warn_of_fit
from gam_model._functions import SplineBasis
from gam_model._glmgam import fit_glmgam
from gam_model._inference import Posterior, check_fit, summarize
from gam_model._interactions import PairBasis, make_margins, read_pairs
from gam_model._model import AdditiveModel
from gam_model._pairs import name_pair
from gam_model._progress import Progress, report
from gam_model._rows import SAMPLE, WEIGHTINGS, Block, Rows, check_reach, scan
from gam_model._screening import find_pairs, keep_pairs
from gam_model._settings import check_settings, read_settings
from gam_model._smoothing import Smoothing, estimate_scale, find_shortage
from gam_model._solver import Start, accumulate, constrain, fit_linear, iterate
from gam_model._terms import LevelTerm

CRITERIA = ("reml", "gcv")
SOLVERS = ("stream", "statsmodels")
WARPS = ATOMS = ("auto", None)
_FEW = 10_000  # rows used to find starting values for P-IRLS in larger data
# With alpha="auto", each column gets fewer splines if the total exceeds both of these limits (per
# row, and absolute): the data cannot identify more, and time grows with the cube of the total.
_FUNCTIONS, _ANYWAY = 2, 600
# Of a family's parameters, mostly logarithms: steps, and changes that end them, first and later,
# where rounding may keep on moving them.
_LEARNING_STEPS, _SETTLED = 40, (2e-5, 1e-3)
_RANKED = 100_000  # rows over which the importances are averaged


class AdditiveEstimator(ExplanationMixin, BaseEstimator):
    """
    Base of the estimators, which add their parameters, `fit` and `predict`.

    The parameters df, alpha, degree, extrapolate, criterion, categorical_features, solver,
    weighting, warp, atoms, interactions and verbose are as in `GAMRegressor`.
    """

    def __sklearn_tags__(self):
        """Declare to scikit-learn that X may have missing values and categorical columns."""
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.categorical = True
        return tags

    def fit_chunks(self, chunks):
        """
        Fit rows that do not fit in memory, such as those of a large file.

        Parameters
        ----------
        chunks : iterable of tuple
            (X, y), (X, y, sample_weight) or (X, y, sample_weight, offset), each as in `fit`. It is
            iterated over several times, so each call of `__iter__` must start at the beginning, as
            with a list or an object that reopens the file.

        Returns
        -------
        AdditiveEstimator
            Itself.

        Raises
        ------
        TypeError
            If `chunks` can be iterated over only once.
        ValueError
            As `fit`.

        Notes
        -----
        The first pass determines column types and classes; for numeric arrays it stops after the
        first chunk, and it is repeated if a numeric column turns out to contain text. The next
        pass determines the ranges, and one more fits a gaussian model with identity link; other
        families need one pass per iteration, about ten. Up to 200,000 rows the result is that of
        `fit`; beyond, knots are placed at the quantiles of a fixed random sample of 200,000 rows.

        A column that is text in one chunk is text in all: the numbers 1 and 1.0 then become the
        level "1". A chunk may be empty, and a column may be entirely missing in a chunk.

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
                "chunks can be iterated over only once, but fitting takes several passes; pass a "
                "list, or an object whose __iter__ reopens the file"
            )
        return self._fit(chunks, streamed=True)

    # ---------------------------------------------------------------- offsets

    # Request `offset` by default in scikit-learn's metadata routing.
    __metadata_request__fit: ClassVar = {"offset": True}
    __metadata_request__predict: ClassVar = {"offset": True}
    __metadata_request__score: ClassVar = {"offset": True}

    _has_offset = False

    def _read_offset(self, offset, n_rows):
        """Return the offsets, of shape (n_rows,), or None; a scalar applies to all rows."""
        if offset is None:
            return None
        if np.ndim(offset) == 0:
            offset = np.full(n_rows, offset)
        return _check_rows(offset, "offset", n_rows, default=0)

    def _ask_for_offset(self, offset, method):
        """Raise an error if the model was fitted with an offset and none is given."""
        check_is_fitted(self)
        if self._has_offset and offset is None:
            raise ValueError(
                f"the model was fitted with an offset, so {method} needs the offset of its rows: "
                "pass offset=..., or offset=0 if there is none"
            )

    # ---------------------------------------------------------------- reading

    def _validate(self, X):
        """Return X as the frozen model expects it; warn about unseen levels and missing values."""
        check_is_fitted(self)
        if self._features.leaves(X):
            X = validate_data(
                self, X, dtype=np.float64, ensure_all_finite="allow-nan", reset=False
            )
        else:
            validate_data(self, X, reset=False, skip_check_array=True)
            X = check_array(
                self._features.read(X),
                dtype=np.float64,
                ensure_all_finite="allow-nan",
                input_name="X",
            )
        for term in self.terms_.terms:
            x = X[:, term.feature]
            unseen = isinstance(term, LevelTerm) and (x < 0).any()
            if unseen or (term.missing is None and np.isnan(x).any()):
                warnings.warn(
                    f"column {term.name!r} holds "
                    f"{'levels' if unseen else 'missing cells'} that fit did not see; they "
                    "contribute 0 to the prediction",
                    UserWarning,
                    stacklevel=3,
                )
        return X

    def _read(self, chunk, reset, number=None):
        """Return one chunk, a tuple (X, y, sample_weight, offset), as a Block."""
        X, y, sample_weight, offset = (*chunk, None, None)[:4]
        if not reset:
            validate_data(self, X, reset=False, skip_check_array=True)
        read, y = check_X_y(
            self._features.read(X, number),
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
        return block if there.all() else block.take(there)  # a row of weight 0 does not count

    # ---------------------------------------------------------------- fitting

    def _fit(self, chunks, streamed=False):
        """Fit one chunk or a stream of them, tuples (X, y, sample_weight, offset)."""
        self._check_parameters()
        with Progress(type(self).__name__, self.verbose):
            return self._fit_rows(chunks, streamed)

    def _fit_rows(self, chunks, streamed):
        family, link = self._find_family()
        self._features = Features(self.categorical_features)
        self._learn(chunks, streamed)
        if streamed:
            blocks = _Blocks(self, chunks)
        else:
            blocks = [self._read(chunks[0], reset=True)]
            if not len(blocks[0].y):
                raise ValueError("every sample_weight is zero, so there are no rows to fit")
        limit = SAMPLE if streamed else None
        totals = scan(blocks, family, limit, self.weighting)
        check_mean(family, link, totals.mean)
        levels = self._features.levels
        for j, name in enumerate(self._names()):
            if j not in levels:
                check_reach(f"column {name!r}", totals.low[j], totals.high[j])
        settings = read_settings(self, self._names(), levels)
        n_coef = max(_FUNCTIONS * totals.n_lines, _ANYWAY)
        most = n_coef // max(1, self.n_features_in_ - len(levels))
        settings = [
            one._replace(df=min(one.df, max(one.degree + 1, most))) if np.isnan(one.alpha) else one
            for one in settings
        ]
        warped, with_atoms = self.warp is not None, self.atoms is not None
        basis = build_basis(totals, levels, settings, warped, with_atoms, family, link)
        shaped = [name for name, one in zip(self._names(), settings, strict=True) if one.is_bound]
        turns = link.turning_point is not None
        if shaped and (self.solver == "statsmodels" or turns):
            how = f"link={link.name!r}" if turns else 'solver="statsmodels"'
            raise ValueError(f"{how} cannot keep the shape of {shaped[0]!r}; use another")
        pairs = read_pairs(self.interactions, self._names())
        if pairs and isinstance(pairs, list):
            for j in sorted({j for pair in pairs for j in pair}):
                if not settings[j].may_pair:
                    raise ValueError(
                        f"{self._names()[j]!r} cannot keep its shape in a pair; leave it out of "
                        "interactions, or out of monotonic_cst, convex_cst and cyclic"
                    )
            basis = self._add_pairs(basis, pairs, totals, blocks)
        self._has_offset = offset = bool(totals.sample.offset.any())
        if self.solver == "statsmodels":
            plain = all(isinstance(term, SplineBasis) and not term.missing for term in basis.terms)
            plain = plain and link is family.one_step
            curved = any(term.degree > 1 for term in basis.terms) if plain else False
            smoothing = self._smooth(basis, totals, family, settings)
            if streamed or np.isnan(smoothing.alpha).any() or offset or not curved:
                raise ValueError(
                    'solver="statsmodels" needs numeric columns without missing cells, at least '
                    "one of them with three distinct values, the gaussian family with identity "
                    'link, a numeric alpha and no offset; use solver="stream"'
                )
            fit = fit_glmgam(basis, blocks[0], totals, smoothing)
            return self._finish(fit, totals, family, link)
        # The matrices are so small that several threads would cost more than they save.
        with _find_blas().limit(limits=1, user_api="blas"):
            how = blocks, settings, limit
            fit, totals, family = self._estimate(basis, totals, family, link, *how)
            if pairs and not isinstance(pairs, list):
                self._freeze(fit, totals, family, link)
                with_pairs = self._find_pairs(pairs, fit, blocks, totals, family, link, settings)
                if len(with_pairs.terms) > len(basis.terms):
                    fit, totals, family = self._estimate(with_pairs, totals, family, link, *how)
            return self._finish(fit, totals, family, link)

    def _estimate(self, basis, totals, family, link, blocks, settings, limit):
        """Fit the functions of a basis; return the fit, the totals and the family, as learned."""
        how = link, blocks, settings, limit
        if family.unknown is None:
            return *self._stream(basis, totals, family, *how), family
        rows, fit = totals.sample, None
        mu, edf = np.full(len(rows.y), totals.mean), 1.0
        for step in range(_LEARNING_STEPS):
            report(**{"parameters of the family": step + 1})
            better = family.learn(rows.y, mu, rows.weight, edf / totals.weight)
            change = abs(np.subtract(family.unknown.at, better.unknown.at)).max()
            if fit is not None and change < _SETTLED[step > _LEARNING_STEPS // 4]:
                return fit, totals, family
            family = better
            totals = scan(blocks, family, limit, self.weighting)
            guess = fit if fit is not None and fit.vanished is None else None
            fit, totals = self._stream(basis, totals, family, *how, guess)
            self._freeze(fit, totals, family, link)
            mu = link.inverse(self.terms_.eta(rows.X, rows.offset))
            edf = self.statistics_.edf
        return fit._replace(settled=False), totals, family

    def _finish(self, fit, totals, family, link):
        warn_of_fit(fit, totals, family, self._names(), self._features.levels, stacklevel=4)
        return self._freeze(fit, totals, family, link)

    def _smooth(self, basis, totals, family, settings):
        # With few rows, a learned scale and smoothing would chase one another to no residuals.
        short = find_shortage(totals.n_rows, len(basis.curvature)) > 0
        scale = None if family.estimates_scale and short else family.scale
        # With pairs, alpha is the same for all terms.
        alpha = np.array([settings[np.max(term.feature)].alpha for term in basis.terms])
        return Smoothing(scale, self.criterion, alpha)

    def _find_pairs(self, number, fit, blocks, totals, family, link, settings):
        """Return the basis with the functions of pairs that the residuals of a fit ask for."""
        used = {term.feature for term in fit.basis.terms if settings[term.feature].may_pair}
        margins = make_margins(fit.basis, used, totals, blocks)
        pairs = find_pairs(number, margins, totals, blocks, self.terms_, family, link, self.scale_)
        basis = _join(fit.basis, pairs, margins)
        if number != "auto" or not pairs:
            return basis
        centre = totals.mean if link is family.one_step else 0.0
        coef = np.zeros(len(basis.curvature))
        coef[0] = fit.solution.coef[0] - centre
        for before, after in zip(fit.basis.blocks, basis.blocks, strict=False):
            coef[after] = fit.solution.coef[before]
        rows = Rows(basis, blocks, totals.n_rows, totals.weight, totals.unit, centre)
        normal = accumulate(rows, family, link, coef)
        return keep_pairs(normal, basis, lambda some: self._smooth(some, totals, family, settings))

    def _learn(self, chunks, streamed):
        self._forget_response()
        again = True
        while again:
            for number, (X, y, *weight) in enumerate(chunks, 1):
                if streamed and not _num_samples(X):
                    continue
                report(chunk=number)
                weight = weight[0] if weight else None
                more = self._features.learn(X, weight, number if streamed else None)
                more = self._learn_response(y) or more
                if streamed and not more:
                    break  # a pass over all chunks would add nothing
            again = self._features.settle()

    def _add_pairs(self, basis, pairs, totals, blocks):
        """Return the basis with the functions of these pairs, a list of tuples of positions."""
        margins = make_margins(basis, {j for pair in pairs for j in pair}, totals, blocks)
        names, there = self._names(), []
        for pair in pairs:
            constant = ", ".join(repr(names[j]) for j in pair if j not in margins)
            if not constant:
                there.append(pair)
                continue
            warnings.warn(
                f"the pair {name_pair(names[j] for j in pair)} is left out, as {constant} was "
                "constant or left out in training",
                UserWarning,
                stacklevel=5,
            )
        return _join(basis, there, margins)

    def _stream(self, basis, totals, family, link, blocks, settings, limit, guess=None):
        smoothing = self._smooth(basis, totals, family, settings)
        mean = link.link(np.float64(totals.mean))
        if self._has_offset or family.pull is not None:
            mean, null = _fit_constant(blocks, totals, family, link)
            totals = totals._replace(null_deviance=null)
        linear = link is family.one_step
        centre = totals.mean if linear else 0.0  # avoids cancellation in sums of squares
        unit = totals.unit
        n_kept = totals.n_lines if limit is None else np.inf
        rows = make_rows(basis, blocks, totals, centre, n_kept)
        constant = np.zeros(len(basis.curvature))
        constant[0] = mean - centre
        start = Start(constant, totals.null_deviance)
        n_lines = len(basis.lines)
        shortage = find_shortage(totals.n_rows, len(constant)) if not smoothing.given else 0.0
        hold = shortage if n_lines else 0.0
        if n_lines and totals.n_rows <= 1 + n_lines:
            hold = 1.0
            pairs = [isinstance(term, PairBasis) and not term.is_random for term in basis.terms]
            warnings.warn(
                f"{totals.n_rows:g} rows are too few to identify the slopes of "
                f"{n_lines - sum(pairs)} columns, "
                "so the slopes are shrunk towards 0; use more rows or fewer columns",
                UserWarning,
                stacklevel=5,
            )
        if linear:
            fit = fit_linear(rows, family, link, smoothing, start, hold)
            fit = constrain(fit, rows, family, link)
            fit.solution.coef[0] += centre
            return fit, totals
        if guess is not None:
            start = start._replace(guess=guess)
        elif totals.n_lines > 4 * _FEW:
            few = totals.sample.take(slice(None, None, max(1, len(totals.sample.y) // _FEW)))
            weight = float(few.weight.sum()) * unit
            thin = Rows(basis, [few], len(few.y), weight, unit, n_lines=len(few.y))
            share = totals.weight / weight
            guess = iterate(thin, family, link, smoothing, start, tol=1e-3)
            if guess.settled and guess.vanished is None:
                start = start._replace(guess=guess, factor=share)
        tol = 1e-10 if smoothing.given else 1e-7
        fit = iterate(rows, family, link, smoothing, start, hold, tol)
        return constrain(fit, rows, family, link), totals

    def _freeze(self, fit, totals, family, link):
        normal, basis, solution = fit.normal, fit.basis, fit.solution
        p, names = self.n_features_in_, self._names()
        penalty = basis.penalize(fit.weights)
        # If the likelihood has no maximum, the prior on the straight lines replaces the missing
        # information: a line under the prior counts as determined by the data.
        if family.scale is not None:
            penalty[basis.lines_held] = 0.0
        edf = solution.determined - penalty * solution.inverse.diagonal()
        splines = basis.rotate(solution.coef)
        means = np.append(1.0, normal.means[1:])
        self.edf_, self.alpha_ = np.zeros(p), np.full(p, np.nan)
        self.intercept_, terms, pairs = float(means @ splines), [], []
        for k, (term, block) in enumerate(zip(basis.terms, basis.blocks, strict=True)):
            own = np.append(np.zeros(term.left_out), splines[block])
            mean = float(means[block] @ splines[block])
            if isinstance(term, PairBasis):
                pairs.append(term.freeze(own, mean, names))
                continue
            frozen = term.freeze(own, mean, names, self._features, self.extrapolate)
            j = term.feature
            terms.append(frozen)
            self.edf_[j] = edf[block].sum()
            weights = fit.weights[basis.owners == k]
            self.alpha_[j] = weights[0] / 2 if len(weights) else np.nan
        self.terms_ = AdditiveModel(self.intercept_, terms, names, link.name, pairs)
        self.interactions_ = [pair.features for pair in pairs]

        left = max(totals.n_rows - edf.sum(), 1.0)
        if link is family.one_step:
            self.scale_ = float(normal.deviance / left)
        else:
            self.scale_ = float(family.scale or estimate_scale(normal, solution, penalty))
        rotation = basis.rotation
        covariance = solution.inverse._replace(
            dense=rotation @ (self.scale_ * solution.inverse.dense) @ rotation.T,
            shift=solution.inverse.shift @ rotation.T,
            own=self.scale_ * solution.inverse.own,
        )
        self._posterior = Posterior(basis, splines, covariance, means, self.extrapolate)
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
        residual_df = max(self.statistics_.residual_df, 1.0) if family.estimates_scale else None
        self._tests = check_fit(fit, penalty, self.scale_, residual_df)
        few = totals.sample.take(slice(None, None, 1 + (len(totals.sample.y) - 1) // _RANKED))
        size = abs(self.terms_.contributions(few.X))
        self.feature_importances_ = np.average(size, axis=0, weights=few.weight)
        size = abs(self.terms_.interaction_contributions(few.X))
        sizes = np.average(size, axis=0, weights=few.weight)
        self._pairs = [
            (edf[basis.blocks[k]].sum(), *self._tests[k], fit.weights[basis.owners == k], size)
            for k, size in enumerate(sizes, len(terms))
        ]
        return self

    def _names(self):
        given = getattr(self, "feature_names_in_", map("x{}".format, range(self.n_features_in_)))
        return [str(name) for name in given]

    # ---------------------------------------------------------------- checking

    def _check_parameters(self):
        check_settings(self)
        for name, choices in (
            ("criterion", CRITERIA),
            ("solver", SOLVERS),
            ("weighting", WEIGHTINGS),
            ("warp", WARPS),
            ("atoms", ATOMS),
        ):
            value = getattr(self, name)
            if not isinstance(value, (str, type(None))) or value not in choices:
                raise ValueError(f"{name} must be one of {choices}, got {name}={value!r}")
        if not isinstance(self.verbose, (Integral, np.bool_)) or self.verbose < 0:
            raise ValueError(f"verbose must be 0 or a positive integer, got {self.verbose!r}")
        if self.interactions is not None:
            if self.solver == "statsmodels":
                raise ValueError(
                    'solver="statsmodels" has no interactions; use solver="stream", or '
                    "interactions=None"
                )
            if not isinstance(self.alpha, (str, Real)):
                raise ValueError(
                    'with interactions, alpha must be "auto" or one number for all terms, got '
                    f"alpha={self.alpha!r}"
                )


@functools.cache
def _find_blas():
    return ThreadpoolController()


class _Blocks:
    """Chunks, read again in each pass."""

    def __init__(self, estimator, chunks):
        self._estimator, self._chunks, self._fresh = estimator, chunks, True

    def __iter__(self):
        for number, chunk in enumerate(self._chunks, 1):
            if _num_samples(chunk[0]):
                report(chunk=number)
                yield self._estimator._read(chunk, self._fresh, number)
                self._fresh = False


def _join(basis, pairs, margins):
    """Return the basis with the functions of these pairs."""
    return Basis([*basis.terms, *(PairBasis((j, k), (margins[j], margins[k])) for j, k in pairs)])


def _fit_constant(blocks, totals, family, link):
    """Return the intercept and the deviance of the model with offsets only."""
    rows = Rows(Basis([]), blocks, totals.n_rows, totals.weight, totals.unit)
    start = Start(np.array([link.link(np.float64(totals.mean))]), np.inf)
    fit = fit_linear if link is family.one_step else iterate
    fit = fit(rows, family, link, Smoothing(family.scale), start)
    return fit.solution.coef[0], fit.normal.deviance


def _check_rows(values, name, n_rows, default, at_least=-np.inf):
    if values is None:
        return np.full(n_rows, float(default))
    values = check_array(values, ensure_2d=False, dtype=np.float64, input_name=name)
    if values.shape != (n_rows,):
        raise ValueError(f"{name} must have shape ({n_rows},), got {values.shape}")
    if values.min() < at_least:
        raise ValueError(f"{name} must be at least {at_least}, got {values.min():g}")
    return values
