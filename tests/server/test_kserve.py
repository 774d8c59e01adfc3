"""KServe's protocols over HTTP, held against the types of MLServer, which speaks them too."""

import importlib.util
import json
import sys

import numpy as np
import pytest

from gam_model import AdditiveModel
from model_server import kserve
from model_server.settings import Settings
from program_toolkit import predictor

INFER, PREDICT = "/v2/models/pay/infer", "/v1/models/pay:predict"
NAMES = ["age", "debt", "city"]
AGES, DEBTS, CITIES = [20.0, 55.5, 77.0], [0, -1, 3], ["Bern", "Basel", "Genf"]
RECORDS = [dict(zip(NAMES, row, strict=True)) for row in zip(AGES, DEBTS, CITIES, strict=True)]


@pytest.fixture(scope="module")
def types(installed):
    """mlserver.types: the protocol's types, by those who maintain its specification.

    Of the package no more is imported, as the rest asks for a server's dependencies.
    """
    folder = installed("mlserver==1.7.1", "--no-deps")
    spec = importlib.util.spec_from_file_location(
        "mlserver_types", folder / "mlserver" / "types" / "__init__.py"
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    for name in [name for name in sys.modules if name.startswith(spec.name)]:
        del sys.modules[name]


def train(training_job, make_row):
    rng = np.random.default_rng(0)
    rows = [make_row(*cells) for cells in rng.uniform(size=(300, 3)).tolist()]
    job = training_job({"train/t.csv": "\n".join(rows)}, {"df": "8", "target": "pay"})
    # The first line names the columns.
    path = job.base / "input" / "data" / "train" / "t.csv"
    header = "age,debt,city,pay" if len(rows[0].split(",")) == 4 else "age,debt,pay"
    path.write_text(f"{header}\n" + path.read_text())
    assert job.run().exit_code == 0, job.log
    return job


@pytest.fixture(scope="module")
def job(training_job):
    """A GAM of two numbers and a text."""

    def make_row(a, b, c):
        city = CITIES[int(3 * c)]
        return f"{18 + 60 * a},{8 * b - 3},{city},{a * a + b + len(city)}"

    return train(training_job, make_row)


@pytest.fixture(scope="module")
def endpoint(serve, job):
    with serve(job.base, KSERVE_MODEL_NAME="pay", SAGEMAKER_MODEL_SERVER_WORKERS="1") as endpoint:
        yield endpoint


@pytest.fixture(scope="module")
def numeric(serve, training_job):
    """A GAM of two numbers."""
    job = train(training_job, lambda a, b, _: f"{18 + 60 * a},{8 * b - 3},{a * a + b}")
    with serve(job.base, KSERVE_MODEL_NAME="pay", SAGEMAKER_MODEL_SERVER_WORKERS="1") as endpoint:
        yield endpoint, AdditiveModel.load(job.model_dir / "gam.json")


@pytest.fixture(scope="module")
def direct(endpoint):
    """What /invocations says of the records."""
    return endpoint.invoke(json.dumps(RECORDS), None, "application/json; explain=true").json


def post(endpoint, path, content):
    body = content if isinstance(content, str | bytes) else json.dumps(content)
    return endpoint.request("POST", path, body, Content_Type="application/json")


# ---------------------------------------------------------------- states and metadata


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("/", {"status": "alive"}),
        ("/v1/models", {"models": ["pay"]}),
        ("/v1/models/pay", {"name": "pay", "ready": True}),
        ("/v2/health/live", {"live": True}),
        ("/v2/health/ready", {"ready": True}),
        ("/v2/models/pay/ready", {"name": "pay", "ready": True}),
    ],
)
def test_it_says_that_it_is_ready(endpoint, path, content):
    before = len(endpoint.log)
    answer = endpoint.request("GET", path)
    assert (answer.status, answer.content_type) == (200, "application/json")
    assert answer.json == content
    assert endpoint.request("POST", path, "").status == 405
    # Probes ask for ever; of these two only the mistake is logged.
    assert '"GET"' not in endpoint.log[before:]


