"""The GAM: trains a `gam_model.GAMRegressor` and serves it with exact explanations.

Training reads the channel ``train`` (and ``test``, if there is one), in memory or, where it is
large, chunk by chunk. It writes gam.json, which serving reads; model.json, which says what is in
it; model.joblib, the estimator with its standard errors, for a notebook; and, as output data,
report.html and page.html, which answers in a browser. Serving is the four hooks of SageMaker's
scikit-learn contract, so the same file runs under this project's server and under AWS's.
"""

import argparse
import ast
import functools
import itertools
import json
import os
import re
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import joblib
import numpy as np

from gam_model import AdditiveModel
from gam_model.dates import read_iso, recognize
from program_toolkit import answers, payload
from program_toolkit.answers import Answer, Explanation
from program_toolkit.checks import Checks, check_scores, check_terms
from program_toolkit.job import Job, JobError, name_target, run, split_target
from program_toolkit.limits import count_outside, name_counters, warn_of_rows
from program_toolkit.scores import Scores
from program_toolkit.table import PayloadError, Table
from program_toolkit.target import Target, learn_target

if TYPE_CHECKING:
    from gam_model import GAMRegressor  # which imports scikit-learn; serving needs none

_SHAPES = {
    "knots": 'inner knots by column, as JSON: {"age": [30, 60]}',
    "cyclic": 'periods of columns that go round, as JSON: {"hour": 24}',
    "linear": 'columns that are straight lines, as JSON: ["income"]',
    "monotonic_cst": '1 for columns that only raise the prediction, -1 for lower: {"age": 1}',
    "convex_cst": '1 for columns with a convex curve, -1 for concave: {"age": 1}',
}
_CHECKED = 5000  # rows that tell whether effects are alike
LIBRARIES = ("gam-model", "joblib", "numpy", "scikit-learn", "scipy", "statsmodels")


# ---------------------------------------------------------------- serving


def model_fn(model_dir: str) -> AdditiveModel:
    """Load what `train` wrote."""
    return AdditiveModel.load(Path(model_dir) / "gam.json")


def input_fn(body: bytes | str, content_type: str) -> Table:
    """Read a request."""
    return payload.decode(body, content_type)


def predict_fn(table: Table, model: AdditiveModel, context: Any = None) -> Answer:
    """Predict every row; explanations are computed only if the client accepts them."""
    X = read(table, model)
    count_outside(X, model, context)
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
        pairs = {}
        if model.pairs:
            effects = model.interaction_contributions(X)
            pairs = dict(zip(model.pair_names, effects.T, strict=True))
        return Explanation(model.intercept, values, scale, pairs)

    warn = functools.partial(warn_of_rows, table, X, model)
    return Answer(prediction, explain, by_line=table.by_line, warnings=warn)


def counters_fn(model: AdditiveModel) -> dict[str, dict[str, Any]]:
    """Return the program's own counters in /metrics."""
    return name_counters(model)


def read(table: Table, model: AdditiveModel) -> np.ndarray:
    """Return the rows as the model reads them; a category that it doesn't know counts as base."""
    return table.matrix(model.features, unknown="keep", **_describe_columns(model))


@functools.lru_cache(maxsize=4)
def _describe_columns(model: AdditiveModel) -> dict[str, Any]:
    return {
        "levels": model.levels,
        "missing": model.missing,
        "dates": {
            name: functools.partial(read_iso, unit=unit) for name, unit in model.units.items()
        },
        "unused": model.unused,
    }


def output_fn(answer: Answer, accept: str) -> tuple[bytes, str]:
    """Write the answer."""
    return answers.encode(answer, accept)


def signature_fn(model: AdditiveModel) -> dict[str, dict[str, str]]:
    """Return the columns and their datatypes, for KServe's metadata."""
    texts = {name for name, levels in model.levels.items() if any(map(_is_text, levels))}
    texts |= model.units.keys()  # dates, in ISO 8601
    texts.update(model.unused)  # text with too many levels, of which nothing is read
    inputs = {name: "BYTES" if name in texts else "FP64" for name in model.features}
    return {"inputs": inputs, "outputs": {"prediction": "FP64"}}


def _is_text(level: object) -> bool:
    return isinstance(level, str)


