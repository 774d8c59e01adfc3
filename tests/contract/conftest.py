"""Where the server under test comes from: a URL, an image, or this checkout in process mode.

    pytest tests/contract/test_contract.py --url http://127.0.0.1:8080
    pytest tests/contract/test_contract.py --image IMAGE --model FOLDER

A container that is not this project's wants a request of its own, too: `--body FILE` and
`--content-type TYPE`.
"""

import contextlib
import http.client
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import pytest


def pytest_addoption(parser):
    group = parser.getgroup("contract", "the server under test")
    group.addoption("--url", help="a server that runs already")
    group.addoption("--image", help="an image, to be started as SageMaker starts it")
    group.addoption("--model", type=Path, help="what goes to /opt/ml/model of the image")
    group.addoption("--body", type=Path, help="a file with a request that the model can answer")
    group.addoption("--content-type", default="text/csv", help="the type of --body")


def option(config, name: str):
    """Return an option; in a run of all tests this file is read too late to declare any."""
    return config.getoption(name, default=None)


class Response(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self):
        return json.loads(self.body)


class Server:
    """A running server, whatever runs it."""

    def connect(self) -> socket.socket:
        """Open a connection."""
        raise NotImplementedError

    def stop(self) -> tuple[float, int]:
        """Stop it as SageMaker does; return the seconds that took and the exit code."""
        raise NotImplementedError

    def request(self, method: str, path: str, body=None, headers=None, **how) -> Response:
        """Send one request on a connection of its own."""
        with contextlib.closing(self.connect()) as connection:
            return self.request_on(connection, method, path, body, headers, **how)

    @staticmethod
    def request_on(connection, method, path, body=None, headers=None, **how) -> Response:
        """Send one request on a connection that is open."""
        link = http.client.HTTPConnection("localhost")
        link.sock = connection
        link.request(method, path, body, headers or {}, **how)
        answer = link.getresponse()
        names = {name.lower(): value for name, value in answer.getheaders()}
        return Response(answer.status, names, answer.read())

    def is_up(self) -> bool:
        with contextlib.suppress(OSError, http.client.HTTPException):
            return self.request("GET", "/ping").status == 200
        return False


def open_connection(host: str, port: int) -> socket.socket:
    connection = socket.create_connection((host, port), timeout=60)
    # Or a body that follows its headers would wait for the system's delayed acknowledgement.
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


class RemoteServer(Server):
    """A server at an address."""

    def __init__(self, host: str, port: int):
        self.host, self.port = host, port

    def connect(self) -> socket.socket:
        return open_connection(self.host, self.port)


class ProcessServer(RemoteServer):
    """The ``serve`` of this checkout."""

    def __init__(self, endpoint):
        super().__init__(endpoint.host, endpoint.port)
        self._process = endpoint.process

    @property
    def pid(self) -> int:
        return self._process.pid

    def stop(self) -> tuple[float, int]:
        start = time.monotonic()
        self._process.terminate()
        code = self._process.wait(35)
        return time.monotonic() - start, code


# ---------------------------------------------------------------- images

SANDBOX = ("--network=none", "--read-only", "--user=1000:1000", "--cap-drop=ALL", "--tmpfs=/tmp")

# A container without a network is reached from within: this carries one connection, and says
# with its first byte that it is open.
RELAY = """
import os, socket, sys, threading
server = socket.create_connection(("127.0.0.1", 8080))
os.write(1, b"+")
def send():
    while data := os.read(0, 65536):
        server.sendall(data)
    server.shutdown(socket.SHUT_WR)
threading.Thread(target=send, daemon=True).start()
while data := server.recv(65536):
    os.write(1, data)
"""


