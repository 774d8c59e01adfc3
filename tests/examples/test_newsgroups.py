"""examples/newsgroups: the three scripts against AWS's API, and for real in mode process."""

import io
import json
import lzma
import os
import random
import re
import subprocess
import sys
import tarfile
from pathlib import Path
from urllib.error import URLError

import boto3
import nbformat
import pytest
import requests
import sklearn.datasets
from botocore.client import BaseClient
from botocore.exceptions import ClientError
from sklearn.utils import Bunch

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "examples" / "newsgroups"
sys.path.insert(0, str(FOLDER))

import invoke  # noqa: E402
import train  # noqa: E402
import upload  # noqa: E402

IMAGE = "123456789012.dkr.ecr.eu-west-1.amazonaws.com/newsgroups:latest"
ROLE = "arn:aws:iam::123456789012:role/sagemaker-execution"
GROUPS = {"sci.space": "orbit shuttle moon", "rec.sport.hockey": "puck goalie ice"}


def make_archive(folder: Path, posts: dict[str, list[tuple[str, str]]]) -> Path:
    """Write an archive as the official one is laid out, from (group, text) by split."""
    path = folder / upload.ARCHIVE
    with lzma.open(path, "wb") as stream, tarfile.open(fileobj=stream, mode="w|") as tar:
        for split, rows in posts.items():
            for number, (group, text) in enumerate(rows):
                content = f"Subject: {number}\n\n{text}\n".encode("latin-1")
                member = tarfile.TarInfo(f"20news-bydate-{split}/{group}/{number}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Four posts a group and split."""
    rows = [(group, f"{words} é") for group, words in GROUPS.items() for _ in range(4)]
    return make_archive(tmp_path_factory.mktemp("data"), {"train": rows, "test": rows})


def test_posts_are_looked_for_here_before_they_are_downloaded(data, tmp_path, monkeypatch):
    monkeypatch.setattr(upload, "ROOT", tmp_path / "project")
    fetched = []

    def fetch(subset, shuffle):
        fetched.append(subset)
        return Bunch(data=["puck", "moon"], target=[1, 0], target_names=["space", "hockey"])

    monkeypatch.setattr(sklearn.datasets, "fetch_20newsgroups", fetch)
    monkeypatch.delenv("DATA_DIR", raising=False)
    posts = upload.load_posts()
    assert fetched == ["train", "test"]
    assert posts["test"] == upload.Posts(["puck", "moon"], ["hockey", "space"])

    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "data").symlink_to(data.parent)
    shared = upload.load_posts()
    monkeypatch.setenv("DATA_DIR", str(data.parent))
    assert upload.load_posts() == shared == upload.load_posts(data.parent)
    assert len(shared["train"].texts) == 8
    assert len(fetched) == 2


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:0],
        lambda content: content[:40],
        lambda content: content[: len(content) // 2],
        lambda content: content[:-4],
        lambda content: content[:-40] + b"x" * 8 + content[-32:],
        lambda content: content[:200] + b"xxxx" + content[204:],
        lambda content: b"<html>404 Not Found</html>",
        lambda content: lzma.compress(b""),
    ],
)
def test_an_archive_that_is_broken_is_one_sentence(data, tmp_path, damage):
    archive = tmp_path / upload.ARCHIVE
    archive.write_bytes(damage(data.read_bytes()))
    with pytest.raises(SystemExit) as end:
        upload.load_posts(tmp_path)
    assert end.value.code.startswith(f"{archive} cannot be unpacked: ")
    assert end.value.code.endswith("; get it anew, or delete it")
    assert "\n" not in end.value.code


def test_a_download_that_fails_is_one_sentence(tmp_path, monkeypatch):
    def fetch(**_):
        raise URLError(OSError(-2, "Name or service not known"))

    monkeypatch.setattr(sklearn.datasets, "fetch_20newsgroups", fetch)
    monkeypatch.setattr(upload, "ROOT", tmp_path / "project")
    monkeypatch.delenv("DATA_DIR", raising=False)
    with pytest.raises(SystemExit, match=r"cannot be downloaded: .* known>; put 20news-bydate"):
        upload.load_posts()


