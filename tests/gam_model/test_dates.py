"""Dates and durations: one number whatever table, unit or time zone they come in."""

import datetime as dt
import json
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from gam_model import AdditiveModel, GAMClassifier, GAMRegressor
from gam_model.dates import from_days, read_iso, to_days, write_iso
from gam_model.plots import plot_contributions, plot_terms
from gam_model.report import write_report

N = 400
BERLIN = "Europe/Berlin"


@pytest.fixture(scope="module")
def instants():
    """Whole seconds of some four years, one of them missing, as Python has them, naive in UTC."""
    rng = np.random.default_rng(0)
    seconds = np.sort(rng.integers(1_600_000_000, 1_720_000_000, size=N))
    values = [dt.datetime(1970, 1, 1) + dt.timedelta(seconds=int(s)) for s in seconds]
    return [None, *values[1:]]


@pytest.fixture(scope="module")
def y(instants):
    t = np.array([0 if i is None else i.timestamp() / 86_400 / 300 for i in instants])
    return np.sin(t) + np.random.default_rng(1).normal(scale=0.05, size=N)


def days_of(instants):
    epoch = dt.datetime(1970, 1, 1)
    parts = [None if i is None else i - epoch for i in instants]
    return np.array([np.nan if p is None else p.days + p.seconds / 86_400 for p in parts])


def aware(instants):
    return [None if i is None else i.replace(tzinfo=dt.timezone.utc) for i in instants]


def in_berlin(instants):
    return pd.Series(pd.to_datetime(aware(instants), utc=True)).dt.tz_convert(BERLIN)


def arrow(instants, unit, zone=None):
    return pa.array(aware(instants) if zone else instants, pa.timestamp(unit, zone))


