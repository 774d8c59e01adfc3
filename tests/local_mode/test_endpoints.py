"""Endpoints of this machine's SageMaker, as plain boto3 sees them."""

import io
import json
import tarfile
import threading
import time
import urllib.request
import uuid

import boto3
import psutil
import pytest
import sagemaker
from botocore.exceptions import ClientError

# Answers with the model's word and what it was asked.
PROGRAM = """
import json, os, time
from pathlib import Path

def model_fn(model_dir): return Path(model_dir, "word").read_text()
def input_fn(body, content_type): return body.decode() if isinstance(body, bytes) else body
def predict_fn(data, model):
    time.sleep(float(os.environ.get("DELAY", "0")))
    if data == "fail":
        raise ValueError("asked to fail")
    return [model, data]
def output_fn(prediction, accept): return json.dumps(prediction), "application/json"
"""


def put(key: str, **files: str) -> str:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content.encode()))
    boto3.client("s3").put_object(Bucket="sagemaker-local", Key=key, Body=stream.getvalue())
    return f"s3://sagemaker-local/{key}"


@pytest.fixture(scope="module")
def make_model(client):
    """Create a model that answers with a word; return its name."""

    def make(word: str, **environment: str) -> str:
        name = f"model-{uuid.uuid4().hex[:8]}"
        uri = put(f"{name}.tar.gz", word=word, **{"code/inference.py": PROGRAM})
        container = {"Image": "gam-model", "ModelDataUrl": uri, "Environment": environment}
        client.create_model(ModelName=name, PrimaryContainer=container)
        return name

    return make


def variant(model: str, name: str = "AllTraffic", **more) -> dict:
    sized = {"InstanceType": "ml.m5.large", "InitialInstanceCount": 1}
    return {"VariantName": name, "ModelName": model, **sized, **more}


@pytest.fixture(scope="module")
def make_config(client):
    def make(*variants: dict) -> str:
        name = f"config-{uuid.uuid4().hex[:8]}"
        client.create_endpoint_config(EndpointConfigName=name, ProductionVariants=list(variants))
        return name

    return make


@pytest.fixture
def wait(client):
    """Wait until an endpoint is at rest; return its description."""

    def wait(name: str) -> dict:
        while True:
            endpoint = client.describe_endpoint(EndpointName=name)
            if endpoint["EndpointStatus"] not in ("Creating", "Updating"):
                return endpoint
            time.sleep(0.1)

    return wait


@pytest.fixture
def endpoints(client, wait):
    """Create endpoints that don't outlive the test; return the name."""
    names = set()

    def create(config: str, name: str | None = None) -> str:
        name = name or f"endpoint-{uuid.uuid4().hex[:8]}"
        client.create_endpoint(EndpointName=name, EndpointConfigName=config)
        names.add(name)
        return name

    yield create
    for name in names:
        wait(name)
        client.delete_endpoint(EndpointName=name)


def ask(runtime, endpoint: str, body: str = "?", **more) -> list[str]:
    answer = runtime.invoke_endpoint(EndpointName=endpoint, Body=body, **more)
    return json.loads(answer["Body"].read())


def test_endpoints_serve_side_by_side(endpoints, make_config, make_model, wait, runtime, client):
    names = [endpoints(make_config(variant(make_model(word)))) for word in ("one", "two")]
    for name in names:
        assert client.describe_endpoint(EndpointName=name)["EndpointStatus"] == "Creating"
    with pytest.raises(ClientError, match="is not in service, it is Creating"):
        ask(runtime, names[0])
    for name, word in zip(names, ("one", "two"), strict=True):
        endpoint = wait(name)
        assert endpoint["EndpointStatus"] == "InService", endpoint
        (summary,) = endpoint["ProductionVariants"]
        assert summary["VariantName"] == "AllTraffic"
        assert summary["DeployedImages"][0]["SpecifiedImage"] == "gam-model"
        assert summary["CurrentInstanceCount"] == summary["DesiredInstanceCount"] == 1
        assert ask(runtime, name) == [word, "?"]
    listed = client.list_endpoints(NameContains="endpoint-", StatusEquals="InService")
    assert {item["EndpointName"] for item in listed["Endpoints"]} >= set(names)


