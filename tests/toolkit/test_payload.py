import io
import json
import pickle
import sys

import numpy as np
import pytest
from hypothesis import example, given, seed, settings
from hypothesis import strategies as st

from program_toolkit import payload
from program_toolkit.payload import CSV, JSON, JSONLINES, NPY, PayloadError, Table

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
        (b"1,2.5\n-3,4e-3\n5,6e10\n", "text/csv; header=absent"),
        (json.dumps(json.dumps(ROWS.tolist())).encode(), JSON),
        (json.dumps(json.dumps({"instances": ROWS.tolist()})), JSON),
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


NAN = float("nan")


@pytest.mark.parametrize(
    ("body", "content_type", "cells"),
    [
        (b"1,x\n2,y\n", CSV, [[1.0, "x"], [2.0, "y"]]),
        (b"1,\n,y\n", CSV, [[1.0, None], [NAN, "y"]]),
        (b' 1 , " x, y"\n2,"""y"" "\n', CSV, [[1.0, "x, y"], [2.0, '"y"']]),
        (b'1,"x\n\ny"\r\n2,y\r\n', CSV, [[1.0, "x\n\ny"], [2.0, "y"]]),
        (b"1,3\n2,x\n3,1_0\n", CSV, [[1.0, "3"], [2.0, "x"], [3.0, "1_0"]]),
        ("1,\xe9\n".encode("latin-1"), "text/csv;charset=iso-8859-1", [[1.0, "\xe9"]]),
        (b"a,b\n1,2\n", "text/csv; header=absent", [["a", "b"], ["1", "2"]]),
        (b'[[1, "x"], [null, null]]', JSON, [[1.0, "x"], [NAN, None]]),
        (
            b'[["x"], [3], [2.5], [true], [NaN], [""]]',
            JSON,
            [["x"], ["3"], ["2.5"], ["true"], [None], [""]],
        ),
        (b'{"instances": [[true, "x"]]}', JSON, [[1.0, "x"]]),
        (b'[null, "x", 2]', JSON, [NAN, "x", 2.0]),
        (b'"x"\n"y"\n', JSONLINES, [["x"], ["y"]]),
        (b'[1, "x"]\n[2, "y"]\n', JSONLINES, [[1.0, "x"], [2.0, "y"]]),
    ],
)
def test_reads_text(body, content_type, cells):
    table = payload.decode(body, content_type)
    assert table.names is None
    assert table.values.dtype == object
    assert repr(table.values.tolist()) == repr(cells)  # in which NaN equals itself


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"a,b\n1,x\n,\n", CSV),
        (b'\n"a", b\r\n1,x\r\n,\r\n', "text/csv; header=present"),
        (b'[{"a": 1, "b": "x"}, {"b": null, "a": null}]', JSON),
        (b'{"a": 1, "b": "x"}\n{"b": null, "a": null}\n', JSONLINES),
    ],
)
def test_reads_text_with_names(body, content_type):
    table = payload.decode(body, content_type)
    assert table.names == ("a", "b")
    assert table.text() == [False, True]
    assert repr(table.values.tolist()) == "[[1.0, 'x'], [nan, None]]"


@pytest.mark.parametrize(
    ("body", "content_type", "rows"),
    [
        # Names above text alone are known by the model's names.
        (b"job,town\nclerk,Rome\n", CSV, [["clerk", "Rome"]]),
        (b"town,job\nRome,clerk\n", CSV, [["clerk", "Rome"]]),
        (b"clerk,Rome\n", CSV, [["clerk", "Rome"]]),
        (b"clerk,Rome\nsmith,Oslo", CSV, [["clerk", "Rome"], ["smith", "Oslo"]]),
        (b"clerk,\nsmith,Oslo", CSV, [["clerk", None], ["smith", "Oslo"]]),
        (b"Rome,Rome\n", CSV, [["Rome", "Rome"]]),
        (b"town,town\n", CSV, [["town", "town"]]),
        # Names above numbers are names in any case.
        (b"job,town\n1,Rome\n", CSV, [[1.0, "Rome"]]),
        # The sender's word counts most.
        (b"job,town\n", "text/csv;header=absent", [["job", "town"]]),
        (b"job,town\n1,Rome\n", 'text/csv;header="absent"', [["job", "town"], ["1", "Rome"]]),
        (b"job,town\nclerk,Rome\n", "text/csv;header=present", [["clerk", "Rome"]]),
    ],
)
def test_finds_out_whether_the_first_line_is_a_header(body, content_type, rows):
    table = payload.decode(body, content_type).select(["job", "town"])
    assert table.names == ("job", "town")
    assert table.values.tolist() == rows


