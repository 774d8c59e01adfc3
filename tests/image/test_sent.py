"""Code that is sent to the built image: in containers, sandboxed or not, and by mode docker."""

import json
import shutil
import subprocess
import sys
import tarfile
import uuid
from pathlib import Path

import pytest

pytestmark = pytest.mark.docker

ROOT = Path(__file__).parents[2]
SANDBOX = ("--network=none", "--read-only", "--user=1000:1000", "--cap-drop=ALL")
ROOM = "--tmpfs=/tmp"
LINE = "one line more"


@pytest.fixture
def source(tmp_path) -> Path:
    """The program of the image with one line more, and none of its modules."""
    folder = tmp_path / "source"
    folder.mkdir()
    text = (ROOT / "code" / "model_logic.py").read_text()
    (folder / "model_logic.py").write_text(f"print({LINE!r}, flush=True)\n{text}")
    return folder


def send(job, source: Path, program: str = "model_logic.py") -> None:
    """Send it as the SDK does with network isolation: as an archive in a channel."""
    (job.folder / "input/data/code").mkdir()
    with tarfile.open(job.folder / "input/data/code/sourcedir.tar.gz", "w:gz") as tar:
        for path in source.iterdir():
            tar.add(path, path.name)
    sent = {
        "sagemaker_program": json.dumps(program),
        "sagemaker_submit_directory": json.dumps("/opt/ml/input/data/code/sourcedir.tar.gz"),
    }
    job.configure("hyperparameters", {"df": "15", **sent})


@pytest.mark.parametrize("options", [(), (*SANDBOX, ROOM)], ids=["plain", "sandbox"])
def test_what_is_sent_trains_and_then_serves(docker, image, job, source, train, deploy, options):
    send(job, source)
    result = train(image, job, *options)
    assert result.returncode == 0, result.stdout
    assert LINE in result.stdout
    assert "abandoning" not in result.stdout
    endpoint = deploy(image, job.model)
    assert LINE in docker("logs", endpoint.container).stdout
    answer = endpoint.request("POST", "/invocations", b"[[20]]", Content_Type="application/json")
    assert answer[0] == 200, answer


def test_a_folder_that_is_mounted_needs_no_room(image, job, source, train):
    result = train(image, job, *SANDBOX, f"--volume={source}:/opt/ml/code:ro")
    assert result.returncode == 0, result.stdout
    assert LINE in result.stdout


def test_a_mounted_folder_without_the_program_is_refused(image, job, source, train):
    (source / "model_logic.py").rename(source / "mine.py")
    result = train(image, job, f"--volume={source}:/opt/ml/code:ro")
    assert result.returncode == 1
    assert job.failure.startswith(
        "no program 'model_logic.py' in /opt/ml/code, which holds mine.py; "
    )


def test_requirements_that_the_image_meets_need_no_network(image, job, source, train, deploy):
    (source / "requirements.txt").write_text("pandas\nscikit-learn\n")
    send(job, source)
    result = train(image, job, *SANDBOX, ROOM)
    assert result.returncode == 0, result.stdout
    assert LINE in result.stdout
    deploy(image, job.model)


def test_requirements_without_a_network_are_refused_in_a_sentence(
    docker, image, job, source, train
):
    (source / "requirements.txt").write_text("humanize\n")
    send(job, source)
    result = train(image, job, *SANDBOX, ROOM)
    assert result.returncode == 1, result.stdout
    sentence = "requirements.txt cannot be installed: no package index can be reached; "
    assert job.failure.startswith(sentence)
    assert "\n" not in job.failure
    shutil.copytree(source, job.model / "code")
    mount = f"--volume={job.model}:/opt/ml/model:ro"
    served = docker("run", "--rm", mount, *SANDBOX, ROOM, image, "serve", check=False)
    assert served.returncode == 1
    last = served.stdout.splitlines()[-1]
    assert last.startswith(f"serve: cannot load the model: SourceError: {sentence}")


