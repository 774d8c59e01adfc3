import http.client
import io
import json
import os
import re
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from gam_model import AdditiveModel
from model_server.settings import Settings, count_cores

SCRIPTS = Path(sys.executable).parent
NPY, CSV = "application/x-npy", "text/csv"
JSON, JSONLINES = "application/json", "application/jsonlines"


def npy(array, **how) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, **how)
    return stream.getvalue()


# ---------------------------------------------------------------- the GAM, over HTTP


@pytest.fixture(scope="module")
def table():
    rng = np.random.default_rng(0)
    X = rng.uniform(size=(200, 3)) * [60, 9, 4] + [18, 1, -2]
    return np.column_stack([X, np.sin(X[:, 0] / 9) + X[:, 2] ** 2])


@pytest.fixture(scope="module")
def job(training_job, table):
    """A model of three named features, by the real ``train``."""
    lines = ["age,claims,debt,risk", *(",".join(map(repr, row)) for row in table.tolist())]
    job = training_job({"train/t.csv": "\n".join(lines)}, {"df": "8"}).run()
    assert job.exit_code == 0, job.log
    return job


@pytest.fixture(scope="module")
def endpoint(serve, job):
    with serve(job.base) as endpoint:
        yield endpoint


@pytest.fixture(scope="module")
def terms(job):
    return AdditiveModel.load(job.model_dir / "gam.json")


# Inside the training range, at its edge, and outside.
X = np.array([[20.0, 2, -1.5], [77.5, 9.5, 1.0], [48, 5, 0], [150, -40, 9]])
NAMES = ["age", "claims", "debt"]
RECORDS = [dict(zip(NAMES, row, strict=True)) for row in X.tolist()]
LINES = "".join(f"{a!r},{b!r},{c!r}\n" for a, b, c in X.tolist())
SHUFFLED = "".join(f"{c!r},{a!r},{b!r}\r\n" for a, b, c in X.tolist())


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (npy(X), NPY),
        (npy(np.asfortranarray(X)), NPY),
        (npy(X.astype("f4")), NPY),
        (npy(X.astype(">f8")), NPY),
        (LINES, CSV),
        (LINES, "text/csv; charset=utf-8"),
        (LINES.replace("\n", "\r\n"), CSV),
        ("\ufeff" + "age,claims,debt\n" + LINES, CSV),
        ("debt,age,claims\r\n" + SHUFFLED, CSV),
        (json.dumps(X.tolist()), JSON),
        (json.dumps(X.tolist()), None),
        (json.dumps({"instances": X.tolist()}), JSON),
        (json.dumps(RECORDS), JSON),
        (json.dumps({"instances": [dict(reversed(r.items())) for r in RECORDS]}), JSON),
        ("\n".join(map(json.dumps, RECORDS)), JSONLINES),
        ("\n".join(map(json.dumps, X.tolist())) + "\n", JSONLINES),
    ],
)
@pytest.mark.parametrize("accept", [NPY, CSV, JSON, JSONLINES])
def test_every_media_type_in_and_out(endpoint, terms, body, content_type, accept):
    body = body if isinstance(body, bytes) else body.encode()
    answer = endpoint.invoke(body, content_type, accept)
    assert (answer.status, answer.content_type) == (200, accept), answer.body
    if accept == NPY:
        prediction = np.load(io.BytesIO(answer.body), allow_pickle=False)
        assert prediction.dtype == np.float64
    elif accept == CSV:
        prediction = [float(line) for line in answer.body.decode().splitlines()]
    elif accept == JSON:
        prediction = answer.json["prediction"]
        (warning,) = answer.json["warnings"]
        assert "'age' is 150 in row 3" in warning
        assert set(answer.json) == {"prediction", "warnings"}
    else:
        lines = [json.loads(line) for line in answer.body.splitlines()]
        prediction = [line["prediction"] for line in lines]
        assert [len(line.get("warnings", [])) for line in lines] == [0, 0, 0, 1]
    assert np.shape(prediction) == (4,)
    np.testing.assert_allclose(prediction, terms.predict(X), rtol=1e-12, atol=0)


