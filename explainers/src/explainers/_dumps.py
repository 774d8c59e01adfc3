"""Readers of the model files of XGBoost and LightGBM, which need neither library."""

import json
import math
import warnings
from typing import Any

import numpy as np

from explainers._trees import Choice, Trees, choose_margin, join, tabulate_choices

# XGBoost's objective -> its link, from base score to raw prediction.
_LINKS = {
    **dict.fromkeys(("binary:logistic", "reg:logistic"), lambda p: math.log(p / (1 - p))),
    **dict.fromkeys(
        ("count:poisson", "reg:gamma", "reg:tweedie", "survival:cox", "survival:aft"), math.log
    ),
    **dict.fromkeys(
        (
            "reg:squarederror",
            "reg:squaredlogerror",
            "reg:pseudohubererror",
            "reg:absoluteerror",
            "reg:quantileerror",
            "binary:logitraw",
            "binary:hinge",
            "multi:softmax",
            "multi:softprob",
            "rank:pairwise",
            "rank:ndcg",
            "rank:map",
        ),
        float,
    ),
}


def read_xgboost(content: bytes, output: int | None, best: int | None = None) -> Trees:
    """Read XGBoost's JSON.

    Parameters
    ----------
    content : bytes
    output : int or None
        See `ForestExplainer`.
    best : int or None
        The last boosting round to count; all if None.

    Raises
    ------
    ValueError
        If the booster has no trees or leaves of several values, or its objective is unsupported.
    """
    learner = json.loads(content)["learner"]
    booster, scale = learner["gradient_booster"], None
    if booster["name"] == "dart":
        scale, booster = booster["weight_drop"], booster["gbtree"]
    elif booster["name"] != "gbtree":
        raise ValueError(f"XGBoost's booster {booster['name']!r} does not consist of trees")
    parameters, model = learner["learner_model_param"], booster["model"]
    objective = learner["objective"]["name"]
    if objective not in _LINKS:
        raise ValueError(f"XGBoost's objective {objective!r} is not supported")
    n_outputs = max(1, int(parameters["num_class"]), int(parameters.get("num_target", 1)))
    column, sign = choose_margin(output, n_outputs, objective.startswith("binary:"))
    # A number, or since XGBoost 3.1 one for each output.
    scores = np.atleast_1d(json.loads(parameters["base_score"])).tolist()
    offset = _LINKS[objective](scores[column % len(scores)])

    trees, owner = model["trees"], np.array(model["tree_info"], int)
    if any(int(tree["tree_param"].get("size_leaf_vector", 1)) > 1 for tree in trees):
        raise ValueError("XGBoost's trees have leaves of several values (multi_output_tree)")
    stop = len(trees)
    rounds = model.get("iteration_indptr")
    if best is not None:
        stop = rounds[best + 1]
    elif (
        rounds and int(learner["attributes"].get("best_iteration", len(rounds))) < len(rounds) - 2
    ):
        best = int(learner["attributes"]["best_iteration"])
        warnings.warn(
            f"XGBoost stopped early at best_iteration={best}, but all {len(rounds) - 1} rounds "
            f"are explained, as in Booster.predict; for the best, save booster[:{best + 1}]",
            stacklevel=5,
        )
    own = np.flatnonzero(owner[:stop] == column)
    arrays = join([_read_xgboost_nodes(trees[i], scale[i] if scale else 1.0) for i in own])
    choices = [
        choice
        for root, i in zip(arrays["roots"], own, strict=True)
        for choice in _read_xgboost_choices(trees[i], int(root))
    ]
    return Trees.make(
        **arrays | {"value": sign * arrays["value"]},
        **tabulate_choices(choices, len(arrays["left"])),
        n_features=int(parameters["num_feature"]),
        offset=sign * offset,
        names=np.array(learner.get("feature_names") or [], str),
        missing=True,
        whole=True,
    )


def _read_xgboost_nodes(tree: dict[str, Any], scale: float) -> dict[str, np.ndarray]:
    condition = np.array(tree["split_conditions"], np.float32)
    left = np.array(tree["left_children"], int)
    return {
        "left": left,
        "right": np.array(tree["right_children"], int),
        "feature": np.array(tree["split_indices"], int),
        # Rows below the threshold go left, so compare <= with the preceding float32.
        "threshold": np.nextafter(condition, np.float32(-np.inf)).astype(float),
        "cover": np.array(tree["sum_hessian"], float),
        "value": np.where(left < 0, scale * condition.astype(float), 0),
        "missing_left": np.array(tree["default_left"], bool),
    }


