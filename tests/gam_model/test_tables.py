"""Real tables: names, categories, missing cells, columns that repeat one another."""

import datetime as dt
import warnings
from decimal import Decimal

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone

from gam_model import GAMClassifier, GAMRegressor
from gam_model.plots import plot_terms
from gam_model.report import write_report

EFFECTS = {"clerk": -1.0, "cook": 0.0, "judge": 2.0}


@pytest.fixture(scope="module")
def columns():
    rng = np.random.default_rng(0)
    n = 1500
    age = rng.uniform(20, 70, size=n)
    job = rng.choice(list(EFFECTS), size=n, p=[0.5, 0.3, 0.2])
    eta = np.sin(age / 10) + np.vectorize(EFFECTS.get)(job)
    holes = rng.uniform(size=n) < 0.1
    return {
        "age": np.where(holes, np.nan, age),
        "job": job,
        "rate": rng.normal(size=n),
        "y": eta + 3 * holes * (1 - np.sin(age / 10) / 3) + rng.normal(scale=0.1, size=n),
    }


@pytest.fixture(params=["pandas text", "pandas category", "polars text", "polars enum"])
def frame(columns, request):
    table = {name: columns[name] for name in ("age", "job", "rate")}
    library, kind = request.param.split()
    if library == "pandas":
        table = pd.DataFrame(table)
        return table.astype({"job": "category"}) if kind == "category" else table
    table = pl.DataFrame(table)
    return (
        table.with_columns(pl.col("job").cast(pl.Enum(list(EFFECTS)))) if kind == "enum" else table
    )


class TestFrames:
    def test_levels_and_holes_are_found(self, frame, columns):
        gam = GAMRegressor().fit(frame, columns["y"])
        assert list(gam.feature_names_in_) == ["age", "job", "rate"]
        curves = gam.terms()
        jobs = curves["job"].set_index("x")["contribution"]
        assert list(jobs.index) == list(EFFECTS)
        assert_allclose(jobs - jobs["cook"], list(EFFECTS.values()), atol=0.05)
        assert (curves["job"]["lower"] < curves["job"]["contribution"]).all()
        age = curves["age"]
        assert np.isnan(age["x"].iloc[-1])
        assert_allclose(
            age["contribution"] - age["contribution"].iloc[-1],
            [*(np.sin(age["x"][:-1] / 10) - 3), 0],
            atol=0.15,
        )

    def test_every_kind_of_frame_is_the_same(self, frame, columns):
        gam = GAMRegressor().fit(frame, columns["y"])
        plain = pd.DataFrame({name: columns[name] for name in ("age", "job", "rate")})
        assert_array_equal(
            gam.predict(frame), GAMRegressor().fit(plain, columns["y"]).predict(plain)
        )
        assert_allclose(gam.contributions(frame).sum(axis=1) + gam.intercept_, gam.predict(frame))

    def test_the_frozen_model_reads_codes(self, frame, columns, tmp_path):
        gam = GAMRegressor().fit(frame, columns["y"])
        assert gam.terms_.levels == {"job": tuple(EFFECTS)}
        assert gam.terms_.missing == ["age"]
        codes = pd.Categorical(columns["job"], categories=list(EFFECTS)).codes
        X = np.column_stack([columns["age"], codes, columns["rate"]])
        gam.terms_.save(tmp_path / "gam.json")
        loaded = type(gam.terms_).load(tmp_path / "gam.json")
        assert_array_equal(loaded.predict(X), gam.predict(frame))
        assert_array_equal([loaded.predict(row[None])[0] for row in X], loaded.predict(X))


