import functools
import json
import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, seed, settings
from hypothesis import strategies as st

from gam_model.dates import read_iso, recognize
from program_toolkit import payload
from program_toolkit.table import PayloadError, Table

NAN = float("nan")
PEOPLE = Table.of_columns(
    [np.array([30.0, NAN, 50.0]), ["clerk", "smith", None], np.array([1.0, 3.0, 1.0])],
    ("age", "job", "rooms"),
)
JOBS = ["smith", "clerk"]


def column(*cells) -> Table:
    """A table of one column."""
    return Table.of_columns([list(cells)], ("x",))


# ---------------------------------------------------------------- columns


def test_columns_of_numbers_make_numbers():
    table = Table.of_columns([np.arange(3), [1.5, NAN, 2.5]])
    assert table.values.dtype == np.float64
    assert table.text() == [False, False]
    np.testing.assert_array_equal(table.values, [[0, 1.5], [1, NAN], [2, 2.5]])


def test_a_column_of_text_is_known_even_where_it_is_empty():
    assert PEOPLE.text() == [False, True, False]
    assert column(None, None).text() == [True]
    assert Table.of_columns([["x"], [NAN]]).text() == [True, False]


def test_select_puts_columns_in_the_models_order():
    table = PEOPLE.select(["job", "rooms", "age"])
    assert table.names == ("job", "rooms", "age")
    assert repr(table.values.tolist()[1:]) == "[['smith', 3.0, nan], [None, 1.0, 50.0]]"
    assert Table(np.array(["x", "y"], dtype=object)).select(["t"]).values.tolist() == [
        ["x"],
        ["y"],
    ]
    with pytest.raises(PayloadError, match="missing 'town'; unknown 'job'"):
        PEOPLE.select(["age", "rooms", "town"])


def test_a_row_or_column_of_mixed_cells_is_what_the_model_needs():
    table = payload.decode(b'[2, "x", null]', payload.JSON)
    assert table.select(["t"]).values.tolist() == [["2"], ["x"], [None]]
    np.testing.assert_array_equal(
        table.matrix(["a", "b", "c"], {"b": ["x"]}, missing=["c"]), [[2, 0, NAN]]
    )


def test_select_keeps_what_was_asked_beside_the_rows():
    table = payload.decode(b'{"instances": [["x"]], "parameters": {"k": 1}}', payload.JSON)
    assert table.select(["t"]).parameters == {"k": 1}


# ---------------------------------------------------------------- numbers


def test_categories_become_codes_and_numbers_stay():
    X = PEOPLE.matrix(["job", "age", "rooms"], {"job": JOBS}, missing=["age", "job"])
    assert X.dtype == np.float64
    np.testing.assert_array_equal(X, [[1, 30, 1], [0, NAN, 3], [NAN, 50, 1]])


@pytest.mark.parametrize(
    ("cell", "levels", "code"),
    [
        ("b", ["a", "b"], 1),
        ("3", ["1", "3"], 1),
        ("3", [1, 3], 1),
        ("3.0", [1.0, 3.0], 1),
        (3.0, ["1", "3"], 1),
        (3.0, ["1", "3.0"], 1),
        (3.0, [1, 3], 1),
        (3.0, np.array([1, 3]), 1),
        (3.0, np.array(["a", "3"]), 1),
        # What it equals goes before what it reads as.
        ("01", ["1", "01"], 1),
        ("3", [3, "3"], 1),
        (3.0, ["3", 3], 1),
        (1.0, ["01", "1"], 1),
        # JSON's true and what pandas writes into CSV files.
        (1.0, ["False", "True"], 1),
        ("true", ["False", "True"], 1),
        ("TRUE", [0, 1], 1),
        ("", ["a", ""], 1),
    ],
)
def test_a_cell_is_the_level_that_it_equals_or_reads_as(cell, levels, code):
    assert column(cell).matrix(["x"], {"x": levels}) == [[code]]


@pytest.mark.parametrize(
    ("cell", "levels", "message"),
    [
        ("c", ["a", "b"], r"'c' is an unknown category; the model knows 'a', 'b'$"),
        ("A", ["a"], "'A' is an unknown category"),
        ("1_0", [10], "'1_0' is an unknown category; the model knows 10"),
        (4.0, ["1", "3"], "4 is an unknown category; the model knows '1', '3'"),
        (np.inf, [1.0], "inf is an unknown category"),
        ("x", list("abcdefg"), "'x' is an .* knows 'a', 'b', 'c', 'd', 'e' and 2 more"),
        ("x" * 500, ["y" * 500] * 9, r"'x+\.\.\.x+' is an unknown .* and 4 more"),
        ("a", [], "'a' is an unknown category"),
    ],
)
def test_an_unknown_category_is_named_or_kept(cell, levels, message):
    table = Table.of_columns([[NAN, 0.0], [None, cell] if isinstance(cell, str) else [NAN, cell]])
    with pytest.raises(PayloadError, match=r"^row 1, 'x': " + message) as refusal:
        table.matrix(["y", "x"], {"x": levels}, missing=True)
    assert len(str(refusal.value)) < 300
    X = table.matrix(["y", "x"], {"x": levels}, missing=True, unknown="keep")
    np.testing.assert_array_equal(X, [[NAN, NAN], [0, -1]])


