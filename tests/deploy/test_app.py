"""The model inside Lambda: the real awslambdaric against a runtime API on loopback.

The model is trained on made-up rows, see `examples.credit_data`.
"""

import http.server
import importlib.util
import io
import json
import os
import queue
import shutil
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from examples import credit_data

ROOT = Path(__file__).parents[2]
JSON, CSV, NPY = "application/json", "text/csv", "application/x-npy"


@pytest.fixture(scope="module")
def tables():
    return {"train": credit_data.generate(3000, seed=0), "test": credit_data.generate(400, seed=1)}


@pytest.fixture(scope="module")
def rows(tables):
    features = tables["test"].drop(columns=credit_data.TARGET).astype(object)
    return features.where(features.notna(), None).to_dict("records")


@pytest.fixture(scope="module")
def job(training_job, tables):
    files = {f"{k}_data/{k}.csv": table.to_csv(index=False) for k, table in tables.items()}
    job = training_job(files, program="credit_logic.py").run()
    assert job.exit_code == 0, job.log
    return job


@pytest.fixture(scope="module")
def lambda_model(job, tmp_path_factory):
    """Run `make lambda-model`; return the variables with which make is to go on."""
    folder = tmp_path_factory.mktemp("lambda")
    with tarfile.open(folder / "model.tar.gz", "w:gz") as archive:
        archive.add(job.model_dir, ".")
    variables = [
        f"LAMBDA={folder / 'lambda'}",
        f"MODEL={folder / 'model.tar.gz'}",
        f"LAMBDA_PYTHON={sys.executable}",
    ]
    make("lambda-model", *variables, env=os.environ)
    return folder / "lambda", variables


def make(*arguments, env) -> str:
    done = subprocess.run(
        ["make", *arguments],
        cwd=ROOT,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def lay_out(lambda_model, tmp_path_factory):
    """What lies in /var/task."""

    def lay_out(with_model=True):
        folder = tmp_path_factory.mktemp("task") / "task"
        shutil.copytree(lambda_model[0] / "task", folder)
        if not with_model:
            shutil.rmtree(folder / "model")
        return folder

    return lay_out


class RuntimeApi(http.server.ThreadingHTTPServer):
    """Lambda's side: hands out events and takes answers, one at a time."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.events, self.answers = queue.Queue(), queue.Queue()

    def ask(self, event):
        """Return what the function answers, as (kind, content): of a response, or an error."""
        self.events.put(event)
        return self.answers.get(timeout=30)


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        assert self.path == "/2018-06-01/runtime/invocation/next"
        event = self.server.events.get()
        if event is None:
            return
        body = json.dumps(event).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Lambda-Runtime-Aws-Request-Id", "8476a536-e9f4-11e8-9739-2dfe598c3fcd")
        self.send_header("Lambda-Runtime-Deadline-Ms", str(int(1000 * time.time()) + 29_000))
        self.send_header("Lambda-Runtime-Invoked-Function-Arn", "arn:aws:lambda:r:1:function:f")
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self):
        content = json.loads(self.rfile.read(int(self.headers["Content-Length"])) or "null")
        self.send_response(202)
        self.send_header("Content-Length", "0")
        self.end_headers()
        self.server.answers.put((self.path.rpartition("/")[2], content))

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Start awslambdaric over a task folder; yields the API, the path of the log, the process."""
    if importlib.util.find_spec("awslambdaric") is None:
        if os.environ.get("REQUIRE_TOOLS") == "1":
            pytest.fail("awslambdaric is not installed")
        pytest.skip("awslambdaric is not installed")

    @contextmanager
    def start(
        folder,
        program="credit_logic.py",
        runner=(sys.executable, "-m", "awslambdaric"),
        **variables: str,
    ):
        log = tmp_path_factory.mktemp("log") / "log"
        environ = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.pathsep.join(
                path for path in sys.path if "site-packages" not in path
            ),
            "PYTHONDONTWRITEBYTECODE": "1",
            "OMP_NUM_THREADS": "1",
            "SAGEMAKER_PROGRAM": program,
            **variables,
        }
        with RuntimeApi() as api:
            threading.Thread(target=api.serve_forever, daemon=True).start()
            environ["AWS_LAMBDA_RUNTIME_API"] = f"127.0.0.1:{api.server_port}"
            command = [*runner, "app.handler"]
            with (
                log.open("wb") as stream,
                subprocess.Popen(
                    command, cwd=folder, env=environ, stdout=stream, stderr=subprocess.STDOUT
                ) as process,
            ):
                try:
                    yield api, log, process
                finally:
                    process.kill()
                    api.events.put(None)
            api.shutdown()

    return start


