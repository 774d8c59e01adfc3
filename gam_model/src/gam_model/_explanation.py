"""What a fitted estimator says of itself: contributions, curves, intervals, tables."""

from numbers import Integral

import numpy as np
from scipy import stats
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from gam_model._columns import list_columns
from gam_model._families import find_family
from gam_model._inference import normal_quantile, response_interval
from gam_model._links import LINKS
from gam_model._optional import load
from gam_model._terms import LevelTerm, SmoothTerm
from gam_model.dates import from_days

SCALES = ("link", "response")
KINDS = ("confidence", "prediction")


class ExplanationMixin:
    """Explanations of an estimator with the attributes that `AdditiveEstimator` learns."""

    def contributions(self, X):
        """
        Split each prediction into the contributions of the features, which are its SHAP values.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Features.

        Returns
        -------
        ndarray of shape (n_samples, n_features), float64
            f_j(x_ij), and half of what the feature does in each pair, on the scale of the link, of
            mean 0 over the training rows; `intercept_` plus the sum of a row is its eta.

        Raises
        ------
        ValueError
            If `X` is not what `fit` saw, or leaves the training range and extrapolate="error".
        """
        X = self._validate(X)
        return self.terms_.contributions(X)

    def interaction_contributions(self, X):
        """
        Evaluate what features contribute in pairs, beyond what each does alone.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Features.

        Returns
        -------
        ndarray of shape (n_samples, n_pairs), float64
            f_jk(x_ij, x_ik) of each pair of `interactions_`, on the scale of the link, of mean 0
            over the training rows. Its average over the training values of either feature, all
            combined with all, does not depend on the other: no effect of one feature hides in it.
            `contributions` has half of it in either feature; without these halves, a feature's
            own curve is left.

        Raises
        ------
        ValueError
            If `X` is not what `fit` saw, or leaves the training range and extrapolate="error".

        References
        ----------
        Hooker (2007), "Generalized functional ANOVA diagnostics for high-dimensional functions of
        dependent variables", Journal of Computational and Graphical Statistics 16(3).
        """
        X = self._validate(X)
        if self.extrapolate == "error":
            self.terms_.eta(X)  # which refuses what pairs alone would not
        return self.terms_.interaction_contributions(X)

    def explain(self, X, coverage=0.95, offset=None):
        """
        Explain one prediction.

        Parameters
        ----------
        X : array-like of shape (1, n_features)
            One row.
        coverage : float, default=0.95
            Probability of the intervals.
        offset : float or array-like of shape (1,), optional
            As in `predict`.

        Returns
        -------
        pandas.DataFrame
            Columns value, contribution, lower and upper, on the scale of the link. First the
            intercept, then the features, the largest contribution first, then the offset, if one
            is given, and their sum, eta.

        Raises
        ------
        ValueError
            If `X` is not one row of what `fit` saw.
        """
        pd = load("pandas", "explain() needs", "tables")

        read, z = self._validate(X), normal_quantile(coverage)
        if len(read) != 1:
            raise ValueError(f"explain takes one row, got {len(read)}")
        shift = self._read_offset(offset, 1)
        contributions = self.terms_.contributions(read)[0]
        values, errors = read[0].tolist(), np.zeros(len(contributions))
        columns, _ = list_columns(X)
        for j in [*self._features.levels, *self._features.left_out]:
            values[j] = columns[j].cells()[0]
        for j, unit in self._features.units.items():
            values[j] = _from_days(values[j], unit)
        for term in self.terms_.terms:
            errors[term.feature] = self._posterior.feature_variance(term.feature, read)[0] ** 0.5
        order = np.argsort(-abs(contributions), kind="stable")
        rows = [
            ("intercept", None, self.intercept_, self._posterior.intercept_variance() ** 0.5),
            *((self._names()[j], values[j], contributions[j], errors[j]) for j in order),
            *([] if shift is None else [("offset", None, shift[0], 0.0)]),
            (
                "eta",
                None,
                self.terms_.eta(read, shift)[0],
                self._posterior.variance(read)[0] ** 0.5,
            ),
        ]
        names, values, estimate, error = zip(*rows, strict=True)
        return pd.DataFrame(
            {
                "value": list(values),
                "contribution": estimate,
                "lower": estimate - z * np.array(error),
                "upper": estimate + z * np.array(error),
            },
            index=pd.Index(names, name="term"),
        )

    def terms(self, n_points=100, coverage=0.95):
        """
        Return the curves, each over its training range, with pointwise bands.

        Parameters
        ----------
        n_points : int, default=100
            Number of points, evenly spaced, of a smooth term of many values.
        coverage : float, default=0.95
            Probability of the bands, as an average over the curve.

        Returns
        -------
        dict of str to pandas.DataFrame
            By feature: columns x (values, dates in UTC, durations or levels), contribution, lower
            and upper, on the scale of the link. A column of few distinct values has a row for
            each, and so has each value that deviates from its curve. If cells were missing in
            training, the last row is theirs: its x is NaN, NaT among dates, or None among levels.
        """
        pd = load("pandas", "terms() needs", "tables")

        check_is_fitted(self)
        z, curves = normal_quantile(coverage), {}
        for k, term in enumerate(self.terms_.terms):
            if isinstance(term, LevelTerm):
                x, shown = np.arange(float(len(term.levels))), list(term.levels)
            else:
                low, high = term.range
                basis = self._posterior.basis.terms[k]
                few = basis.values is not None
                x = basis.values if few else np.linspace(low, high, n_points)
                x = np.union1d(x, basis.atoms)
                shown = x.tolist()
            if term.missing is not None:
                x = np.append(x, np.nan)
                shown.append(None if isinstance(term, LevelTerm) else np.nan)
            if getattr(term, "unit", None):
                shown = from_days(shown, term.unit)
            estimate, error = term(x), np.sqrt(self._posterior.term_variance(k, x))
            curves[term.name] = pd.DataFrame(
                {
                    "x": shown,
                    "contribution": estimate,
                    "lower": estimate - z * error,
                    "upper": estimate + z * error,
                }
            )
        return curves

    def predict_interval(self, X, coverage=0.95, kind="confidence", offset=None):
        """
        Return the interval of each prediction.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Features.
        coverage : float, default=0.95
            Probability, as an average over rows.
        kind : {"confidence", "prediction"}, default="confidence"
            Of the mean mu, or of a new response; the latter holds the former.
        offset : float or array-like of shape (n_samples,), optional
            As in `predict`.

        Returns
        -------
        ndarray of shape (n_samples, 2), float64
            Lower and upper end, in the units of y; for a classifier, of the probability of
            `classes_[1]`. The prediction lies between them. The upper end is infinite where a
            mean beyond all bounds can't be excluded, as near the pole of the inverse link.

        Raises
        ------
        ValueError
            As `predict`, or if `coverage` is not a probability, or a single response is asked of
            two classes.

        References
        ----------
        Wood (2017), "Generalized Additive Models", 2nd edition, section 6.10.
        """
        if kind not in KINDS:
            raise ValueError(f"kind must be one of {KINDS}, got kind={kind!r}")
        read, z = self._validate(X), normal_quantile(coverage)
        shift = self._read_offset(offset, len(read))
        link, family = LINKS[self.terms_.link], find_family(self._family)[0]
        mu, eta = self.terms_.predict(read, shift), self.terms_.eta(read, shift)
        variance = self._posterior.variance(read)
        ends = link.bracket(eta - z * np.sqrt(variance), eta + z * np.sqrt(variance))
        if kind == "prediction":
            wide = response_interval(family, link, eta, variance, self.scale_, coverage)
            ends = np.column_stack([np.fmin(wide, ends)[:, 0], np.fmax(wide, ends)[:, 1]])
        # But for rounding, the prediction is between them anyway.
        return np.column_stack([np.minimum(ends[:, 0], mu), np.maximum(ends[:, 1], mu)])

    def predict_difference(self, a, b, coverage=0.95, kind="link", offset=None):
        """
        Compare the predictions of paired rows, with the interval of their difference.

        What two rows have in common cancels, its uncertainty included, so the interval is most
        often much narrower than the intervals of the two predictions suggest.

        Parameters
        ----------
        a : array-like of shape (n_samples, n_features)
            Features.
        b : array-like of shape (n_samples, n_features) or (1, n_features)
            Features of the rows to compare with; one row is compared with each of `a`.
        coverage : float, default=0.95
            Probability, as an average over rows.
        kind : {"link", "response"}, default="link"
            Of eta, or of the mean mu.
        offset : float or array-like of shape (n_samples,), optional
            As in `predict`, of either row. It cancels in a difference of eta.

        Returns
        -------
        ndarray of shape (n_samples, 3), float64
            Difference, a less b, and its lower and upper end. With kind="link" on the scale of the
            link: exp of a row is a ratio of means with the log link, and an odds ratio with logit.
            With kind="response" in the units of y, or a difference of probabilities of
            `classes_[1]`.

        Raises
        ------
        ValueError
            As `predict`, or if `a` and `b` are not as many rows, `coverage` is not a probability,
            or `kind` is none of these.

        Notes
        -----
        (d_a - d_b)' V (d_a - d_b) is the variance of the difference of eta, with d the functions
        of a row and V the coefficients' covariance: no approximation given that they are normal.
        The difference of mu has (m_a d_a - m_b d_b)' V (m_a d_a - m_b d_b) to first order, with
        m = dmu/deta (delta method). V is that of the fit without the constraints of
        `monotonic_cst` and `convex_cst`.

        References
        ----------
        Wood (2017), "Generalized Additive Models", 2nd edition, sections 6.10 and 7.2.6.
        """
        if kind not in SCALES:
            raise ValueError(f"kind must be one of {SCALES}, got kind={kind!r}")
        z, a, b = normal_quantile(coverage), self._validate(a), self._validate(b)
        if len(b) not in (1, len(a)):
            raise ValueError(
                f"a and b are compared row by row, but have {len(a)} and {len(b)} rows; give as "
                "many, or one row as b"
            )
        b = np.broadcast_to(b, a.shape)
        shift = self._read_offset(offset, len(a))
        eta = np.array([self.terms_.eta(rows, shift) for rows in (a, b)])
        of_a, of_b, variance = self._posterior.covary(a, b)
        if kind == "link":
            # Without the offset, which would only add rounding error.
            difference = self.terms_.eta(a) - self.terms_.eta(b)
        else:
            link = LINKS[self.terms_.link]
            mu = link.inverse(eta)
            difference = mu[0] - mu[1]
            with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
                slope = 1 / link.derivative(mu)
                # m_a^2 V_a + m_b^2 V_b - 2 m_a m_b C, with 2 C = V_a + V_b - variance
                steeper = slope[0] - slope[1]
                variance = steeper * (slope[0] * of_a - slope[1] * of_b) + (
                    slope[0] * slope[1] * variance
                )
        half = z * np.sqrt(np.maximum(variance, 0.0))
        ends = np.column_stack([difference, difference - half, difference + half])
        if kind == "response" and find_family(self._family)[0].two_outcomes:
            ends = np.clip(ends, -1.0, 1.0)
        return ends

    def sample_posterior(self, X, n_draws=100, random_state=None, offset=None):
        """
        Draw predictions that the data leave possible.

        Each draw takes coefficients from their distribution given the data, N(beta, V), and
        evaluates eta at all rows with them: quantiles over draws of anything worked out from a
        draw (a maximum, a sum over rows, a ratio) are its interval.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Features.
        n_draws : int, default=100
            Number of draws.
        random_state : int, numpy.random.RandomState or None, default=None
            Random numbers; with the same int, other rows get the same draws of the curves.
        offset : float or array-like of shape (n_samples,), optional
            As in `predict`.

        Returns
        -------
        ndarray of shape (n_draws, n_samples), float64
            eta, on the scale of the link.

        Raises
        ------
        ValueError
            As `predict`, or if `n_draws` is not a positive integer.

        Notes
        -----
        Smoothing parameters and the scale are taken as known. Curves of `monotonic_cst` and
        `convex_cst` are drawn from the distribution without the constraints, centred at the
        constrained estimate: the draws vary as much as the bands say, but may break the shape.

        References
        ----------
        Wood (2017), "Generalized Additive Models", 2nd edition, section 7.2.7.
        """
        if isinstance(n_draws, bool) or not isinstance(n_draws, Integral) or n_draws < 1:
            raise ValueError(f"n_draws must be a positive integer, got n_draws={n_draws!r}")
        X = self._validate(X)
        eta = self.terms_.eta(X, self._read_offset(offset, len(X)))
        return eta + self._posterior.draw(X, int(n_draws), check_random_state(random_state))

    def summary_frame(self):
        """
        Describe the terms.

        Returns
        -------
        pandas.DataFrame
            By feature: edf, effective degrees of freedom (1 is a straight line); ref_df,
            statistic (F, or chi-square where the scale is known) and p_value of the hypothesis
            that the term is zero; alpha; importance, the mean size of the contribution. A feature
            without a term has NaN. Below the features, the same of each pair, "a & b", with the
            first of its smoothing parameters; the importance of a feature includes its halves of
            pairs.

        Notes
        -----
        A curve is tested after Wood (2013a), a term whose effects are all penalised, such as that
        of a categorical column, as a random effect, after Wood (2013b).

        The p-values of curves hold for smoothing parameters that were given. Chosen from the same
        data, they make them somewhat too small.

        References
        ----------
        Wood (2013a), "On p-values for smooth components of an extended generalized additive
        model", Biometrika 100(1).
        Wood (2013b), "A simple test for random effects in regression models", Biometrika 100(4).
        """
        pd = load("pandas", "summary_frame() needs", "tables")

        check_is_fitted(self)
        tests = np.full((self.n_features_in_, 3), np.nan)
        for term, test in zip(self.terms_.terms, self._tests, strict=False):
            tests[term.feature] = test
        frame = pd.DataFrame(
            {
                "edf": self.edf_,
                "ref_df": tests[:, 0],
                "statistic": tests[:, 1],
                "p_value": tests[:, 2],
                "alpha": self.alpha_,
                "importance": self.feature_importances_,
            },
            index=pd.Index(self._names(), name="term"),
        )
        for pair, (*figures, weights, size) in zip(self.terms_.pairs, self._pairs, strict=True):
            alpha = weights[0] / 2 if len(weights) else np.nan
            frame.loc[pair.name] = [*figures, alpha, size]
        return frame

    def summary(self):
        """
        Describe the fit.

        Returns
        -------
        statsmodels.iolib.summary.Summary
            Prints as text and shows as HTML in a notebook: figures of merit, the intercept, and
            the table of `summary_frame`.
        """
        Summary = load("statsmodels.iolib.summary", "summary() needs", "statsmodels").Summary
        from statsmodels.iolib.table import SimpleTable
        from statsmodels.iolib.tableformatting import fmt_2cols, fmt_params

        frame, statistics = self.summary_frame(), self.statistics_
        left = [
            ("Model:", type(self).__name__),
            ("Family:", self._family),
            ("Link:", self.terms_.link),
            ("Solver:", self.solver),
            ("Smoothing:", self.criterion if isinstance(self.alpha, (str, dict)) else "given"),
            ("No. Observations:", f"{statistics.n_rows:.10g}"),
            ("Effective df:", f"{statistics.edf:.2f}"),
        ]
        right = [
            ("Deviance explained:", f"{100 * statistics.explained:.1f} %"),
            ("Deviance:", f"{statistics.deviance:.6g}"),
            ("Scale:", f"{statistics.scale:.6g}"),
            ("Log-Likelihood:", f"{statistics.log_likelihood:.6g}"),
            ("AIC:", f"{statistics.aic:.6g}"),
            ("GCV:", f"{statistics.gcv:.6g}"),
            ("Residual df:", f"{statistics.residual_df:.2f}"),
        ]
        error = self._posterior.intercept_variance() ** 0.5
        known = not find_family(self._family)[0].estimates_scale
        distribution = stats.norm if known else stats.t(max(statistics.residual_df, 1.0))
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.float64(self.intercept_) / error
        z = distribution.ppf(0.975)
        p_value = 2 * distribution.sf(abs(ratio))
        ends = self.intercept_ - z * error, self.intercept_ + z * error
        letter = "z" if known else "t"

        summary = Summary()
        figures = [
            SimpleTable(
                [[value] for _, value in side],
                stubs=[name for name, _ in side],
                title=title,
                txt_fmt=fmt_2cols,
            )
            for side, title in ((left, "Additive model"), (right, None))
        ]
        figures[0].extend_right(figures[1])
        summary.tables.append(figures[0])
        summary.tables.append(
            SimpleTable(
                [
                    [
                        *map(_show, (self.intercept_, error, ratio)),
                        f"{p_value:.3f}",
                        *map(_show, ends),
                    ]
                ],
                headers=["coef", "std err", letter, f"P>|{letter}|", "[0.025", "0.975]"],
                stubs=["intercept"],
                txt_fmt=fmt_params,
            )
        )
        test = "chi2" if known else "F"
        summary.tables.append(
            SimpleTable(
                [
                    [*map(_show, row[:3]), f"{row[3]:.3f}", *map(_show, row[4:])]
                    for row in frame.to_numpy()
                ],
                headers=["edf", "ref df", test, f"P>{test}", "alpha", "importance"],
                stubs=[str(name) for name in frame.index],
                txt_fmt=fmt_params,
            )
        )
        scales = [
            term.warp.describe(term.name)
            for term in self.terms_.terms
            if isinstance(term, SmoothTerm) and term.warp is not None
        ]
        if scales:
            summary.add_extra_txt(["Smooth on a scale of their own:", *scales])
        return summary


def _from_days(days, unit):
    pd = load("pandas", "terms() needs", "tables")

    kind = pd.Timestamp if unit == "date" else pd.Timedelta
    return kind(from_days(days, unit)[()])


def _show(value):
    if value == 0 or 1e-3 <= abs(value) < 1e5 or np.isnan(value):
        return f"{value:.3f}"
    return f"{value:.3g}"