def test_an_existing_name_is_refused_and_keeps_serving(
    endpoints, make_config, make_model, wait, runtime, client
):
    config = make_config(variant(make_model("first")))
    name = endpoints(config)
    wait(name)
    other = make_config(variant(make_model("second")))
    with pytest.raises(ClientError, match="Cannot create already existing endpoint") as error:
        client.create_endpoint(EndpointName=name, EndpointConfigName=other)
    assert error.value.response["Error"]["Code"] == "ValidationException"
    assert ask(runtime, name) == ["first", "?"]
    with pytest.raises(ClientError, match="already existing endpoint configuration"):
        client.create_endpoint_config(
            EndpointConfigName=config, ProductionVariants=[variant(make_model("x"))]
        )


def test_an_update_drops_no_request(endpoints, make_config, make_model, wait, runtime, client):
    name = endpoints(make_config(variant(make_model("old", DELAY="0.2"))))
    wait(name)
    answers, errors, done = [], [], threading.Event()

    def keep_asking() -> None:
        while not done.is_set():
            try:
                answers.append(ask(runtime, name)[0])
            except ClientError as error:
                errors.append(error)

    askers = [threading.Thread(target=keep_asking) for _ in range(4)]
    for asker in askers:
        asker.start()
    config = make_config(variant(make_model("new")))
    client.update_endpoint(EndpointName=name, EndpointConfigName=config)
    assert client.describe_endpoint(EndpointName=name)["EndpointStatus"] == "Updating"
    endpoint = wait(name)
    time.sleep(1)
    done.set()
    for asker in askers:
        asker.join()
    assert endpoint["EndpointConfigName"] == config
    assert errors == []
    assert {"old", "new"} == set(answers)
    assert answers[-1] == "new"


def test_an_update_that_fails_leaves_what_served(
    endpoints, make_config, make_model, wait, runtime, client
):
    name = endpoints(make_config(variant(make_model("old"))))
    before = wait(name)
    children = len(psutil.Process().children())
    broken = make_config(
        variant(
            make_model(
                "x", SAGEMAKER_PROGRAM="absent.py", SAGEMAKER_SUBMIT_DIRECTORY="/opt/ml/model/code"
            )
        )
    )
    client.update_endpoint(EndpointName=name, EndpointConfigName=broken)
    endpoint = wait(name)
    assert endpoint["EndpointStatus"] == "InService"
    assert endpoint["EndpointConfigName"] == before["EndpointConfigName"]
    assert "no program 'absent.py'" in endpoint["FailureReason"]
    assert ask(runtime, name) == ["old", "?"]
    assert len(psutil.Process().children()) == children


def test_variants_share_requests_by_weight(
    endpoints, make_config, make_model, wait, runtime, client
):
    a, b = variant(make_model("a"), "a"), variant(make_model("b"), "b", InitialVariantWeight=0.0)
    name = endpoints(make_config(a | {"InitialVariantWeight": 3.0}, b))
    wait(name)
    assert {ask(runtime, name)[0] for _ in range(20)} == {"a"}
    answer = runtime.invoke_endpoint(EndpointName=name, Body="?", TargetVariant="b")
    assert json.loads(answer["Body"].read())[0] == answer["InvokedProductionVariant"] == "b"
    with pytest.raises(ClientError, match="Variant c was not found"):
        ask(runtime, name, TargetVariant="c")
    weights = [{"VariantName": "a", "DesiredWeight": 1}, {"VariantName": "b", "DesiredWeight": 1}]
    client.update_endpoint_weights_and_capacities(
        EndpointName=name, DesiredWeightsAndCapacities=weights
    )
    summaries = wait(name)["ProductionVariants"]
    assert [summary["CurrentWeight"] for summary in summaries] == [1.0, 1.0]
    counts = [ask(runtime, name)[0] for _ in range(100)].count("a")
    assert 20 < counts < 80


def test_an_endpoint_is_gone_when_deleted(
    make_config, make_model, endpoints, wait, client, runtime
):
    name = endpoints(make_config(variant(make_model("x"))))
    wait(name)
    before = set(psutil.Process().children())
    client.delete_endpoint(EndpointName=name)
    with pytest.raises(ClientError, match="Could not find endpoint"):
        client.describe_endpoint(EndpointName=name)
    with pytest.raises(ClientError, match=f"Endpoint {name} of account 123456789012 not found"):
        ask(runtime, name)
    assert len(set(psutil.Process().children()) & before) == len(before) - 1
    endpoints(make_config(variant(make_model("y"))), name)  # the name is free again
    wait(name)
    assert ask(runtime, name) == ["y", "?"]


