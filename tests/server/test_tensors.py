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


def write_csv(rows) -> str:
    return "".join(
        ",".join(map(str, row)) + "\n" for row in [rows[0].keys(), *map(dict.values, rows)]
    )


def make_pay(rng):
    age, city = rng.randint(18, 80), rng.choice(["Bern", "Basel", "Genf"])
    hired = f"20{rng.randint(10, 24)}-0{rng.randint(1, 9)}-1{rng.randint(0, 9)}"
    name = f"n{rng.random()}"  # of which the model has no use
    return {"age": age, "city": city, "hired": hired, "name": name, "pay": age / 9 + len(city)}


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
    "credit boosted": Kind("credit_logic.py", make_credit, {"model": "boosted"}, "train_data"),
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

    def infer(self, content, data=b""):
        head = json.dumps(content).encode()
        further = {HEADER.replace("-", "_"): str(len(head))} if data else {}
        return self.endpoint.request("POST", "/v2/models/m/infer", head + data, **further)

    def ask(self, verb):
        """Ask in v1."""
        names, columns = list(self.columns), self.columns.values()
        rows = [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
        body = json.dumps({"instances": rows})
        return self.endpoint.request("POST", f"/v1/models/m:{verb}", body).json

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
    assert datatype == "FP64"  # the others are in test_kserve.py
    return struct.pack(f"<{len(cells)}d", *cells)


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
            assert output["datatype"] == "FP64"
            cells = list(struct.unpack(f"<{output['shape'][0]}d", data))
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
    assert read(answer)["prediction"] == served.ask("predict")["predictions"]


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


def test_binary_and_json_tensors_may_be_mixed(gam):
    age, *others = gam.tensors()
    head, data = as_binary(age)
    answer = gam.infer({"inputs": [*others, head]}, data)
    assert read(answer) == read(gam.infer({"inputs": gam.tensors()}))


def test_an_output_that_is_named_twice_comes_twice(news):
    wanted = {"name": "probability", "parameters": {"binary_data": True}}
    answer = news.infer({"inputs": news.tensors(), "outputs": [wanted, wanted]})
    assert answer.status == 200, answer.body
    length = int(answer.headers[HEADER])
    assert [each["name"] for each in json.loads(answer.body[:length])["outputs"]] == [
        "probability",
        "probability",
    ]
    cells = struct.unpack("<6d", answer.body[length:])
    assert cells[:3] == cells[3:]


def test_an_integer_beyond_64_bits_is_a_float(serve, base, program):
    text = """
import json
def model_fn(model_dir): return None
def transform_fn(model, body, content_type, accept):
    return json.dumps({"prediction": [2**63], "least": [-2**63]}), accept.partition(";")[0]
"""
    tensor = {"name": "x", "shape": [1, 1], "datatype": "FP64", "data": [1]}
    with serve(base, program(text), KSERVE_MODEL_NAME="m") as endpoint:
        served = Served(endpoint, None, {}, base)
        plain = served.infer({"inputs": [tensor]})
        binary = served.infer({"inputs": [tensor], "parameters": {"binary_data_output": True}})
    datatypes = {each["name"]: each["datatype"] for each in plain.json["outputs"]}
    assert datatypes == {"prediction": "FP64", "least": "INT64"}
    assert struct.unpack("<dq", binary.body[-16:]) == (2.0**63, -(2**63))


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
    assert read(answer)["prediction"] == news.ask("predict")["predictions"]


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
    assert "got 1 columns where the model has 4" in answer.json["error"]


# ---------------------------------------------------------------- explanations


def test_v2_explains_as_v1_does(served):
    expected = served.ask("explain")
    answer = served.infer({"inputs": served.tensors(), "parameters": {"explain": True}})
    assert answer.status == 200, answer.body
    columns = read(answer)
    assert columns["prediction"] == expected["predictions"]
    assert list(map(json.loads, columns["explanation"])) == expected["explanations"]
    plain = served.infer({"inputs": served.tensors(), "parameters": {"explain": False}})
    assert set(read(plain)) == set(served.kind.outputs)
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
    explanations = list(map(json.loads, columns["explanation"]))
    assert [each["threshold"] for each in explanations] == [0.8] * 3
    anchors = [each["anchor"] for each in explanations]
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
        assert any("'age'" in warning for warning in answer["parameters"]["warnings"])
    names = [each["name"] for each in one]
    record = dict(zip(names, [each["data"][0] for each in one], strict=True))
    body = json.dumps({"instances": [record]})
    predicted = gam.endpoint.request("POST", "/v1/models/m:predict", body).json
    assert predicted["warnings"] == answer["parameters"]["warnings"]
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
