"""Batch transform on this machine's SageMaker, as plain boto3 and the SDK see it."""

import contextlib
import gzip
import io
import itertools
import json
import tarfile
import time
import uuid

import boto3
import pytest
from botocore.exceptions import ClientError
from sagemaker.estimator import Estimator
from sagemaker.model import Model

from local_mode.jsonpath import Path
from local_mode.records import payloads

ROLE = "arn:aws:iam::123456789012:role/local"
BUCKET = "sagemaker-local"

# Answers each line, or a JSON document, with its first value times ten.
PROGRAM = """
import json, os, time
from program_toolkit.table import PayloadError

def model_fn(model_dir):
    if "BROKEN" in os.environ:
        raise ValueError("a broken model")
    return 10

def transform_fn(model, body, content_type, accept):
    body = body.decode() if isinstance(body, bytes) else body
    said = f"payload of {len(body.splitlines())} lines {os.environ.get('SAGEMAKER_BATCH')}\\n"
    os.write(1, said.encode())  # at once, as others print, too
    time.sleep(float(os.environ.get("DELAY", "0")))
    def first(record):
        return next(iter(record.values())) if isinstance(record, dict) else record[0]
    if content_type == "application/json":
        return json.dumps(model * first(json.loads(body))), "application/json"
    answers = []
    for line in body.splitlines():
        if "bad" in line:
            raise PayloadError("a bad line")
        if "skip" in line:
            continue
        if content_type == "application/jsonlines":
            answers.append(json.dumps({"y": model * first(json.loads(line))}))
        else:
            answers.append(str(model * int(line.split(",")[0])))
    return "".join(f"{answer}\\n" for answer in answers), content_type

def execution_parameters_fn():
    return json.loads(os.environ.get("PARAMETERS", "{}"))
"""


@pytest.fixture(scope="module")
def model_data(s3) -> str:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        member = tarfile.TarInfo("code/inference.py")
        member.size = len(PROGRAM)
        tar.addfile(member, io.BytesIO(PROGRAM.encode()))
    s3.put_object(Bucket=BUCKET, Key="ten.tar.gz", Body=stream.getvalue())
    return f"s3://{BUCKET}/ten.tar.gz"


@pytest.fixture(scope="module")
def model(client, model_data) -> str:
    container = {"Image": "gam-model", "ModelDataUrl": model_data}
    client.create_model(ModelName="ten", Containers=[container])
    return "ten"


@pytest.fixture
def put(s3):
    """Put files below a prefix of its own; return the prefix."""

    def put(**files: str | bytes) -> str:
        prefix = f"in-{uuid.uuid4().hex[:8]}"
        for name, content in files.items():
            name = name.replace("__", "/").replace("_", ".")
            s3.put_object(Bucket=BUCKET, Key=f"{prefix}/{name}", Body=content)
        return f"s3://{BUCKET}/{prefix}"

    return put


@pytest.fixture
def create(client, model):
    """Start a transform job; return its name."""

    def create(uri: str, output: dict | None = None, data_type="S3Prefix", **changes) -> str:
        name = f"transform-{uuid.uuid4().hex[:8]}"
        source = {"DataSource": {"S3DataSource": {"S3DataType": data_type, "S3Uri": uri}}}
        source |= {"ContentType": "text/csv", "SplitType": "Line", **changes.pop("source", {})}
        client.create_transform_job(
            TransformJobName=name,
            ModelName=model,
            TransformInput=source,
            TransformOutput={"S3OutputPath": f"s3://{BUCKET}/{name}", **(output or {})},
            TransformResources={"InstanceType": "ml.m5.large", "InstanceCount": 1},
            **changes,
        )
        return name

    return create


@pytest.fixture
def ended(client):
    """Wait for the end of a job; return its description."""

    def ended(name: str, limit: float = 90) -> dict:
        deadline = time.monotonic() + limit
        while time.monotonic() < deadline:
            job = client.describe_transform_job(TransformJobName=name)
            if job["TransformJobStatus"] not in ("InProgress", "Stopping"):
                return job
            time.sleep(0.1)
        raise AssertionError(job)

    return ended


@pytest.fixture
def results(s3, ended):
    """Wait for a job that must succeed; return what it wrote, by name."""

    def results(name: str) -> dict[str, str]:
        job = ended(name)
        assert job["TransformJobStatus"] == "Completed", job
        return written(s3, name)

    return results


def written(s3, name: str) -> dict[str, str]:
    found = s3.list_objects_v2(Bucket=BUCKET, Prefix=f"{name}/").get("Contents", [])
    return {
        item["Key"].removeprefix(f"{name}/"): s3.get_object(Bucket=BUCKET, Key=item["Key"])["Body"]
        .read()
        .decode()
        for item in found
    }


