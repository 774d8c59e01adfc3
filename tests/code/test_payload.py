import io
import json
import pickle
import sys

import numpy as np
import pytest
from hypothesis import example, given, seed, settings
from hypothesis import strategies as st

import payload
from payload import CSV, JSON, JSONLINES, NPY, Answer, Explanation, PayloadError, Table

ROWS = np.array([[1.0, 2.5], [-3.0, 4e-3], [5.0, 6e10]])


def npy(array, **how) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, **how)
    return stream.getvalue()


def npy_header(text: str, data: bytes = b"") -> bytes:
    header = text.encode("latin-1")
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + data


def announced(shape: str, data: bytes = b"", descr: str = "'<f8'") -> bytes:
    return npy_header(f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}", data)


# ---------------------------------------------------------------- reading


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (npy(ROWS), NPY),
        (npy(np.asfortranarray(ROWS)), NPY),
        (npy(ROWS.astype(">f8")), NPY),
        (npy(ROWS.astype(np.longdouble)), NPY),
        (b"1,2.5\n-3,4e-3\n5,6e10\n", CSV),
        (b"\n1,2.5\n\n-3,4e-3\n   \n5,6e10", CSV),
        (b"1,2.5\r\n-3,4e-3\r\n5,6e10\r\n", CSV),
        (b"1,2.5\r-3,4e-3\r5,6e10\r", CSV),
        (b' 1 , "2.5"\n-3,0.4e-2\n+5,6E10\n', CSV),
        (b"\xef\xbb\xbf1,2.5\n-3,4e-3\n5,6e10\n", CSV),
        ("1,2.5\n-3,4e-3\n5,6e10\n", CSV),
        ("1,2.5\n-3,4e-3\n5,6e10\n".encode("utf-16"), "text/csv; charset=utf-16"),
        (b"1,2.5\n-3,4e-3\n5,6e10\n", ' Text/CSV ;charset="UTF-8"'),
        (json.dumps(ROWS.tolist()).encode(), JSON),
        (json.dumps(ROWS.tolist()), "application/json; charset=utf-8"),
        (json.dumps(ROWS.tolist()).encode(), None),
        (json.dumps({"instances": ROWS.tolist()}).encode(), JSON),
        (b"[1, 2.5]\r\n\r\n[-3, 4e-3]\n[5, 6e10]", JSONLINES),
    ],
)
def test_reads_rows_without_names(body, content_type):
    table = payload.decode(body, content_type)
    assert table.names is None
    np.testing.assert_array_equal(table.values, ROWS)
    assert table.values.dtype == np.float64


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"a,b c\n1,2.5\n-3,4e-3\n5,6e10\n", CSV),
        (b'\xef\xbb\xbf"a", "b c" \r\n1,2.5\r\n-3,4e-3\r\n5,6e10', CSV),
        (b'[{"a":1,"b c":2.5},{"b c":4e-3,"a":-3},{"a":5,"b c":6e10}]', JSON),
        (b'{"instances":[{"a":1,"b c":2.5},{"b c":4e-3,"a":-3},{"a":5,"b c":6e10}]}', JSON),
        (b'{"a":1,"b c":2.5}\n{"b c":4e-3,"a":-3}\n{"a":5,"b c":6e10}\n', JSONLINES),
    ],
)
def test_reads_rows_with_names(body, content_type):
    table = payload.decode(body, content_type)
    assert table.names == ("a", "b c")
    np.testing.assert_array_equal(table.values, ROWS)
    np.testing.assert_array_equal(table.matrix(["b c", "a"]), ROWS[:, ::-1])


@pytest.mark.parametrize("dtype", ["f2", "f4", ">f4", "f8", "i1", "u2", ">i8", "u8", "?"])
def test_every_numeric_dtype_is_read(dtype):
    array = np.array([[0, 1], [1, 1]]).astype(dtype)
    np.testing.assert_array_equal(payload.decode(npy(array), NPY).values, array.astype(float))


