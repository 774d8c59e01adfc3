"""scikit-learn's face of the additive model, fitted by statsmodels."""

import warnings
from numbers import Integral, Real

import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from gam_model._basis import place_knots
from gam_model._terms import AdditiveModel, SmoothTerm

EXTRAPOLATIONS = ("linear", "constant", "error")


class GAMRegressor(RegressorMixin, BaseEstimator):
    """
    Additive model of one penalised B-spline per feature, for a numeric response.

    The prediction is eta(x) = b_0 + sum_j B_j(x_j) b_j, and `fit` minimises, with statsmodels'
    factor 2,

        sum_i (y_i - eta(x_i))^2 + 2 alpha sum_j b_j' S_j b_j,    S_j = integral B_j'' B_j''^T

    The fitted curves are then centred, f_j = B_j b_j - mean_i B_j(x_ij) b_j, which leaves eta as
    it is and makes f_j(x_j) the exact (interventional) SHAP value of feature j.

    Parameters
    ----------
    df : int, default=15
        Number of B-splines of each term at most, at least degree + 1. A column with ties, or with
        fewer distinct values than `df`, gets fewer; a constant column gets no term.
    alpha : float, default=1.0
        Weight of the roughness penalty, positive, with the meaning that it has in statsmodels: it
        depends on the units of X (a feature multiplied by 10 asks for 1000 times the alpha) and
        on the number of rows.
    degree : int, default=3
        Degree of the splines, 2 to 5. statsmodels integrates S_j exactly for degree 3, and to
        some per cent for the others.
    extrapolate : {"linear", "constant", "error"}, default="linear"
        How a curve goes on outside its training range: along its tangent, level, or not at all.
        "error" lets through what lies outside by the rounding of float32 only.

    Attributes
    ----------
    intercept_ : float
        Mean prediction over the training rows, in the units of y.
    terms_ : AdditiveModel
        The fitted model, frozen into knots and coefficients; its `predict` and `contributions`
        skip scikit-learn's validation.
    n_features_in_ : int
        Number of features seen by `fit`.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the features, if X had names that are all strings.

    Notes
    -----
    Columns that repeat one another share one effect; their sum is determined, their shares in it
    are not.

    References
    ----------
    Eilers and Marx (1996), "Flexible smoothing with B-splines and penalties",
    Statistical Science 11(2).
    Wood (2017), "Generalized Additive Models", 2nd edition, sections 4.2 and 5.3.

    Examples
    --------
    >>> import numpy as np
    >>> from gam_model import GAMRegressor
    >>> x = np.linspace(0, 6, 50)
    >>> X = np.column_stack([x, x[::-1] % 2])
    >>> gam = GAMRegressor(df=10, alpha=0.01).fit(X, np.sin(X[:, 0]) + X[:, 1] ** 2)
    >>> gam.predict([[1.5, 0.5]]).round(2)
    array([1.26])
    >>> gam.contributions([[1.5, 0.5]]).round(2)
    array([[ 0.99, -1.  ]])
    """

    def __init__(self, df=15, alpha=1.0, degree=3, extrapolate="linear"):
        self.df = df
        self.alpha = alpha
        self.degree = degree
        self.extrapolate = extrapolate

    def fit(self, X, y):
        """
        Fit the curves by penalised least squares.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Features, finite.
        y : array-like of shape (n_samples,)
            Response, finite.

        Returns
        -------
        GAMRegressor
            Itself.

        Raises
        ------
        ValueError
            If a parameter is out of bounds, or X or y are not finite numbers of matching shapes.
        """
        self._check_parameters()
        X, y = validate_data(self, X, y, dtype=np.float64, y_numeric=True)
        y = y.astype(np.float64, copy=False)
        names = getattr(self, "feature_names_in_", [f"x{j}" for j in range(X.shape[1])])
        knots = {
            j: t
            for j, x in enumerate(X.T)
            if (t := place_knots(x, self.df, self.degree)) is not None
        }
        if knots:
            self.intercept_, curves, self._summary = _fit_glmgam(
                X[:, list(knots)],
                y,
                knots=list(knots.values()),
                degree=int(self.degree),
                alpha=float(self.alpha),
                names=[str(names[j]) for j in knots],
            )
        else:
            self.intercept_, curves = float(y.mean()), []
            self._summary = "Every column of X is constant: the model is the mean of y."
        terms = tuple(
            SmoothTerm(j, str(names[j]), t, coef, self.extrapolate)
            for (j, t), coef in zip(knots.items(), curves, strict=True)
        )
        self.terms_ = AdditiveModel(self.intercept_, terms, self.n_features_in_)
        return self

    def predict(self, X):
        """
        Predict the mean response.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Features, finite.

        Returns
        -------
        ndarray of shape (n_samples,), float64
            Predictions, in the units of y.

        Raises
        ------
        ValueError
            If `X` is not what `fit` saw, or leaves the training range and extrapolate="error".
        """
        X = self._validate(X)
        return self.terms_.predict(X)

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
            f_j(x_ij), in the units of y, of mean 0 over the training rows; `intercept_` plus the
            sum of a row is its prediction.

        Raises
        ------
        ValueError
            As `predict`.
        """
        X = self._validate(X)
        return self.terms_.contributions(X)

    def summary(self):
        """
        Describe the fit, in statsmodels' words.

        Returns
        -------
        str
            The summary of statsmodels' GLMGam, as it was at the time of `fit`: its coefficients
            are those before centring. One sentence where there is no such summary.
        """
        check_is_fitted(self)
        return self._summary

    def _validate(self, X):
        check_is_fitted(self)
        return validate_data(self, X, dtype=np.float64, reset=False)

    def _check_parameters(self):
        df, alpha, degree = self.df, self.alpha, self.degree
        if not _is(Integral, degree) or not 2 <= degree <= 5:
            raise ValueError(f"degree must be an integer from 2 to 5, got degree={degree!r}")
        if not _is(Integral, df) or df < degree + 1:
            raise ValueError(
                f"df must be an integer of at least degree + 1 = {degree + 1}, got df={df!r}"
            )
        if not _is(Real, alpha) or not 0 < alpha < np.inf:
            raise ValueError(f"alpha must be a positive finite number, got alpha={alpha!r}")
        if self.extrapolate not in EXTRAPOLATIONS:
            raise ValueError(
                f"extrapolate must be one of {EXTRAPOLATIONS}, "
                f"got extrapolate={self.extrapolate!r}"
            )


def _is(kind, value):
    return isinstance(value, kind) and not isinstance(value, bool)


def _fit_glmgam(X, y, knots, degree, alpha, names):
    """Return the intercept, each term's centred coefficients, and statsmodels' summary."""
    # Here and not above: serving a fitted model must not pay for, or need, statsmodels.
    from statsmodels.gam.generalized_additive_model import GLMGam, penalized_wls
    from statsmodels.gam.smooth_basis import BSplines
    from statsmodels.tools.sm_exceptions import SingularMatrixWarning

    bases = BSplines(
        X,
        df=[len(t) - degree - 1 for t in knots],
        degree=[degree] * len(knots),
        variable_names=names,
        knot_kwds=[{"all_knots": t} for t in knots],
    )
    model = GLMGam(y, exog=np.ones((len(y), 1)), smoother=bases, alpha=alpha)

    with warnings.catch_warnings():
        # Collinear columns are no error: the solution of least norm predicts as well as any.
        warnings.simplefilter("ignore", SingularMatrixWarning)
        # P-IRLS with an identity link is this one step; GLMGam.fit has no answer to an exact fit.
        penalty = model.penal.penalty_matrix(alpha=model.alpha)
        step = penalized_wls(y, model.exog, penalty, np.ones(len(y)))
        residual = abs(y - model.exog @ step.params).max()
        edf = np.sum(model.exog @ step.normalized_cov_params * model.exog)
        rounding = 2e-8 + 1e-12 * abs(y).max()  # statsmodels takes 1e-8 for exact at any scale
        if residual <= rounding or len(y) - edf < 0.01:
            summary = (
                f"The fit is exact (largest residual {residual:.1e}): "
                "there is no residual variance to take standard errors from."
            )
        else:
            # It divides a first guess of the scale, which cancels; for a wide basis it is 0.
            model.df_resid = max(model.df_resid, 1)
            summary = model.fit(start_params=step.params).summary().as_text()

    # B-splines sum to one, so a curve is centred by shifting its coefficients, that of the
    # dropped first B-spline, 0, included.
    intercept, curves = step.params[0], []
    for columns in bases.mask:
        coef = step.params[1:][columns]
        mean = bases.basis[:, columns].mean(axis=0) @ coef
        intercept += mean
        curves.append(np.append(0.0, coef) - mean)
    return float(intercept), curves, summary
