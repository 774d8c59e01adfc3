"""Plots of a fitted estimator: its curves, one row's contributions, its residuals."""

from numbers import Integral, Real

import numpy as np
from sklearn.utils.validation import check_consistent_length, check_is_fitted

from gam_model._diagnostics import draw_diagnostics
from gam_model._drawing import (
    BLUE,
    GREY,
    INK,
    ORANGE,
    TITLE,
    draw_term,
    find_decimals,
    find_limits,
    fixed,
    label,
    name_class,
    name_scale,
    new_figure,
    number,
    share_limits,
    strip,
    trace,
)
from gam_model._explanation import ExplanationMixin
from gam_model._families import find_family
from gam_model._inference import normal_quantile
from gam_model._surfaces import draw_pairs
from gam_model.dates import to_days, write_iso

__all__ = ["plot_contributions", "plot_diagnostics", "plot_interactions", "plot_terms"]


def plot_terms(estimator, X=None, features=None, *, coverage=0.95, n_columns=3, share_y=True):
    """
    Draw the curve of each feature, with its pointwise band.

    Parameters
    ----------
    estimator : GAMRegressor or GAMClassifier
        A fitted estimator.
    X : array-like of shape (n_samples, n_features), optional
        Rows whose distribution is drawn along the lower edge: up to 200 as ticks, more as a
        histogram. Without, ticks are at the knots, which are quantiles of the training rows.
    features : list of str or int, optional
        Names or positions of the features; by default all that have a term, the most important
        first. They fill the grid row by row; a wide panel may leave room that a later one takes.
    coverage : float, default=0.95
        Probability of the bands and intervals, as an average over a curve.
    n_columns : int, default=3
        Number of panels side by side at most.
    share_y : bool, default=True
        Whether panels have one scale, on which features compare. A curve that reaches far beyond
        what features contribute on average, as where there are few rows, has its own and says so.

    Returns
    -------
    matplotlib.figure.Figure
        One panel for each feature. It belongs to no window: notebooks show it, `savefig` writes
        it, and nothing needs closing.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    TypeError
        If `estimator` is not an estimator of this package.
    ValueError
        If it is not fitted, a feature is unknown or has no term, or `X` is not what `fit` saw.

    Notes
    -----
    Points beside a curve are values that deviate from it, as many rows share them. The diamond at
    the right is what a missing cell contributes. Of more than 60 levels those with
    the largest contributions are drawn. Where few values lie far out, the axis is logarithmic for
    them. Bands may leave the picture: the curves have at least a third of its height. Characters
    that matplotlib's font lacks are written as their codes.

    Examples
    --------
    >>> import numpy as np
    >>> from gam_model import GAMRegressor
    >>> from gam_model.plots import plot_terms
    >>> x = np.linspace(0, 6, 50)
    >>> figure = plot_terms(GAMRegressor().fit(x[:, None], np.sin(x)))
    >>> [axes.get_title(loc="left") for axes in figure.axes]
    ['x0']
    """
    _check(estimator, n_columns=n_columns)
    panels = [trace(estimator, k, coverage) for k in _find_terms(estimator, features)]
    rows = None if X is None else estimator._validate(X)
    n_columns = min(n_columns, sum(panel.width for panel in panels))
    lines = _arrange(panels, n_columns)
    width = 4.5 if n_columns == 1 else 3.5
    heights = [2.5 + max(panel.depth for panel, _ in line) for line in lines]
    figure = new_figure(width * n_columns, sum(heights) + 0.3)
    grid = figure.add_gridspec(len(lines), n_columns)
    limits, shared = share_limits(panels, estimator.feature_importances_)
    shared = shared if share_y else []
    scale, first = label(name_scale(estimator), 30), None
    for k, line in enumerate(lines):
        labelled = False
        for panel, column in line:
            across, fits = min(panel.width, n_columns), panel in shared
            cells = grid[k, column : column + across]
            axes = figure.add_subplot(cells, sharey=first if fits else None)
            draw_term(axes, panel, limits if fits else find_limits([panel]), rows)
            room = int(12 * (width * across - 0.6))
            axes.set_title(label(panel.term.name, room), loc="left", pad=17, **TITLE)
            note = " · own scale" if share_y and not fits else ""
            axes.annotate(
                f"edf {panel.edf:.1f}{note}", (0, 1), (0, 5), "axes fraction", "offset points",
                fontsize=8, color=GREY,
            )  # fmt: skip
            axes.tick_params(labelleft=not (fits and labelled))
            if fits:
                first, labelled = first or axes, True
            if column == 0:
                axes.set_ylabel(f"contribution to\n{scale}", fontsize=8, parse_math=False)
    return figure