def docker(*arguments: str, check: bool = True) -> subprocess.CompletedProcess:
    result = subprocess.run(
        ["docker", *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert not check or result.returncode == 0, result.stdout
    return result


class ContainerServer(Server):
    """``docker run IMAGE serve``."""

    def __init__(self, image: str, options: tuple[str, ...], port: int = 8080):
        self._sandboxed = "--network=none" in options
        self._relays: list[subprocess.Popen] = []
        publish = () if self._sandboxed else (f"--publish=127.0.0.1::{port}",)
        ran = docker("run", "--detach", *publish, *options, image, "serve")
        self._name = ran.stdout.strip().splitlines()[-1]
        if not self._sandboxed:
            address = docker("port", self._name, f"{port}/tcp").stdout.split()[0]
            self._port = int(address.rpartition(":")[2])

    def connect(self) -> socket.socket:
        if not self._sandboxed:
            return open_connection("127.0.0.1", self._port)
        ours, theirs = socket.socketpair()
        ours.settimeout(60)
        command = ["docker", "exec", "--interactive", self._name, "python3", "-c", RELAY]
        with theirs:
            relay = subprocess.Popen(
                command, stdin=theirs, stdout=theirs, stderr=subprocess.DEVNULL
            )
        self._relays.append(relay)
        if not ours.recv(1):
            ours.close()
            raise ConnectionError("the server does not accept connections")
        return ours

    def stop(self) -> tuple[float, int]:
        start = time.monotonic()
        docker("stop", "-t", "35", self._name)
        seconds = time.monotonic() - start
        return seconds, int(docker("wait", self._name).stdout)

    def wait(self) -> tuple[int, str]:
        """Wait for its end; return its exit code and its log."""
        code = int(docker("wait", self._name).stdout)
        return code, docker("logs", self._name).stdout

    @property
    def pid(self) -> int:
        return int(docker("inspect", "--format={{.State.Pid}}", self._name).stdout)

    @property
    def ended(self) -> bool:
        state = docker("inspect", "--format={{.State.Status}}", self._name).stdout
        return state.strip() == "exited"

    @property
    def log(self) -> str:
        return docker("logs", self._name).stdout

    def remove(self) -> None:
        docker("rm", "--force", "--volumes", self._name)
        for relay in self._relays:  # without a container they end
            relay.wait()


# ---------------------------------------------------------------- what is under test


def pytest_generate_tests(metafunc):
    """Run everything against what was asked for; without a word, against process mode."""
    if "kind" in metafunc.fixturenames:
        kinds = ["process"]
        if option(metafunc.config, "url"):
            kinds = ["url"]
        elif option(metafunc.config, "image"):
            kinds = ["image", "sandbox"]
        metafunc.parametrize("kind", kinds, scope="session")


@pytest.fixture(scope="session")
def base(training_job, gauss3_split) -> Path:
    """An /opt/ml tree with the program and a model of Gauss3."""
    csv = "".join(f"{x},{y}\n" for x, y in gauss3_split.train)
    job = training_job({"train/gauss3.csv": csv}).run()
    assert job.exit_code == 0, job.log
    return job.base


@pytest.fixture(scope="session")
def start(request, kind, wait_until):
    """Start a server of its own for a test that stops it or wants it otherwise."""

    @contextlib.contextmanager
    def start(port: int = 8080, **variables: str) -> Iterator[Server]:
        if kind == "url":
            pytest.skip("a server at a URL is not ours to start")
        if kind == "process":
            base, serve = (request.getfixturevalue(name) for name in ("base", "serve"))
            with serve(base, **variables) as endpoint:
                yield ProcessServer(endpoint)
            return
        options = [f"--env={name}={value}" for name, value in variables.items()]
        if model := option(request.config, "model"):
            options.append(f"--volume={model.resolve()}:/opt/ml/model:ro")
        options += SANDBOX if kind == "sandbox" else ()
        server = ContainerServer(option(request.config, "image"), tuple(options), port)
        try:
            wait_until(lambda: server.is_up() or server.ended, 120)
            assert not server.ended, server.log
            yield server
        finally:
            server.remove()

    return start


@pytest.fixture(scope="session")
def server(request, kind, start) -> Iterator[Server]:
    """The server that most tests share."""
    if kind == "url":
        url = urlsplit(option(request.config, "url"))
        yield RemoteServer(url.hostname, url.port or 80)
    else:
        with start() as server:
            yield server


@pytest.fixture(scope="session")
def fails(request, kind, tmp_path_factory):
    """Start a server without a model; return its exit code and what it said."""

    def fails() -> tuple[int, str]:
        if kind == "url":
            pytest.skip("a server at a URL is not ours to start")
        empty = tmp_path_factory.mktemp("empty")
        if kind == "process":
            (empty / "model").mkdir()
            environ = {
                **os.environ,
                "SAGEMAKER_BASE_DIR": str(empty),
                "SAGEMAKER_PROGRAM": "model_logic.py",
                "SAGEMAKER_SUBMIT_DIRECTORY": str(request.getfixturevalue("base") / "code"),
            }
            command = [Path(sys.executable).parent / "serve"]
            ended = subprocess.run(
                command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
            return ended.returncode, ended.stdout
        options = (f"--volume={empty}:/opt/ml/model:ro", *(SANDBOX if kind == "sandbox" else ()))
        server = ContainerServer(option(request.config, "image"), options)
        try:
            return server.wait()
        finally:
            server.remove()

    return fails


class Sample(NamedTuple):
    """A request that the model can answer."""

    body: bytes
    content_type: str

    @property
    def headers(self) -> dict[str, str]:
        return {"Content-Type": self.content_type}


@pytest.fixture(scope="session")
def sample(request) -> Sample:
    file = option(request.config, "body")
    if file is None:
        return Sample(b"1\n20\n112.5\n", "text/csv")
    return Sample(file.read_bytes(), option(request.config, "content_type"))
