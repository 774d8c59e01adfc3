"""Inference: standard errors, tests of the terms, and fit statistics."""

from dataclasses import dataclass
from numbers import Real
from typing import NamedTuple

import numpy as np
from scipy import stats
from scipy.linalg import cholesky, solve_triangular
from scipy.linalg.lapack import dpstrf

from gam_model._basis import Basis
from gam_model._mixtures import exceed
from gam_model._normal import Inverse

_CHUNK = 4096
_NO_EFFECT = 1e-8  # relative to the largest variance of an effect: below it is rounding error
_FEW_EFFECTS = 400  # levels of one term up to which eigenvalues are computed
_NO_VARIANCE = 1e-12  # relative to the largest eigenvalue: below it is rounding error


@dataclass(frozen=True, eq=False)
class Posterior:
    """
    The coefficients' distribution given the data: normal, with the penalty as prior.

    b | y ~ N(coef, covariance),  covariance = scale (B'WB + sum_j lambda_j S_j)^-1,
    given the chosen smoothing parameters.

    Parameters
    ----------
    basis : Basis
        The functions of each term.
    coef : ndarray of shape (n_coef,)
        Intercept, then each term's coefficients except those of functions left out.
    covariance : Inverse
        Theirs, on the scale of the link, squared.
    means : ndarray of shape (n_coef,)
        Mean of each function over the training rows; 1 for the intercept.
    extrapolate : str
        How curves go on beyond the training range.

    References
    ----------
    Wood (2017), "Generalized Additive Models", 2nd edition, section 6.10.
    Marra and Wood (2012), "Coverage properties of confidence intervals for generalized additive
    model components", Scandinavian Journal of Statistics 39.
    """

    basis: Basis
    coef: np.ndarray
    covariance: Inverse
    means: np.ndarray
    extrapolate: str

    def variance(self, X):
        """
        Return the variance of eta.

        Parameters
        ----------
        X : ndarray of shape (n_samples, n_features)
            Numbers, as the frozen model reads them.

        Returns
        -------
        ndarray of shape (n_samples,)
            On the scale of the link, squared.
        """
        variance = np.empty(len(X))
        for start in range(0, len(X), _CHUNK):
            rows = slice(start, start + _CHUNK)
            design, codes = self._rows(X[rows])
            spread = np.einsum("ij,ij->i", design @ self.covariance.dense, design)
            variance[rows] = spread + self._overlap(codes, codes)
        return np.maximum(variance, 0.0)

    def covary(self, A, B):
        """
        Return the covariances of eta at paired rows: the variances, and those of the difference.

        Parameters
        ----------
        A, B : ndarray of shape (n_samples, n_features)
            Numbers, as the frozen model reads them.

        Returns
        -------
        ndarray of shape (3, n_samples)
            var(eta_a), var(eta_b) and var(eta_a - eta_b), on the scale of the link, squared. The
            last is worked out from the difference of the rows, so it is 0 where they are equal.
        """
        found = np.empty((3, len(A)))
        for start in range(0, len(A), _CHUNK):
            rows = slice(start, start + _CHUNK)
            (a, i), (b, j) = self._rows(A[rows]), self._rows(B[rows])
            own = self._overlap(i, i), self._overlap(j, j)
            apart = np.where(i == j, 0.0, own[0] + own[1] - 2 * self._overlap(i, j))
            for k, (design, alone) in enumerate(zip((a, b, a - b), (*own, apart), strict=True)):
                spread = np.einsum("ij,ij->i", design @ self.covariance.dense, design)
                found[k, rows] = spread + alone
        return np.maximum(found, 0.0)

    def draw(self, X, n_draws, random):
        """
        Draw how far eta is from its estimate.

        Parameters
        ----------
        X : ndarray of shape (n_samples, n_features)
            Numbers, as the frozen model reads them.
        n_draws : int
            Number of draws.
        random : numpy.random.RandomState
            Draws coefficients of the whole model, so the draws do not depend on `X`.

        Returns
        -------
        ndarray of shape (n_draws, n_samples)
            On the scale of the link, of mean 0; each row is one draw of the coefficients.
        """
        values, axes = np.linalg.eigh(self.covariance.dense)
        root = axes * np.sqrt(np.maximum(values, 0.0))
        dense = random.standard_normal((n_draws, len(root))) @ root.T
        if (
            self.basis.last is not None
        ):  # the levels, then their mean, which stands for unseen ones
            own = random.standard_normal((n_draws, len(self.covariance.own)))
            own *= np.sqrt(self.covariance.own)
            own = np.column_stack([own, own @ self.means[self.basis.n_dense :]])
        drawn = np.empty((n_draws, len(X)))
        for start in range(0, len(X), _CHUNK):
            rows = slice(start, start + _CHUNK)
            design, codes = self._rows(X[rows])
            drawn[:, rows] = dense @ design.T
            if self.basis.last is not None:
                drawn[:, rows] += own[:, codes]
        return drawn

    def term_variance(self, k, x, atoms=True):
        """
        Return the variance of one centred term.

        Parameters
        ----------
        k : int
            Position of the term.
        x : ndarray of shape (n_samples,)
            Values of its feature.
        atoms : bool, default=True
            Whether atoms deviate from the curve; else the variance is that of the curve.

        Returns
        -------
        ndarray of shape (n_samples,)
            On the scale of the link, squared.
        """
        own, dense, alone = self.basis.blocks[k], self.covariance.dense, 0.0
        if k == self.basis.last:
            design, alone = self._centre_levels(x)
        else:
            design, dense = self._design(k, x), dense[own, own]
            if not atoms:
                design[:, np.isin(np.arange(own.start, own.stop), self.basis.marked)] = 0.0
            design -= self.means[own]
        return np.maximum(np.einsum("ij,ij->i", design @ dense, design) + alone, 0.0)

    def feature_variance(self, j, X):
        """
        Return the variance of a feature's contribution: its own term, and half of its pairs.

        Parameters
        ----------
        j : int
            Column of X; it has a term of its own.
        X : ndarray of shape (n_samples, n_features)
            Numbers, as the frozen model reads them.

        Returns
        -------
        ndarray of shape (n_samples,)
            On the scale of the link, squared.
        """
        terms, blocks = self.basis.terms, self.basis.blocks
        own = next(k for k, term in enumerate(terms) if term.feature == j)
        pairs = [
            k for k, term in enumerate(terms) if k != own and j in np.atleast_1d(term.feature)
        ]
        if not pairs:
            return self.term_variance(own, X[:, j])
        design, alone = np.zeros((len(X), self.basis.n_dense)), 0.0
        for k in pairs:
            centred = self._design(k, X[:, terms[k].feature]) - self.means[blocks[k]]
            design[:, blocks[k]] = centred / 2
        if own == self.basis.last:
            shift, alone = self._centre_levels(X[:, j])
            design += shift
        else:
            design[:, blocks[own]] = self._design(own, X[:, j]) - self.means[blocks[own]]
        spread = np.einsum("ij,ij->i", design @ self.covariance.dense, design)
        return np.maximum(spread + alone, 0.0)

    def intercept_variance(self):
        """Return the variance of the mean eta over the training rows."""
        design, alone = self.means[: self.basis.n_dense], 0.0
        if self.basis.last is not None:
            mean, alone = self._mean_level()
            design = design - mean
        return float(design @ self.covariance.dense @ design + alone)

    def _rows(self, X):
        """Return the dense part of each row, less the shift of its level, and its level or -1."""
        terms, last = self.basis.terms, self.basis.last
        design = np.ones((len(X), self.basis.n_dense))
        for k, term in enumerate(terms):
            if k != last:
                design[:, self.basis.blocks[k]] = self._design(k, X[:, term.feature])
        if last is None:
            return design, np.full(len(X), -1)
        x = X[:, terms[last].feature]
        return design - self._at_levels(x)[0], self._codes(x)

    def _overlap(self, i, j):
        """Return the covariance that levels i and j have of their own; -1 is the mean of all."""
        if self.basis.last is None:
            return np.zeros(len(i))
        own, (_, off) = self.covariance.own, self._mean_level()
        with_mean = own * self.means[self.basis.n_dense :]
        seen = np.where(i == j, own[i], 0.0)
        mixed = np.where(i < 0, np.where(j < 0, off, with_mean[j]), with_mean[i])
        return np.where((i >= 0) & (j >= 0), seen, mixed)

    def _design(self, k, x):
        term = self.basis.terms[k]
        mean = np.append(np.zeros(term.left_out), self.means[self.basis.blocks[k]])
        return term.design(x, self.extrapolate, mean)[:, term.left_out :]

    def _codes(self, x):
        term = self.basis.terms[self.basis.last]
        codes = np.where(np.isnan(x), term.n_levels if term.missing else -1, x).astype(int)
        return np.where(codes < term.size, codes, -1)

    def _at_levels(self, x):
        """Return the shift and the variance of their own of the levels; the mean if unseen."""
        codes, (mean, off) = self._codes(x), self._mean_level()
        shift = np.where(codes[:, None] >= 0, self.covariance.shift[codes], mean)
        return shift, np.where(codes >= 0, self.covariance.own[codes], off)

    def _centre_levels(self, x):
        """Return what `_at_levels` does, less the mean over all levels, its sign turned."""
        shift, alone = self._at_levels(x)
        mean, off = self._mean_level()
        known = self._codes(x)
        twice = 2 * self.covariance.own * self.means[self.basis.n_dense :]
        return mean - shift, np.where(known >= 0, alone + off - twice[known], 0.0)

    def _mean_level(self):
        means = self.means[self.basis.n_dense :]
        return means @ self.covariance.shift, float(self.covariance.own @ means**2)