def test_metadata_are_of_the_protocols_types(endpoint, types):
    server = endpoint.request("GET", "/v2").json
    assert types.MetadataServerResponse(**server).extensions == ["binary_tensor_data"]
    model = types.MetadataModelResponse(**endpoint.request("GET", "/v2/models/pay").json)
    assert model.name == "pay"
    told = [(each.name, each.datatype, each.shape) for each in model.inputs]
    assert told == [("age", "FP64", [-1]), ("debt", "FP64", [-1]), ("city", "BYTES", [-1])]
    told = [(each.name, each.datatype, each.shape) for each in model.outputs]
    assert told == [("prediction", "FP64", [-1])]


def test_metadata_of_a_program_that_says_nothing_are_empty(serve, base, program, types):
    with serve(base, program(ECHO), KSERVE_MODEL_NAME="pay") as endpoint:
        answer = endpoint.request("GET", "/v2/models/pay")
    model = types.MetadataModelResponse(**answer.json)
    assert (model.inputs, model.outputs) == ([], [])


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/models/other"),
        ("POST", "/v1/models/other:predict"),
        ("POST", "/v1/models/pay:train"),
        ("GET", "/v2/models/other"),
        ("GET", "/v2/models/other/ready"),
        ("POST", "/v2/models/other/infer"),
        ("POST", "/v2/models/pay/versions/1/infer"),
    ],
)
def test_another_model_is_not_found(endpoint, types, method, path):
    answer = endpoint.request(method, path)
    assert (answer.status, answer.content_type) == (404, "application/json")
    if path.startswith("/v2"):
        assert "no such path; try " in types.InferenceErrorResponse(**answer.json).error
    else:
        assert answer.json["error"]["type"] == "NotFound"


def test_it_is_off_unless_asked_for(serve, job):
    with serve(job.base, SAGEMAKER_MODEL_SERVER_WORKERS="1") as endpoint:
        for path in ("/", "/v1/models", "/v2", "/v2/health/ready", "/v1/models/:predict", INFER):
            for method in ("GET", "POST"):
                answer = endpoint.request(method, path)
                assert (answer.status, answer.json["error"]["type"]) == (404, "NotFound")


@pytest.mark.parametrize("name", ["a/b", "a b", "ä", "a\n"])
def test_a_name_that_no_path_can_have_is_refused(name):
    with pytest.raises(ValueError, match=r"^KSERVE_MODEL_NAME=.* may contain only letters"):
        Settings.from_environ({"SAGEMAKER_PROGRAM": "p.py", "KSERVE_MODEL_NAME": name})


# ---------------------------------------------------------------- v1


def test_v1_predicts(endpoint, direct):
    answer = post(endpoint, PREDICT, {"instances": RECORDS})
    assert (answer.status, answer.content_type) == (200, "application/json")
    assert answer.json == {"predictions": direct["prediction"]}
    lists = [list(record.values()) for record in RECORDS]
    assert post(endpoint, PREDICT, {"instances": lists}).json == answer.json


def test_v1_explains_each_instance(endpoint, direct):
    answer = post(endpoint, "/v1/models/pay:explain", {"instances": RECORDS}).json
    assert list(answer) == ["predictions", "explanations"]
    assert answer["predictions"] == direct["prediction"]
    values = direct["shap_values"]
    assert answer["explanations"] == [
        {
            "shap_base": direct["shap_base"],
            "shap_values": {name: values[name][row] for name in NAMES},
            "scale": "response",
        }
        for row in range(3)
    ]
    for prediction, why in zip(*answer.values(), strict=True):
        total = why["shap_base"] + sum(why["shap_values"].values())
        assert total == pytest.approx(prediction, rel=1e-12)


def test_our_client_of_kserve_is_content(endpoint, direct):
    url = f"http://{endpoint.host}:{endpoint.port}{PREDICT}"
    rows = [list(record.values()) for record in RECORDS]
    assert predictor.fetch_predictions(url, rows) == direct["prediction"]
    with pytest.raises(predictor.PredictorError, match=r"refuses the background: 400: .*'age'"):
        predictor.fetch_predictions(url, [["old", 2, "Bern"]])


