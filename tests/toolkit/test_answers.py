import csv
import io
import json

import numpy as np
import pytest
from hypothesis import given, seed, settings
from hypothesis import strategies as st

from program_toolkit import answers, payload
from program_toolkit.answers import Answer, Explanation
from program_toolkit.payload import CSV, JSON, JSONLINES, NPY, PayloadError


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
    body, content_type = answers.encode(Answer(np.array(values), never), media)
    assert content_type == media
    if media == JSON:
        body = json.dumps(json.loads(body)["prediction"]).encode()
    if media == JSONLINES:
        assert body.count(b"\n") == len(values)
    np.testing.assert_array_equal(payload.decode(body, media).values.ravel(), values)


@seed(20261120)
@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    labels=st.lists(st.text(st.characters(codec="utf-8"), max_size=8), min_size=1, max_size=9),
    media=st.sampled_from([CSV, JSON, JSONLINES]),
    dtype=st.sampled_from([object, str]),
)
def test_labels_survive_the_way_out_and_in_again(labels, media, dtype):
    labels = np.array(labels, dtype=dtype).tolist()  # NumPy's str drops trailing zero bytes
    body, content_type = answers.encode(Answer(np.array(labels, dtype=dtype), never), media)
    assert content_type == media
    if media == CSV:
        read = [cells[0] for cells in csv.reader(io.StringIO(body.decode(), newline=""))]
    elif media == JSON:
        read = json.loads(body)["prediction"]
    else:
        read = [json.loads(line)["prediction"] for line in body.splitlines()]
    assert read == labels


def test_labels_are_quoted_in_csv_where_they_must_be():
    answer = Answer(np.array(["plain", "a, b", 'say "x"', "3"]))
    assert answers.encode(answer, CSV) == (b'plain\n"a, b"\n"say ""x"""\n3\n', CSV)


def test_npy_carries_no_labels():
    with pytest.raises(PayloadError, match="labels, and application/x-npy carries n") as refusal:
        answers.encode(Answer(np.array(["a"])), NPY)
    assert refusal.value.status == 406


LABELS = Answer(
    np.array(["ham", "spam"]),
    lambda: {"anchor": [["a > 1"], []], "precision": np.array([0.9, 1.0])},
    {"probability": np.array([0.75, 0.5])},
)


def test_writes_further_columns_beside_the_predictions():
    content = {"prediction": ["ham", "spam"], "probability": [0.75, 0.5]}
    why = {"anchor": [["a > 1"], []], "precision": [0.9, 1.0]}
    assert json.loads(answers.encode(LABELS, JSON)[0]) == content
    assert json.loads(answers.encode(LABELS, "application/json;explain=true")[0]) == content | why
    lines = answers.encode(LABELS, "application/jsonlines")[0].splitlines()
    assert [json.loads(line) for line in lines] == [
        {"prediction": "ham", "probability": 0.75},
        {"prediction": "spam", "probability": 0.5},
    ]
    lines = answers.encode(LABELS, "application/jsonlines;explain=true")[0].splitlines()
    assert json.loads(lines[1]) == {
        "prediction": "spam",
        "probability": 0.5,
        "anchor": [],
        "precision": 1.0,
    }
    assert answers.encode(LABELS, CSV)[0] == b"ham\nspam\n"


def test_who_explains_nothing_says_so():
    with pytest.raises(PayloadError, match="explains nothing; drop explain=true") as refusal:
        answers.encode(Answer(np.array([1.0])), "application/json;explain=true")
    assert refusal.value.status == 406


@pytest.mark.parametrize("media", [JSON, JSONLINES])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["prediction", "columns", "explanation", "shap"])
def test_json_is_never_invalid(media, value, where):
    values = np.array([value])
    answer = Answer(
        values if where == "prediction" else np.array([1.0]),
        lambda: Explanation(0.0, {"a": values}) if where == "shap" else {"why": values[:1]},
        {"probability": values if where == "columns" else np.array([1.0])},
    )
    with pytest.raises(ValueError, match="of the answer holds a number that is not finite"):
        answers.encode(answer, f"{media};explain=true")


def test_writes_an_explanation_into_json():
    body, content_type = answers.encode(EXPLAINED, "application/json; explain=true")
    assert content_type == JSON
    assert json.loads(body) == {
        "prediction": [3.5, 5.25],
        "shap_base": 1.0,
        "shap_values": {"a": [2.0, 4.0], "b": [0.5, 0.25]},
        "scale": "response",
    }


def test_writes_an_explanation_into_every_json_line():
    body, content_type = answers.encode(EXPLAINED, 'application/jsonlines;Explain="TRUE"')
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
    assert answers.encode(Answer(np.array([1.0]), never), accept)[1] == chosen


def test_a_program_reads_its_own_parameters_of_accept():
    accept = "text/csv;q=0.5, application/json; Explain=true; top_k=5"
    assert answers.negotiate(accept) == (JSON, {"explain": "true", "top_k": "5"})
    assert answers.negotiate(None) == (JSON, {})


@pytest.mark.parametrize(
    "accept",
    ["text/html", "image/*", "application/json;q=0", "*/*;q=0", "application/json;q=x", "text"],
)
def test_what_cannot_be_written_is_not_acceptable(accept):
    with pytest.raises(PayloadError, match=r"accept one of application/json") as refusal:
        answers.encode(EXPLAINED, accept)
    assert refusal.value.status == 406


@pytest.mark.parametrize("accept", ["text/csv;explain=true", "application/x-npy;explain=true"])
def test_an_explanation_needs_json(accept):
    with pytest.raises(PayloadError, match="cannot carry an explanation") as refusal:
        answers.encode(EXPLAINED, accept)
    assert refusal.value.status == 406


def test_json_is_answered_one_a_line_where_it_came_so():
    answer = Answer(np.array([1.0, 2.0]), explain=lambda: {"why": ["x", "y"]}, by_line=True)
    lines = [{"prediction": 1.0, "why": "x"}, {"prediction": 2.0, "why": "y"}]
    body, media = answers.encode(answer, "application/json; explain=true")
    assert media == JSONLINES
    assert [json.loads(line) for line in body.splitlines()] == lines
    assert answers.encode(answer, None)[1] == JSONLINES
    assert answers.encode(answer, CSV) == (b"1.0\n2.0\n", CSV)