class TermTest(NamedTuple):
    """Test of one term: reference df, statistic (an F, or chi-square) and p-value."""

    ref_df: float
    statistic: float
    p_value: float


def check_term(coef, covariance, gram, ref_df, residual_df):
    """
    Test whether a term is zero.

    T = f' V^(r-) f, with f the term at the training rows and V its covariance, of which only the
    r = `ref_df` largest directions count; a fractional r shares a 2 x 2 block between two of them.
    With known scale T is compared with chi-square of r degrees of freedom, else T / r with F.

    Parameters
    ----------
    coef : ndarray of shape (k,)
        Coefficients of the term.
    covariance : ndarray of shape (k, k)
        Theirs.
    gram : ndarray of shape (k, k)
        Cross-products of the term's centred functions over the training rows.
    ref_df : float
        2 tr(F) - tr(F F), with F the term's block of the influence of y on the coefficients.
    residual_df : float or None
        Degrees of freedom left for the scale; None if it is known.

    Returns
    -------
    TermTest

    References
    ----------
    Wood (2013), "On p-values for smooth components of an extended generalized additive model",
    Biometrika 100(1), section 2.
    """
    values, axes = np.linalg.eigh(gram)
    root = np.sqrt(np.maximum(values, 0.0))[:, None] * axes.T  # root' root = gram
    curve = root @ coef
    values, axes = np.linalg.eigh(root @ covariance @ root.T)
    order = np.argsort(values)[::-1]
    values, axes = values[order], axes[:, order]
    rank = int((values > _NO_VARIANCE * values[0]).sum()) if values[0] > 0 else 0
    r = min(max(ref_df, 1.0), float(rank))
    if not r:
        return TermTest(0.0, np.nan, np.nan)
    z = (axes.T @ curve)[:rank] / np.sqrt(values[:rank])
    whole, part = int(r), r - int(r)
    if part < 1e-8 or whole == rank:
        statistics = [float(z[:whole] @ z[:whole])]
    else:
        fixed, (a, b) = float(z[: whole - 1] @ z[: whole - 1]), z[whole - 1 : whole + 1]
        rho = np.sqrt(part * (1 - part) / 2)
        # The sign of an axis, and so of rho, is arbitrary: average over both.
        statistics = [fixed + a * a + part * b * b + 2 * s * rho * a * b for s in (-1, 1)]
    if residual_df is None:
        p_value = np.mean([stats.chi2.sf(t, r) for t in statistics])
        return TermTest(r, float(np.mean(statistics)), float(p_value))
    p_value = np.mean([stats.f.sf(t / r, r, residual_df) for t in statistics])
    return TermTest(r, float(np.mean(statistics)) / r, float(p_value))