@pytest.mark.parametrize("action", ["predict", "explain"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"instances": [{"age": 1, "debt": 2}]}, "missing 'city'"),
        ({"instances": []}, "empty"),
        ("age,debt,city\n", "not valid JSON"),
    ],
)
def test_v1_words_errors_as_the_house_does(endpoint, action, content, message):
    answer = post(endpoint, f"/v1/models/pay:{action}", content)
    assert (answer.status, answer.json["error"]["type"]) == (400, "BadRequest")
    assert message in answer.json["error"]["message"]


# ---------------------------------------------------------------- v2


def tensor(name, datatype, data, shape=None):
    return {"name": name, "shape": shape or [len(data)], "datatype": datatype, "data": data}


TENSORS = [
    tensor("city", "BYTES", CITIES),
    tensor("age", "FP64", AGES, [3, 1]),
    tensor("debt", "INT8", [[debt] for debt in DEBTS], [3, 1]),
]


def test_v2_infers_from_a_tensor_a_column(endpoint, direct, types):
    request = types.InferenceRequest(id="a7", inputs=TENSORS).model_dump_json()
    answer = post(endpoint, INFER, request)
    assert (answer.status, answer.content_type) == (200, "application/json")
    response = types.InferenceResponse(**answer.json)
    assert (response.model_name, response.id) == ("pay", "a7")
    (output,) = response.outputs
    assert (output.name, output.shape, output.datatype) == ("prediction", [3], "FP64")
    assert list(output.data) == direct["prediction"]


@pytest.mark.parametrize("datatype", ["FP64", "FP32", "INT64", "UINT8", "BOOL"])
def test_v2_infers_from_one_tensor_flat_or_nested(numeric, types, datatype):
    endpoint, model = numeric
    rows = [[True, False], [False, True], [True, True]]
    rows = [list(map(bool if datatype == "BOOL" else int, row)) for row in rows]
    for data in (rows, [cell for row in rows for cell in row]):
        answer = post(endpoint, INFER, {"inputs": [tensor("input-0", datatype, data, [3, 2])]})
        assert answer.status == 200, answer.body
        response = types.InferenceResponse(**answer.json)
        assert response.id is None
        np.testing.assert_allclose(
            list(response.outputs[0].data), model.predict(np.array(rows, dtype=float)), rtol=1e-12
        )


# Echoes what it is asked, as columns of all kinds.
ECHO = """
import json
def model_fn(model_dir): return None
def transform_fn(model, body, content_type, accept):
    content = json.loads(body)
    n = len(content["instances"])
    return json.dumps({
        "prediction": [json.dumps([content_type, accept, content])] * n,
        "probability": [0.5, 1][:n],
        "count": list(range(n)),
        "found": [True] * n,
        "gap": [None] * n,
        "mixed": [True, 2][:n],
        "rule": [["a > 1"]] * n,
        "shap_base": 0.5,
    }), "application/json"
"""


def test_v2_answers_every_column_that_a_tensor_can_hold(serve, base, program, types):
    request = {
        "inputs": [tensor("a b", "BYTES", ["é", None]), tensor("n", "FP32", [1.5, None])],
        "parameters": {"threshold": 0.9},
    }
    with serve(base, program(ECHO), KSERVE_MODEL_NAME="a.b-C_1") as endpoint:
        path = "/v2/models/a.b-C_1/infer"
        response = types.InferenceResponse(**post(endpoint, path, request).json)
        wanted = [{"name": "count"}, {"name": "prediction"}]
        some = types.InferenceResponse(**post(endpoint, path, request | {"outputs": wanted}).json)
        refused = post(endpoint, path, request | {"outputs": [{"name": "rule"}]})
    assert response.model_name == "a.b-C_1"
    assert [(o.name, o.shape, o.datatype) for o in response.outputs] == [
        ("prediction", [2], "BYTES"),
        ("probability", [2], "FP64"),
        ("count", [2], "INT64"),
        ("found", [2], "BOOL"),
    ]
    assert json.loads(response.outputs[0].data[0]) == [
        "application/json",
        "application/json; explain=false",
        {
            "instances": [{"a b": "é", "n": 1.5}, {"a b": None, "n": None}],
            "parameters": {"threshold": 0.9},
        },
    ]
    assert [output.name for output in some.outputs] == ["count", "prediction"]
    assert refused.status == 400
    assert "outputs must name some of prediction, probability, count" in refused.json["error"]


