"""The report is one sound HTML file that says what the model says and needs nothing else."""

import re
from datetime import datetime, timezone
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from sklearn.exceptions import NotFittedError

from gam_model import GAMClassifier, GAMRegressor
from gam_model._diagnostics import draw_lift
from gam_model.page import write_page
from gam_model.report import write_report

matplotlib = pytest.importorskip("matplotlib")

VOID = {"meta", "br", "hr", "img", "input", "link"}


class Page(HTMLParser):
    """Text, attributes and tags of a page, whose tags must be closed in order."""

    def __init__(self, path):
        super().__init__()
        self.open, self.tags, self.attributes, self.tables = [], [], [], []
        self.text = ""
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.tables.append([])
        if tag in ("td", "th"):
            self.tables[-1].append("")

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += data
        if self.open and self.open[-1] in ("td", "th"):
            self.tables[-1][-1] += data

    def row(self, name):
        """Rows of tables that begin with a name, as texts."""
        return [cells for cells in self.tables if cells[0] == name]


@pytest.fixture(scope="module")
def table():
    rng = np.random.default_rng(0)
    X = pd.DataFrame(
        {
            "age": rng.integers(18, 80, size=500).astype(float),
            "job": rng.choice(["clerk", "nurse", "pilot"], size=500),
            "always": 1.0,
        }
    )
    y = np.sin(X["age"] / 10) + (X["job"] == "pilot") + rng.normal(scale=0.3, size=500)
    X.loc[::10, "age"] = np.nan
    return X, y


@pytest.fixture(scope="module")
def gam(table):
    return GAMRegressor(df=9).fit(*table)


@pytest.fixture(scope="module")
def page(gam, table, tmp_path_factory):
    X, y = table
    path = tmp_path_factory.mktemp("report") / "report.html"
    date = datetime(2025, 3, 1, 12, 30, tzinfo=timezone.utc)
    metrics = {"r2_test": 0.87654, "rmse_test": 12345.678}
    write_report(path, gam, title="Wages", metrics=metrics, X=X, y=y, date=date)
    return Page(path)


def test_needs_nothing_else(page):
    assert not re.search("https?:", page.source)
    assert "default-src 'none'" in page.source
    assert not {"script", "link", "img", "iframe"} & set(page.tags)
    references = [
        value for name, value in page.attributes if name in ("href", "xlink:href", "src")
    ]
    assert references
    assert all(value.startswith(("#", "data:image/png;base64,")) for value in references)
    assert not re.search(r"url\((?!#)|@import", page.source)


def test_references_are_found(page):
    ids = [value for name, value in page.attributes if name == "id"]
    wanted = set(re.findall(r'url\(#([^)]+)\)|xlink:href="#([^"]+)"', page.source))
    assert wanted
    assert {a or b for a, b in wanted} <= set(ids)


def test_says_what_was_given(page):
    assert page.text.count("Wages") == 2  # title and heading
    assert "GAMRegressor · gaussian, link identity · 500 rows · 2025-03-01 12:30 UTC" in page.text
    assert "r2_test0.8765" in page.text
    assert "rmse_test12,345.7" in page.text


def test_figures_are_the_models(page, gam):
    assert f"deviance explained{100 * gam.statistics_.explained:.1f} %" in page.text
    frame = gam.summary_frame()
    (age,) = (row for row in page.row("age") if len(row) == 8)
    assert float(age[1]) == pytest.approx(frame.loc["age", "importance"], rel=1e-3)
    wanted = [f"{frame.loc['age', figure]:,.2f}" for figure in ("edf", "ref_df", "statistic")]
    assert age[3:6] == wanted
    assert age[6] == "< 0.001"
    (always,) = (row for row in page.row("always") if len(row) == 8)
    assert always == ["always", "0", "", "0.00", "", "", "", ""]
    features = [row[0] for row in page.tables if len(row) == 8][1:]
    assert features == list(frame.sort_values("importance", ascending=False).index)


def test_ranges_levels_and_missing_cells(page, gam, table, tmp_path):
    assert ["age", "18 to 79", "some; 10.0 % of the rows given"] in page.tables
    assert ["job", "3 levels: clerk, nurse, pilot", "none; 0.0 % of the rows given"] in page.tables
    assert ["always", "constant", "none; 0.0 % of the rows given"] in page.tables
    write_report(tmp_path / "report.html", gam)
    without = Page(tmp_path / "report.html")
    assert ["age", "18 to 79", "some"] in without.tables


