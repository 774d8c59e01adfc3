"""Drawing helpers: figures, colours, labels, and the panel of one term."""

import functools
import io
import math
from dataclasses import dataclass, field
from numbers import Real

import numpy as np

from gam_model import _optional
from gam_model._inference import normal_quantile
from gam_model._terms import LevelTerm
from gam_model.dates import from_days

# Okabe and Ito's palette, which is safe for colour-blind readers.
BLUE, ORANGE = "#0072b2", "#d55e00"
INK, GREY, PALE = "#000000", "#767676", "#b8b8b8"
TITLE = {"fontsize": 9, "fontweight": "bold", "parse_math": False}
_LEVELS = 60  # of one feature: more would not be legible
_FAR = 20  # times the distance of three quarters: there an axis is logarithmic
_REACH = 8  # times the mean contribution: a curve that goes beyond has its own scale
_FIRST, _LAST = -719_162, 2_932_897  # days of Python's dates, which matplotlib draws
_BARS = 40  # atoms whose intervals are drawn; of more, only the points
_RUG = 200  # rows: more are drawn as a histogram
_SCALES = {
    "identity": "prediction",
    "log": "log of the mean",
    "inverse": "1 / mean",
    "sqrt": "root of the mean",
    "logit": "log-odds",
    "probit": "probit",
    "cloglog": "complementary log-log",
}


def load(name):
    """Import a module of matplotlib, which is optional."""
    return _optional.load(name, "plots need", "plots")


def new_figure(width, height):
    """Return a figure of the given size in inches, shown by notebooks and without a window."""
    figure = load("matplotlib.figure").Figure(
        figsize=(width, height), layout="constrained", facecolor="white"
    )
    # IPython knows how to show figures only after pyplot is imported; until then it calls this.
    figure._repr_png_ = functools.partial(_write_png, figure)
    return figure


def _write_png(figure):
    content = io.BytesIO()
    figure.savefig(content, format="png")
    return content.getvalue()


def strip(axes, *sides):
    """Hide the upper and right sides of the frame, and `sides` too."""
    axes.spines[["top", "right", *sides]].set_visible(False)
    axes.tick_params(labelsize=8)


# ---------------------------------------------------------------- words


def name_scale(estimator):
    """Return a description of the scale of eta."""
    link = estimator.terms_.link
    if hasattr(estimator, "classes_"):
        return f"{_SCALES[link]} of {name_class(estimator)}"
    return _SCALES[link]


def name_class(estimator, k=1):
    """Return one of two classes in words; the probability is that of the second."""
    value = getattr(estimator, "classes_", (0, 1))[k]
    return str(value) if isinstance(value, str) else f"y = {value}"


def label(text, room, legible=True):
    """
    Make one line of any text.

    Parameters
    ----------
    text : object
        Name of a column, level or class.
    room : int
        Number of characters that fit; a longer text loses its middle.
    legible : bool, default=True
        Whether to write characters that matplotlib's font lacks as their codes.

    Returns
    -------
    str
    """
    text = " ".join(str(text).split())
    text = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    if legible and not text.isascii():
        known = _characters()
        text = "".join(c if ord(c) in known else f"\\u{ord(c):04x}" for c in text)
    if len(text) <= room:
        return text
    tail = (room - 1) // 3
    return f"{text[: room - 1 - tail]}…{text[len(text) - tail :]}"


