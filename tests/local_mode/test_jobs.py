"""Training jobs of this machine's SageMaker, as plain boto3 sees them."""

import contextlib
import io
import json
import sys
import tarfile
import time
import uuid

import boto3
import psutil
import pytest
from botocore.exceptions import ClientError
from sagemaker.analytics import TrainingJobAnalytics
from sagemaker.estimator import Estimator

ROLE = "arn:aws:iam::123456789012:role/local"
GROUP = "/aws/sagemaker/TrainingJobs"


@pytest.fixture
def create(client):
    """Start a job whose container runs a shell script; return its name."""

    def create(script: str = "true", **changes) -> str:
        name = f"job-{uuid.uuid4().hex[:12]}"
        algorithm = {
            "TrainingImage": "gam-model",
            "TrainingInputMode": "File",
            "ContainerEntrypoint": ["sh", "-c"],
            "ContainerArguments": [f'cd "$SAGEMAKER_BASE_DIR"\n{script}'],
        }
        request = {
            "TrainingJobName": name,
            "RoleArn": ROLE,
            "OutputDataConfig": {"S3OutputPath": "s3://sagemaker-local/jobs"},
            "ResourceConfig": {
                "InstanceType": "ml.m5.large",
                "InstanceCount": 1,
                "VolumeSizeInGB": 1,
            },
            "StoppingCondition": {"MaxRuntimeInSeconds": 600},
        }
        request["AlgorithmSpecification"] = algorithm | changes.pop("AlgorithmSpecification", {})
        client.create_training_job(**request | changes)
        return name

    return create


@pytest.fixture
def ended(client):
    """Wait for the end of a job, and return its description."""

    def ended(name: str, *, limit: float = 60) -> dict:
        deadline = time.monotonic() + limit
        while time.monotonic() < deadline:
            job = client.describe_training_job(TrainingJobName=name)
            if job["TrainingJobStatus"] not in ("InProgress", "Stopping"):
                return job
            time.sleep(0.1)
        raise AssertionError(job)

    return ended


@pytest.fixture
def wait_for_line(session):
    """Wait until a job's log has a line."""

    def wait(name: str, line: str) -> None:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            if line in log_of(name):
                return
            time.sleep(0.1)
        raise AssertionError(log_of(name))

    return wait


def log_of(name: str) -> list[str]:
    logs, lines = boto3.client("logs"), []
    with contextlib.suppress(logs.exceptions.ResourceNotFoundException):
        streams = logs.describe_log_streams(logGroupName=GROUP, logStreamNamePrefix=f"{name}/")
        for stream in streams["logStreams"]:
            names = {"logGroupName": GROUP, "logStreamName": stream["logStreamName"]}
            page = logs.get_log_events(**names, startFromHead=True)
            while page["events"]:
                lines += [event["message"] for event in page["events"]]
                token = page["nextForwardToken"]
                page = logs.get_log_events(**names, startFromHead=True, nextToken=token)
    return lines


def unpack(s3, uri: str) -> dict[str, str]:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    body = s3.get_object(Bucket=bucket, Key=key)["Body"].read()
    with tarfile.open(fileobj=io.BytesIO(body)) as tar:
        return {m.name: tar.extractfile(m).read().decode() for m in tar if m.isfile()}


def channel(uri: str, name: str = "train", data_type: str = "S3Prefix", **more) -> dict:
    source = {"S3DataType": data_type, "S3Uri": uri, **more.pop("source", {})}
    return {"ChannelName": name, "DataSource": {"S3DataSource": source}, **more}


# ---- a job's life ------------------------------------------------------------------------------