def test_the_containers_errors_come_as_aws_gives_them(
    endpoints, make_config, make_model, wait, runtime, client
):
    name = endpoints(make_config(variant(make_model("x"))))
    wait(name)
    with pytest.raises(runtime.exceptions.ModelError) as error:
        ask(runtime, name, "fail")
    answer = error.value.response
    assert answer["OriginalStatusCode"] == 500
    assert "error" in json.loads(answer["OriginalMessage"])
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 424
    assert "Received server error (500) from primary with message" in str(error.value)
    with pytest.raises(ClientError, match="TargetModel is not supported on this machine"):
        ask(runtime, name, TargetModel="m.tar.gz")


def test_a_url_answers_clients_that_do_not_sign(endpoints, make_config, make_model, wait, client):
    name = endpoints(make_config(variant(make_model("x"))))
    wait(name)
    url = f"{client.meta.endpoint_url}/endpoints/{name}/invocations"
    with urllib.request.urlopen(urllib.request.Request(url, b"hello")) as answer:
        assert json.load(answer) == ["x", "hello"]


def test_an_unpacked_model_serves(endpoints, make_config, wait, runtime, client):
    s3 = boto3.client("s3")
    for key, body in {"word": "loose", "code/inference.py": PROGRAM}.items():
        s3.put_object(Bucket="sagemaker-local", Key=f"unpacked/{key}", Body=body)
    source = {
        "S3Uri": "s3://sagemaker-local/unpacked/",
        "S3DataType": "S3Prefix",
        "CompressionType": "None",
    }
    container = {"Image": "gam-model", "ModelDataSource": {"S3DataSource": source}}
    client.create_model(ModelName="unpacked", PrimaryContainer=container)
    name = endpoints(make_config(variant("unpacked")))
    assert wait(name)["EndpointStatus"] == "InService"
    assert ask(runtime, name) == ["loose", "?"]


@pytest.mark.parametrize(
    ("container", "sentence"),
    [
        ({"Mode": "MultiModel"}, "Mode MultiModel is not supported"),
        ({"MultiModelConfig": {"ModelCacheSetting": "Enabled"}}, "MultiModelConfig is not"),
        ({"ModelPackageName": "p"}, "either PrimaryContainer.ModelPackageName or Image"),
    ],
)
def test_models_of_other_kinds_are_refused_by_name(client, container, sentence):
    with pytest.raises(ClientError, match=sentence):
        client.create_model(ModelName="m", PrimaryContainer={"Image": "i", **container})


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"ServerlessConfig": {"MemorySizeInMB": 1024, "MaxConcurrency": 1}}, "ServerlessConfig"),
        ({"AcceleratorType": "ml.eia1.medium"}, "AcceleratorType is not supported"),
        ({"ModelName": "never-made"}, "Could not find model"),
    ],
)
def test_variants_of_other_kinds_are_refused_by_name(client, make_model, change, sentence):
    with pytest.raises(ClientError, match=sentence):
        client.create_endpoint_config(
            EndpointConfigName="c", ProductionVariants=[variant(make_model("x")) | change]
        )
    with pytest.raises(ClientError, match="Could not find endpoint configuration"):
        client.describe_endpoint_config(EndpointConfigName="c")


def test_a_registered_package_is_deployed_once_it_is_approved(session, client, runtime):
    client.create_model_package_group(ModelPackageGroupName="words")
    uri = put("registered.tar.gz", word="registered", **{"code/inference.py": PROGRAM})
    package = client.create_model_package(
        ModelPackageGroupName="words",
        ModelApprovalStatus="PendingManualApproval",
        InferenceSpecification={
            "Containers": [{"Image": "gam-model", "ModelDataUrl": uri}],
            "SupportedContentTypes": ["text/csv"],
            "SupportedResponseMIMETypes": ["text/csv"],
        },
    )["ModelPackageArn"]
    with pytest.raises(ClientError, match="is PendingManualApproval; approve it first"):
        client.create_model(ModelName="early", PrimaryContainer={"ModelPackageName": package})
    with pytest.raises(ClientError, match=r"ModelPackageName: Model package .* not found"):
        client.create_model(ModelName="none", PrimaryContainer={"ModelPackageName": "absent"})
    # Which approves it, as the SDK does.
    model = sagemaker.ModelPackage(
        role="arn:aws:iam::123456789012:role/local",
        model_package_arn=package,
        sagemaker_session=session,
    )
    model.deploy(1, "ml.m5.large", endpoint_name="registered")
    described = client.describe_model_package(ModelPackageName=package)
    assert described["ModelApprovalStatus"] == "Approved"
    assert ask(runtime, "registered") == ["registered", "?"]
    (container,) = client.describe_model(ModelName=model.name)["Containers"]
    assert container["ModelPackageName"] == package
    client.delete_endpoint(EndpointName="registered")