def plot_interactions(estimator, X=None, *, coverage=0.95, n_columns=3):
    """
    Draw what features contribute in pairs, beyond what each does alone.

    Parameters
    ----------
    estimator : GAMRegressor or GAMClassifier
        A fitted estimator with pairs.
    X : array-like of shape (n_samples, n_features), optional
        Rows whose convex hull is drawn into the heat maps; what lies beyond it is pale, as no row
        tells of it.
    coverage : float, default=0.95
        Probability of the bands of curves.
    n_columns : int, default=3
        Number of panels side by side at most.

    Returns
    -------
    matplotlib.figure.Figure
        One panel for each pair, the most important first, all on one scale: of two numeric
        features a heat map with contours, of a numeric and a categorical one a curve for each
        level, with bands if there are four at most, of two categorical ones a table of colours.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    TypeError
        If `estimator` is not an estimator of this package.
    ValueError
        If it is not fitted or has no pairs, or `X` is not what `fit` saw.

    Examples
    --------
    >>> import numpy as np
    >>> from gam_model import GAMRegressor
    >>> from gam_model.plots import plot_interactions
    >>> X = np.random.default_rng(0).uniform(size=(200, 2))
    >>> gam = GAMRegressor(interactions=[(0, 1)]).fit(X, X[:, 0] * X[:, 1])
    >>> figure = plot_interactions(gam)
    >>> figure.axes[0].get_title(loc="left")
    'x0 & x1'
    """
    _check(estimator, n_columns=n_columns)
    normal_quantile(coverage)
    if not estimator.terms_.pairs:
        raise ValueError("the model has no pairs; fit it with interactions=, or use plot_terms")
    rows = None if X is None else estimator._validate(X)
    return draw_pairs(estimator, rows, coverage, n_columns)


def plot_contributions(estimator, X, *, coverage=None, max_features=10, offset=None):
    """
    Draw how the contributions of one row lead from the base to its prediction.

    Parameters
    ----------
    estimator : GAMRegressor or GAMClassifier
        A fitted estimator.
    X : array-like of shape (1, n_features)
        One row.
    coverage : float, optional
        Probability of the intervals; by default none are drawn.
    max_features : int, default=10
        Number of features drawn on their own, those with the largest contributions.
    offset : float or array-like of shape (1,), optional
        As in the estimator's `predict`; drawn as the last step.

    Returns
    -------
    matplotlib.figure.Figure
        From `intercept_`, the mean over the training rows, to eta, on the scale of the link; in
        the title, the prediction in the units of y or as a probability.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    TypeError
        If `estimator` is not an estimator of this package.
    ValueError
        If it is not fitted, or `X` is not one row of what `fit` saw.

    Examples
    --------
    >>> import numpy as np
    >>> from gam_model import GAMRegressor
    >>> from gam_model.plots import plot_contributions
    >>> X = np.random.default_rng(0).uniform(size=(50, 2))
    >>> gam = GAMRegressor().fit(X, 2 * X[:, 0] - X[:, 1])
    >>> figure = plot_contributions(gam, [[0.5, 0.25]])
    >>> [text.get_text() for text in figure.axes[0].get_yticklabels()]
    ['base', 'x1 = 0.25', 'x0 = 0.5', 'prediction']
    """
    _check(estimator, max_features=max_features)
    frame = estimator.explain(X, 0.95 if coverage is None else coverage, offset)
    base, *parts, eta = frame["contribution"].tolist()
    _, *half, eta_half = (frame["upper"] - frame["contribution"]).tolist()
    shift = [] if offset is None else [parts.pop()]
    half = half[: len(parts)]
    cells = zip(frame.index[1:], frame["value"].tolist()[1:], parts, strict=False)
    labels = [_label_cell(name, value, estimator) for name, value, _ in cells]
    if len(parts) > max_features + 1:
        labels[max_features:] = [f"{len(parts) - max_features} other features"]
        parts[max_features:] = [sum(parts[max_features:])]
        del half[max_features:]
    parts, labels = parts + shift, labels + ["offset"] * len(shift)
    n, ends = len(parts), base + np.cumsum([0.0, *parts])
    scale = name_scale(estimator)

    figure = new_figure(7.0, 1.1 + 0.28 * (n + 2))
    axes = figure.subplots()
    steps = np.arange(n + 2)
    colors = [ORANGE if part > 0 else BLUE for part in parts]
    axes.barh(steps[1:-1], parts, 0.62, left=ends[:-1], color=colors)
    axes.vlines(ends, steps[:-1] - 0.31, steps[1:] + 0.31, GREY, linewidth=0.8)
    axes.plot([base, eta], steps[[0, -1]], "o", color=INK, markersize=5)
    right = np.array([base, *np.maximum(ends[:-1], ends[1:]), eta])
    if coverage is not None:
        at = [*range(1, len(half) + 1), n + 1]
        middle, arm = np.append(ends[1 : len(half) + 1], eta), np.append(half, eta_half)
        axes.errorbar(middle, at, xerr=arm, fmt="none", ecolor=INK, elinewidth=1, capsize=2)
        right[at] = np.maximum(right[at], middle + arm)
    decimals = find_decimals([base, *parts, eta])
    signed = (fixed(part, decimals, "+") for part in parts)
    texts = [fixed(base, decimals), *signed, fixed(eta, decimals)]
    for place, text in zip(zip(right, steps, strict=True), texts, strict=True):
        axes.annotate(text, place, (6, 0), textcoords="offset points", va="center", fontsize=8)
    axes.set_yticks(steps, ["base", *labels, label(scale, 40)], parse_math=False)
    axes.set_ylim(n + 1.6, -0.6)
    axes.use_sticky_edges = False
    axes.margins(x=0.1)
    strip(axes, "left")
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(label(scale, 60), fontsize=9, parse_math=False)
    axes.set_title(_title(estimator, X, coverage, offset), loc="left", **TITLE)
    return figure