def test_a_job_goes_on_by_itself_and_can_be_watched(
    create, ended, client, wait_for_line, tmp_path
):
    wait = f"while [ ! -e {tmp_path}/go ]; do sleep .1; done"
    name = create(f"echo begun; {wait}; echo done; echo m > model/m")
    wait_for_line(name, "begun")  # while it runs
    job = client.describe_training_job(TrainingJobName=name)
    assert (job["TrainingJobStatus"], job["SecondaryStatus"]) == ("InProgress", "Training")
    assert "TrainingEndTime" not in job
    (tmp_path / "go").touch()
    job = ended(name)
    assert job["TrainingJobStatus"] == job["SecondaryStatus"] == "Completed"
    assert log_of(name) == ["begun", "done"]
    transitions = job["SecondaryStatusTransitions"]
    statuses = [transition["Status"] for transition in transitions]
    assert statuses == ["Starting", "Downloading", "Training", "Uploading", "Completed"]
    assert all(t["StatusMessage"] and t["EndTime"] >= t["StartTime"] for t in transitions)
    assert job["CreationTime"] <= job["TrainingStartTime"] <= job["TrainingEndTime"]
    assert job["TrainingTimeInSeconds"] >= 1
    assert job["OutputDataConfig"]["KmsKeyId"] == ""


def test_model_and_output_lie_where_sagemaker_puts_them(create, ended, s3):
    job = ended(create("echo m > model/m; mkdir -p output/data/d; echo o > output/data/d/o"))
    uri = job["ModelArtifacts"]["S3ModelArtifacts"]
    assert uri == f"s3://sagemaker-local/jobs/{job['TrainingJobName']}/output/model.tar.gz"
    assert unpack(s3, uri) == {"m": "m\n"}
    assert unpack(s3, uri.replace("model.tar.gz", "output.tar.gz")) == {"d/o": "o\n"}


def test_a_model_may_stay_unpacked(create, ended, s3):
    output = {"S3OutputPath": "s3://sagemaker-local/jobs", "CompressionType": "NONE"}
    job = ended(create("mkdir model/d; echo m > model/d/m", OutputDataConfig=output))
    uri = job["ModelArtifacts"]["S3ModelArtifacts"]
    assert uri.endswith(f"{job['TrainingJobName']}/output/model/")
    key = uri.removeprefix("s3://sagemaker-local/") + "d/m"
    assert s3.get_object(Bucket="sagemaker-local", Key=key)["Body"].read() == b"m\n"


def test_a_failed_job_says_why_and_leaves_its_output(create, ended, s3):
    job = ended(create("echo o > output/data/o; echo 'no such column' > output/failure; exit 3"))
    assert job["TrainingJobStatus"] == job["SecondaryStatus"] == "Failed"
    assert job["FailureReason"] == "no such column\n"
    assert job["SecondaryStatusTransitions"][-1]["StatusMessage"] == "no such column\n"
    uri = job["ModelArtifacts"]["S3ModelArtifacts"]
    assert unpack(s3, uri.replace("model.tar.gz", "output.tar.gz")) == {"o": "o\n"}
    with pytest.raises(ClientError, match="NoSuchKey"):
        unpack(s3, uri)
    assert ended(create("exit 3"))["FailureReason"] == "exit code 3"
    assert (
        len(ended(create("yes | head -c 5000 > output/failure; exit 1"))["FailureReason"]) == 1024
    )


def test_a_command_that_is_not_there_fails_the_job_with_its_name(create, ended):
    job = ended(create(AlgorithmSpecification={"ContainerEntrypoint": ["absent-command"]}))
    assert "no command 'absent-command'" in job["FailureReason"]


STOPPED = """
trap 'echo stopped > model/m; exit 1' TERM
echo begun
while true; do sleep .1; done
"""


def test_a_job_can_be_stopped_and_keeps_its_model(create, ended, client, s3, wait_for_line):
    name = create(STOPPED)
    wait_for_line(name, "begun")
    client.stop_training_job(TrainingJobName=name)
    assert client.describe_training_job(TrainingJobName=name)["TrainingJobStatus"] in (
        "Stopping",
        "Stopped",
    )
    job = ended(name)
    assert job["TrainingJobStatus"] == job["SecondaryStatus"] == "Stopped"
    assert "FailureReason" not in job
    assert unpack(s3, job["ModelArtifacts"]["S3ModelArtifacts"]) == {"m": "stopped\n"}
    with pytest.raises(ClientError, match="is in status Stopped"):
        client.stop_training_job(TrainingJobName=name)


