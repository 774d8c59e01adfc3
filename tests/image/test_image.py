"""The built image: what is in it, and what `train` and `serve` do with it in containers."""

import io
import json
import re
import time
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.docker

# What a restricted container may have: no network, no root, no capability, nowhere to write.
SANDBOX = ("--network=none", "--read-only", "--user=1000:1000", "--cap-drop=ALL")


def warnings_in(log: str) -> list[str]:
    return [line for line in log.splitlines() if re.search(r"\bWARN(ING)?\b|Warning\b", line)]


# ---- content -----------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def config(docker, image) -> dict:
    return json.loads(docker("image", "inspect", image).stdout)[0]


@pytest.fixture(scope="session")
def packages(docker):
    """Return the version of each package that Python finds in an image."""
    script = (
        "import json, importlib.metadata as m;"
        "names = {d.metadata['Name'] for d in m.distributions()};"
        "print(json.dumps({name: m.version(name) for name in names}))"
    )

    def packages(image: str) -> dict[str, str]:
        return json.loads(docker("run", "--rm", image, "python3", "-c", script).stdout)

    return packages


def test_builds_without_warnings(base_build, image_build):
    assert warnings_in(base_build.log) == []
    assert warnings_in(image_build.log) == []


def test_says_what_sagemaker_reads(config):
    environment = dict(pair.split("=", 1) for pair in config["Config"]["Env"])
    assert environment.items() >= {
        ("SAGEMAKER_PROGRAM", "model_logic.py"),
        ("SAGEMAKER_SUBMIT_DIRECTORY", "/opt/ml/code"),
        ("SAGEMAKER_TRAINING_MODULE", "model_server.training:main"),
        ("PYTHONPATH", "/opt/program"),
    }
    label = "com.amazonaws.sagemaker.capabilities.accept-bind-to-port"
    assert config["Config"]["Labels"][label] == "true"
    assert "8080/tcp" in config["Config"]["ExposedPorts"]
    assert config["Architecture"] == "amd64"


def test_program_folder_holds_the_program_only(docker, image):
    # For a requirements.txt or setup.py the toolkits would run pip at start.
    listing = docker("run", "--rm", image, "ls", "/opt/program").stdout.split()
    assert set(listing) == {"__pycache__", "model_logic.py"}


def test_there_is_room_for_code_that_is_sent(docker, image):
    command = "touch /opt/ml/code/x && rm /opt/ml/code/x && ls -A /opt/ml/code"
    assert docker("run", "--rm", "--user=1000:1000", image, "sh", "-c", command).stdout == ""


def test_everything_below_opt_ml_is_readable_by_any_user(docker, image):
    readable = ("-type", "d", "-perm", "-a=rx", "-o", "-type", "f", "-perm", "-a=r")
    find = ("find", "/opt/ml", "/opt/program", "!", "(", *readable, ")")
    assert docker("run", "--rm", image, *find).stdout == ""


def test_no_build_leftovers(docker, image):
    assert docker("run", "--rm", image, "ls", "-A", "/tmp").stdout == ""


def test_packages_fit_together(docker, image):
    docker("run", "--rm", image, "python3", "-m", "pip", "check")


def test_no_package_of_the_base_moves(packages, base_build, image):
    base, ours = packages(base_build.name), packages(image)
    assert {name: ours.get(name) for name in base} == base
    assert {"gam-model", "model-server", "statsmodels", "httptools"} <= ours.keys() - base.keys()


# A base with an older version of one of our pins, and one that is older still where Python looks
# last; images whose Python has both the system's packages and its own are like that.
OLDER_BASE = """
FROM {base}
RUN python3 -m pip install --no-cache-dir --no-deps packaging==24.2 && \\
    python3 -m pip install --no-cache-dir --no-deps --target /opt/system packaging==23.2 && \\
    python3 -c "import sysconfig; print(sysconfig.get_path('purelib'))" > /tmp/site && \\
    echo /opt/system > "$(cat /tmp/site)/system.pth" && rm /tmp/site
"""