def _read_xgboost_choices(tree: dict[str, Any], root: int) -> list[Choice]:
    """Read categorical splits, whose listed categories go right."""
    listed = np.array(tree.get("categories", []), float)
    segments = zip(
        tree.get("categories_nodes", []),
        tree.get("categories_segments", []),
        tree.get("categories_sizes", []),
        strict=True,
    )
    return [
        Choice(
            root + node,
            tree["split_indices"][node],
            listed[start : start + size],
            np.zeros(size, bool),
            True,
        )
        for node, start, size in segments
    ]


def read_lightgbm(text: str, output: int | None) -> Trees:
    """Read LightGBM's text.

    Raises
    ------
    ValueError
        If it is truncated, its leaves are linear models, or it treats zeros as missing.
    """
    trees_text, end, _ = text.partition("\nend of trees")
    if not end:
        raise ValueError("LightGBM's text is truncated before its last tree")
    head, *sections = trees_text.split("\nTree=")
    header = _read_pairs(head)
    n_outputs = int(header["num_tree_per_iteration"])
    objective = header.get("objective", "").partition(" ")[0]
    column, sign = choose_margin(output, n_outputs, objective in ("binary", "cross_entropy"))
    pairs = [_read_pairs(section) for section in sections[column::n_outputs]]
    trees = [_read_lightgbm_nodes(tree) for tree in pairs]
    arrays = join(trees)
    choices = [
        choice
        for root, tree in zip(arrays["roots"], pairs, strict=True)
        for choice in _read_lightgbm_choices(tree, int(root))
    ]
    # A random forest's trees are averaged.
    share = 1 / len(trees) if "average_output" in header else 1
    return Trees.make(
        **arrays | {"value": sign * share * arrays["value"]},
        **tabulate_choices(choices, len(arrays["left"])),
        n_features=int(header["max_feature_idx"]) + 1,
        names=_read_lightgbm_names(header),
        single=False,
        missing=True,
        whole=True,
    )


def _read_pairs(section: str) -> dict[str, str]:
    pairs = (line.partition("=") for line in section.splitlines())
    return {key: value for key, _, value in pairs}


def _read_lightgbm_names(header: dict[str, str]) -> np.ndarray:
    names = header["feature_names"].split(" ")
    unnamed = [f"Column_{j}" for j in range(len(names))]
    return np.array([] if names == unnamed else names, str)


def _read_lightgbm_nodes(tree: dict[str, str]) -> dict[str, np.ndarray]:
    """Read a tree: its splits first, then its leaves."""
    if tree.get("is_linear", "0") != "0":
        raise ValueError("LightGBM's leaves are linear models (linear_tree)")
    n_splits = int(tree["num_leaves"]) - 1

    def numbers(name: str, kind: type = float) -> np.ndarray:
        # A tree of a single leaf lacks splits and counts.
        return np.array(tree.get(name, "").split(), float).astype(kind)

    def links(name: str) -> np.ndarray:
        to = numbers(name, int)
        return np.concatenate([np.where(to < 0, n_splits + ~to, to), np.full(n_splits + 1, -1)])

    kind = numbers("decision_type", int)
    missing_type = kind >> 2 & 3  # 0: none; 1: zeros, too; 2: NaN
    if (missing_type == 1).any():
        raise ValueError("LightGBM treats zeros as missing values (zero_as_missing)")
    threshold = numbers("threshold")
    missing_left = np.where(missing_type == 0, threshold >= 0, kind & 2 != 0) & (kind & 1 == 0)
    leaf = np.zeros(n_splits + 1)
    return {
        "left": links("left_child"),
        "right": links("right_child"),
        "feature": np.append(numbers("split_feature", int), leaf).astype(int),
        "threshold": np.append(threshold, leaf),
        "cover": np.append(numbers("internal_count"), numbers("leaf_count") if n_splits else 1),
        "value": np.append(np.zeros(n_splits), numbers("leaf_value")),
        "missing_left": np.append(missing_left, leaf).astype(bool),
    }


def _read_lightgbm_choices(tree: dict[str, str], root: int) -> list[Choice]:
    """Read categorical splits: listed categories go left, missing values right."""
    if tree.get("num_cat", "0") == "0":
        return []
    bounds = np.array(tree["cat_boundaries"].split(), int)
    words = np.array(tree["cat_threshold"].split(), "<u4")
    feature = tree["split_feature"].split()
    at = np.array(tree["threshold"].split(), float)
    choices = []
    for node in np.flatnonzero(np.array(tree["decision_type"].split(), int) & 1):
        start, stop = bounds[int(at[node]) :][:2]
        bits = np.unpackbits(words[start:stop].view(np.uint8), bitorder="little")
        listed = np.flatnonzero(bits).astype(float)
        left = np.ones(len(listed), bool)
        choices.append(Choice(root + int(node), int(feature[node]), listed, left, False))
    return choices