def test_an_unseen_level_is_the_base(columns):
    X = pd.DataFrame({"job": columns["job"], "rate": columns["rate"]})
    gam = GAMRegressor().fit(X, columns["y"])
    row = X[:1].assign(job="pilot")
    with pytest.warns(UserWarning, match="column 'job' holds levels that fit did not see"):
        assert gam.contributions(row)[0, 0] == 0
    with pytest.warns(UserWarning, match="'job'"):
        assert gam.explain(row)["value"]["job"] == "pilot"
    with pytest.warns(UserWarning, match="column 'rate' holds missing cells that fit did not"):
        assert gam.contributions(X[:1].assign(rate=np.nan))[0, 1] == 0


def test_a_rare_level_is_drawn_to_the_base():
    rng = np.random.default_rng(0)
    level = np.repeat(["a", "b", "c", "d", "e", "rare"], [200, 200, 200, 200, 200, 2])
    y = rng.normal(size=6).repeat([200, 200, 200, 200, 200, 2]) + rng.normal(size=1002)
    y[-2:] += 6
    gam = GAMRegressor().fit(pd.DataFrame({"level": level}), y)
    effect = gam.terms()["level"].set_index("x")["contribution"]["rare"]
    assert 0 < effect < 0.97 * (y[-2:].mean() - y.mean())


def test_levels_of_one_mean_have_no_effect():
    rng = np.random.default_rng(0)
    X = pd.DataFrame({"level": rng.choice(list("abcdefgh"), size=2000)})
    gam = GAMRegressor().fit(X, rng.normal(size=2000))
    assert gam.edf_[0] < 3
    assert abs(gam.contributions(X)).max() < 0.1


class TestCategoricalFeatures:
    @pytest.mark.parametrize("which", [[1], ["b"], [False, True]])
    def test_a_column_of_numbers(self, which):
        rng = np.random.default_rng(0)
        X = pd.DataFrame({"a": rng.normal(size=300), "b": rng.choice([1, 5, 9], size=300)})
        y = (X["b"] == 5) + rng.normal(scale=0.1, size=300)
        gam = GAMRegressor(categorical_features=which).fit(X, y)
        assert list(gam.terms()["b"]["x"]) == [1, 5, 9]
        assert_allclose(
            gam.predict(pd.DataFrame({"a": [0.0] * 3, "b": [1, 5, 9]})), [0, 1, 0], atol=0.1
        )

    def test_of_an_array(self):
        X = np.repeat([[1.0], [2.0], [7.0]], 50, axis=0)
        y = (X[:, 0] == 2) + np.tile([0.0, 0.1], 75)
        gam = GAMRegressor(categorical_features=[0]).fit(X, y)
        assert_allclose(gam.predict([[1], [2], [7]]), [0.05, 1.05, 0.05], atol=0.01)

    def test_none_refuses_text(self):
        X = pd.DataFrame({"a": ["x", "y"] * 10})
        with pytest.raises(ValueError, match="could not convert string to float"):
            GAMRegressor(categorical_features=None).fit(X, np.arange(20.0))

    @pytest.mark.parametrize(
        ("which", "message"),
        [
            (["c"], "names 'c', which is not a column of X; it has 'a', 'b'"),
            ([2], "names 2, which is not a column of X"),
            ([True], "mask of 1 columns, X has 2"),
            ("all", 'must be "from_dtype", None or a list of columns'),
        ],
    )
    def test_what_cannot_be(self, which, message):
        X = pd.DataFrame({"a": [0.0, 1.0], "b": [1.0, 0.0]})
        with pytest.raises(ValueError, match=message):
            GAMRegressor(categorical_features=which).fit(X, [0.0, 1.0])


