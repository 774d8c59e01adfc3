"""KServe's v2 over our own programs: metadata, binary tensors, texts and explanations.

Binary tensors are Triton's extension, so its own client is asked, too.
"""

import json
import random
import struct
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pytest

HEADER = "Inference-Header-Content-Length"
LETTERS = {"FP64": "d", "FP32": "f", "FP16": "e", "INT64": "q", "UINT8": "B", "BOOL": "?"}


def write_csv(rows) -> str:
    return "".join(
        ",".join(map(str, row)) + "\n" for row in [rows[0].keys(), *map(dict.values, rows)]
    )


def make_pay(rng):
    age, city = rng.randint(18, 80), rng.choice(["Bern", "Basel", "Genf"])
    hired = f"20{rng.randint(10, 24)}-0{rng.randint(1, 9)}-1{rng.randint(0, 9)}"
    return {"age": age, "city": city, "hired": hired, "pay": age / 9 + len(city)}


def make_credit(rng):
    age, debt = rng.randint(18, 80), rng.random()
    return {
        "age": age,
        "debt": debt,
        "SeriousDlqin2yrs": int(age / 80 + rng.random() < debt + 0.5),
    }


def make_income(rng):
    age, married = rng.randint(18, 80), rng.choice(["Married-civ-spouse", "Never-married"])
    return {
        "age": age,
        "workclass": "Private",
        "education": rng.choice(["HS-grad", "Bachelors"]),
        "marital-status": married,
        "occupation": rng.choice(["Sales", "Adm-clerical"]),
        "relationship": "Husband",
        "race": "White",
        "sex": rng.choice(["Male", "Female"]),
        "capital-gain": rng.choice([0, 0, 5000]),
        "capital-loss": 0,
        "hours-per-week": rng.choice([20, 40]),
        "native-country": "Mexico",
        "income": ">50K" if married.startswith("M") and age > 35 else "<=50K",
    }


def make_news(rng):
    label, words = rng.choice([("space", "moon orbit rocket"), ("hockey", "puck goal ice")])
    text = " ".join(rng.choices((words + " the people think ünd").split(), k=9))
    return {"text": text, "label": label}


class Kind(NamedTuple):
    """A program, and how to make a row for it, whose last cell is the target."""

    program: str
    make_row: Callable
    hyperparameters: dict
    channel: str = "train"
    names: Mapping = MappingProxyType({})  # the model's own, where a row has others
    outputs: Mapping = MappingProxyType({"prediction": "FP64"})


LABELS = {"prediction": "BYTES", "probability": "FP64"}
KINDS = {
    "gam": Kind("model_logic.py", make_pay, {"df": "6"}),
    "credit": Kind("credit_logic.py", make_credit, {}, "train_data"),
    "credit gam": Kind("credit_logic.py", make_credit, {"model": "gam", "df": "6"}, "train_data"),
    "income": Kind(
        "income_logic.py",
        make_income,
        {"n-estimators": "5"},
        names={
            "age": "Age",
            "workclass": "Workclass",
            "education": "Education",
            "marital-status": "Marital Status",
            "occupation": "Occupation",
            "relationship": "Relationship",
            "race": "Race",
            "sex": "Sex",
            "capital-gain": "Capital Gain",
            "capital-loss": "Capital Loss",
            "hours-per-week": "Hours per week",
            "native-country": "Country",
        },
        outputs=LABELS,
    ),
    "news": Kind("newsgroups_logic.py", make_news, {"min_df": "1"}, outputs=LABELS),
}