@pytest.mark.parametrize(
    ("body", "content_type", "message"),
    [
        (b"job,Town\nclerk,Rome\n", CSV, "missing 'town'; unknown 'Town'"),
        (b"Job,Town\n1,Rome\n", CSV, "missing 'job', 'town'; unknown 'Job', 'Town'"),
        (b"Job,Town\nclerk,Rome\n", "text/csv;header=present", "unknown 'Job', 'Town'"),
        (b"2019,2020\n1,Rome\n", "text/csv;header=present", "unknown '2019', '2020'"),
        (b"job,town\n", CSV, "no rows below the header 'job,town'"),
        (b"clerk,Rome,3\n", CSV, "got 3 columns where the model has 2"),
    ],
)
def test_names_what_is_wrong_with_a_header(body, content_type, message):
    with pytest.raises(PayloadError, match=message):
        payload.decode(body, content_type).select(["job", "town"])


@pytest.mark.parametrize(
    ("body", "rows"),
    [
        # Where a batch begins makes no difference.
        (b"NA,red\n41,blue\n", [[NAN, 1], [41, 0]]),
        (b",red\n41,blue\n", [[NAN, 1], [41, 0]]),
        (b"null,NA\n41,blue\n", [[NAN, NAN], [41, 0]]),
        (b"NA,NA\n41,blue\n", [[NAN, NAN], [41, 0]]),
        (b"NA,red\n", [[NAN, 1]]),
        (b"NA,other\n41,blue", [[NAN, -1], [41, 0]]),
        (b"41,blue\nNA,red\n", [[41, 0], [NAN, 1]]),
        # Names of the model are a header, wherever they stand and whatever is below.
        (b"age,colour\nNA,red\n", [[NAN, 1]]),
        (b"colour,age\nred,NA\n", [[NAN, 1]]),
        (b'"age","colour"\n41,red\n', [[41, 1]]),
    ],
)
def test_a_first_line_is_a_header_only_if_it_names_the_models_features(body, rows):
    table = payload.decode(body, CSV)
    levels = {"colour": ("blue", "red")}
    X = table.matrix(["age", "colour"], levels, missing=True, unknown="keep")
    np.testing.assert_array_equal(X, rows)


def test_texts_above_numbers_are_a_row_where_the_model_does_not_name_them():
    levels = {"zip": ("007", "E14"), "colour": ("blue", "red")}
    X = payload.decode(b"E14,red\n007,blue\n", CSV).matrix(["zip", "colour"], levels)
    np.testing.assert_array_equal(X, [[1, 1], [0, 0]])


def test_names_that_are_partly_numbers_are_a_header():
    table = payload.decode(b"2019,age,2020\n1,2,3\n", CSV)
    np.testing.assert_array_equal(table.matrix(["age", "2019", "2020"]), [[2, 1, 3]])
    X = payload.decode(b"0,cook,1\n", CSV).matrix(["0", "job", "1"], {"job": ["cook"]})
    np.testing.assert_array_equal(X, [[0, 0, 1]])


def test_numbers_that_are_the_models_names_are_neither_by_silence():
    names = ["0", "1", "2"]
    with pytest.raises(PayloadError, match="may hold the model's column names or a row; send"):
        payload.decode(b"0,1,2\n5,6,7\n", CSV).matrix(names)
    for header, rows in [("absent", [[0, 1, 2], [5, 6, 7]]), ("present", [[5, 6, 7]])]:
        table = payload.decode(b"0,1,2\n5,6,7\n", f"text/csv; header={header}")
        np.testing.assert_array_equal(table.matrix(names), rows)
    np.testing.assert_array_equal(payload.decode(b"5,6,7\n", CSV).matrix(names), [[5, 6, 7]])


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"id,b,a\nx,2,1\n", "text/csv; ignore_extra=true"),
        (b'[{"id": "x", "a": 1, "b": 2}]', "application/json; ignore_extra=true"),
        (b'{"id": "x", "a": 1, "b": 2}\n', "application/jsonlines; ignore_extra=True"),
        (
            b'{"instances": [{"id": "x", "a": 1, "b": 2}], "parameters": {"ignore_extra": true}}',
            JSON,
        ),
    ],
)
def test_unknown_columns_may_be_ignored(body, content_type):
    table = payload.decode(body, content_type)
    np.testing.assert_array_equal(table.matrix(["a", "b"]), [[1, 2]])
    assert table.parameters == {}
    with pytest.raises(PayloadError, match="missing 'c'; the model has"):
        table.matrix(["a", "c"])
    plain = content_type.partition(";")[0]
    if b"parameters" not in body:
        with pytest.raises(PayloadError, match="unknown 'id'; the model has 'a', 'b'; ignore_ext"):
            payload.decode(body, plain).matrix(["a", "b"])