def _characters():
    """Return the code points that can be written both plain and bold."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    known = []
    for weight in ("normal", "bold"):
        families = FontProperties().get_family()
        wanted = [FontProperties(family=[name], weight=weight) for name in families]
        known.append(set().union(*(get_font(findfont(font)).get_charmap() for font in wanted)))
    return known[0] & known[1]


def number(value):
    """
    Format a number with 4 significant digits, integers in full, with a true minus sign.

    Thousands separators start at 10,000, so years have none.
    """
    if isinstance(value, Real) and not isinstance(value, bool):
        value = float(value)
        if abs(value) < 1e9 and (value.is_integer() or abs(value) >= 1e3):
            comma = "," if abs(value) >= 1e4 else ""
            value = f"{value:{comma}.{0 if value.is_integer() else 1}f}"
        else:
            value = f"{value:.4g}"
    return str(value).replace("-", "\N{MINUS SIGN}")


def fixed(value, decimals, sign="-"):
    """Format a number with the given decimals; if None, with 3 significant digits."""
    form = f"{sign}.3g" if decimals is None else f"{sign},.{decimals}f"
    return format(value, form).replace("-", "\N{MINUS SIGN}")


def find_decimals(values):
    """Return the decimals that give the largest value 3 digits; None if it is out of scale."""
    size = max(map(abs, values))
    if not 1e-4 <= size < 1e9:
        return None if size else 0
    return max(0, 2 - math.floor(math.log10(size)))


# ---------------------------------------------------------------- one term


@dataclass(frozen=True, eq=False)
class Panel:
    """
    One term at the points where it is drawn.

    Parameters
    ----------
    term : SmoothTerm or LevelTerm
        The term.
    edf : float
        Its effective degrees of freedom.
    x : ndarray of shape (n_points,)
        Values, or codes of levels.
    curve : ndarray of shape (3, n_points)
        Contribution there, and the lower and upper end of its interval.
    missing : ndarray of shape (3, 1) or (3, 0)
        The same of a missing cell, if there were any in training.
    atoms : ndarray of shape (4, n_atoms)
        Values that deviate from the curve, and the same as `curve` there.
    linear : float
        Beyond this distance from 0 the axis of x is logarithmic; inf if it isn't.
    few : bool
        Whether x are all the values that the column has.
    """

    term: object
    edf: float
    x: np.ndarray
    curve: np.ndarray
    missing: np.ndarray
    atoms: np.ndarray = field(default_factory=lambda: np.empty((4, 0)))
    linear: float = np.inf
    few: bool = False

    @property
    def levels(self):
        """Levels that are drawn, a list; empty for a numeric feature."""
        if not isinstance(self.term, LevelTerm):
            return []
        return [self.term.levels[int(code)] for code in self.x]

    @property
    def width(self):
        """Number of grid columns that the panel spans."""
        return 1 + (len(self.levels) > 14) + (len(self.levels) > 28)

    @property
    def depth(self):
        """Inches that vertical level labels need below the axes; 0 if they are horizontal."""
        longest = max((len(label(level, 20)) for level in self.levels), default=0)
        lying = (len(self.levels) + self.missing.shape[1]) * max(longest, 6) * 0.075
        return 0.07 * longest if lying > 2.8 * self.width else 0.0


def trace(estimator, k, coverage):
    """Return the `Panel` of the k-th term."""
    term, linear, few = estimator.terms_.terms[k], np.inf, False
    if isinstance(term, LevelTerm):
        x = np.arange(float(len(term.levels)))
        if len(x) > _LEVELS:
            x = np.sort(np.argsort(-abs(term(x)), kind="stable")[:_LEVELS]).astype(float)
    elif estimator._posterior.basis.terms[k].values is not None:
        x, few = estimator._posterior.basis.terms[k].values, True
    else:
        knots = np.unique(term.knots)
        if not term.unit:
            linear = _find_linear(knots if term.warp is None else term.warp.invert(knots))
        x = _spread(*term.range, linear)
    points, z = x if term.missing is None else np.append(x, np.nan), normal_quantile(coverage)

    def bound(evaluate, x, **how):
        error = z * np.sqrt(estimator._posterior.term_variance(k, x, **how))
        return evaluate(x) + np.array([[0.0], [-1.0], [1.0]]) * error

    atoms = np.empty((4, 0))
    if isinstance(term, LevelTerm):
        curve = bound(term, points)
    else:
        curve = bound(term.curve, points, atoms=False)
        if term.atoms is not None:
            atoms = np.vstack([term.atoms[0], bound(term, term.atoms[0])])
    edf = estimator.edf_[term.feature]
    return Panel(term, edf, x, curve[:, : len(x)], curve[:, len(x) :], atoms, linear, few)


def _find_linear(knots):
    """Detect from quantiles whether a few values are outlying, and where they begin."""
    if len(knots) < 4:
        return np.inf
    low, high = knots[[0, -1]]
    first, last = np.quantile(knots, [0.25, 0.75])
    right, left = (high - low > _FAR * inner for inner in (last - low, high - first))
    bulk = max(abs(first if left else low), abs(last if right else high))
    if not (left or right) or max(-low, high) < _FAR / 2 * bulk:
        return np.inf
    ten = 10.0 ** math.floor(math.log10(bulk))
    return next(step * ten for step in (1, 2, 5, 10) if step * ten >= bulk)


def _spread(low, high, linear):
    """Return about 100 points that are evenly spaced on the axis."""
    if linear == np.inf:
        return np.linspace(low, high, 100)
    parts = [np.linspace(max(low, -linear), min(high, linear), 100)]
    if high > linear:
        parts.append(np.geomspace(linear, high, 50))
    if low < -linear:
        parts.append(-np.geomspace(linear, -low, 50))
    return np.clip(np.unique(np.concatenate(parts)), low, high)


def find_limits(panels):
    """Return limits of y that show all curves, and bands so far as curves keep a third."""
    tall = np.hstack(
        [part for panel in panels for part in (panel.curve, panel.missing, panel.atoms[1:])]
    )
    low, high = min(tall[0].min(), 0.0), max(tall[0].max(), 0.0)
    room = (high - low) or np.inf
    low, high = max(tall[1].min(), low - room), min(tall[2].max(), high + room)
    room = (high - low) or 1.0
    return low - 0.18 * room, high + 0.05 * room  # the distribution of x is below


def share_limits(panels, importances):
    """
    Find the limits of y that panels share.

    A curve that extends many times the mean contribution does so where there are few rows; it
    would flatten the others and is excluded.

    Parameters
    ----------
    panels : list of Panel
        The panels.
    importances : ndarray of shape (n_features,)
        Mean size of each feature's contributions.

    Returns
    -------
    limits : tuple of float
        y from and to.
    shared : list of Panel
        Panels within the limits.
    """
    reach = _REACH * max(importances[panel.term.feature] for panel in panels)
    heights = [abs(np.append(panel.curve[0], panel.atoms[1])).max() for panel in panels]
    shared = [panel for panel, height in zip(panels, heights, strict=True) if height <= reach]
    shared = shared or panels
    return find_limits(shared), shared


def draw_term(axes, panel, limits, rows=None, legible=True):
    """
    Draw one term.

    Parameters
    ----------
    axes : matplotlib.axes.Axes
        Where.
    panel : Panel
        What.
    limits : tuple of float
        y from and to.
    rows : ndarray of shape (n_samples, n_features), optional
        Rows, as the frozen model reads them, whose distribution to show.
    legible : bool, default=True
        As in `label`.
    """
    strip(axes)
    axes.axhline(0, color=PALE, linewidth=0.8, zorder=0)
    x, given = panel.x, None
    if rows is not None:
        given = rows[:, panel.term.feature]
        given = given[~np.isnan(given)]
    if panel.levels:
        x = np.arange(len(x))
        where = _draw_levels(axes, panel, given, legible)
    else:
        where = _scale_axis(axes, panel)
        _draw_distribution(axes, panel, given)
        middle, *band = panel.curve
        if panel.few or len(x) == 1:
            axes.errorbar(
                x, middle, _arms(panel.curve), fmt="o", color=BLUE, markersize=4, label="values"
            )
        else:
            axes.fill_between(x, *band, color=BLUE, alpha=0.2, linewidth=0)
            axes.plot(x, middle, color=BLUE, linewidth=1.5, label="curve")
        if panel.atoms.size:
            where_atoms, *curve = panel.atoms
            few = len(where_atoms) <= _BARS
            axes.errorbar(
                where_atoms, curve[0], _arms(curve) if few else None, fmt="o", color=BLUE,
                markersize=3 if few else 2, linewidth=0.8, label="values",
            )  # fmt: skip
    if panel.missing.size:
        line = axes.errorbar(
            [where], panel.missing[0], _arms(panel.missing), fmt="D", color=ORANGE, markersize=4
        )
        line.set_label("missing")
        axes.annotate(
            "missing",
            (where, 0),
            (0, -4.5),
            axes.get_xaxis_transform(),
            "offset points",
            ha="center",
            va="top",
            fontsize=8,
            color=ORANGE,
            rotation=90 if panel.depth else 0,
        )
    axes.set_ylim(limits)


def _arms(curve):
    return [curve[0] - curve[1], curve[2] - curve[0]]


def _draw_levels(axes, panel, codes, legible):
    """Draw points with intervals; return where a missing cell goes."""
    at = np.arange(len(panel.x))
    if codes is not None and len(codes):
        counts = np.array([np.count_nonzero(codes == code) for code in panel.x])
        height = 0.12 * counts / max(counts.max(), 1)
        axes.bar(at, height, 0.7, color=PALE, transform=axes.get_xaxis_transform(), zorder=0)
    axes.errorbar(
        at, panel.curve[0], _arms(panel.curve), fmt="o", color=BLUE, markersize=4, label="levels"
    )
    texts = [label(level, 20, legible) for level in panel.levels]
    upright = 90 if panel.depth else 0
    axes.set_xticks(at, texts, rotation=upright, parse_math=False, fontsize=8)
    axes.tick_params(axis="x", length=0)
    where = len(at) + 0.2
    axes.set_xlim(-0.7, where + 0.5 if panel.missing.size else len(at) - 0.3)
    left = len(panel.term.levels) - len(at)
    if left:
        axes.set_xlabel(f"and {left} levels with smaller effects", fontsize=8, color=GREY)
    return where


def _scale_axis(axes, panel):
    """Set the scale, limits and ticks of x; return where a missing cell goes."""
    low, high = panel.x[[0, -1]]
    if low == high:
        low, high = low - 0.5, high + 0.5
    notes = []
    if panel.linear < np.inf:
        decades = math.log10(max(-low, high) / panel.linear)
        axes.set_xscale("symlog", linthresh=panel.linear, linscale=max(decades, 0.5))
        ten = math.ceil(math.log10(panel.linear * 1.5))
        tens = range(ten, math.floor(math.log10(max(-low, high, 10.0**ten))) + 1)
        beyond = [10.0**k for k in tens][:: 1 + (len(tens) - 1) // 3]
        ticks = [panel.linear / 2, panel.linear, *beyond]
        ticks = np.array([*(-tick for tick in ticks[::-1]), 0.0, *ticks])
        notes.append(f"logarithmic beyond {number(panel.linear)}")
    if panel.term.warp is not None:
        notes.append(f"smooth in {panel.term.warp.describe('x')}")
    dated = panel.term.unit == "date" and low >= _FIRST and high < _LAST
    if panel.term.unit and not dated:
        since = " since 1970" if panel.term.unit == "date" else ""
        notes.append(f"days{since}")
    axes.set_xlabel("\n".join(notes), fontsize=8, color=GREY)
    to_axis = axes.xaxis.get_transform()
    start, end = to_axis.transform([low, high])
    span = end - start
    right = end + (0.22 if panel.missing.size else 0.03) * span
    marks = np.array([start - 0.03 * span, end + 0.12 * span, right])
    left, where, right = to_axis.inverted().transform(marks)
    axes.set_xlim(left, right)
    if len(panel.x) == 1:
        ticks = panel.x
    elif dated:
        ticks = _place_dates(low, high)
    elif panel.linear == np.inf:
        axes.locator_params(axis="x", nbins=6)
        ticks = axes.get_xticks()
    ticks = ticks[(ticks >= left) & (ticks <= (high if panel.missing.size else right))]
    texts = _write_dates(ticks) if dated else [_shorten(tick) for tick in ticks.tolist()]
    # Far from 0, ticks may differ only in truncated digits; matplotlib's formatter handles this.
    axes.set_xticks(ticks, texts if len(set(texts)) == len(texts) else None)
    axes.minorticks_off()
    return where


def _place_dates(low, high):
    """Return ticks at the beginnings of years, months, days or hours, as days."""
    ends = from_days([low, high], "date").tolist()
    dates = load("matplotlib.dates")
    ticks = dates.AutoDateLocator(minticks=3, maxticks=8).tick_values(*ends)
    return np.asarray(ticks) - dates.date2num(np.datetime64(0, "D"))  # the epoch may be set


def _write_dates(ticks):
    """Format dates as briefly as distinguishes them, and below the last one the omitted part."""
    dates = load("matplotlib.dates")
    formatter = dates.ConciseDateFormatter(dates.AutoDateLocator(), tz="UTC")
    texts = formatter.format_ticks(ticks + dates.date2num(np.datetime64(0, "D")))
    offset = formatter.get_offset()
    return [*texts[:-1], f"{texts[-1]}\n{offset}"] if offset and texts else texts


def _shorten(tick):
    if 1e4 <= abs(tick) < 1e6:
        return f"{number(tick / 1e3)}k"
    return f"{number(tick / 1e6)}M" if 1e6 <= abs(tick) < 1e9 else number(tick)


def _draw_distribution(axes, panel, values):
    """Draw a rug, or for many values a histogram, along the lower edge."""
    below = axes.get_xaxis_transform()
    if values is None or len(values) <= _RUG:
        values = np.unique(panel.term.knots) if values is None else values
        if len(panel.x) == 1:
            values = panel.x
        heights = np.tile([0.0, 0.03, np.nan], len(values))  # one line, lifted between ticks
        axes.plot(
            np.repeat(values, 3), heights, color=GREY, linewidth=0.8, transform=below, label="rug"
        )
        return
    if len(panel.x) == 1:
        return
    to_axis = axes.xaxis.get_transform()
    ends = to_axis.transform(panel.x[[0, -1]])
    edges = to_axis.inverted().transform(np.linspace(*ends, 41))
    counts = np.histogram(values, edges)[0]
    height = 0.12 * counts / max(counts.max(), 1)
    axes.stairs(height, edges, fill=True, color=PALE, transform=below, zorder=0)