def plot_diagnostics(estimator, X, y, *, offset=None):
    """
    Draw diagnostics of the fit to given rows.

    Parameters
    ----------
    estimator : GAMRegressor or GAMClassifier
        A fitted estimator.
    X : array-like of shape (n_samples, n_features)
        Training rows, or preferably held-out rows.
    y : array-like of shape (n_samples,)
        Their response, or labels.
    offset : float or array-like of shape (n_samples,), optional
        As in the estimator's `predict`; to be given if `fit` had one.

    Returns
    -------
    matplotlib.figure.Figure
        Four panels. For numbers: quantiles of the residuals against the normal ones, residuals
        against eta, their histogram, and observed against fitted. For two classes: calibration,
        mean residuals against eta, the probabilities that either class gets, and the ROC curve.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    TypeError
        If `estimator` is not an estimator of this package.
    ValueError
        If it is not fitted, `X` or `y` is not what `fit` saw, their lengths differ, or the offset
        is missing.

    Notes
    -----
    Residuals are quantile residuals, standard normal if the model holds; for the gaussian they
    are ``(y - mu) / sqrt(scale_)``. Of more than 2000 rows, 2000 are drawn as points, chosen at
    random and the same each time; of as many quantiles, 2000 of evenly spaced ranks and the 100
    at either end. Means, histograms, bands and curves are of all rows. Bands and bars are 95 %
    intervals, pointwise. Each row counts once.

    References
    ----------
    Dunn and Smyth (1996), "Randomized quantile residuals", Journal of Computational and Graphical
    Statistics 5(3).
    Gelman and Hill (2007), "Data analysis using regression and multilevel models", section 5.6.

    Examples
    --------
    >>> import numpy as np
    >>> from gam_model import GAMRegressor
    >>> from gam_model.plots import plot_diagnostics
    >>> x = np.linspace(0, 6, 50)
    >>> y = np.sin(x) + np.random.default_rng(0).normal(scale=0.1, size=50)
    >>> figure = plot_diagnostics(GAMRegressor().fit(x[:, None], y), x[:, None], y)
    >>> len(figure.axes)
    4
    """
    _check(estimator)
    family = find_family(estimator._family)[0]
    rows = estimator._validate(X)
    y = _read_response(estimator, family, y)
    check_consistent_length(rows, y)
    estimator._ask_for_offset(offset, "plot_diagnostics")
    shift = estimator._read_offset(offset, len(rows))
    eta, mu = estimator.terms_.eta(rows, shift), estimator.terms_.predict(rows, shift)
    return draw_diagnostics(estimator, family, eta, mu, y)


