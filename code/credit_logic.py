"""Credit scores: probabilities of delinquency, by a forest, boosted trees or a GAM, and reasons.

Training reads the channels ``train_data`` and ``test_data``. Beside model.joblib, the fitted
estimator, it writes what serving reads: model.json, and explainer.npz of trees or terms.json of a
GAM, for which NumPy and SciPy are enough. The forest sees medians where values are missing; the
others have learned what it means that they are.
"""

import argparse
import ast
import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from explainers import ForestExplainer
from program_toolkit import answers, payload
from program_toolkit.answers import Answer, Explanation
from program_toolkit.job import Job, JobError, read_description, run, split_target
from program_toolkit.limits import count_outside, name_counters, warn_of_rows
from program_toolkit.probabilities import calibrate, measure
from program_toolkit.table import PayloadError, Table, describe_numbers

FORMAT_VERSION = 1
LIBRARIES = ("explainers", "gam-model", "joblib", "numpy", "scikit-learn")
FOREST = {"n_estimators": 50, "max_depth": 6, "max_leaf_nodes": 30, "random_state": 0}
# The best of a dozen settings, by cross-validation on 20,000 rows, which the defaults overfit.
BOOSTED = {
    "learning_rate": 0.05,
    "max_leaf_nodes": 15,
    "min_samples_leaf": 40,
    "max_features": 0.3,
    "early_stopping": False,
    "random_state": 0,
}
TABLE_LIMIT = 64  # MB that tables of SHAP values may take; beyond, the values are computed
REPLICATES = 200  # of the test rows; where the metrics' intervals come from


# ---------------------------------------------------------------- serving


class Forest(NamedTuple):
    """A forest by its SHAP values, which add up to its predictions."""

    features: list[str]
    medians: np.ndarray
    explainer: ForestExplainer

    @property
    def missing(self) -> bool:
        """Whether values may be missing, or the features whose values may."""
        return True

    def answer(self, X: np.ndarray) -> Answer:
        """Score every row of X, shape (n, p), NaN where a value is missing."""
        X = _fill(X, self.medians, self.features)
        prediction, explain = _score(X, self.features, self.explainer, "response")
        # Rounding may leave a probability just outside of what it can be.
        return Answer(np.clip(prediction, 0, 1), explain)


class Boosted(NamedTuple):
    """Boosted trees by their SHAP values, which add up to the log odds."""

    features: list[str]
    explainer: ForestExplainer
    missing = Forest.missing

    def answer(self, X: np.ndarray) -> Answer:
        """Score every row of X, shape (n, p), NaN where a value is missing."""
        eta, explain = _score(X, self.features, self.explainer, "link")
        return Answer(1 / (1 + np.exp(-eta)), explain)


class Gam(NamedTuple):
    """An additive model, whose terms are its explanation."""

    features: list[str]
    terms: Any  # a gam_model.AdditiveModel

    @property
    def missing(self) -> list[str]:
        """Features whose values may be missing: those with missing values in training."""
        return self.terms.missing

    def answer(self, X: np.ndarray) -> Answer:
        """Score every row of X, shape (n, p), NaN where a value is missing."""
        with np.errstate(over="ignore", invalid="ignore"):  # refused below
            values, prediction = self.terms.contributions(X), self.terms.predict(X)
        bad = ~np.isfinite(values.sum(axis=1))
        if bad.any():
            row = int(bad.argmax())
            raise ValueError(f"row {row} is so far outside the training range that it overflows")
        base = self.terms.intercept

        def explain() -> Explanation:
            explanation = _explain(self.features, base, values, "link")
            if not self.terms.pairs:
                return explanation
            effects = self.terms.interaction_contributions(X)
            pairs = dict(zip(self.terms.pair_names, effects.T, strict=True))
            return replace(explanation, interactions=pairs)

        return Answer(prediction, explain)


def _fill(X: np.ndarray, medians: np.ndarray, features: list[str]) -> np.ndarray:
    far = np.abs(X) > np.finfo(np.float32).max  # scikit-learn's trees know no more
    if far.any():
        row, column = np.argwhere(far)[0]
        raise ValueError(f"row {row}, {features[column]!r} is too large: {X[row, column]:g}")
    return np.where(np.isnan(X), medians, X)