class Served(NamedTuple):
    """A trained program behind HTTP, and three rows for it, column by column."""

    endpoint: Any
    kind: Kind
    columns: dict
    base: Path

    def infer(self, content, data=b"", json_length=None):
        head = content if isinstance(content, bytes) else json.dumps(content).encode()
        length = len(head) if json_length is None else json_length
        further = {HEADER.replace("-", "_"): str(length)} if data or json_length else {}
        return self.endpoint.request("POST", "/v2/models/m/infer", head + data, **further)

    def invoke(self, **parameters):
        names, columns = list(self.columns), self.columns.values()
        rows = [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
        body = json.dumps({"instances": rows, "parameters": parameters})
        path = f"/v1/models/m:{'explain' if parameters.get('explain') else 'predict'}"
        return self.endpoint.request("POST", path, body).json

    def tensors(self):
        """The rows as the metadata of the model have them."""
        inputs = self.endpoint.request("GET", "/v2/models/m").json["inputs"]
        return [{**each, "shape": [3], "data": self.columns[each["name"]]} for each in inputs]


@pytest.fixture(scope="module")
def start(training_job, serve):
    jobs, running = {}, []

    def start(name) -> Served:
        if name in jobs:
            return jobs[name]
        kind, rng = KINDS[name], random.Random(0)
        rows = [kind.make_row(rng) for _ in range(300)]
        file, content = "train.csv", write_csv(rows)
        if name == "news":
            file, content = "a.jsonl", "".join(json.dumps(row) + "\n" for row in rows)
        hyperparameters = kind.hyperparameters
        if name == "gam":
            hyperparameters = hyperparameters | {"target": "pay"}
        job = training_job(
            {f"{kind.channel}/{file}": content}, hyperparameters, kind.program
        ).run()
        assert job.exit_code == 0, job.log
        context = serve(
            job.base,
            KSERVE_MODEL_NAME="m",
            SAGEMAKER_PROGRAM=kind.program,
            SAGEMAKER_MODEL_SERVER_WORKERS="1",
        )
        endpoint = context.__enter__()
        running.append(context)
        target = list(rows[0])[-1]
        columns = {
            kind.names.get(key, key): [row[key] for row in rows[:3]]
            for key in rows[0]
            if key != target
        }
        jobs[name] = Served(endpoint, kind, columns, job.base)
        return jobs[name]

    yield start
    for context in running:
        context.__exit__(None, None, None)


@pytest.fixture(params=KINDS)
def served(request, start):
    return start(request.param)


@pytest.fixture
def gam(start):
    return start("gam")


@pytest.fixture
def news(start):
    return start("news")


def pack(datatype, cells):
    """Return cells as the extension has them."""
    if datatype == "BYTES":
        return b"".join(struct.pack("<I", len(b)) + b for b in map(str.encode, cells))
    return struct.pack(f"<{len(cells)}{LETTERS[datatype]}", *cells)


def as_binary(tensor):
    """Return a tensor of JSON without its data, and these."""
    data = pack(tensor["datatype"], tensor["data"])
    head = {key: value for key, value in tensor.items() if key != "data"}
    return head | {"parameters": {"binary_data_size": len(data)}}, data


def read(answer):
    """Return the columns of an answer, be they JSON or binary data."""
    length = answer.headers.get(HEADER)
    head = json.loads(answer.body[: int(length)] if length else answer.body)
    rest, columns = answer.body[int(length) :] if length else b"", {}
    for output in head["outputs"]:
        if "data" in output:
            columns[output["name"]] = output["data"]
            continue
        size = output["parameters"]["binary_data_size"]
        data, rest = rest[:size], rest[size:]
        assert len(data) == size
        if output["datatype"] == "BYTES":
            cells = []
            while data:
                (n,) = struct.unpack_from("<I", data)
                cells.append(data[4 : 4 + n].decode())
                data = data[4 + n :]
        else:
            cells = list(
                struct.unpack(f"<{output['shape'][0]}{LETTERS[output['datatype']]}", data)
            )
        columns[output["name"]] = cells
    assert rest == b""
    return columns


# ---------------------------------------------------------------- metadata


def test_what_the_metadata_say_is_what_is_taken_and_answered(served):
    metadata = served.endpoint.request("GET", "/v2/models/m").json
    assert [each["name"] for each in metadata["inputs"]] == list(served.columns)
    for each in metadata["inputs"]:
        text = isinstance(served.columns[each["name"]][0], str)
        assert each["datatype"] == ("BYTES" if text else "FP64")
    outputs = {each["name"]: each["datatype"] for each in metadata["outputs"]}
    assert outputs == served.kind.outputs
    assert {tuple(each["shape"]) for each in metadata["inputs"] + metadata["outputs"]} == {(-1,)}

    answer = served.infer({"inputs": served.tensors()})
    assert answer.status == 200, answer.body
    described = {each["name"]: each["datatype"] for each in answer.json["outputs"]}
    assert described == outputs
    assert {tuple(each["shape"]) for each in answer.json["outputs"]} == {(3,)}
    assert read(answer)["prediction"] == served.invoke()["predictions"]


OWN = """
import json
def model_fn(model_dir): return "x"
def transform_fn(model, body, content_type, accept):
    rows = json.loads(body)["instances"]
    return json.dumps({"prediction": [json.dumps(row) for row in rows]}), "application/json"
"""


def test_a_programs_own_word_on_its_tensors(serve, base, program):
    silent = program(OWN)
    with serve(base, silent, KSERVE_MODEL_NAME="m") as endpoint:
        content = endpoint.request("GET", "/v2/models/m").json
        assert (content["inputs"], content["outputs"]) == ([], [])
    tensor = {"name": "x", "datatype": "FP32", "shape": [-1, 4]}
    said = f"{{'inputs': [{tensor} | {{'name': model}}], 'outputs': []}}"
    hook = f"def metadata_fn(model): return {said}"
    with serve(base, program(OWN + hook), KSERVE_MODEL_NAME="m") as endpoint:
        assert endpoint.request("GET", "/v2/models/m").json["inputs"] == [tensor]


@pytest.mark.parametrize("said", ["None", "{'inputs': []}", "{'inputs': [1], 'outputs': []}"])
def test_a_program_that_says_nothing_useful_of_its_tensors_does_not_start(
    serve, base, program, said
):
    hook = f"def metadata_fn(model): return {said}"
    with (
        pytest.raises(AssertionError, match="metadata_fn must return inputs and outputs"),
        serve(base, program(OWN + hook), KSERVE_MODEL_NAME="m"),
    ):
        pass


# ---------------------------------------------------------------- binary data


@pytest.mark.parametrize("form", ["binary_data_output", "raw_output", "outputs"])
def test_binary_data_carry_what_json_does(served, form):
    expected = read(served.infer({"inputs": served.tensors()}))
    heads, data = zip(*map(as_binary, served.tensors()), strict=True)
    plain = served.infer({"inputs": heads}, b"".join(data))
    assert (plain.status, plain.content_type) == (200, "application/json"), plain.body
    assert read(plain) == expected
    content = {"inputs": heads}
    if form == "outputs":
        flags = {"parameters": {"binary_data": True}}
        content["outputs"] = [{"name": name, **flags} for name in expected]
    else:
        content["parameters"] = {form: True}
    binary = served.infer(content, b"".join(data))
    assert (binary.status, binary.content_type) == (200, "application/octet-stream"), binary.body
    assert read(binary) == expected


def test_an_output_may_say_otherwise_than_the_request(news):
    outputs = [
        {"name": "probability"},
        {"name": "prediction", "parameters": {"binary_data": False}},
    ]
    content = {
        "inputs": news.tensors(),
        "outputs": outputs,
        "parameters": {"binary_data_output": True},
    }
    answer = news.infer(content)
    head = json.loads(answer.body[: int(answer.headers[HEADER])])
    assert ["data" in output for output in head["outputs"]] == [False, True]
    plain = read(news.infer({"inputs": news.tensors()}))
    assert read(answer) == {name: plain[name] for name in ("probability", "prediction")}


def test_binary_and_json_tensors_may_be_mixed(gam):
    age, *others = gam.tensors()
    head, data = as_binary(age)
    answer = gam.infer({"inputs": [*others, head]}, data)
    assert read(answer) == read(gam.infer({"inputs": gam.tensors()}))


def json_type(datatype):
    return bool if datatype == "BOOL" else float if "F" in datatype else int


@pytest.mark.parametrize("datatype", ["FP16", "BF16", "FP32", "FP64", "INT64", "UINT8", "BOOL"])
def test_each_datatype_is_read_as_its_bytes_say(serve, base, program, datatype):
    cells = [True, False, True, True] if datatype == "BOOL" else [0, 3, 128, 7]
    if datatype == "BF16":
        data = b"".join(struct.pack("<f", cell)[2:] for cell in cells)
    else:
        data = pack(datatype, cells)
    head = {"name": "x", "shape": [2, 2], "datatype": datatype}
    with serve(base, program(OWN), KSERVE_MODEL_NAME="m") as endpoint:
        served = Served(endpoint, None, {}, None)
        head["parameters"] = {"binary_data_size": len(data)}
        rows = list(map(json.loads, read(served.infer({"inputs": [head]}, data))["prediction"]))
    assert rows == [cells[:2], cells[2:]]
    assert {type(cell) for cell in rows[0]} == {json_type(datatype)}


@pytest.mark.parametrize(
    ("tensor", "data", "json_length", "message"),
    [
        ({}, b"12345678", "x", "Inference-Header-Content-Length is 'x'; send a number of bytes"),
        ({}, b"12345678", "-1", "Inference-Header-Content-Length is '-1'"),
        ({}, b"12345678", "9" * 30, "Inference-Header-Content-Length is '999"),
        ({}, b"12345678", "9999", "Inference-Header-Content-Length is 9999, and the body has"),
        ({}, b"12345678", "3", "the body is not valid JSON"),
        ({}, b"1234567", None, "has a binary_data_size of 8, but 7 bytes are left"),
        (
            {},
            b"123456789",
            None,
            "1 bytes follow the JSON that no tensor's binary_data_size names",
        ),
        ({"shape": [2]}, b"12345678", None, "of shape [2] has 8 bytes of FP64, not 16"),
        ({"shape": [10**9, 10**9]}, b"12345678", None, "has 8 bytes of FP64, not 8000000000000"),
        ({"datatype": "FP32"}, b"12345678", None, "of shape [1] has 8 bytes of FP32, not 4"),
        ({"datatype": "INT8", "shape": [9]}, b"12345678", None, "has 8 bytes of INT8, not 9"),
        ({"datatype": "BOOL", "shape": [8]}, b"12345678", None, "a byte of BOOL is 0 or 1"),
        ({"data": [1]}, b"12345678", None, "has both data and a binary_data_size"),
        ({"size": -8}, b"12345678", None, "binary_data_size must be a number of bytes, got -8"),
        ({"size": "8"}, b"12345678", None, "binary_data_size must be a number of bytes"),
        ({"size": True}, b"12345678", None, "binary_data_size must be a number of bytes"),
        ({"size": 10**400}, b"12345678", None, "but 8 bytes are left"),
        ({}, struct.pack("<d", np.inf), None, "tensor 'age' holds an infinite number"),
        ({"datatype": "BYTES"}, b"\5\0\0\0abcd", None, "its last text is cut off"),
        ({"datatype": "BYTES"}, b"\4\0\0\0abc\xff", None, "holds bytes that are not UTF-8"),
        ({"datatype": "BYTES", "shape": [2]}, b"\4\0\0\0abcd", None, "has 1 values, not 2"),
        ({"datatype": "BYTES"}, b"\0\0\0\0\0\0\0\0", None, "has 2 values, not 1"),
        ({"datatype": "BYTES"}, b"\1\0\0\0a\0\0\0", None, "its last text is cut off"),
        ({"output": {"parameters": {"binary_data": 1}}}, b"12345678", None, "output 'prediction'"),
    ],
)
def test_binary_data_that_do_not_fit_are_refused_in_a_sentence(
    gam, tensor, data, json_length, message
):
    # The other columns are there, so that nothing else is wrong.
    others = [{**each, "shape": [1], "data": each["data"][:1]} for each in gam.tensors()[1:]]
    tensor = {"name": "age", "shape": [1], "datatype": "FP64"} | tensor
    tensor["parameters"] = {"binary_data_size": tensor.pop("size", 8)}
    content = {"outputs": [{"name": "prediction", **tensor.pop("output", {})}]}
    answer = gam.infer(content | {"inputs": [tensor, *others]}, data, json_length)
    assert answer.status == 400, answer.body
    assert message in answer.json["error"]


def test_a_number_that_is_not_one_is_missing_in_binary_as_in_json(serve, base, program):
    tensor = {"name": "x", "shape": [1, 2], "datatype": "FP64"}
    with serve(base, program(OWN), KSERVE_MODEL_NAME="m") as endpoint:
        served = Served(endpoint, None, {}, None)
        by_json = served.infer({"inputs": [tensor | {"data": [None, 0.5]}]})
        head, data = as_binary(tensor | {"data": [np.nan, 0.5]})
        by_bytes = served.infer({"inputs": [head]}, data)
    assert read(by_json) == read(by_bytes)
    assert read(by_json) == {"prediction": ["[null, 0.5]"]}


def test_a_body_without_json_is_the_one_input(news, gam, serve, base, program):
    text = news.columns["text"][0]
    answer = news.infer(b"", text.encode(), "0")
    expected = read(news.infer({"inputs": news.tensors()}))
    assert read(answer) == {name: column[:1] for name, column in expected.items()}
    refused = gam.infer(b"", text.encode(), "0")
    assert refused.status == 400
    assert "a body without JSON is for models of one input" in refused.json["error"]
    hook = """
def metadata_fn(model):
    return {"inputs": [{"name": "x", "datatype": "FP32", "shape": [-1]}], "outputs": []}
"""
    with serve(base, program(OWN + hook), KSERVE_MODEL_NAME="m") as endpoint:
        served = Served(endpoint, None, {}, None)
        answer = served.infer(b"", struct.pack("<3f", 1, 2.5, 3), "0")
        assert read(answer)["prediction"] == [f'{{"x": {x}}}' for x in (1.0, 2.5, 3.0)]
        assert served.infer(b"", b"12345", "0").status == 400


# ---------------------------------------------------------------- texts


@pytest.mark.parametrize("name", ["text", "input-0"])
@pytest.mark.parametrize("shape", [[3], [3, 1]])
@pytest.mark.parametrize("form", ["flat", "nested", "binary"])
def test_a_tensor_of_texts_alone_is_n_texts(news, name, shape, form):
    texts = news.columns["text"]
    tensor = {"name": name, "shape": shape, "datatype": "BYTES", "data": texts}
    data = b""
    if form == "nested" and len(shape) == 2:
        tensor["data"] = [[text] for text in texts]
    if form == "binary":
        tensor, data = as_binary(tensor)
    answer = news.infer({"inputs": [tensor]}, data)
    assert answer.status == 200, answer.body
    assert read(answer)["prediction"] == news.invoke()["predictions"]


def test_texts_are_never_read_as_one_row(gam):
    """Of as many texts as there are columns."""
    tensor = {
        "name": "x",
        "shape": [3, 1],
        "datatype": "BYTES",
        "data": ["20", "Bern", "2015-01-11"],
    }
    answer = gam.infer({"inputs": [tensor]})
    assert answer.status == 400
    assert "the model read 3 rows as 1" in answer.json["error"]


# ---------------------------------------------------------------- explanations


def test_v2_explains_as_v1_does(served):
    expected = served.invoke(explain=True)
    if served.kind.program == "income_logic.py":  # which knows its parameters
        del expected
        names = list(served.columns)
        rows = [
            dict(zip(names, row, strict=True))
            for row in zip(*served.columns.values(), strict=True)
        ]
        body = json.dumps({"instances": rows})
        expected = served.endpoint.request("POST", "/v1/models/m:explain", body).json
    answer = served.infer({"inputs": served.tensors(), "parameters": {"explain": True}})
    assert answer.status == 200, answer.body
    columns = read(answer)
    assert columns["prediction"] == expected["predictions"]
    assert list(map(json.loads, columns["explanation"])) == expected["explanations"]
    plain = served.infer({"inputs": served.tensors(), "parameters": {"explain": False}})
    assert set(read(plain)) == set(served.kind.outputs) <= set(columns)
    binary = {"explain": True, "binary_data_output": True}
    assert read(served.infer({"inputs": served.tensors(), "parameters": binary})) == columns


def test_the_explainer_alone_explains_over_v2(start, serve):
    income = start("income")
    url = f"http://{income.endpoint.host}:{income.endpoint.port}/invocations"
    predictions = read(income.infer({"inputs": income.tensors()}))["prediction"]
    asked = {"explain": True, "predictions": predictions, "threshold": 0.8}
    with serve(
        income.base,
        KSERVE_MODEL_NAME="m",
        SAGEMAKER_PROGRAM="income_logic.py",
        SAGEMAKER_MODEL_SERVER_WORKERS="1",
        PREDICTOR_URL=url,
    ) as endpoint:
        alone = income._replace(endpoint=endpoint)
        metadata = endpoint.request("GET", "/v2/models/m").json
        columns = read(alone.infer({"inputs": alone.tensors(), "parameters": asked}))
    assert [each["name"] for each in metadata["outputs"]] == ["prediction"]
    assert columns["prediction"] == predictions
    assert columns["threshold"] == [0.8] * 3
    anchors = [json.loads(each)["anchor"] for each in columns["explanation"]]
    del asked["predictions"]
    both = read(income.infer({"inputs": income.tensors(), "parameters": asked}))
    assert anchors == [json.loads(each)["anchor"] for each in both["explanation"]]


def test_warnings_are_no_tensor_and_are_not_lost(gam):
    tensors = gam.tensors()
    tensors[0]["data"] = [1e9, 30, 40]
    one = [{**each, "shape": [1], "data": each["data"][:1]} for each in tensors]
    for inputs in (tensors, one):
        answer = gam.infer({"inputs": inputs}).json
        assert [output["name"] for output in answer["outputs"]] == ["prediction"]
        assert "'age'" in answer["parameters"]["warnings"]
    names = [each["name"] for each in one]
    record = dict(zip(names, [each["data"][0] for each in one], strict=True))
    body = json.dumps({"instances": [record]})
    predicted = gam.endpoint.request("POST", "/v1/models/m:predict", body).json
    assert predicted["warnings"] == answer["parameters"]["warnings"].split("\n")
    assert "parameters" not in gam.infer({"inputs": gam.tensors()}).json


# ---------------------------------------------------------------- a client that others wrote


@pytest.fixture(scope="module")
def triton(installed):
    """tritonclient.http, the protocol's client by those who wrote its extension."""
    folder = installed("tritonclient[http]==2.73.0")
    sys.path.append(str(folder))  # behind what is installed already
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import tritonclient.http
    yield tritonclient.http
    sys.path.remove(str(folder))


@pytest.mark.parametrize("binary", [True, False])
def test_tritons_client_is_content(served, triton, binary):
    host, port = served.endpoint.host, served.endpoint.port
    with triton.InferenceServerClient(f"{host}:{port}") as client:
        assert client.is_server_live()
        assert client.is_model_ready("m")
        assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
        metadata = client.get_model_metadata("m")
        inputs = []
        for each in metadata["inputs"]:
            text = each["datatype"] == "BYTES"
            cells = np.array(served.columns[each["name"]], dtype=object if text else np.float64)
            inputs.append(triton.InferInput(each["name"], [3], each["datatype"]))
            inputs[-1].set_data_from_numpy(cells, binary_data=binary)
        outputs = [
            triton.InferRequestedOutput(each["name"], binary_data=binary)
            for each in metadata["outputs"]
        ]
        expected = read(served.infer({"inputs": served.tensors()}))
        # Without outputs, it asks for all of them as binary data.
        for wanted in (outputs, None):
            result = client.infer("m", inputs, outputs=wanted, request_id="7", timeout=9)
            assert result.get_response()["id"] == "7"
            for name, column in expected.items():
                cells = result.as_numpy(name).tolist()
                cells = [cell.decode() if isinstance(cell, bytes) else cell for cell in cells]
                assert cells == column
        result = client.infer("m", inputs, parameters={"explain": True})
        explained = [json.loads(cell) for cell in result.as_numpy("explanation").tolist()]
        assert len(explained) == 3