@pytest.fixture(scope="module")
def function(start, lay_out):
    with start(lay_out()) as (api, log, _):
        yield api, log


@pytest.fixture(scope="module")
def invoke(function):
    def invoke(event):
        kind, answer = function[0].ask(event)
        assert kind == "response", answer
        return answer

    return invoke


@pytest.fixture(scope="module")
def endpoint(serve, job):
    """The same model behind SageMaker's contract."""
    with serve(job.base, SAGEMAKER_PROGRAM="credit_logic.py") as endpoint:
        yield endpoint


# ---------------------------------------------------------------- the container image's way


@pytest.mark.parametrize("version", [1, 2, "alb", "albs"])
def test_answers_as_the_endpoint_does(invoke, endpoint, event, body_of, rows, version):
    body = json.dumps(rows[:3])
    expected = endpoint.invoke(body, JSON)
    answer = invoke(event(version, body, Content_Type=JSON))
    assert answer["statusCode"] == expected.status == 200
    if version == "albs":
        assert answer["multiValueHeaders"] == {"Content-Type": [JSON]}
    else:
        assert answer["headers"] == {"Content-Type": JSON}
    assert answer["isBase64Encoded"] is False
    assert body_of(answer) == expected.body
    assert expected.json.keys() == {"prediction", "shap_base", "shap_values", "scale"}
    bare = invoke(event(version, body, Accept="application/json; explain=false"))
    assert json.loads(body_of(bare)) == {"prediction": expected.json["prediction"]}


@pytest.mark.parametrize("version", [1, 2])
def test_bytes_come_and_go_as_base64(invoke, endpoint, event, body_of, tables, version):
    X = tables["test"].drop(columns=credit_data.TARGET).to_numpy(float)
    stream = io.BytesIO()
    np.save(stream, X)
    answer = invoke(event(version, stream.getvalue(), Content_Type=NPY, Accept=NPY))
    assert answer["statusCode"] == 200
    assert answer["isBase64Encoded"] is True
    p = np.load(io.BytesIO(body_of(answer)))
    expected = endpoint.invoke(stream.getvalue(), NPY, NPY)
    np.testing.assert_array_equal(p, np.load(io.BytesIO(expected.body)))
    text = invoke(event(version, stream.getvalue(), Content_Type=NPY, Accept=CSV))
    assert np.array_equal(np.loadtxt(text["body"].splitlines()), p)