def test_every_version_of_the_npy_format_is_read():
    for version in [(1, 0), (2, 0)]:
        stream = io.BytesIO()
        np.lib.format.write_array(stream, ROWS, version)
        np.testing.assert_array_equal(payload.decode(stream.getvalue(), NPY).values, ROWS)


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (npy(np.array([1.0, 2, 3])), NPY),
        (b"[1, 2, 3]", JSON),
        (b'{"instances": [1, 2, 3]}', JSON),
    ],
)
def test_one_dimension_is_a_row_or_a_column_as_the_model_needs(body, content_type):
    table = payload.decode(body, content_type)
    np.testing.assert_array_equal(table.matrix(["x"]), [[1], [2], [3]])
    np.testing.assert_array_equal(table.matrix(["x", "y", "z"]), [[1, 2, 3]])
    with pytest.raises(PayloadError, match="got 3 columns where the model has 2: x, y"):
        table.matrix(["x", "y"])


@pytest.mark.parametrize(
    ("body", "content_type"), [(b"1\n2\n", CSV), (b"1\n2", JSONLINES), (b"[[1],[2]]", JSON)]
)
def test_lines_are_rows_even_of_one_number(body, content_type):
    assert payload.decode(body, content_type).values.shape == (2, 1)


def test_a_single_record_is_one_row():
    np.testing.assert_array_equal(
        payload.decode(b'{"b": 2, "a": true}', JSON).matrix(["a", "b"]), [[1, 2]]
    )


