"""Automatic tuning on this machine's SageMaker, as plain boto3 and the SDK see it."""

import io
import json
import sys
import tarfile
import time
import uuid

import boto3
import numpy as np
import pytest
from botocore.exceptions import ClientError
from sagemaker.analytics import HyperparameterTuningJobAnalytics
from sagemaker.estimator import Estimator
from sagemaker.serializers import CSVSerializer
from sagemaker.tuner import CategoricalParameter, HyperparameterTuner

from local_mode.search import make_search
from local_mode.wire import ApiError

ROLE = "arn:aws:iam::123456789012:role/local"
LOSS = [{"Name": "loss", "Regex": r"loss=([-\d.e]+)"}]
X = {"Name": "x", "MinValue": "-1", "MaxValue": "3"}
# Prints (x - 1)^2.
PROGRAM = """
import argparse, os, time
parser = argparse.ArgumentParser()
parser.add_argument("-x", type=float)
parser.add_argument("--note")
x = parser.parse_known_args()[0].x
time.sleep(float(os.environ.get("DELAY", "0")))
print(f"loss={(x - 1) ** 2}", flush=True)
assert x > float(os.environ.get("FAIL_BELOW", "-9")), "asked to fail"
"""


@pytest.fixture(scope="module")
def code(session) -> str:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        member = tarfile.TarInfo("train.py")
        member.size = len(PROGRAM)
        tar.addfile(member, io.BytesIO(PROGRAM.encode()))
    boto3.client("s3").put_object(
        Bucket="sagemaker-local", Key="tuned.tar.gz", Body=stream.getvalue()
    )
    return "s3://sagemaker-local/tuned.tar.gz"


@pytest.fixture
def create(client, code):
    """Start a tuning job whose training jobs run a script; return its name."""

    def create(definition: dict | None = None, environment: dict | None = None, **config) -> str:
        name = f"tune-{uuid.uuid4().hex[:8]}"
        more = {key: config.pop(key) for key in ("WarmStartConfig",) if key in config}
        client.create_hyper_parameter_tuning_job(
            HyperParameterTuningJobName=name,
            HyperParameterTuningJobConfig={
                "Strategy": "Random",
                "HyperParameterTuningJobObjective": {"Type": "Minimize", "MetricName": "loss"},
                "ResourceLimits": {"MaxNumberOfTrainingJobs": 4, "MaxParallelTrainingJobs": 2},
                "ParameterRanges": {"ContinuousParameterRanges": [X]},
                **config,
            },
            TrainingJobDefinition={
                "AlgorithmSpecification": {
                    "TrainingImage": "gam-model",
                    "TrainingInputMode": "File",
                    "MetricDefinitions": LOSS,
                },
                "StaticHyperParameters": {
                    "note": "same",
                    "sagemaker_program": "train.py",
                    "sagemaker_submit_directory": code,
                },
                "RoleArn": ROLE,
                "OutputDataConfig": {"S3OutputPath": "s3://sagemaker-local/tuning"},
                "ResourceConfig": {
                    "InstanceType": "ml.m5.large",
                    "InstanceCount": 1,
                    "VolumeSizeInGB": 1,
                },
                "StoppingCondition": {"MaxRuntimeInSeconds": 600},
                "Environment": environment or {},
                **(definition or {}),
            },
            **more,
        )
        return name

    return create


@pytest.fixture
def ended(client):
    """Wait for the end of a tuning job; return its description."""

    def ended(name: str, limit: float = 120) -> dict:
        deadline = time.monotonic() + limit
        while time.monotonic() < deadline:
            job = client.describe_hyper_parameter_tuning_job(HyperParameterTuningJobName=name)
            if job["HyperParameterTuningJobStatus"] not in ("InProgress", "Stopping"):
                return job
            time.sleep(0.1)
        raise AssertionError(job)

    return ended