def check_effects(gram, inverse, penalty, random, block, coef, scale, residual_df):
    """
    Test whether the effects of a fully penalised term are zero, that is, have no variance.

    T = b' A^-1 b / scale, with b the effects and A their block of (B'WB + S)^-1: twice what the
    penalised log-likelihood loses without the term. If the effects are zero, T is a sum of
    chi-squared variables, weighted by the eigenvalues of A^-1 V / scale, where V is the
    frequentist covariance of b over repetitions in which the effects of the other fully penalised
    terms are drawn anew, too. An estimated scale adds an independent chi-square of its degrees of
    freedom, divided by them, as denominator.

    Parameters
    ----------
    gram : ndarray of shape (n_coef, n_coef)
        B'WB of all coefficients.
    inverse : ndarray of shape (n_coef, n_coef)
        (gram + diag(penalty))^-1, or the pseudo-inverse.
    penalty : ndarray of shape (n_coef,)
        The penalty's diagonal.
    random : ndarray of shape (n_coef,), bool
        Which coefficients belong to fully penalised terms, the block's included.
    block : slice
        The effects to test.
    coef : ndarray of shape (n_coef,)
        All coefficients.
    scale : float
        The scale, or its estimate.
    residual_df : float or None
        Degrees of freedom left for the scale; None if it is known.

    Returns
    -------
    TermTest
        `ref_df` is the rank of V; `statistic` is T, or T / ref_df where the scale is estimated.

    Notes
    -----
    For more than 400 effects the eigenvalues are not worked out: a multiple of one chi-square,
    shifted, that has the sum's mean, variance and skewness stands in for it.

    References
    ----------
    Wood (2013), "A simple test for random effects in regression models", Biometrika 100(4).
    Liu, Tang and Zhang (2009), "A new chi-square approximation to the distribution of
    non-negative definite quadratic forms in non-central normal variables", Computational
    Statistics & Data Analysis 53(4).
    """
    others = random.copy()
    others[block] = False
    reach = inverse[block, others]
    # inverse gram inverse, with S the penalty, and of each other effect (inverse_bj S_j)^2 / S_j
    variance = inverse[block] @ gram @ inverse[:, block] + (reach * penalty[others]) @ reach.T
    size = np.sqrt(inverse.diagonal()[block])
    scaled = inverse[block, block] / np.outer(size, size)
    scaled += 4 * len(size) * np.finfo(float).eps * np.eye(len(size))  # for pseudo-inverses
    root = cholesky(scaled, lower=True)
    effects = solve_triangular(root, coef[block] / size, lower=True)
    half = solve_triangular(root, variance / np.outer(size, size), lower=True)
    variance = solve_triangular(root, half.T, lower=True)
    rank = dpstrf(variance, tol=_NO_EFFECT * variance.diagonal().max())[2]
    if not rank:
        return TermTest(0.0, np.nan, np.nan)
    statistic = float(effects @ effects) / scale
    if len(variance) <= _FEW_EFFECTS:
        weights = np.maximum(np.linalg.eigvalsh(variance), 0.0)
        return _compare(statistic, float(rank), weights, np.ones(len(weights)), 0.0, residual_df)
    square = variance @ variance
    traces = variance.trace(), square.trace(), np.sum(square * variance)
    return _compare(statistic, float(rank), *_match(*traces), residual_df)


