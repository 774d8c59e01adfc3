"""Diagnostic plots of the fit to given rows."""

import numpy as np
from scipy import stats

from gam_model._bins import average, bound_share
from gam_model._drawing import (
    BLUE,
    GREY,
    INK,
    ORANGE,
    TITLE,
    label,
    name_class,
    name_scale,
    new_figure,
    strip,
)
from gam_model._inference import normal_quantile

_Z = normal_quantile(0.95)
_FEW = 0.01  # of the rows
_POINTS = 2000  # rows drawn as points at most; of more, a random sample


def draw_diagnostics(estimator, family, eta, mu, y):
    """Return the figure of `plot_diagnostics`."""
    drawn = np.arange(len(y))
    if len(y) > _POINTS:
        drawn = np.sort(np.random.default_rng(0).choice(len(y), _POINTS, replace=False))
    figure = new_figure(8.4, 6.6)
    panels = figure.subplots(2, 2).ravel()
    for axes in panels:
        strip(axes)
        axes.locator_params(nbins=6)
    linear = estimator.terms_.link == "identity"
    scale = "fitted" if linear else f"fitted, as {label(name_scale(estimator), 40)}"
    if family.two_outcomes:
        two = set(np.unique(y)) == {0, 1}
        _draw_calibration(panels[0], y, mu)
        _draw_mean_residuals(panels[1], eta, y - mu, scale)
        if two:
            _draw_probabilities(panels[2], y, mu, [name_class(estimator, k) for k in (0, 1)])
            _draw_roc(panels[3], y, mu)
        else:
            _draw_histogram(panels[2], mu, "Fitted values", "fitted")
            _draw_observed(panels[3], y, mu, drawn)
    else:
        two, residuals = False, family.residuals(y, mu, estimator.scale_)
        _draw_quantiles(panels[0], residuals)
        _draw_residuals(panels[1], eta, residuals, drawn, scale)
        _draw_histogram(panels[2], residuals, "Residuals", "residual", stats.norm.pdf)
        _draw_observed(panels[3], y, mu, drawn)
    if len(drawn) < len(y) and not two:
        figure.supxlabel(
            f"points: {len(drawn):,} of {len(y):,} rows, chosen at random; the rest: all rows",
            fontsize=8,
            color=GREY,
        )
    return figure


def _name_axes(axes, title, x, y):
    axes.set_title(title, loc="left", **TITLE)
    axes.set_xlabel(x, fontsize=8, parse_math=False)
    axes.set_ylabel(y, fontsize=8, parse_math=False)


def _scatter(axes, x, y):
    axes.plot(
        x, y, "o", color=BLUE, markersize=3, markeredgewidth=0,
        alpha=0.25 if len(x) > 500 else 0.5, rasterized=True, label="rows",
    )  # fmt: skip


def _draw_quantiles(axes, residuals):
    n, ordered = len(residuals), np.sort(residuals)
    rank = np.arange(n)
    if n > _POINTS:
        even = np.linspace(0, n - 1, _POINTS).round().astype(int)
        rank = np.unique(np.concatenate([rank[:100], even, rank[-100:]]))
    normal = stats.norm.ppf((rank + 0.5) / n)
    band = stats.norm.ppf(stats.beta.ppf([[0.025], [0.975]], rank + 1, n - rank))
    axes.fill_between(normal, *band, color=GREY, alpha=0.25, linewidth=0)
    axes.axline((0, 0), slope=1, color=GREY, linewidth=0.8)
    _scatter(axes, normal, ordered[rank])
    _name_axes(axes, "Quantiles of the residuals", "of the normal", "of the residuals")


def _draw_residuals(axes, eta, residuals, drawn, scale):
    axes.axhline(0, color=GREY, linewidth=0.8)
    _scatter(axes, eta[drawn], residuals[drawn])
    _draw_means(axes, average(eta, residuals, 20))
    _name_axes(axes, "Residuals and their means", scale, "residual")


