"""The server for any client: its operations, its command line, and its end."""

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import boto3
import psutil
import pytest
from botocore.exceptions import ClientError

from local_mode import loopback, wire
from local_mode.api import STORED, TAGS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "local.md").read_text()
SCOPE = "Credential=local/20260101/us-east-1/{}/aws4_request"


@pytest.fixture(scope="module")
def server():
    with loopback.aws("us-east-1", "model_logic.py") as server:
        yield server


def post(url: str, service: str, **headers: str) -> tuple[int, dict]:
    """Send an operation without a request; return status and answer."""
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    headers["Authorization"] = f"AWS4-HMAC-SHA256 {SCOPE.format(service)}"
    try:
        with urllib.request.urlopen(urllib.request.Request(url, b"{}", headers)) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def section(title: str) -> str:
    return re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE)[1]


def named(text: str) -> set[str]:
    return set(re.findall(r"`([A-Z]\w+)`", text)) & set(wire.SERVICE.operation_names)


def test_every_operation_of_sagemakers_is_in_one_of_three_groups(server):
    """Those that work, those that are stored, as the page has them; and no other answers."""
    works = {*server.api("us-east-1").operations, *TAGS}
    assert named(section("What works")) == works
    assert named(section("What is only stored")) == STORED
    assert not works & STORED
    for name in sorted(set(wire.SERVICE.operation_names) - works - STORED):
        status, answer = post(server.url, "sagemaker", X_Amz_Target=f"SageMaker.{name}")
        assert status == 400
        assert answer["__type"] == "UnknownOperationException"
        assert answer["message"].startswith(f"{name} is not an operation of SageMaker's")


def test_the_page_names_tests_that_exist():
    tests = {
        match
        for path in (ROOT / "tests").rglob("test_*.py")
        for match in re.findall(r"def (test_\w+)", path.read_text())
    }
    claimed = set(re.findall(r"`(test_\w+)`", PAGE))
    assert len(claimed) > 20
    assert claimed <= tests


def test_an_operation_that_aws_does_not_have_is_unknown_too(server):
    status, answer = post(server.url, "sagemaker", X_Amz_Target="SageMaker.MakeCoffee")
    assert (status, answer["__type"]) == (400, "UnknownOperationException")
    assert answer["message"].startswith("MakeCoffee is not an operation")


def test_what_is_stored_comes_back_and_is_checked(server):
    client = boto3.client("sagemaker")
    client.create_model_package_group(ModelPackageGroupName="scores")
    described = client.describe_model_package_group(ModelPackageGroupName="scores")
    assert described["ModelPackageGroupArn"].endswith(":model-package-group/scores")
    with pytest.raises(ClientError, match="'a_b' at 'modelPackageGroupName' failed"):
        client.create_model_package_group(ModelPackageGroupName="a_b")
    arn = described["ModelPackageGroupArn"]
    client.add_tags(ResourceArn=arn, Tags=[{"Key": "a", "Value": "1"}])
    assert client.list_tags(ResourceArn=arn)["Tags"] == [{"Key": "a", "Value": "1"}]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{", "SerializationException"),
        (b"[]", "must be a structure"),
        (b'{"TrainingJobName": 1}', "at 'trainingJobName' must be a string, got 1"),
        (b'{"TrainingJobName": "a", "Colour": "red"}', "Unknown parameter 'colour'"),
        (b"{}", "Value null at 'trainingJobName' failed to satisfy constraint"),
    ],
)
def test_requests_that_no_client_of_ours_sends_are_refused(server, body, message):
    headers = {"Authorization": SCOPE.format("sagemaker")}
    headers["X-Amz-Target"] = "SageMaker.DescribeTrainingJob"
    request = urllib.request.Request(server.url, body, headers)
    with pytest.raises(urllib.error.HTTPError, match="400") as error:
        urllib.request.urlopen(request)
    assert message in error.value.read().decode()


@pytest.mark.parametrize(
    ("headers", "is_answered"),
    [
        ({}, True),
        ({"Origin": "http://{host}"}, True),
        ({"Origin": "https://example.com"}, False),
        ({"Origin": "null"}, False),
        ({"Host": "example.com"}, False),
        ({"Host": "example.com:80", "Origin": "http://example.com:80"}, False),
    ],
)
@pytest.mark.parametrize("method", ["POST", "OPTIONS"])
def test_a_web_page_of_another_site_is_not_answered(server, method, headers, is_answered):
    """It could make the browser of whoever works here start a job with a command of its own."""
    host = server.url.removeprefix("http://")
    sent = {name: value.format(host=host) for name, value in headers.items()}
    sent["Authorization"] = f"AWS4-HMAC-SHA256 {SCOPE.format('sagemaker')}"
    sent["X-Amz-Target"] = "SageMaker.ListTrainingJobs"
    link = http.client.HTTPConnection(host)
    link.request(method, "/", b"{}", sent)
    with contextlib.closing(link), link.getresponse() as answer:
        assert (answer.status < 300) == is_answered
        assert answer.status in (200, 403)


def test_logs_are_found_by_the_prefix_of_a_stream(server):
    """As ``aws logs tail --log-stream-name-prefix`` looks for them, and moto does not."""
    client = boto3.client("logs")
    client.create_log_group(logGroupName="prefixes")
    for name in ("job-1/algo-1", "job-10/algo-1"):
        client.create_log_stream(logGroupName="prefixes", logStreamName=name)
        event = {"timestamp": int(time.time() * 1000), "message": name}
        client.put_log_events(logGroupName="prefixes", logStreamName=name, logEvents=[event])
    for prefix, found in (("job-1/", ["job-1/algo-1"]), ("job-2", [])):
        events = client.filter_log_events(logGroupName="prefixes", logStreamNamePrefix=prefix)
        assert [event["message"] for event in events["events"]] == found