@pytest.mark.parametrize("content_type", ["text/csv; ignore_extra=maybe", JSON])
def test_ignore_extra_is_true_or_false(content_type):
    body = b'{"instances": [[1]], "parameters": {"ignore_extra": "x"}}'
    with pytest.raises(PayloadError, match="ignore_extra must be true or false"):
        payload.decode(body, content_type)


CELLS = [41, 41.5, True, None, "41", " 4e1 ", "NA", "n/a", "", "true", "3"]


@pytest.mark.parametrize("beside", [7, "NA", "7", None, True])
@pytest.mark.parametrize("cell", CELLS, ids=repr)
def test_a_cell_reads_the_same_whatever_else_is_in_the_batch(cell, beside):
    def read(records, levels=None):
        table = payload.decode(json.dumps(records), JSON)
        return table.matrix(["x"], levels, missing=True, unknown="keep")[0, 0]

    for levels in (None, {"x": ("3", "41", "true")}):
        alone = read([{"x": cell}], levels)
        together = read([{"x": cell}, {"x": beside}], levels)
        np.testing.assert_array_equal(together, alone)
    expected = {41.5: 41.5, "41": 41, " 4e1 ": 40, "NA": NAN, "n/a": NAN, "": NAN, "3": 3}
    if cell in expected:
        np.testing.assert_array_equal(read([{"x": cell}, {"x": beside}]), expected[cell])


@pytest.mark.parametrize(
    ("body", "rows"),
    [
        (b'{"a": 1, "b": 2.5}\n{"b": 4e-3, "a": -3}\n', [[1, 2.5], [-3, 4e-3]]),
        (b'{"a": 1, "b": 2.5}\r\n\r\n{"b": 4e-3, "a": -3}', [[1, 2.5], [-3, 4e-3]]),
        (b"[1, 2.5]\n[-3, 4e-3]\n", [[1, 2.5], [-3, 4e-3]]),
    ],
)
def test_json_one_record_a_line_is_read(body, rows):
    table = payload.decode(body, JSON)
    assert table.by_line
    np.testing.assert_array_equal(table.matrix(["a", "b"]), rows)
    assert table.select(["a", "b"]).by_line


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"a": 1}\n{"a": }\n', "line 2: not valid JSON"),
        (b'{"a": 1}\n{"b": 1}\n', "row 1 and row 0 differ in 'a', 'b'"),
        (b'{"a": 1} {"a": 2}', "not valid JSON: Extra data"),
        (b'{"a": 1},\n{"a": 2}', "not valid JSON: Extra data"),
    ],
)
def test_other_json_is_not_read_by_the_line(body, message):
    with pytest.raises(PayloadError, match=message):
        payload.decode(body, JSON)


def test_one_json_value_over_several_lines_is_one():
    table = payload.decode(b'{\n"a": 1,\n"b": 2\n}\n', JSON)
    assert not table.by_line
    np.testing.assert_array_equal(table.matrix(["a", "b"]), [[1, 2]])


def test_refuses_a_header_parameter_that_says_nothing():
    with pytest.raises(PayloadError, match="send header=present or header=absent") as refusal:
        payload.decode(b"1,2\n", "text/csv; header=yes")
    assert refusal.value.status == 415


@pytest.mark.parametrize("encode", [json.dumps, lambda body: json.dumps(json.dumps(body))])
def test_parameters_come_beside_the_instances(encode):
    body = {"instances": [{"a": 1}], "parameters": {"threshold": 0.9}}
    assert payload.decode(encode(body), JSON).parameters == {"threshold": 0.9}
    assert payload.decode(encode({"instances": [1]}), JSON).parameters == {}