@pytest.mark.parametrize("dtype", ["f4", "i8", "?", ">u2"])
def test_other_dtypes_are_numbers_too(endpoint, terms, dtype):
    rows = np.array([[1, 0, 1], [0, 1, 1]]).astype(dtype)
    answer = endpoint.invoke(npy(rows), NPY, JSON)
    np.testing.assert_allclose(
        answer.json["prediction"], terms.predict(rows.astype(float)), rtol=1e-12
    )


def test_one_dimension_is_one_row(endpoint, terms):
    for body, content_type in [(npy(X[0]), NPY), (json.dumps(X[0].tolist()), JSON)]:
        answer = endpoint.invoke(body, content_type)
        np.testing.assert_allclose(answer.json["prediction"], terms.predict(X[:1]), rtol=1e-12)


@pytest.mark.parametrize("media", [JSON, JSONLINES])
def test_explanations_are_the_models_contributions(endpoint, terms, table, media):
    answer = endpoint.invoke(npy(X), NPY, f"{media}; explain=true")
    assert (answer.status, answer.content_type) == (200, media)
    if media == JSON:
        base, values = answer.json["shap_base"], answer.json["shap_values"]
        prediction, scale = answer.json["prediction"], answer.json["scale"]
    else:
        rows = [json.loads(line) for line in answer.body.splitlines()]
        (base,) = {row["shap_base"] for row in rows}
        (scale,) = {row["scale"] for row in rows}
        values = {name: [row["shap_values"][name] for row in rows] for name in NAMES}
        prediction = [row["prediction"] for row in rows]
    assert list(values) == NAMES
    assert scale == "response"
    columns = np.column_stack(list(values.values()))
    np.testing.assert_allclose(columns, terms.contributions(X), rtol=1e-12)
    np.testing.assert_allclose(base + columns.sum(axis=1), prediction, rtol=1e-12)
    assert base == pytest.approx(table[:, -1].mean(), rel=1e-9)


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        (None, JSON),
        ("*/*", JSON),
        ("text/html, text/*;q=0.8", CSV),
        ("text/csv;q=0.1, application/x-npy", NPY),
        ("image/webp, application/jsonlines;q=.2, */*;q=.1", JSONLINES),
    ],
)
def test_accept_is_negotiated(endpoint, accept, content_type):
    assert endpoint.invoke(LINES, CSV, accept).content_type == content_type


NAN = X.copy()
NAN[1, 2] = np.nan
HUGE = npy(X).replace(b"(4, 3)", b"(9999999999, 9999)").replace(b" " * 12 + b"\n", b"\n")