def _wrap(
    kind: str, explainer: ForestExplainer, features: list[str], medians: np.ndarray
) -> Forest | Boosted:
    if explainer.feature_names not in (None, features):
        raise ValueError(
            f"the explainer's features are {explainer.feature_names}, model.json's {features}: "
            "they are of different models"
        )
    explainer.feature_names = None  # `Table.matrix` has put the columns in order
    if kind == "forest":
        return Forest(features, medians, explainer)
    return Boosted(features, explainer)


def _score(
    X: np.ndarray, features: list[str], explainer: ForestExplainer, scale: str
) -> tuple[np.ndarray, Callable[[], Explanation]]:
    if explainer.tabulated:
        values = explainer.shap_values(X)
        prediction = explainer.base + values.sum(axis=1)
        return prediction, lambda: _explain(features, explainer.base, values, scale)
    return explainer.predict(X), lambda: _explain(
        features, explainer.base, explainer.shap_values(X), scale
    )


def _explain(features: list[str], base: float, values: np.ndarray, scale: str) -> Explanation:
    return Explanation(base, dict(zip(features, values.T, strict=True)), scale)


def model_fn(model_dir: str) -> Forest | Boosted | Gam:
    """Load what `train` wrote."""
    folder = Path(model_dir)
    described = read_description(folder, FORMAT_VERSION)
    features = [feature["name"] for feature in described["features"]]
    medians = np.array([feature["median"] for feature in described["features"]])
    if described["model"] == "gam":
        from gam_model import AdditiveModel

        return Gam(features, AdditiveModel.load(folder / "terms.json"))
    explainer = ForestExplainer.load(folder / "explainer.npz")
    return _wrap(described["model"], explainer, features, medians)


def input_fn(body: bytes | str, content_type: str) -> Table:
    """Read a request."""
    return payload.decode(body, content_type)


def predict_fn(table: Table, model: Forest | Boosted | Gam, context: Any = None) -> Answer:
    """Score every row."""
    X = table.matrix(model.features, missing=model.missing)
    try:
        answer = model.answer(X)
    except ValueError as error:  # a value that the model cannot place
        raise PayloadError(str(error)) from None
    answer = replace(answer, by_line=table.by_line)
    if isinstance(model, Gam):
        answer = replace(answer, warnings=partial(warn_of_rows, table, X, model.terms))
        count_outside(X, model.terms, context)
    # For clients who cannot choose their Accept header.
    return replace(answer, explain=None) if table.parameters.get("explain") is False else answer


def output_fn(answer: Answer, accept: str) -> tuple[bytes, str]:
    """Write the answer, in JSON with its explanation unless ``explain=false`` is accepted."""
    return answers.encode(answer, accept, explained=True)


def counters_fn(model: Forest | Boosted | Gam) -> dict[str, dict[str, Any]]:
    """Return the program's own counters in /metrics."""
    return name_counters(model.terms) if isinstance(model, Gam) else {}


def signature_fn(model: Forest | Boosted | Gam) -> dict[str, dict[str, str]]:
    """Return the columns and their datatypes, for KServe's metadata."""
    return {
        "inputs": dict.fromkeys(model.features, "FP64"),
        "outputs": {"prediction": "FP64"},
    }


def page_fn(model_dir: str) -> str:
    """Write the page that the server shows at / where MODEL_SERVER_PAGE asks for it."""
    from gam_model.endpoint_page import render_endpoint_page

    described = json.loads((Path(model_dir) / "model.json").read_text(encoding="utf-8"))
    return render_endpoint_page(described, "credit_logic")


# ---------------------------------------------------------------- training


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the hyperparameters: those of every model, and the program's own."""
    parser.add_argument("--model", choices=("forest", "boosted", "gam"), default="forest")
    parser.add_argument("--target", default="SeriousDlqin2yrs", help="name or index of its column")
    parser.add_argument("--train-file", default="train.csv", help="of the channel train_data")
    parser.add_argument("--test-file", default="test.csv", help="of the channel test_data")
    for name in sorted({name for own in _parameters().values() for name in own}):
        flag = "--" + name.replace("_", "-")
        parser.add_argument(flag, type=literal, default=argparse.SUPPRESS)


def _parameters() -> dict[str, dict[str, Any]]:
    """Return the default parameters of each model, and of its explainer."""
    return {
        kind: make().get_params() | own | ({} if kind == "gam" else {"table_limit": TABLE_LIMIT})
        for kind, (make, own) in _models().items()
    }


def _models() -> dict[str, tuple[Any, dict[str, Any]]]:
    """Return the class of each model, and our defaults for it."""
    from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier

    from gam_model import GAMClassifier

    return {
        "forest": (RandomForestClassifier, FOREST),
        "boosted": (HistGradientBoostingClassifier, BOOSTED),
        "gam": (GAMClassifier, {}),
    }