def test_an_archive_of_something_else_is_one_sentence(tmp_path):
    make_archive(tmp_path, {"train": [("sci/space", "moon")]})
    with pytest.raises(SystemExit, match=r"is not laid out as .*: it holds '20news-"):
        upload.load_posts(tmp_path)
    make_archive(tmp_path, {"train": [("sci.space", "moon")]})
    with pytest.raises(SystemExit, match="holds no posts of 20news-bydate-test; get it anew"):
        upload.load_posts(tmp_path)


# ---------------------------------------------------------------- mode aws


@pytest.fixture
def bucket(aws):
    boto3.client("s3", region_name="eu-west-1").create_bucket(
        Bucket="my-models", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"}
    )


@pytest.fixture
def calls(monkeypatch):
    """Every call that boto3 makes: the service, the operation and its arguments."""
    calls = []
    make = BaseClient._make_api_call

    def record(self, operation, arguments):
        calls.append((self.meta.service_model.signing_name, operation, arguments))
        return make(self, operation, arguments)

    monkeypatch.setattr(BaseClient, "_make_api_call", record)
    return calls


@pytest.fixture
def run(bucket, calls, data, tmp_path, monkeypatch, capsys):
    """Run a script's command line in mode aws; return what it called and what it printed."""

    def run(script, *arguments, **changes):
        config = {
            "mode": "aws",
            "region": "eu-west-1",
            "default_bucket": "my-models",
            "role_arn": ROLE,
            "image_uri": IMAGE,
            "program": "newsgroups_logic.py",
            "train_instance_type": "ml.c5.xlarge",
            "serve_instance_type": "ml.t2.large",
            "hyperparameters": {"alpha": 0.01, "model": "linear"},
        }
        (tmp_path / "config.json").write_text(json.dumps(config | changes))
        common = ["--config", str(tmp_path / "config.json"), "--data", str(data)]
        monkeypatch.setattr(sys, "argv", [f"{script.__name__}.py", *common, *arguments])
        calls.clear()
        script.main()
        return list(calls), capsys.readouterr().out

    return run


def operations(calls) -> list[str]:
    """Return the operations that change something."""
    return [name for _, name, _ in calls if not re.match("Describe|List|Head", name)]


def test_each_step_makes_sure_of_those_before(run, aws):
    made, output = run(upload)
    assert operations(made) == ["PutObject"] * 2
    assert "s3://my-models/newsgroups/data/train/posts.jsonl: 8 posts" in output
    body = boto3.client("s3").get_object(
        Bucket="my-models", Key="newsgroups/data/test/posts.jsonl"
    )["Body"]
    rows = [json.loads(line) for line in body.read().splitlines()]
    assert len(rows) == 8
    post = {"text": "Subject: 3\n\norbit shuttle moon é\n", "label": "sci.space"}
    assert rows[3] == post

    made, output = run(train)
    assert operations(made) == ["CreateTrainingJob"]
    assert re.search(r"training job newsgroups-\w{8}-1: Completed after 0 s", output)

    results = [{"Body": "sci.space\n"}, {"Body": "rec.sport.hockey\n"}]
    answer = {"region": "eu-west-1", "results": results}
    requests.post(f"{aws}/moto-api/static/sagemaker/endpoint-results", json=answer)
    made, output = run(invoke, "the moon", "a puck")
    assert operations(made) == [
        "CreateModel",
        "CreateEndpointConfig",
        "CreateEndpoint",
        "InvokeEndpoint",
        "InvokeEndpoint",
    ]
    assert output.endswith("sci.space: the moon\nrec.sport.hockey: a puck\n")