def test_a_stopped_job_has_time_to_end(create, ended, client, s3, wait_for_line):
    """More than it has when the server goes; SageMaker gives it 120 s."""
    name = create("trap 'sleep 7; echo late > model/m; exit' TERM; echo begun; sleep 99 & wait")
    wait_for_line(name, "begun")
    client.stop_training_job(TrainingJobName=name)
    job = ended(name)
    assert unpack(s3, job["ModelArtifacts"]["S3ModelArtifacts"]) == {"m": "late\n"}


def test_a_job_ends_with_its_time(create, ended, s3):
    job = ended(create(STOPPED, StoppingCondition={"MaxRuntimeInSeconds": 1}))
    assert job["TrainingJobStatus"] == "Stopped"
    assert job["SecondaryStatus"] == "MaxRuntimeExceeded"
    assert unpack(s3, job["ModelArtifacts"]["S3ModelArtifacts"]) == {"m": "stopped\n"}


def test_what_a_program_leaves_running_ends_with_it(create, ended):
    ended(create("sleep 1234.5 & echo m > model/m"))
    commands = [child.cmdline() for child in psutil.Process().children(recursive=True)]
    assert not [command for command in commands if "1234.5" in command]


def test_jobs_run_side_by_side(create, ended, s3):
    names = [create(f"sleep 1; echo {k} > model/m") for k in range(20)]
    for k, name in enumerate(names):
        job = ended(name)
        assert job["TrainingJobStatus"] == "Completed", job
        assert unpack(s3, job["ModelArtifacts"]["S3ModelArtifacts"]) == {"m": f"{k}\n"}


# ---- what it tells -----------------------------------------------------------------------------


def test_metrics_are_read_from_the_log(create, ended, session):
    script = "echo 'loss=0.5;'; echo 'loss=0.25; auc=.9;'; echo 'auc=none;'"
    definitions = [{"Name": name, "Regex": f"{name}=(.*?);"} for name in ("loss", "auc", "absent")]
    name = create(script, AlgorithmSpecification={"MetricDefinitions": definitions})
    job = ended(name)
    final = {metric["MetricName"]: metric["Value"] for metric in job["FinalMetricDataList"]}
    assert final == pytest.approx({"loss": 0.25, "auc": 0.9})
    frame = TrainingJobAnalytics(name, ["auc"], sagemaker_session=session).dataframe()
    assert frame["value"].tolist() == pytest.approx([0.9])


def test_every_line_of_the_log_is_kept_in_its_order(create, ended):
    name = create("seq 30000; echo; head -c 600000 /dev/zero | tr '\\0' x; echo; printf end")
    assert ended(name)["TrainingJobStatus"] == "Completed"
    lines = log_of(name)
    assert lines[:30000] == [str(k) for k in range(1, 30001)]
    assert lines[30000].strip() == ""
    assert "".join(lines[30001:]) == "x" * 600_000 + "end"


def test_an_estimator_attaches_to_a_job(create, ended, session):
    name = create("echo m > model/m")
    ended(name)
    attached = Estimator.attach(name, sagemaker_session=session)
    assert attached.model_data.endswith(f"{name}/output/model.tar.gz")
    assert attached.image_uri == "gam-model"


def test_a_job_is_told_its_name_and_the_environment_it_was_given(create, ended):
    name = create('echo "$TRAINING_JOB_NAME $WORD"', Environment={"WORD": "given"})
    ended(name)
    assert log_of(name) == [f"{name} given"]


@pytest.mark.skipif(sys.platform != "linux", reason="needs mounts of one's own")
def test_opt_ml_is_the_jobs_own(create, ended, s3):
    job = ended(create("echo m > /opt/ml/model/m; ls /opt > /opt/ml/output/data/ls"))
    assert job["TrainingJobStatus"] == "Completed", log_of(job["TrainingJobName"])
    assert unpack(s3, job["ModelArtifacts"]["S3ModelArtifacts"]) == {"m": "m\n"}