@pytest.mark.parametrize(
    ("body", "content_type", "message"),
    [
        # npy
        (npy(ROWS)[:-1], NPY, "48 bytes announced, 47 sent"),
        (npy(ROWS) + b"\0", NPY, "48 bytes announced, 49 sent"),
        (npy(ROWS)[:20], NPY, "not an array in NumPy's npy format"),
        (b"\x93NUMPY\x09\x00", NPY, "npy format"),
        (b"1,2\n", NPY, "npy format"),
        (pickle.dumps(ROWS), NPY, "npy format"),
        (npy(np.array([[{}]]), allow_pickle=True), NPY, "dtype is dtype"),
        (npy(np.array([["1"]])), NPY, "send floats or integers"),
        (npy(np.array([[1j]])), NPY, "send floats or integers"),
        (npy(np.array([["2020"]], "M8[Y]")), NPY, "send floats or integers"),
        (npy(np.zeros(2, "f8,f8")), NPY, "send floats or integers"),
        (npy(np.float64(1)), NPY, r"shape \(\); send"),
        (npy(ROWS[None]), NPY, r"shape \(1, 3, 2\); send"),
        (npy(ROWS[:0]), NPY, r"shape is \(0, 2\)"),
        (announced("(4000000000, 4000000000)"), NPY, "128000000000000000000 bytes announced"),
        (announced("(0, 10**30)".replace("10**30", "1" + 30 * "0")), NPY, "empty"),
        (announced("(-1, -2)", bytes(16)), NPY, "shape"),
        (announced("(-1, 2)", bytes(16)), NPY, "shape"),
        (announced("(1,)", bytes(8), descr="()"), NPY, "npy format"),
        (npy_header("(" * 3000), NPY, "npy format"),
        (npy_header("{'descr': ("), NPY, "npy format"),
        (npy_header("[" * 90 + "]" * 90), NPY, "npy format"),
        # CSV
        (b"\n \r\n", CSV, "no lines"),
        (b"a,b\n", CSV, "no rows below the header 'a,b'"),
        (b"a,b\n1,2\n3,x\n", CSV, "line 3, column 'b': 'x' is not a number"),
        (b"1,2\n\n3,x\n", CSV, "line 3, column 2: 'x' is not a number"),
        (b"1,x\n", CSV, "line 1, column 2: 'x' is not a number"),
        (b"1,1_0\n", CSV, "'1_0' is not a number"),
        (b"1,2\n3\n", CSV, "line 2 has 1 cells where 2 are expected"),
        (b"1,2\n3,4,5\n", CSV, "line 2 has 3 cells where 2 are expected"),
        (b"a,b\n1,2,3\n", CSV, "the header has 2 cells, the rows 3"),
        (b"a,b,a\n1,2,3\n", CSV, "two columns are named 'a'"),
        (b"1," + b"x" * 200_000, CSV, "not comma-separated"),
        (b"1;2\n3;4\n", CSV, "line 2, column '1;2': '3;4' is not a number"),
        (b"1,\xff\n", CSV, "not utf-8 text"),
        (b"1,\xff\n", "text/csv; charset=us-ascii", "not us-ascii text"),
        # JSON
        (b"{", JSON, "not valid JSON"),
        (b"\xff", JSON, "not utf-8 text"),
        (b"3", JSON, "non-empty array of rows"),
        (b"null", JSON, "got None"),
        (b"[]", JSON, "non-empty array of rows"),
        (b'{"instances": []}', JSON, "non-empty array of rows"),
        (b'{"instances": {"a": 1}}', JSON, "non-empty array of rows"),
        (b"[[1, 2], [3]]", JSON, "row 1 has 1 cells where row 0 has 2"),
        (b"[1, [2]]", JSON, "row 0: 1 is not an array"),
        (b"[[1], 2]", JSON, "row 1: 2 is not an array"),
        (b"[[1], {}]", JSON, "row 1: {} is not an array"),
        (b'[["1"]]', JSON, "row 0, column 0: '1' is not a number"),
        (b'[1, "x"]', JSON, "row 0, column 1: 'x' is not a number"),
        (b"[[[1]]]", JSON, r"\[1\] is not a number"),
        (b'[{"a": "x"}]', JSON, "row 0, 'a': 'x' is not a number"),
        (b'[{"a": 1}, [2]]', JSON, "row 1 is not a record"),
        (b'[{"a": 1}, {"b": 1}]', JSON, "row 1 and row 0 differ in 'a', 'b'"),
        (b"[" + b"9" * 400 + b"]", JSON, "too large"),
        (b"[[" + b"9" * 400 + b"]]", JSON, "too large"),
        (b"[" * 100_000, JSON, "not valid JSON"),
        (b"[" * 500 + b"1" + b"]" * 500, JSON, "is not a number"),
        # JSON lines
        (b"\n \n", JSONLINES, "non-empty"),
        (b"[1]\n{]\n", JSONLINES, "line 2: not valid JSON"),
        (b"[1]\n[1, 2]\n", JSONLINES, "row 1 has 2 cells where row 0 has 1"),
        (b'{"a": 1}\n[1]\n', JSONLINES, "row 1 is not a record"),
        # any
        (b"", JSON, "the body is empty"),
        ("", CSV, "the body is empty"),
        (b"", NPY, "the body is empty"),
    ],
)
def test_refuses_what_is_not_a_table(body, content_type, message):
    with pytest.raises(PayloadError, match=message) as refusal:
        payload.decode(body, content_type)
    assert refusal.value.status == 400
    assert len(str(refusal.value)) < 300


@pytest.mark.parametrize(
    "content_type", ["text/html", "json", "*/*", "multipart/form-data; boundary=x", ";"]
)
def test_refuses_unknown_types(content_type):
    with pytest.raises(PayloadError, match="application/x-npy, text/csv") as refusal:
        payload.decode(b"[1]", content_type)
    assert refusal.value.status == 415


@pytest.mark.parametrize("charset", ["klingon", "hex", "punycode", "unicode_escape", "undefined"])
def test_refuses_charsets_that_are_unknown_or_no_text(charset):
    with pytest.raises(PayloadError, match=f"unknown charset '{charset}'") as refusal:
        payload.decode(b"1,2", f"text/csv; charset={charset}")
    assert refusal.value.status == 415