def log_of(name: str) -> list[str]:
    logs, group = boto3.client("logs"), "/aws/sagemaker/TransformJobs"
    streams = logs.describe_log_streams(logGroupName=group, logStreamNamePrefix=f"{name}/")
    return [
        event["message"]
        for stream in streams["logStreams"]
        for event in logs.get_log_events(
            logGroupName=group, logStreamName=stream["logStreamName"], startFromHead=True
        )["events"]
    ]


ROWS = "".join(f"{k},x{k}\n" for k in range(50))


def test_rows_come_back_in_order_in_every_combination(create, put, results):
    """50 rows, also where requests overlap."""
    uri = put(rows_csv=ROWS)
    names = {}
    for split, strategy, assembly in itertools.product(
        ("None", "Line"), ("SingleRecord", "MultiRecord"), ("None", "Line")
    ):
        names[split, strategy, assembly] = create(
            uri,
            {"AssembleWith": assembly},
            source={"SplitType": split},
            BatchStrategy=strategy,
            MaxConcurrentTransforms=4,
            MaxPayloadInMB=1,
        )
    expected = "".join(f"{10 * k}\n" for k in range(50))
    for combination, name in names.items():
        assert results(name) == {"rows.csv.out": expected}, combination
        asked = sum(line.startswith("payload of") for line in log_of(name))
        is_single = combination[:2] == ("Line", "SingleRecord")
        assert asked == (50 if is_single else 1), combination


def test_what_a_job_was_and_did_is_described(client, create, ended, put):
    name = create(put(a_csv="1\n"), MaxPayloadInMB=2)
    first = client.describe_transform_job(TransformJobName=name)
    assert first["TransformJobStatus"] == "InProgress"
    job = ended(name)
    assert job["TransformStartTime"] <= job["TransformEndTime"]
    assert job["MaxPayloadInMB"] == 2
    assert job["TransformInput"]["CompressionType"] == "None"
    assert job["DataProcessing"]["JoinSource"] == "None"
    listed = client.list_transform_jobs(NameContains=name)["TransformJobSummaries"]
    assert [item["TransformJobStatus"] for item in listed] == ["Completed"]
    assert "payload of 1 lines true" in log_of(name)
    with pytest.raises(ClientError, match="already exists"):
        client.create_transform_job(
            TransformJobName=name,
            ModelName="ten",
            TransformInput=job["TransformInput"],
            TransformOutput=job["TransformOutput"],
            TransformResources=job["TransformResources"],
        )


def test_outputs_mirror_what_lies_below_the_prefix(create, put, results, s3):
    uri = put(a_csv="1\n", sub__b_csv="2\n", sub__empty_csv="", c_csv_gz=gzip.compress(b"3\n4\n"))
    manifest = [{"prefix": f"{uri}/"}, "sub/b.csv", "a.csv"]
    s3.put_object(Bucket=BUCKET, Key="some.manifest", Body=json.dumps(manifest))
    names = [
        create(f"{uri}/sub"),
        create(f"{uri}/a.csv"),
        create(f"s3://{BUCKET}/some.manifest", data_type="ManifestFile"),
        create(f"{uri}/c", source={"CompressionType": "Gzip"}),
    ]
    assert [results(name) for name in names] == [
        {"b.csv.out": "20\n", "empty.csv.out": ""},
        {"a.csv.out": "10\n"},
        {"sub/b.csv.out": "20\n", "a.csv.out": "10\n"},
        {"c.csv.gz.out": "30\n40\n"},
    ]


def test_a_bad_file_fails_the_job_and_leaves_no_output_and_the_others_theirs(
    create, ended, put, s3
):
    uri = put(a_csv="1\n", b_csv="1\nbad\n", c_csv="3\n")
    name = create(uri, BatchStrategy="SingleRecord")
    job = ended(name)
    assert job["TransformJobStatus"] == "Failed"
    assert job["FailureReason"].startswith(
        f"ClientError: See job logs for more information. {uri}/b.csv: 400, "
    )
    assert "a bad line" in job["FailureReason"]
    assert written(s3, name) == {"a.csv.out": "10\n", "c.csv.out": "30\n"}
    assert any(f"{uri}/b.csv: 400" in line for line in log_of(name))


