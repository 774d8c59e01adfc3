"""The scikit-learn estimators: `GAMRegressor` and `GAMClassifier`."""

from typing import ClassVar

import numpy as np
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.metrics import accuracy_score, r2_score
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import assert_all_finite, column_or_1d

from gam_model._additive import AdditiveEstimator
from gam_model._families import find_family


class GAMRegressor(RegressorMixin, AdditiveEstimator):
    """
    Additive model of one penalised B-spline per feature, for a numeric response.

    The prediction is mu with g(mu) = eta(x) = b_0 + sum_j B_j(x_j) b_j. `fit` minimises, with
    the factor 2 that statsmodels uses,

        sum_i w_i d(y_i, mu_i) + 2 sum_j alpha_j b_j' S_j b_j,    S_j = integral B_j'' B_j''^T

    where d is the family's unit deviance, (y - mu)^2 for the gaussian. The fitted curves are then
    centred, f_j = B_j b_j - mean_i B_j(x_ij) b_j, which leaves eta unchanged and makes f_j(x_j)
    the exact (interventional) SHAP value of feature j on the scale of the link.

    Parameters
    ----------
    df : int, array-like or dict, default=15
        Maximum number of B-splines per term, at least degree + 1. A column with ties, or with
        fewer distinct values than `df`, gets fewer; a constant column gets no term. With
        alpha="auto", every column gets fewer if the total would exceed both 600 and two per row.
    alpha : float, "auto", array-like of shape (n_features,) or dict, default="auto"
        Weight of the roughness penalty. "auto" chooses one for each term by `criterion`,
        independently of the units of X and y. A positive number has the same meaning as in
        statsmodels: it depends on the units of X (a feature multiplied by 10 needs 1000 times the
        alpha) and on the number of rows. For categorical columns, and for the effect of missing
        cells, the penalty is the sum of squared effects.
    degree : int, array-like or dict, default=3
        Degree of the splines, 2 to 5. statsmodels integrates S_j exactly for degree 3 and to
        within a few per cent otherwise; solver="stream" is exact for every degree.
    extrapolate : {"linear", "constant", "error"}, array-like or dict, default="linear"
        How a curve continues outside its training range: along its tangent, as a constant, or
        not at all. "error" tolerates values outside only by float32 rounding.
    family : str, default="gaussian"
        Distribution of the response: "gaussian", "binomial", which is for proportions, "poisson",
        "gamma" or "inverse_gaussian"; "negative_binomial", for counts of variance
        mu + mu^2 / size; "tweedie", for amounts of which many are 0, of variance scale mu^power,
        1 < power < 2; "scaled_t", for responses with outliers. Their size, power or degrees of
        freedom, and the scale, are learned from the rows, or kept where given, as in
        "tweedie(1.5)". "quasibinomial" and "quasipoisson" have the variance of
        their namesakes times a scale that is estimated, for responses that scatter more; they have
        no likelihood, so that log_likelihood and aic are NaN.
    link : str, optional
        gaussian: "identity" or "log"; binomial: "logit", "probit" or "cloglog"; poisson: "log" or
        "sqrt"; gamma: "log" or "inverse"; inverse_gaussian and tweedie: "log";
        negative_binomial: "log" or "sqrt"; scaled_t: "identity" or "log". By default the first.
    criterion : {"reml", "gcv"}, default="reml"
        What alpha="auto" optimises: restricted likelihood, or generalised cross-validation.
    categorical_features : "from_dtype", None or array-like, default="from_dtype"
        Categorical columns: the text and categorical columns of a frame; none; or a list of
        names or positions, or a mask. A text column that is not listed and whose dtype is not
        categorical is left out, with a warning, if it has more than 50 levels and more than half
        as many levels as cells (or more than 200,000): ids, free text, dates as text.
    solver : {"stream", "statsmodels"}, default="stream"
        "stream" needs no memory beyond X, whatever the number of rows. "statsmodels" uses GLMGam
        for reference: it finds the same coefficients, and supports only numeric columns, the
        gaussian family with identity link and a given alpha.
    weighting : {"auto", "counts", "precision", "likelihood"}, default="auto"
        Meaning of `sample_weight`. "counts": how often each row occurred; a weight of 2 is
        equivalent to repeating the row. "precision": relative information of each row, such as
        survey or boosting weights or inverse variances; multiplying them by a constant changes
        nothing. "likelihood": multipliers of the rows' log-likelihoods, such as the number of
        trials of a binomial rate or the exposure of a Poisson rate. "auto" interprets integers as
        "counts", except for rates, where they are trials or exposures. It interprets other numbers
        as "precision" if y is no rate of events (gaussian, gamma, inverse_gaussian), or is 0 or 1,
        as a label has no number of trials, and as "likelihood" for other rates of events.
    warp : {"auto", None}, default="auto"
        With "auto" and alpha="auto", a very unevenly distributed column, such as amounts that
        span powers of ten, is modelled on the scale arcsinh((x - center) / width) if a curve of
        that column alone fits at least as well on it. None leaves every column as it is.
    atoms : {"auto", None}, default="auto"
        With "auto" and alpha="auto", values of a numeric column that many rows share, such as
        zeros, codes or round numbers, may deviate from its curve, each by an effect of its own.
        One smoothing parameter for all of a column shrinks them; a column gets them where its
        own values ask for them. None leaves the curve alone.
    interactions : None, int, "auto" or list of pairs, default=None
        What two features do together: nothing; the pairs of a list, by name or position; so many
        pairs found from the data; or "auto", those that the data ask for, ten at most,
        each of which matters beside the others. A pair is
        a product of few functions of each feature without what either does alone, smoothed on its
        own by `criterion`. Beyond the training range it stays as at the end of the range; where
        a cell is missing or a level unseen, features act alone. Of more than 12 levels, the
        rarest are one. A number for alpha is that of pairs, too.
    knots : dict, optional
        Inner knots of some features, by name or position, in place of quantiles: numbers inside
        the feature's range, ascending.
    cyclic : dict, optional
        Period of features that go round, by name or position, such as {"hour": 24}: the curve and
        its slope are the same one period on, whatever `extrapolate` says.
    linear : array-like, optional
        Features, by name or position, that are straight lines.
    monotonic_cst : array-like of shape (n_features,) or dict, optional
        1 for a feature with which the prediction may only rise, -1 for one with which it may only
        fall, 0 for none, as in scikit-learn's `HistGradientBoostingRegressor`. It holds beyond the
        training range, too.
    convex_cst : array-like of shape (n_features,) or dict, optional
        1 for a feature of which the curve is convex on the scale of the link, -1 for a concave
        one, 0 for none; the other way round for link="inverse", which falls.
    select : bool, default=False
        Whether terms with alpha="auto" may be shrunk to nothing, their straight lines included, as
        far as the criterion asks for it: a term without effect then has an edf near 0.
    verbose : int, default=0
        If not 0, a fit of more than five seconds prints every five seconds how far it is.

    Attributes
    ----------
    intercept_ : float
        Mean eta over the training rows.
    terms_ : AdditiveModel
        The fitted model, frozen into knots and coefficients; its `predict` and `contributions`
        skip scikit-learn's validation.
    alpha_ : ndarray of shape (n_features,)
        Penalty weight of each term; NaN for a column without a term.
    edf_ : ndarray of shape (n_features,)
        Effective degrees of freedom of each term; 1 is a straight line.
    scale_ : float
        Residual variance, or the family's dispersion; of scaled_t its squared unit.
    feature_importances_ : ndarray of shape (n_features,)
        Mean size of each feature's contributions over the training rows, on the scale of the link.
    statistics_ : Statistics
        Figures of merit, a named tuple: n_rows, edf (the intercept's included), residual_df,
        scale, deviance, null_deviance, explained (of 1), log_likelihood, aic, gcv.
    interactions_ : list of tuple of int
        Positions of the features of each pair in the model.
    n_features_in_ : int
        Number of features seen by `fit`.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features, if X had names that are all strings.

    Notes
    -----
    A categorical column has one effect for each level, penalised towards their mean. A missing
    cell, in a column that has any, is a level of its own. A level that `fit` has not seen, or a
    missing cell in a column that had none, contributes 0, with a warning. In a column that holds
    text, numbers are text: 1 and 1.0 are the level "1". Levels are text, numbers or truth values;
    others, which JSON could not save, are refused.

    Dates are read as days since 1970-01-01 UTC, durations as days, in all types, units and time
    zones alike; one without a time zone is UTC. `alpha` weighs the curve over days.

    An offset that `fit` had is part of the question, not of the model: `predict`, `explain`,
    `predict_interval` and the pictures take that of their own rows. `score` insists on it.
    scikit-learn's metadata routing, where it is enabled, passes `offset` on to `fit`, `predict`
    and `score`, so that a grid search compares what it should; a metric made into a scorer calls
    `predict` without one, so search by `score`, or by a callable that passes the offset.

    `df`, `alpha`, `degree` and `extrapolate` are one value for all features, an array of one each,
    or a dict by name or position, which leaves the others at the default.

    With `monotonic_cst` or `convex_cst`, the coefficients minimise the same under the constraint
    that the B-splines' coefficients rise, or rise ever more steeply, which is sufficient. The
    smoothing parameters, edf and the widths of bands are those of the fit without it, so that
    bands are rather too wide, and their ends need not have the shape of the curve. Atoms and, for
    convex curves, warps are left out.

    A binary column is a straight line; a column with few distinct values has as many B-splines; a
    constant one has no term. Columns that repeat one another share one effect in equal parts.

    References
    ----------
    Eilers and Marx (1996), "Flexible smoothing with B-splines and penalties",
    Statistical Science 11(2).
    Marra and Wood (2011), "Practical variable selection for generalized additive models",
    Computational Statistics & Data Analysis 55(7): `select`.
    Wood (2017), "Generalized Additive Models", 2nd edition, sections 4.2, 5.3 and 6.1.
    Wood and Fasiolo (2017), "A generalized Fellner-Schall method for smoothing parameter
    optimization", Biometrics 73.

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

    def __init__(
        self,
        df=15,
        alpha="auto",
        degree=3,
        extrapolate="linear",
        *,
        family="gaussian",
        link=None,
        criterion="reml",
        categorical_features="from_dtype",
        solver="stream",
        weighting="auto",
        warp="auto",
        atoms="auto",
        interactions=None,
        knots=None,
        cyclic=None,
        linear=None,
        monotonic_cst=None,
        convex_cst=None,
        select=False,
        verbose=0,
    ):
        self.df = df
        self.alpha = alpha
        self.degree = degree
        self.extrapolate = extrapolate
        self.family = family
        self.link = link
        self.criterion = criterion
        self.categorical_features = categorical_features
        self.solver = solver
        self.weighting = weighting
        self.warp = warp
        self.atoms = atoms
        self.interactions = interactions
        self.knots = knots
        self.cyclic = cyclic
        self.linear = linear
        self.monotonic_cst = monotonic_cst
        self.convex_cst = convex_cst
        self.select = select
        self.verbose = verbose

    def fit(self, X, y, sample_weight=None, offset=None):
        """
        Fit the curves by penalised likelihood.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Features: numbers, of which none is infinite, dates, durations, and in frames
            categories. pandas, polars, pyarrow and NumPy are read.
        y : array-like of shape (n_samples,)
            Response, finite, and what the family can be.
        sample_weight : array-like of shape (n_samples,), optional
            How often each row counts: a weight of 2 is the row twice, one of 0 is no row.
        offset : array-like of shape (n_samples,), optional
            Added to eta with no coefficient, as the log of the exposure for counts. `predict` and
            its like take the offset of their own rows, and answer for an offset of 0 without.

        Returns
        -------
        GAMRegressor
            Itself.

        Raises
        ------
        ValueError
            If a parameter is out of bounds, or X and y are not numbers of matching shapes.
        """
        return self._fit([(X, y, sample_weight, offset)])

    def predict(self, X, offset=None):
        """
        Predict the mean response.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Features, as in `fit`.
        offset : float or array-like of shape (n_samples,), optional
            Added to eta, as the log of the exposure for counts; by default 0.

        Returns
        -------
        ndarray of shape (n_samples,), float64
            mu, in the units of y.

        Raises
        ------
        ValueError
            If `X` is not what `fit` saw, or leaves the training range and extrapolate="error", or
            so far that the link has no finite mean there.
        """
        X = self._validate(X)
        return self.terms_.predict(X, self._read_offset(offset, len(X)))

    def score(self, X, y, sample_weight=None, offset=None):
        """
        Return the share of the variance of y that is predicted, R^2.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Features, as in `fit`.
        y : array-like of shape (n_samples,)
            Response.
        sample_weight : array-like of shape (n_samples,), optional
            How often each row counts.
        offset : float or array-like of shape (n_samples,), optional
            As in `predict`; to be given if `fit` had one.

        Returns
        -------
        float
            At most 1.

        Raises
        ------
        ValueError
            As `predict`, or if the offset is missing.
        """
        self._ask_for_offset(offset, "score")
        return r2_score(y, self.predict(X, offset), sample_weight=sample_weight)

    _y_numeric = True

    def _find_family(self):
        return find_family(self.family, self.link)

    def _forget_response(self):
        pass

    def _learn_response(self, y):
        return False

    def _read_response(self, y):
        return y.astype(np.float64, copy=False)


class GAMClassifier(ClassifierMixin, AdditiveEstimator):
    """
    Additive model of one penalised B-spline per feature, for one of two classes.

    P(y = classes_[1] | x) = g^-1(b_0 + sum_j f_j(x_j)), the binomial `GAMRegressor` of the
    second class, with the same parameters and attributes.

    Parameters
    ----------
    df : int, default=15
        Number of B-splines of each term at most.
    alpha : float, array-like of shape (n_features,) or "auto", default="auto"
        Weight of the roughness penalty, or how to get it.
    degree : int, default=3
        Degree of the splines, 2 to 5.
    extrapolate : {"linear", "constant", "error"}, default="linear"
        How a curve goes on outside its training range.
    link : {"logit", "probit", "cloglog"}, default="logit"
        Link between probability and eta.
    criterion : {"reml", "gcv"}, default="reml"
        What alpha="auto" optimises.
    categorical_features : "from_dtype", None or array-like, default="from_dtype"
        Categorical columns.
    weighting : {"auto", "counts", "precision", "likelihood"}, default="auto"
        What `sample_weight` means, as in `GAMRegressor`.
    warp : {"auto", None}, default="auto"
        Whether a column whose values are spread very unevenly gets a scale of its own.
    atoms : {"auto", None}, default="auto"
        Whether values that many rows share may deviate from the curve, as in `GAMRegressor`.
    interactions : None, int, "auto" or list of pairs, default=None
        What two features do together, as in `GAMRegressor`.
    knots : dict, optional
        Inner knots of some features, by name or position.
    cyclic : dict, optional
        Period of features that go round, such as {"hour": 24}.
    linear : array-like, optional
        Features that are straight lines.
    monotonic_cst : array-like of shape (n_features,) or dict, optional
        1 for a feature with which the probability of `classes_[1]` may only rise, -1 for fall.
    convex_cst : array-like of shape (n_features,) or dict, optional
        1 for a feature of which the curve is convex, -1 for concave.
    select : bool, default=False
        Whether terms may be shrunk to nothing.
    verbose : int, default=0
        Whether a long fit prints how far it is.

    Attributes
    ----------
    classes_ : ndarray of shape (2,)
        The labels, in order.
    intercept_ : float
        Mean eta over the training rows.
    terms_ : AdditiveModel
        The fitted model; its `predict` gives the probability of `classes_[1]`.
    alpha_ : ndarray of shape (n_features,)
        Penalty weight of each term.
    edf_ : ndarray of shape (n_features,)
        Effective degrees of freedom of each term.
    scale_ : float
        1, the binomial's dispersion.
    feature_importances_ : ndarray of shape (n_features,)
        Mean size of each feature's contributions over the training rows, on the scale of the link.
    statistics_ : Statistics
        Figures of merit.
    interactions_ : list of tuple of int
        Positions of the features of each pair in the model.
    n_features_in_ : int
        Number of features seen by `fit`.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features, if X had names that are all strings.

    References
    ----------
    Wood (2017), "Generalized Additive Models", 2nd edition, section 6.1.

    Examples
    --------
    >>> import numpy as np
    >>> from gam_model import GAMClassifier
    >>> x = np.linspace(-3, 3, 200)
    >>> label = np.where(np.sin(25 * x) < x, "above", "below")
    >>> gam = GAMClassifier().fit(x[:, None], label)
    >>> gam.predict([[-2.0], [2.0]])
    array(['below', 'above'], dtype='<U5')
    """

    solver = "stream"

    __metadata_request__decision_function: ClassVar = {"offset": True}
    __metadata_request__predict_proba: ClassVar = {"offset": True}

    def __init__(
        self,
        df=15,
        alpha="auto",
        degree=3,
        extrapolate="linear",
        *,
        link="logit",
        criterion="reml",
        categorical_features="from_dtype",
        weighting="auto",
        warp="auto",
        atoms="auto",
        interactions=None,
        knots=None,
        cyclic=None,
        linear=None,
        monotonic_cst=None,
        convex_cst=None,
        select=False,
        verbose=0,
    ):
        self.df = df
        self.alpha = alpha
        self.degree = degree
        self.extrapolate = extrapolate
        self.link = link
        self.criterion = criterion
        self.categorical_features = categorical_features
        self.weighting = weighting
        self.warp = warp
        self.atoms = atoms
        self.interactions = interactions
        self.knots = knots
        self.cyclic = cyclic
        self.linear = linear
        self.monotonic_cst = monotonic_cst
        self.convex_cst = convex_cst
        self.select = select
        self.verbose = verbose

    def __sklearn_tags__(self):
        """Tell scikit-learn that two classes are what it can do."""
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        return tags

    def fit(self, X, y, sample_weight=None, offset=None):
        """
        Fit the curves by penalised likelihood.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Features: numbers, of which none is infinite, dates, durations, and in frames
            categories. pandas, polars, pyarrow and NumPy are read.
        y : array-like of shape (n_samples,)
            Labels of two classes, of any type.
        sample_weight : array-like of shape (n_samples,), optional
            How often each row counts.
        offset : array-like of shape (n_samples,), optional
            Added to eta with no coefficient, as in `GAMRegressor`.

        Returns
        -------
        GAMClassifier
            Itself.

        Raises
        ------
        ValueError
            If a parameter is out of bounds, X is not finite, or there are not two classes.
        """
        return self._fit([(X, y, sample_weight, offset)])

    def decision_function(self, X, offset=None):
        """
        Predict on the scale of the link.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Features, as in `fit`.
        offset : float or array-like of shape (n_samples,), optional
            Added to eta; by default 0.

        Returns
        -------
        ndarray of shape (n_samples,), float64
            eta; with the logit link, the log-odds of `classes_[1]`.
        """
        X = self._validate(X)
        return self.terms_.eta(X, self._read_offset(offset, len(X)))

    def predict_proba(self, X, offset=None):
        """
        Predict the probability of each class.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Features, as in `fit`.
        offset : float or array-like of shape (n_samples,), optional
            Added to eta; by default 0.

        Returns
        -------
        ndarray of shape (n_samples, 2), float64
            Probabilities, in the order of `classes_`.
        """
        X = self._validate(X)
        second = self.terms_.predict(X, self._read_offset(offset, len(X)))
        return np.column_stack([1 - second, second])

    def predict(self, X, offset=None):
        """
        Predict the more probable class.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Features, as in `fit`.
        offset : float or array-like of shape (n_samples,), optional
            Added to eta; by default 0.

        Returns
        -------
        ndarray of shape (n_samples,)
            Labels out of `classes_`.
        """
        second = self.predict_proba(X, offset)[:, 1] > 0.5
        return self.classes_[second.astype(int)]

    def score(self, X, y, sample_weight=None, offset=None):
        """
        Return the share of the rows whose class is predicted.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Features, as in `fit`.
        y : array-like of shape (n_samples,)
            Labels.
        sample_weight : array-like of shape (n_samples,), optional
            How often each row counts.
        offset : float or array-like of shape (n_samples,), optional
            As in `predict`; to be given if `fit` had one.

        Returns
        -------
        float
            From 0 to 1.

        Raises
        ------
        ValueError
            If the offset is missing.
        """
        self._ask_for_offset(offset, "score")
        return accuracy_score(y, self.predict(X, offset), sample_weight=sample_weight)

    _y_numeric = False

    def _find_family(self):
        return find_family("binomial", self.link)

    def _forget_response(self):
        self.classes_ = np.empty(0)

    def _learn_response(self, y):
        if y is not None:  # else it is refused where it is read
            y = column_or_1d(y)
            assert_all_finite(y, input_name="y")
            check_classification_targets(y)
            labels = np.unique(y)
            self.classes_ = np.union1d(self.classes_, labels) if self.classes_.size else labels
        return True

    def _read_response(self, y):
        if len(self.classes_) != 2:
            raise ValueError(
                "Only binary classification is supported: y must hold two classes, got "
                f"{len(self.classes_)} class(es); for more, wrap this estimator in "
                "sklearn.multiclass.OneVsRestClassifier"
            )
        return np.searchsorted(self.classes_, y).astype(np.float64)