GOOD = tensor("age", "FP64", [1, 2])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "the body is not valid JSON"),
        ("[" * 100_000, "the body is nested too deeply"),
        (b"\xff\xfe", "the body is not valid JSON"),
        ([], "the body is not an object"),
        ({}, "inputs must be an array of tensors"),
        ({"inputs": []}, "inputs must be an array of tensors"),
        ({"inputs": [GOOD], "id": 7}, "id must be a string, got 7"),
        ({"inputs": [[1, 2]]}, "must be an object with a name"),
        ({"inputs": [GOOD | {"name": 1}]}, "must be an object with a name"),
        ({"inputs": [GOOD | {"datatype": "FP8"}]}, "tensor 'age': datatype 'FP8' is not one of"),
        ({"inputs": [GOOD | {"datatype": []}]}, "tensor 'age': datatype [] is not one of"),
        ({"inputs": [GOOD | {"shape": [3]}]}, "'age' of shape [3] has 2 values, not 3"),
        ({"inputs": [GOOD | {"shape": [2, 2]}]}, "'age' of shape [2, 2] has 2 values, not 4"),
        ({"inputs": [GOOD | {"shape": []}]}, "tensor 'age' has shape []"),
        ({"inputs": [GOOD | {"shape": [2, 1, 1]}]}, "tensor 'age' has shape [2, 1, 1]"),
        ({"inputs": [GOOD | {"shape": [10**9, 0], "data": []}]}, "without zeros"),
        ({"inputs": [GOOD | {"shape": [True, 2]}]}, "tensor 'age' has shape [True, 2]"),
        ({"inputs": [GOOD | {"shape": 2}]}, "tensor 'age' has shape 2"),
        ({"inputs": [GOOD | {"data": "12"}]}, "tensor 'age' has no array of data"),
        ({"inputs": [GOOD | {"data": [1, "2"]}]}, "tensor 'age': \"2\" is not FP64"),
        ({"inputs": [GOOD | {"data": [1, True]}]}, "tensor 'age': true is not FP64"),
        ({"inputs": [GOOD | {"data": [[1], [2]]}]}, "tensor 'age': [1] is not FP64"),
        ({"inputs": [GOOD | {"datatype": "INT32", "data": [1, 2.5]}]}, "2.5 is not INT32"),
        ({"inputs": [GOOD | {"datatype": "BOOL"}]}, "tensor 'age': 1 is not BOOL"),
        ({"inputs": [GOOD | {"datatype": "BYTES"}]}, "tensor 'age': 1 is not BYTES"),
        (
            {"inputs": [GOOD | {"datatype": "INT8", "data": [1, 128]}]},
            "128 is out of range for INT8",
        ),
        (
            {"inputs": [GOOD | {"datatype": "UINT16", "data": [1, -1]}]},
            "-1 is out of range for UINT16",
        ),
        (
            {"inputs": [tensor("x", "FP64", [[1, 2], [3, 4], [5, 6]], [2, 3])]},
            "tensor 'x': the rows of its data do not have its shape [2, 3]",
        ),
        ({"inputs": [tensor("x", "FP64", [[1, 2], [3]], [2, 2])]}, "do not have its shape"),
        ({"inputs": [tensor("x", "FP64", [[1, 2], 3], [2, 2])]}, "has 2 values, not 4"),
        ({"inputs": [GOOD, tensor("x", "FP64", [1, 2, 3, 4], [2, 2])]}, "tensor 'x' has shape"),
        ({"inputs": [GOOD, GOOD]}, "two tensors are named 'age'"),
        ({"inputs": [GOOD, tensor("x", "FP64", [1])]}, "tensor 'x' has 1 rows, the first one 2"),
        (
            {"inputs": [{**GOOD, "data": None, "parameters": {"binary_data_size": 16}}]},
            "tensor 'age': binary_data_size is 16, and 0 bytes",
        ),
        ({"inputs": [GOOD | {"parameters": 3}]}, "tensor 'age': parameters must be an object"),
        ({"inputs": [GOOD], "parameters": [1]}, "parameters must be an object"),
        ({"inputs": [GOOD], "outputs": 3}, "missing 'debt', 'city'"),
        # The program's own words.
        ({"inputs": [GOOD]}, "missing 'debt', 'city'"),
        (
            {"inputs": [*TENSORS[:2], TENSORS[2] | {"name": "sex"}]},
            "missing 'debt'; unknown 'sex'",
        ),
    ],
)
def test_v2_says_what_is_wrong_in_a_string(endpoint, types, content, message):
    answer = post(endpoint, INFER, content)
    assert (answer.status, answer.content_type) == (400, "application/json")
    assert list(answer.json) == ["error"]
    assert message in types.InferenceErrorResponse(**answer.json).error


