"""The page, in real Chromium: it answers as Python does, and does all that it offers."""

import hashlib
import io
import itertools
import json
import re
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest

from gam_model import AdditiveModel, GAMClassifier, GAMRegressor
from gam_model._families import FAMILIES
from gam_model._links import LINKS
from gam_model._terms import LevelTerm, SmoothTerm
from gam_model.page import _FOLDER, _KINDS, _LINKS, _SCRIPTS, _VERSION, write_page

HOSTILE = '<img src=x onerror="window.hacked=1">'
READ = "const model = readModel(JSON.parse(find('content').textContent).model);"


def as_json(rows):
    return json.dumps([[None if np.isnan(x) else x for x in row] for row in rows.tolist()])


def ask(page, rows):
    """Return eta, mean and contributions of the page, in which a missing mean is NaN."""
    answers = page.evaluate(
        f"""text => {{ {READ}
        const rows = JSON.parse(text).map((row) => row.map((x) => (x === null ? NaN : x)));
        return JSON.stringify(rows.map((row) => {{
          const {{ eta, mean, contributions }} = answer(model, row);
          return [String(eta), String(mean), ...contributions.map(String)];
        }})); }}""",
        as_json(rows),
    )
    read = {"Infinity": np.inf, "-Infinity": -np.inf}
    table = np.array([[read.get(x) or float(x) for x in row] for row in json.loads(answers)])
    return table[:, 0], table[:, 1], table[:, 2:]


def assert_same(page, model, rows):
    """To 1e-12 of the size of what is added up, and of the mean."""
    eta, mean, contributions = ask(page, rows)
    expected = model.contributions(rows)
    size = abs(model.intercept) + abs(expected).sum(axis=1)
    assert (abs(contributions - expected) <= 1e-12 * size[:, None]).all()
    assert (abs(eta - model.eta(rows)) <= 1e-12 * size).all()
    link = LINKS[model.link]
    reached = link.reaches(model.eta(rows))
    assert np.isnan(mean[~reached]).all()
    there = rows[reached]
    if len(there):
        predicted = model.predict(there)
        slack = 1e-12 * np.maximum(
            abs(predicted), size[reached] if model.link == "identity" else 0
        )
        if model.link != "identity":  # rounding of eta, which the inverse link carries on
            moved = link.inverse(model.eta(there) + np.array([[-1e-15], [1e-15]]) * size[reached])
            slack = slack + abs(np.diff(moved, axis=0))[0]
        assert (abs(mean[reached] - predicted) <= slack).all()


# ---------------------------------------------------------------- answers


def make_model(link, seed):
    """Terms of every kind: all degrees, scales, ends, with and without missing cells, of days."""
    rng, terms = np.random.default_rng(seed), []
    scale = 0.3 if link != "inverse" else 0.02
    for degree, warp, extrapolate, missing, unit in [
        (3, None, "linear", None, None),
        (2, (5.0, 0.5), "linear", 0.25, None),
        (4, None, "constant", -0.5, None),
        (5, (-2.0, 3.0), "constant", None, None),
        (3, None, "linear", 0.1, "date"),
        (1, None, "linear", None, "duration"),
        (3, None, "error", None, None),
    ]:
        inner = np.sort(rng.uniform(size=rng.integers(0, 12) if degree > 1 else 0))
        knots = np.r_[[0.0] * (degree + 1), inner, [1.0] * (degree + 1)]
        if warp is None:
            knots = knots * 40 + 15
        coef = rng.normal(scale=scale, size=len(knots) - degree - 1)
        name = f"x{len(terms)}"
        terms.append(SmoothTerm(len(terms), name, knots, coef, extrapolate, missing, warp, unit))
    for levels, missing in [(["a", "b", "7"], 0.2), ([1.0, 2.5, True], None)]:
        effects = rng.normal(scale=scale, size=len(levels))
        terms.append(LevelTerm(len(terms), f"x{len(terms)}", levels, effects, missing))
    for warp, extrapolate, missing, atoms in [
        (None, "linear", None, [15.0, 16.0, 17.0, 19.99, 30.1, 55.0]),
        ((5.0, 0.5), "constant", 0.3, [5.0, 5.25]),
    ]:
        knots = np.r_[[0.0] * 4, 0.3, 0.7, [1.0] * 4] * (40 if warp is None else 1)
        knots += 15 if warp is None else 0
        coef, effects = rng.normal(scale=scale, size=6), rng.normal(scale=scale, size=len(atoms))
        j = len(terms)
        terms.append(
            SmoothTerm(j, f"x{j}", knots, coef, extrapolate, missing, warp, atoms=[atoms, effects])
        )
    inner = np.sort(rng.uniform(3.5, 27.0, size=6))  # a period of 24 from 3.5
    once = np.r_[3.5, inner, 27.5]
    knots = np.r_[once[-4:-1] - 24, once, once[1:4] + 24]
    coef = rng.normal(scale=scale, size=7)[np.arange(10) % 7]
    terms.append(SmoothTerm(len(terms), f"x{len(terms)}", knots, coef, "cyclic", 0.2))
    names = [*(f"x{j}" for j in range(len(terms))), "unused"]
    return AdditiveModel(1.5, terms, names, link)


