"""Docker, the images under test, and jobs laid out as SageMaker lays them out.

The images are built once a session. Their names are fixed, so that Docker's layer cache makes the
next session's build a matter of seconds.
"""

import contextlib
import http.client
import json
import os
import shutil
import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def containers(docker):
    """Start containers in the background that do not outlive the session."""
    names = []

    def start(*arguments: str) -> str:
        names.append(f"gam-model-test-{uuid.uuid4().hex[:12]}")
        docker("run", "--detach", "--name", names[-1], *arguments)
        return names[-1]

    yield start
    if names:
        docker("rm", "--force", "--volumes", *names)


# ---- images ------------------------------------------------------------------------------------


class Build(NamedTuple):
    """An image and what Docker said while it made it."""

    name: str
    log: str


@pytest.fixture(scope="session")
def build(docker) -> Callable[..., Build]:
    def build(name: str, *arguments: str, **options) -> Build:
        command = ("build", "--platform", "linux/amd64", "--tag", name, *arguments)
        environment = {**os.environ, "BUILDKIT_PROGRESS": "plain"}
        return Build(name, docker(*command, env=environment, **options).stdout)

    return build


@pytest.fixture(scope="session")
def base_build(build, python_image) -> Build:
    argument = f"PYTHON_IMAGE={python_image}"
    return build("gam-model-test-base", "--build-arg", argument, str(ROOT / "container" / "base"))


@pytest.fixture(scope="session")
def build_on(build) -> Callable[[str, str], Build]:
    """Build the image on a base."""

    def build_on(base: str, name: str) -> Build:
        file = str(ROOT / "container" / "Dockerfile")
        return build(name, "--file", file, "--build-arg", f"BASE_IMAGE={base}", str(ROOT))

    return build_on


@pytest.fixture(scope="session")
def image_build(base_build, build_on) -> Build:
    return build_on(base_build.name, "gam-model-test")


@pytest.fixture(scope="session")
def image(image_build) -> str:
    return image_build.name


# ---- jobs --------------------------------------------------------------------------------------


class Job:
    """A training job's part of /opt/ml: Gauss3 in two channels of CSV files without a header."""

    def __init__(self, folder: Path, split):
        self.folder, self.model, self.output = folder, folder / "model", folder / "output"
        for name in ("input/config", "input/data/train", "input/data/test", "model", "output"):
            (folder / name).mkdir(parents=True)
        for written in (self.model, self.output):  # by whatever user the container has
            written.chmod(0o777)
        for channel, rows in split._asdict().items():
            np.savetxt(folder / "input/data" / channel / "gauss3.csv", rows, "%.10g", ",")
        file_mode = {"TrainingInputMode": "File", "S3DistributionType": "FullyReplicated"}
        host = {"current_host": "algo-1", "hosts": ["algo-1"], "network_interface_name": "eth0"}
        self.configure("inputdataconfig", {"train": file_mode, "test": file_mode})
        self.configure("resourceconfig", host)
        self.configure("hyperparameters", {"df": "15", "alpha": '"1.0"'})

    def configure(self, name: str, content: dict) -> None:
        (self.folder / "input/config" / f"{name}.json").write_text(json.dumps(content))

    @property
    def options(self) -> list[str]:
        """What ``docker run`` needs to know of the job."""
        mounts = [f"--volume={self.folder / n}:/opt/ml/{n}" for n in ("input", "model", "output")]
        # On SageMaker the host's own name always resolves, network or not.
        return [*mounts, "--hostname=algo-1", "--add-host=algo-1:127.0.0.1"]

    @property
    def metrics(self) -> dict:
        return json.loads((self.model / "model.json").read_text())["metrics"]

    @property
    def failure(self) -> str:
        return (self.output / "failure").read_text()


@pytest.fixture(scope="session")
def lay_out(gauss3_split) -> Callable[[Path], Job]:
    return lambda folder: Job(folder / "ml", gauss3_split)


@pytest.fixture
def job(lay_out, tmp_path) -> Job:
    return lay_out(tmp_path)


@pytest.fixture(scope="session")
def take_over(docker):
    """Make what root wrote in a container readable and removable here."""

    def take_over(job: Job, image: str) -> None:
        if os.getuid() != 0:
            command = ("chmod", "-R", "a+rwX", "/opt/ml/model", "/opt/ml/output")
            docker("run", "--rm", "--user=0", *job.options, image, *command)

    return take_over


@pytest.fixture(scope="session")
def train(docker, take_over):
    """Run a training job to its end, as SageMaker starts it."""

    def train(image: str, job: Job, *options: str) -> subprocess.CompletedProcess:
        result = docker("run", "--rm", *job.options, *options, image, "train", check=False)
        take_over(job, image)
        return result

    return train


# ---- endpoints ---------------------------------------------------------------------------------


class Endpoint(NamedTuple):
    """A container that serves, seen from outside."""

    container: str
    port: int

    def request(self, method: str, path: str, body=b"", **headers: str) -> tuple[int, bytes]:
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        with contextlib.closing(connection):
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.read()

    def answers(self) -> bool:
        with contextlib.suppress(OSError, http.client.HTTPException):
            return self.request("GET", "/ping")[0] == 200
        return False


@pytest.fixture(scope="session")
def wait_for(docker, wait_until):
    """Wait until a container answers, and show its log if it ends instead."""

    def wait_for(container: str, answers: Callable[[], bool]) -> None:
        def state() -> str:
            return docker("inspect", "--format={{.State.Status}}", container).stdout.strip()

        wait_until(lambda: answers() or state() == "exited", 60)
        assert state() == "running", docker("logs", container).stdout

    return wait_for


@pytest.fixture(scope="session")
def deploy(docker, containers, wait_for):
    """Start an endpoint, as SageMaker does, and wait for its first /ping."""

    def deploy(image: str, model: Path, *options: str, port: int = 8080) -> Endpoint:
        mount = f"--volume={model}:/opt/ml/model:ro"
        container = containers(mount, f"--publish=127.0.0.1::{port}", *options, image, "serve")
        address = docker("port", container, f"{port}/tcp").stdout.split()[0]
        endpoint = Endpoint(container, int(address.rpartition(":")[2]))
        wait_for(container, endpoint.answers)
        return endpoint

    return deploy


@pytest.fixture(scope="session")
def check_gauss3(train, deploy):
    """Assert that an image trains Gauss3 and serves it; return the job's log and the endpoint."""

    def check(image: str, job: Job) -> tuple[str, Endpoint]:
        result = train(image, job)
        assert result.returncode == 0, result.stdout
        assert {path.name for path in job.model.iterdir()} == {
            "gam.json",
            "model.joblib",
            "model.json",
        }
        assert job.metrics["r2_test"] >= 0.99
        endpoint = deploy(image, job.model)
        status, body = endpoint.request(
            "POST", "/invocations", b"[[20], [112]]", Content_Type="application/json"
        )
        assert status == 200, body
        assert len(json.loads(body)["prediction"]) == 2
        return result.stdout, endpoint

    return check


# ---- the project -------------------------------------------------------------------------------


@pytest.fixture
def checkout(tmp_path) -> Iterator[Path]:
    """A copy of the project as a fresh clone would have it."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listing = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    folder = tmp_path / "checkout"
    for name in filter(None, listing.split("\0")):
        if (ROOT / name).exists():  # a deleted file is listed until its deletion is committed
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    yield folder
    shutil.rmtree(folder)