class TestMissingCells:
    def test_a_column_constant_where_it_is_there(self):
        rng = np.random.default_rng(0)
        x = np.where(rng.uniform(size=400) < 0.3, np.nan, 7.0)
        y = np.where(np.isnan(x), 5.0, 1.0) + rng.normal(scale=0.1, size=400)
        gam = GAMRegressor().fit(x[:, None], y)
        assert_allclose(gam.predict([[np.nan], [7.0], [9.0]]), [5, 1, 1], atol=0.05)
        assert_array_equal(gam.terms()["x0"]["x"], [7, np.nan])
        assert gam.contributions(x[:, None]).mean() == pytest.approx(0, abs=1e-12)

    def test_a_column_that_is_nowhere(self, columns):
        X = np.column_stack([columns["rate"], np.full(len(columns["rate"]), np.nan)])
        gam = GAMRegressor().fit(X, columns["y"])
        assert_array_equal(gam.contributions(X)[:, 1], 0)

    def test_among_levels(self, columns):
        job = pd.Series(columns["job"]).where(lambda level: level != "judge", None)
        gam = GAMRegressor().fit(pd.DataFrame({"job": job}), columns["y"])
        curve = gam.terms()["job"]
        assert list(curve["x"][:-1]) == ["clerk", "cook"]
        assert curve["contribution"].iloc[-1] - curve["contribution"].iloc[1] > 1.5

    def test_few_missing_of_one_class_do_not_run_away(self):
        """Three rows say little: a maximum-likelihood effect would be minus infinity."""
        rng = np.random.default_rng(0)
        x = rng.normal(size=1000)
        y = rng.uniform(size=1000) < 0.1
        x[:3], y[:3] = np.nan, False
        gam = GAMClassifier().fit(x[:, None], y)
        assert gam.predict_proba([[np.nan]])[0, 1] > 0.02

    def test_columns_with_the_same_holes(self, columns):
        X = np.column_stack([columns["age"], columns["age"] ** 2])
        gam = GAMRegressor().fit(X, columns["y"])
        assert np.isfinite(gam.predict(X)).all()
        assert gam.score(X, columns["y"]) > 0.3

    def test_nullable_columns(self):
        X = pd.DataFrame(
            {"a": pd.array([1, None, 3] * 20, dtype="Int64"), "b": ["x", None, "z"] * 20}
        )
        gam = GAMRegressor().fit(X, np.tile([1.0, 2.0, 3.0], 20) + np.tile([0.0, 0.1], 30))
        assert_allclose(gam.predict(X[:3]), [1.05, 2.05, 3.05], atol=0.05)


def test_duplicated_columns_share_their_effect_in_equal_parts(additive):
    X, y, _ = additive
    gam = GAMRegressor().fit(np.column_stack([X, X[:, 0]]), y)
    parts = gam.contributions(np.column_stack([X, X[:, 0]]))
    assert_allclose(parts[:, 0], parts[:, -1], atol=1e-6)
    assert_allclose(gam.edf_[0], gam.edf_[-1], rtol=1e-4)


def test_chunks_of_frames_are_the_frame(frame, columns):
    y = columns["y"]
    chunks = [(frame[k : k + 400], y[k : k + 400]) for k in range(0, len(y), 400)]
    gam = GAMRegressor().fit_chunks(chunks)
    assert_allclose(gam.predict(frame), GAMRegressor().fit(frame, y).predict(frame), rtol=1e-9)


