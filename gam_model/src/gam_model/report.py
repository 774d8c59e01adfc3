"""A report of a fitted estimator: one self-contained HTML file."""

import html
import io
import math
import platform
import re
import warnings
from collections.abc import Mapping
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from urllib.parse import quote

import numpy as np
from sklearn.utils.validation import check_is_fitted

from gam_model import __version__
from gam_model._diagnostics import draw_lift
from gam_model._drawing import (
    BLUE,
    GREY,
    INK,
    ORANGE,
    PALE,
    draw_term,
    find_limits,
    load,
    name_class,
    name_scale,
    new_figure,
    number,
    share_limits,
    trace,
)
from gam_model._families import find_family
from gam_model._inference import normal_quantile
from gam_model._surfaces import draw_pairs
from gam_model._terms import LevelTerm
from gam_model.plots import plot_diagnostics

__all__ = ["write_report"]

# It runs no script and loads nothing; pictures have styles of their own.
_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
    "form-action 'none'"
)
_LISTED = 15  # levels of one feature
_COLORS = {
    BLUE: "var(--blue)",
    ORANGE: "var(--orange)",
    GREY: "var(--grey)",
    PALE: "var(--pale)",
    INK: "currentColor",
}
_STYLE = """
:root { color-scheme: light dark; --ink: #1b1b1b; --paper: #fff; --line: #d5d8dc;
  --card: #f6f7f8; --blue: #0072b2; --orange: #b84a00; --grey: #595959; --pale: #b9bec4; }
@media (prefers-color-scheme: dark) { :root { --ink: #e9e9e9; --paper: #16181b; --line: #43474d;
  --card: #1f2226; --blue: #56b4e9; --orange: #f0894d; --grey: #b3b7bc; --pale: #5b6067; }
  svg image { filter: brightness(1.7); } }
body { margin: 2rem auto; max-width: 72rem; padding: 0 1.25rem; background: var(--paper);
  color: var(--ink); font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0; }
h2 { font-size: 1.15rem; margin: 2.5rem 0 .5rem; }
section { background: var(--card); border: 1px solid var(--line); border-radius: .5rem;
  padding: 1rem; margin: 1rem 0; }
section h2 { margin-top: 0; }
a { color: var(--blue); }
p { margin: .25rem 0 1rem; max-width: 46rem; }
p.summary { color: inherit; font-size: 1.05rem; margin-top: 1rem; }
aside { border: 2px solid var(--orange); padding: .5rem 1.25rem; margin: 1.5rem 0;
  break-inside: avoid; }
aside h2 { margin: 0; }
p, figcaption span, footer { color: var(--grey); font-size: .875rem; }
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr)); gap: 1rem;
  margin: 1rem 0; }
dl.large { grid-template-columns: repeat(auto-fill, minmax(11rem, 1fr)); margin-top: 1.5rem; }
dt { color: var(--grey); font-size: .875rem; }
dd { margin: 0; font-variant-numeric: tabular-nums; }
dl.large dd { font-size: 1.6rem; font-weight: 600; line-height: 1.2; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem 1.25rem .3rem 0; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--line); min-width: 3.5rem; overflow-wrap: normal; }
th { font-weight: 600; }
td { max-width: 32rem; }
tbody th { min-width: 8rem; max-width: 26rem; overflow-wrap: anywhere; }
td.number, th.number { text-align: right; white-space: nowrap; }
.bar { display: inline-block; height: .6rem; background: var(--blue); vertical-align: baseline;
  print-color-adjust: exact; -webkit-print-color-adjust: exact; }
.curves { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(20rem, 100%), 1fr));
  grid-auto-flow: dense; gap: 1.5rem 1rem; }
figure { margin: 0; break-inside: avoid; min-width: 0; }
@media (min-width: 44rem) { figure.wide { grid-column: span 2; } }
figure.widest { grid-column: 1 / -1; }
figcaption { font-weight: 600; font-size: .875rem; line-height: 1.3; }
figcaption span { font-weight: 400; font-size: .8125rem; display: block; }
svg { display: block; width: 100%; height: auto; }
svg * { stroke-linejoin: round; }
svg text { fill: currentColor; font-family: system-ui, sans-serif !important; }
footer { margin-top: 3rem; border-top: 1px solid var(--line); padding-top: .75rem; }
tr { break-inside: avoid; }
h2 { break-after: avoid; }
@media print { body { margin: 0; max-width: none; font-size: 10pt; }
  section { border: 0; padding: 0; } }
"""