def test_a_line_of_text_is_named_by_its_number():
    table = payload.decode(b"age,job\n\n30,clerk\n40,pilot\n", payload.CSV)
    with pytest.raises(PayloadError, match=r"^line 4, column 'job': 'pilot' is an unknown"):
        table.matrix(["job", "age"], {"job": JOBS})
    with pytest.raises(PayloadError, match=r"^line 3, column 'job': 'clerk' is not a number"):
        table.matrix(["job", "age"])


@pytest.mark.parametrize("missing", [(), ["rooms"], False])
def test_a_missing_cell_is_refused_unless_it_may_be(missing):
    with pytest.raises(PayloadError, match=r"^row 1, 'age' is missing; send a finite number$"):
        PEOPLE.matrix(["age", "job", "rooms"], {"job": JOBS}, missing)
    with pytest.raises(PayloadError, match=r"^row 2, 'job' is missing; send one of its categor"):
        PEOPLE.matrix(["age", "job", "rooms"], {"job": JOBS}, [*(missing or []), "age"])


@pytest.mark.parametrize("missing", [True, ["x"], {"x"}, {"x": "mean"}])
def test_what_may_be_missing_may_not_be_infinite(missing):
    table = Table(np.array([[NAN], [1.0]]))
    np.testing.assert_array_equal(table.matrix(["x"], missing=missing), [[NAN], [1]])
    with pytest.raises(PayloadError, match="row 1, 'x' is infinite"):
        Table(np.array([[NAN], [np.inf]])).matrix(["x"], missing=missing)


def test_an_empty_column_of_text_is_missing_numbers():
    table = Table.of_columns([["u"], [None]], ("t", "x"))
    X = table.matrix(["t", "x"], {"t": ["u"]}, missing=True)
    np.testing.assert_array_equal(X, [[0, NAN]])


DATES = {"when": functools.partial(read_iso, unit="date")}


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b'[{"when": "2024-05-01T12:00:00Z", "x": 1}, {"when": null, "x": 2}]', payload.JSON),
        (b'{"when": "2024-05-01 14:00+02:00", "x": 1}\n{"x": 2, "when": ""}', payload.JSONLINES),
        (b"when,x\n2024-05-01T12:00:00.000Z,1\n,2\n", payload.CSV),
        (b"2024-05-01T12:00,1\nNA,2\n", payload.CSV),
    ],
)
def test_a_date_is_read_from_text(body, content_type):
    X = payload.decode(body, content_type).matrix(["when", "x"], missing=["when"], dates=DATES)
    np.testing.assert_array_equal(X, [[19844.5, 1], [NAN, 2]])


@pytest.mark.parametrize("cell", ["soon", "01/05/2024", "2024-02-30", 2024, 19844.5, True])
def test_what_is_not_a_date_is_named(cell):
    body = json.dumps([{"when": "2024-05-01", "x": 1}, {"when": cell, "x": 1}]).encode()
    with pytest.raises(PayloadError, match=r"^row 1, 'when': .* is not a date in ISO 8601, such"):
        payload.decode(body, payload.JSON).matrix(["when", "x"], dates=DATES)
    lines = f"when,x\n2024-05-01,1\n{cell},1\n".encode()
    with pytest.raises(
        PayloadError, match=r"^line 3, column 'when': .* is not a date in ISO 8601"
    ):
        payload.decode(lines, payload.CSV).matrix(["when", "x"], dates=DATES)


def test_numbers_are_no_dates_in_any_format():
    with pytest.raises(PayloadError, match=r"^row 0, 'when': 19844 is not a date in ISO 8601"):
        Table(np.array([[19844.0, 1.0]])).matrix(["when", "x"], dates=DATES)


def test_a_missing_date_is_refused_unless_it_may_be():
    table = payload.decode(b'[{"when": null, "x": 1}]', payload.JSON)
    with pytest.raises(PayloadError, match="row 0, 'when' is missing; send text in ISO 8601"):
        table.matrix(["when", "x"], dates=DATES)


@pytest.mark.parametrize("cell", ["c017", 7, None, 1e400, "2024-05-01", ""])
def test_a_feature_that_is_not_used_may_be_anything(cell):
    body = json.dumps({"id": cell, "x": 1}).encode()
    X = payload.decode(body, payload.JSON).matrix(["x", "id"], unused=["id"])
    np.testing.assert_array_equal(X, [[1, 0]])


