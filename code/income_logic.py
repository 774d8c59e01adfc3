"""Income (UCI Adult): a random forest, and for every answer the anchor rule that holds it.

Training reads UCI's own files, or CSV or Parquet with named columns, from the channel ``train``
(and ``test``, if there is one). It writes model.joblib, model.json and explainer.npz. Serving is
the four hooks of SageMaker's scikit-learn contract.

Of UCI's fourteen features two are left out, in training and in requests alike: ``fnlwgt``, which
weighs a row for the census and says nothing of a person, and ``education-num``, which is
``education`` as a number. Categories that are near to one another become one (`GROUPS`), as
studies of these data usually do, so that a rule speaks of "High School grad" and not of sixteen
school years. A request may name either.

With ``PREDICTOR_URL`` in its environment the program is the explainer alone: it loads no forest,
asks the model behind that address for the answers to its background, once, and answers requests
that say what the model predicted: ``{"instances": [...], "parameters": {"predictions": [...]}}``.
"""

import argparse
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import joblib
import numpy as np

from explainers import AnchorExplainer
from program_toolkit import answers, payload, predictor
from program_toolkit.answers import Answer
from program_toolkit.delimited import parse_csv
from program_toolkit.job import Job, JobError, read_description, run
from program_toolkit.table import PayloadError, Table, as_text, describe_numbers, shorten

FORMAT_VERSION = 1
LIBRARIES = ("explainers", "joblib", "numpy", "scikit-learn", "scipy")
N_EXPLAINED = 50  # rows whose anchors are measured at the end of training

# UCI's name -> our name; columns with None are dropped.
COLUMNS = {
    "age": "Age",
    "workclass": "Workclass",
    "fnlwgt": None,
    "education": "Education",
    "education-num": None,
    "marital-status": "Marital Status",
    "occupation": "Occupation",
    "relationship": "Relationship",
    "race": "Race",
    "sex": "Sex",
    "capital-gain": "Capital Gain",
    "capital-loss": "Capital Loss",
    "hours-per-week": "Hours per week",
    "native-country": "Country",
    "income": "Income",
}
TARGET = "Income"
CLASSES = ("<=50K", ">50K")
FEATURES = [name for name in COLUMNS.values() if name not in (None, TARGET)]
NUMERIC = ["Age", "Capital Gain", "Capital Loss", "Hours per week"]
UNKNOWN = "?"  # what UCI writes for a category that is missing

# Feature -> group -> UCI's categories; categories that are not listed stay as they are.
GROUPS = {
    "Education": {
        "Dropout": "Preschool 1st-4th 5th-6th 7th-8th 9th 10th 11th 12th",
        "High School grad": "HS-grad Some-college",
        "Associates": "Assoc-acdm Assoc-voc",
        "Prof-School": "Prof-school",
    },
    "Marital Status": {
        "Never-Married": "Never-married",
        "Married": "Married-civ-spouse Married-AF-spouse",
        "Separated": "Divorced Separated Married-spouse-absent",
    },
    "Occupation": {
        "Admin": "Adm-clerical",
        "Blue-Collar": (
            "Craft-repair Farming-fishing Handlers-cleaners Machine-op-inspct Transport-moving"
        ),
        "Military": "Armed-Forces",
        "Professional": "Prof-specialty",
        "Service": "Other-service Priv-house-serv",
        "White-Collar": "Exec-managerial",
        "Other": "Protective-serv Tech-support",
    },
    "Country": {
        "Asia": (
            "Cambodia China Hong India Iran Japan Laos Philippines South Taiwan Thailand Vietnam"
        ),
        "Europe": (
            "England France Germany Greece Holand-Netherlands Hungary Ireland Italy Poland "
            "Portugal Scotland Yugoslavia"
        ),
        "Latin America": (
            "Columbia Cuba Dominican-Republic Ecuador El-Salvador Guatemala Haiti Honduras "
            "Jamaica Mexico Nicaragua Peru Puerto-Rico Trinadad&Tobago"
        ),
        "Other": "Canada Outlying-US(Guam-USVI-etc)",
    },
}
GROUP_OF = {
    feature: {category: group for group, text in groups.items() for category in text.split()}
    for feature, groups in GROUPS.items()
}


class Model(NamedTuple):
    """The forest, unless another server has it, and its explainer."""

    forest: Any
    explainer: AnchorExplainer
    levels: dict[str, list[str]]


