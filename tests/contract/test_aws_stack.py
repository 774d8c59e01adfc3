"""The program under AWS's own serving stack, which knows its four hooks and nothing else of us.

AWS's scikit-learn image serves with `sagemaker_containers` in Flask under gunicorn and gevent.
The same releases run here, in front of the same program and model as the calls to its hooks that
they are compared with. They lie in build/, in a folder of their own: Flask 1 suits nobody else.
"""

import hashlib
import http.client
import io
import json
import os
import subprocess
import sys
import tempfile
from contextlib import closing, suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

import model_logic

ROOT = Path(__file__).parents[2]

# What the image has, as far as the stack imports it.
PINS = """
sagemaker-containers==2.8.6.post2
flask==1.1.1
werkzeug==0.15.6
jinja2==2.11.3
itsdangerous==2.0.1
markupsafe==2.0.1
protobuf==3.20.2
setuptools==80.9.0
gunicorn==23.0.0
"""

# The image's serving module in short: the hooks become a Transformer, which becomes a Worker.
SERVING = """
import setuptools  # gives Python 3.12 the distutils that the stack imports
import importlib

from sagemaker_containers.beta.framework import env, transformer, worker

module_name = env.ServingEnv().module_name
program = importlib.import_module(module_name)
hooks = ("model_fn", "input_fn", "predict_fn", "output_fn")
transform = transformer.Transformer(**{name: getattr(program, name) for name in hooks})
transform.initialize()
app = worker.Worker(transform_fn=transform.transform, module_name=module_name)
"""

X = np.array([[1.0], [20.0], [112.5], [250.0], [300.0]])


@pytest.fixture(scope="session")
def releases() -> Path:
    """A folder with AWS's releases, to go on the path before everything else."""
    key = hashlib.sha256(f"{PINS}{SERVING}{sys.version}".encode()).hexdigest()[:12]
    folder = ROOT / "build" / f"aws-stack-{key}"
    if not folder.exists():
        folder.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            install(Path(scratch, "stack"))
            Path(scratch, "stack").replace(folder)
    return folder


def install(folder: Path) -> None:
    pins = folder.with_name("pins.txt")
    pins.write_text(PINS)
    result = subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
            *("--no-deps", "--no-cache-dir", "--target", str(folder), "-r", str(pins)),
        ],
        # The stack compiles a helper for MPI, which serving doesn't use.
        env={**os.environ, "CC": "true"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    # The one line that AWS patches too, for Python 3.10 and later.
    mapping = folder / "sagemaker_containers" / "_mapping.py"
    text = mapping.read_text()
    assert "collections.Mapping" in text
    mapping.write_text(text.replace("collections.Mapping", "collections.abc.Mapping"))
    (folder / "aws_serving.py").write_text(SERVING)


class Stack(NamedTuple):
    """The running stack's port on loopback."""

    port: int

    def request(self, method: str, path: str, *body_and_headers) -> tuple[int, str, bytes]:
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)) as link:
            link.request(method, path, *body_and_headers)
            answer = link.getresponse()
            return answer.status, answer.headers.get_content_type(), answer.read()

    def invoke(self, body: bytes, content_type: str, accept: str) -> tuple[int, str, bytes]:
        headers = {"Content-Type": content_type, "Accept": accept}
        return self.request("POST", "/invocations", body, headers)

    def is_up(self) -> bool:
        with suppress(OSError):
            return self.request("GET", "/ping")[0] == 200
        return False


@pytest.fixture(scope="session")
def stack(releases, base, wait_until, free_port):
    """The stack with one worker, as AWS's image starts it."""
    port = free_port()
    environment = {
        "PYTHONPATH": f"{releases}{os.pathsep}{base / 'code'}",
        "SAGEMAKER_BASE_DIR": str(base),
        "SAGEMAKER_PROGRAM": "model_logic.py",
        "SAGEMAKER_SUBMIT_DIRECTORY": str(base / "code"),
    }
    log = base / "log.txt"
    with log.open("wb") as output:
        server = subprocess.Popen(
            [
                *(sys.executable, "-m", "gunicorn", "--worker-class", "gevent", "--workers", "1"),
                *("--bind", f"127.0.0.1:{port}", "aws_serving:app"),
            ],
            cwd=base,
            env={**os.environ, **environment},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_until(lambda: Stack(port).is_up() or server.poll() is not None, 60)
        assert server.poll() is None, log.read_text()
        yield Stack(port)
    finally:
        server.terminate()
        server.wait(timeout=30)


def to_npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


@pytest.fixture(scope="session")
def expected(base) -> dict:
    """What the hooks answer when nothing stands between them and the caller."""
    model = model_logic.model_fn(str(base / "model"))
    table = model_logic.input_fn(to_npy(X), "application/x-npy")
    answer = model_logic.predict_fn(table, model)
    body, _ = model_logic.output_fn(answer, "application/json; explain=true")
    return json.loads(body)


def assert_equal(actual, expected) -> None:
    np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-12)


def test_ping(stack):
    assert stack.request("GET", "/ping")[0] == 200


REQUESTS = {
    "application/x-npy": to_npy(X),
    "text/csv": b"1\n20\n112.5\n250\n300\n",
    "application/json": b'{"instances": [[1], [20], [112.5], [250], [300]]}',
    "application/jsonlines": b"".join(b'{"x0": %f}\n' % x for x in X[:, 0]),
}


@pytest.mark.parametrize("content_type", REQUESTS)
def test_every_request_type_is_read(stack, expected, content_type):
    status, _, body = stack.invoke(REQUESTS[content_type], content_type, "application/json")
    assert status == 200, body
    assert_equal(json.loads(body)["prediction"], expected["prediction"])


ANSWERS = {
    "application/x-npy": lambda body: np.load(io.BytesIO(body), allow_pickle=False),
    "text/csv": lambda body: [float(line) for line in body.splitlines()],
    "application/json": lambda body: json.loads(body)["prediction"],
    "application/jsonlines": lambda body: [
        json.loads(line)["prediction"] for line in body.splitlines()
    ],
}


@pytest.mark.parametrize("accept", ANSWERS)
def test_every_answer_type_is_written(stack, expected, accept):
    status, content_type, body = stack.invoke(to_npy(X), "application/x-npy", accept)
    assert (status, content_type) == (200, accept), body
    assert_equal(ANSWERS[accept](body), expected["prediction"])


def test_explanation_arrives_whole(stack, expected):
    accept = "application/json; explain=true"
    _, content_type, body = stack.invoke(REQUESTS["application/json"], "application/json", accept)
    answer = json.loads(body)
    assert content_type == "application/json"
    assert answer.keys() == expected.keys() == {"prediction", "shap_base", "shap_values", "scale"}
    assert_equal(answer["shap_base"], expected["shap_base"])
    assert_equal(answer["shap_values"]["x0"], expected["shap_values"]["x0"])
    assert_equal(answer["shap_base"] + np.array(answer["shap_values"]["x0"]), answer["prediction"])


def test_client_without_a_preference_gets_json(stack, expected):
    _, content_type, body = stack.invoke(REQUESTS["text/csv"], "text/csv", "*/*")
    assert content_type == "application/json"
    assert_equal(json.loads(body)["prediction"], expected["prediction"])


def test_refused_request_is_no_answer(stack):
    # 500 is all that this stack knows; under ours it is 400.
    assert stack.invoke(b"no array", "application/x-npy", "application/json")[0] == 500