def check_levels(fit, k, scale, residual_df):
    """
    Test whether the effects of a categorical column are zero.

    Parameters
    ----------
    fit : Fit
        The fit, at its end.
    k : int
        Position of the column's term.
    scale, residual_df : float
        As in `check_effects`.

    Returns
    -------
    TermTest
        As that of `check_effects`. Of the column that the solver treats apart, with more than 400
        levels, the weights are taken for its edf, level by level.
    """
    basis, gram, inverse = fit.basis, fit.normal.gram, fit.solution.inverse
    coef, penalty, n = fit.solution.coef, basis.penalize(fit.weights), basis.n_dense
    random = np.zeros(len(coef), dtype=bool)
    for term, block in zip(basis.terms, basis.blocks, strict=True):
        random[block] = term.is_random
    block, levels = basis.blocks[k], slice(n, None)
    if k == basis.last and len(gram.own) > _FEW_EFFECTS:
        effects, others = coef[levels], gram.cross.T @ coef[levels]
        taken = np.linalg.lstsq(gram.dense + np.diag(penalty[:n]), others, rcond=None)[0]
        statistic = (gram.own + penalty[levels]) @ effects**2 - others @ taken
        weights = np.clip(1 - penalty[levels] * inverse.diagonal()[levels], 0.0, 1.0)
        traces = (np.sum(weights**power) for power in (1, 2, 3))
        rank = len(effects) - 1.0  # what all levels have in common is the intercept's
        return _compare(float(statistic) / scale, rank, *_match(*traces), residual_df)
    if k == basis.last:
        gram, inverse = gram.fill(), inverse.fill()
    else:  # the effects of the column apart are part of the noise
        shift = gram.cross / (gram.own + penalty[levels])[:, None]
        gram, inverse = gram.dense - gram.cross.T @ shift, inverse.dense
        penalty, random, coef = penalty[:n], random[:n], coef[:n]
    return check_effects(gram, inverse, penalty, random, block, coef, scale, residual_df)