def test_the_last_step_alone_takes_them_all_once(run):
    made, _ = run(invoke)
    steps = ["CreateTrainingJob", "CreateModel", "CreateEndpointConfig", "CreateEndpoint"]
    assert operations(made) == ["PutObject", "PutObject", *steps, "InvokeEndpoint"]
    made, output = run(invoke)
    assert operations(made) == ["InvokeEndpoint"]
    assert output.count("is there already") == 2

    # Another model replaces the one that is served; data that are the same stay.
    made, _ = run(invoke, hyperparameters={"alpha": 0.5})
    gone = ["DeleteEndpoint", "DeleteEndpointConfig", "DeleteModel"]
    assert operations(made) == [steps[0], *gone, *steps[1:], "InvokeEndpoint"]
    # So do other instances, without a new job.
    made, _ = run(invoke, hyperparameters={"alpha": 0.5}, serve_instance_type="ml.m5.large")
    assert operations(made) == [*gone, *steps[1:], "InvokeEndpoint"]

    made, output = run(invoke, "--delete")
    assert operations(made) == gone
    assert "deleted the endpoint newsgroups\n" in output
    assert operations(run(invoke, "--delete")[0]) == []
    made, output = run(upload, "--delete")
    assert operations(made) == ["DeleteObject"] * 2
    assert operations(run(upload, "--delete")[0]) == []


def test_the_requests_are_what_config_json_says(run):
    made, _ = run(invoke, "héllo")
    asked = {operation: arguments for _, operation, arguments in made}
    job = asked["CreateTrainingJob"]
    assert re.fullmatch(r"newsgroups-[0-9a-f]{8}-1", job["TrainingJobName"])
    assert job["AlgorithmSpecification"]["TrainingImage"] == IMAGE
    names = [metric["Name"] for metric in job["AlgorithmSpecification"]["MetricDefinitions"]]
    assert "macro_f1_test" in names
    assert job["RoleArn"] == ROLE
    assert job["HyperParameters"] == {"alpha": "0.01", "model": "linear"}
    assert job["ResourceConfig"]["InstanceType"] == "ml.c5.xlarge"
    assert job["OutputDataConfig"] == {"S3OutputPath": "s3://my-models/newsgroups/models"}
    assert job["EnableNetworkIsolation"] is True
    channels = {
        channel["ChannelName"]: channel["DataSource"]["S3DataSource"]["S3Uri"]
        for channel in job["InputDataConfig"]
    }
    assert channels == {
        "train": "s3://my-models/newsgroups/data/train",
        "test": "s3://my-models/newsgroups/data/test",
    }
    model = asked["CreateModel"]
    assert model["ExecutionRoleArn"] == ROLE
    assert model["PrimaryContainer"]["Image"] == IMAGE
    artifact = model["PrimaryContainer"]["ModelDataUrl"]
    assert artifact.startswith("s3://my-models/newsgroups/models")
    assert job["TrainingJobName"] in artifact
    (variant,) = asked["CreateEndpointConfig"]["ProductionVariants"]
    assert (variant["ModelName"], variant["InstanceType"]) == ("newsgroups", "ml.t2.large")
    assert asked["CreateEndpoint"] == {
        "EndpointName": "newsgroups",
        "EndpointConfigName": "newsgroups",
    }
    assert asked["InvokeEndpoint"] == {
        "EndpointName": "newsgroups",
        "ContentType": "text/plain; charset=utf-8",
        "Accept": "text/plain",
        "Body": "héllo".encode(),
    }


# Operations that need the permission for another one.
PERMISSIONS = {"s3:HeadObject": "s3:GetObject", "s3:ListObjectsV2": "s3:ListBucket"}