def conform(table: Table) -> Table:
    """Rename the columns, drop those that are not used, and group the categories.

    Parameters
    ----------
    table : Table
        Columns named by UCI or by us, in any case and with any of ``-``, ``_``, ``.`` and space
        between words; or without names, one for each of `FEATURES`.

    Returns
    -------
    Table
        With those of its columns that are kept.
    """
    ours = {_plain(name): name for name in (*FEATURES, TARGET)}
    ours |= {_plain(name): our for name, our in COLUMNS.items()}
    if table.first is not None:  # whether it is a header, by the known names
        cells = table.first.cells
        table = table.settle(2 * sum(_plain(cell) in ours for cell in cells) > len(cells))
    if table.names is None:
        table = table.select(FEATURES)
    names = [ours.get(_plain(name), name) for name in table.names]
    kept = [j for j, name in enumerate(names) if name is not None]
    names, values = [names[j] for j in kept], table.values[:, kept].astype(object)
    for j, name in enumerate(names):
        if name in FEATURES and name not in NUMERIC:
            group_of = GROUP_OF.get(name, {})
            cells = [UNKNOWN if as_text(cell) is None else cell for cell in values[:, j]]
            values[:, j] = [group_of.get(cell, cell) for cell in cells]
    return replace(table, values=values, names=tuple(names), first=None)


def _plain(name: str) -> str:
    return re.sub(r"[-_. ]", "", name).lower()


# ---------------------------------------------------------------- serving


def model_fn(model_dir: str) -> Model:
    """Load what `train` wrote; with PREDICTOR_URL, ask that model and load the explainer alone."""
    folder = Path(model_dir)
    described = read_description(folder, FORMAT_VERSION)
    levels = {f["name"]: f["levels"] for f in described["features"] if "levels" in f}
    explainer = AnchorExplainer.load(folder / "explainer.npz")
    url = os.environ.get("PREDICTOR_URL")
    if not url:
        return Model(joblib.load(folder / "model.joblib"), explainer, levels)

    background, held_out = explainer.background_, explainer.held_out_
    rows = [to_cells(row, levels) for row in np.vstack([background, held_out])]
    answers = predictor.fetch_predictions(url, rows)
    n = len(background)
    print(f"income_logic: {url} answered {len(rows)} rows of the background", flush=True)
    return Model(
        None,
        explainer.fit(background, answers[:n], held_out=(held_out, answers[n:])),
        levels,
    )


def to_cells(row: np.ndarray, levels: Mapping[str, Sequence[str]]) -> list[float | str]:
    """Return a row of codes as a request would have it."""
    return [
        levels[name][int(value)] if name in levels else value
        for name, value in zip(FEATURES, row.tolist(), strict=True)
    ]


def input_fn(body: bytes | str, content_type: str) -> Table:
    """Read a request."""
    return payload.decode(body, content_type)


def predict_fn(table: Table, model: Model) -> Answer:
    """Predict every row; anchors are searched for only if the client accepts an explanation."""
    X = conform(table).matrix(FEATURES, model.levels)
    settings = read_parameters(table.parameters, len(X), model)
    predictions = settings.pop("predictions", None)
    columns = {}
    if predictions is None:
        probability = model.forest.predict_proba(X)
        predictions = model.forest.classes_[probability.argmax(axis=1)]
        columns["probability"] = probability[:, 1]

    def explain() -> dict[str, list]:
        anchors = [
            model.explainer.explain(row, prediction, **settings)
            for row, prediction in zip(X, predictions.tolist(), strict=True)
        ]
        return {
            "anchor": [list(anchor.names) for anchor in anchors],
            "precision": [anchor.precision for anchor in anchors],
            "coverage": [anchor.coverage for anchor in anchors],
            "threshold": [anchor.threshold for anchor in anchors],
            "found": [anchor.found for anchor in anchors],
        }

    return Answer(predictions, explain, columns, by_line=table.by_line)


def signature_fn(model: Model) -> dict[str, dict[str, str]]:
    """Return the columns and their datatypes, for KServe's metadata."""
    outputs = {"prediction": "BYTES"} | ({} if model.forest is None else {"probability": "FP64"})
    inputs = {name: "BYTES" if name in model.levels else "FP64" for name in FEATURES}
    return {"inputs": inputs, "outputs": outputs}


def read_parameters(parameters: Mapping[str, object], n: int, model: Model) -> dict:
    """Check a request's parameters.

    Returns
    -------
    dict
        Arguments of `AnchorExplainer.explain`; and ``predictions``, where the model is elsewhere.

    Raises
    ------
    PayloadError
        If a parameter is unknown, out of its range, or missing.
    """
    known: dict = {
        "threshold": ("a number in (0, 1]", lambda x: 0 < x <= 1),
        "confidence": ("a number in [0.5, 1), or null", lambda x: 0.5 <= x < 1),
        "min_support": ("a whole number, 1 or more", lambda x: x >= 1 and x % 1 == 0),
    }
    if model.forest is None:
        known["predictions"] = None
    settings: dict = {}
    for name, value in parameters.items():
        if name not in known:
            raise PayloadError(
                f"unknown parameter {shorten(name)}; this model takes {', '.join(known)}"
            )
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if known[name] and not (name == "confidence" and value is None):
            wanted, holds = known[name]
            if not (number and holds(value)):
                raise PayloadError(f"{name} must be {wanted}, got {shorten(value)}")
        settings[name] = value
    if model.forest is None:
        settings["predictions"] = _as_predictions(settings.get("predictions"), n, model.explainer)
    return settings


