"""Models of scikit-learn, XGBoost and LightGBM, read into `Trees`."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from explainers._dumps import read_lightgbm, read_xgboost
from explainers._trees import Choice, Trees, choose_margin, choose_output, join, tabulate_choices


def read(model: Any, output: int | tuple[int, int] | None) -> Trees:
    """Read a model, or the file of one; errors are those of `ForestExplainer`."""
    if isinstance(model, str | os.PathLike):
        return _read_file(Path(model), output)
    ancestors = {ancestor.__name__ for ancestor in type(model).__mro__}
    libraries = {ancestor.__module__.partition(".")[0] for ancestor in type(model).__mro__}
    if ancestors & {"BaseForest", "BaseDecisionTree"} and hasattr(model, "predict"):
        return _read_forest(model, output)
    if "BaseHistGradientBoosting" in ancestors:
        return _read_histogram(model, output)
    if "xgboost" in libraries and hasattr(model, "get_booster"):
        if not np.isnan(model.missing):
            raise ValueError(
                f"this {type(model).__name__} treats {model.missing!r} as missing; put NaN "
                "in its place, and explain model.get_booster()"
            )
        rounds = getattr(model, "best_iteration", None)  # used in its predictions, if present
        return _read_booster(model.get_booster(), output, rounds)
    if "xgboost" in libraries and hasattr(model, "save_raw"):
        return _read_booster(model, output)
    if "lightgbm" in libraries:
        model = getattr(model, "booster_", model)  # raises an error if not fitted
        if hasattr(model, "model_to_string"):
            return read_lightgbm(model.model_to_string(), output)
    raise TypeError(
        f"{type(model).__name__} is neither a tree nor a forest of scikit-learn, nor a "
        "HistGradientBoosting model, nor one of XGBoost or LightGBM; explain it with shap"
    )


def _read_booster(booster: Any, output: Any, rounds: int | None = None) -> Trees:
    return read_xgboost(bytes(booster.save_raw("json")), output, rounds)


def _read_file(path: Path, output: Any) -> Trees:
    content = path.read_bytes()
    try:
        if content.lstrip().startswith(b"{"):
            return read_xgboost(content, output)
        if content.startswith(b"tree\n"):
            return read_lightgbm(content.decode(), output)
    except (IndexError, KeyError, TypeError, json.JSONDecodeError, UnicodeDecodeError):
        pass  # it only starts like JSON
    raise ValueError(
        f"{path} is neither XGBoost's model, saved as .json, nor LightGBM's, saved as text"
    )


def _check_fitted(model: Any, attribute: str) -> None:
    if not hasattr(model, attribute):
        raise ValueError(f"this {type(model).__name__} is not fitted; call fit first")


def _read_forest(forest: Any, output: int | tuple[int, int] | None) -> Trees:
    from sklearn.utils import get_tags  # whose forest it is

    _check_fitted(forest, "estimators_" if hasattr(forest, "n_estimators") else "tree_")
    trees = [tree.tree_ for tree in getattr(forest, "estimators_", [forest])]
    arrays = join([_read_nodes(tree) for tree in trees])
    value = arrays.pop("values")  # (nodes, targets, classes)
    target, n_targets = 0, forest.n_outputs_
    if n_targets > 1:
        if output is None:
            raise ValueError(
                f"the forest has {n_targets} targets; name one: "
                + ("output=(target, class)" if hasattr(forest, "classes_") else "output=target")
            )
        target, output = output if isinstance(output, tuple) else (output, None)
        if hasattr(forest, "classes_") and output is None:
            raise ValueError(
                f"the forest has {n_targets} targets of classes; name both: output=(target, class)"
            )
        target = choose_output(target, n_targets)
    n_classes = np.ravel(getattr(forest, "n_classes_", 1) or 1)
    value = value[:, target, : n_classes[target] if hasattr(forest, "classes_") else 1]
    column = choose_output(output, value.shape[1])
    if hasattr(forest, "classes_"):
        value = value / value.sum(axis=1, keepdims=True)  # counts before scikit-learn 1.3
    return Trees.make(
        **arrays,
        value=value[:, column] / len(trees),
        n_features=forest.n_features_in_,
        names=getattr(forest, "feature_names_in_", np.empty(0)).astype(str),
        missing="missing_left" in arrays and get_tags(forest).input_tags.allow_nan,
    )


def _read_nodes(tree: Any) -> dict[str, np.ndarray]:
    arrays = {
        "left": tree.children_left,
        "right": tree.children_right,
        "feature": tree.feature,
        "threshold": tree.threshold,
        "cover": tree.weighted_n_node_samples,
        "values": tree.value,
    }
    if hasattr(tree, "missing_go_to_left"):  # since scikit-learn 1.3
        arrays["missing_left"] = tree.missing_go_to_left
    return arrays


def _read_histogram(model: Any, output: int | tuple[int, int] | None) -> Trees:
    _check_fitted(model, "_predictors")
    baseline = np.ravel(model._baseline_prediction)
    column, sign = choose_margin(output, len(baseline), hasattr(model, "classes_"))
    predictors = [iteration[column] for iteration in model._predictors]
    arrays = join([_read_histogram_nodes(predictor.nodes) for predictor in predictors])
    roots, value = arrays["roots"], arrays.pop("values")
    by_set, bitset = arrays.pop("by_set"), arrays.pop("bitset")
    # Inside, the features on categories come first, and their categories are codes.
    feature, choices = arrays.pop("feature"), []
    encoder = getattr(model, "_preprocessor", None)
    if encoder is not None:
        categorical = np.asarray(model.is_categorical_)
        order = np.concatenate([np.flatnonzero(categorical), np.flatnonzero(~categorical)])
        categories = encoder.named_transformers_["encoder"].categories_
        known, row_of = model._bin_mapper.make_known_categories_bitsets()
        for node in np.flatnonzero(by_set):
            j = feature[node]
            listed = categories[j]
            if np.asarray(listed).dtype.kind not in "biuf":
                name = getattr(model, "feature_names_in_", [f"column {k}" for k in order])[
                    order[j]
                ]
                raise ValueError(
                    f"{name!r} has categories of text, such as {listed[0]!r}; "
                    "fit the model to numeric codes instead"
                )
            listed = np.asarray(listed, float)
            tree = np.searchsorted(roots, node, "right") - 1
            left = _bits(predictors[tree].raw_left_cat_bitsets[bitset[node]])
            unknown = ~_bits(known[row_of[j]])[: len(listed)] | np.isnan(listed)
            missing_left = bool(arrays["missing_left"][node])
            goes = np.where(unknown, missing_left, left[: len(listed)])
            number = ~np.isnan(listed)
            choices.append(
                Choice(int(node), int(order[j]), listed[number], goes[number], missing_left)
            )
        feature = order[feature]
    return Trees.make(
        **arrays,
        **tabulate_choices(choices, len(value)),
        feature=feature,
        value=sign * value,
        n_features=model.n_features_in_,
        offset=sign * baseline[column],
        names=getattr(model, "feature_names_in_", np.empty(0)).astype(str),
        single=False,
        missing=True,
    )


def _bits(words: np.ndarray) -> np.ndarray:
    octets = np.ascontiguousarray(words, "<u4").view(np.uint8)
    return np.unpackbits(octets, bitorder="little").astype(bool)


def _read_histogram_nodes(nodes: np.ndarray) -> dict[str, np.ndarray]:
    inner = nodes["is_leaf"] == 0
    return {
        "left": np.where(inner, nodes["left"].astype(int), -1),
        "right": np.where(inner, nodes["right"].astype(int), -1),
        "feature": nodes["feature_idx"],
        "threshold": nodes["num_threshold"],
        "cover": nodes["count"],
        "values": nodes["value"],
        "missing_left": nodes["missing_go_to_left"] != 0,
        "by_set": inner & (nodes["is_categorical"] != 0),
        "bitset": nodes["bitset_idx"],
    }