@pytest.mark.parametrize(
    ("statement", "decision"),
    [
        ({"Effect": "Allow", "Action": "s3:Get*", "Resource": "*"}, "allowed"),
        ({"Effect": "Allow", "Action": ["S3:getobject"], "Resource": ["*"]}, "allowed"),
        ({"Effect": "Allow", "Action": "s3:Put*", "Resource": "*"}, "implicitDeny"),
        ({"Effect": "Allow", "Action": "*", "Resource": "arn:aws:s3:::b/*"}, "implicitDeny"),
        ({"Effect": "Allow", "NotAction": "s3:Put*", "Resource": "*"}, "allowed"),
        ({"Effect": "Deny", "Action": "s3:*", "Resource": "*"}, "explicitDeny"),
        (
            {
                "Effect": "Allow",
                "Action": "*",
                "Resource": "*",
                "Condition": {"StringEquals": {"aws:PrincipalTag/team": "a"}},
            },
            "implicitDeny",
        ),
    ],
)
def test_a_role_is_simulated_by_its_policies(server, statement, decision):
    client = boto3.client("iam")
    name = f"role-{time.time_ns()}"
    arn = client.create_role(RoleName=name, AssumeRolePolicyDocument="{}")["Role"]["Arn"]
    client.put_role_policy(
        RoleName=name,
        PolicyName="p",
        PolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [statement]}),
    )
    results = client.simulate_principal_policy(PolicySourceArn=arn, ActionNames=["s3:GetObject"])
    (result,) = results["EvaluationResults"]
    assert (result["EvalActionName"], result["EvalDecision"]) == ("s3:GetObject", decision)


def test_the_local_role_exists_and_an_absent_one_does_not(server):
    client = boto3.client("iam")
    arn = client.get_role(RoleName="local")["Role"]["Arn"]
    assert arn == "arn:aws:iam::123456789012:role/local"
    answer = client.simulate_principal_policy(PolicySourceArn=arn, ActionNames=["ec2:X", "s3:Y"])
    assert [r["EvalDecision"] for r in answer["EvaluationResults"]] == ["allowed"] * 2
    with pytest.raises(client.exceptions.NoSuchEntityException, match="absent cannot be found"):
        client.simulate_principal_policy(
            PolicySourceArn=arn.replace("local", "absent"), ActionNames=["s3:X"]
        )


# ---- the command line --------------------------------------------------------------------------


@pytest.fixture
def command(tmp_path):
    """Start ``python -m local_mode``; return the process and what it exports."""
    started = []

    def start(*arguments: str) -> tuple[subprocess.Popen, dict[str, str]]:
        process = subprocess.Popen(
            [sys.executable, "-m", "local_mode", "--port", "0", *arguments],
            cwd=ROOT,
            env={**os.environ, "TMPDIR": str(tmp_path), "AWS_PROFILE": "production"},
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        exports = {}
        for _ in range(3):
            line = process.stdout.readline()
            assert line.startswith("export "), line
            exports.update(word.split("=", 1) for word in line.removeprefix("export ").split())
        return process, exports

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def sleeping_job(exports: dict[str, str], folder: Path) -> None:
    """Start a job that sleeps, and takes no notice of SIGTERM."""
    client = boto3.client(
        "sagemaker",
        endpoint_url=exports["AWS_ENDPOINT_URL"],
        region_name=exports["AWS_DEFAULT_REGION"],
        aws_access_key_id=exports["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=exports["AWS_SECRET_ACCESS_KEY"],
    )
    client.create_training_job(
        TrainingJobName="sleeps",
        RoleArn="arn:aws:iam::123456789012:role/local",
        AlgorithmSpecification={
            "TrainingImage": "gam-model",
            "TrainingInputMode": "File",
            "ContainerEntrypoint": ["sh", "-c", f"trap '' TERM; touch {folder}/begun; sleep 300"],
        },
        OutputDataConfig={"S3OutputPath": f"file://{folder}"},
        ResourceConfig={
            "InstanceType": "ml.m5.large",
            "InstanceCount": 1,
            "VolumeSizeInGB": 1,
        },
        StoppingCondition={"MaxRuntimeInSeconds": 600},
    )


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_however_the_server_ends_it_leaves_no_child_and_no_port(
    command, tmp_path, wait_until, how
):
    process, exports = command()
    sleeping_job(exports, tmp_path)
    wait_until(lambda: (tmp_path / "begun").exists(), 30)
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) >= 3  # the supervisor, the shell, sleep
    process.send_signal(how)
    assert process.wait(30) == (-9 if how == signal.SIGKILL else 0)
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive
    port = int(exports["AWS_ENDPOINT_URL"].rpartition(":")[2])
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0
    if how != signal.SIGKILL:
        assert not list(tmp_path.glob("sagemaker-*"))


def test_a_port_in_use_is_named(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = subprocess.run(
            [sys.executable, "-m", "local_mode", "--port", str(port)],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
    assert process.returncode == 1
    assert process.stderr == (
        f"port {port} cannot be used, Address already in use; name another, or 0\n"
    )


def test_the_server_needs_no_sdk():
    code = "import sys, local_mode.__main__; print('sagemaker' in sys.modules)"
    process = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert process.stdout == "False\n"