@pytest.mark.parametrize(
    ("status", "body", "content_type", "accept", "message"),
    [
        (400, npy(X)[:-1], NPY, None, "truncated"),
        (400, npy(X)[:9], NPY, None, "npy format"),
        (400, npy(X) + b"\0", NPY, None, "tail"),
        (400, HUGE, NPY, None, "799919999920008 bytes announced"),
        (400, npy(np.array([[{}]]), allow_pickle=True), NPY, None, "send floats or integers"),
        (400, npy(X[:, :2]), NPY, None, "got 2 columns where the model has 3: age, claims, debt"),
        (400, npy(NAN), NPY, None, "row 1, 'debt' is missing"),
        (400, npy(-np.inf * np.ones((1, 3))), NPY, None, "row 0, 'age' is infinite"),
        (400, npy(X[:0]), NPY, None, "empty"),
        (400, "1,2,x\n", CSV, None, "line 1, column 'debt': 'x' is not a number"),
        (400, "1,2,3\n1,2\n", CSV, None, "line 2 has 2 cells where 3 are expected"),
        (400, "1,2\n", CSV, None, "got 2 columns"),
        (400, "1,2,\n", CSV, None, "row 0, 'debt' is missing"),
        (400, "age,age,debt\n1,2,3\n", CSV, None, "two columns are named 'age'"),
        (400, "age,claims\n1,2\n", CSV, None, "missing 'debt'"),
        (400, b"\xff,1,2\n", CSV, None, "not utf-8 text"),
        (400, "[[1, 2, null]]", JSON, None, "row 0, 'debt' is missing"),
        (400, "[[1, 2, Infinity]]", JSON, None, "row 0, 'debt' is infinite"),
        (400, '[[1, 2, "3x"]]', JSON, None, "row 0, 'debt': '3x' is not a number"),
        (400, "[[1, 2, 3], [1]]", JSON, None, "row 1 has 1 cells"),
        (400, "[1, [2, 3]]", JSON, None, "row 0: 1 is not an array"),
        (400, '[{"age": 1, "claims": 2}]', JSON, None, "missing 'debt'"),
        (400, json.dumps(RECORDS[0] | {"sex": 1}), JSON, None, "unknown 'sex'"),
        (400, "[" * 50_000 + "]" * 50_000, JSON, None, "not valid JSON"),
        (400, f"[[1, 2, {'9' * 4000}]]", JSON, None, "too large"),
        (400, "[[1, 2, 3]", JSON, None, "not valid JSON"),
        (400, '{"age": 1}\n{]\n', JSONLINES, None, "line 2: not valid JSON"),
        (400, "", JSON, None, "the body is empty"),
        (400, None, CSV, None, "the body is empty"),
        (406, LINES, CSV, "text/html", "accept one of application/json"),
        (406, LINES, CSV, "text/csv; explain=true", "cannot carry an explanation"),
        (415, LINES, "text/html", None, "Content-Type 'text/html' is not supported"),
        (415, LINES, "text/csv; charset=klingon", None, "unknown charset 'klingon'"),
        (415, LINES, "text/csv; charset=punycode", None, "unknown charset 'punycode'"),
    ],
)
def test_bad_requests_are_explained(endpoint, job, status, body, content_type, accept, message):
    answer = endpoint.invoke(body, content_type, accept)
    assert (answer.status, answer.content_type) == (status, JSON)
    types = {400: "BadRequest", 406: "NotAcceptable", 415: "UnsupportedMediaType"}
    assert list(answer.json) == ["error"]
    assert answer.json["error"].keys() == {"type", "message"}
    assert answer.json["error"]["type"] == types[status]
    assert message in answer.json["error"]["message"]
    for leak in (
        "Traceback",
        ".py",
        "line 1, in",
        "numpy.",
        str(job.base),
        sys.version.split()[0],
    ):
        assert leak not in answer.json["error"]["message"]


@pytest.mark.parametrize(
    ("method", "path", "status", "kind"),
    [
        ("GET", "/", 404, "NotFound"),
        ("POST", "/invocations/", 404, "NotFound"),
        ("GET", "/invocations", 405, "MethodNotAllowed"),
        ("POST", "/ping", 405, "MethodNotAllowed"),
        ("DELETE", "/execution-parameters", 405, "MethodNotAllowed"),
    ],
)
def test_other_paths_and_methods_are_refused(endpoint, method, path, status, kind):
    answer = endpoint.request(method, path)
    assert (answer.status, answer.json["error"]["type"]) == (status, kind)


def test_requests_at_once_get_their_own_answers(endpoint, terms):
    rows = np.random.default_rng(1).uniform(-2, 70, size=(64, 3))
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda row: endpoint.invoke(npy(row), NPY, JSON).json, rows))
    predictions = [answer["prediction"][0] for answer in answers]
    np.testing.assert_allclose(predictions, terms.predict(rows), rtol=1e-12)


def test_every_request_but_a_healthy_ping_is_logged(endpoint, wait_until):
    before = len(endpoint.log)
    endpoint.request("GET", "/ping")
    good = endpoint.invoke("31.4159,2,3\n", CSV)
    endpoint.invoke("age,wrong\n31.4159,2\n", CSV)
    wait_until(lambda: endpoint.log[before:].count("\n") == 2)  # after the answer, that is
    lines = [json.loads(line) for line in endpoint.log[before:].splitlines()]
    assert [(line["method"], line["path"], line["status"]) for line in lines] == [
        ("POST", "/invocations", 200),
        ("POST", "/invocations", 400),
    ]
    assert lines[0]["bytes_out"] == len(good.body)
    assert len({line["id"] for line in lines}) == 2
    assert all(line["ms"] >= 0 for line in lines)
    assert "31.4159" not in endpoint.log
    assert "wrong" not in endpoint.log