def literal(text: str) -> Any:
    """Read a parameter as JSON or Python writes it: 6, 0.5, null, None, true, {0: 1}, sqrt."""
    if text in ("", "null"):  # the training toolkit makes the one of the other
        return None
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text)
        except (ValueError, SyntaxError):
            continue
    return text


def train(job: Job, arguments: argparse.Namespace) -> None:
    """Fit, explain, measure and save one model."""
    import joblib
    import pandas

    table, y = _read(job, "train_data", arguments.train_file, arguments.target)
    X, features = table.values, list(table.names)
    if np.isnan(X).all(axis=0).any():
        empty = features[int(np.isnan(X).all(axis=0).argmax())]
        raise JobError(f"column {empty!r} has no value in channel 'train_data'; leave it out")
    medians = np.nanmedian(X, axis=0)
    estimator, table_limit = _choose(arguments)
    seen = np.where(np.isnan(X), medians, X) if arguments.model == "forest" else X
    try:
        estimator.fit(pandas.DataFrame(seen, columns=features), y)
    except ValueError as error:
        raise JobError(" ".join(str(error).split())) from None
    if arguments.model == "gam":
        model = Gam(features, estimator.terms_)
    else:
        explainer = ForestExplainer(estimator, memory_limit=table_limit * 2**20)
        model = _wrap(arguments.model, explainer, features, medians)
    metrics, curve = measure("train", y, model.answer(X).prediction), None
    if "test_data" in job.channels:
        test, y_test = _read(job, "test_data", arguments.test_file, arguments.target)
        try:
            prediction = predict_fn(test, model).prediction
        except PayloadError as error:
            raise JobError(f"channel 'test_data': {error}") from None
        metrics |= measure("test", y_test, prediction, REPLICATES)
        curve = calibrate(y_test, prediction)
    job.log_metrics(**metrics)

    words = {
        "title": f"Credit score: {arguments.target}",
        "outcome": f"Probability of {arguments.target}",
        "good": "low",
    }
    joblib.dump(estimator, job.model_dir / "model.joblib")
    if isinstance(model, Gam):
        from gam_model.page import write_page

        model.terms.save(job.model_dir / "terms.json")
        if model.terms.pairs:
            print("page.html is left out: it cannot show what two columns do together", flush=True)
        else:
            write_page(
                estimator,
                job.data_dir / "page.html",
                pandas.DataFrame(X, columns=features),
                **words,
            )
    else:
        model.explainer.save(job.model_dir / "explainer.npz")
    job.write_description(
        LIBRARIES,
        format_version=FORMAT_VERSION,
        model=arguments.model,
        hyperparameters=estimator.get_params()
        | ({} if isinstance(model, Gam) else {"table_limit": table_limit}),
        target=arguments.target,
        features=[
            {"name": name} | describe_numbers(column)
            for name, column in zip(features, X.T, strict=True)
        ],
        page=words,
        answer={"probability": True, "link": "logit"},
        metrics=metrics,
        calibration=curve,
    )


def _read(job: Job, channel: str, file: str, target: str) -> tuple[Table, np.ndarray]:
    table, y = split_target(job.read(channel, file, missing=True), target)
    if not np.isin(y, (0, 1)).all():
        row = int((~np.isin(y, (0, 1))).argmax())
        raise JobError(
            f"channel {channel!r}: {target} must be 0 or 1, got {y[row]:g} in row {row + 1}"
        )
    if y.min() == y.max():
        raise JobError(f"channel {channel!r}: {target} is {y[0]:g} in every row")
    return table, y


def _choose(arguments: argparse.Namespace) -> tuple[Any, float]:
    """Return the estimator, and how many MB its explainer's tables may take."""
    known = _parameters()
    given = {k: v for k, v in vars(arguments).items() if any(k in own for own in known.values())}
    for name in given:
        if name not in known[arguments.model]:
            raise JobError(
                f"{name} is not a parameter of model={arguments.model}; it has "
                + ", ".join(known[arguments.model])
            )
    table_limit = given.pop("table_limit", TABLE_LIMIT)
    if not (isinstance(table_limit, int | float) and table_limit >= 0):
        raise JobError(f"table-limit must be a number of MB, 0 or more, got {table_limit!r}")
    make, own = _models()[arguments.model]
    return make(**own | given), table_limit


if __name__ == "__main__":
    run(add_arguments, train)