@pytest.mark.parametrize("place", ["inputs", "id", "shape", "data", "parameters", "outputs"])
def test_no_depth_of_nesting_breaks_it(endpoint, place):
    """What Python can just read it may not be able to write."""
    for depth in range(900, 1010, 5):
        deep = '{"a":' * depth + "1" + "}" * depth
        content = {
            "inputs": [{**GOOD}, GOOD | {"name": "debt"}, tensor("city", "BYTES", ["a", "b"])]
        }
        owner = content["inputs"][0] if place in ("shape", "data") else content
        owner[place] = ["DEEP"] if place in ("shape", "data", "outputs") else "DEEP"
        answer = post(endpoint, INFER, json.dumps(content).replace('"DEEP"', deep))
        assert answer.status in (200, 400) if place == "parameters" else answer.status == 400


def in_binary(name, datatype, data: bytes, shape):
    parameters = {"binary_data_size": len(data)}
    return {"name": name, "shape": shape, "datatype": datatype, "parameters": parameters}


def as_bytes(texts) -> bytes:
    return b"".join(len(t.encode()).to_bytes(4, "little") + t.encode() for t in texts)


def post_binary(endpoint, request, *data: bytes, length=None):
    head = json.dumps(request).encode()
    length = str(len(head)) if length is None else length
    body = b"".join([head, *data])
    return endpoint.request(
        "POST",
        INFER,
        body,
        Content_Type="application/octet-stream",
        Inference_Header_Content_Length=length,
    )


def test_tensors_come_and_go_in_binary(endpoint, direct, types):
    ages, cities = np.array(AGES, "<f4").tobytes(), as_bytes(CITIES)
    inputs = [
        in_binary("city", "BYTES", cities, [3]),
        tensor("debt", "INT64", DEBTS),  # in JSON, between two that are not
        in_binary("age", "FP32", ages, [3, 1]),
    ]
    plain = post_binary(endpoint, {"inputs": inputs}, cities, ages)
    assert (plain.status, plain.content_type) == (200, "application/json"), plain.body
    assert plain.json["outputs"][0]["data"] == direct["prediction"]
    for wish in (
        {"parameters": {"binary_data_output": True}},
        {"outputs": [{"name": "prediction", "parameters": {"binary_data": True}}]},
    ):
        answer = post_binary(endpoint, {"inputs": inputs, **wish}, cities, ages)
        assert (answer.status, answer.content_type) == (200, "application/octet-stream")
        length = int(answer.headers["Inference-Header-Content-Length"])
        head = json.loads(answer.body[:length])
        (output,) = head["outputs"]
        assert output["parameters"] == {"binary_data_size": 24}
        assert "data" not in output
        # The types know only of JSON, where the data are in it.
        response = types.InferenceResponse(**head | {"outputs": [output | {"data": []}]})
        assert response.model_name == "pay"
        assert np.frombuffer(answer.body[length:], "<f8").tolist() == direct["prediction"]
    outputs = [{"name": "prediction", "parameters": {"binary_data": False}}]
    wish = {"outputs": outputs, "parameters": {"binary_data_output": True}}
    assert (
        post(endpoint, INFER, {"inputs": TENSORS, **wish}).json["outputs"] == plain.json["outputs"]
    )