def test_a_model_that_must_not_extrapolate_says_so(training_job, serve, table):
    lines = ["age,claims,debt,risk", *(",".join(map(repr, row)) for row in table.tolist())]
    hyperparameters = {"df": "8", "extrapolate": "error", "target": "risk"}
    job = training_job({"train/t.csv": "\n".join(lines)}, hyperparameters).run()
    with serve(job.base) as endpoint:
        assert endpoint.invoke("20,2,0\n", CSV).status == 200
        answer = endpoint.invoke("20,2,0\n900,2,0\n", CSV)
    assert answer.status == 400
    assert (
        "age = 900 in row 1 lies outside the training range [" in answer.json["error"]["message"]
    )


# ---------------------------------------------------------------- any program


HOOKS = """
def model_fn(model_dir): return "model"
def input_fn(body, content_type): return [body.decode(), content_type]
def predict_fn(data, model): return [*data, model]
def output_fn(prediction, accept): return "|".join(prediction), accept
"""


def test_hooks_without_context(serve, base, program):
    with serve(base, program(HOOKS)) as endpoint:
        answer = endpoint.invoke("body", "text/x", "text/y")
    assert answer[:3] == (200, "text/y", b"body|text/x|model")


def test_hooks_with_context(serve, base, program):
    code = program(
        """
        def model_fn(model_dir, context): return context.model_dir == model_dir
        def input_fn(body, content_type, context): return context.request_headers["x-who"]
        def predict_fn(data, model, context): return [data, model, context.model_dir]
        def output_fn(prediction, accept, context): return repr(prediction).encode()
        """
    )
    with serve(base, code) as endpoint:
        answer = endpoint.request("POST", "/invocations", "", X_Who="me", Accept="text/y")
    assert answer[:3] == (200, "text/y", repr(["me", True, str(base / "model")]).encode())


@pytest.mark.parametrize("parameters", ["", ", context"])
def test_transform_fn_does_it_all(serve, base, program, parameters):
    code = program(
        f"""
        def model_fn(model_dir): return "model"
        def transform_fn(model, body, content_type, accept{parameters}):
            return f"{{model}} {{body}} {{content_type}} {{accept}}", "text/é"
        """
    )
    with serve(base, code) as endpoint:
        answer = endpoint.invoke("body", "text/x", "text/y")
    assert answer[:3] == (200, "text/é", b"model b'body' text/x text/y")


@pytest.mark.parametrize(
    ("accept", "expected"),
    [(None, "text/csv"), ("*/*", "text/csv"), ("text/y", "text/y")],
)
def test_the_default_accept_stands_in_where_the_client_leaves_it_open(
    serve, base, program, accept, expected
):
    with serve(base, program(HOOKS), SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT="text/csv") as endpoint:
        assert endpoint.invoke("", None, accept).content_type == expected
        assert b"|application/json|" in endpoint.invoke("", None, accept).body


def test_a_program_in_the_model_wins(serve, base, program):
    image = program(HOOKS)
    program(HOOKS.replace('"model"', '"packed"'), base / "model" / "code")
    with serve(base, image) as endpoint:
        assert endpoint.invoke("", "text/x", "text/y").body == b"|text/x|packed"