# ---------------------------------------------------------------- checking


def _check(estimator, **counts):
    if not isinstance(estimator, ExplanationMixin):
        raise TypeError(
            "estimator must be a fitted GAMRegressor or GAMClassifier, "
            f"got {type(estimator).__name__}"
        )
    check_is_fitted(estimator)
    for name, value in counts.items():
        if not _is_integer(value) or value < 1:
            raise ValueError(f"{name} must be a positive integer, got {name}={value!r}")


def _is_integer(value):
    return isinstance(value, Integral) and not isinstance(value, bool)


def _find_terms(estimator, features):
    """Return the positions of the terms of these features."""
    terms, names = estimator.terms_.terms, estimator._names()
    by_feature = {term.feature: k for k, term in enumerate(terms)}
    if features is None:
        order = np.argsort(-estimator.feature_importances_, kind="stable").tolist()
        found = [by_feature[j] for j in order if j in by_feature]
        if not found:
            raise ValueError("no feature has a term: all columns were constant or left out")
        return found
    found = []
    for feature in [features] if isinstance(features, str) else list(features):
        if isinstance(feature, str) and feature in names:
            j = names.index(feature)
        elif _is_integer(feature) and 0 <= feature < len(names):
            j = int(feature)
        else:
            known = ", ".join(map(repr, names[:20])) + (", …" if len(names) > 20 else "")
            raise ValueError(f"there is no feature {feature!r}; there are {known}")
        if j not in by_feature:
            why = "was left out" if j in estimator._features.left_out else "was constant"
            raise ValueError(f"feature {names[j]!r} has no term: it {why} in training")
        found.append(by_feature[j])
    if not found:
        raise ValueError("features must name at least one feature, got none")
    return found


def _read_response(estimator, family, y):
    y = np.asarray(y)
    if y.ndim != 1:
        raise ValueError(f"y must have shape (n_samples,), got {y.shape}")
    if hasattr(estimator, "classes_"):
        unknown = ~np.isin(y, estimator.classes_)
        if unknown.any():
            raise ValueError(
                f"y must hold the classes {estimator.classes_.tolist()}, got "
                f"{y[unknown].tolist()[0]!r}"
            )
        return estimator._read_response(y)
    y = y.astype(float)
    if not np.isfinite(y).all() or not family.accepts(y.min(), max(y.max(), 1e-300)):
        raise ValueError(f"y of family {family.name!r} must be finite and {family.domain}")
    return y


# ---------------------------------------------------------------- terms and contributions


def _arrange(panels, n_columns):
    """Place each panel in the first row with room for it; return rows of (panel, column)."""
    lines, used = [], []
    for panel in panels:
        across = min(panel.width, n_columns)
        k = next((k for k, n in enumerate(used) if n + across <= n_columns), len(lines))
        if k == len(lines):
            lines.append([])
            used.append(0)
        lines[k].append((panel, used[k]))
        used[k] += across
    return lines


def _label_cell(name, value, estimator):
    levels, units, shown = estimator.terms_.levels, estimator.terms_.units, label(name, 32)
    if value is None or value != value:
        return f"{shown} missing"
    if name in levels and value not in levels[name]:
        return f"{shown}: unseen level"
    if name in units:
        return f"{shown} = {write_iso(to_days(np.array([value.asm8]))[0], units[name])}"
    return f"{shown} = {number(value) if isinstance(value, Real) else label(value, 24)}"


def _title(estimator, X, coverage, offset):
    classes = getattr(estimator, "classes_", None)
    if classes is None:
        mu = estimator.predict(X, offset)
    else:
        mu = estimator.predict_proba(X, offset)[:, 1]
    digits = find_decimals([1.0 if classes is not None else mu[0]])
    name = "prediction" if classes is None else f"P({label(name_class(estimator), 40)})"
    text = f"{name} = {fixed(mu[0], digits)}"
    if coverage is None:
        return text
    ends = estimator.predict_interval(X, coverage, offset=offset)
    low, high = (fixed(end, digits) for end in ends[0])
    return f"{text}   ({100 * coverage:g} %: {low} to {high})"