def test_a_record_may_have_a_column_named_parameters():
    assert payload.decode(b'{"parameters": 1}', JSON).matrix(["parameters"]) == [[1]]


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
        (b"1,2\n3\n", CSV, "line 2 has 1 cells where 2 are expected"),
        (b"1,2\n3,4,5\n", CSV, "line 2 has 3 cells where 2 are expected"),
        (b"a,b\n1,2,3\n", CSV, "the header has 2 cells, the rows 3"),
        (b"1," + b"x" * 200_000, CSV, "not comma-separated"),
        (b"x,y\n" + b"x" * 200_000, CSV, "not comma-separated"),
        (b"a,x\ny\n", CSV, "line 2 has 1 cells where 2 are expected"),
        (b'a,b\n\n1,"x\n\ny"\n1\n', CSV, "line 6 has 1 cells where 2 are expected"),
        (b"1,2\n", "text/csv; header=present", "no rows below the header '1,2'"),
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
        (b"[[[1]]]", JSON, r"\[1\] is not a number"),
        (b'[{"a": 1}, [2]]', JSON, "row 1 is not a record"),
        (b'[{"a": 1}, {"b": 1}]', JSON, "row 1 and row 0 differ in 'a', 'b'"),
        (b"[" + b"9" * 400 + b"]", JSON, "too large"),
        (b"[[" + b"9" * 400 + b"]]", JSON, "too large"),
        (b"[" * 100_000, JSON, "not valid JSON"),
        (b"[" * 500 + b"1" + b"]" * 500, JSON, "is not a number"),
        (b'[{"a": 1}, {"a": {}}]', JSON, "row 1, 'a': {} is not a number or a text"),
        (b'[["x", 1], [[], 2]]', JSON, r"row 1, column 0: \[\] is not a number or a text"),
        (b'[["x", 1' + 400 * b"0" + b"]]", JSON, "too large"),
        (b'"x"', JSON, "the body is a JSON string; inside it: not valid JSON"),
        (b'"\\"[]\\""', JSON, r"non-empty array of rows.*; got '\[\]'"),
        (b'{"instances": [1], "parameters": 3}', JSON, "parameters must be an object, got 3"),
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
        # text
        (b"a,b\n", CSV, "no rows below the header 'a,b'"),
        (b"a,b\n1,2\n3,x\n", CSV, "line 3, column 'b': 'x' is not a number"),
        (b"b,a\n1,2\n3,x\n", CSV, "line 3, column 'a': 'x' is not a number"),
        (b"1,2\n\n3,x\n", CSV, "line 3, column 'b': 'x' is not a number"),
        (b"1,x\n", CSV, "line 1, column 'b': 'x' is not a number"),
        (b"1,1_0\n", CSV, "'1_0' is not a number"),
        (
            b"1;2\n3;4\n",
            CSV,
            "got 1 columns where the model has 2: a, b; the cells seem to be sep",
        ),
        (b"a,b,a\n1,2,3\n", CSV, "two columns are named 'a'"),
        (b"u,v\n1,2\n", CSV, "line 1, column 'a': 'u' is not a number; if the first line is a"),
        (b"a,b,id\n1,2,3\n", CSV, "unknown 'id'; the model has 'a', 'b'; ignore_extra=true in"),
        (b"1\t2\n", CSV, "model has 2: a, b; the cells seem to be separated by tabs, send commas"),
        (b'[["1_0", 1]]', JSON, "row 0, 'a': '1_0' is not a number"),
        (b'[1, "x"]', JSON, "row 0, 'b': 'x' is not a number"),
        (b'[[1, 2], [null, "3"], [0, "x"]]', JSON, "row 2, 'b': 'x' is not a number"),
        (b'{"b": 1, "a": "x"}', JSON, "row 0, 'a': 'x' is not a number"),
    ],
)
def test_refuses_tables_that_do_not_fit_the_model(body, content_type, message):
    with pytest.raises(PayloadError, match=message):
        payload.decode(body, content_type).matrix(["a", "b"])


def test_a_long_text_among_numbers_costs_no_more_memory_than_the_body():
    import tracemalloc

    body = json.dumps([["x" * 20_000] + [1] * 20_000])
    tracemalloc.start()
    table = payload.decode(body, JSON)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert table.values.shape == (1, 20_001)
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


KNOWN = {"levels": {"b": ["n", "a", 1, "2"]}, "unknown": "keep"}


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
    assert table.values.dtype in (np.float64, object)
    assert table.values.ndim in (1, 2)
    if table.names is not None:
        assert table.values.shape[1] == len(table.names)
    for how, good in [({}, np.isfinite), ({"missing": True, **KNOWN}, lambda x: ~np.isinf(x))]:
        try:
            matrix = table.matrix(["a", "b"], **how)
        except PayloadError:
            continue
        assert matrix.shape[1] == 2
        assert matrix.dtype == np.float64
        assert good(matrix).all()


def test_nothing_is_loaded_from_a_pickle():
    class Bomb:
        def __reduce__(self):
            return sys.exit, (3,)

    with pytest.raises(PayloadError):
        payload.decode(npy(np.array([[Bomb()]], dtype=object), allow_pickle=True), NPY)


@pytest.mark.parametrize(
    ("body", "line"),
    [('"]\n[2]\n', 1), ('"', 1), ('"1', 1), ('1\n"\n2\n', 2), ('1,"a\n2,b\n', 1), ('x\n"1', 2)],
)
def test_a_quote_that_is_not_closed_is_refused(body, line):
    with pytest.raises(PayloadError, match=f"a quote that line {line} opens is not closed"):
        payload.decode(body, CSV)