# ---- what it reads -----------------------------------------------------------------------------


@pytest.fixture
def objects(s3):
    """Put objects under a prefix of their own; return it."""

    def put(**bodies: str) -> str:
        prefix = f"in/{uuid.uuid4().hex}"
        for name, body in bodies.items():
            s3.put_object(Bucket="sagemaker-local", Key=f"{prefix}/{name}", Body=body)
        return f"s3://sagemaker-local/{prefix}"

    return put


LIST = "cd input/data/train; find . -type f | LC_ALL=C sort | xargs grep -H ''"


@pytest.mark.parametrize("mode", ["File", "FastFile"])
def test_channels_are_objects_under_a_prefix(create, ended, objects, mode):
    uri = objects(**{"a.csv": "1", "d/b.csv": "2", "d/": ""})
    name = create(LIST, InputDataConfig=[channel(uri, InputMode=mode)])
    ended(name)
    assert log_of(name) == ["./a.csv:1", "./d/b.csv:2"]
    one = create(LIST, InputDataConfig=[channel(f"{uri}/d/b")])  # a part of a name
    ended(one)
    assert log_of(one) == ["./b.csv:2"]


def test_a_manifest_names_objects(create, ended, objects, s3):
    uri = objects(a="1", b="2", c="3")
    manifest = objects(manifest=json.dumps([{"prefix": f"{uri}/"}, "a", "c"])) + "/manifest"
    name = create(LIST, InputDataConfig=[channel(manifest, data_type="ManifestFile")])
    ended(name)
    assert log_of(name) == ["./a:1", "./c:3"]
    wrong = create(LIST, InputDataConfig=[channel(f"{uri}/a", data_type="ManifestFile")])
    assert "is not a manifest" in ended(wrong)["FailureReason"]