@pytest.mark.parametrize(
    ("body", "content_type", "message"),
    [
        (npy(np.array([[1, np.nan]])), NPY, "row 0, 'b' is missing"),
        (npy(np.array([[1, 1], [-np.inf, 1]])), NPY, "row 1, 'a' is infinite"),
        (npy(np.array([[1, np.longdouble("1e4000")]])), NPY, "row 0, 'b' is infinite"),
        (b"1,\n", CSV, "row 0, 'b' is missing"),
        (b"1,2\nnan,2\n", CSV, "row 1, 'a' is missing"),
        (b"1,1e400\n", CSV, "row 0, 'b' is infinite"),
        (b"[[1, null]]", JSON, "row 0, 'b' is missing"),
        (b'{"b": NaN, "a": 1}', JSON, "row 0, 'b' is missing"),
        (b"[[1, 2], [1, -Infinity]]", JSON, "row 1, 'b' is infinite"),
        (b"[[1, 1e999]]", JSON, "row 0, 'b' is infinite"),
        (b"[1, null]\n", JSONLINES, "row 0, 'b' is missing"),
        (b"null\n", JSONLINES, "got 1 columns where the model has 2: a, b"),
        (b"[[], []]", JSON, "got 0 columns"),
        (b"[[1, 2, 3]]", JSON, "got 3 columns where the model has 2: a, b"),
        (b'{"a": 1}', JSON, "missing 'b'; the model has 'a', 'b'"),
        (b'{"a": 1, "b": 1, "c": 1}', JSON, "unknown 'c'"),
        (b"A,b\n1,2\n", CSV, "missing 'a'; unknown 'A'"),
        (b"{}", JSON, "missing 'a', 'b'"),
    ],
)
def test_refuses_tables_that_do_not_fit_the_model(body, content_type, message):
    with pytest.raises(PayloadError, match=message):
        payload.decode(body, content_type).matrix(["a", "b"])


def test_a_long_text_among_numbers_costs_no_more_memory_than_the_body():
    import tracemalloc

    body = json.dumps([["x" * 20_000] + [1] * 20_000])
    tracemalloc.start()
    with pytest.raises(PayloadError, match="column 0: 'xxx"):
        payload.decode(body, JSON)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 50 * len(body)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["instances", "a", "b", "\ud800"]), inner, max_size=3)
    ),
    max_leaves=12,
)
npy_bytes = st.one_of(
    st.binary(max_size=60).map(lambda tail: b"\x93NUMPY" + tail),
    st.text(max_size=60).map(lambda text: npy_header(text.encode().decode("latin-1"))),
    st.builds(
        announced,
        shape=st.lists(st.integers(-2, 3), max_size=3).map(lambda shape: str(tuple(shape))),
        data=st.binary(max_size=32),
        descr=st.sampled_from(["'<f8'", "'>i2'", "'|b1'", "'|O'", "'<f16'", "[('a','<f8')]", "0"]),
    ),
)


@seed(20261120)
@settings(max_examples=400, deadline=None, derandomize=True)
@given(
    body=st.binary(max_size=80)
    | st.text(alphabet='0123456789.,-+eE"\n\r\t nai_;\x00\ufeff', max_size=60).map(str.encode)
    | json_values.map(lambda value: json.dumps(value).encode())
    | st.lists(json_values, max_size=3).map(lambda rows: "\n".join(map(json.dumps, rows)).encode())
    | npy_bytes,
    content_type=st.sampled_from([NPY, CSV, JSON, JSONLINES, "text/csv; charset=utf-16"]),
)
@example(body=b"[1, [2]]", content_type=JSON)
@example(body=announced("(-1, -1)", bytes(8)), content_type=NPY)
def test_any_body_is_a_table_or_a_payload_error(body, content_type):
    try:
        table = payload.decode(body, content_type)
    except PayloadError:
        return
    assert isinstance(table, Table)
    assert table.values.dtype == np.float64
    assert table.values.ndim in (1, 2)
    if table.names is not None:
        assert table.values.shape[1] == len(table.names)
    try:
        matrix = table.matrix(["a", "b"])
    except PayloadError:
        return
    assert matrix.shape[1] == 2
    assert np.isfinite(matrix).all()