def test_parameters_and_versions(page, gam):
    for name, value in gam.get_params().items():
        assert [name, repr(value)] in page.tables
    assert f"matplotlib {matplotlib.__version__}" in page.text


def test_pictures(page, gam, table, tmp_path):
    """One for each curve, and the diagnostics if there is a response; none has a fixed colour."""
    assert page.tags.count("svg") == 3
    assert {"curve of age", "curve of job", "diagnostics"} <= {
        value for name, value in page.attributes if name == "aria-label"
    }
    assert "pilot" in re.sub(r"(?s)<table.*?</table>", "", page.source)
    colors = set(re.findall(r"(?:fill|stroke): ([^;\"]+)", page.source.partition("</style>")[2]))
    assert colors <= {"none", "currentColor", *(f"var(--{c})" for c in colors_of_style(page))}
    write_report(tmp_path / "report.html", gam, X=table[0])
    assert Page(tmp_path / "report.html").tags.count("svg") == 2


def colors_of_style(page):
    return set(re.findall(r"--(\w+):", page.source))


def test_same_arguments_same_file(gam, table, tmp_path):
    X, y = table
    for name in ("one", "two"):
        with matplotlib.rc_context({"axes.facecolor": "red", "font.size": 30 + len(name)}):
            matplotlib.rcParams["lines.linewidth"] = 1 if name == "one" else 9
            write_report(tmp_path / name, gam, X=X, y=y, date="today")
            assert matplotlib.rcParams["svg.fonttype"] == "path"
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


HOSTILE = [
    "</style><script>alert(1)</script>",
    "$x_1$",
    "年齢",
    "line\nbreak",
    "a" * 300,
    "\x00-->",
]


def test_hostile_names(tmp_path):
    rng = np.random.default_rng(0)
    X = pd.DataFrame(rng.normal(size=(240, len(HOSTILE))), columns=HOSTILE)
    X["levels"] = [HOSTILE[k % len(HOSTILE)] for k in range(240)]
    y = np.where(X.iloc[:, 0] + rng.normal(size=240) > 0, "<b>yes", "no\x00")
    gam = GAMClassifier(df=5).fit(X, y)
    bad = "</title><script>"
    write_report(tmp_path / "report.html", gam, title=bad, metrics={bad: 1.0}, X=X, y=y, date=bad)
    page = Page(tmp_path / "report.html")
    assert not {"script", "b"} & set(page.tags)
    assert page.tags.count("style") == 1
    assert "\x00" not in page.source
    for name in HOSTILE:
        shown = name.replace("\n", " ").replace("\x00", " ")
        assert len([row for row in page.tables if row[0] == shown]) == 2
    # A browser has the glyphs that matplotlib's font lacks.
    assert "年齢" in re.sub(r"(?s)<table.*?</table>|<figcaption.*?</figcaption>", "", page.source)


def test_thirty_features_are_less_than_a_megabyte(tmp_path):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(3000, 30))
    y = X.sum(axis=1) + rng.normal(size=3000)
    gam = GAMRegressor().fit(X, y)
    for rows in (3000, 200):  # a histogram, and ticks
        write_report(tmp_path / "report.html", gam, X=X[:rows], y=y[:rows])
        page = Page(tmp_path / "report.html")
        assert page.tags.count("svg") == 31
        assert len(page.source) < 900_000


def test_no_curves(tmp_path):
    gam = GAMRegressor().fit(np.ones((20, 1)), np.arange(20.0))
    write_report(tmp_path / "report.html", gam, X=np.ones((20, 1)), y=np.arange(20.0))
    page = Page(tmp_path / "report.html")
    assert "No feature has a curve" in page.text
    assert ["x0", "constant", "none; 0.0 % of the rows given"] in page.tables


def test_refuses(gam, table, tmp_path):
    with pytest.raises(NotFittedError):
        write_report(tmp_path / "report.html", GAMRegressor())
    with pytest.raises(ValueError, match="y was given without X"):
        write_report(tmp_path / "report.html", gam, y=table[1])
    assert not (tmp_path / "report.html").exists()