def test_a_job_without_files_or_with_a_broken_container_fails(create, ended, put):
    nothing = create(f"s3://{BUCKET}/nothing-here/")
    broken = create(put(a_csv="1\n"), Environment={"BROKEN": "yes"})
    packed = create(put(a_csv="1\n"), source={"CompressionType": "Gzip"})
    for name, reason in (
        (nothing, "nothing found at"),
        (broken, "AlgorithmError: the container did not pass the ping health check"),
        (packed, "cannot be unpacked"),
    ):
        job = ended(name)
        assert job["TransformJobStatus"] == "Failed"
        assert reason in job["FailureReason"]


def test_the_container_words_what_the_request_leaves_open(create, put, results):
    parameters = json.dumps({"BatchStrategy": "SINGLE_RECORD", "MaxConcurrentTransforms": 3})
    told = create(put(a_csv="1\n2\n"), Environment={"PARAMETERS": parameters})
    asked = create(
        put(a_csv="1\n2\n"), Environment={"PARAMETERS": parameters}, BatchStrategy="MultiRecord"
    )
    for name, lines in (
        (told, ["payload of 1 lines true"] * 2),
        (asked, ["payload of 2 lines true"]),
    ):
        assert results(name) == {"a.csv.out": "10\n20\n"}
        assert [line for line in log_of(name) if line.startswith("payload")] == lines


LINES = '{"a": 1, "id": "p"}\n{"a": 2, "id": "q"}\n'


@pytest.mark.parametrize(
    ("kind", "content", "processing", "expected"),
    [
        ("text/csv", 'p,1,"x,y"\nq,2,z\n', {"InputFilter": "$[1:]"}, "10\n20\n"),
        (
            "text/csv",
            'p,1,"x,y"\nq,2,z\n',
            {"InputFilter": "$[1]", "JoinSource": "Input"},
            'p,1,"x,y",10\nq,2,z,20\n',
        ),
        (
            "text/csv",
            "p,1\nq,2\n",
            {"InputFilter": "$[1:]", "JoinSource": "Input", "OutputFilter": "$[0,-1]"},
            "p,10\nq,20\n",
        ),
        (
            "application/jsonlines",
            LINES,
            {"JoinSource": "Input"},
            '{"a": 1, "id": "p", "SageMakerOutput": {"y": 10}}\n'
            '{"a": 2, "id": "q", "SageMakerOutput": {"y": 20}}\n',
        ),
        (
            "application/jsonlines",
            LINES,
            {
                "InputFilter": "$['a']",
                "JoinSource": "Input",
                "OutputFilter": "$['id','SageMakerOutput']",
            },
            None,  # the program cannot read a bare number
        ),
        ("application/jsonlines", LINES, {"OutputFilter": "$.y"}, "10\n20\n"),
        (
            "application/json",
            "[3, 4]",
            {"JoinSource": "Input"},
            '{"SageMakerInput": [3, 4], "SageMakerOutput": 30}\n',
        ),
    ],
)
def test_records_are_filtered_and_joined(
    create, put, ended, s3, kind, content, processing, expected
):
    split = "None" if kind == "application/json" else "Line"
    name = create(
        put(a=content),
        {"AssembleWith": "Line", "Accept": kind},
        source={"ContentType": kind, "SplitType": split},
        DataProcessing=processing,
    )
    job = ended(name)
    assert written(s3, name) == ({} if expected is None else {"a.out": expected}), job


def test_a_join_of_unequal_numbers_fails(create, put, ended, s3):
    name = create(
        put(a_csv="1\nskip\n2\n"),
        source={"SplitType": "None"},
        DataProcessing={"JoinSource": "Input"},
    )
    assert "2 records of an answer cannot be joined to 3" in ended(name)["FailureReason"]
    assert not written(s3, name)


def test_a_job_can_be_stopped(client, create, put, ended):
    name = create(put(a_csv=ROWS), BatchStrategy="SingleRecord", Environment={"DELAY": "0.5"})
    while not any(line.startswith("payload") for line in _log_or_nothing(name)):
        time.sleep(0.1)
    client.stop_transform_job(TransformJobName=name)
    assert ended(name, 30)["TransformJobStatus"] == "Stopped"
    with pytest.raises(ClientError, match="is in status Stopped"):
        client.stop_transform_job(TransformJobName=name)