def test_names_are_checked(columns):
    X = pl.DataFrame({"age": columns["age"], "rate": columns["rate"]})
    gam = GAMRegressor().fit(X, columns["y"])
    with pytest.raises(ValueError, match="feature names should match"):
        gam.predict(X.select("rate", "age"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gam.predict(X)


def in_chunks(*tables, y=None):
    """Chunks of frames; y counts the rows unless it is given."""
    ends = np.cumsum([0, *map(len, tables)])
    y = np.sin(np.arange(ends[-1]) / 7) if y is None else y
    return [(X, y[a:b]) for X, a, b in zip(tables, ends[:-1], ends[1:], strict=True)]


class TestChunksThatDisagree:
    """A file that is read in chunks has its types guessed in each."""

    A = pd.DataFrame({"code": [1, 2, 3] * 10, "x": np.arange(30.0)})
    B = pd.DataFrame({"code": ["1", "b", "3"] * 10, "x": np.arange(30.0, 60)})

    @pytest.mark.parametrize("order", [(A, B), (B, A), (A, B, A), (A.astype({"code": float}), B)])
    def test_numbers_and_text_are_text(self, order):
        gam = GAMRegressor().fit_chunks(in_chunks(*order))
        assert gam.terms_.levels == {"code": ("1", "2", "3", "b")}
        texts = [X.assign(code=[str(int(c)) if c != "b" else c for c in X["code"]]) for X in order]
        whole = GAMRegressor().fit(*(pd.concat(part) if k == 0 else np.concatenate(part)
            for k, part in enumerate(zip(*in_chunks(*texts), strict=True))))  # fmt: skip
        for X, text in zip(order, texts, strict=True):
            assert_allclose(gam.predict(X), whole.predict(text), atol=1e-7)

    def test_a_neighbour_is_left_alone(self):
        """The fault of old: code -1 went into the columns of the term before."""
        rng = np.random.default_rng(0)
        a = pd.DataFrame({"x": rng.uniform(size=300), "code": rng.integers(0, 3, size=300)})
        b = pd.DataFrame({"x": rng.uniform(size=300), "code": rng.choice(["0", "k"], size=300)})
        y = np.sin(6 * np.r_[a["x"], b["x"]]) + 2.0 * (np.r_[a["code"], b["code"] == "k"] == 1)
        gam = GAMRegressor().fit_chunks(in_chunks(a, b, y=y))
        curve = gam.terms()["x"]
        truth = np.sin(6 * curve["x"])
        shift = (curve["contribution"] - truth).mean()
        assert_allclose(curve["contribution"] - shift, truth, atol=0.1)

    def test_one_frame_of_both_is_as_chunks(self):
        X = pd.DataFrame({"code": [1, 1.0, "1", "b", None, True] * 10})
        gam = GAMRegressor().fit(X, np.arange(60.0))
        assert gam.terms_.levels == {"code": ("1", "True", "b")}
        assert (gam._validate(X)[:, 0] != -1).all()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            one, other = gam.predict(pd.DataFrame({"code": [1, "1"]}))
        assert one == other

    @pytest.mark.parametrize(
        ("cells", "held"),
        [
            ([1.0, 2.0], "numbers"),
            (pd.to_timedelta([1, 2], unit="D"), "durations"),
            (["2024-05-01", "soon"], "text such as 'soon', which is not ISO 8601,"),
        ],
    )
    @pytest.mark.parametrize("turned", [False, True])
    def test_dates_and_others_are_refused(self, cells, held, turned):
        chunks = [pd.DataFrame({"when": pd.to_datetime(["2024-05-01", "2024-05-02"])})]
        chunks.insert(0 if turned else 1, pd.DataFrame({"when": cells}))
        dates, other = (2, 1) if turned else (1, 2)
        one, two = f"dates in chunk {dates}", f"{held} in chunk {other}"
        message = f"column 'when' holds ({one} and {two}|{two} and {one}); use one type in"
        with pytest.raises(ValueError, match=message):
            GAMRegressor().fit_chunks(in_chunks(*chunks))

    def test_text_in_a_later_array_is_refused(self):
        X, text = np.arange(20.0)[:, None], np.array([["1"], ["x"]], dtype=object)
        with pytest.raises(ValueError, match="could not convert string to float: 'x'"):
            GAMRegressor().fit_chunks([(X, X[:, 0]), (text, [1.0, 2.0])])
        dates = np.array([["2024"], ["2025"]], "M8[D]")
        with pytest.raises(ValueError, match="'x0' in chunk 2: holds dates where fit saw numbers"):
            GAMRegressor().fit_chunks([(X, X[:, 0]), (dates, [1.0, 2.0])])

    def test_text_that_no_type_makes_a_category_is_refused(self):
        gam = GAMRegressor(categorical_features=["x"])
        with pytest.raises(ValueError, match="column 'code' in chunk 2: could not convert string"):
            gam.fit_chunks(in_chunks(self.A, self.B))

    @pytest.mark.parametrize("empty", [A[:0], B[:0], pd.DataFrame(), pl.DataFrame()])
    @pytest.mark.parametrize("at", [0, 1, 2])
    @pytest.mark.parametrize("estimator", [GAMRegressor(), GAMClassifier()])
    def test_an_empty_chunk_is_none(self, empty, at, estimator):
        chunks = in_chunks(self.A, self.B, y=np.arange(60) % 7 > 2)
        chunks.insert(at, (empty, np.empty(0)))
        gam = clone(estimator).fit_chunks(chunks)
        X = self.B if hasattr(gam, "classes_") else self.A
        whole = clone(estimator).fit_chunks(in_chunks(self.A, self.B, y=np.arange(60) % 7 > 2))
        assert_array_equal(gam.contributions(X), whole.contributions(X))

    @pytest.mark.parametrize("hole", [None, np.nan, pd.NA, pd.NaT])
    @pytest.mark.parametrize("at", [0, 1])
    def test_a_chunk_in_which_a_column_is_missing(self, hole, at):
        empty = pd.DataFrame({"code": [hole] * 5, "x": [hole] * 5, "d": [hole] * 5})
        full = self.B.assign(d=pd.date_range("2024", periods=30))
        chunks = in_chunks(*((empty, full) if at == 0 else (full, empty)))
        gam = GAMRegressor().fit_chunks(chunks)
        assert gam.terms_.levels == {"code": ("1", "3", "b")}
        assert gam.terms_.units == {"d": "date"}
        assert gam.terms_.missing == ["code", "x", "d"]
        whole = pd.concat([X.astype(object).where(X.notna(), None) for X, _ in chunks])
        whole = GAMRegressor().fit(whole, np.concatenate([y for _, y in chunks]))
        assert_allclose(gam.predict(full), whole.predict(full), atol=1e-7)

    def test_a_category_that_is_missing_at_first_is_one(self):
        empty = pd.DataFrame({"code": pd.Categorical([None] * 5, categories=["a"])})
        for full, levels in ((self.A, (1, 2, 3)), (self.B, ("1", "3", "b"))):
            gam = GAMRegressor().fit_chunks(in_chunks(empty, full[["code"]]))
            assert gam.terms_.levels == {"code": levels}
        assert GAMRegressor().fit(empty, np.arange(5.0)).terms_.unused == ["code"]

    def test_a_column_that_is_missing_in_all_chunks(self):
        chunks = in_chunks(*(self.A.assign(n=hole) for hole in (None, np.nan)))
        gam = GAMRegressor().fit_chunks(chunks)
        assert gam.terms_.unused == ["n"]
        assert_array_equal(gam.contributions(self.A.assign(n="x"))[:, 2], 0)

    @pytest.mark.parametrize("other", [["x", "code"], ["code", "z"], ["code"]])
    def test_other_names_are_refused(self, other):
        wrong = self.A.rename(columns={"x": "z"}) if "z" in other else self.A
        with pytest.raises(
            ValueError, match=r"chunk 2 has the columns .* before have 'code', 'x'"
        ):
            GAMRegressor().fit_chunks(in_chunks(self.A, wrong[other]))


class TestLeftOut:
    """Columns of text that are no features."""

    N = 300

    @pytest.fixture
    def table(self):
        rng = np.random.default_rng(0)
        days = pd.date_range("2020-01-01", periods=self.N).strftime("%Y-%m-%d")
        return pd.DataFrame(
            {
                "x": rng.uniform(size=self.N),
                "id": [f"c{k:06d}" for k in rng.permutation(self.N)],
                "date": days,
                "note": [f"a flat of {k} rooms, quiet" for k in range(self.N)],
                "price": [f"{k}.5" for k in range(self.N)],
                "job": rng.choice(["clerk", "cook"], size=self.N),
            }
        )

    def fit(self, X, **how):
        y = np.sin(5 * np.asarray(X["x"], dtype=float)) + (np.asarray(X["job"]) == "cook")
        with pytest.warns(UserWarning, match="nearly as many levels as rows") as caught:
            gam = GAMRegressor(**how).fit(X, y)
        (warning,) = caught
        assert warning.filename == __file__
        return gam, str(warning.message)

    def test_one_warning_says_what_and_how(self, table):
        gam, said = self.fit(table)
        for words in (
            "'id' (identifiers), 'date' (dates as text), 'note' (free text), "
            "'price' (numbers as text)",
            "pandas.to_datetime",
            "categorical dtype or list it in categorical_features",
        ):
            assert words in said
        assert gam.terms_.unused == ["id", "date", "note", "price"]
        plain = GAMRegressor().fit(table[["x", "job"]], gam.predict(table))
        assert_allclose(gam.predict(table), plain.predict(table[["x", "job"]]), atol=1e-3)

    def test_any_cell_is_ignored(self, table):
        gam, _ = self.fit(table)
        other = table.assign(id=None, date=pd.Timestamp("2024-01-01"), note=7.5, price="new")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert_array_equal(gam.predict(other), gam.predict(table))
            contributions = gam.contributions(other)
        assert_array_equal(contributions[:, 1:5], 0)
        assert gam.explain(other[:1])["value"]["price"] == "new"
        assert np.isnan(gam.alpha_[1:5]).all()
        with pytest.raises(ValueError, match="'id' has no term: it was left out"):
            plot_terms(gam, features=["id"])

    def test_the_report_says_so(self, table, tmp_path):
        gam, _ = self.fit(table)
        write_report(tmp_path / "report.html", gam, X=table)
        assert "left out: free text" in (tmp_path / "report.html").read_text()

    @pytest.mark.parametrize(
        "kind", [pl.DataFrame, pa.Table.from_pandas, lambda t: t.astype(object)]
    )
    def test_in_every_table(self, table, kind):
        gam, _ = self.fit(kind(table))
        assert gam.terms_.unused == ["id", "date", "note", "price"]

    def test_in_chunks(self, table):
        y = np.arange(self.N) / 100
        chunks = [(table[k : k + 40], y[k : k + 40]) for k in range(0, self.N, 40)]
        with pytest.warns(UserWarning, match=r"left out: 'id' \(identifiers\), 'date' \(dates"):
            gam = GAMRegressor().fit_chunks(chunks)
        assert gam.terms_.unused == ["id", "date", "note", "price"]

    @pytest.mark.parametrize("choice", ["type", "name"])
    def test_a_choice_is_honoured(self, table, choice):
        X, how = table[["x", "id", "job"]], {}
        if choice == "type":
            X = X.astype({"id": "category"})
        else:
            how = {"categorical_features": ["id", "job"]}
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            gam = GAMRegressor(**how).fit(X, X["x"])
            chosen = GAMRegressor(**how).fit_chunks(
                [(X[:100], X["x"][:100]), (X[100:], X["x"][100:])]
            )
        assert len(gam.terms_.levels["id"]) == len(chosen.terms_.levels["id"]) == self.N

    @pytest.mark.parametrize(
        ("n_levels", "n_rows", "kept"),
        [(50, 50, True), (51, 51, False), (150, 300, True), (151, 300, False)],
    )
    def test_the_share(self, n_levels, n_rows, kept):
        X = pd.DataFrame({"k": [f"k{i % n_levels}" for i in range(n_rows)]})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            gam = GAMRegressor().fit(X, np.arange(n_rows) % 5)
        assert bool(gam.terms_.levels) == kept

    def test_missing_cells_do_not_count(self):
        X = pd.DataFrame({"k": [f"k{i}" for i in range(60)] + [None] * 240})
        with pytest.warns(UserWarning, match=r"left out: 'k' \(identifiers\)"):
            GAMRegressor().fit(X, np.arange(300.0) % 5)

    def test_whole_weights_count_as_rows(self):
        X = pd.DataFrame({"k": [f"k{i}" for i in range(60)]})
        y = np.arange(60) % 5
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            twice = GAMRegressor().fit(X, y, sample_weight=np.full(60, 2))
        assert len(twice.terms_.levels["k"]) == 60
        with pytest.warns(UserWarning, match="left out"):
            GAMRegressor().fit(X, y, sample_weight=np.full(60, 0.5))

    def test_no_more_levels_than_fit_into_memory(self, monkeypatch):
        monkeypatch.setattr("gam_model._features.MOST", 60)
        X = pd.DataFrame({"k": [f"k{i % 70}" for i in range(700)]})
        with pytest.warns(UserWarning, match=r"left out: 'k' \(identifiers\)"):
            GAMRegressor().fit(X, np.arange(700.0) % 5)


class TestLevelsThatCannotBeSaved:
    @pytest.mark.parametrize(
        ("cells", "name"),
        [
            (pd.Series(pd.period_range("2020", periods=20, freq="M")), "Period"),
            (pd.cut(pd.Series(range(20)), 4), "Interval"),
            (pd.Series(pd.date_range("2020", periods=20)).astype("category"), "Timestamp"),
            (pd.Series(pd.timedelta_range("1D", periods=20)).astype("category"), "Timedelta"),
            (pd.Series([Decimal(k) / 3 for k in range(20)]).astype("category"), "Decimal"),
            (pd.Series([(k, 1) for k in range(20)]), "tuple"),
            (pd.Series([dt.date(2020, 1, k + 1) for k in range(20)], dtype="category"), "date"),
            (pd.Series([dt.time(k) for k in range(20)]), "time"),
            (pd.Series([b"a", b"b"] * 10), "bytes"),
            (pd.Series([1j] * 20), "complex"),
            (pd.Series([1.0, np.inf] * 10).astype("category"), "float"),
            (pd.Series(["a", dt.date(2020, 1, 1)] * 10), "date"),
            (pl.Series([dt.time(k) for k in range(20)]), "time"),
            (pl.Series([[1], [2]] * 10), "list"),
        ],
    )
    def test_are_refused_by_name_and_type(self, cells, name):
        frame = pl.DataFrame if isinstance(cells, pl.Series) else pd.DataFrame
        X = frame({"x": np.arange(20.0), "odd": cells})
        message = f"column 'odd' holds .* of type {name}, which .* text with astype"
        with pytest.raises(ValueError, match=message):
            GAMRegressor().fit(X, np.arange(20.0))

    def test_named_ones_too(self):
        X = pd.DataFrame({"d": pd.date_range("2020", periods=20)})
        with pytest.raises(ValueError, match="'d' holds 2020-01-01 00:00:00 of type Timestamp"):
            GAMRegressor(categorical_features=["d"]).fit(X, np.arange(20.0))

    @pytest.mark.parametrize(
        "cells",
        [
            ["a", "b"],
            np.array([1, 5]),
            [True, False],
            [0.5, 1.5],
            np.array([1, 2], dtype=object),
            [np.int8(3), np.float32(0.5)],
            [np.str_("u"), "v"],
            [-(2**60), 2**60],
            ["", "\ud800"],
        ],
    )
    def test_what_fits_is_saved(self, cells, tmp_path):
        X = pd.DataFrame({"k": pd.Series(list(cells) * 10, dtype=object)})
        gam = GAMRegressor(categorical_features=["k"]).fit(X, np.arange(20.0) % 2)
        gam.terms_.save(tmp_path / "gam.json")
        loaded = type(gam.terms_).load(tmp_path / "gam.json")
        assert loaded.levels == gam.terms_.levels
        assert [type(v) for v in loaded.levels["k"]] == [type(v) for v in gam.terms_.levels["k"]]
        assert_array_equal(loaded.predict(gam._validate(X)), gam.predict(X))