def _draw_means(axes, bins, arms=None):
    axes.errorbar(
        bins.x, bins.y, _Z * bins.error if arms is None else arms, fmt="o", color=ORANGE,
        markersize=4, linewidth=1.2, label="means",
    )  # fmt: skip


def _draw_histogram(axes, values, title, x, density=None):
    counts, edges = np.histogram(values, bins=min(60, max(10, int(2 * len(values) ** (1 / 3)))))
    axes.stairs(counts, edges, fill=True, color=BLUE, alpha=0.5)
    if density is not None:
        at = np.linspace(min(edges[0], -3), max(edges[-1], 3), 200)
        axes.plot(at, density(at) * len(values) * (edges[1] - edges[0]), color=INK, linewidth=1)
    _name_axes(axes, title, x, "rows")


def _draw_observed(axes, y, mu, drawn):
    _scatter(axes, mu[drawn], y[drawn])
    _draw_means(axes, average(mu, y, 20))
    axes.axline((mu.mean(), mu.mean()), slope=1, color=GREY, linewidth=0.8)
    _name_axes(axes, "Observed, and its means", "fitted", "observed")


def _draw_calibration(axes, y, mu):
    bins = average(mu, y, 10)
    ends = bound_share(bins.y, bins.size, _Z)
    axes.axline((0, 0), slope=1, color=GREY, linewidth=0.8)
    _draw_means(axes, bins, [np.maximum(bins.y - ends[0], 0), np.maximum(ends[1] - bins.y, 0)])
    low, high = (end(np.append(bins.x, bins.y)) for end in (np.min, np.max))
    room = 0.06 * (high - low) or 0.1
    axes.set(xlim=(low - room, high + room), ylim=(low - room, high + room))
    _name_axes(axes, "Calibration, in tenths of the rows", "mean probability", "observed share")


def _draw_mean_residuals(axes, eta, residuals, scale):
    axes.axhline(0, color=GREY, linewidth=0.8)
    _draw_means(axes, average(eta, residuals, 20))
    _name_axes(axes, "Means of the residuals", scale, "observed - fitted")


def _draw_probabilities(axes, y, mu, classes):
    edges = np.linspace(0, 1, 41)
    for k, color in enumerate((BLUE, ORANGE)):
        counts = np.histogram(mu[y == k], edges)[0]
        name = label(classes[k], 24)
        axes.stairs(counts / counts.sum(), edges, color=color, linewidth=1.5, label=name)
    legend = axes.legend(fontsize=8, frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)
    title = f"Probability of {label(classes[1], 24)}, by class"
    _name_axes(axes, title, "fitted probability", "share of the class")


def _draw_roc(axes, y, mu):
    from sklearn.metrics import roc_auc_score, roc_curve

    false, true, _ = roc_curve(y, mu)
    keep = np.unique(np.linspace(0, len(true) - 1, 500).round().astype(int))
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8)
    axes.plot(false[keep], true[keep], color=BLUE, linewidth=1.5, label="ROC")
    _name_axes(axes, f"ROC, area {roc_auc_score(y, mu):.3f}", "false positives", "true positives")


def draw_lift(y, mu, name):
    """Return the figure of how much more frequent class `name` is where the model expects it."""
    _, tied = np.unique(-mu, return_inverse=True)
    size, events = np.bincount(tied), np.bincount(tied, y)
    share, found = np.cumsum(size) / len(y), np.cumsum(events) / events.sum()
    keep = np.flatnonzero(share >= _FEW)  # of fewer rows, chance decides
    keep = keep[np.unique(np.linspace(0, len(keep) - 1, 500).round().astype(int))]
    figure = new_figure(4.2, 3.3)
    axes = figure.subplots()
    strip(axes)
    axes.axhline(1, color=GREY, linewidth=0.8)
    lift = found[keep] / share[keep]
    axes.plot(share[keep], lift, color=BLUE, linewidth=1.5, label="lift")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.05 * lift.max())
    _name_axes(axes, f"Lift of {label(name, 30)}", "share of rows, highest first", "times as many")
    return figure