def page_fn(model_dir: str) -> str:
    """Write the page that the server shows at / where MODEL_SERVER_PAGE asks for it."""
    from gam_model.endpoint_page import render_endpoint_page

    described = json.loads((Path(model_dir) / "model.json").read_text(encoding="utf-8"))
    return render_endpoint_page(described, "model_logic")


# ---------------------------------------------------------------- training


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the hyperparameters."""
    parser.add_argument("--df", type=by_column(int), default=15)
    parser.add_argument("--alpha", type=by_column(number_or_auto), default="auto")
    parser.add_argument("--degree", type=by_column(int), default=3)
    parser.add_argument("--extrapolate", type=by_column(str), default="linear")
    for name, what in _SHAPES.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=by_column(), help=what)
    parser.add_argument("--select", type=str.lower, choices=("true", "false"), default="false")
    parser.add_argument("--family", default="auto")
    parser.add_argument("--link")
    parser.add_argument("--criterion", default="reml")
    parser.add_argument(
        "--atoms",
        choices=("auto", "none"),
        default="auto",
        help="whether values that many rows share may deviate from a column's curve",
    )
    parser.add_argument(
        "--interactions",
        type=read_interactions,
        help="what two columns do together: a number of pairs, auto, or a JSON list of pairs",
    )
    parser.add_argument("--target", default="-1", help="name or index of the target's column")
    parser.add_argument(
        "--categorical",
        type=lambda names: [name.strip() for name in names.split(",")],
        default=[],
        help="names, by commas, of columns that are categories whatever they hold",
    )
    parser.add_argument("--positive", help="the label of two that counts as 1")
    parser.add_argument("--header", choices=("auto", "present", "absent"), default="auto")
    parser.add_argument("--train-file", help="one file of the channel train; else all of them")
    parser.add_argument("--test-file", help="one file of the channel test; else all of them")
    parser.add_argument(
        "--stream-above", type=float, default=200, help="MB of a channel read chunk by chunk"
    )


def by_column(single: Callable | None = None) -> Callable[[str], Any]:
    """Return a reader of a hyperparameter that may be JSON, by column, or a single value."""

    def read_value(text: str) -> Any:
        if single is not None and not text.lstrip().startswith(("{", "[")) and "=" not in text:
            return single(text)
        if not text.lstrip().startswith(("{", "[")) and "=" in text:
            # The training toolkit makes a=1,b=[2, 3] of JSON's {"a": 1, "b": [2, 3]}.
            parts = (part.rpartition("=") for part in re.split(r",\s*(?=[^,\[\]]+=)", text))
            return {name.strip(): read_literal(value) for name, _, value in parts}
        value = read_literal(text)
        if isinstance(value, str):
            raise argparse.ArgumentTypeError(f"{text!r} is not JSON")
        return value

    read_value.__name__ = single.__name__ if single else "value by column"  # in messages
    return read_value


def read_literal(text: str) -> Any:
    """Read JSON, or Python as the training toolkit writes it, else text."""
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text)
        except (ValueError, SyntaxError):
            pass
    return text


def number_or_auto(text: str) -> float | str:
    """Read a hyperparameter that may be chosen from the data."""
    try:
        return text if text == "auto" else float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor 'auto'") from None


def read_interactions(text: str) -> int | str | list | None:
    """Read the pairs: "auto", a number of them, or a JSON list such as [["age", "hours"]]."""
    if text in ("", "none", "null"):
        return None
    try:
        value = text if text == "auto" else json.loads(text)
    except ValueError:
        value = None
    if isinstance(value, (int, str, list)) and not isinstance(value, bool):
        return value
    raise argparse.ArgumentTypeError(
        f"{text!r} is neither a number of pairs, nor 'auto', nor a JSON list of pairs of columns "
        'such as [["age", "hours"]]'
    )


def read_words(job: Job) -> dict[str, Any]:
    """Read the texts of page.html: the one JSON file of the channel page, if there is one."""
    if "page" not in job.channels:
        return {}
    files = sorted(job.channels["page"].rglob("*.json"))
    if len(files) != 1:
        raise JobError(f"channel 'page' must hold one JSON file, it holds {len(files)}")
    try:
        words = json.loads(files[0].read_text(encoding="utf-8"))
    except ValueError as error:
        raise JobError(f"channel 'page': {files[0].name} is not JSON: {error}") from None
    if not isinstance(words, dict):
        raise JobError(f"channel 'page': {files[0].name} must hold a JSON object")
    return words


class Rows:
    """The rows of a channel, passed over as often as asked: features and target.

    Parameters
    ----------
    chunks : iterable of Table
        Read anew at each pass, or the one table that lies in memory.
    column : str
        Name or index of the target's column.
    target : Target, optional
        What makes numbers of it; otherwise it's passed on as it is.
    categorical : collection of str
        Columns that are categories whatever they hold.
    """

    def __init__(
        self,
        chunks: Iterable[Table],
        column: str,
        target: Target | None = None,
        categorical: Collection[str] = (),
    ):
        self.chunks, self.column, self.target = chunks, column, target
        self.categorical = categorical

    def __iter__(self) -> Iterator[tuple]:
        """Yield (DataFrame of the features, ndarray of the target) of each chunk."""
        for X, y in self.tables():
            yield X.frame(self.categorical, recognize), y

    def tables(self) -> Iterator[tuple[Table, np.ndarray]]:
        """Yield (Table of the features, ndarray of the target) of each chunk."""
        for table in self.chunks:
            X, y = split_target(table, self.column, text=True)
            yield X, self.target.read(y) if self.target else y


def open_rows(job: Job, channel: str, file: str | None, arguments: argparse.Namespace) -> Rows:
    """Read a channel, or leave it where it is if it is large."""
    how = {"missing": True, "text": True}
    how["header"] = {"present": True, "absent": False}.get(arguments.header)
    if job.size(channel, file) > arguments.stream_above * 1e6:
        chunks = job.chunks(channel, file, **how, progress=True)
    else:
        chunks = [job.read(channel, file, **how)]
    return Rows(chunks, arguments.target, categorical=arguments.categorical)


def train(job: Job, arguments: argparse.Namespace) -> None:
    """Fit, measure, check and save one model."""
    with Checks() as checks:
        _train(job, arguments, checks)
    if box := checks.box():
        print(box, flush=True)


def _train(job: Job, arguments: argparse.Namespace, checks: Checks) -> None:
    from gam_model import GAMRegressor
    from gam_model.page import write_page
    from gam_model.report import write_report

    words = read_words(job)
    rows = open_rows(job, "train", arguments.train_file, arguments)
    target = rows.target = learn(rows, arguments)
    if target.remark:
        checks.add(target.remark)
    regressor = GAMRegressor(
        df=arguments.df,
        alpha=arguments.alpha,
        degree=arguments.degree,
        extrapolate=arguments.extrapolate,
        family=target.family,
        link=arguments.link,
        criterion=arguments.criterion,
        atoms=None if arguments.atoms == "none" else arguments.atoms,
        interactions=arguments.interactions,
        select=arguments.select == "true",
        **{name: getattr(arguments, name) for name in _SHAPES},
        verbose=1,
    )
    try:
        if isinstance(rows.chunks, list):  # in memory, and so read once
            regressor.fit(*next(iter(rows)))
        else:
            regressor.fit_chunks(rows)
    except ValueError as error:
        raise JobError(str(error)) from None
    print(regressor.summary(), flush=True)

    model = regressor.terms_
    scores = {"train": measure(rows, model, target)}
    if "test" in job.channels:
        test = open_rows(job, "test", arguments.test_file, arguments)
        test.target = target
        bounds = scores["train"].low, scores["train"].high
        try:
            scores["test"] = measure(test, model, target, bounds)
        # Other columns or labels, or outside the range with extrapolate="error".
        except (ValueError, JobError) as error:
            raise JobError(f"channel 'test': {error}") from None
    metrics = {
        f"{name}_{split}": value
        for split, score in scores.items()
        for name, value in score.metrics().items()
    }
    job.log_metrics(**metrics)
    X, y = next(iter(rows))  # of a large channel its first rows
    table, _ = next(rows.tables())
    checks.add(*check_terms(model, read(table, model)[:_CHECKED]))
    checks.add(*check_scores(scores["train"], scores.get("test")))

    outcome = target.label
    if target.classes:
        outcome = f"Probability of {target.label} = {target.show(target.classes[1])}"
    words = {"title": target.label, "outcome": outcome} | words
    if model.pairs:
        print("page.html is left out: it cannot show what two columns do together", flush=True)
    else:
        try:
            write_page(regressor, job.data_dir / "page.html", X, **words)
        except (TypeError, ValueError) as error:
            raise JobError(f"channel 'page': {error}") from None
    model.save(job.model_dir / "gam.json")
    joblib.dump(regressor, job.model_dir / "model.joblib")
    described = describe(regressor, metrics) | {"checks": checks.findings}
    described["target"] = target.label
    described["page"] = words
    described["answer"] = {"probability": bool(target.classes), "link": model.link}
    if target.classes:
        described["classes"] = {"all": list(target.classes), "positive": target.classes[1]}
        described["calibration"] = {name: one.calibration() for name, one in scores.items()}
    job.write_description(LIBRARIES, **described)
    # Matplotlib insists on a folder that it may write to, and a container may have no other.
    with tempfile.TemporaryDirectory(dir=job.data_dir) as folder:
        os.environ.setdefault("MPLCONFIGDIR", folder)
        write_report(
            job.data_dir / "report.html",
            regressor,
            title=f"{target.label}: a generalized additive model",
            name="model_logic",
            metrics={split: score.metrics() for split, score in scores.items()},
            about=describe_data(job, arguments, target, scores),
            checks=checks.findings,
            X=X,
            y=y,
            page=None if model.pairs else "page.html",
        )


def describe_data(
    job: Job, arguments: argparse.Namespace, target: Target, scores: dict[str, Scores]
) -> dict[str, str]:
    """Return the description of the model for the report."""
    files = job.files("train", arguments.train_file)
    more = f" and {len(files) - 3} more" if len(files) > 3 else ""
    about = {
        "data set": ", ".join(path.name for path in files[:3]) + more,
        "target": target.label,
        "rows": ", ".join(f"{score.n:,} in {split}" for split, score in scores.items()),
        "job": job.name or "without a name",
    }
    if target.classes:
        about["probability of"] = target.show(target.classes[1])
    return about


def learn(rows: Rows, arguments: argparse.Namespace) -> Target:
    """Find out what the target is, and say so where it is two classes."""
    tables = iter(rows.chunks)
    first = next(tables)
    label = name_target(first, rows.column)
    values = (
        split_target(table, rows.column, text=True)[1]
        for table in itertools.chain([first], tables)
    )
    target = learn_target(label, values, arguments.family, arguments.positive)
    if target.classes:
        zero, one = map(target.show, target.classes)
        print(
            f"{target.name} has two classes, {zero} and {one}: the model gives the probability "
            f"of {one} (positive={one})",
            flush=True,
        )
    return target


def measure(
    rows: Rows,
    model: AdditiveModel,
    target: Target,
    bounds: tuple[float, float] | None = None,
) -> Scores:
    """Score all rows of a channel."""
    scores = Scores(model, target.family == "binomial", bounds)
    for X, y in rows.tables():
        scores.add(read(X, model), y)
    return scores


def describe(regressor: "GAMRegressor", metrics: dict[str, float]) -> dict:
    """Return the description for model.json: what the model is, without loading it."""
    features = {name: {"name": name, "unused": True} for name in regressor.terms_.features}
    for term in regressor.terms_.terms:
        features[term.name] = {"name": term.name}
        if term.name in regressor.terms_.levels:
            features[term.name]["levels"] = list(term.levels)
        else:
            ends = map(term.show, term.range) if term.unit else term.range
            features[term.name] |= dict(zip(("min", "max"), ends, strict=True))
            features[term.name] |= {"unit": term.unit} if term.unit else {}
        features[term.name]["missing"] = term.missing is not None
    return {
        "hyperparameters": regressor.get_params(),
        "features": list(features.values()),
        "interactions": [list(pair.names) for pair in regressor.terms_.pairs],
        "statistics": {
            name: value if np.isfinite(value) else None  # JSON knows no NaN
            for name, value in regressor.statistics_._asdict().items()
        },
        "metrics": metrics,
    }


if __name__ == "__main__":
    run(add_arguments, train)