# ---------------------------------------------------------------- writing


def never() -> Explanation:
    raise AssertionError("nobody asked for an explanation")


def explanation() -> Explanation:
    return Explanation(base=1.0, values={"a": np.array([2.0, 4.0]), "b": np.array([0.5, 0.25])})


EXPLAINED = Answer(np.array([3.5, 5.25]), explanation)


@seed(20261120)
@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    values=st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=20),
    media=st.sampled_from([NPY, CSV, JSON, JSONLINES]),
)
def test_predictions_survive_the_way_out_and_in_again(values, media):
    body, content_type = payload.encode(Answer(np.array(values), never), media)
    assert content_type == media
    if media == JSON:
        body = json.dumps(json.loads(body)["prediction"]).encode()
    if media == JSONLINES:
        assert body.count(b"\n") == len(values)
    np.testing.assert_array_equal(payload.decode(body, media).values.ravel(), values)


def test_writes_an_explanation_into_json():
    body, content_type = payload.encode(EXPLAINED, "application/json; explain=true")
    assert content_type == JSON
    assert json.loads(body) == {
        "prediction": [3.5, 5.25],
        "shap_base": 1.0,
        "shap_values": {"a": [2.0, 4.0], "b": [0.5, 0.25]},
        "scale": "response",
    }


def test_writes_an_explanation_into_every_json_line():
    body, content_type = payload.encode(EXPLAINED, 'application/jsonlines;Explain="TRUE"')
    assert content_type == JSONLINES
    lines = [json.loads(line) for line in body.splitlines()]
    assert lines[1] == {
        "prediction": 5.25,
        "shap_base": 1.0,
        "shap_values": {"a": 4.0, "b": 0.25},
        "scale": "response",
    }
    assert len(lines) == 2


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        (None, JSON),
        ("", JSON),
        ("*/*", JSON),
        ("application/*", JSON),
        ("text/*", CSV),
        ("text/plain, text/*;q=.2", CSV),
        ("TEXT/CSV", CSV),
        ("text/csv, application/json", CSV),
        ("text/csv;q=0.5, application/json", JSON),
        ("text/csv;q=0.5, */*;q=0.1", CSV),
        ("text/html, application/x-npy;q=0.9, */*;q=0.1", NPY),
        ("application/json;q=0, */*", CSV),
        ("application/json;q=0, application/*", JSONLINES),
        ("text/csv;q=nan, application/x-npy;q=.1", NPY),
        ("text/csv;q=7, application/x-npy;q=.1", NPY),
        ("application/json;explain=false", JSON),
    ],
)
def test_accept_is_negotiated(accept, chosen):
    assert payload.encode(Answer(np.array([1.0]), never), accept)[1] == chosen


@pytest.mark.parametrize(
    "accept",
    ["text/html", "image/*", "application/json;q=0", "*/*;q=0", "application/json;q=x", "text"],
)
def test_what_cannot_be_written_is_not_acceptable(accept):
    with pytest.raises(PayloadError, match=r"accept one of application/json") as refusal:
        payload.encode(EXPLAINED, accept)
    assert refusal.value.status == 406


@pytest.mark.parametrize("accept", ["text/csv;explain=true", "application/x-npy;explain=true"])
def test_an_explanation_needs_json(accept):
    with pytest.raises(PayloadError, match="cannot carry an explanation") as refusal:
        payload.encode(EXPLAINED, accept)
    assert refusal.value.status == 406


def test_nothing_is_loaded_from_a_pickle():
    class Bomb:
        def __reduce__(self):
            return sys.exit, (3,)

    with pytest.raises(PayloadError):
        payload.decode(npy(np.array([[Bomb()]], dtype=object), allow_pickle=True), NPY)
