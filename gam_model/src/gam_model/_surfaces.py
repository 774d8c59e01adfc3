"""The panel of one pair: a heat map with contours, or curves of levels."""

import numpy as np
from scipy.spatial import ConvexHull, QhullError

from gam_model._drawing import (
    BLUE,
    GREY,
    INK,
    ORANGE,
    TITLE,
    label,
    load,
    name_scale,
    new_figure,
    number,
    strip,
)
from gam_model._inference import normal_quantile
from gam_model._pairs import LevelMargin
from gam_model.dates import write_iso

_POINTS = 60  # along each axis
_BANDS = 4  # levels up to which curves have bands
_CELLS = 40  # cells up to which a table of two categorical features has numbers
_TICKS = 5


def draw_pairs(estimator, rows, coverage, n_columns):
    """Return a figure of all pairs, as `plots.plot_interactions` does; `rows` may be None."""
    pairs = estimator.terms_.pairs
    importances = estimator.summary_frame()["importance"].iloc[-len(pairs) :].to_numpy()
    order = np.argsort(-importances, kind="stable").tolist()
    reach = max(abs(pair.coef - pair.coef.mean()).max() for pair in pairs) or 1.0
    n_columns = min(n_columns, len(pairs))
    n_lines = -(-len(pairs) // n_columns)
    figure = new_figure(3.6 * n_columns + 0.8, 3.1 * n_lines)
    grid, meshes = figure.add_gridspec(n_lines, n_columns), []
    for place, k in enumerate(order):
        axes = figure.add_subplot(grid[divmod(place, n_columns)])
        meshes.append(draw_pair(axes, estimator, k, reach, rows, coverage))
        axes.set_title(label(pairs[k].name, 40), loc="left", **TITLE)
    mesh = next((mesh for mesh in meshes if mesh is not None), None)
    scale = f"contribution to\n{label(name_scale(estimator), 30)}"
    if mesh is None:
        figure.axes[0].set_ylabel(scale, fontsize=8, parse_math=False)
    else:
        bar = figure.colorbar(mesh, ax=figure.axes, shrink=0.6)
        bar.set_label(scale, fontsize=8, parse_math=False)
        bar.ax.tick_params(labelsize=8)
    return figure


def draw_pair(axes, estimator, k, reach, rows=None, coverage=0.95):
    """
    Draw what two features do together.

    Parameters
    ----------
    axes : matplotlib.axes.Axes
        Where.
    estimator : GAMRegressor or GAMClassifier
        A fitted estimator.
    k : int
        Position of the pair.
    reach : float
        Contribution of the deepest colour, and end of the axis of curves.
    rows : ndarray of shape (n_samples, n_features), optional
        Rows, as the frozen model reads them; beyond their convex hull a heat map is pale.
    coverage : float, default=0.95
        Probability of the bands of curves.

    Returns
    -------
    matplotlib.cm.ScalarMappable or None
        What a colour bar explains; None for curves.
    """
    pair = estimator.terms_.pairs[k]
    sides = [_Side(estimator, pair, side) for side in (0, 1)]
    strip(axes)
    levels = [side for side in sides if side.names]
    if len(levels) == 1:
        _draw_curves(axes, estimator, k, sides, reach, coverage)
        return None
    across, down = sides
    grid = np.meshgrid(across.values, down.values)
    value = pair(*(x.ravel() for x in grid)).reshape(grid[0].shape)
    colours = load("matplotlib.colors").LinearSegmentedColormap.from_list(
        "effects", [BLUE, "#ffffff", ORANGE]
    )
    mesh = axes.pcolormesh(
        across.places, down.places, value, cmap=colours, vmin=-reach, vmax=reach,
        shading="nearest", rasterized=True,
    )  # fmt: skip
    if levels:
        if value.size <= _CELLS:
            for row, column in np.ndindex(value.shape):
                text = number(round(value[row, column], 2) + 0.0)  # without the sign of -0.0
                axes.text(column, row, text, ha="center", va="center", fontsize=7)
    else:
        if np.ptp(value) > 1e-6 * reach:
            lines = axes.contour(across.places, down.places, value, 7, colors=INK, linewidths=0.6)
            axes.clabel(lines, fontsize=6, fmt=number)
        if rows is not None:
            _draw_hull(axes, *(side.place(rows[:, side.feature]) for side in sides))
    across.label(axes.xaxis)
    down.label(axes.yaxis)
    return mesh


class _Side:
    """One feature of a pair: the values that are drawn, and where on the axis."""

    def __init__(self, estimator, pair, side):
        self.feature, self.name = pair.features[side], pair.names[side]
        self.margin, self.names = pair.margins[side], []
        self._unit = estimator._features.units.get(self.feature)
        if isinstance(self.margin, LevelMargin):
            levels = estimator.terms_.levels[self.name]
            groups = np.array(self.margin.groups)
            first = [int((groups == group).argmax()) for group in range(groups.max() + 1)]
            counts = np.bincount(groups)
            # In the order of the levels; the group of the rarest has no level of its own.
            order = sorted(range(len(first)), key=lambda group: (counts[group] > 1, first[group]))
            self.values = np.array([first[group] for group in order], dtype=float)
            self.places = np.arange(float(len(order)))
            self.names = [
                label(levels[first[group]], 16)
                if counts[group] == 1
                else f"{counts[group]} others"
                for group in order
            ]
            return
        warp = self.margin.warp
        ends = np.array(self.margin.range)
        self.places = np.linspace(*self.place(ends), _POINTS)
        self.values = self.places if warp is None else warp.invert(self.places)
        self.values = self.values.clip(*ends)

    def place(self, x):
        """Return where values are on the axis, which has the feature's own scale."""
        return x if self.margin.warp is None else self.margin.warp(x)

    def label(self, axis):
        """Name the axis and its ticks."""
        axis.set_label_text(label(self.name, 30), fontsize=8, parse_math=False)
        if self.names:
            axis.set_ticks(self.places, self.names, fontsize=7, parse_math=False)
            if axis.axis_name == "x" and sum(map(len, self.names)) > 30:
                axis.set_tick_params(rotation=90)
            return
        if self.margin.warp is None and not self._unit:
            axis.get_major_locator().set_params(nbins=_TICKS)
            return
        at = np.linspace(0, _POINTS - 1, _TICKS).round().astype(int)
        shown = [
            write_iso(x, self._unit)[:10] if self._unit else number(float(f"{x:.2g}"))
            for x in self.values[at].tolist()
        ]
        axis.set_ticks(self.places[at], shown, fontsize=7)


def _draw_hull(axes, a, b):
    """Make pale what lies beyond the convex hull of the rows."""
    there = ~(np.isnan(a) | np.isnan(b))
    points = np.unique(np.column_stack([a[there], b[there]]), axis=0)
    try:
        corners = points[ConvexHull(points).vertices]
    except (QhullError, ValueError):  # they lie on a line, or are too few
        return
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    frame = [(left, low), (left, high), (right, high), (right, low), (left, low)]
    path = load("matplotlib.path").Path
    ring = [*corners, corners[0]]
    codes = [path.MOVETO, *[path.LINETO] * (len(frame) - 1)]
    codes += [path.MOVETO, *[path.LINETO] * (len(ring) - 1)]
    patch = load("matplotlib.patches").PathPatch
    outside = path([*frame, *ring], codes)
    axes.add_patch(patch(outside, facecolor="white", alpha=0.75, linewidth=0, zorder=3))
    axes.plot(*np.transpose(ring), color=GREY, linewidth=0.8, zorder=4, label="hull")


def _draw_curves(axes, estimator, k, sides, reach, coverage):
    """Draw one curve a level."""
    pair, position = estimator.terms_.pairs[k], len(estimator.terms_.terms) + k
    smooth, listed = sides if sides[1].names else sides[::-1]
    z, colours = normal_quantile(coverage), load("matplotlib").colormaps["tab20"].colors
    axes.axhline(0, color=GREY, linewidth=0.6)
    for which, (code, name) in enumerate(zip(listed.values, listed.names, strict=True)):
        both = [smooth.values, np.full(_POINTS, code)]
        both = both if smooth is sides[0] else both[::-1]
        value, colour = pair(*both), colours[2 * which % 20 + (which >= 10)]
        if len(listed.names) <= _BANDS:
            variance = estimator._posterior.term_variance(position, np.column_stack(both))
            band = value + z * np.sqrt(variance) * np.array([[-1.0], [1.0]])
            axes.fill_between(smooth.places, *band, color=colour, alpha=0.2, linewidth=0)
        axes.plot(smooth.places, value, color=colour, linewidth=1.5, label=name)
    axes.set_ylim(-1.15 * reach, 1.15 * reach)
    columns = 1 + (len(listed.names) > 6)
    axes.legend(fontsize=6, frameon=False, ncols=columns, loc="best")
    smooth.label(axes.xaxis)