def test_files_of_this_machine_are_read_and_written(create, ended, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a").write_text("1")
    for uri in (f"file://{tmp_path}/in", f"{tmp_path}/in"):
        name = create(
            f"({LIST}); echo m > model/m",
            InputDataConfig=[channel(uri)],
            OutputDataConfig={"S3OutputPath": f"file://{tmp_path}/out"},
        )
        assert ended(name)["TrainingJobStatus"] == "Completed"
        assert log_of(name) == ["./a:1"]
        assert (tmp_path / "out" / name / "output" / "model.tar.gz").is_file()


def test_a_channel_without_data_fails_the_job(create, ended, objects):
    uri = objects(a="1")
    job = ended(create(InputDataConfig=[channel(f"{uri}/none")]))
    assert job["FailureReason"] == f"data download failed: nothing found at {uri}/none"


@pytest.mark.skipif(sys.platform != "linux", reason="needs loopback addresses")
def test_several_hosts_share_the_work(create, ended, objects, s3):
    uri = objects(a="1", b="2", c="3")
    script = f"({LIST}); cd input/config; h=$(grep -o '127[0-9.]*' resourceconfig.json)\n"
    script += "echo $h; echo m > ../../model/$(echo $h | cut -d' ' -f1)"
    sharded = {"S3DataDistributionType": "ShardedByS3Key"}
    resources = {"InstanceType": "ml.m5.large", "InstanceCount": 2, "VolumeSizeInGB": 1}
    name = create(script, InputDataConfig=[channel(uri, source=sharded)], ResourceConfig=resources)
    job = ended(name)
    hosts = ["127.0.0.1", "127.0.0.2"]
    assert sorted(log_of(name)) == sorted(
        ["./a:1", "./c:3", "./b:2", *(f"{host} 127.0.0.1 127.0.0.2" for host in hosts)]
    )
    assert unpack(s3, job["ModelArtifacts"]["S3ModelArtifacts"]) == dict.fromkeys(hosts, "m\n")


def test_when_one_host_fails_the_others_are_stopped(create, ended):
    script = "grep -q 'current_host\": \"127.0.0.2' input/config/resourceconfig.json && exit 7\n"
    resources = {"InstanceType": "ml.m5.large", "InstanceCount": 2, "VolumeSizeInGB": 1}
    job = ended(create(script + "sleep 300", ResourceConfig=resources))
    assert job["TrainingJobStatus"] == "Failed"
    assert job["FailureReason"] == "exit code 7"


def test_checkpoints_outlast_the_job(create, ended, objects, s3):
    uri = objects(old="1")
    script = "cat checkpoints/old; mkdir checkpoints/d; echo 2 > checkpoints/d/new; exit 1"
    name = create(
        script,
        CheckpointConfig={"S3Uri": uri},
        EnableManagedSpotTraining=True,
        StoppingCondition={"MaxRuntimeInSeconds": 600, "MaxWaitTimeInSeconds": 600},
    )
    assert ended(name)["TrainingJobStatus"] == "Failed"
    assert log_of(name) == ["1"]
    key = uri.removeprefix("s3://sagemaker-local/") + "/d/new"
    assert s3.get_object(Bucket="sagemaker-local", Key=key)["Body"].read() == b"2\n"


# ---- what it refuses ---------------------------------------------------------------------------

S3_TRAIN = channel("s3://sagemaker-local/x")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"TrainingJobName": "a_b"}, "'a_b' at 'trainingJobName' failed to satisfy constraint"),
        ({"RoleArn": "a-user-of-this-account"}, "at 'roleArn' failed to satisfy"),
        (
            {"ResourceConfig": {"InstanceType": "ml.huge", "InstanceCount": 1}},
            "'ml.huge' at 'resourceConfig.instanceType' .* enum value set",
        ),
        (
            {"ResourceConfig": {"InstanceType": "ml.m5.large", "InstanceCount": 0}},
            "InstanceCount must be 1 or more, got 0",
        ),
        (
            {
                "ResourceConfig": {
                    "InstanceGroups": [
                        {
                            "InstanceType": "ml.m5.large",
                            "InstanceCount": 1,
                            "InstanceGroupName": "g",
                        }
                    ]
                }
            },
            "ResourceConfig.InstanceGroups is not supported",
        ),
        ({"InputDataConfig": [S3_TRAIN | {"InputMode": "Pipe"}]}, "train.InputMode Pipe is not"),
        (
            {
                "AlgorithmSpecification": {"TrainingInputMode": "Pipe"},
                "InputDataConfig": [S3_TRAIN],
            },
            "train.InputMode Pipe is not supported",
        ),
        (
            {"InputDataConfig": [channel("s3://b/m", data_type="AugmentedManifestFile")]},
            "S3DataType AugmentedManifestFile is not supported",
        ),
        (
            {"InputDataConfig": [S3_TRAIN | {"CompressionType": "Gzip"}]},
            "train.CompressionType is not supported",
        ),
        (
            {"InputDataConfig": [S3_TRAIN | {"RecordWrapperType": "RecordIO"}]},
            "train.RecordWrapperType is not supported",
        ),
        (
            {
                "InputDataConfig": [
                    {
                        "ChannelName": "train",
                        "DataSource": {
                            "FileSystemDataSource": {
                                "FileSystemId": "fs-12345678901",
                                "FileSystemAccessMode": "ro",
                                "FileSystemType": "EFS",
                                "DirectoryPath": "/x",
                            }
                        },
                    }
                ]
            },
            "DataSource.FileSystemDataSource is not supported",
        ),
        ({"InputDataConfig": [S3_TRAIN, S3_TRAIN]}, "Duplicate channel names"),
        (
            {"AlgorithmSpecification": {"MetricDefinitions": [{"Name": "m", "Regex": "m=.*"}]}},
            "MetricDefinitions.m: 'm=.*' has no group",
        ),
        (
            {"AlgorithmSpecification": {"MetricDefinitions": [{"Name": "m", "Regex": "(m"}]}},
            "MetricDefinitions.m: .* is not a regular expression",
        ),
        (
            {"CheckpointConfig": {"S3Uri": "s3://b/c", "LocalPath": "/tmp/c"}},
            "CheckpointConfig.LocalPath must lie in /opt/ml on this machine, got /tmp/c",
        ),
        (
            {
                "DebugRuleConfigurations": [
                    {"RuleConfigurationName": "r", "RuleEvaluatorImage": "i"}
                ]
            },
            "DebugRuleConfigurations is not supported",
        ),
        (
            {"TensorBoardOutputConfig": {"S3OutputPath": "s3://b/t"}},
            "TensorBoardOutputConfig is not supported",
        ),
        ({"RemoteDebugConfig": {"EnableRemoteDebug": True}}, "RemoteDebugConfig is not supported"),
        ({"ExperimentConfig": {"ExperimentName": "e"}}, "ExperimentConfig is not supported"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(create, client, changes, sentence):
    before = len(client.list_training_jobs(MaxResults=100)["TrainingJobSummaries"])
    with pytest.raises(ClientError, match=sentence) as error:
        create(**changes)
    assert error.value.response["Error"]["Code"] == "ValidationException"
    assert len(client.list_training_jobs(MaxResults=100)["TrainingJobSummaries"]) == before


def test_a_name_is_used_once(create, client, ended):
    name = create("echo first")
    with pytest.raises(ClientError, match="a training job with this name already exists") as error:
        create("echo second", TrainingJobName=name)
    assert error.value.response["Error"]["Code"] == "ResourceInUse"
    ended(name)
    assert log_of(name) == ["first"]
    with pytest.raises(ClientError, match="Requested resource not found"):
        client.describe_training_job(TrainingJobName="never-made")


# ---- lists and tags ----------------------------------------------------------------------------


def test_jobs_are_listed_filtered_and_a_page_at_a_time(create, client, ended):
    names = [create("true"), create("exit 1"), create("true")]
    jobs = [ended(name) for name in names]
    after = {"CreationTimeAfter": jobs[0]["CreationTime"]}
    listed = client.list_training_jobs(**after, SortBy="CreationTime", SortOrder="Ascending")
    assert [s["TrainingJobName"] for s in listed["TrainingJobSummaries"]] == names[1:]
    failed = client.list_training_jobs(NameContains=names[1][-8:].upper(), StatusEquals="Failed")
    (summary,) = failed["TrainingJobSummaries"]
    assert summary["TrainingJobArn"] == jobs[1]["TrainingJobArn"]
    assert summary["TrainingEndTime"] == jobs[1]["TrainingEndTime"]
    assert "RoleArn" not in summary
    pages = client.get_paginator("list_training_jobs").paginate(PaginationConfig={"PageSize": 2})
    listed = [s["TrainingJobName"] for page in pages for s in page["TrainingJobSummaries"]]
    assert listed[-3:] == names
    assert len(set(listed)) == len(listed)


def test_tags_are_kept(create, client, ended):
    job = ended(create(Tags=[{"Key": "a", "Value": "1"}]))
    arn = job["TrainingJobArn"]
    client.add_tags(ResourceArn=arn, Tags=[{"Key": "a", "Value": "2"}, {"Key": "b", "Value": "3"}])
    client.delete_tags(ResourceArn=arn, TagKeys=["b"])
    assert client.list_tags(ResourceArn=arn)["Tags"] == [{"Key": "a", "Value": "2"}]


def test_a_region_does_not_see_anothers_jobs(create, ended):
    name = create()
    ended(name)
    other = boto3.client("sagemaker", region_name="eu-west-1")
    with pytest.raises(ClientError, match="not found"):
        other.describe_training_job(TrainingJobName=name)


def test_a_job_that_has_ended_can_be_deleted(create, client, ended, wait_for_line):
    name = create(STOPPED)
    wait_for_line(name, "begun")
    with pytest.raises(ClientError, match="stop it first"):
        client.delete_training_job(TrainingJobName=name)
    client.stop_training_job(TrainingJobName=name)
    ended(name)
    client.delete_training_job(TrainingJobName=name)
    with pytest.raises(ClientError, match="not found"):
        client.describe_training_job(TrainingJobName=name)
