import http.client
import importlib.util
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import requests

ROOT = Path(__file__).parents[1]
SCRIPTS = Path(sys.executable).parent


def pytest_collection_modifyitems(items):
    """Begin with those in images, which take longest."""
    items.sort(key=lambda item: not item.nodeid.startswith("tests/image/"))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Have processes share the tests by file; those in images share what one process built."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            image = "tests/image/"
            return image if nodeid.startswith(image) else nodeid.partition("::")[0]

    return ByFile(config, log)


class Split(NamedTuple):
    """A train/test split; rows of the tables are features, then the target."""

    train: np.ndarray
    test: np.ndarray


@pytest.fixture(scope="session")
def gauss3_split():
    """NIST's Gauss3 as the notebook splits it: a quarter for testing, RandomState(42)."""
    y, x = np.loadtxt(ROOT / "data" / "Gauss3.dat", skiprows=60, unpack=True)
    shuffled = np.random.RandomState(42).permutation(len(x))
    n_test = -(-len(x) // 4)
    table = np.column_stack([x, y])
    return Split(train=table[shuffled[n_test:]], test=table[shuffled[:n_test]])


def _environ(base: Path, **variables: str) -> dict[str, str]:
    return {
        **os.environ,
        "SAGEMAKER_BASE_DIR": str(base),
        "SAGEMAKER_PROGRAM": "model_logic.py",
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
        **variables,
    }


class Zygote:
    """Runs programs as the toolkit does, see zygote.py, which the first of them starts."""

    def __init__(self):
        self._process: subprocess.Popen | None = None

    def run(self, program: Path, environ: dict[str, str], log: Path) -> int:
        """Run a program; return its exit code."""
        if self._process is None:
            command = [sys.executable, Path(__file__).with_name("zygote.py")]
            environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
            self._process = subprocess.Popen(
                command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
        task = {"program": str(program), "environ": environ, "log": str(log)}
        self._process.stdin.write(json.dumps(task) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def close(self) -> None:
        if self._process is not None:
            self._process.stdin.close()
            self._process.wait(10)
            self._process.stdout.close()


class TrainingJob:
    """A training job in a private /opt/ml tree: the real ``train``, or its program alone."""

    def __init__(
        self,
        base: Path,
        files: dict[str, bytes | str],
        hyperparameters: dict,
        program: str,
        zygote: Zygote,
    ):
        self.base, self.model_dir, self._program = base, base / "model", program
        self._zygote = zygote
        shutil.copytree(ROOT / "code", base / "code", ignore=shutil.ignore_patterns("__pycache__"))
        for folder in ("input/config", "input/data", "model", "output/data"):
            (base / folder).mkdir(parents=True)
        for name, content in files.items():
            path = base / "input" / "data" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        self.configure("hyperparameters", hyperparameters)
        channels = {name.partition("/")[0]: {"TrainingInputMode": "File"} for name in files}
        self.configure("inputdataconfig", channels)
        self.configure("resourceconfig", {"current_host": "localhost", "hosts": ["localhost"]})

    def configure(self, name: str, content: dict) -> None:
        (self.base / "input" / "config" / f"{name}.json").write_text(json.dumps(content))

    def _environ(self) -> dict[str, str]:
        return _environ(
            self.base,
            SAGEMAKER_PROGRAM=self._program,
            SAGEMAKER_SUBMIT_DIRECTORY=str(self.base / "code"),
            SAGEMAKER_TRAINING_MODULE="model_server.training:main",
        )

    def start(self) -> subprocess.Popen:
        environ = self._environ()
        if importlib.util.find_spec("gethostname") is None:  # the toolkit's helper for MPI
            (self.base / "code" / "gethostname.py").touch()
            environ["PYTHONPATH"] = str(self.base / "code")
        return subprocess.Popen(
            [SCRIPTS / "train"],
            env=environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self) -> "TrainingJob":
        with self.start() as process:
            self.log, _ = process.communicate(timeout=60)
        self.exit_code = process.returncode
        return self

    def run_program(self) -> "TrainingJob":
        """Run what ``train`` would start, in a tenth of the time."""
        log = self.base / "log"
        program = self.base / "code" / self._program
        self.exit_code = self._zygote.run(program, self._environ(), log)
        self.log = log.read_text()
        return self

    @property
    def failure(self) -> str:
        return (self.base / "output" / "failure").read_text()


@pytest.fixture(scope="session")
def zygote():
    zygote = Zygote()
    yield zygote
    zygote.close()


@pytest.fixture(scope="session")
def training_job(tmp_path_factory, zygote):
    """Lay out a job: files by channel/name, and hyperparameters as their JSON file has them."""

    def lay_out(files, hyperparameters=None, program="model_logic.py") -> TrainingJob:
        base = tmp_path_factory.mktemp("job") / "ml"
        return TrainingJob(base, files, hyperparameters or {}, program, zygote)

    return lay_out


class Response(NamedTuple):
    status: int
    content_type: str
    body: bytes
    headers: Mapping[str, str]

    @property
    def json(self):
        return json.loads(self.body)


class Endpoint:
    """A running ``serve``."""

    def __init__(self, process: subprocess.Popen, host: str, port: int, log: Path):
        self.process, self.host, self.port, self._log = process, host, port, log

    def request(self, method: str, path: str, body=None, **headers: str) -> Response:
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        with closing(http.client.HTTPConnection(self.host, self.port, timeout=30)) as link:
            chunked = headers.get("Transfer-Encoding") == "chunked"
            link.request(method, path, body, headers, encode_chunked=chunked)
            answer = link.getresponse()
            headers = answer.headers
            return Response(answer.status, headers["Content-Type"], answer.read(), headers)

    def invoke(self, body, content_type=None, accept=None) -> Response:
        headers = {"Content-Type": content_type, "Accept": accept}
        return self.request(
            "POST", "/invocations", body, **{k: v for k, v in headers.items() if v}
        )

    def is_up(self) -> bool:
        try:
            return self.request("GET", "/ping").status == 200
        except OSError:
            return False

    @property
    def log(self) -> str:
        return self._log.read_text()

    def figure(self, name: str) -> float:
        text = self.request("GET", "/metrics").body.decode()
        return float(re.search(rf"^model_server_{name} (.+)$", text, re.MULTILINE)[1])


@pytest.fixture(scope="session")
def wait_until():
    """Wait for a condition, not for a time."""

    def wait(condition, seconds=20.0):
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "the condition never came true"
            time.sleep(0.01)

    return wait


@pytest.fixture(scope="session")
def free_port():
    """Find a port of loopback that nobody listens on."""

    def find() -> int:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return probe.getsockname()[1]

    return find


@pytest.fixture(scope="session")
def serve(tmp_path_factory, wait_until, free_port):
    """Start the real ``serve`` on a free port of loopback; SIGTERM must end it with code 0."""

    @contextmanager
    def start(base: Path, code_dir: Path = ROOT / "code", prefix=(), **variables: str):
        port = free_port()
        host = variables.setdefault("MODEL_SERVER_HOST", "127.0.0.1")
        environ = _environ(
            base,
            SAGEMAKER_SUBMIT_DIRECTORY=str(code_dir),
            SAGEMAKER_BIND_TO_PORT=str(port),
            **variables,
        )
        log = tmp_path_factory.mktemp("serve") / "log"
        with (
            log.open("wb") as stream,
            subprocess.Popen(
                [*prefix, SCRIPTS / "serve"], env=environ, stdout=stream, stderr=subprocess.STDOUT
            ) as process,
        ):
            endpoint = Endpoint(process, host, port, log)
            try:
                wait_until(lambda: endpoint.is_up() or process.poll() is not None)
                assert process.poll() is None, endpoint.log
                yield endpoint
                process.terminate()
                assert process.wait(20) == 0
            finally:
                process.kill()

    return start


@pytest.fixture
def moto_url():
    """AWS's API on loopback, where nothing has been made yet."""
    from moto.server import ThreadedMotoServer  # takes a second

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    requests.post(f"http://{host}:{port}/moto-api/reset")
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def aws(moto_url, monkeypatch):
    """The same, as the AWS of this process and of those that it starts."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL", moto_url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    return moto_url


@pytest.fixture(scope="session")
def shap():
    """Import the library, which is the oracle of our own explanations."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it colours its plots in ways that matplotlib deprecates
        try:
            import shap
        except ImportError:
            if os.environ.get("REQUIRE_TOOLS") == "1":
                pytest.fail("shap is not installed")
            pytest.skip("shap is not installed")
    return shap


@pytest.fixture(scope="module")
def browser():
    """Real Chromium, Debian's, driven by Playwright; closed with the module, as is its loop."""
    found = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
    if found is None:
        if os.environ.get("REQUIRE_BROWSER") == "1":
            pytest.fail("chromium is not installed")
        pytest.skip("chromium is not installed")
    from playwright.sync_api import sync_playwright

    # Chromium has no sandbox for root.
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser):
    """Open a page; it fails the test if it asks the network for anything, or reports an error."""
    contexts = []

    def open_page(url, *, width=1280, locale="en-US", wanted=()):
        context = browser.new_context(
            viewport={"width": width, "height": 900}, locale=locale, timezone_id="UTC"
        )
        contexts.append(context)
        page = context.new_page()
        page.problems = []
        page.on("pageerror", lambda error: page.problems.append(str(error)))
        page.on("console", lambda line: page.problems.append(line.text))
        # A blob is a file that the page itself offers for saving.
        own = (url.split("#")[0], "blob:", *wanted)
        page.on(
            "request",
            lambda request: request.url.startswith(own) or page.problems.append(request.url),
        )
        page.goto(url)
        return page

    yield open_page
    for context in contexts:
        assert [problem for page in context.pages for problem in page.problems] == []
        context.close()


@pytest.fixture(scope="session")
def find_violations():
    """Run axe-core on a page, in both colour schemes; the same as a screen reader's user would."""
    from axe_playwright_python.sync_playwright import Axe

    def find(page):
        found = []
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            result = Axe().run(page)
            found += [
                (scheme, each["id"], node["html"])
                for each in result.response["violations"]
                for node in each["nodes"]
            ]
        return found

    return find


# ---- Docker ------------------------------------------------------------------------------------


def need(there: object, what: str) -> None:
    """Skip the test for want of something, or fail it where nothing may be wanting."""
    if there:
        return
    if os.environ.get("REQUIRE_DOCKER") == "1":
        pytest.fail(f"{what}, and REQUIRE_DOCKER=1")
    pytest.skip(what)


def run_docker(*arguments: str, check: bool = True, **options) -> subprocess.CompletedProcess:
    """Run a docker command; its stdout and stderr come back as one text."""
    result = subprocess.run(
        ["docker", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        **{"text": True, "timeout": 600, **options},
    )
    assert not check or result.returncode == 0, result.stdout
    return result


@pytest.fixture(scope="session", name="need")
def _need():
    return need


@pytest.fixture(scope="session")
def docker():
    """Run docker commands, where there is an engine."""
    need(shutil.which("docker"), "Docker is not installed")
    need(run_docker("version", check=False).returncode == 0, "no Docker engine answers")
    return run_docker


@pytest.fixture(scope="session")
def python_image(docker):
    """Return Python's image, on which the others are built."""
    name = os.environ.get("PYTHON_IMAGE", "python:3.12-slim")
    there = (("image", "inspect", name), ("pull", "--quiet", name))
    found = any(docker(*how, check=False).returncode == 0 for how in there)
    need(found, f"{name} is neither here nor can it be pulled")
    return name