@pytest.mark.parametrize(
    ("text", "variables", "line"),
    [
        (None, {}, "no program 'model_logic.py' in"),
        ("def model_fn(d): pass", {}, "lacks input_fn and predict_fn and output_fn"),
        (HOOKS.replace("model_fn", "load"), {}, "model_logic.py lacks model_fn"),
        (HOOKS.replace('return "model"', "1 / 0"), {}, "ZeroDivisionError: division by zero"),
        ("import no_such_module", {}, "No module named 'no_such_module'"),
        ("def", {}, "SyntaxError"),
        (HOOKS, {"SAGEMAKER_PROGRAM": ""}, "SAGEMAKER_PROGRAM is not set"),
        (HOOKS, {"SAGEMAKER_BIND_TO_PORT": "http"}, "SAGEMAKER_BIND_TO_PORT='http' is not"),
        (HOOKS, {"SAGEMAKER_BIND_TO_PORT": "70000"}, "SAGEMAKER_BIND_TO_PORT='70000' is not"),
        (HOOKS, {"MAX_CONTENT_LENGTH": "6MB"}, "MAX_CONTENT_LENGTH='6MB' is not a whole number"),
        (HOOKS, {"MAX_CONTENT_LENGTH": "-1"}, "MAX_CONTENT_LENGTH='-1' is not a whole number"),
    ],
)
def test_what_cannot_be_served_is_named_at_once(base, program, tmp_path, text, variables, line):
    code = program(text) if text else tmp_path
    environ = {
        **os.environ,
        "SAGEMAKER_BASE_DIR": str(base),
        "SAGEMAKER_SUBMIT_DIRECTORY": str(code),
        "SAGEMAKER_PROGRAM": "model_logic.py",
        "PYTHONDONTWRITEBYTECODE": "1",
        **variables,
    }
    ended = subprocess.run(
        [SCRIPTS / "serve"], env=environ, capture_output=True, text=True, timeout=10, check=False
    )
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert len(ended.stderr.splitlines()) == 1
    assert ended.stderr.startswith("serve: cannot load the model: ")
    assert line in ended.stderr


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("return [*data, model]", "raise ValueError('secret')"),
        ("return [*data, model]", "raise KeyError('secret')"),
        ("return [*data, model]", "return next(iter([]))  # 'secret'"),
        ("return [*data, model]", "raise SystemExit('secret')"),
        ('return "|".join(prediction), accept', "return {'secret': 1}"),
        ('return "|".join(prediction), accept', "return b'secret', None"),
        ('return "|".join(prediction), accept', "return b'secret', 'text/\\u20ac'"),
        ('return "|".join(prediction), accept', "return 1, 2, 'secret'"),
    ],
)
def test_a_program_that_fails_keeps_its_reasons_to_the_log(serve, base, program, old, new):
    with serve(base, program(HOOKS.replace(old, new))) as endpoint:
        answer = endpoint.invoke("body", "text/x", "text/y")
        assert endpoint.is_up()
    assert (answer.status, answer.content_type) == (500, JSON)
    assert answer.json["error"]["type"] == "InternalServerError"
    message = answer.json["error"]["message"]
    assert "secret" not in message
    request_id = re.search(r"under request (\w+)$", message)[1]
    assert f"request {request_id} failed\nTraceback" in endpoint.log
    logged = next(line for line in endpoint.log.splitlines() if line.startswith('{"id"'))
    assert json.loads(logged)["id"] == request_id
    assert json.loads(logged)["status"] == 500


@pytest.mark.parametrize(
    ("status", "answered", "kind"),
    [
        (400, 400, "BadRequest"),
        (422, 422, "ClientError"),
        (499, 499, "ClientError"),
        (503, 500, "InternalServerError"),
        (200, 500, "InternalServerError"),
    ],
)
def test_an_error_may_carry_its_status(serve, base, program, status, answered, kind):
    code = program(
        HOOKS.replace("return [*data, model]", "raise Refusal('mend it')")
        + f"class Refusal(Exception): status = {status}\n"
    )
    with serve(base, code) as endpoint:
        answer = endpoint.invoke("body")
    assert (answer.status, answer.json["error"]["type"]) == (answered, kind)
    assert (answer.json["error"]["message"] == "mend it") == (answered < 500)


# Says that it has begun, and goes on when it is told to.
PAUSE = """
    import pathlib, time
    folder = pathlib.Path({folder!r})
    (folder / "begun").touch()
    while not (folder / "go").exists():
        time.sleep(0.01)
    return ["done"]
"""


def test_ping_answers_while_a_prediction_runs_which_sigterm_lets_finish(
    serve, base, program, tmp_path, wait_until
):
    answers = []
    code = program(HOOKS.replace("return [*data, model]", PAUSE.format(folder=str(tmp_path))))
    with serve(base, code) as endpoint:
        client = threading.Thread(target=lambda: answers.append(endpoint.invoke("body")))
        client.start()
        wait_until((tmp_path / "begun").exists)
        assert endpoint.is_up()
        endpoint.process.terminate()
        wait_until(lambda: not endpoint.is_up())  # nothing new is taken on
        assert endpoint.process.poll() is None
        (tmp_path / "go").touch()
        client.join(20)
        assert endpoint.process.wait(20) == 0
    assert [answer.body for answer in answers] == [b"done"]