def check_fit(fit, penalty, scale, residual_df):
    """
    Test each term of a fit.

    Parameters
    ----------
    fit : Fit
        The fit, at its end.
    penalty : ndarray of shape (n_coef,)
        The penalty's diagonal, as far as it counts as one.
    scale : float
        The scale, or its estimate.
    residual_df : float or None
        Degrees of freedom left for the scale; None if it is known.

    Returns
    -------
    list of TermTest
        One for each term of the basis.
    """
    basis, (coef, inverse, determined, _) = fit.basis, fit.solution
    coef, rotation = basis.rotate(coef), basis.rotation
    ref_df = 2 * (determined - penalty * inverse.diagonal()) - (
        determined - 2 * penalty * inverse.diagonal() + penalty * inverse.sandwich(penalty)
    )
    covariance = rotation @ (scale * inverse.dense) @ rotation.T
    gram = rotation @ fit.normal.gram.dense @ rotation.T
    gram = gram - np.outer(gram[0], gram[0]) / gram[0, 0]
    return [
        check_levels(fit, k, scale, residual_df)
        if term.is_random
        else check_term(
            coef[block],
            covariance[block, block],
            gram[block, block],
            float(ref_df[block].sum()),
            residual_df,
        )
        for k, (term, block) in enumerate(zip(basis.terms, basis.blocks, strict=True))
    ]


def _match(one, two, three):
    """Return weight, df and shift of a chi-square, from the sums of powers of the weights."""
    if not three > 0:
        return np.zeros(1), np.ones(1), one
    return np.array([three / two]), np.array([two**3 / three**2]), one - two**2 / three


def _compare(statistic, rank, weights, df, shift, residual_df):
    """Return the test of a statistic by a shifted sum of chi-squared variables."""
    if not weights.max() > 0:
        return TermTest(0.0, np.nan, np.nan)
    if residual_df is None:
        return TermTest(rank, statistic, exceed(statistic - shift, weights, df))
    weights, df = np.append(weights, -statistic / residual_df), np.append(df, residual_df)
    return TermTest(rank, statistic / rank, exceed(-shift, weights, df))