UNITS = ("s", "ms", "us", "ns")
COLUMNS = {
    **{f"pandas {u}": lambda i, u=u: pd.Series(i, dtype=f"M8[{u}]") for u in UNITS},
    "pandas zone": in_berlin,
    "pandas zone ns": lambda i: in_berlin(i).dt.as_unit("ns"),
    "pandas objects": lambda i: pd.Series(i, dtype=object),
    "pandas aware objects": lambda i: pd.Series(aware(i), dtype=object),
    "pandas timestamps": lambda i: pd.Series(list(in_berlin(i)), dtype=object),
    "pandas datetime64 objects": lambda i: pd.Series(
        [pd.NaT if x is None else np.datetime64(x, "ms") for x in i], dtype=object
    ),
    **{
        f"pandas arrow {u} {z}": lambda i, u=u, z=z: pd.Series(
            arrow(i, u, z), dtype=pd.ArrowDtype(pa.timestamp(u, z))
        )
        for u in ("s", "ns")
        for z in (None, BERLIN)
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def fitted(instants, y):
    X = pd.DataFrame({"when": COLUMNS["pandas us"](instants), "job": ["a", "b"] * (N // 2)})
    return GAMRegressor().fit(X, y)


class TestTables:
    @pytest.mark.parametrize("name", COLUMNS)
    @pytest.mark.parametrize("beside", [{}, {"job": ["a", "b"] * (N // 2)}])
    def test_pandas(self, instants, y, name, beside):
        X = pd.DataFrame({"when": COLUMNS[name](instants), **beside})
        gam = GAMRegressor().fit(X, y)
        assert_array_equal(gam._validate(X)[:, 0], days_of(instants))
        assert gam.terms_.units == {"when": "date"}
        assert gam.terms_.missing == ["when"]
        assert gam.score(X, y) > 0.9
        for other in COLUMNS.values():
            asked = pd.DataFrame({"when": other(instants), **beside})
            assert_array_equal(gam.predict(asked), gam.predict(X))

    @pytest.mark.parametrize("unit", ["ms", "us", "ns"])
    @pytest.mark.parametrize("zone", [None, BERLIN])
    def test_polars_and_pyarrow(self, fitted, instants, unit, zone):
        job = ["a", "b"] * (N // 2)
        frame = pl.DataFrame({"when": instants}).with_columns(
            pl.col("when").cast(pl.Datetime(unit))
        )
        if zone:
            column = pl.col("when").dt.replace_time_zone("UTC").dt.convert_time_zone(zone)
            frame = frame.with_columns(column)
        table = pa.table({"when": arrow(instants, unit, zone), "job": job})
        for X in (frame.with_columns(pl.Series("job", job)), table):
            assert_array_equal(fitted._validate(X)[:, 0], days_of(instants))
            assert_array_equal(
                GAMRegressor().fit(X, y_of(fitted, X)).terms_.features, ["when", "job"]
            )

    @pytest.mark.parametrize("unit", ["s", "ms", "us", "ns", "25s"])
    def test_numpy(self, instants, y, unit):
        days = to_days(np.array(instants, "M8[us]").astype(f"M8[{unit}]"))
        X = np.array(instants, "M8[us]").astype(f"M8[{unit}]")[:, None]
        gam = GAMRegressor().fit(X, y)
        assert_array_equal(gam._validate(X)[:, 0], days)
        assert gam.terms_.units == {"x0": "date"}

    def test_an_object_column_of_an_array(self, instants, y):
        X = np.empty((N, 2), dtype=object)
        X[:, 0], X[:, 1] = instants, np.arange(N)
        gam = GAMRegressor().fit(X, y)
        assert_array_equal(gam._validate(X), np.column_stack([days_of(instants), np.arange(N)]))

    @pytest.mark.parametrize(
        "make",
        [
            lambda d: pd.DataFrame({"d": pd.Series(d, dtype=object)}),
            lambda d: pd.DataFrame({"d": pd.Series(d, dtype=pd.ArrowDtype(pa.date32()))}),
            lambda d: pd.DataFrame({"d": pd.Series(d, dtype=pd.ArrowDtype(pa.date64()))}),
            lambda d: pl.DataFrame({"d": d}),
            lambda d: pa.table({"d": d}),
            lambda d: np.array(d, "M8[D]")[:, None],
            lambda d: np.array(d, dtype=object)[:, None],
        ],
    )
    def test_dates_without_time(self, make):
        dates = [None, *(dt.date(1969, 1, 1) + dt.timedelta(int(k)) for k in range(199))]
        gam = GAMRegressor().fit(make(dates), np.arange(200.0))
        assert_array_equal(gam._validate(make(dates))[:, 0], [np.nan, *range(-365, -166)])
        assert list(gam.terms_.units.values()) == ["date"]

    @pytest.mark.parametrize(
        "make",
        [
            lambda d: pd.DataFrame({"d": pd.Series(d, dtype="m8[ns]")}),
            lambda d: pd.DataFrame({"d": pd.Series(d, dtype="m8[s]")}),
            lambda d: pd.DataFrame({"d": pd.Series(d, dtype=object)}),
            lambda d: pd.DataFrame({"d": pd.Series(d, dtype=pd.ArrowDtype(pa.duration("ms")))}),
            lambda d: pl.DataFrame({"d": d}),
            lambda d: pa.table({"d": pa.array(d, pa.duration("us"))}),
            lambda d: np.array(d, "m8[h]")[:, None],
        ],
    )
    def test_durations(self, make):
        hours = [None, *(dt.timedelta(hours=int(k)) for k in range(-60, 139))]
        gam = GAMRegressor().fit(make(hours), np.arange(200.0))
        k = np.arange(-60, 139)
        assert_allclose(gam._validate(make(hours))[:, 0], [np.nan, *(k / 24)], rtol=1e-15)
        assert list(gam.terms_.units.values()) == ["duration"]
        curve = next(iter(gam.terms().values()))
        assert curve["x"].dtype.kind == "m"

    def test_the_far_future_and_the_deep_past(self):
        text = ["0001-01-01", "1500-06-01", "9999-12-31T23:59:59", "NaT"]
        X = pd.DataFrame({"d": np.array(text, "M8[s]")})
        middle = (dt.date(1500, 6, 1) - dt.date(1970, 1, 1)).days
        days = [-719162, middle, 2932896 + 86399 / 86400, np.nan]
        gam = GAMRegressor().fit(X, [0.0, 1, 2, 3])
        assert_array_equal(gam._validate(X)[:, 0], days)


def y_of(gam, X):
    return gam.predict(X)


class TestAnotherKind:
    def test_a_number_for_a_date(self, fitted):
        X = pd.DataFrame({"when": [19_000.0], "job": ["a"]})
        with pytest.raises(ValueError, match="column 'when': holds numbers where fit saw dates"):
            fitted.predict(X)
        with pytest.raises(ValueError, match="'when': holds durations where fit saw dates"):
            fitted.predict(X.assign(when=pd.to_timedelta([1], unit="D")))

    @pytest.mark.parametrize("beside", [{}, {"job": ["a", "b"] * 20}])
    def test_a_date_for_a_number(self, beside):
        X = pd.DataFrame({"x": np.arange(40.0), **beside})
        gam = GAMRegressor().fit(X, np.arange(40.0))
        with pytest.raises(ValueError, match="column 'x': holds dates where fit saw numbers"):
            gam.predict(X.assign(x=pd.Timestamp("2024-01-01")))
        with pytest.raises(ValueError, match="'x0': holds dates where fit saw numbers"):
            GAMRegressor().fit(X[["x"]].to_numpy(), X["x"]).predict(np.array([["2024"]], "M8[D]"))

    def test_text_for_a_date(self, fitted):
        X = pd.DataFrame({"when": ["2022-05-01T12:00:00+02:00", None], "job": ["a", "b"]})
        there = X.assign(when=pd.to_datetime(["2022-05-01T10:00:00", None]))
        assert_array_equal(fitted.predict(X), fitted.predict(there))
        with pytest.raises(ValueError, match="'when': 'May' in row 1 is not a date in ISO 8601"):
            fitted.predict(X.assign(when=["2022-05-01", "May"]))

    def test_missing_alone_is_no_kind(self, fitted):
        X = pd.DataFrame({"when": [None], "job": ["a"]})
        missing = fitted.predict(X.assign(when=pd.NaT))
        assert_array_equal(fitted.predict(X), missing)
        assert_array_equal(fitted.predict(X.assign(when=np.nan)), missing)

    def test_months_have_no_length(self):
        with pytest.raises(ValueError, match="'x0': durations in months or years have no length"):
            GAMRegressor().fit(np.arange(9)[:, None].astype("m8[M]"), np.arange(9.0))


class TestWords:
    def test_terms(self, fitted, instants):
        x = fitted.terms()["when"]["x"]
        assert x.dtype.kind == "M"
        assert x.iloc[0] == instants[1]
        assert x.iloc[-2] == instants[-1]
        assert x.iloc[-1] is pd.NaT

    def test_explain(self, fitted):
        X = pd.DataFrame({"when": pd.to_datetime(["2022-05-01 06:00"]), "job": ["a"]})
        assert fitted.explain(X)["value"]["when"] == pd.Timestamp("2022-05-01 06:00")
        assert fitted.explain(X.assign(when=pd.NaT))["value"]["when"] is pd.NaT

    def test_outside_the_range(self, instants, y):
        X = pd.DataFrame({"when": pd.Series(instants, dtype="M8[s]")})
        gam = GAMRegressor(extrapolate="error").fit(X, y)
        with pytest.raises(ValueError, match=r"when = 2030-01-01 in row 0 .* range \[2020-09-2"):
            gam.predict(pd.DataFrame({"when": pd.to_datetime(["2030-01-01"])}))

    def test_pictures(self, fitted):
        figure = plot_terms(fitted)
        (axes,) = (axes for axes in figure.axes if axes.get_title(loc="left") == "when")
        texts = [text.get_text() for text in axes.get_xticklabels()]
        assert {"2021", "2022", "2023", "2024"} <= set(texts)
        at = dict(zip(texts, axes.get_xticks(), strict=True))
        assert at["2022"] == read_iso("2022-01-01", "date")
        X = pd.DataFrame({"when": pd.to_datetime(["2022-05-01 06:00"]), "job": ["a"]})
        figure = plot_contributions(fitted, X)
        labels = [text.get_text() for text in figure.axes[0].get_yticklabels()]
        assert "when = 2022-05-01T06:00:00Z" in labels
        figure = plot_contributions(fitted, X.assign(when=pd.NaT))
        assert "when missing" in [t.get_text() for t in figure.axes[0].get_yticklabels()]

    def test_a_picture_of_durations(self):
        X = pd.DataFrame({"age": pd.to_timedelta(np.arange(100), unit="D")})
        gam = GAMRegressor().fit(X, np.sin(np.arange(100) / 20))
        (axes,) = plot_terms(gam).figure.axes
        assert axes.get_xlabel() == "days"
        figure = plot_contributions(gam, X[30:31])
        assert "age = P30D" in [text.get_text() for text in figure.axes[0].get_yticklabels()]

    def test_report(self, fitted, tmp_path, instants, y):
        X = pd.DataFrame({"when": instants, "job": ["a", "b"] * (N // 2)})
        write_report(tmp_path / "report.html", fitted, X=X, y=y)
        page = (tmp_path / "report.html").read_text()
        term = next(term for term in fitted.terms_.terms if term.name == "when")
        assert " to ".join(write_iso(end, "date") for end in term.range) in page
        assert ">2022<" in page

    @pytest.mark.parametrize("seconds", np.geomspace(1, 2e11, 60).round())
    def test_any_range_has_some_ticks(self, seconds):
        x = np.datetime64("2021-03-04T05:06:07") + np.arange(40) * np.timedelta64(
            int(seconds), "s"
        )
        gam = GAMRegressor().fit(pd.DataFrame({"t": x}), np.sin(np.arange(40) / 9))
        axes = plot_terms(gam).axes[0]
        texts = [text.get_text() for text in axes.get_xticklabels()]
        assert 2 <= len(texts) <= 9
        assert len(set(texts)) == len(texts)

    def test_a_date_that_stands_for_never(self):
        x = [*np.arange("2021-01-01", "2021-02-09", dtype="M8[D]"), np.datetime64("9999-12-31")]
        gam = GAMRegressor().fit(pd.DataFrame({"t": np.array(x, "M8[s]")}), np.arange(40.0))
        texts = [text.get_text() for text in plot_terms(gam).axes[0].get_xticklabels()]
        assert {"4000", "8000"} <= set(texts)

    def test_the_seconds_of_a_day(self):
        """Ticks need not be days."""
        X = pd.DataFrame({"t": pd.date_range("2024-05-01", "2024-05-02", 50)})
        gam = GAMRegressor().fit(X, np.sin(np.arange(50) / 9))
        texts = [text.get_text() for text in plot_terms(gam).axes[0].get_xticklabels()]
        assert "12:00" in texts


class TestFrozen:
    def test_saved_is_fitted(self, fitted, instants, tmp_path):
        fitted.terms_.save(tmp_path / "gam.json")
        loaded = AdditiveModel.load(tmp_path / "gam.json")
        assert loaded.units == {"when": "date"}
        X = np.column_stack([days_of(instants), np.tile([0, 1], N // 2)])
        frame = pd.DataFrame({"when": instants, "job": ["a", "b"] * (N // 2)})
        assert_array_equal(loaded.predict(X), fitted.predict(frame))

    def test_an_artifact_of_version_2(self):
        """Written when the version began, with what it answered then; never made anew."""
        path = Path(__file__).parent / "artifacts" / "version2.json"
        expected = json.loads(path.read_text())["check"]
        model, rows = AdditiveModel.load(path), np.array(expected["rows"], dtype=float)
        assert model.units == {"since": "date", "spent": "duration"}
        assert model.unused == ["id"]
        assert_allclose(model.predict(rows), expected["prediction"], rtol=1e-13)
        assert_allclose(model.contributions(rows), expected["contributions"], atol=1e-13)

    def test_a_classifier_of_chunks(self, instants):
        label = (np.arange(N) > N / 2) ^ (np.arange(N) % 7 == 0)  # not all by the date
        X = pd.DataFrame({"when": pd.Series(instants, dtype="M8[s]")})
        chunks = [(X[k : k + 100], label[k : k + 100]) for k in range(0, N, 100)]
        chunks[1] = chunks[1][0].astype("M8[ns]"), chunks[1][1]
        chunks[2] = chunks[2][0].astype(str), chunks[2][1]  # as a file of text may have it
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            gam = GAMClassifier().fit_chunks(chunks)
        assert_allclose(
            gam.predict_proba(X), GAMClassifier().fit(X, label).predict_proba(X), atol=1e-6
        )


class TestIso:
    @given(
        st.datetimes(dt.datetime(1, 1, 3), dt.datetime(9999, 12, 29)),
        st.integers(-14 * 60, 14 * 60),
    )
    @settings(derandomize=True, deadline=None)
    def test_text_is_the_instant(self, instant, minutes):
        days = to_days(np.array([instant], "M8[us]"))[0]
        assert read_iso(instant.isoformat(), "date") == days
        assert read_iso(instant.isoformat(" ") + "z", "date") == days
        there = instant.replace(tzinfo=dt.timezone.utc)
        there = there.astimezone(dt.timezone(dt.timedelta(minutes=minutes)))
        assert read_iso(there.isoformat(), "date") == days
        assert abs(from_days([days], "date")[0] - np.datetime64(instant)) <= np.timedelta64(
            50, "us"
        )

    @given(st.timedeltas(dt.timedelta(-(10**7)), dt.timedelta(10**7)))
    @settings(derandomize=True, deadline=None)
    def test_text_is_the_span(self, span):
        whole = dt.timedelta(span.days, span.seconds)
        days = whole.days + whole.seconds / 86_400
        text = f"P{span.days}DT{span.seconds}S"
        assert read_iso(text, "duration") == pytest.approx(days, rel=1e-15)
        assert read_iso(text, "duration") == to_days(np.array([whole], "m8[s]"))[0]
        assert read_iso(write_iso(days, "duration"), "duration") == pytest.approx(days, rel=1e-15)

    @pytest.mark.parametrize(
        "text",
        ["", "2024", "20240501", "2024-5-1", "2024-02-30", "2024-13-01", "2024-05-01T24:00:00",
         "2024-05-01T12", "2024-05-01T12:00:60", "2024-05-01T12:60", "2024-05-01+02:00",
         "01/05/2024", "2024-05-01T12:00:00 CET", "\u0662024-05-01", "2024-05-01\n2024", "now"],
    )  # fmt: skip
    def test_other_text(self, text):
        with pytest.raises(ValueError, match="is not a date in ISO 8601, such as 2024-05-01 or"):
            read_iso(text, "date")

    @pytest.mark.parametrize(
        "text", ["", "P", "PT", "P1DT", "1D", "P1Y", "PT1H30", "P1.5D", "T1H"]
    )
    def test_other_spans(self, text):
        with pytest.raises(ValueError, match="is not a duration in ISO 8601, such as P3D"):
            read_iso(text, "duration")

    def test_nanoseconds(self):
        stamp = np.array(["2024-05-01T12:00:00.123456789"], "M8[ns]")
        assert read_iso("2024-05-01T12:00:00.123456789Z", "date") == to_days(stamp)[0]

    def test_units(self):
        for unit in ("Y", "M", "W", "D", "h", "m", "s", "ms", "us", "ns", "ps", "fs", "as"):
            assert to_days(np.array([0, "NaT"], f"M8[{unit}]")).tolist()[0] == 0
        assert to_days(np.array([-1], "m8[s]")) == -1 / 86_400
        assert to_days(np.array([3], "m8[W]")) == 21