def test_sigterm_while_the_model_loads_is_a_good_end_too(base, program, tmp_path, wait_until):
    code = program(HOOKS.replace('return "model"', PAUSE.format(folder=str(tmp_path))))
    environ = {
        **os.environ,
        "SAGEMAKER_BASE_DIR": str(base),
        "SAGEMAKER_SUBMIT_DIRECTORY": str(code),
        "SAGEMAKER_PROGRAM": "model_logic.py",
    }
    process = subprocess.Popen([SCRIPTS / "serve"], env=environ)
    try:
        wait_until((tmp_path / "begun").exists)
        process.terminate()
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def narrow(serve, tmp_path_factory):
    """An endpoint that takes no more than 1,000 bytes."""
    base = tmp_path_factory.mktemp("narrow") / "ml"
    code = base / "code"
    (base / "model").mkdir(parents=True)
    code.mkdir()
    (code / "model_logic.py").write_text(HOOKS)
    with serve(base, code, MAX_CONTENT_LENGTH="1000") as endpoint:
        yield endpoint


@pytest.mark.parametrize("size", [1001, 3_000_000])
def test_a_body_over_the_limit_is_refused(narrow, size):
    announced = narrow.request("POST", "/invocations", b"x" * size)
    chunks = (b"x" * min(65536, size - start) for start in range(0, size, 65536))
    chunked = narrow.request("POST", "/invocations", chunks, Transfer_Encoding="chunked")
    for answer in (announced, chunked):
        assert (answer.status, answer.json["error"]["type"]) == (413, "PayloadTooLarge")
        assert "larger than 1000 bytes" in answer.json["error"]["message"]


def test_a_body_at_the_limit_is_taken(narrow):
    assert narrow.request("POST", "/invocations", b"x" * 1000).status == 200
    chunks = (b"x" * 100 for _ in range(10))
    answer = narrow.request("POST", "/invocations", chunks, Transfer_Encoding="chunked")
    assert answer.body.startswith(b"x" * 1000)


def test_batch_transform_asks_for_the_limits(endpoint, narrow):
    for server, megabytes in ((endpoint, 6), (narrow, 1)):
        answer = server.request("GET", "/execution-parameters")
        assert (answer.status, answer.content_type) == (200, JSON)
        assert answer.json == {
            "MaxConcurrentTransforms": count_cores(),
            "BatchStrategy": "MULTI_RECORD",
            "MaxPayloadInMB": megabytes,
        }


@pytest.mark.skipif(sys.platform != "linux", reason="127.0.0.2 is loopback on Linux only")
def test_it_listens_where_it_is_told(serve, base, program):
    with serve(base, program(HOOKS), MODEL_SERVER_HOST="127.0.0.2") as endpoint:
        endpoint.host = "127.0.0.1"
        assert not endpoint.is_up()


# ---------------------------------------------------------------- attributes, parameters, settings

ATTRIBUTES = "X-Amzn-SageMaker-Custom-Attributes"


def attributes_of(endpoint, sent: str | None) -> str | None:
    with closing(http.client.HTTPConnection(endpoint.host, endpoint.port, timeout=30)) as link:
        link.request("POST", "/invocations", "body", {ATTRIBUTES: sent} if sent else {})
        answer = link.getresponse()
        answer.read()
        return answer.headers[ATTRIBUTES]


def test_custom_attributes_come_back(serve, base, program):
    with serve(base, program(HOOKS)) as endpoint:
        assert attributes_of(endpoint, "trace=1;  é, x") == "trace=1;  é, x"
        assert attributes_of(endpoint, None) is None