def test_an_older_base_keeps_its_versions(build, build_on, packages, base_build):
    dockerfile = OLDER_BASE.format(base=base_build.name)
    older = build("gam-model-test-older-base", "-", input=dockerfile).name
    base = packages(older)
    assert base["packaging"] == "24.2"
    ours = packages(build_on(older, "gam-model-test-older").name)
    assert {name: ours.get(name) for name in base} == base
    assert {"gam-model", "statsmodels"} <= ours.keys()


# ---- training and serving ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def gauss3(tmp_path_factory, lay_out, image, check_gauss3):
    """A finished job, its log, and an endpoint with its model."""
    job = lay_out(tmp_path_factory.mktemp("gauss3"))
    return job, *check_gauss3(image, job)


def to_npy(array) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def test_training_prints_its_metrics(gauss3):
    job, log, _ = gauss3
    assert f"\nr2_test={job.metrics['r2_test']:.6g};" in log
    assert not (job.output / "failure").exists()


def test_logs_hold_no_warning(docker, gauss3):
    _, log, endpoint = gauss3
    assert warnings_in(log) == []
    assert warnings_in(docker("logs", endpoint.container).stdout) == []


def test_endpoint_answers_in_npy(gauss3):
    job, _, endpoint = gauss3
    rows = np.loadtxt(job.folder / "input/data/test/gauss3.csv", delimiter=",")
    types = {"Content_Type": "application/x-npy", "Accept": "application/x-npy"}
    status, body = endpoint.request("POST", "/invocations", to_npy(rows[:, :1]), **types)
    prediction = np.load(io.BytesIO(body), allow_pickle=False)
    assert status == 200
    assert prediction.shape == (len(rows),)
    rmse = np.sqrt(np.mean((prediction - rows[:, 1]) ** 2))
    assert rmse == pytest.approx(job.metrics["rmse_test"], rel=1e-9)


def assert_explained(body: bytes) -> None:
    answer = json.loads(body)
    total = answer["shap_base"] + np.array(answer["shap_values"]["x0"])
    np.testing.assert_allclose(total, answer["prediction"], rtol=1e-12)


EXPLAIN = {"Content_Type": "application/json", "Accept": "application/json; explain=true"}


def test_endpoint_explains_its_answer(gauss3):
    status, body = gauss3[2].request(
        "POST", "/invocations", b'{"instances": [[20], [112]]}', **EXPLAIN
    )
    assert status == 200
    assert_explained(body)


def test_endpoint_says_what_batch_transform_asks(gauss3):
    status, body = gauss3[2].request("GET", "/execution-parameters")
    assert status == 200
    keys = {"MaxConcurrentTransforms", "BatchStrategy", "MaxPayloadInMB"}
    assert json.loads(body).keys() == keys


def test_bad_request_is_the_clients_fault(gauss3):
    status, body = gauss3[2].request("POST", "/invocations", b"[[]]", **EXPLAIN)
    assert status == 400
    assert json.loads(body)["error"].keys() == {"type", "message"}


def test_endpoint_listens_where_it_is_told(image, gauss3, deploy):
    endpoint = deploy(image, gauss3[0].model, "--env=SAGEMAKER_BIND_TO_PORT=9090", port=9090)
    assert endpoint.request("GET", "/ping")[0] == 200


# ---- in a sandbox ------------------------------------------------------------------------------

ASK = """
import sys, urllib.request
path, *headers = sys.argv[1:]
body = sys.stdin.buffer.read() or None
headers = dict(header.split("=", 1) for header in headers)
request = urllib.request.Request("http://127.0.0.1:8080" + path, body, headers)
with urllib.request.urlopen(request) as answer:
    sys.stdout.buffer.write(answer.read())
"""


