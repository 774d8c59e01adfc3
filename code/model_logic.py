"""The GAM: trains a `gam_model.GAMRegressor` and serves it with exact explanations.

Training reads the channel ``train`` (and ``test``, if there is one), in memory or, where it is
large, chunk by chunk. It writes gam.json, which serving reads; model.json, which says what is in
it; model.joblib, the estimator with its standard errors, for a notebook; and, as output data,
report.html. Serving is the four hooks of SageMaker's scikit-learn contract, so the same file runs
under this project's server and under AWS's.
"""

import argparse
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import joblib
import numpy as np

import answers
import payload
from answers import Answer, Explanation
from gam_model import AdditiveModel
from job import Job, JobError, run, split_target
from table import PayloadError, Table

if TYPE_CHECKING:
    from gam_model import GAMRegressor  # which imports scikit-learn; serving needs none

LIBRARIES = ("gam-model", "joblib", "numpy", "scikit-learn", "scipy", "statsmodels")


# ---------------------------------------------------------------- serving


def model_fn(model_dir: str) -> AdditiveModel:
    """Load what `train` wrote."""
    return AdditiveModel.load(Path(model_dir) / "gam.json")


def input_fn(body: bytes | str, content_type: str) -> Table:
    """Read a request."""
    return payload.decode(body, content_type)


def predict_fn(table: Table, model: AdditiveModel) -> Answer:
    """Predict every row; the explanation is worked out only if the client accepts one."""
    X = read(table, model)
    try:
        with np.errstate(over="ignore", invalid="ignore"):  # refused below
            prediction = model.predict(X)
    except ValueError as error:  # outside the training range, with extrapolate="error"
        raise PayloadError(str(error)) from None
    if not np.isfinite(prediction).all():
        row = int(np.isfinite(prediction).argmin())
        raise PayloadError(f"row {row} is so far outside the training range that it overflows")

    def explain() -> Explanation:
        values = dict(zip(model.features, model.contributions(X).T, strict=True))
        scale = "response" if model.link == "identity" else "link"
        return Explanation(model.intercept, values, scale)

    return Answer(prediction, explain, by_line=table.by_line)


def read(table: Table, model: AdditiveModel) -> np.ndarray:
    """Return the rows as the model reads them; a category that it doesn't know counts as base."""
    return table.matrix(model.features, model.levels, missing=model.missing, unknown="keep")


def output_fn(answer: Answer, accept: str) -> tuple[bytes, str]:
    """Write the answer."""
    return answers.encode(answer, accept)