def test_the_best_of_several_jobs_is_found(client, create, ended):
    """Here with a list a page at a time, and the counters on the way."""
    name = create(RandomSeed=1, environment={"DELAY": "0.5"})
    most = 0
    while True:
        job = client.describe_hyper_parameter_tuning_job(HyperParameterTuningJobName=name)
        most = max(most, job["TrainingJobStatusCounters"]["InProgress"])
        if job["HyperParameterTuningJobStatus"] != "InProgress":
            break
        time.sleep(0.1)
    job = ended(name)
    assert job["HyperParameterTuningJobStatus"] == "Completed", job
    assert most == 2  # MaxParallelTrainingJobs
    assert job["TrainingJobStatusCounters"] == {
        "Completed": 4,
        "InProgress": 0,
        "RetryableError": 0,
        "NonRetryableError": 0,
        "Stopped": 0,
    }
    assert job["ObjectiveStatusCounters"] == {"Succeeded": 4, "Pending": 0, "Failed": 0}
    assert job["HyperParameterTuningEndTime"] >= job["CreationTime"]
    pages = client.get_paginator("list_training_jobs_for_hyper_parameter_tuning_job").paginate(
        HyperParameterTuningJobName=name,
        SortBy="FinalObjectiveMetricValue",
        PaginationConfig={"PageSize": 3},
    )
    found = [item for page in pages for item in page["TrainingJobSummaries"]]
    losses = [i["FinalHyperParameterTuningJobObjectiveMetric"]["Value"] for i in found]
    assert losses == sorted(losses)
    for item, loss in zip(found, losses, strict=True):
        assert (float(item["TunedHyperParameters"]["x"]) - 1) ** 2 == pytest.approx(loss)
    best = job["BestTrainingJob"]
    assert best == found[0]
    trained = client.describe_training_job(TrainingJobName=best["TrainingJobName"])
    assert trained["TuningJobArn"] == job["HyperParameterTuningJobArn"]
    assert trained["HyperParameters"]["_tuning_objective_metric"] == "loss"
    assert trained["HyperParameters"]["note"] == "same"
    (listed,) = client.list_hyper_parameter_tuning_jobs(NameContains=name)[
        "HyperParameterTuningJobSummaries"
    ]
    assert (listed["Strategy"], listed["HyperParameterTuningJobStatus"]) == ("Random", "Completed")
    client.delete_hyper_parameter_tuning_job(HyperParameterTuningJobName=name)
    with pytest.raises(ClientError, match="not found"):
        client.describe_hyper_parameter_tuning_job(HyperParameterTuningJobName=name)


def test_jobs_that_fail_are_no_candidates_and_all_of_them_fail_the_tuning(create, ended):
    grid = {"CategoricalParameterRanges": [{"Name": "x", "Values": ["1", "2", "4"]}]}
    limits = {"MaxParallelTrainingJobs": 3}
    config = {"Strategy": "Grid", "ParameterRanges": grid, "ResourceLimits": limits}
    some = create(environment={"FAIL_BELOW": "1.5"}, **config)
    all_of_them = create(environment={"FAIL_BELOW": "9"}, **config)
    job = ended(some)
    assert job["HyperParameterTuningJobStatus"] == "Completed", job
    assert job["BestTrainingJob"]["TunedHyperParameters"] == {"x": "2"}
    assert job["TrainingJobStatusCounters"]["NonRetryableError"] == 1
    job = ended(all_of_them)
    assert job["HyperParameterTuningJobStatus"] == "Failed"
    assert "No training job has ended with the objective metric" in job["FailureReason"]
    assert "BestTrainingJob" not in job


def test_a_tuning_job_ends_with_its_target(create, ended):
    limits = {"MaxNumberOfTrainingJobs": 20, "MaxParallelTrainingJobs": 1}
    criteria = {"TargetObjectiveMetricValue": 100.0}
    job = ended(create(ResourceLimits=limits, TuningJobCompletionCriteria=criteria))
    assert job["HyperParameterTuningJobStatus"] == "Completed"
    assert job["TrainingJobStatusCounters"]["Completed"] == 1


def test_a_tuning_job_can_be_stopped(client, create, ended):
    name = create(environment={"DELAY": "60"})
    client.stop_hyper_parameter_tuning_job(HyperParameterTuningJobName=name)
    job = ended(name)
    assert job["HyperParameterTuningJobStatus"] == "Stopped"
    assert job["TrainingJobStatusCounters"]["Stopped"] == 2
    with pytest.raises(ClientError, match="is in status Stopped"):
        client.stop_hyper_parameter_tuning_job(HyperParameterTuningJobName=name)


PARENT = {
    "ParentHyperParameterTuningJobs": [{"HyperParameterTuningJobName": "before"}],
    "WarmStartType": "TransferLearning",
}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"WarmStartConfig": PARENT}, "WarmStartConfig is not supported"),
        ({"Strategy": "Hyperband"}, "Strategy Hyperband is not supported"),
        ({"Strategy": "Grid"}, "Grid takes CategoricalParameterRanges only"),
        ({"TrainingJobEarlyStoppingType": "Auto"}, "EarlyStoppingType Auto is not supported"),
        (
            {"ResourceLimits": {"MaxNumberOfTrainingJobs": 1, "MaxParallelTrainingJobs": 2}},
            "MaxParallelTrainingJobs is 2, more than",
        ),
        (
            {"HyperParameterTuningJobObjective": {"Type": "Minimize", "MetricName": "auc"}},
            "'auc' is not one of .*: loss",
        ),
        ({"definition": {"StaticHyperParameters": {"x": "1"}}}, "both static and tuned: x"),
        (
            {"definition": {"InputDataConfig": [{"ChannelName": "t", "DataSource": {}}]}},
            "must have an S3DataSource",
        ),
        (
            {"ParameterRanges": {"IntegerParameterRanges": [{**X, "MaxValue": "1.5"}]}},
            "must go from MinValue to MaxValue, which are integers",
        ),
        (
            {
                "ParameterRanges": {
                    "ContinuousParameterRanges": [{**X, "ScalingType": "Logarithmic"}]
                }
            },
            "Logarithmic needs MinValue > 0",
        ),
        (
            {"ParameterRanges": {"AutoParameters": [{"Name": "x", "ValueHint": "1"}]}},
            "AutoParameters is not supported",
        ),
        ({"ParameterRanges": {}}, "must have a range"),
    ],
)
def test_tunings_of_other_kinds_are_refused_by_name(client, create, changes, message):
    with pytest.raises(ClientError, match=message):
        create(**changes)