def ask(docker, container: str, path: str, body: bytes = b"", **headers: str):
    """Send a request from within the container, which has no network."""
    pairs = [f"{name.replace('_', '-')}={value}" for name, value in headers.items()]
    command = ("exec", "--interactive", container, "python3", "-c", ASK, path, *pairs)
    return docker(*command, check=False, input=body, text=False)


def test_trains_and_serves_in_a_sandbox(docker, image, job, train, containers, wait_for):
    result = train(image, job, *SANDBOX)
    assert result.returncode == 0, result.stdout
    assert warnings_in(result.stdout) == []
    assert job.metrics["r2_test"] >= 0.99

    container = containers(*SANDBOX, f"--volume={job.model}:/opt/ml/model:ro", image, "serve")
    wait_for(container, lambda: ask(docker, container, "/ping").returncode == 0)
    answer = ask(docker, container, "/invocations", b"[[20], [112]]", **EXPLAIN)
    assert_explained(answer.stdout)
    assert warnings_in(docker("logs", container).stdout) == []


# ---- failure and stop --------------------------------------------------------------------------


def spoil_a_cell(job) -> None:
    path = job.folder / "input/data/train/gauss3.csv"
    lines = path.read_text().splitlines()
    lines[2] = "17,high"
    path.write_text("\n".join(lines))


def misspell_a_hyperparameter(job) -> None:
    job.configure("hyperparameters", {"alhpa": "1"})


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (spoil_a_cell, "the target, column 2, is text, 'high' in row 3; expected numbers"),
        (misspell_a_hyperparameter, "unknown hyperparameter 'alhpa'; did you mean 'alpha'?"),
    ],
)
def test_failed_job_says_why_and_leaves_no_model(image, job, train, spoil, sentence):
    spoil(job)
    result = train(image, job)
    assert result.returncode == 1, result.stdout
    assert sentence in job.failure
    assert list(job.model.iterdir()) == []


# Waits for its end where another program would compute for hours.
PATIENT_PROGRAM = """
import signal
from program_toolkit.job import run

def train(job, arguments):
    job.write_json("half.json", {})
    print("training has begun", flush=True)
    signal.pause()

run(lambda parser: None, train)
"""


def stop(docker, container: str) -> tuple[float, int]:
    """Stop a container as SageMaker does; return the seconds it took and its exit code."""
    start = time.monotonic()
    docker("stop", "-t", "60", container)
    seconds = time.monotonic() - start
    return seconds, int(docker("wait", container).stdout)


def test_stopped_job_ends_at_once(docker, image, job, containers, wait_for, take_over):
    program = job.folder / "patient_logic.py"
    program.write_text(PATIENT_PROGRAM)
    job.configure("hyperparameters", {})
    container = containers(
        *job.options,
        f"--volume={program}:/opt/ml/code/patient_logic.py:ro",
        "--env=SAGEMAKER_PROGRAM=patient_logic.py",
        *(image, "train"),
    )

    def log() -> str:
        return docker("logs", container).stdout

    wait_for(container, lambda: "training has begun" in log())
    seconds, code = stop(docker, container)
    take_over(job, image)
    assert seconds < 10
    assert code not in (0, 137), log()
    assert job.failure.startswith("stopped by SIGTERM")
    assert list(job.model.iterdir()) == []


def test_stopped_endpoint_ends_well(docker, image, gauss3, deploy):
    endpoint = deploy(image, gauss3[0].model)
    seconds, code = stop(docker, endpoint.container)
    assert seconds < 10
    assert code == 0, docker("logs", endpoint.container).stdout


def test_endpoint_without_a_model_says_so(docker, image, tmp_path):
    mount = f"--volume={tmp_path}:/opt/ml/model:ro"
    result = docker("run", "--rm", mount, image, "serve", check=False)
    assert result.returncode == 1
    assert "cannot load the model" in result.stdout
    assert "Traceback" not in result.stdout