BAD = {
    "not JSON": b"{age: 41}",
    "JSON encoded twice, but no JSON": b'"{"',
    "nested values": lambda rows: [rows[0] | {"age": {"years": 41}}],
    "strings for numbers": lambda rows: [rows[0], rows[1] | {"DebtRatio": "high"}],
    "empty list": b"[]",
    "no body": b"",
    "a column missing": lambda rows: [{k: v for k, v in rows[0].items() if k != "age"}],
    "a column extra": lambda rows: [rows[0] | {"iq": 100}],
    "a value out of range": lambda rows: [rows[0] | {"DebtRatio": 1e300}],
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("version", [1, 2])
def test_bad_input_is_refused_as_the_endpoint_refuses_it(
    invoke, endpoint, event, body_of, rows, name, version
):
    body = BAD[name] if isinstance(BAD[name], bytes) else json.dumps(BAD[name](rows)).encode()
    expected = endpoint.invoke(body, JSON)
    answer = invoke(event(version, body.decode(), Content_Type=JSON))
    assert answer["statusCode"] == expected.status == 400
    assert body_of(answer) == expected.body
    assert expected.json["error"]["type"] == "BadRequest"


def test_unknown_types_and_paths_are_refused_as_the_endpoint_does(
    invoke, endpoint, event, body_of, error_of
):
    row = ",".join("1" * 10)
    for method, path, kind, accept, status in (
        ("POST", "/invocations", "image/png", JSON, 415),
        ("POST", "/invocations", CSV, "image/png", 406),
        ("GET", "/invocations", JSON, JSON, 405),
        ("POST", "/", JSON, JSON, 404),
        ("GET", "/ping", JSON, JSON, 200),
    ):
        sent = event(2, row, method=method, path=path, Content_Type=kind, Accept=accept)
        expected = endpoint.request(method, path, row, Content_Type=kind, Accept=accept)
        answer = invoke(sent)
        assert answer["statusCode"] == expected.status == status
        if status == 404:  # the server knows a path more
            assert error_of(answer)["type"] == expected.json["error"]["type"]
        else:
            assert body_of(answer) == expected.body


@pytest.mark.parametrize("version", [1, 2, "alb", "albs"])
@pytest.mark.parametrize("before", ["", "/prod", "/v1/credit", "/"])
@pytest.mark.parametrize("after", ["", "/"])
def test_stages_base_paths_and_slashes_are_no_part_of_the_path(
    invoke, event, rows, version, before, after
):
    for method, path in (("GET", "/ping"), ("POST", "/invocations")):
        sent = event(version, json.dumps(rows[:1]), method=method, path=before + path + after)
        assert invoke(sent)["statusCode"] == 200


def test_a_direct_invocation_with_a_body_is_answered(invoke, endpoint, body_of, rows):
    expected = endpoint.invoke(json.dumps(rows[:2]), JSON).body
    for sent in ({"body": json.dumps(rows[:2])}, {"body": rows[:2]}, {"instances": rows[:2]}):
        answer = invoke(sent)
        assert (answer["statusCode"], body_of(answer)) == (200, expected)
    line = ",".join("" if value is None else str(value) for value in rows[0].values())
    assert body_of(invoke({"data": line})) == endpoint.invoke(line, CSV, JSON).body


def test_pages_of_other_origins_are_answered_where_that_is_set(start, lay_out, event, rows):
    with start(lay_out(), CORS_ORIGINS="https://shop.example") as (api, log, _):
        origin = {"Origin": "https://shop.example"}
        _, preflight = api.ask(event(2, method="OPTIONS", **origin))
        _, answer = api.ask(event(2, json.dumps(rows[:1]), **origin))
        _, refused = api.ask(event(2, "?", path="/nothing", **origin))
        lines = [line for line in log.read_text().splitlines() if '"method"' in line]
    assert [a["statusCode"] for a in (preflight, answer, refused)] == [204, 200, 404]
    for one in (preflight, answer, refused):
        assert one["headers"]["Access-Control-Allow-Origin"] == "https://shop.example"
    assert len(lines) == 3


@pytest.mark.parametrize("accept", [JSON, "application/json; explain=false", CSV, NPY])
def test_ten_thousand_rows_are_answered_through_both(
    invoke, endpoint, event, body_of, rows, accept
):
    body = json.dumps(rows * 25)
    answer = invoke(event(2, body, Accept=accept))
    assert answer["statusCode"] == 200
    assert body_of(answer) == endpoint.invoke(body, JSON, accept).body


def test_a_body_over_six_megabytes_is_refused(invoke, event, error_of):
    answer = invoke(event(2, "1" * (6 * 2**20 + 1), Content_Type=CSV))
    assert answer["statusCode"] == 413
    assert error_of(answer)["type"] == "PayloadTooLarge"
    assert "send fewer rows" in error_of(answer)["message"]


def test_an_answer_over_six_megabytes_is_refused(invoke, event, error_of, rows):
    X = [list(row.values()) for row in rows] * 60
    lines = "".join(",".join("" if x is None else f"{x:.4g}" for x in row) + "\n" for row in X)
    assert len(lines) < 6e6
    answer = invoke(event(2, lines, Content_Type=CSV))
    assert answer["statusCode"] == 413
    assert "send fewer rows" in error_of(answer)["message"]


def test_another_kind_of_event_is_named(invoke, error_of):
    answer = invoke({"Records": []})
    assert answer["statusCode"] == 400
    assert "not from API Gateway" in error_of(answer)["message"]


def test_every_request_leaves_one_line_in_the_log(invoke, function, event, rows):
    before = function[1].read_text()
    invoke(event(2, json.dumps(rows[:1])))
    [line] = function[1].read_text().removeprefix(before).splitlines()
    assert json.loads(line[line.index("{") :]).items() >= {"status": 200, "method": "POST"}.items()


# ---------------------------------------------------------------- starting, and failing


def test_a_cold_start_answers_the_first_request(start, lay_out, event, body_of, rows):
    begin = time.perf_counter()
    with start(lay_out()) as (api, _, _):
        kind, answer = api.ask(event(2, json.dumps(rows[:1])))
        cold = time.perf_counter() - begin
        assert (kind, answer["statusCode"]) == ("response", 200)
        begin = time.perf_counter()
        assert api.ask(event(2, json.dumps(rows[:1]))) == (kind, answer)
        warm = time.perf_counter() - begin
    print(f"cold start {cold:.2f} s, then {1e3 * warm:.1f} ms")
    assert cold < 10  # what Lambda gives to its init phase


def test_a_model_that_does_not_load_is_an_init_error(start, lay_out):
    with start(lay_out(with_model=False)) as (api, _, process):
        kind, error = api.answers.get(timeout=30)
        assert process.wait(10) == 1
    assert kind == "error"
    assert error["errorType"] == "FileNotFoundError"
    assert "model.json" in error["errorMessage"]


BROKEN = """
def model_fn(model_dir): return None
def input_fn(body, content_type): return body
def predict_fn(data, model): raise KeyError("a secret")
def output_fn(answer, accept): return answer, accept
"""


WHOLE = """
def model_fn(model_dir, context): return len(context.model_dir)
def transform_fn(model, body, content_type, accept, context):
    context.custom_attributes += "+seen"
    return f"{body.decode()} {content_type} {accept} {model > 0} {context.request_headers['x-id']}"
"""

ARITY = """
def model_fn(model_dir): return 2
def input_fn(body, content_type): return body.decode()
def predict_fn(data, model, context): return data * model + context.custom_attributes
def output_fn(answer, accept): return answer
"""


@pytest.mark.parametrize(
    ("hooks", "expected", "attributes"),
    [(WHOLE, "a,b text/csv text/plain True 7", "mine+seen"), (ARITY, "a,ba,bmine", "mine")],
    ids=["transform_fn", "arity"],
)
def test_hooks_are_called_as_the_server_calls_them(
    start, lay_out, event, serve, job, hooks, expected, attributes
):
    folder, name = lay_out(), "X-Amzn-SageMaker-Custom-Attributes"
    (folder / "code" / "hooks_logic.py").write_text(hooks)
    headers = {"Content_Type": CSV, "Accept": "text/plain", "X_Id": "7"}
    headers[name.replace("-", "_")] = "mine"
    with start(folder, "hooks_logic.py") as (api, _, _):
        _, answer = api.ask(event(2, "a,b", **headers))
    assert (answer["statusCode"], answer["body"]) == (200, expected), answer
    assert answer["headers"] == {"Content-Type": "text/plain", name: attributes}
    with serve(job.base, folder / "code", SAGEMAKER_PROGRAM="hooks_logic.py") as endpoint:
        same = endpoint.request("POST", "/invocations", "a,b", **headers)
    assert (same.body.decode(), same.content_type) == (expected, "text/plain")
    assert same.headers[name] == attributes


def test_an_error_in_the_model_is_a_500_and_the_next_request_is_answered(
    start, lay_out, event, error_of
):
    folder = lay_out()
    (folder / "code" / "broken_logic.py").write_text(BROKEN)
    with start(folder, "broken_logic.py") as (api, log, _):
        for version in (1, 2):
            kind, answer = api.ask(event(version, "[1]"))
            assert (kind, answer["statusCode"]) == ("response", 500)
            assert error_of(answer)["type"] == "InternalServerError"
            assert "secret" not in answer["body"]
        assert "a secret" in log.read_text()


@pytest.mark.docker
def test_the_image_answers_on_a_read_only_disk(
    start, lambda_model, endpoint, event, body_of, rows, python_image
):
    source, variables = lambda_model
    name = "credit-explainer-lambda:test"
    environment = {**os.environ, "PYTHON_IMAGE": python_image}
    make("lambda-image", *variables, f"LAMBDA_IMAGE={name}", env=environment)
    size = subprocess.check_output(["docker", "image", "inspect", "-f", "{{.Size}}", name])
    print(f"Lambda's image: {int(size) / 1e6:.0f} MB")
    sandbox = ("--read-only", "--user=993:990", "--cap-drop=ALL", "--network=host")
    runner = ("docker", "run", "--rm", "--init", *sandbox, "--env=AWS_LAMBDA_RUNTIME_API", name)
    with start(source, runner=runner) as (api, _, process):
        for version in (1, 2):
            kind, answer = api.ask(event(version, json.dumps(rows[:3]), Content_Type=JSON))
            assert (kind, answer["statusCode"]) == ("response", 200)
            # The image's Python and NumPy are others, and with them the last digit.
            here = json.loads(endpoint.invoke(json.dumps(rows[:3]), JSON).body)
            there = json.loads(body_of(answer))
            assert there["prediction"] == pytest.approx(here["prediction"], rel=1e-12)
            assert there["shap_values"].keys() == here["shap_values"].keys()
            for name, values in here["shap_values"].items():
                assert there["shap_values"][name] == pytest.approx(values, abs=1e-12)
        process.terminate()  # docker passes it on, and removes the container
        process.wait(30)


# ---------------------------------------------------------------- Zappa's way


@pytest.fixture(scope="module")
def package(lambda_model, tmp_path_factory):
    """The zip of `make lambda-package`, unpacked; AWS and the network are out of reach for it."""
    source, variables = lambda_model
    make(source / "ready", *variables, env=os.environ)
    offline = {
        "HOME": str(source),
        "PATH": os.environ["PATH"],
        "AWS_EC2_METADATA_DISABLED": "true",
        **dict.fromkeys(("http_proxy", "https_proxy"), "http://127.0.0.1:9"),
    }
    log = make("lambda-package", *variables, env=offline)
    folder = tmp_path_factory.mktemp("zappa")
    with zipfile.ZipFile(source / "production.zip") as archive:
        archive.extractall(folder / "task")
        unzipped = sum(file.file_size for file in archive.infolist())
    size = (source / "production.zip").stat().st_size
    print(f"Zappa's package: {size / 1e6:.1f} MB, unzipped {unzipped / 1e6:.0f} MB")
    assert size < 50e6, log  # what Lambda takes without S3
    assert unzipped < 250e6
    (folder / "runtime").mkdir()
    for name in ("boto3", "botocore", "s3transfer"):  # Lambda's own runtime has them
        [site] = (source / "venv" / "lib").glob("python*/site-packages")
        (folder / "runtime" / name).symlink_to(site / name)
    return folder


def test_zappas_handler_answers_both_versions(package, event, body_of, endpoint, rows):
    body, bad = json.dumps(rows[:3]), json.dumps([{"age": 41}])
    stream = io.BytesIO()
    np.save(stream, np.ones((2, 10)))
    events = [
        event(version, sent, Content_Type=kind, Accept=accept)
        for version in (1, 2)
        for sent, kind, accept in (
            (body, JSON, JSON),
            (bad, JSON, JSON),
            (stream.getvalue(), NPY, NPY),
        )
    ]
    script = """if True:
        import json, sys
        from handler import lambda_handler
        print("ANSWERS", json.dumps([lambda_handler(e, None) for e in json.load(sys.stdin)]))
        print("LOADED", sorted({"shap", "numba", "sklearn", "scipy"} & sys.modules.keys()))
    """
    done = subprocess.run(
        [sys.executable, "-S", "-c", script],  # of installed packages, those of the zip alone
        cwd=package / "task",
        env={
            "PYTHONPATH": os.pathsep.join([str(package / "task"), str(package / "runtime")]),
            "PYTHONDONTWRITEBYTECODE": "1",
        },
        input=json.dumps(events),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    printed = dict(line.split(" ", 1) for line in done.stdout.splitlines() if " " in line)
    assert printed["LOADED"] == "[]"
    answers = json.loads(printed["ANSWERS"])
    for start in (0, 3):
        good, refused, binary = answers[start : start + 3]
        assert good["statusCode"] == 200
        assert body_of(good) == endpoint.invoke(body, JSON).body
        assert refused["statusCode"] == 400
        assert body_of(refused) == endpoint.invoke(bad, JSON).body
        assert binary["isBase64Encoded"] is True
        assert body_of(binary) == endpoint.invoke(stream.getvalue(), NPY, NPY).body


def refuse_model(folder, archive) -> str:
    """Run `make lambda-model` on an archive that it is to refuse; return its last lines."""
    done = subprocess.run(
        ["make", "lambda-model", f"LAMBDA={folder / 'lambda'}", f"MODEL={archive}"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 2, done.stdout
    assert not (folder / "lambda").exists()  # so that nothing goes on from there
    return done.stdout


def test_a_model_that_will_not_start_is_refused_at_build(job, tmp_path):
    with tarfile.open(tmp_path / "half.tar.gz", "w:gz") as archive:
        for name in ("model.json", "model.joblib"):
            archive.add(job.model_dir / name, name)
    said = refuse_model(tmp_path, tmp_path / "half.tar.gz")
    assert "explainer.npz" in said
    assert f"{tmp_path / 'half.tar.gz'} does not start inside Lambda" in said
    with tarfile.open(tmp_path / "none.tar.gz", "w:gz") as archive:
        archive.add(job.model_dir / "model.joblib", "model.joblib")
    assert "model.json" in refuse_model(tmp_path, tmp_path / "none.tar.gz")


def test_make_says_what_comes_first(tmp_path):
    done = subprocess.run(
        ["make", "lambda-package", f"LAMBDA={tmp_path}"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "run 'make lambda-model MODEL=...' first" in done.stdout