def test_a_program_may_read_and_set_the_custom_attributes(serve, base, program):
    code = program(
        """
        def model_fn(model_dir): return None
        def transform_fn(model, body, content_type, accept, context):
            read = context.request_headers["x-amzn-sagemaker-custom-attributes"]
            context.custom_attributes = f"{read} seen"
            return body
        """
    )
    with serve(base, code) as endpoint:
        assert attributes_of(endpoint, "who") == "who seen"


def test_custom_attributes_cannot_break_out_of_their_header(serve, base, program):
    code = program(
        HOOKS.replace("prediction, accept):", "p, accept, context):\n").replace(
            'return "|".join(prediction)', "context.custom_attributes = 'a\\r\\nb: c'; return ''"
        )
    )
    with serve(base, code) as endpoint:
        assert endpoint.invoke("body").status == 500


@pytest.mark.parametrize("parameters", ["", "context"])
def test_a_program_may_word_the_execution_parameters(serve, base, program, parameters):
    hook = f"def execution_parameters_fn({parameters}): return {{'MaxConcurrentTransforms': 3}}\n"
    with serve(base, program(HOOKS + hook)) as endpoint:
        answer = endpoint.request("GET", "/execution-parameters").json
    assert answer == {
        "MaxConcurrentTransforms": 3,
        "BatchStrategy": "MULTI_RECORD",
        "MaxPayloadInMB": 6,
    }


def test_a_program_in_the_model_finds_the_images_modules(serve, base, program):
    image = program(HOOKS)
    (image / "helper.py").write_text("name = 'the image'")
    packed = HOOKS.replace('"model"', "helper.name") + "import helper\n"
    program(packed, base / "model" / "code")
    with serve(base, image) as endpoint:
        assert endpoint.invoke("", "text/x", "text/y").body == b"|text/x|the image"


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, (count_cores(), 60, 25 * 2**20, 20)),
        ({"SAGEMAKER_BATCH": "true"}, (count_cores(), 600, 100 * 2**20, 20)),
        (
            {
                "SAGEMAKER_BATCH": "True",
                "SAGEMAKER_MODEL_SERVER_WORKERS": "7",
                "SAGEMAKER_MODEL_SERVER_TIMEOUT": "30",
                "MAX_CONTENT_LENGTH": "1000",
                "SAGEMAKER_CONTAINER_LOG_LEVEL": "error",
            },
            (7, 30, 1000, 40),
        ),
    ],
)
def test_settings(environ, expected):
    s = Settings.from_environ({"SAGEMAKER_PROGRAM": "p.py", **environ})
    assert (s.workers, s.timeout, s.body_limit, s.log_level) == expected


@pytest.mark.parametrize(
    ("level", "paths"), [("10", ["/invocations", "/ping"]), ("INFO", ["/invocations"]), ("40", [])]
)
def test_the_log_level_says_what_is_logged(serve, base, program, wait_until, level, paths):
    with serve(base, program(HOOKS), SAGEMAKER_CONTAINER_LOG_LEVEL=level) as endpoint:
        endpoint.invoke("body")
    logged = {json.loads(line)["path"] for line in endpoint.log.splitlines() if line[0] == "{"}
    assert sorted(logged) == paths
    assert "serve: listening on 127.0.0.1:" in endpoint.log


def test_a_log_line_says_what_the_request_took(serve, base, program):
    code = program(
        "import time\n" + HOOKS.replace("return [*data", "time.sleep(.2); return [*data")
    )
    with serve(base, code, SAGEMAKER_MODEL_SERVER_WORKERS="1") as endpoint:
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(endpoint.invoke, [b"body"] * 2))
        lines = [json.loads(line) for line in endpoint.log.splitlines() if line[0] == "{"]
    first, second = (line for line in lines if line["path"] == "/invocations")
    assert first.keys() == {
        *("id", "method", "path", "status"),
        *("bytes_in", "bytes_out", "queue_ms", "program_ms", "ms"),
    }
    assert (first["bytes_in"], first["bytes_out"]) == (4, len("body|application/json|model"))
    assert first["queue_ms"] < 100
    assert 100 < second["queue_ms"] < 1000
    assert all(200 <= line["program_ms"] < 1000 for line in (first, second))
    assert second["ms"] >= second["queue_ms"] + second["program_ms"]