def test_the_policy_allows_every_call_and_no_more(run):
    made = run(invoke)[0] + run(invoke, "--delete")[0] + run(upload, "--delete")[0]
    called = {f"{service}:{operation}" for service, operation, _ in made}
    called = {PERMISSIONS.get(action, action) for action in called}
    policy = json.loads((FOLDER / "iam.json").read_text())
    allowed = {
        action
        for statement in policy["Statement"]
        for action in (
            [statement["Action"]] if isinstance(statement["Action"], str) else statement["Action"]
        )
    }
    assert called | {"iam:PassRole"} == allowed
    # On what the policy names: all that is made here is called so.
    for _, _, arguments in made:
        for kind, name in arguments.items():
            if kind == "TrainingJobName":
                assert name.startswith("newsgroups-")
            elif kind in ("ModelName", "EndpointConfigName", "EndpointName"):
                assert name == "newsgroups"
            elif kind in ("Key", "Prefix"):
                assert name.startswith("newsgroups/")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"default_bucket": "no-such-bucket"}, "train.py: An error occurred (NoSuchBucket)"),
        ({"default_bucket": None}, "train.py: default_bucket must name a bucket"),
        ({"role_arn": None}, "role_arn must be the ARN of the jobs' role in mode aws"),
        ({"hyperparameter": {}}, "did you mean 'hyperparameters'?"),
    ],
)
def test_what_aws_or_the_config_refuses_is_one_sentence(run, changes, sentence):
    with pytest.raises(SystemExit) as end:
        run(train, **changes)
    assert sentence in end.value.code
    assert "\n" not in end.value.code


def test_data_that_are_not_there_are_named(run, tmp_path):
    with pytest.raises(SystemExit, match="is not 20news-bydate"):
        run(upload, "--data", str(tmp_path))


# ---------------------------------------------------------------- waiting


class Slow:
    """A SageMaker whose jobs and endpoints take a few looks until they are done."""

    def __init__(self, statuses: dict[str, list[tuple[str, str]]]):
        self.statuses, self.created = statuses, []

    def describe_training_job(self, TrainingJobName):
        if TrainingJobName not in self.statuses:
            error = {"Code": "ValidationException", "Message": "Requested resource not found."}
            raise ClientError({"Error": error}, "DescribeTrainingJob")
        left = self.statuses[TrainingJobName]
        status, secondary = left.pop(0) if len(left) > 1 else left[0]
        return {
            "TrainingJobStatus": status,
            "SecondaryStatus": secondary,
            "FailureReason": "AlgorithmError: out of memory",
            "ModelArtifacts": {"S3ModelArtifacts": "s3://my-models/model.tar.gz"},
            "FinalMetricDataList": [{"MetricName": "macro_f1_test", "Value": 0.8137}],
        }

    def create_training_job(self, TrainingJobName, **_):
        self.created.append(TrainingJobName)
        self.statuses[TrainingJobName] = self.statuses.pop("next")


@pytest.fixture
def trained(monkeypatch):
    """Train with a SageMaker that behaves as told, and data that are there."""
    monkeypatch.setattr(train, "upload", lambda *_: {"train": upload.Channel("s3://b/t", "0")})

    def trained(statuses) -> Slow:
        slow = Slow(statuses)
        aws = upload.Aws(None, slow, None, "my-models")
        train.train(aws, upload.Config(hyperparameters={"alpha": 1}), poll=0)
        return slow

    return trained


RUNNING, DONE = ("InProgress", "Training"), ("Completed", "Completed")


def test_waiting_tells_each_status_once(trained, capsys):
    states = [("InProgress", "Starting"), RUNNING, RUNNING, ("InProgress", "Uploading"), DONE]
    trained({"next": states})
    told = re.findall(r"-1: (\w+) after", capsys.readouterr().out)
    assert told == ["Starting", "Training", "Uploading", "Completed"]


def test_a_running_job_is_waited_for_and_a_failed_one_tried_again(trained, capsys):
    (name,) = trained({"next": [DONE]}).created
    assert "macro_f1_test=0.8137\n" in capsys.readouterr().out
    assert trained({name: [RUNNING, RUNNING, DONE]}).created == []
    again = trained({name: [("Failed", "Failed")], "next": [RUNNING, DONE]}).created
    assert again == [f"{name.removesuffix('-1')}-2"]
    with pytest.raises(upload.StepFailed, match="-1: AlgorithmError: out of memory"):
        trained({"next": [RUNNING, ("Failed", "Failed")]})