def _log_or_nothing(name: str) -> list[str]:
    with contextlib.suppress(ClientError):
        return log_of(name)
    return []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": {"SplitType": "RecordIO"}}, "TransformInput.SplitType RecordIO is not"),
        ({"source": {"SplitType": "TFRecord"}}, "TransformInput.SplitType TFRecord is not"),
        ({"data_type": "AugmentedManifestFile"}, "S3DataType AugmentedManifestFile is not"),
        ({"MaxConcurrentTransforms": 51, "MaxPayloadInMB": 2}, "must not exceed 100 MB"),
        ({"DataProcessing": {"InputFilter": "$..a"}}, "InputFilter '\\$..a' is not a JSONPath"),
        ({"DataProcessing": {"OutputFilter": "$[*]"}}, "OutputFilter '\\$\\[\\*\\]' is not"),
        (
            {"DataProcessing": {"JoinSource": "Input"}, "source": {"ContentType": "image/png"}},
            "DataProcessing needs TransformInput.ContentType",
        ),
        (
            {"DataProcessing": {"JoinSource": "Input"}, "output": {"Accept": "application/json"}},
            "needs the same type on both sides",
        ),
        (
            {"DataCaptureConfig": {"DestinationS3Uri": "s3://b/c"}},
            "DataCaptureConfig is not supported",
        ),
    ],
)
def test_transforms_of_other_kinds_are_refused_by_name(create, changes, message):
    with pytest.raises(ClientError, match=message):
        create(f"s3://{BUCKET}/x", **changes)


def test_the_sdks_transformers_run_unchanged(session, s3, model_data, capfd, tmp_path):
    """Of an estimator, over the program's own training, and of a model."""
    data = tmp_path / "train.csv"
    data.write_text("x,y\n" + "".join(f"{k},{2 * k}\n" for k in range(60)))
    estimator = Estimator(
        "gam-model", ROLE, 1, "local", sagemaker_session=session, hyperparameters={"df": 6}
    )
    estimator.fit({"train": f"file://{data}"}, logs=False)
    s3.put_object(Bucket=BUCKET, Key="sdk/rows.csv", Body="".join(f"{k}\n" for k in range(50)))
    transformer = estimator.transformer(
        1, "local", strategy="MultiRecord", assemble_with="Line", accept="text/csv"
    )
    transformer.transform(f"s3://{BUCKET}/sdk", content_type="text/csv", split_type="Line")
    bucket, _, prefix = transformer.output_path.removeprefix("s3://").partition("/")
    lines = s3.get_object(Bucket=bucket, Key=f"{prefix}/rows.csv.out")["Body"].read().split()
    assert [float(line) for line in lines] == pytest.approx([2 * k for k in range(50)], abs=0.01)

    model = Model("gam-model", model_data, ROLE, sagemaker_session=session, name="ten-by-sdk")
    transformer = model.transformer(1, "ml.m5.large", output_path=f"s3://{BUCKET}/by-model")
    transformer.transform(
        f"s3://{BUCKET}/sdk", content_type="text/csv", split_type="Line", join_source="Input"
    )
    assert written(s3, "by-model")["rows.csv.out"].split()[:2] == ["0,0", "1,10"]
    assert "payload of 50 lines true" in capfd.readouterr().out


# ---- parts -------------------------------------------------------------------------------------


def test_records_are_packed_up_to_the_limit():
    content = b"aaa\nbbb\n\ncc\nd"
    for limit, expected in (
        (0, [content.replace(b"\n\n", b"\n")]),
        (8, [b"aaa\nbbb\n", b"cc\nd"]),
        (4, [b"aaa\n", b"bbb\n", b"cc\nd"]),
    ):
        assert list(payloads(io.BytesIO(content), "Line", False, limit)) == expected
    assert list(payloads(io.BytesIO(content), "None", True, 0)) == [content]
    with pytest.raises(
        Exception, match="Too much data for max payload size: a record has 4 bytes"
    ):
        list(payloads(io.BytesIO(content), "Line", False, 3))


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("$", {"a": {"b": [1, 2, 3]}, "it's": 4, "x y": 5}),
        ("$.a.b", [1, 2, 3]),
        ("$['a']['b'][0]", 1),
        ("$.a.b[-2:]", [2, 3]),
        ("$.a.b[:1]", [1]),
        ("$.a['b'][0, -1]", [1, 3]),
        ("$['x y', 'it\\'s']", {"x y": 5, "it's": 4}),
    ],
)
def test_paths_select_as_the_guide_says(path, expected):
    record = {"a": {"b": [1, 2, 3]}, "it's": 4, "x y": 5}
    assert Path(path, "InputFilter").select(record) == expected


@pytest.mark.parametrize("path", ["$.c", "$[0]", "$.a.b[3]", "$.a[0:1]"])
def test_a_path_that_selects_nothing_is_an_error(path):
    with pytest.raises(ValueError, match="selects nothing of the record"):
        Path(path, "InputFilter").select({"a": {"b": [1, 2, 3]}})