def _as_predictions(given: object, n: int, explainer: AnchorExplainer) -> np.ndarray:
    if not isinstance(given, list) or len(given) != n:
        raise PayloadError(
            "this is the explainer alone, and it does not ask the model: send the model's answers "
            f'too, one for each of {n} rows: {{"instances": [...], "parameters": '
            '{"predictions": [...]}}'
        )
    known = sorted(set(explainer.predictions_.tolist()))
    for row, answer in enumerate(given):
        if answer not in known:
            raise PayloadError(
                f"prediction {row} is {shorten(answer)}; the model answers "
                + " or ".join(map(shorten, known))
            )
    return np.array(given)


def output_fn(answer: Answer, accept: str) -> tuple[bytes, str]:
    """Write the answer."""
    return answers.encode(answer, accept)


def page_fn(model_dir: str) -> str:
    """Write the page that the server shows at / where MODEL_SERVER_PAGE asks for it."""
    from gam_model.endpoint_page import render_endpoint_page

    described = json.loads((Path(model_dir) / "model.json").read_text(encoding="utf-8"))
    return render_endpoint_page(described, "income_logic")


# ---------------------------------------------------------------- training


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the hyperparameters."""
    parser.add_argument("--n-estimators", type=int, default=50)
    parser.add_argument("--min-samples-leaf", type=int, default=5)
    parser.add_argument("--max-depth", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--held-out",
        type=float,
        default=0.2,
        help="share of the training rows that the forest never sees, to measure anchors on",
    )
    parser.add_argument("--threshold", type=float, default=0.95, help="of the anchors measured")
    parser.add_argument("--train-file", help="one file of the channel train; else all of them")
    parser.add_argument("--test-file", help="one file of the channel test; else all of them")


def read(job: Job, channel: str, file: str | None) -> tuple[Table, np.ndarray]:
    """Read one channel: the features' table, and True for an income of more than 50,000 a year."""
    uci = [path for path in job.files(channel, file) if path.suffix in (".data", ".test")]
    try:
        if uci:
            tables = [_read_uci(path) for path in uci]
        else:
            tables = [job.read(channel, file, missing=True, text=True)]
            if tables[0].names is None:
                raise PayloadError("the columns have no names; add a header")
        values = np.concatenate([conform(t).select([*FEATURES, TARGET]).values for t in tables])
    except PayloadError as error:
        raise JobError(f"channel {channel!r}: {error}") from None
    labels = [str(label).rstrip(".") for label in values[:, -1]]  # UCI's test set has ">50K."
    odd = sorted(set(labels) - set(CLASSES))
    if odd:
        raise JobError(f"channel {channel!r}: {TARGET} is {odd[0]!r}; expected <=50K or >50K")
    return Table(values[:, :-1], tuple(FEATURES)), np.array(labels)


def _read_uci(path: Path) -> Table:
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    rows = [line for line in lines if not line.startswith("|")]  # adult.test begins with a comment
    table = parse_csv("\n".join(rows), header=False)
    if table.values.shape[1] != len(COLUMNS):
        raise PayloadError(
            f"{path.name} has {table.values.shape[1]} columns where UCI's have {len(COLUMNS)}"
        )
    return replace(table, names=tuple(COLUMNS))