@pytest.mark.parametrize(
    ("datatype", "code"),
    [("BOOL", "?"), ("FP16", "<f2"), ("FP32", "<f4"), ("FP64", "<f8"), ("BYTES", "")]
    + [(f"{u}INT{8 * w}", f"<{u.lower() or 'i'}{w}") for u in ("", "U") for w in (1, 2, 4, 8)],
)
def test_every_datatype_has_its_binary_form(datatype, code):
    values = [True, False] if datatype == "BOOL" else [1, 100]
    values = ["é", ""] if datatype == "BYTES" else values
    data = np.array(values, code).tobytes() if code else as_bytes(values)
    request = {"inputs": [in_binary("a", datatype, data, [2, 1]), tensor("b", "INT8", [0, 0])]}
    rows = kserve.read_tensors(request, data)["instances"]
    assert rows == [{"a": value, "b": 0} for value in values]


def test_nan_in_binary_is_a_missing_number():
    data = np.array([1, np.nan]).tobytes()
    request = {"inputs": [in_binary("a", "FP64", data, [1, 2])]}
    assert kserve.read_tensors(request, data)["instances"] == [[1.0, None]]


@pytest.mark.parametrize(
    ("datatype", "data", "tail", "length", "message"),
    [
        ("FP64", bytes(8), b"", None, "2 values of FP64 are not 8 bytes"),
        ("FP64", bytes(16), b"a", None, "1 bytes of binary data are left over"),
        (
            "FP64",
            bytes(16),
            b"",
            "9999",
            "Inference-Header-Content-Length is '9999', and the body",
        ),
        (
            "FP64",
            bytes(16),
            b"",
            "-1",
            "Inference-Header-Content-Length is '-1', and the body has",
        ),
        ("BYTES", as_bytes(["a"]), b"", None, "has 1 texts, not 2"),
        ("BYTES", as_bytes(["a", "b"])[:-1], b"", None, "text 1 extends beyond the data"),
        (
            "BYTES",
            as_bytes(["a", "b"])[:-3],
            b"",
            None,
            "the data end within the length of a text",
        ),
        ("BYTES", b"\1\0\0\0\xff", b"", None, "text 0 is not UTF-8"),
    ],
)
def test_binary_data_that_do_not_fit_are_refused(endpoint, datatype, data, tail, length, message):
    request = {"inputs": [in_binary("age", datatype, data, [2])]}
    answer = post_binary(endpoint, request, data, tail, length=length)
    assert answer.status == 400
    assert message in answer.json["error"]


def test_binary_data_without_a_length_are_refused(endpoint):
    request = {"inputs": [in_binary("age", "FP64", bytes(16), [2])]}
    answer = post(endpoint, INFER, request)
    assert answer.status == 400
    assert "binary_data_size is 16, and 0 bytes of binary data are left" in answer.json["error"]


def test_v2_explains_on_request(endpoint, direct, types):
    answer = post(endpoint, INFER, {"inputs": TENSORS, "parameters": {"explain": True}})
    response = types.InferenceResponse(**answer.json)
    prediction, explanation = response.outputs
    assert list(prediction.data) == direct["prediction"]
    assert (explanation.name, explanation.datatype, explanation.shape) == (
        "explanation",
        "BYTES",
        [3],
    )
    for row, text in enumerate(explanation.data):
        each = json.loads(text)
        assert each["shap_base"] == direct["shap_base"]
        assert each["shap_values"] == {k: v[row] for k, v in direct["shap_values"].items()}
    refused = post(endpoint, INFER, {"inputs": TENSORS, "parameters": {"explain": 1}})
    assert (refused.status, refused.json) == (400, {"error": "explain must be true or false"})