def write_report(
    path,
    estimator,
    *,
    title=None,
    metrics=None,
    X=None,
    y=None,
    date=None,
    name=None,
    about=None,
    checks=(),
    offset=None,
    page=None,
):
    """
    Write a report of a fitted estimator and its fit as one HTML file.

    Parameters
    ----------
    path : str or Path
        The file to write.
    estimator : GAMRegressor or GAMClassifier
        A fitted estimator.
    title : str, optional
        Heading; by default the estimator's class.
    metrics : dict of str to float, or of str to such dicts, optional
        What to show at the top, such as the error on rows that were held out; or the same figures
        of several sets of rows, by the sets' names, which are shown side by side.
    X : array-like of shape (n_samples, n_features), optional
        Rows whose distribution to show under the curves, and whose missing cells to count; a
        sample will do.
    y : array-like of shape (n_samples,), optional
        Their response; with it, diagnostics are drawn, and of two classes the lift.
    date : datetime or str, optional
        When the model was fitted; by default now.
    name : str, optional
        What the model is called; by default the estimator's class.
    about : dict of str to str, optional
        What the model is about, such as its data and its target.
    checks : sequence of str, optional
        What should be looked at before the model is trusted; shown first.
    offset : float or array-like of shape (n_samples,), optional
        The rows', as in the estimator's `predict`; to be given with `y` if `fit` had one.
    page : str, optional
        Where `write_page` wrote the model's page, to link to: a path relative to the report's.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    ValueError
        If the estimator is not fitted, `X` or `y` is not what `fit` saw, `y` comes without `X`, or
        the offset is missing.

    Notes
    -----
    The file holds its pictures and refers to nothing outside itself; it runs no script. The same
    arguments give the same file.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from gam_model import GAMRegressor
    >>> from gam_model.report import write_report
    >>> x = np.linspace(0, 6, 50)
    >>> path = Path(tempfile.mkdtemp(), "report.html")
    >>> write_report(path, GAMRegressor().fit(x[:, None], np.sin(x)), title="Sine")
    >>> "<h1>Sine</h1>" in path.read_text(encoding="utf-8")
    True
    """
    check_is_fitted(estimator)
    if y is not None and X is None:
        raise ValueError("y was given without X; diagnostics need both")
    rows = None if X is None else estimator._validate(X)
    kind = type(estimator).__name__ if name is None else name
    title = kind if title is None else title
    date = datetime.now(timezone.utc) if date is None else date
    date = date.strftime("%Y-%m-%d %H:%M %Z").strip() if hasattr(date, "strftime") else date
    style = load("matplotlib.style")
    with style.context(["default", {"svg.fonttype": "none", "svg.hashsalt": "gam_model"}]):
        parts = [
            _section("Fit", _describe_fit(estimator)),
            _section("Terms", _describe_terms(estimator)),
            _section("Curves", _draw_curves(estimator, rows)),
        ]
        if y is not None:
            picture = _to_svg(plot_diagnostics(estimator, X, y, offset=offset), "diagnostics")
            picture = f"{_say(_DIAGNOSTICS)}<figure>{picture}</figure>"
            picture += _draw_lift(estimator, rows, np.asarray(y), offset)
            parts.append(_section("Diagnostics", picture))
    parts.append(_section("Data", _describe_data(estimator, rows)))
    settings = [[name, repr(value)] for name, value in estimator.get_params().items()]
    parts.append(_section("Parameters", _table(["parameter", "value"], settings)))
    if metrics:
        parts.insert(0, _describe_metrics(metrics))
    if about:
        parts.insert(0, _list(about))
    parts.insert(0, f'<p class="summary">{_escape(_summarize(estimator))}</p>\n')
    if checks:
        items = "".join(f"<li>{_escape(check)}</li>\n" for check in checks)
        parts.insert(0, f"<aside>\n<h2>Check this</h2>\n<ol>\n{items}</ol>\n</aside>\n")
    link = (
        "" if page is None else _link(page, "Ask the model: answers, what if, and what to change")
    )
    family = f"{estimator._family}, link {estimator.terms_.link}"
    page = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<title>{_escape(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<header><h1>{_escape(title)}</h1>
{_say(f"{kind} · {family} · {number(float(estimator.statistics_.n_rows))} rows · {date}")}
{link}</header>
<main>
{"".join(parts)}
</main>
<footer>{_escape(" · ".join(_versions()))}</footer>
</body>
</html>
"""
    Path(path).write_text(page, encoding="utf-8")


_DIAGNOSTICS = (
    "For the rows given. If the model holds, about 95 % of the points have the line, or zero, "
    "within their 95 % intervals."
)


_LIFT = (
    "Of the rows with the highest probabilities, so many times as many belong to the class as of "
    "all rows."
)


# ---------------------------------------------------------------- sections


def _summarize(estimator):
    """Say in plain words what the model knows, for readers who go no further."""
    statistics, terms = estimator.statistics_, estimator.terms_.terms
    ranked = sorted(terms, key=lambda term: -estimator.feature_importances_[term.feature])
    named = ", ".join(term.name for term in ranked[:3])
    most = f" What matters most, on average: {named}." if named else ""
    n_pairs = len(estimator.terms_.pairs)
    joint = (
        "the joint effect of one pair" if n_pairs == 1 else f"the joint effects of {n_pairs} pairs"
    )
    pairs = f" and {joint}" if n_pairs else ""
    return (
        f"The model learnt from {number(float(statistics.n_rows))} rows, and explains "
        f"{100 * statistics.explained:.0f} % of what varies among them (deviance). Each answer is "
        f"an average plus one effect for each of {len(terms)} features{pairs}.{most}"
    )


def _describe_metrics(metrics):
    if not isinstance(next(iter(metrics.values())), Mapping):
        return _list({name: _show(value) for name, value in metrics.items()}, "large")
    figures = dict.fromkeys(figure for column in metrics.values() for figure in column)
    lines = [
        [figure, *(_show(column.get(figure, math.nan)) for column in metrics.values())]
        for figure in figures
    ]
    return _table(["figure", *metrics], lines, right=range(1, 1 + len(metrics)))


def _describe_fit(estimator):
    statistics = estimator.statistics_
    error = normal_quantile(0.95) * estimator._posterior.intercept_variance() ** 0.5
    middle = estimator.intercept_
    ends = f"{_show(middle - error)} to {_show(middle + error)}"
    return _list(
        {
            "deviance explained": f"{100 * statistics.explained:.1f} %",
            "effective df": _show(statistics.edf),
            "residual df": _show(statistics.residual_df),
            "deviance": _show(statistics.deviance),
            "null deviance": _show(statistics.null_deviance),
            "scale": _show(statistics.scale),
            "log-likelihood": _show(statistics.log_likelihood),
            "AIC": _show(statistics.aic),
            "GCV": _show(statistics.gcv),
            f"base: mean {name_scale(estimator)}": f"{_show(middle)} ({ends})",
        }
    )


def _describe_terms(estimator):
    frame = estimator.summary_frame().sort_values("importance", ascending=False, kind="stable")
    most, lines, tested = frame["importance"].max() or 1.0, [], ("ref_df", "statistic")
    for name, row in frame.iterrows():
        share, p = row["importance"] / most, row["p_value"]
        lines.append(
            [
                name,
                _show(row["importance"]),
                _Html(f'<span class="bar" style="width:{6 * share:.2f}rem"></span>'),
                f"{row['edf']:.2f}",
                *("" if np.isnan(row[figure]) else f"{row[figure]:,.2f}" for figure in tested),
                "" if np.isnan(p) else f"{p:.3f}" if p >= 0.0005 else "< 0.001",
                "" if np.isnan(row["alpha"]) else f"{row['alpha']:.3g}",
            ]
        )
    test = (
        "F" if find_family(estimator._family)[0].estimates_scale else "\N{GREEK SMALL LETTER CHI}²"
    )
    heads = ["feature", "importance", "", "edf", "ref. df", test, "p", "alpha"]
    return _say(
        "Importance is the mean size of a feature's contributions, on the scale of the "
        f"{name_scale(estimator)}; edf are effective degrees of freedom, 1 for a straight line; "
        "p tests the hypothesis that the curve is zero, given the chosen alpha."
    ) + _table(heads, lines, right={1, 3, 4, 5, 6, 7})


def _draw_curves(estimator, rows):
    terms, importances = estimator.terms_.terms, estimator.feature_importances_
    ranked = sorted(range(len(terms)), key=lambda k: -importances[terms[k].feature])
    panels = [trace(estimator, k, 0.95) for k in ranked]
    if not panels:
        return _say("No feature has a curve: all columns were constant or left out in training.")
    limits, shared = share_limits(panels, importances)
    figures = []
    for panel in panels:
        fits = panel in shared
        figure = new_figure(3.5 * panel.width, 2.1 + panel.depth)
        draw_term(figure.subplots(), panel, limits if fits else find_limits([panel]), rows, False)
        name = _escape(panel.term.name)
        wide = ("", ' class="wide"', ' class="widest"')[panel.width - 1]
        note = "" if fits else " · own scale"
        figures.append(
            f"<figure{wide}><figcaption>{name}<span>edf {panel.edf:.1f}{note}</span></figcaption>"
            f"{_to_svg(figure, f'curve of {panel.term.name}')}</figure>"
        )
    below = "ticks are knots" if rows is None else "the given rows are shown in grey"
    text = (
        f"Contribution to the {name_scale(estimator)}, with pointwise 95 % intervals; its mean "
        f"over the training rows is 0. A diamond is what a missing cell contributes, "
        f"a point beside a curve a value that many rows share and that deviates from it; {below}. "
        "A curve that would flatten the others has its own scale."
    )
    return (
        f'{_say(text)}<div class="curves">{"".join(figures)}</div>{_draw_pairs(estimator, rows)}'
    )


def _draw_pairs(estimator, rows):
    if not estimator.terms_.pairs:
        return ""
    figure = draw_pairs(estimator, rows, 0.95, 2)
    text = (
        "What features contribute in pairs, beyond what each does alone, on the same scale; half "
        "of it counts for either feature."
    )
    return f"{_say(text)}<figure>{_to_svg(figure, 'effects of pairs of features')}</figure>"


def _describe_data(estimator, rows):
    terms = {term.feature: term for term in estimator.terms_.terms}
    lines = []
    for j, name in enumerate(estimator._names()):
        term = terms.get(j)
        if term is None:
            look = estimator._features.left_out.get(j)
            seen = f"left out: {look}, with nearly as many levels as rows" if look else "constant"
        elif isinstance(term, LevelTerm):
            listed = ", ".join(map(str, term.levels[:_LISTED]))
            more = len(term.levels) - _LISTED
            seen = f"{len(term.levels)} levels: {listed}{f' and {more} more' if more > 0 else ''}"
        else:
            seen = " to ".join(map(term.show if term.unit else _show, term.range))
        missing = "none" if term is None or term.missing is None else "some"
        if rows is not None:
            missing = f"{missing}; {100 * np.isnan(rows[:, j]).mean():.1f} % of the rows given"
        lines.append([name, seen, missing])
    return _table(["feature", "in training", "missing cells"], lines)


def _versions():
    yield f"Python {platform.python_version()}"
    yield f"gam_model {__version__}"
    for name in ("numpy", "scipy", "scikit-learn", "matplotlib"):
        yield f"{name} {version(name)}"


# ---------------------------------------------------------------- HTML


class _Html(str):
    """Text that is HTML already."""


def _escape(text):
    if isinstance(text, _Html):
        return text
    return html.escape("".join(c if c.isprintable() else " " for c in str(text)))


def _show(value):
    return number(float(value)) if value == value else ""


def _say(text):
    return f"<p>{_escape(text)}</p>\n"


def _link(path, text):
    return f'<p><a href="{quote(path)}">{_escape(text)}</a></p>\n'


def _section(title, content):
    return f"<section>\n<h2>{title}</h2>\n{content}\n</section>\n"


def _list(pairs, kind=""):
    items = "".join(
        f"<div><dt>{_escape(name)}</dt><dd>{_escape(value)}</dd></div>\n"
        for name, value in pairs.items()
    )
    return f'<dl class="{kind}">\n{items}</dl>\n'


def _table(heads, lines, right=()):
    kinds = [' class="number"' if k in right else "" for k in range(len(heads))]
    head = "".join(
        f'<th scope="col"{kind}>{_escape(cell)}</th>' if cell else f"<td{kind}></td>"
        for kind, cell in zip(kinds, heads, strict=True)
    )
    body = ""
    for name, *cells in lines:
        row = "".join(
            f"<td{kind}>{_escape(cell)}</td>" for kind, cell in zip(kinds[1:], cells, strict=True)
        )
        body += f'<tr><th scope="row">{_escape(name)}</th>{row}</tr>\n'
    return (
        f'<div class="scroll" tabindex="0" role="group" aria-label="{_escape(heads[0])}">'
        f"<table>\n<thead><tr>{head}</tr></thead>\n"
        f"<tbody>\n{body}</tbody>\n</table></div>\n"
    )


def _draw_lift(estimator, rows, y, offset):
    """Return the picture of the lift, which needs rows of two classes."""
    if not hasattr(estimator, "classes_") or len(np.unique(y)) < 2:
        return ""
    mu = estimator.terms_.predict(rows, estimator._read_offset(offset, len(rows)))
    picture = draw_lift(estimator._read_response(y), mu, name_class(estimator, 1))
    return f"{_say(_LIFT)}<figure>{_to_svg(picture, 'lift')}</figure>"


def _to_svg(figure, name):
    """Return a figure as an element of the page, in the page's colours and font."""
    content = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # browsers fall back
        figure.savefig(
            content,
            format="svg",
            transparent=True,
            dpi=150,
            metadata=dict.fromkeys(["Creator", "Date", "Format", "Type"]),
        )
    text = content.getvalue().decode()
    text = text[text.index(">", text.index("<svg")) + 1 :]
    text = re.sub(r"<!--.*?-->\s*|<style.*?</style>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*"', "<g", text)  # ids must be unique in a page
    text = re.sub(r' d="[^"]*"', _round_path, text)
    for color, variable in _COLORS.items():
        text = text.replace(f": {color}", f": {variable}")
    width, height = figure.get_size_inches() * 72
    return (
        f'<svg role="img" aria-label="{_escape(name)}" viewBox="0 0 {width:g} {height:g}" '
        f'style="max-width:{width:g}pt">{text}'
    )


def _round_path(path):
    """Round coordinates to hundredths of a point."""
    short = re.sub(r"\d+\.\d{3,}", lambda number: f"{float(number[0]):.2f}", path[0])
    return f" {' '.join(short.split())}"
