"""example.ipynb: the same cells in mode process, and in mode aws against AWS's API."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import boto3
import nbformat

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "example.ipynb"


def run(notebook: Path, **environment: str) -> str:
    process = subprocess.run(
        [sys.executable, "-m", "local_mode.notebook", notebook],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


def test_process_mode_fits_gauss3():
    picture = ROOT / "build" / "gauss3_fitted.png"
    picture.unlink(missing_ok=True)
    output = run(NOTEBOOK)
    last = output.splitlines()[-1]
    match = re.fullmatch(r"demo: mode=process r2_train=(\S+) r2_test=(\S+)", last)
    assert float(match[1]) >= 0.99
    assert float(match[2]) >= 0.99
    # Of 250 rows none is dropped, though some test rows may lie outside the training range.
    assert "187 training rows" in output
    assert "63 test rows" in output
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_the_notebook_is_committed_without_output():
    for cell in nbformat.read(NOTEBOOK, as_version=4).cells:
        assert not cell.get("outputs")


def test_aws_mode_asks_for_what_config_json_says(aws, tmp_path):
    image = "123456789012.dkr.ecr.eu-west-1.amazonaws.com/gam-model:latest"
    role = "arn:aws:iam::123456789012:role/sagemaker-execution"
    config = {
        "mode": "aws",
        "region": "eu-west-1",
        "default_bucket": "my-models",
        "role_arn": role,
        "image_uri": image,
        "train_instance_type": "ml.c5.xlarge",
        "serve_instance_type": "ml.t2.large",
        "hyperparameters": {"df": 20, "alpha": 0.5},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    # moto runs no container, so the cells after the endpoint's creation have nobody to ask.
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    deploy = next(i for i, cell in enumerate(notebook.cells) if ".deploy(" in cell.source)
    notebook.cells = notebook.cells[: deploy + 1]
    (tmp_path / "data").symlink_to(ROOT / "data")
    nbformat.write(notebook, tmp_path / "until_endpoint.ipynb")

    run(tmp_path / "until_endpoint.ipynb", CONFIG=str(tmp_path / "config.json"))

    client = boto3.client("sagemaker", region_name="eu-west-1")
    (summary,) = client.list_training_jobs()["TrainingJobSummaries"]
    job = client.describe_training_job(TrainingJobName=summary["TrainingJobName"])
    assert job["AlgorithmSpecification"]["TrainingImage"] == image
    assert job["RoleArn"] == role
    assert job["ResourceConfig"]["InstanceType"] == "ml.c5.xlarge"
    assert job["HyperParameters"] == {"df": "20", "alpha": "0.5", "train-file": "gauss3.csv"}
    assert job["OutputDataConfig"]["S3OutputPath"] == "s3://my-models/gauss3/models"
    channels = {
        channel["ChannelName"]: channel["DataSource"]["S3DataSource"]["S3Uri"]
        for channel in job["InputDataConfig"]
    }
    assert channels == {
        "train": "s3://my-models/gauss3/train",
        "test": "s3://my-models/gauss3/test",
    }
    s3 = boto3.client("s3", region_name="eu-west-1")
    rows = s3.get_object(Bucket="my-models", Key="gauss3/train/gauss3.csv")["Body"].read()
    assert len(rows.splitlines()) == 187

    (summary,) = client.list_models()["Models"]
    model = client.describe_model(ModelName=summary["ModelName"])
    assert model["ExecutionRoleArn"] == role
    assert model["PrimaryContainer"]["Image"] == image
    assert model["PrimaryContainer"]["ModelDataUrl"] == job["ModelArtifacts"]["S3ModelArtifacts"]
    (summary,) = client.list_endpoints()["Endpoints"]
    endpoint = client.describe_endpoint(EndpointName=summary["EndpointName"])
    assert endpoint["EndpointStatus"] == "InService"
    variants = client.describe_endpoint_config(EndpointConfigName=endpoint["EndpointConfigName"])[
        "ProductionVariants"
    ]
    assert [v["InstanceType"] for v in variants] == ["ml.t2.large"]