@pytest.mark.parametrize("shape", [[2], [2, 1]])
def test_a_tensor_of_texts_alone_is_a_text_a_row(serve, training_job, shape):
    rows = [{"text": "puck ice", "label": "hockey"}, {"text": "moon orbit", "label": "space"}] * 3
    files = {"train/t.jsonl": "".join(json.dumps(row) + "\n" for row in rows)}
    job = training_job(files, {}, "newsgroups_logic.py")
    assert job.run().exit_code == 0, job.log
    texts = ["the moon", "on ice"]
    with serve(
        job.base, SAGEMAKER_PROGRAM="newsgroups_logic.py", KSERVE_MODEL_NAME="pay"
    ) as endpoint:
        plain = post(endpoint, INFER, {"inputs": [tensor("input-0", "BYTES", texts, shape)]})
        data = as_bytes(texts)
        request = {"inputs": [in_binary("input-0", "BYTES", data, shape)]}
        binary = post_binary(endpoint, request, data)
        model = endpoint.request("GET", "/v2/models/pay").json
        unknown = {"inputs": [tensor("text", "BYTES", ["xyzzy"])]}
        second = post(endpoint, INFER, unknown).json
        first = post(endpoint, PREDICT, {"instances": ["xyzzy"]}).json
    assert [each["name"] for each in second["outputs"]] == ["prediction", "probability"]
    (warning,) = second["parameters"]["warnings"]
    assert "no word is known from training" in warning
    assert first["warnings"] == [warning]
    assert [(each["name"], each["datatype"]) for each in model["inputs"]] == [("text", "BYTES")]
    told = [(each["name"], each["datatype"]) for each in model["outputs"]]
    assert told == [(each["name"], each["datatype"]) for each in plain.json["outputs"]]
    assert plain.status == 200, plain.body
    assert plain.json["outputs"][0]["data"] == ["space", "hockey"]
    assert binary.json == plain.json


@pytest.mark.parametrize("path", ["/v1/models/pay:predict", "/v1/models/pay:explain", INFER])
def test_a_program_that_fails_keeps_its_reasons_to_the_log(serve, base, program, path):
    failing = ECHO.replace('"prediction"', '"secret"')
    with serve(base, program(failing), KSERVE_MODEL_NAME="pay") as endpoint:
        answer = post(endpoint, path, {"instances": [1], "inputs": [GOOD]})
        assert endpoint.is_up()
    assert answer.status == 500
    assert b"the program failed; its log has the reason under request" in answer.body
    assert b"secret" not in answer.body
    assert "KeyError: 'prediction'" in endpoint.log


def test_metrics_and_log_know_the_paths(endpoint):
    def read(line):
        text = endpoint.request("GET", "/metrics").body.decode()
        found = [row for row in text.splitlines() if row.startswith(f"model_server_{line} ")]
        return float(found[0].rpartition(" ")[2]) if found else 0

    counter = f'requests_total{{path="{INFER}",code="200"}}'
    before, timed = read(counter), read("request_duration_seconds_count")
    assert post(endpoint, INFER, {"inputs": TENSORS}).status == 200
    assert (read(counter), read("request_duration_seconds_count")) == (before + 1, timed + 1)
    assert read("requests_in_flight") == 0
    assert f'"method": "POST", "path": "{INFER}", "status": 200' in endpoint.log


def test_a_body_over_the_limit_is_refused_in_the_protocols_words(serve, base, program):
    with serve(
        base, program(ECHO), KSERVE_MODEL_NAME="pay", MAX_CONTENT_LENGTH="1000"
    ) as endpoint:
        answer = post(endpoint, INFER, b"x" * 2**21)
    assert answer.status == 413
    assert answer.json == {"error": "the body is larger than 1000 bytes; send fewer rows"}