class Statistics(NamedTuple):
    """
    Figures of merit of a fit.

    n_rows is the sum of the weights; edf counts the intercept; residual_df = n_rows - edf;
    explained = 1 - deviance / null_deviance; AIC = -2 log_likelihood + 2 (edf + estimates beside
    the mean, as the scale is), at scale deviance / n_rows or what the family has learned;
    GCV = n_rows deviance / (n_rows - edf)^2.
    """

    n_rows: float
    edf: float
    residual_df: float
    scale: float
    deviance: float
    null_deviance: float
    explained: float
    log_likelihood: float
    aic: float
    gcv: float


def summarize(family, n_rows, edf, scale, deviance, null_deviance, log_base):
    """
    Compute the fit statistics.

    deviance explained = 1 - deviance / null deviance
    AIC = -2 log-likelihood + 2 (edf + number of estimates beside the mean, as the scale is)
    at scale deviance / n_rows, or what the family has learned
    GCV = n_rows deviance / (n_rows - edf)^2

    Parameters
    ----------
    family : Family
        Distribution of the response.
    n_rows : float
        Number of rows.
    edf : float
        Effective degrees of freedom of the model, the intercept's included.
    scale : float
        The family's scale, or its estimate.
    deviance, null_deviance : float
        Of the model, and of the intercept alone.
    log_base : float
        Sum of the family's `log_base`.

    Returns
    -------
    Statistics

    References
    ----------
    Wood (2017), "Generalized Additive Models", 2nd edition, sections 3.1.6, 6.2.3 and 6.11.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        maximal = family.scale or np.float64(deviance) / n_rows
        log_likelihood = log_base + n_rows * family.log_scale(maximal) - deviance / maximal / 2
    left = n_rows - edf
    return Statistics(
        n_rows=n_rows,
        edf=edf,
        residual_df=left,
        scale=scale,
        deviance=deviance,
        null_deviance=null_deviance,
        explained=1 - deviance / null_deviance if null_deviance > 0 else np.nan,
        log_likelihood=float(log_likelihood),
        aic=float(2 * (edf + family.n_estimated) - 2 * log_likelihood),
        gcv=n_rows * deviance / left**2 if left > 0 else np.nan,
    )


def normal_quantile(coverage):
    """
    Return how many standard errors to either side an interval of this probability takes.

    Raises
    ------
    ValueError
        If coverage is not a probability.
    """
    if isinstance(coverage, bool) or not isinstance(coverage, Real) or not 0 < coverage < 1:
        raise ValueError(f"coverage must be a number between 0 and 1, got coverage={coverage!r}")
    return stats.norm.ppf((1 + coverage) / 2)


def response_interval(family, link, eta, variance, scale, coverage):
    """
    Return the prediction interval of a new response.

    The family's own distribution is widened to the variance V(mu) scale + var(mu): normal; for
    counts the negative binomial, for gamma a gamma of lower shape.

    Parameters
    ----------
    family : Family
        Distribution of the response.
    link : Link
        Its link.
    eta, variance : ndarray of shape (n_samples,)
        Estimate on the scale of the link, and how uncertain it is.
    scale : float
        The family's scale.
    coverage : float
        Probability.

    Returns
    -------
    ndarray of shape (n_samples, 2)
        Lower and upper end, in the units of y; NaN where no quantile can be worked out.

    Raises
    ------
    ValueError
        If single responses are 0 or 1, or have no distribution.
    """
    if family.quantile is None:
        why = "is 0 or 1" if family.two_outcomes else "has no distribution, only mean and variance"
        raise ValueError(
            f'a single response of family="{family.name}" {why}; use kind="confidence" for '
            f"the interval of its {'probability' if family.two_outcomes else 'mean'}"
        )
    tails, mu = np.array([(1 - coverage) / 2, (1 + coverage) / 2]), link.inverse(eta)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        variance = variance / link.derivative(mu) ** 2
        return family.quantile(tails, mu[:, None], variance[:, None], scale)