def test_six_jobs_of_the_programs_own_find_the_better_half(session, gauss3_split, tmp_path):
    """By the SDK's tuner, over `df` and `criterion` of code/model_logic.py."""
    for name in ("train", "test"):
        np.savetxt(tmp_path / f"{name}.csv", getattr(gauss3_split, name), delimiter=",")
    estimator = Estimator("gam-model", ROLE, 1, "local", sagemaker_session=session)
    tuner = HyperparameterTuner(
        estimator,
        "r2_test",
        {
            "df": CategoricalParameter(["4", "12", "24"]),
            "criterion": CategoricalParameter(["reml", "gcv"]),
        },
        metric_definitions=[{"Name": "r2_test", "Regex": "r2_test=(.*?);"}],
        strategy="Grid",
        max_jobs=6,
        max_parallel_jobs=2,
    )
    tuner.fit({name: f"file://{tmp_path / name}.csv" for name in ("train", "test")})
    table = HyperparameterTuningJobAnalytics(
        tuner.latest_tuning_job.name, sagemaker_session=session
    ).dataframe()
    assert len(table) == 6
    best = tuner.best_estimator()
    values = table.sort_values("FinalObjectiveValue", ascending=False)
    assert best.latest_training_job.name in set(values["TrainingJobName"][:3])
    assert float(best.hyperparameters()["df"]) > 4
    assert set(values["df"].astype(float)[-2:]) == {4}
    predictor = tuner.deploy(1, "local", serializer=CSVSerializer())
    try:
        assert json.loads(predictor.predict([[100.0]]))["prediction"][0] > 0
    finally:
        predictor.delete_endpoint()


# ---- what is tried -----------------------------------------------------------------------------


def search(strategy: str, seed: int | None = None, **ranges):
    return make_search(
        {
            "Strategy": strategy,
            "RandomSeed": seed,
            "ParameterRanges": ranges,
            "ResourceLimits": {},
            "HyperParameterTuningJobObjective": {"Type": "Minimize", "MetricName": "loss"},
        }
    )


@pytest.mark.parametrize("strategy", ["Random", "Bayesian"])
def test_a_seed_makes_what_is_tried_the_same_again(strategy):
    ranges = {
        "ContinuousParameterRanges": [X],
        "CategoricalParameterRanges": [{"Name": "kind", "Values": ["a", "b"]}],
    }
    first, second, other = (search(strategy, seed, **ranges) for seed in (3, 3, 4))
    tried = [[one.ask() for _ in range(5)] for one in (first, second, other)]
    assert tried[0] == tried[1] != tried[2]


def test_ranges_are_kept_on_every_scale():
    def values(kind: str, low: str, high: str, scaling: str) -> np.ndarray:
        item = {"Name": "x", "MinValue": low, "MaxValue": high, "ScalingType": scaling}
        found = search("Random", 0, **{f"{kind}ParameterRanges": [item]})
        return np.array([float(found.ask()["x"]) for _ in range(3000)])

    counts = np.bincount(values("Integer", "1", "3", "Linear").astype(int))
    assert counts[1:].min() > 900  # each a third
    assert len(counts) == 4
    logs = values("Continuous", "0.001", "10", "Logarithmic")
    assert logs.min() >= 0.001
    assert logs.max() <= 10
    assert np.median(logs) == pytest.approx(0.1, rel=0.3)
    near_one = values("Continuous", "0", "0.999", "ReverseLogarithmic")
    assert np.median(near_one) == pytest.approx(1 - 0.001**0.5, abs=0.01)
    assert set(values("Integer", "1", "1000", "Logarithmic")) <= set(range(1, 1001))


def test_bayesian_learns_from_what_it_is_told():
    """20 tries of (x - 1)^2 over [-100, 100] come nearer than most of 20 at random."""
    ranges = {"ContinuousParameterRanges": [{"Name": "x", "MinValue": "-100", "MaxValue": "100"}]}

    def best(strategy: str, seed: int) -> float:
        found, losses = search(strategy, seed, **ranges), []
        for _ in range(20):
            tried = found.ask()
            losses.append((float(tried["x"]) - 1) ** 2)
            found.tell(tried, losses[-1])
        return min(losses)

    wins = sum(best("Bayesian", seed) < best("Random", seed) for seed in range(9))
    assert wins >= 6


def test_without_optuna_bayesian_is_refused_with_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ApiError, match="needs optuna on this machine: pip install optuna"):
        search("Bayesian", ContinuousParameterRanges=[X])
