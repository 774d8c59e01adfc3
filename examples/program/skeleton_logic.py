"""The skeleton program: a ridge regression of numbers, with what each of them adds to an answer.

Training reads the channel ``train`` (and ``test``, if there is one) and writes model.json. Serving
is the four hooks of SageMaker's contract. Change the three places that are marked with TODO.
"""

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np

from program_toolkit import answers, payload
from program_toolkit.answers import Answer, Explanation
from program_toolkit.job import Job, JobError, read_description, run, split_target
from program_toolkit.table import PayloadError, Table, describe_numbers

FORMAT_VERSION = 1  # of model.json; count it up when an older program could not read a newer one
LIBRARIES = ("numpy", "scikit-learn")


class Model(NamedTuple):
    """What serving needs."""

    features: list[str]
    mean: np.ndarray
    coef: np.ndarray
    intercept: float

    def contributions(self, X: np.ndarray) -> np.ndarray:
        """Return what each feature adds to the mean prediction; shape (n, p) in and out."""
        return (X - self.mean) * self.coef


# ---------------------------------------------------------------- serving


def model_fn(model_dir: str) -> Model:
    """Load what `train` wrote."""
    described = read_description(Path(model_dir), FORMAT_VERSION)
    names, mean, coef = (
        [feature[key] for feature in described["features"]] for key in ("name", "mean", "coef")
    )
    return Model(names, np.array(mean), np.array(coef), described["intercept"])


def input_fn(body: bytes | str, content_type: str) -> Table:
    """Read a request: npy, CSV, JSON or JSON lines."""
    return payload.decode(body, content_type)


def predict_fn(table: Table, model: Model) -> Answer:
    """Predict every row."""
    X = table.matrix(model.features)  # by name, or 400 with what is missing or unknown
    parts = model.contributions(X)  # TODO: your own model's prediction and explanation
    prediction = model.intercept + parts.sum(axis=1)
    if not np.isfinite(prediction).all():
        raise PayloadError("a value is too large for this model; correct it")

    def explain() -> Explanation:
        return Explanation(model.intercept, dict(zip(model.features, parts.T, strict=True)))

    return Answer(prediction, explain, by_line=table.by_line)


def output_fn(answer: Answer, accept: str) -> tuple[bytes, str]:
    """Write the answer, with its explanation if the client accepts ``explain=true``."""
    return answers.encode(answer, accept)


# ---------------------------------------------------------------- training


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the hyperparameters."""
    parser.add_argument("--target", default="-1", help="name or index of its column")
    parser.add_argument("--alpha", type=float, default=1.0)  # TODO: your own


def train(job: Job, arguments: argparse.Namespace) -> None:
    """Fit, measure and save one model."""
    from sklearn.linear_model import Ridge

    table, y = split_target(job.read("train"), arguments.target)
    try:
        ridge = Ridge(alpha=arguments.alpha).fit(table.values, y)  # TODO: your own
    except ValueError as error:
        raise JobError(str(error)) from None
    mean = table.values.mean(axis=0)
    model = Model(list(table.names), mean, ridge.coef_, float(ridge.predict(mean[None])[0]))
    metrics = {"rmse_train": measure(table, y, model)}
    if "test" in job.channels:
        try:
            metrics["rmse_test"] = measure(
                *split_target(job.read("test"), arguments.target), model
            )
        except PayloadError as error:  # other columns
            raise JobError(f"channel 'test': {error}") from None
    job.log_metrics(**metrics)
    job.write_description(
        LIBRARIES,
        format_version=FORMAT_VERSION,
        features=[
            {"name": name, "mean": float(mean), "coef": float(coef)} | describe_numbers(column)
            for name, mean, coef, column in zip(
                model.features, model.mean, model.coef, table.values.T, strict=True
            )
        ],
        intercept=model.intercept,
        metrics=metrics,
    )


def measure(table: Table, y: np.ndarray, model: Model) -> float:
    """Return the root mean squared error."""
    return float(np.sqrt(np.mean((predict_fn(table, model).prediction - y) ** 2)))


if __name__ == "__main__":
    run(add_arguments, train)