# ---------------------------------------------------------------- mode process


def environment(**variables) -> dict[str, str]:
    theirs = {name: value for name, value in os.environ.items() if name != "CONFIG"}
    return theirs | {"PYTHONDONTWRITEBYTECODE": "1"} | variables


def run_script(name: str, data: Path, tmp_path: Path, *arguments: str) -> str:
    config = json.loads((FOLDER / "config.json").read_text())
    config["hyperparameters"] |= {"min-df": 1}
    (tmp_path / "config.json").write_text(json.dumps(config))
    process = subprocess.run(
        [sys.executable, FOLDER / name, "--data", data, *arguments],
        cwd=tmp_path,  # scripts run from any folder
        env=environment(CONFIG=str(tmp_path / "config.json")),
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


def test_train_runs_the_job_for_real(data, tmp_path):
    output = run_script("train.py", data, tmp_path)
    assert re.search(r"training job newsgroups-\w+-1: Completed after ", output)
    assert "\nmacro_f1_test=1.0000\n" in output  # as the API gives it; the log is in the logs
    assert re.search(r"the model is s3://\S+/newsgroups-\w+-1/output/model.tar.gz\n", output)


def test_invoke_answers_for_real(data, tmp_path):
    texts = ["To the moon, in orbit", "The goalie lost the puck"]
    output = run_script("invoke.py", data, tmp_path, "--explain", *texts)
    answer = output[output.index("sci.space: To") :].splitlines()
    assert answer[0] == "sci.space: To the moon, in orbit"
    assert re.match(r"  0\.\d+ sci\.space: (moon|orbit) \+\d\.\d\d, ", answer[1])
    assert re.match(r"  0\.\d+ rec\.sport\.hockey: (moon|orbit) -\d", answer[2])
    assert answer[3] == "rec.sport.hockey: The goalie lost the puck"


# ---------------------------------------------------------------- the notebook

NOTEBOOK = FOLDER / "newsgroups.ipynb"


def test_the_notebook_runs_in_mode_process(tmp_path):
    """On a corpus of 20 groups that share words, so that there are errors to look at."""
    rng = random.Random(0)
    groups = [f"{theme}.{k}" for theme in ("alt", "comp", "rec", "misc", "sci") for k in "abcd"]
    common = [f"word{k}" for k in range(30)]
    posts = {"train": [], "test": []}
    for rows in posts.values():
        for group in groups * 25:
            own = [f"{group.replace('.', '')}{k}" for k in range(3)]
            rows.append((group, " ".join(rng.choices(common, k=6) + rng.choices(own, k=4))))
    posts["test"] += [(groups[0], "altb0 altb1 altb2 word1 word2")] * 3  # another group's words
    make_archive(tmp_path, posts)
    executed = tmp_path / "executed.ipynb"
    process = subprocess.run(
        [sys.executable, "-m", "local_mode.notebook", NOTEBOOK, "--save", executed],
        cwd=ROOT,
        env=environment(DATA_DIR=str(tmp_path), PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stdout + process.stderr
    last = process.stdout.splitlines()[-1]
    match = re.fullmatch(r"newsgroups: mode=process macro_f1=(\S+) accuracy=(\S+)", last)
    assert 0.8 < float(match[1]) < 1
    # What the endpoint answers is what the job has measured.
    measured = re.search(r"\naccuracy_test=(.*)\n", process.stdout)[1]
    assert float(match[2]) == pytest.approx(float(measured), abs=1e-4)
    outputs = [
        output
        for cell in nbformat.read(executed, as_version=4).cells
        for output in cell.get("outputs", [])
    ]
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) == 6
    assert not [output for output in outputs if output.get("name") == "stderr"]


def test_the_notebook_is_committed_without_output():
    for cell in nbformat.read(NOTEBOOK, as_version=4).cells:
        assert not cell.get("outputs")