def make_rows(model, n, seed=0):
    """Rows inside and outside of the ranges, at knots, of unseen levels and missing cells."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(n, len(model.features)))
    for term in model.terms:
        j = term.feature
        if isinstance(term, LevelTerm):
            rows[:, j] = rng.integers(-1, len(term.levels) + 1, size=n)
        else:
            low, high = term.range
            reach = {"error": 0.0, "cyclic": 4.0}.get(term.extrapolate, 0.5)
            spread = rng.uniform(-reach, 1 + reach, size=n)
            rows[:, j] = low + (high - low) * np.where(
                rng.random(n) < 0.2, np.rint(spread), spread
            )
            if term.warp is None:
                at = rng.random(n) < 0.1
                rows[at, j] = rng.choice(term.knots, size=at.sum())
            if term.atoms is not None:  # and what float32 makes of them, and their neighbours
                at = rng.random(n) < 0.4
                near = 1 + rng.choice([0, 0, 0.9, -0.9, 1.1, -1.1], size=at.sum()) * 2.0**-24
                rows[at, j] = rng.choice(term.atoms[0], size=at.sum()) * near
        rows[rng.random(n) < 0.1, j] = np.nan
    return rows


@pytest.mark.parametrize("link", LINKS)
def test_ten_thousand_rows_are_answered_as_in_python(link, visit, tmp_path):
    model = make_model(link, seed=len(link))
    write_page(model, tmp_path / "page.html")
    page = visit((tmp_path / "page.html").as_uri())
    assert_same(page, model, make_rows(model, 10_000))


PAIRS = [(family, link.name) for family in FAMILIES.values() for link in family.links]


@pytest.mark.parametrize(("family", "link"), PAIRS, ids=lambda each: getattr(each, "name", each))
def test_fits_and_their_intervals_are_as_in_python(family, link, visit, tmp_path, table):
    X, score = table
    y = {
        "gaussian": lambda: np.exp(score / 4),
        "binomial": lambda: (score > 0.3).astype(float),
        "poisson": lambda: np.rint(np.exp(score / 2) * 2),
        "gamma": lambda: np.exp(score / 4) + 0.1,
        "inverse_gaussian": lambda: np.exp(score / 4) + 0.1,
        "negative_binomial": lambda: np.rint(np.exp(score / 2) * 2),
        "tweedie": lambda: np.maximum(np.exp(score / 4) - 1, 0),
        "scaled_t": lambda: np.exp(score / 4),
    }[family.name.removeprefix("quasi")]()
    gam = GAMRegressor(family=family.name, link=link, df=8).fit(X, y)
    write_page(gam, tmp_path / "page.html", X)
    page = visit((tmp_path / "page.html").as_uri())
    assert_intervals(page, gam, X)


def test_cyclic_curves_and_their_intervals_are_as_in_python(visit, tmp_path):
    rng = np.random.default_rng(0)
    X = pd.DataFrame({"hour": rng.uniform(3, 27, size=600), "age": rng.uniform(size=600)})
    X.loc[::11, "hour"] = np.nan
    y = np.sin(X["hour"].fillna(0) * np.pi / 12) + X["age"] + rng.normal(scale=0.2, size=600)
    gam = GAMRegressor(cyclic={"hour": 24}, monotonic_cst={"age": 1}).fit(X, y)
    write_page(gam, tmp_path / "page.html", X)
    X["hour"] = rng.uniform(-60, 90, size=600)
    assert_intervals(visit((tmp_path / "page.html").as_uri()), gam, X)


def assert_intervals(page, gam, X):
    rows = gam._validate(X)
    assert_same(page, gam.terms_, rows)
    ends = page.evaluate(
        f"""text => {{ {READ}
        const errors = readErrors(model, JSON.parse(find('content').textContent).errors);
        return JSON.parse(text).map((row) => {{
          row = row.map((x) => (x === null ? NaN : x));
          const {{ eta }} = answer(model, row);
          const half = Z * errors.ofRow(row);
          return bracket(model.link, eta - half, eta + half);
        }}); }}""",
        as_json(rows[:500]),
    )
    expected = gam.predict_interval(X[:500])
    width = np.diff(expected, axis=1)
    assert (abs(np.array(ends, dtype=float) - expected) <= 2e-3 * width).all()


def test_bands_are_those_of_python(visit, tmp_path, table):
    X, score = table
    gam = GAMRegressor(df=8).fit(X, score)
    write_page(gam, tmp_path / "page.html", X)
    page = visit((tmp_path / "page.html").as_uri())
    rows = gam._validate(X)[:300]
    for k, term in enumerate(gam.terms_.terms):
        x = rows[:, term.feature]
        errors = page.evaluate(
            f"""([k, text]) => {{ {READ}
            const errors = readErrors(model, JSON.parse(find('content').textContent).errors);
            return JSON.parse(text)[0].map((x) => errors.ofTerm(k, x === null ? NaN : x)); }}""",
            [k, as_json(x[None, :])],
        )
        expected = np.sqrt(gam._posterior.term_variance(k, x))
        np.testing.assert_allclose(errors, expected, rtol=2e-3, atol=1e-3 * expected.max())


@pytest.fixture(scope="module")
def atomic():
    """A fit of which two columns have atoms, some of them beside each other."""
    rng = np.random.default_rng(5)
    n = 4000
    X = pd.DataFrame(
        {
            "code": np.where(
                rng.random(n) < 0.5, rng.choice([0, 1, 2, 3, 7, 20], n), rng.integers(0, 40, n)
            ).astype(float),
            "price": np.where(
                rng.random(n) < 0.4, rng.choice([9.99, 10.0, 19.99], n), rng.uniform(0, 30, n)
            ),
            "z": rng.normal(size=n),
        }
    )
    off = {0: 2, 1: -2, 2: 1.5, 3: -1, 7: 2.5, 20: -2}
    score = np.sin(X["code"] / 8) + X["code"].map(off).fillna(0) + np.cos(X["price"] / 6)
    score += 2 * np.isclose(X["price"], 9.99) - 1.5 * np.isclose(X["price"], 10.0) + 0.3 * X["z"]
    X.loc[::11, "code"] = np.nan
    gam = GAMClassifier(df=8).fit(X, score + rng.logistic(scale=0.5, size=n) > 0.5)
    assert [0 if t.atoms is None else len(t.atoms[0]) for t in gam.terms_.terms][2] == 0
    assert all(len(term.atoms[0]) >= 3 for term in gam.terms_.terms[:2])
    return gam, X


@pytest.fixture(scope="module")
def atomic_file(atomic, tmp_path_factory):
    path = tmp_path_factory.mktemp("atoms") / "page.html"
    gam, X = atomic
    write_page(gam, path, X)
    return path


def test_atoms_have_their_answers_bands_and_intervals(atomic, atomic_file, visit):
    gam, X = atomic
    page = visit(atomic_file.as_uri())
    rows = gam._validate(X)
    assert_same(page, gam.terms_, rows)
    ends = page.evaluate(
        """text => JSON.parse(text).map((row) => {
          row = row.map((x) => (x === null ? NaN : x));
          const half = Z * app.errors.ofRow(row);
          const { eta } = answer(app.model, row);
          return bracket(app.model.link, eta - half, eta + half); })""",
        as_json(rows[:500]),
    )
    expected = gam.predict_interval(X[:500])
    assert (abs(np.array(ends) - expected) <= 2e-3 * np.diff(expected, axis=1)).all()
    for k, term in enumerate(gam.terms_.terms[:2]):
        x = np.append(term.atoms[0], [0.5, 11.3, 23.7])
        found = page.evaluate(
            """([k, x]) => [x.map((x) => app.errors.ofTerm(k, x)),
                            x.map((x) => app.errors.ofCurve(k, x))]""",
            [k, x.tolist()],
        )
        for errors, atoms in zip(found, (True, False), strict=True):
            known = np.sqrt(gam._posterior.term_variance(k, x, atoms=atoms))
            np.testing.assert_allclose(errors, known, rtol=2e-3, atol=1e-3 * known.max())
        figure = page.locator("#curves figure").nth(k)
        assert figure.locator(".atom").count() == len(term.atoms[0])
        assert "A point is a value that many cases share" in figure.inner_text()
    assert page.locator("#curves figure").nth(2).locator(".atom").count() == 0


def test_a_constant_column_with_missing_cells_has_its_band(visit, tmp_path):
    rng = np.random.default_rng(3)
    X = pd.DataFrame(
        {"a": rng.uniform(size=300), "flag": np.where(rng.random(300) < 0.5, 1, np.nan)}
    )
    gam = GAMRegressor(df=6).fit(X, X["a"] + X["flag"].isna() + rng.normal(scale=0.1, size=300))
    write_page(gam, tmp_path / "page.html", X)
    page = visit((tmp_path / "page.html").as_uri())
    rows = gam._validate(X)
    assert_same(page, gam.terms_, rows)
    page.check("#interval")
    page.check("text=missing")
    case = pd.DataFrame({"a": [float(page.input_value("#field-0"))], "flag": [np.nan]})
    low, high = gam.predict_interval(case)[0]
    assert f"between {low:.4g} and {high:.4g}" in page.inner_text("#ends")


def test_an_unknown_kind_is_named(visit, tmp_path):
    model = make_model("identity", 0)
    write_page(model, tmp_path / "page.html")
    page = visit((tmp_path / "page.html").as_uri())
    told = page.evaluate(
        """() => { const { model } = JSON.parse(find('content').textContent);
        const said = [];
        const faults = [[model.terms[0], "kind", "pair"], [model, "link", "loglog"],
                        [model, "version", 99]];
        for (const [where, key, value] of faults) {
          const kept = where[key];
          where[key] = value;
          try { readModel(model); } catch (error) { said.push(error.message); }
          where[key] = kept;
        }
        return said; }"""
    )
    assert 'cannot read a term of kind "pair", of x0' in told[0]
    assert '"loglog"' in told[1]
    assert "version 99" in told[2]


def test_a_page_that_cannot_show_its_model_says_so(visit, tmp_path):
    write_page(make_model("identity", 0), tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    (tmp_path / "page.html").write_text(text.replace('"link":"identity"', '"link":"loglog"'))
    page = visit((tmp_path / "page.html").as_uri())
    told = page.inner_text("h1")
    assert told == 'This page cannot show its model: this page does not know the link "loglog".'
    assert page.locator("input").count() == 0
    assert page.problems == ['this page does not know the link "loglog"']
    page.problems.clear()


def test_python_refuses_what_the_page_cannot_read(file, visit, monkeypatch, tmp_path):
    known = [_VERSION, list(_KINDS), list(_LINKS)]
    page = visit(file.as_uri())
    assert page.evaluate("[VERSION, Object.keys(KINDS), Object.keys(LINKS)]") == known
    model = make_model("log", 0)
    for name, value, told in [
        ("_VERSION", 3, "version 4 of the format"),
        ("_KINDS", ("smooth",), "a term of kind 'levels'"),
        ("_LINKS", ("identity",), "link='log'"),
    ]:
        with monkeypatch.context() as patch:
            patch.setattr(f"gam_model.page.{name}", value)
            with pytest.raises(ValueError, match=f"cannot show this model: it has {told}"):
                write_page(model, tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_where_there_are_no_intervals_the_page_says_why(gam, visit, tmp_path):
    write_page(gam.terms_, tmp_path / "page.html")
    page = visit((tmp_path / "page.html").as_uri())
    assert "made of the saved model" in page.inner_text("#limits")
    assert not page.is_visible("#interval")

    rng = np.random.default_rng(0)
    X = pd.DataFrame({"x": rng.uniform(size=3000), "id": rng.integers(0, 600, 3000).astype(str)})
    large = GAMRegressor(df=6).fit(X, X["x"] + rng.normal(size=3000))
    with pytest.warns(UserWarning, match=r"no intervals, as the model has 6\d\d coefficients"):
        write_page(large, tmp_path / "page.html", X)
    page = visit((tmp_path / "page.html").as_uri())
    assert "too many coefficients" in page.inner_text("#limits")
    assert not page.is_visible("#interval")


def test_an_offset_counts_as_zero_and_the_page_says_so(visit, tmp_path):
    rng = np.random.default_rng(0)
    x, time = rng.uniform(size=(500, 1)), rng.uniform(1, 5, size=500)
    y = rng.poisson(time * np.exp(x[:, 0]))
    gam = GAMRegressor(family="poisson", df=6).fit(x, y, offset=np.log(time))
    with pytest.warns(UserWarning, match="which counts as 0 on the page"):
        write_page(gam, tmp_path / "page.html", x)
    page = visit((tmp_path / "page.html").as_uri())
    assert page.inner_text("#limits").endswith("all answers here are for an offset of 0.")
    assert page.is_visible("#interval")
    case = [[float(page.input_value("#field-0"))]]
    assert page.inner_text("#mean") == f"{gam.predict(case, offset=0)[0]:.4g}"


def test_a_large_file_is_warned_of(tmp_path):
    levels = [f"customer {i:06d}" for i in range(20_000)]
    model = AdditiveModel(0.0, [LevelTerm(0, "id", levels, np.arange(20_000) / 7)], ["id"])
    with pytest.warns(UserWarning, match=r"page.html has [\d,]+ kB, more than the 500 kB"):
        write_page(model, tmp_path / "page.html")
    assert (tmp_path / "page.html").stat().st_size > 500_000


# ---------------------------------------------------------------- the page itself


@pytest.fixture(scope="module")
def table():
    rng = np.random.default_rng(0)
    n = 1500
    X = pd.DataFrame(
        {
            "age": rng.integers(18, 80, size=n).astype(float),
            "income": np.exp(rng.normal(10, 1.2, size=n)).round(),
            "job": rng.choice(["clerk", "nurse", "pilot"], size=n),
            "since": pd.Timestamp("2015-01-01") + pd.to_timedelta(rng.integers(0, 3000, n), "D"),
            "late": rng.poisson(0.6, size=n).astype(float),
        }
    )
    score = (
        np.sin(X["age"] / 10)
        - 0.5 * (np.log(X["income"]) - 10)
        + 0.8 * (X["job"] == "pilot")
        + 0.9 * X["late"]
        + rng.logistic(scale=0.4, size=n)
    )
    X.loc[::9, "age"] = np.nan
    return X, score.to_numpy()


WORDS = {
    "title": "Will this customer fall behind?",
    "about": "For the loan officers of a bank.",
    "outcome": "Probability of falling behind",
    "good": "low",
    "threshold": 0.4,
    "labels": ["accept", "decline"],
    "features": {
        "age": {"label": "Age", "unit": "years", "change": "never"},
        "income": {"label": "Monthly income", "unit": "EUR", "change": "up"},
        "late": {
            "label": "Late payments",
            "change": "down",
            "reason": "The number of late payments, {value}",
        },
        "job": {"levels": {"nurse": "Nurse or carer"}},
    },
}


@pytest.fixture(scope="module")
def gam(table):
    X, score = table
    return GAMClassifier(df=8).fit(X, score > 0.8)


@pytest.fixture(scope="module")
def file(gam, table, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "page.html"
    write_page(gam, path, table[0], **WORDS)
    return path


def show_percent(mean):
    return f"{100 * mean:.3g}%"


def test_the_page_is_small_and_about_its_case(file, gam, table, visit):
    assert file.stat().st_size < 150_000
    page = visit(file.as_uri())
    X, _ = table
    typical = pd.DataFrame(
        {
            "age": [X["age"].median()],
            "income": [X["income"].median()],
            "job": X["job"].mode(),
            "since": [X["since"].median()],
            "late": [X["late"].median()],
        }
    )
    assert page.inner_text("h1") == WORDS["title"]
    assert page.input_value("#field-0") == f"{typical['age'][0]:g}"
    assert page.input_value("#field-3") == str(typical["since"][0].date())
    assert page.inner_text("#mean") == show_percent(gam.predict_proba(typical)[0, 1])
    assert page.inner_text("#decision") == "accept"
    assert page.locator("option", has_text="Nurse or carer").count() == 1


def enter(page, **values):
    for name, value in values.items():
        field = f"#field-{['age', 'income', 'job', 'since', 'late'].index(name)}"
        if name == "job":
            page.select_option(field, label=value)
        else:
            page.fill(field, str(value))


def test_a_changed_case_is_answered_with_reasons_that_add_up(file, gam, visit):
    page = visit(file.as_uri())
    enter(page, age=25, income=6000, job="pilot", since="2019-06-30", late=2)
    case = pd.DataFrame(
        {
            "age": [25.0],
            "income": [6000.0],
            "job": ["pilot"],
            "since": pd.to_datetime(["2019-06-30"]),
            "late": [2.0],
        }
    )
    mean = gam.predict_proba(case)[0, 1]
    assert page.inner_text("#mean") == show_percent(mean)
    assert page.inner_text("#decision") == "decline"
    effects = dict(zip(case.columns, gam.contributions(case)[0], strict=True))
    lines = [
        [cell.inner_text() for cell in line.locator("th, td").all()]
        for line in page.locator("#waterfall tbody tr").all()
    ]
    names = [line[0].split("\n")[0] for line in lines]
    labels = {"Age": "age", "Monthly income": "income", "Late payments": "late"}
    ranked = sorted(effects, key=lambda name: -abs(effects[name]))
    assert [labels.get(name, name) for name in names[1:-1]] == ranked
    for name, line in zip(ranked, lines[1:-1], strict=True):
        assert float(line[2]) == pytest.approx(effects[name], rel=6e-3)
    assert lines[-1][3] == show_percent(mean)
    against = [name for name in ranked if effects[name] > 0][:4]
    told = page.locator("#codes li").all_inner_texts()
    assert len(told) == len(against)
    late = told[against.index("late")]
    assert late == "The number of late payments, 2"

    page.check("#interval")
    low, high = gam.predict_interval(case)[0]
    assert f"between {show_percent(low)} and {show_percent(high)}" in page.inner_text("#ends")


def test_values_outside_the_range_are_marked_in_words(file, visit):
    page = visit(file.as_uri())
    assert page.inner_text("#notes") == ""
    enter(page, income=10**9)
    assert page.inner_text("#field-1-note") == "outside the training range"
    assert "Monthly income" in page.inner_text("#notes")
    enter(page, income=10_000, job="(another, not seen in training)")
    assert page.inner_text("#field-1-note") == ""
    assert page.inner_text("#field-2-note") == "not seen in training"


def test_missing_can_be_said_where_training_had_it(file, gam, table, visit):
    page = visit(file.as_uri())
    assert page.get_by_label("missing").count() == 1
    page.check("#field-0-missing")
    assert page.is_disabled("#field-0")
    row = page.evaluate("() => app.row.map(String)")
    assert row[0] == "NaN"
    mean = gam.terms_.predict(np.array([row], dtype=float))[0]
    assert page.inner_text("#mean") == show_percent(mean)


def test_what_if_compares_with_the_pinned_case(file, visit):
    page = visit(file.as_uri())
    before = page.inner_text("#mean")
    enter(page, late=3)
    after = page.inner_text("#mean")
    told = page.locator("#comparison dd").all_inner_texts()
    assert told[:2] == [before, after]
    change = float(after[:-1]) - float(before[:-1])
    assert float(told[2].split()[0]) == pytest.approx(change, abs=0.06)
    line = page.locator("#comparison tbody tr").all_inner_texts()
    assert len(line) == 1
    assert line[0].split("\t")[:3] == ["Late payments", "0", "3"]
    page.click("#pin")
    assert "is the pinned one" in page.inner_text("#comparison")
    enter(page, late=0)
    assert page.locator("#comparison dd").all_inner_texts()[:2] == [after, before]
    page.click("#back")
    assert page.inner_text("#mean") == after


# ---------------------------------------------------------------- what would have to change


def cross_alone(model, row, threshold, rules, whole):
    """Find by trying a grid: for each feature the nearest value that crosses, or None."""
    eta, parts = model.eta(row[None])[0], model.contributions(row[None])[0]
    above = model.predict(row[None])[0] >= threshold
    found, best = {}, {}
    for term in model.terms:
        j, change = term.feature, rules.get(term.name, "any")
        if change == "never":
            continue
        if isinstance(term, LevelTerm):
            tried = np.arange(len(term.levels), dtype=float)
            size = abs(term(tried) - term.at(row[j]))
        elif np.isnan(row[j]):
            continue
        else:
            low, high = term.range
            tried = np.arange(np.ceil(low), np.floor(high) + 1) if term.name in whole else None
            if tried is None:
                tried = np.linspace(low, high, 20_001)
                tried = (
                    tried
                    if term.warp is None
                    else np.unique(np.r_[tried, np.geomspace(max(low, 1e-3), high, 20_001)])
                )
            if term.atoms is not None:
                tried = np.union1d(tried, term.atoms[0])
            size = abs(tried - row[j])
        allowed = {"any": tried != row[j], "up": tried > row[j], "down": tried < row[j]}[change]
        tried, size = tried[allowed], size[allowed]
        if not len(tried):
            continue
        moved = eta - parts[j] + term(tried)
        crossed = (LINKS[model.link].inverse(moved) >= threshold) != above
        rising = LINKS[model.link].inverse(eta + 1e-3) > LINKS[model.link].inverse(eta)
        sign = 1 if rising != above else -1
        best[term.name] = max(0.0, (sign * (term(tried) - parts[j])).max())
        if crossed.any():
            found[term.name] = tried[crossed][size[crossed].argmin()]
    goal = LINKS[model.link].link(threshold)
    gains, need = np.sort(list(best.values()))[::-1], abs(goal - eta)
    enough = np.flatnonzero(np.cumsum(gains) >= need)
    return found, (int(enough[0]) + 1 if len(enough) else 0)


RULES = {"age": "never", "income": "up", "late": "down"}


@pytest.mark.parametrize("threshold", [0.05, 0.4, 0.9])
def test_the_smallest_changes_are_those_of_a_search_in_python(threshold, file, gam, table, visit):
    page = visit(file.as_uri())
    rows = gam._validate(table[0])[::40].copy()
    rows[::3, 2] = -1
    found = page.evaluate(
        """([text, threshold]) => JSON.stringify(JSON.parse(text).map((row) => {
          row = row.map((x) => (x === null ? NaN : x));
          const above = answer(app.model, row).mean >= threshold;
          const crosses = (row) => answer(app.model, row).mean >= threshold !== above;
          const rules = [];
          for (const { term, change, step, whole } of app.fields)
            rules[term.feature] = { change, step, whole };
          const goals = findGoals(app.model.link, threshold, !above);
          const { alone, together } = findRecourse(app.model, row, crosses, goals, rules);
          const put = (row, { term, to }) => replace(row, term.feature, to);
          const changed = together.reduce(put, row);
          const pair = ({ term, to }) => [term.name, to];
          return [alone.map(pair), together.map(pair), crosses(changed)];
        }))""",
        [as_json(rows), threshold],
    )
    kinds = set()
    for row, (alone, together, crossed) in zip(rows, json.loads(found), strict=True):
        expected, n = cross_alone(
            gam.terms_, row, threshold, RULES, {"age", "since", "late", "income"}
        )
        assert {name for name, _ in alone} == set(expected)
        for name, to in alone:
            assert to == expected[name], (name, row)
        if not alone:
            assert len(together) == n
            assert crossed == (n > 0)
        for name, to in together:
            at = gam.terms_.features.index(name)
            change = RULES.get(name, "any")
            assert change != "never"
            assert change == "any" or (to > row[at]) == (change == "up")
        kinds.add("alone" if alone else "together" if together else "none")
    assert kinds >= {"alone", "none"}


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.8, 0.99])
@pytest.mark.parametrize("change", ["any", "up", "down"])
def test_the_smallest_changes_know_atoms(change, threshold, atomic, atomic_file, visit):
    gam, X = atomic
    page = visit(atomic_file.as_uri())
    rows = gam._validate(X)[:300]
    found = page.evaluate(
        """([text, threshold, change]) => JSON.stringify(JSON.parse(text).map((row) => {
          row = row.map((x) => (x === null ? NaN : x));
          const above = answer(app.model, row).mean >= threshold;
          const crosses = (row) => answer(app.model, row).mean >= threshold !== above;
          const rules = [{ change, step: 1, whole: true }, { change, step: 1e-9, whole: false },
                         { change: "never" }];
          const goals = findGoals(app.model.link, threshold, !above);
          const { alone, together } = findRecourse(app.model, row, crosses, goals, rules);
          const put = (row, { term, to }) => replace(row, term.feature, to);
          return [alone.map(({ term, to }) => [term.name, to]), together.length,
                  crosses(together.reduce(put, row))]; }))""",
        [as_json(rows), threshold, change],
    )
    rules = {"code": change, "price": change, "z": "never"}
    grid = 30 / 20_000
    for row, (alone, n_together, crossed) in zip(rows, json.loads(found), strict=True):
        expected, n = cross_alone(gam.terms_, row, threshold, rules, {"code"})
        alone = dict(alone)
        assert set(alone) >= set(expected)
        assert ("code" in alone) == ("code" in expected)
        for name, to in alone.items():
            changed = row.copy()
            j = gam.terms_.features.index(name)
            changed[j] = to
            both = gam.terms_.predict([row, changed]) >= threshold
            assert both[0] != both[1]
            assert change == "any" or (to > row[j]) == (change == "up")
            if name == "code":
                assert to == expected[name], row
            elif name in expected:
                assert abs(to - row[j]) <= abs(expected[name] - row[j]) + 1e-6, row
                assert abs(to - row[j]) >= abs(expected[name] - row[j]) - grid, row
        if not alone:
            assert n_together == n
            assert crossed == (n > 0)


@pytest.mark.parametrize("start", [20.0, 70.0])
def test_a_change_holds_as_it_is_shown(start, visit, tmp_path):
    """Only between 50.02 and 50.08 does the answer cross, and values are shown in tenths."""
    knots = np.r_[[0.0] * 4, np.arange(50.02, 50.085, 0.01), [100.0] * 4]
    coef = np.r_[np.zeros(4), [4.0] * 3, np.zeros(4)]
    term = SmoothTerm(0, "x", knots, coef, "linear", None)
    ends = np.r_[[0.0] * 4, [100.0] * 4]
    atoms = [[33.3371], [3.0]]
    level = SmoothTerm(1, "atom", ends, np.zeros(4), "linear", None, atoms=atoms)
    model = AdditiveModel(0.0, [term, level], ["x", "atom"], "identity")
    write_page(model, tmp_path / "page.html", threshold=2.0)
    page = visit((tmp_path / "page.html").as_uri())
    assert page.evaluate("() => app.fields[0].step") == 0.1
    page.fill("#field-0", str(start))
    x, atom = page.locator("#changes tbody td:nth-child(3)").all_inner_texts()
    assert 50 < float(x) < 50.1
    assert atom == "33.3371"
    now = page.evaluate("() => app.row")
    assert model.predict([[float(x), now[1]], [now[0], float(atom)]]).min() >= 2
    page.locator("#changes button").first.click()
    assert page.input_value("#field-0") == x


@pytest.mark.parametrize("link", LINKS)
def test_exact_changes_hold_for_every_link_and_kind_of_term(link, visit, tmp_path):
    model = make_model(link, seed=3)
    write_page(model, tmp_path / "page.html")
    page = visit((tmp_path / "page.html").as_uri())
    rows = make_rows(model, 60, seed=1)
    eta = model.eta(rows)
    rows = rows[LINKS[link].reaches(eta) & ~np.isnan(rows[:, 6])]
    # Between two rows' answers, as equal ones may differ in the last digit.
    threshold = float(np.sort(model.predict(rows))[len(rows) // 2 - 1 :][:2].mean())
    found = page.evaluate(
        """([text, threshold]) => JSON.stringify(JSON.parse(text).map((row) => {
          row = row.map((x) => (x === null ? NaN : x));
          const above = answer(app.model, row).mean >= threshold;
          const crosses = (row) => {
            const { mean } = answer(app.model, row);
            return Number.isFinite(mean) && mean >= threshold !== above;
          };
          const rule = { change: "any", step: 1e-9, whole: false };
          const rules = app.model.terms.map(() => rule);
          const goals = findGoals(app.model.link, threshold, !above);
          const { alone } = findRecourse(app.model, row, crosses, goals, rules);
          return alone.map(({ term, to }) => [term.name, to]);
        }))""",
        [as_json(rows), threshold],
    )
    n_found = 0
    for row, alone in zip(rows, json.loads(found), strict=True):
        with np.errstate(divide="ignore", over="ignore"):
            expected, _ = cross_alone(model, row, threshold, {}, set())
        alone = dict(alone)
        assert set(expected) <= set(alone)
        for name, to in alone.items():
            term = model.terms[int(name[1:])]
            changed = row.copy()
            changed[term.feature] = to
            both = model.predict([row, changed]) >= threshold
            assert both[0] != both[1]
            if name in expected and not isinstance(term, LevelTerm):
                grid = np.diff(term.range)[0] / 20_000
                assert (
                    abs(to - row[term.feature]) <= abs(expected[name] - row[term.feature]) + grid
                )
            n_found += 1
    assert n_found > 20


def test_changes_are_offered_and_tried(file, gam, visit):
    page = visit(file.as_uri())
    enter(page, age=30, income=20_000, job="pilot", since="2019-06-30", late=1)
    assert page.inner_text("#decision") == "decline"
    assert "alone would give: accept" in page.inner_text("#changes")
    lines = page.locator("#changes tbody tr")
    assert "Age" not in page.locator("#changes table").inner_text()
    lines.first.get_by_role("button").click()
    assert page.inner_text("#decision") == "accept"
    enter(page, age=30, income=900, job="pilot", late=4)
    assert re.search(r"No change alone is enough. These \d changes", page.inner_text("#changes"))
    page.click("text=Try these changes")
    assert page.inner_text("#decision") == "accept"


def test_what_cannot_be_changed_is_said(gam, table, visit, tmp_path):
    fixed = {name: {"change": "never"} for name in gam.terms_.features}
    write_page(gam, tmp_path / "page.html", table[0], threshold=0.5, features=fixed)
    page = visit((tmp_path / "page.html").as_uri())
    assert "Nothing that may change would be enough" in page.inner_text("#changes")


def test_a_threshold_can_be_entered(gam, table, visit, tmp_path):
    write_page(gam, tmp_path / "page.html", table[0])
    page = visit((tmp_path / "page.html").as_uri())
    assert page.inner_text("#changes") == "Enter a threshold."
    page.fill("#threshold", "40")
    assert "alone would give: 40% or more" in page.inner_text("#changes")
    page.fill("#threshold", "140")
    assert "Nothing that may change" in page.inner_text("#changes")


# ---------------------------------------------------------------- files


def write_rows(table, n):
    X, _ = table
    X = X.iloc[np.resize(np.arange(len(X)), n)].reset_index(drop=True)
    X.insert(0, "id", [f"c,{i}" for i in range(n)])
    return X


def load(page, path, button="#file"):
    page.set_input_files(button, path)


def test_ten_thousand_rows_of_a_file_are_scored_in_two_seconds(file, gam, table, visit, tmp_path):
    rows = write_rows(table, 10_000)
    rows.to_csv(tmp_path / "rows.csv", index=False)
    page = visit(file.as_uri())
    page.wait_for_load_state()
    start = time.perf_counter()
    load(page, tmp_path / "rows.csv")
    page.wait_for_selector("#scores table")
    took = time.perf_counter() - start
    assert page.inner_text("#message") == "10,000 rows, 0 of them without an answer."
    assert took < 2
    with page.expect_download() as download:
        page.click("text=Save all rows with answers")
    saved = pd.read_csv(download.value.path())
    assert list(saved["id"]) == list(rows["id"])
    expected = gam.predict_proba(rows.drop(columns="id"))[:, 1]
    np.testing.assert_allclose(saved["Answer"], expected, rtol=1e-12)
    assert ((saved["Decision"] == "decline") == (expected >= 0.4)).all()
    effects = gam.contributions(rows.drop(columns="id"))
    worst = np.array(gam.terms_.features)[effects.argmax(axis=1)]
    labels = {"age": "Age", "income": "Monthly", "late": "The number"}
    assert saved["Reason 1"].isna().equals(pd.Series(effects.max(axis=1) <= 0))
    for reason, feature in zip(saved["Reason 1"], worst, strict=True):
        assert pd.isna(reason) or reason.startswith(labels.get(feature, feature))
    assert page.locator("#scores tbody tr").count() == 50
    page.get_by_role("button", name="Open row 7 as the case").click()
    assert page.inner_text("#mean") == show_percent(expected[6])


def test_rows_of_a_file_know_atoms(atomic, atomic_file, visit, tmp_path):
    gam, X = atomic
    rows = X.iloc[:500]
    rows.to_csv(tmp_path / "rows.csv", index=False)
    page = visit(atomic_file.as_uri())
    load(page, tmp_path / "rows.csv")
    page.wait_for_selector("#scores table")
    with page.expect_download() as download:
        page.click("text=Save all rows with answers")
    saved = pd.read_csv(download.value.path())
    marked = [np.isin(gam._validate(rows)[:, t.feature], t.atoms[0]) for t in gam.terms_.terms[:2]]
    assert all(0 < each.sum() < len(rows) for each in marked)
    expected = gam.terms_.predict(gam._validate(rows))
    np.testing.assert_allclose(saved["Answer"], expected, rtol=1e-12)


def test_rows_that_cannot_be_read_say_why_and_others_are_answered(file, gam, visit, tmp_path):
    lines = [
        "late;since;job;income;age;note",
        "1;2019-06-30;pilot;20000;30;fine",
        '1;2019-06-30;"chef; or cook";20000;NA;unseen and missing',
        "one;2019-06-30;pilot;20000;30;no number",
        "1;30.6.2019;pilot;20000;30;no date",
        "1;2019-06-30;pilot;;30;missing",
        "1;2019-06-30;pilot",
    ]
    (tmp_path / "rows.csv").write_text("\r\n".join(lines), encoding="utf-8-sig")
    page = visit(file.as_uri())
    load(page, tmp_path / "rows.csv")
    page.wait_for_selector("#scores table")
    assert page.inner_text("#message") == "6 rows, 4 of them without an answer."
    with page.expect_download() as download:
        page.click("text=Save all rows with answers")
    saved = pd.read_csv(download.value.path(), sep=";")
    days = (pd.Timestamp("2019-06-30") - pd.Timestamp("1970-01-01")).days
    expected = gam.terms_.predict([[30, 20000, 2, days, 1], [np.nan, 20000, -1, days, 1]])
    np.testing.assert_allclose(saved["Answer"][:2], expected, rtol=1e-12)
    told = list(saved["Problem"][2:5])
    assert told[0] == 'late: "one" is not a number.'
    assert told[1].startswith('since: "30.6.2019" is not a date')
    assert told[2] == "income is missing, as it never was in training."
    assert "3 cells, the header 6" in page.inner_text("#scores")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"age,job\n1,2\n", "does not name: income, since, late"),
        (b"age,age,income,job,since,late\n1,1,1,1,1,1\n", "names age twice"),
        (b"age,income,job,since,late\n", "no rows"),
        (b"age,income\n\xff,1\n", "UTF-8"),
        (b'age,income\n"1,1\n', "quotation mark"),
    ],
)
def test_a_file_that_is_no_table_of_the_model_is_refused(content, told, file, visit, tmp_path):
    (tmp_path / "rows.csv").write_bytes(content)
    page = visit(file.as_uri())
    load(page, tmp_path / "rows.csv")
    page.wait_for_function("() => find('message').textContent !== ''")
    assert told in page.inner_text("#message")


def test_levels_are_found_as_the_server_finds_them(visit, tmp_path):
    from program_toolkit.table import Table

    levels = ["1", "01", "2.0", "true", "x", "NA"]
    numbers = [1.0, 2.5, 7.0]
    model = AdditiveModel(
        0.0,
        [
            LevelTerm(0, "text", levels, range(1, 7), 9.0),
            LevelTerm(1, "number", numbers, [1, 2, 3], 9.0),
        ],
        ["text", "number"],
    )
    cells = [
        "1",
        "01",
        "1.0",
        "2",
        "2.0",
        "True",
        "x",
        "NA",
        "n/a",
        "",
        "7",
        "7.00",
        "2.5e0",
        "no",
    ]
    table = Table.of_columns([cells, cells], ("text", "number"))
    codes = table.matrix(["text", "number"], model.levels, missing=True, unknown="keep")
    write_page(model, tmp_path / "page.html")
    page = visit((tmp_path / "page.html").as_uri())
    read = page.evaluate(
        """(cells) => app.model.terms.map((term) => cells.map((cell) => {
          const code = makeCellReader(term)(cell);
          return Number.isNaN(code) ? -9 : code; }))""",
        cells,
    )
    np.testing.assert_array_equal(np.transpose(read), np.nan_to_num(codes, nan=-9))


@pytest.mark.parametrize("unit", ["date", "duration"])
def test_days_are_read_as_in_python(unit, visit, file):
    from gam_model.dates import read_iso

    texts = {
        "date": [
            "2024-02-29",
            "2023-02-29",
            "1969-12-31T23:59:59.123456789Z",
            "0001-01-01",
            "0000-01-01",
            "2024-05-01T12:00",
            "2024-05-01t12:00:00+05:30",
            "2024-05-01 24:00",
            "2024-5-1",
            "24-05-01",
            "9999-12-31T23:59:59,9-23:59",
            "2024-05-01T12:00:00+0530",
        ],
        "duration": [
            "P3D",
            "PT1.5S",
            "-P1DT2H30M",
            "P1W2D",
            "P-3D",
            "P",
            "PT",
            "P1M",
            "3D",
            "PT0.000000001S",
            "P999999999DT23H",
        ],
    }[unit]
    expected = []
    for text in texts:
        try:
            expected.append(read_iso(text, unit))
        except ValueError:
            expected.append(None)
    page = visit(file.as_uri())
    assert (
        page.evaluate("([texts, unit]) => texts.map((text) => readIso(text, unit))", [texts, unit])
        == expected
    )
    assert None in expected


def test_a_case_is_saved_and_opened_again(file, gam, table, visit, tmp_path):
    page = visit(file.as_uri())
    enter(page, income=6000, job="pilot", since="2019-06-30", late=2)
    page.check("#field-0-missing")
    before = page.inner_text("#mean")
    with page.expect_download() as download:
        page.click("#save")
    case = json.loads(download.value.path().read_text())
    assert case["inputs"]["age"] is None
    assert case["inputs"]["job"] == "pilot"
    assert case["answer"] == pytest.approx(float(before[:-1]) / 100, rel=5e-3)
    gam.terms_.save(tmp_path / "gam.json")
    assert case["model"] == hashlib.sha256((tmp_path / "gam.json").read_bytes()).hexdigest()

    other = visit(file.as_uri())
    (tmp_path / "case.json").write_text(json.dumps(case))
    load(other, tmp_path / "case.json", "#open")
    other.wait_for_function("() => find('message').textContent !== ''")
    assert other.inner_text("#mean") == before
    assert other.inner_text("#message") == "The case is open, and pinned."

    (tmp_path / "case.json").write_text(json.dumps(case | {"model": "another"}))
    load(other, tmp_path / "case.json", "#open")
    other.wait_for_function("() => find('message').textContent.includes('another model')")
    (tmp_path / "case.json").write_text('{"format": "something"}')
    load(other, tmp_path / "case.json", "#open")
    other.wait_for_function("() => find('message').textContent.includes('not a case')")


def test_a_case_prints_as_a_record_of_one_page(file, visit):
    page = visit(file.as_uri())
    enter(page, age=25, income=10**9, job="pilot", since="2019-06-30", late=2)
    mean = page.inner_text("#mean")
    pdf = page.pdf(prefer_css_page_size=True)
    assert len(re.findall(rb"/Type\s*/Page\b", pdf)) == 1
    page.evaluate("() => window.dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print")
    text = page.locator("body").inner_text()
    sha256 = page.evaluate("() => app.sha256")
    year = str(pd.Timestamp.now().year)
    for part in (
        WORDS["title"],
        mean,
        "Age",
        "25 years",
        "pilot",
        sha256,
        "gam_model",
        year,
        "95 % confidence",
        "outside the training range",
        "Late payments",
    ):
        assert part in text
    assert "Pin this case" not in text


# ---------------------------------------------------------------- how it looks


def many_features(n):
    rng = np.random.default_rng(1)
    X = pd.DataFrame(rng.normal(size=(600, n)), columns=[f"feature {j}" for j in range(n)])
    return GAMRegressor(df=15, alpha=1.0).fit(X, np.sin(X).sum(axis=1)), X


def test_a_slider_of_thirty_features_is_drawn_within_fifty_milliseconds(visit, tmp_path):
    gam, X = many_features(30)
    write_page(gam, tmp_path / "page.html", X, threshold=3.0)
    assert (tmp_path / "page.html").stat().st_size < 500_000
    page = visit((tmp_path / "page.html").as_uri())
    page.check("#interval")
    times = page.evaluate(
        """async () => {
          const slider = document.querySelectorAll("input[type=range]")[7];
          const times = [];
          for (let i = 0; i < 40; i++) {
            await new Promise(requestAnimationFrame);
            const start = performance.now();
            slider.value = 25 * i;
            slider.dispatchEvent(new Event("input", { bubbles: true }));
            document.body.offsetHeight; // lays the page out
            times.push(performance.now() - start);
          }
          return times; }"""
    )
    assert np.median(times) < 50


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("name", ["en", "de"])
def test_everybody_can_use_it_at_any_width(
    name, width, file, table, visit, find_violations, tmp_path
):
    page = visit(f"{file.as_uri()}#{name}", width=width)
    write_rows(table, 20).to_csv(tmp_path / "rows.csv", index=False)
    load(page, tmp_path / "rows.csv")
    enter(page, late=3, income=10**9)
    page.wait_for_selector("#scores table")
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate("() => document.documentElement.lang") == name
    assert find_violations(page) == []


def test_the_keyboard_is_enough(file, visit):
    page = visit(file.as_uri())
    before = page.inner_text("#mean")
    page.focus("#field-4")
    page.keyboard.press("Tab")  # on to its slider
    page.keyboard.press("End")
    assert page.input_value("#field-4") == page.evaluate(
        "() => String(app.fields[4].term.range[1])"
    )
    assert page.inner_text("#mean") != before
    focusable = page.evaluate(
        """() => [...document.querySelectorAll("button, input, select, [tabindex]")].filter(
          (each) => each.checkVisibility() && !each.disabled && each.tabIndex < 0).length"""
    )
    assert focusable == 0


def test_both_languages_say_the_same_things():
    english, german = (
        json.loads((_FOLDER / f"{name}.json").read_text("utf-8")) for name in ("en", "de")
    )
    assert list(english) == list(german)
    for key, text in english.items():
        assert set(re.findall(r"{\w+}", text)) == set(re.findall(r"{\w+}", german[key])), key
    sources = "".join((_FOLDER / f"{name}.js").read_text() for name in (*_SCRIPTS, "endpoint"))
    sources += (_FOLDER / "page.html").read_text()
    used = set(re.findall(r"""(?:say\(|new Problem\(|cell\(|data-text=)"(\w+)\"""", sources))
    used |= set(re.findall(r'chooseText\(page, "(\w+)"', sources))
    used |= {key for key in english if re.sub("(Endpoint|Texts|Rules)$", "", key) in used}
    used |= {"scale_score", "scale_unknown", "ruleHolds", "ruleFails"}
    used |= {f"scale_{name}" for name in LINKS if name != "identity"} | {"language"}
    used |= {
        "notIso",
        "notNumber",
        "unseen",
        "outside",
        "caseOpened",
        "otherModel",
    }  # chosen by "?"
    python = _FOLDER.with_name("page.py").read_text()  # names what the page cannot show
    used |= set(re.findall(r'"(noIntervals\w+|offset\w+)"', python))
    assert used == set(english)


def test_the_language_can_be_chosen(file, visit):
    page = visit(file.as_uri())
    page.select_option("#language", "de")
    page.wait_for_function("() => document.documentElement.lang === 'de'")
    assert "Warum diese Antwort?" in page.inner_text("main")
    assert "," in page.inner_text("#mean")


# ---------------------------------------------------------------- safety


def hostile_model():
    term = SmoothTerm(0, HOSTILE, [0, 0, 0, 1, 1, 1], [0, 1, 2.0])
    levels = LevelTerm(
        1, "</script><script>window.hacked=1</script>", [HOSTILE, "<b>"], [1, -1], 0.5
    )
    return AdditiveModel(0.0, [term, levels], [term.name, levels.name, "<i>unused</i>"], "logit")


def test_nothing_of_data_or_model_is_markup(visit, tmp_path):
    words = dict.fromkeys(("title", "about", "outcome", "unit"), HOSTILE)
    feature = {"label": HOSTILE + "1", "description": HOSTILE, "unit": HOSTILE, "reason": HOSTILE}
    write_page(
        hostile_model(),
        tmp_path / "page.html",
        threshold=0.5,
        labels=[HOSTILE, HOSTILE],
        features={HOSTILE: feature},
        **words,
    )
    page = visit((tmp_path / "page.html").as_uri())
    rows = io.StringIO()
    pd.DataFrame({name: [HOSTILE] for name in hostile_model().features}).to_csv(rows, index=False)
    (tmp_path / "rows.csv").write_text(rows.getvalue())
    load(page, tmp_path / "rows.csv")
    page.wait_for_selector("#scores table")
    page.evaluate("() => window.dispatchEvent(new Event('beforeprint'))")
    assert page.inner_text("h1") == HOSTILE
    assert page.evaluate("() => document.querySelectorAll('img, b, i').length") == 0
    assert page.evaluate("() => document.scripts.length") == 2
    assert page.evaluate("() => window.hacked") is None


def test_the_policy_refuses_scripts_styles_and_connections(file, visit):
    page = visit(file.as_uri())
    refused = page.evaluate(
        """async () => {
          const refused = [];
          const note = ({ effectiveDirective }) => refused.push(effectiveDirective);
          document.addEventListener("securitypolicyviolation", note);
          try { document.body.innerHTML += "<p>"; } catch { refused.push("markup"); }
          const script = document.createElement("script");
          try { script.text = "window.hacked = 1"; } catch { refused.push("script text"); }
          document.body.append(script);
          const style = document.createElement("style");
          style.textContent = "p { color: red }";
          document.body.append(style);
          document.body.append(Object.assign(new Image(), { src: "http://127.0.0.1:9/x.png" }));
          await fetch("http://127.0.0.1:9/").catch(() => {});
          await new Promise((done) => setTimeout(done, 100));
          return refused; }"""
    )
    assert {"markup", "script text", "style-src-elem", "img-src", "connect-src"} <= set(refused)
    assert page.evaluate("() => window.hacked") is None
    page.problems.clear()  # the browser reports each of these


def test_the_file_refers_to_nothing_outside_itself(file):
    source = file.read_text(encoding="utf-8")
    assert not re.search(r"""(?:src|href)\s*=|@import|url\(""", source.split("<script>")[0])
    urls = set(re.findall(r"https?://[^\s\"')]+", source))
    assert urls == {"http://www.w3.org/2000/svg"}
    scripts = "".join((_FOLDER / f"{name}.js").read_text() for name in _SCRIPTS)
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", scripts)


def test_a_saved_cell_is_no_formula(visit, tmp_path):
    model = AdditiveModel(0.0, [LevelTerm(0, "=cmd", ["a", "b"], [1.0, -1.0])], ["=cmd"])
    write_page(model, tmp_path / "page.html")
    (tmp_path / "rows.csv").write_text("=cmd\na\n")
    page = visit((tmp_path / "page.html").as_uri())
    load(page, tmp_path / "rows.csv")
    with page.expect_download() as download:
        page.click("text=Save all rows with answers")
    assert pd.read_csv(download.value.path())["Reason 1"][0] == "'=cmd: a"


# ---------------------------------------------------------------- written by Python


def test_no_training_row_is_in_the_page(table, tmp_path):
    X, score = table
    X = X.drop(columns=["job", "since"]).dropna() + 0.123456
    gam = GAMRegressor(df=6).fit(X, score[X.index])
    write_page(gam, tmp_path / "page.html", X)
    source = (tmp_path / "page.html").read_text(encoding="utf-8")
    data = json.loads(re.search(r'id="content">(.*?)</script>', source)[1])["data"]
    assert all(set(each) == {"typical", "whole", "histogram"} for each in data)
    kept = {repr(x) for x in X.to_numpy().ravel()}
    ends = {repr(x) for x in itertools.chain(X.min(), X.max())}  # a frozen curve's own ends
    numbers = set(re.findall(r"-?\d+\.\d+", source))
    assert not numbers & (kept - ends)


def test_the_command_writes_the_page_of_a_saved_model(gam, visit, tmp_path):
    gam.terms_.save(tmp_path / "gam.json")
    (tmp_path / "words.json").write_text(json.dumps(WORDS))
    command = [sys.executable, "-m", "gam_model", "page", "gam.json", "--words", "words.json"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    page = visit((tmp_path / "page.html").as_uri())
    assert page.inner_text("h1") == WORDS["title"]
    assert not page.is_visible("#interval")
    row = page.evaluate("() => app.row")
    assert page.inner_text("#mean") == show_percent(gam.terms_.predict([row])[0])
    (tmp_path / "words.json").write_text('{"titel": "x"}')
    done = subprocess.run(command, cwd=tmp_path, check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert "have the key 'titel'; known are title, about" in done.stderr


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ({"good": "yes"}, "good must be one of"),
        ({"threshold": 1.5}, "between 0 and 1"),
        ({"threshold": "1"}, "threshold must be a number"),
        ({"labels": ["one"]}, "two texts"),
        ({"language": "fr"}, "language must be one of"),
        ({"features": {"height": {}}}, "'height'; the model has 'age'"),
        ({"features": {"age": {"colour": "red"}}}, "'colour'"),
        ({"features": {"age": {"change": "sometimes"}}}, "change must be one of"),
        ({"features": {"job": {"levels": {"cook": "Cook"}}}}, "no level 'cook'"),
        ({"features": {"age": "Age"}}, "must be a dict"),
    ],
)
def test_wrong_words_are_refused(words, told, gam, tmp_path):
    with pytest.raises(ValueError, match=told):
        write_page(gam, tmp_path / "page.html", **words)
    assert not (tmp_path / "page.html").exists()


def test_what_is_no_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match="fitted GAMRegressor"):
        write_page(GAMRegressor(), tmp_path / "page.html")