# ---------------------------------------------------------------- training


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the hyperparameters."""
    parser.add_argument("--df", type=int, default=15)
    parser.add_argument("--alpha", type=number_or_auto, default="auto")
    parser.add_argument("--degree", type=int, default=3)
    parser.add_argument("--extrapolate", default="linear")
    parser.add_argument("--family", default="gaussian")
    parser.add_argument("--link")
    parser.add_argument("--criterion", default="reml")
    parser.add_argument("--target", default="-1", help="name or index of the target's column")
    parser.add_argument("--train-file", help="one file of the channel train; else all of them")
    parser.add_argument("--test-file", help="one file of the channel test; else all of them")
    parser.add_argument(
        "--stream-above", type=float, default=200, help="MB of a channel read chunk by chunk"
    )


def number_or_auto(text: str) -> float | str:
    """Read a hyperparameter that may be chosen from the data."""
    try:
        return text if text == "auto" else float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor 'auto'") from None


class Rows:
    """The rows of a channel, passed over as often as asked: features and target.

    Parameters
    ----------
    chunks : iterable of Table
        Read anew at each pass, or the one table that lies in memory.
    target : str
        Name or index of the target's column.
    """

    def __init__(self, chunks: Iterable[Table], target: str):
        self.chunks, self.target = chunks, target

    def __iter__(self) -> Iterator[tuple]:
        """Yield (DataFrame of the features, ndarray of the target) of each chunk."""
        for X, y in self.tables():
            yield X.frame(), y

    def tables(self) -> Iterator[tuple[Table, np.ndarray]]:
        """Yield (Table of the features, ndarray of the target) of each chunk."""
        return (split_target(table, self.target) for table in self.chunks)


def open_rows(job: Job, channel: str, file: str | None, arguments: argparse.Namespace) -> Rows:
    """Read a channel, or leave it where it is if it is large."""
    if job.size(channel, file) > arguments.stream_above * 1e6:
        chunks = job.chunks(channel, file, missing=True, text=True, progress=True)
    else:
        chunks = [job.read(channel, file, missing=True, text=True)]
    return Rows(chunks, arguments.target)


def train(job: Job, arguments: argparse.Namespace) -> None:
    """Fit, measure and save one model."""
    from gam_model import GAMRegressor
    from gam_model.report import write_report

    rows = open_rows(job, "train", arguments.train_file, arguments)
    regressor = GAMRegressor(
        df=arguments.df,
        alpha=arguments.alpha,
        degree=arguments.degree,
        extrapolate=arguments.extrapolate,
        family=arguments.family,
        link=arguments.link,
        criterion=arguments.criterion,
    )
    try:
        if isinstance(rows.chunks, list):  # in memory, and so read once
            check_df(arguments.df, next(rows.tables())[0])
            regressor.fit(*next(iter(rows)))
        else:
            regressor.fit_chunks(rows)
    except ValueError as error:
        raise JobError(str(error)) from None
    print(regressor.summary(), flush=True)

    model = regressor.terms_
    metrics = measure("train", rows, model, arguments.family)
    if "test" in job.channels:
        test = open_rows(job, "test", arguments.test_file, arguments)
        try:
            metrics |= measure("test", test, model, arguments.family)
        except ValueError as error:  # other columns, or outside the range with extrapolate="error"
            raise JobError(f"channel 'test': {error}") from None
    job.log_metrics(**metrics)

    model.save(job.model_dir / "gam.json")
    joblib.dump(regressor, job.model_dir / "model.joblib")
    job.write_description(LIBRARIES, **describe(regressor, metrics))
    X, y = next(iter(rows))  # of a large channel its first rows
    # Matplotlib insists on a folder that it may write to, and a container may have no other.
    with tempfile.TemporaryDirectory(dir=job.data_dir) as folder:
        os.environ.setdefault("MPLCONFIGDIR", folder)
        write_report(job.data_dir / "report.html", regressor, metrics=metrics, X=X, y=y)


def check_df(df: int, X: Table) -> None:
    """Refuse more B-splines than any column of numbers can support."""
    columns = [x for x, text in zip(X.values.T, X.text(), strict=True) if not text]
    distinct = [len(np.unique(column.astype(float))) for column in columns]
    if distinct and df > max(distinct):
        raise JobError(
            f"df={df} is too large for the data: no feature has more than {max(distinct)} "
            "distinct values; lower df to that or less"
        )


def measure(split: str, rows: Rows, model: AdditiveModel, family: str) -> dict[str, float]:
    """Return R^2, root mean squared error and, of 0 and 1, log loss, named after the split."""
    n, shift, total, square, residual, loss = 0, None, 0.0, 0.0, 0.0, 0.0
    for X, y in rows.tables():
        mu = model.predict(read(X, model))
        shift = y[0] if shift is None else shift  # which saves digits of large numbers
        n += len(y)
        total += float(np.sum(y - shift))
        square += float(np.sum((y - shift) ** 2))
        residual += float(np.sum((y - mu) ** 2))
        if family == "binomial":
            p = np.clip(mu, np.finfo(float).eps, 1 - np.finfo(float).eps)
            loss -= float(y @ np.log(p) + (1 - y) @ np.log1p(-p))
    scatter = square - total**2 / n
    # As in scikit-learn: a constant target is matched (1) or missed (0).
    r2 = 1 - residual / scatter if scatter > 0 else float(residual == 0)
    metrics = {f"r2_{split}": r2, f"rmse_{split}": (residual / n) ** 0.5}
    return metrics | ({f"log_loss_{split}": loss / n} if family == "binomial" else {})


def describe(regressor: "GAMRegressor", metrics: dict[str, float]) -> dict:
    """Return what model.json says: enough to know the model without loading it."""
    features = {name: {"name": name} for name in regressor.terms_.features}
    for term in regressor.terms_.terms:
        if term.name in regressor.terms_.levels:
            features[term.name]["levels"] = list(term.levels)
        else:
            features[term.name]["min"], features[term.name]["max"] = term.range
        features[term.name]["missing"] = term.missing is not None
    return {
        "hyperparameters": regressor.get_params(),
        "features": list(features.values()),
        "statistics": {
            name: value if np.isfinite(value) else None  # JSON knows no NaN
            for name, value in regressor.statistics_._asdict().items()
        },
        "metrics": metrics,
    }


if __name__ == "__main__":
    run(add_arguments, train)