def train(job: Job, arguments: argparse.Namespace) -> None:
    """Fit, measure and save forest and explainer."""
    from sklearn.ensemble import RandomForestClassifier

    if not 0 < arguments.held_out < 1:
        raise JobError(f"held-out must lie between 0 and 1, got {arguments.held_out:g}")
    if not 0 < arguments.threshold <= 1:
        raise JobError(f"threshold must lie in (0, 1], got {arguments.threshold:g}")
    table, y = read(job, "train", arguments.train_file)
    levels = {
        name: sorted(set(column))
        for name, column in zip(FEATURES, table.values.T, strict=True)
        if name not in NUMERIC
    }
    X = _to_matrix(table, levels, "train")
    out = np.random.RandomState(arguments.seed).uniform(size=len(X)) < arguments.held_out
    if set(y[~out]) != set(CLASSES) or not out.any():
        raise JobError(f"channel 'train' has too few rows of either class: {len(X)} in all")
    forest = RandomForestClassifier(
        arguments.n_estimators,
        min_samples_leaf=arguments.min_samples_leaf,
        max_depth=arguments.max_depth,
        random_state=arguments.seed,
    )
    try:
        forest.fit(X[~out], y[~out])
    except ValueError as error:  # a hyperparameter out of range
        raise JobError(str(error)) from None

    predictions = forest.predict(X)
    if len(set(predictions[~out])) == 1:
        raise JobError(
            f"the forest predicts {predictions[0]} for every training row, so no rule can "
            "explain it; lower min-samples-leaf, or raise max-depth"
        )
    explainer = AnchorExplainer(
        FEATURES, {FEATURES.index(name): names for name, names in levels.items()}
    ).fit(X[~out], predictions[~out], held_out=(X[out], predictions[out]))

    metrics = measure("train", forest, X[~out], y[~out]) | measure(
        "held_out", forest, X[out], y[out]
    )
    explained = X[out]
    if "test" in job.channels:
        test, y_test = read(job, "test", arguments.test_file)
        explained = _to_matrix(test, levels, "test")
        metrics |= measure("test", forest, explained, y_test)
    metrics |= measure_anchors(explainer, forest, explained[:N_EXPLAINED], arguments.threshold)
    job.log_metrics(**metrics)

    joblib.dump(forest, job.model_dir / "model.joblib", compress=3)
    explainer.save(job.model_dir / "explainer.npz")
    job.write_description(LIBRARIES, **describe(forest, levels, X, metrics))


def _to_matrix(table: Table, levels: Mapping[str, Sequence[str]], channel: str) -> np.ndarray:
    try:
        return table.matrix(FEATURES, levels)
    except PayloadError as error:
        raise JobError(f"channel {channel!r}: {error}") from None


def measure(split: str, forest: Any, X: np.ndarray, y: np.ndarray) -> dict[str, float]:
    """Return accuracy and area under the ROC curve, named after the split."""
    from sklearn.metrics import roc_auc_score

    probability = forest.predict_proba(X)
    correct = forest.classes_[probability.argmax(axis=1)] == y
    metrics = {f"accuracy_{split}": float(correct.mean())}
    if len(set(y)) == 2:  # without both classes there is no area
        metrics[f"auc_{split}"] = float(roc_auc_score(y == CLASSES[1], probability[:, 1]))
    return metrics


def measure_anchors(
    explainer: AnchorExplainer, forest: Any, X: np.ndarray, threshold: float
) -> dict[str, float]:
    """Return what the anchors of some rows reach, on the background and on held-out rows."""
    predictions = forest.predict(X).tolist()
    anchors = [
        explainer.explain(row, prediction, threshold)
        for row, prediction in zip(X, predictions, strict=True)
    ]
    shares = [
        explainer.measure(anchor.names, prediction, confidence=None)
        for anchor, prediction in zip(anchors, predictions, strict=True)
    ]
    both = [share for share in shares if share.held_out_precision is not None]
    return {
        "anchors_found": float(np.mean([anchor.found for anchor in anchors])),
        "anchors_coverage": float(np.mean([anchor.coverage for anchor in anchors])),
        "anchors_precision": float(np.mean([anchor.precision for anchor in both])),
        "anchors_precision_held_out": float(np.mean([a.held_out_precision for a in both])),
    }


def describe(
    forest: Any, levels: Mapping[str, list[str]], X: np.ndarray, metrics: dict[str, float]
) -> dict:
    """Return the description for model.json: what the model is, without loading it."""
    return {
        "format_version": FORMAT_VERSION,
        "hyperparameters": forest.get_params(),
        "classes": list(CLASSES),
        "features": [
            {"name": name}
            | (
                {"levels": levels[name], "most_common": _find_most_common(levels[name], column)}
                if name in levels
                else describe_numbers(column)
            )
            for name, column in zip(FEATURES, X.T, strict=True)
        ],
        "page": {
            "title": "Income",
            "outcome": "Probability of an income of more than 50,000 a year",
            "threshold": 0.5,
            "labels": list(CLASSES),
            "features": {name: {"change": "never"} for name in ("Race", "Sex", "Country")}
            | {"Age": {"change": "up"}},
        },
        "answer": {"column": "probability", "probability": True, "rules": True},
        "metrics": metrics,
    }


def _find_most_common(levels: Sequence[str], codes: np.ndarray) -> str:
    return levels[int(np.bincount(codes.astype(int)).argmax())]


if __name__ == "__main__":
    run(add_arguments, train)
