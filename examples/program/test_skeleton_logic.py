"""The skeleton program: a job by the real train, and its model by the real serve."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

EXPLAIN = "application/json; explain=true"


@pytest.fixture(scope="module")
def job(training_job):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 2))
    rows = np.column_stack([X, 3 + X @ [2, -1] + rng.normal(scale=0.1, size=200)])
    lines = ["x0,x1,y", *(",".join(map(repr, row)) for row in rows.tolist())]
    files = {
        "train/a.csv": "\n".join(lines[:151]),
        "test/b.csv": "\n".join([lines[0], *lines[151:]]),
    }
    job = training_job(files, {"alpha": "0.1"}, "skeleton_logic.py").run()
    assert job.exit_code == 0, job.log
    return job


def test_it_learns(job):
    assert float(re.search(r"rmse_test=(.*?);", job.log)[1]) < 0.2


def test_it_answers_with_reasons(job, serve, request_body):
    with serve(job.base, SAGEMAKER_PROGRAM="skeleton_logic.py") as endpoint:
        answer = endpoint.invoke(request_body, "application/json", EXPLAIN)
        assert endpoint.invoke("x0\n1\n", "text/csv").status == 400
    assert answer.status == 200, answer.body
    np.testing.assert_allclose(answer.json["prediction"], [8, 0], atol=0.2)
    reasons = answer.json["shap_base"] + np.sum(list(answer.json["shap_values"].values()), axis=0)
    np.testing.assert_allclose(reasons, answer.json["prediction"])


@pytest.mark.parametrize(
    ("files", "failure"),
    [
        ({}, "no channel 'train'"),
        ({"train/a.csv": "x,y\n1,2\n2,z\n"}, "column 'y': 'z' is not a number"),
        ({"train/a.csv": "x,y\n1,2\n2,3\n", "test/b.csv": "z,y\n1,2\n"}, "missing 'x'"),
    ],
)
def test_a_bad_job_fails_in_one_sentence(training_job, files, failure):
    job = training_job(files, program="skeleton_logic.py").run_program()
    assert job.exit_code == 1
    assert failure in job.failure


@pytest.fixture
def request_body() -> str:
    body = (Path(__file__).parents[2] / "examples" / "skeleton.json").read_text()
    assert "instances" in json.loads(body)
    return body
