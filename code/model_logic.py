"""The GAM: trains a `gam_model.GAMRegressor` and serves it with exact explanations.

Training reads the channel ``train`` (and ``test``, if there is one) and writes model.joblib and
model.json. Serving is the four hooks of SageMaker's scikit-learn contract, so the same file runs
under this project's server and under AWS's.
"""

import argparse
import importlib.metadata
import json
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import joblib
import numpy as np

import payload
from gam_model import GAMRegressor
from job import Job, JobError, run, split_target
from payload import Answer, Explanation, PayloadError, Table

FORMAT_VERSION = 1
LIBRARIES = ("gam-model", "joblib", "numpy", "scikit-learn", "scipy", "statsmodels")


class Model(NamedTuple):
    """A fitted regressor and the names of its features."""

    regressor: GAMRegressor
    features: list[str]


# ---------------------------------------------------------------- serving


def model_fn(model_dir: str) -> Model:
    """Load what `train` wrote."""
    folder = Path(model_dir)
    described = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    if described["format_version"] != FORMAT_VERSION:
        raise ValueError(
            f"model.json has format_version {described['format_version']}, this program reads "
            f"{FORMAT_VERSION}; train the model again with this image"
        )
    features = [feature["name"] for feature in described["features"]]
    return Model(joblib.load(folder / "model.joblib"), features)


def input_fn(body: bytes | str, content_type: str) -> Table:
    """Read a request."""
    return payload.decode(body, content_type)


def predict_fn(table: Table, model: Model) -> Answer:
    """Predict every row; the explanation is worked out only if the client accepts one."""
    X = table.matrix(model.features)
    terms = model.regressor.terms_
    try:
        with np.errstate(over="ignore", invalid="ignore"):  # refused below
            prediction = terms.predict(X)
    except ValueError as error:  # outside the training range, with extrapolate="error"
        raise PayloadError(str(error)) from None
    if not np.isfinite(prediction).all():
        row = int(np.isfinite(prediction).argmin())
        raise PayloadError(f"row {row} is so far outside the training range that it overflows")

    def explain() -> Explanation:
        values = dict(zip(model.features, terms.contributions(X).T, strict=True))
        scale = "response" if terms.link == "identity" else "link"
        return Explanation(terms.intercept, values, scale)

    return Answer(prediction, explain)


def output_fn(answer: Answer, accept: str) -> tuple[bytes, str]:
    """Write the answer."""
    return payload.encode(answer, accept)


# ---------------------------------------------------------------- training


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the hyperparameters."""
    parser.add_argument("--df", type=int, default=15)
    parser.add_argument("--alpha", type=number_or_auto, default=1.0)
    parser.add_argument("--degree", type=int, default=3)
    parser.add_argument("--extrapolate", default="linear")
    parser.add_argument("--target", default="-1", help="name or index of the target's column")
    parser.add_argument("--train-file", help="one file of the channel train; else all of them")
    parser.add_argument("--test-file", help="one file of the channel test; else all of them")


def number_or_auto(text: str) -> float | str:
    """Read a hyperparameter that may be chosen from the data."""
    try:
        return text if text == "auto" else float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor 'auto'") from None


def train(job: Job, arguments: argparse.Namespace) -> None:
    """Fit, measure and save one model."""
    table = job.read("train", arguments.train_file)
    features, y = split_target(table, arguments.target)
    X = features.values
    distinct = [len(np.unique(column)) for column in X.T]
    if arguments.df > max(distinct):
        raise JobError(
            f"df={arguments.df} is too large for the data: no feature has more than "
            f"{max(distinct)} distinct values; lower df to that or less"
        )
    regressor = GAMRegressor(
        df=arguments.df,
        alpha=arguments.alpha,
        degree=arguments.degree,
        extrapolate=arguments.extrapolate,
    )
    try:
        regressor.fit(X if table.names is None else features.frame(), y)
    except ValueError as error:
        raise JobError(str(error)) from None
    print(regressor.summary(), flush=True)

    metrics = measure("train", y, regressor.terms_.predict(X))
    if "test" in job.channels:
        test = job.read("test", arguments.test_file)
        if (test.names, test.values.shape[1]) != (table.names, table.values.shape[1]):
            raise JobError("the columns of channel 'test' are not those of channel 'train'")
        features_test, y_test = split_target(test, arguments.target)
        try:
            metrics |= measure("test", y_test, regressor.terms_.predict(features_test.values))
        except ValueError as error:  # outside the training range, with extrapolate="error"
            raise JobError(f"channel 'test': {error}") from None
    job.log_metrics(**metrics)

    joblib.dump(regressor, job.model_dir / "model.joblib")
    job.write_json("model.json", describe(regressor, features.names, X, metrics))


def measure(split: str, y: np.ndarray, prediction: np.ndarray) -> dict[str, float]:
    """Return R^2 and root mean squared error, named after the split."""
    residual = float(np.sum((y - prediction) ** 2))
    total = float(np.sum((y - y.mean()) ** 2))
    # As in scikit-learn: a constant target is matched (1) or missed (0).
    r2 = 1 - residual / total if total else float(residual == 0)
    return {f"r2_{split}": r2, f"rmse_{split}": (residual / len(y)) ** 0.5}


def describe(
    regressor: GAMRegressor, features: Sequence[str], X: np.ndarray, metrics: dict[str, float]
) -> dict:
    """Return what model.json says: enough to know the model without loading it."""
    versions = {name: importlib.metadata.version(name) for name in LIBRARIES}
    return {
        "format_version": FORMAT_VERSION,
        "libraries": {"python": platform.python_version(), **versions},
        "hyperparameters": regressor.get_params(),
        "features": [
            {"name": name, "min": float(column.min()), "max": float(column.max())}
            for name, column in zip(features, X.T, strict=True)
        ],
        "metrics": metrics,
    }


if __name__ == "__main__":
    run(add_arguments, train)
