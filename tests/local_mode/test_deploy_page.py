"""The cells of docs/deploy.md that are said to run on this machine do."""

import re

import numpy as np
import pandas as pd
import pytest
import s3fs
from sagemaker.estimator import Estimator

from local_mode import load_config, session_for
from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def notebook(tmp_path_factory):
    """What the notebook has before its last cell."""
    config = load_config(ROOT / "config.json")
    session = session_for(config)
    bucket, s3 = session.default_bucket(), s3fs.S3FileSystem()
    data = pd.read_csv(
        ROOT / "data" / "Gauss3.dat", sep=r"\s+", skiprows=60, names=["y", "x"]
    ).sample(frac=1, random_state=1)
    train, test = data[["x", "y"]][:180], data[["x", "y"]][180:]
    for channel, part in {"train": train, "test": test}.items():
        with s3.open(f"s3://{bucket}/gauss3/{channel}/gauss3.csv", "w") as file:
            part.to_csv(file, header=False, index=False)
    estimator = Estimator(
        config.image_uri,
        config.role_arn,
        1,
        config.train_instance_type,
        output_path=f"s3://{bucket}/gauss3/models",
        sagemaker_session=session,
    )
    estimator.fit({name: f"s3://{bucket}/gauss3/{name}" for name in ("train", "test")})
    yield {**locals(), "pd": pd}
    session.close()


def run_cell(heading, notebook):
    text = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    (cell,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    exec(compile(cell, heading, "exec"), notebook)
    return notebook


def test_an_endpoint(notebook):
    run_cell("An endpoint", notebook)
    client = notebook["session"].sagemaker_client
    assert client.list_endpoints()["Endpoints"] == []


def test_batch_transform(notebook):
    answers = run_cell("Batch transform", notebook)["answers"][0]
    y = notebook["test"]["y"]
    assert 1 - np.var(y.to_numpy() - answers) / np.var(y) > 0.99


def test_tuning(notebook):
    tuner = run_cell("Tuning", notebook)["tuner"]
    table = tuner.analytics().dataframe()
    assert len(table) == 4
    best = table.loc[table["FinalObjectiveValue"].idxmax(), "TrainingJobName"]
    assert tuner.best_training_job() == best


def test_model_packages(notebook):
    package = run_cell("Model packages", notebook)["package"]
    client = notebook["session"].sagemaker_client
    found = client.describe_model_package(ModelPackageName=package.model_package_arn)
    assert found["ModelApprovalStatus"] == "Approved"


REFUSED = {
    "Async": {"InitialInstanceCount": 1, "InstanceType": "ml.m5.large"},
    "Serverless": {"ServerlessConfig": {"MemorySizeInMB": 2048, "MaxConcurrency": 1}},
}


@pytest.mark.parametrize("word", REFUSED)
def test_what_is_refused_here_is_said_to_be(notebook, word):
    client = notebook["session"].sagemaker_client
    assert re.search(rf"\[{word}\w*\]\(.*\| refused \|", PAGE, flags=re.IGNORECASE)
    more = {"AsyncInferenceConfig": {"OutputConfig": {"S3OutputPath": "s3://b/o"}}}
    with pytest.raises(client.exceptions.ClientError, match=word):
        client.create_endpoint_config(
            EndpointConfigName=word,
            ProductionVariants=[{"VariantName": "v", "ModelName": "m"} | REFUSED[word]],
            **(more if word == "Async" else {}),
        )