def test_metrics_count_what_was_asked(serve, base, program):
    code = program(HOOKS.replace("return [*data, model]", "1 / int(data[0]); return data"))
    with serve(base, code, SAGEMAKER_MODEL_SERVER_WORKERS="2") as endpoint:
        for body in ("1", "1", "0"):
            endpoint.invoke(body)
        endpoint.request("GET", "/no/such/path")
        answer = endpoint.request("GET", "/metrics")
    assert answer.content_type == "text/plain; version=0.0.4; charset=utf-8"
    text = answer.body.decode()
    for line in (
        'requests_total{path="/invocations",code="200"} 2',
        'requests_total{path="/invocations",code="500"} 1',
        'requests_total{path="other",code="404"} 1',
        'errors_total{path="/invocations",code="500"} 1',
        'request_duration_seconds_bucket{le="+Inf"} 3',
        "request_duration_seconds_count 3",
        "requests_in_flight 0",
        "workers 2",
    ):
        assert f"\nmodel_server_{line}\n" in text
    assert_is_prometheus(text)


def assert_is_prometheus(text: str) -> None:
    label = r'\w+="([^"\\]|\\[\\"n])*"'
    for line in text.splitlines():
        assert re.fullmatch(rf"# (HELP|TYPE) \w+ .+|\w+(\{{({label},?)+\}})? [\d.e+-]+", line), (
            line
        )


COUNTS = """
import os
def model_fn(model_dir): return ["a", 'quote " slash \\\\ line \\n', "never"]
def counters_fn(model):
    return {"seen_total": {"help": "What was asked.", "label": "kind", "values": model}}
def input_fn(body, content_type): return body.decode()
def predict_fn(data, model, context):
    if data == "die":
        os._exit(1)
    context.count("seen_total", model[0] if data == "a" else data)
    context.count("seen_total", model[1], 2)
    return data
def output_fn(prediction, accept): return prediction, accept
"""


def test_a_program_may_count_for_itself(serve, base, program, wait_until):
    def read() -> dict[str, int]:
        text = endpoint.request("GET", "/metrics").body.decode()
        assert_is_prometheus(text)
        lines = [line for line in text.splitlines() if line.startswith("seen_total")]
        return {line.rpartition(" ")[0]: int(line.rpartition(" ")[2]) for line in lines}

    names = [
        f'seen_total{{kind="{value}"}}' for value in ("a", r"quote \" slash \\ line \n", "never")
    ]
    with serve(base, program(COUNTS), SAGEMAKER_MODEL_SERVER_WORKERS="2") as endpoint:
        assert read() == dict.fromkeys(names, 0)
        with closing(http.client.HTTPConnection(endpoint.host, endpoint.port)) as link:
            for _ in range(20):  # so that a worker gets the client
                link.request("POST", "/invocations", "a")
                assert link.getresponse().read() == b"a"
        assert read() == dict(zip(names, [20, 40, 0], strict=True))
        assert endpoint.invoke("die").status == 500
        wait_until(lambda: b"workers 2" in endpoint.request("GET", "/metrics").body)
        assert endpoint.invoke("a").status == 200
        assert read() == dict(zip(names, [21, 42, 0], strict=True))
        assert endpoint.invoke("b").status == 500
        assert "counters_fn does not name 'b' of the counter 'seen_total'" in endpoint.log


def test_rows_outside_of_training_are_counted_by_feature(endpoint):
    def read() -> list[int]:
        text = endpoint.request("GET", "/metrics").body.decode()
        name = 'gam_rows_outside_training_total{feature="%s"} (\\d+)'
        return [int(re.search(name % feature, text)[1]) for feature in NAMES]

    before = np.array(read())
    for body, content_type, accept in [
        (npy(X[:3]), NPY, CSV),  # inside
        (npy(X), NPY, CSV),  # the last row is outside of all ranges, however it is answered
        ("77.9,2,0\n", CSV, NPY),
        (json.dumps({"instances": X.tolist()}), JSON, f"{JSON}; explain=true"),
    ]:
        assert endpoint.invoke(body, content_type, accept).status == 200
    assert (read() - before).tolist() == [3, 2, 2]