cells = st.none() | st.sampled_from(["1", "2.50", "x", " y ", "", "true", "nan", "-3", "1e2"])


@seed(20261120)
@settings(max_examples=200, deadline=None, derandomize=True)
@given(rows=st.lists(st.tuples(cells, st.floats(-9, 9)), min_size=1, max_size=6))
def test_a_batch_equals_its_rows_one_by_one_in_every_format(rows):
    levels = {"c": ["x", "1", 2.5, "True", "y"]}

    def codes(body, content_type):
        table = payload.decode(body, content_type)
        return table.matrix(["c", "v"], levels, missing=True, unknown="keep").tolist()

    def as_csv(rows):
        return "".join(f'"{c or ""}",{v!r}\n' for c, v in rows)

    json_lines = [json.dumps({"c": c, "v": v}) for c, v in rows]
    one_by_one = [codes(line, payload.JSON)[0] for line in json_lines]
    together = codes("\n".join(json_lines), payload.JSONLINES)
    np.testing.assert_array_equal(together, one_by_one)
    together = codes(as_csv(rows), payload.CSV)
    one_by_one = [codes(as_csv([row]), payload.CSV)[0] for row in rows]
    np.testing.assert_array_equal(together, one_by_one)


def test_ten_thousand_rows_of_text_are_quick():
    n = 10_000
    rng = np.random.default_rng(0)
    levels = [f"level {i}" for i in range(40)]
    texts = [list(rng.choice(levels, n)) for _ in range(8)]
    table = Table.of_columns([*texts, *rng.normal(size=(6, n))])
    features = [f"x{j}" for j in range(14)]
    known = dict.fromkeys(features[:8], levels)
    table.matrix(features, known)
    begun = time.process_time()
    X = table.matrix(features, known)
    assert time.process_time() - begun < 0.1
    assert [levels[int(code)] for code in X[-1, :8]] == [column[-1] for column in texts]


# ---------------------------------------------------------------- frames


def test_a_frame_has_numbers_and_text():
    frame = PEOPLE.frame()
    assert list(frame) == ["age", "job", "rooms"]
    assert frame.dtypes.tolist() == [np.float64, object, np.float64]
    assert frame["job"].tolist() == ["clerk", "smith", None]
    np.testing.assert_array_equal(frame["age"], [30, NAN, 50])


def test_a_frame_has_the_categories_that_are_asked_for():
    frame = PEOPLE.frame(categories=["job", "rooms"])
    assert frame["job"].cat.categories.tolist() == ["clerk", "smith"]
    assert frame["rooms"].cat.categories.tolist() == [1, 3]
    with pytest.raises(PayloadError, match=r"there is no column 'town' .* are 'age', 'job'"):
        PEOPLE.frame(categories=["town"])


@pytest.mark.parametrize("missing", [None, "", "NA"])
def test_a_frame_has_dates_where_all_text_is_that(missing):
    texts = ["2024-05-01T14:00:00+02:00", missing, "2024-05-02"]
    table = Table.of_columns([texts, ["P1D", "PT6H", None], ["2024-05-01", "soon", None]])
    frame = table.frame(recognize=recognize)
    assert frame["x0"].tolist() == [
        pd.Timestamp("2024-05-01 12:00"),
        pd.NaT,
        pd.Timestamp("2024-05-02"),
    ]
    assert frame["x1"].tolist()[:2] == [pd.Timedelta(days=1), pd.Timedelta(hours=6)]
    assert frame["x2"].tolist() == ["2024-05-01", "soon", None]
    assert table.frame(["x0"], recognize)["x0"].dtype == "category"


def test_a_frame_without_names_is_numbered():
    assert list(Table(np.eye(2)).frame()) == ["x0", "x1"]
    assert list(Table.of_columns([[1.0], ["x"]]).frame()) == ["x0", "x1"]


def test_a_frame_takes_an_ambiguous_first_line_for_names():
    frame = payload.parse_csv("job,town\nclerk,Rome\n").frame()
    pd.testing.assert_frame_equal(
        frame, pd.DataFrame({"job": ["clerk"], "town": ["Rome"]}, dtype=object)
    )


@pytest.mark.parametrize("word", ["", " ", "NA", "n/a", "#N/A", "NaN", "null", "NULL", "None"])
def test_words_for_a_missing_number(word):
    table = payload.parse_csv(f"age,job\n41,cook\n{word},{word}\n").select(["age", "job"])
    assert np.isnan(table.values[1, 0])
    assert table.values[1, 1] == (word.strip() or None)  # among text it may be a name
    alone = payload.parse_csv(f"age,job\n{word},cook\n").matrix(
        ["age", "job"], {"job": ["cook"]}, ["age"]
    )
    np.testing.assert_array_equal(alone, [[np.nan, 0]])