def test_zero_stays_zero_on_a_scale_of_its_own(visit, tmp_path):
    """An amount that is mostly 0, whose own scale takes 0 to 1e-13 and back."""
    rng = np.random.default_rng(0)
    gain = np.where(rng.random(2000) < 0.6, 0.0, np.rint(np.exp(rng.normal(6, 2, size=2000))))
    X = pd.DataFrame({"gain": gain, "other": rng.normal(size=2000)})
    y = np.log1p(gain) + rng.normal(scale=0.3, size=2000)
    gam = GAMRegressor(df=8).fit(X, y)
    assert gam.terms_.terms[0].warp is not None
    write_page(gam, tmp_path / "page.html", X, threshold=2.0)
    page = visit((tmp_path / "page.html").as_uri())
    assert page.input_value("#field-0") == "0"
    assert "In training: 0 to" in page.inner_text("#field-0-range")
    page.fill("#field-0", "500")
    page.focus("#field-0")
    page.keyboard.press("Tab")
    page.keyboard.press("Home")
    assert page.input_value("#field-0") == "0"
    assert page.locator("#curves svg text", has_text=re.compile("^0$")).count() > 0


def test_an_empty_field_is_no_case_and_enter_sends_nothing(visit, tmp_path, gauss3):
    X, y = gauss3
    write_page(GAMRegressor().fit(X, y), tmp_path / "page.html", X)
    page = visit((tmp_path / "page.html").as_uri())
    url, mean = page.url, page.inner_text("#mean")
    value = page.input_value("#field-0")
    page.fill("#field-0", "")
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.input_value("#field-0") == value
    assert (page.url, page.inner_text("#mean")) == (url, mean)


def test_intervals_with_many_levels(visit, tmp_path):
    rng = np.random.default_rng(0)
    X = pd.DataFrame({"x": rng.uniform(size=2000)})
    X["level"] = [f"level {code}" for code in rng.integers(80, size=2000)]
    X["level"] = X["level"].astype("category")
    gam = GAMRegressor(df=8).fit(X, X["x"] + rng.normal(scale=0.1, size=2000))
    write_page(gam, tmp_path / "page.html", X)
    page = visit((tmp_path / "page.html").as_uri())
    rows = gam._validate(X)[:200]
    rows[:20, 1] = -1
    errors = page.evaluate(
        "(text) => JSON.parse(text).map((row) => app.errors.ofRow(row))", as_json(rows)
    )
    np.testing.assert_allclose(errors, np.sqrt(gam._posterior.variance(rows)), rtol=2e-3)