def test_says_what_it_is_about(gam, tmp_path):
    metrics = {"train": {"auc": 0.91, "log_loss": 0.2}, "test": {"auc": 0.875}}
    about = {"data set": "wages.csv", "target": "<pay>"}
    path = tmp_path / "report.html"
    write_report(path, gam, name="wages_logic", metrics=metrics, about=about)
    page = Page(path)
    assert "GAMRegressor" not in page.text
    assert "data setwages.csv" in page.text
    assert "target<pay>" in page.text
    assert ["figure", "train", "test"] in page.tables
    assert ["auc", "0.91", "0.875"] in page.tables
    assert ["log_loss", "0.2", ""] in page.tables


def test_what_is_to_be_checked_comes_first(gam, tmp_path):
    path = tmp_path / "report.html"
    write_report(path, gam, metrics={"r2": 0.5}, checks=["<b>this</b>", "and that"])
    source = path.read_text()
    assert source.index("Check this") < source.index("&lt;b&gt;this") < source.index("r2")
    write_report(path, gam, metrics={"r2": 0.5})
    assert "Check this" not in path.read_text()


def test_years_are_not_split(tmp_path):
    X = np.column_stack([np.arange(1990, 2030), np.linspace(0, 123456, 40)])
    write_report(tmp_path / "report.html", GAMRegressor(df=5).fit(X, X[:, 0]), X=X)
    page = Page(tmp_path / "report.html")
    assert ["x0", "1990 to 2029", "none; 0.0 % of the rows given"] in page.tables
    assert ["x1", "0 to 123,456", "none; 0.0 % of the rows given"] in page.tables


@pytest.mark.parametrize("width", [390, 1280])
def test_everybody_can_read_it_and_go_on_to_the_page(
    gam, table, tmp_path, visit, find_violations, width
):
    X, y = table
    path = tmp_path / "report.html"
    metrics = {"train": {"r2": 0.5}, "test": {"r2": 0.4}}
    write_report(path, gam, X=X, y=y, metrics=metrics, checks=["One."], page="my page.html")
    write_page(gam, tmp_path / "my page.html", X, title="The page")
    opened = visit(path.as_uri(), width=width, wanted=[tmp_path.as_uri()])
    assert "500 rows" in opened.inner_text("p.summary")
    assert opened.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
    assert find_violations(opened) == []
    opened.get_by_role("link").click()
    assert opened.inner_text("h1") == "The page"


def test_everybody_can_read_the_report_of_a_classifier(table, tmp_path, visit, find_violations):
    """Which has pictures of calibration, ROC and lift."""
    X, y = table
    gam = GAMClassifier(df=8).fit(X, y > 0.5)
    write_report(tmp_path / "report.html", gam, X=X, y=y > 0.5)
    opened = visit((tmp_path / "report.html").as_uri(), width=390)
    assert opened.locator("[aria-label=lift]").count() == 1
    assert opened.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
    assert find_violations(opened) == []


def test_the_lift_is_that_of_the_rows(table, tmp_path):
    """Ties count together; it is drawn where there are two classes only."""
    X, y = table
    labels = np.where(y > 0.5, "yes", "no")
    gam = GAMClassifier(df=8).fit(X, labels)
    mu = gam.predict_proba(X)[:, 1].round(1)
    figure = draw_lift((labels == "yes").astype(float), mu, "yes")
    share, lift = figure.axes[0].lines[-1].get_data()
    for value, part, times in zip(np.unique(mu)[::-1], share, lift, strict=True):
        chosen = mu >= value
        assert part == pytest.approx(chosen.mean())
        assert times == pytest.approx((labels[chosen] == "yes").mean() / (labels == "yes").mean())
    for name, response, there in [("two", labels, True), ("one", np.full(len(X), "no"), False)]:
        write_report(tmp_path / f"{name}.html", gam, X=X, y=response)
        assert (("aria-label", "lift") in Page(tmp_path / f"{name}.html").attributes) == there
    write_report(tmp_path / "numbers.html", GAMRegressor(df=8).fit(X, y), X=X, y=y)
    assert ("aria-label", "lift") not in Page(tmp_path / "numbers.html").attributes