def test_where_there_is_no_room_to_unpack_a_sentence_says_so(image, job, source, train):
    send(job, source)
    result = train(image, job, *SANDBOX)
    assert result.returncode == 1
    assert job.failure.startswith("the code at /opt/ml/input/data/code/sourcedir.tar.gz cannot be")
    assert "\n" not in job.failure


# ---- mode docker -------------------------------------------------------------------------------

# In a process of its own, as in a notebook: the SDK's local mode leaves threads and pipes open.
MODE_DOCKER = """
import sys
from pathlib import Path
from local_mode import Config, session_for
from sagemaker.estimator import Estimator
from sagemaker.exceptions import UnexpectedStatusException
from sagemaker.model import Model
from sagemaker.predictor import Predictor

image, source, other = sys.argv[1:]
ROLE = "arn:aws:iam::123456789012:role/local"

def fit(**sent):
    trained = Estimator(image_uri=image, role=ROLE, instance_count=1, instance_type="local",
                        sagemaker_session=session, hyperparameters={"df": 5}, **sent)
    trained.fit({"train": f"s3://{bucket}/line"})
    return trained

def ask(predictor):
    print("answer:", predictor.predict(b"4", initial_args={"ContentType": "text/csv"}))
    predictor.delete_endpoint()

with session_for(Config(mode="docker", image_uri=image)) as session:
    bucket = session.default_bucket()
    rows = b"".join(b"%d,%d\\n" % (x, 3 * x + 1) for x in range(40))
    session.s3_client.put_object(Bucket=bucket, Key="line/line.csv", Body=rows)
    trained = fit(entry_point="model_logic.py", source_dir=source)
    print("---- fitted", flush=True)
    ask(trained.deploy(1, "local"))
    print("---- served", flush=True)
    model = Model(image, trained.model_data, ROLE, entry_point=other, sagemaker_session=session,
                  predictor_cls=Predictor)
    ask(model.deploy(1, "local"))
    print("---- served by another", flush=True)
    Path(source, "model_logic.py").write_text("import no_such_module")
    for source_dir in (source, f"s3://{bucket}/none.tar.gz"):
        try:
            fit(entry_point="model_logic.py", source_dir=source_dir)
        except UnexpectedStatusException as error:
            print("failed:", error, flush=True)
"""


def test_mode_docker_runs_what_is_sent(docker, need, image, source, tmp_path):
    version = docker("compose", "version", check=False).stdout
    need(shutil.which("docker-compose") or "v2" in version, "there is no Compose")
    other = tmp_path / "serve.py"
    other.write_text((source / "model_logic.py").read_text().replace(LINE, "another program"))
    name = f"gam-model-test-sent:{uuid.uuid4().hex[:12]}"
    docker("tag", image, name)
    try:
        result = subprocess.run(
            [sys.executable, "-c", MODE_DOCKER, name, str(source), str(other)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=300,
        )
    finally:
        listing = docker("ps", "--all", "--format", "{{.ID}} {{.Image}}").stdout.splitlines()
        ours = [line.split()[0] for line in listing if line.split()[1] == name]
        if ours:
            docker("rm", "--force", *ours)
        docker("image", "rm", name)
    assert result.returncode == 0, result.stdout + result.stderr
    fitted, _, rest = result.stdout.partition("---- fitted")
    served, _, rest = rest.partition("---- served")
    by_another, _, failed = rest.partition("---- served by another")
    assert LINE in fitted
    assert LINE in served
    assert "another program" in by_another
    assert LINE not in by_another
    assert result.stdout.count("answer:") == 2
    reasons = [line for line in failed.splitlines() if line.startswith("failed:")]
    assert "Reason: ModuleNotFoundError: No module named 'no_such_module'" in reasons[0]
    assert "none.tar.gz cannot be unpacked: " in reasons[1]
