"""SHAP values of forests: the definition, scikit-learn's predictions, and `shap` as the oracle."""

import doctest
import itertools
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.ensemble import (
    ExtraTreesClassifier,
    GradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

import explainers
from explainers import ForestExplainer, _forest, _tables


@pytest.fixture(scope="module")
def data():
    """Features on scales far apart, ties, one constant column, and a target of three classes."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(600, 6)) * [1, 1e4, 1e-4, 1, 1, 0]
    X[:, 3] = X[:, 3].round()
    score = X[:, 0] + np.abs(X[:, 3]) + X[:, 0] * X[:, 4] + rng.normal(size=600)
    return X, np.digitize(score, [0, 2]), score


SMALL = {"random_state": 0, "max_depth": 5}
WEIGHT = np.random.default_rng(1).uniform(0, 3, 600).round()
FORESTS = {
    "binary": lambda X, c, y: RandomForestClassifier(50, **SMALL).fit(X, c > 0),
    "three classes": lambda X, c, y: RandomForestClassifier(20, **SMALL).fit(X, c),
    "best first": lambda X, c, y: RandomForestClassifier(20, max_leaf_nodes=30, **SMALL).fit(X, c),
    "weighted": lambda X, c, y: RandomForestClassifier(20, class_weight="balanced", **SMALL).fit(
        X, c > 1, sample_weight=WEIGHT
    ),
    "extra trees": lambda X, c, y: ExtraTreesClassifier(20, **SMALL).fit(X, c > 0),
    "regression": lambda X, c, y: RandomForestRegressor(20, **SMALL).fit(X, y),
    "tree": lambda X, c, y: DecisionTreeClassifier(**SMALL).fit(X, c),
    "deep tree": lambda X, c, y: DecisionTreeRegressor(random_state=0).fit(X[:, :4], y),
    "stump": lambda X, c, y: DecisionTreeRegressor(max_depth=1).fit(X, y),
    "leaf": lambda X, c, y: DecisionTreeRegressor().fit(X, np.full(len(X), 3.5)),
}


@pytest.fixture(scope="module", params=FORESTS)
def forest(request, data):
    return FORESTS[request.param](*data)


def predict(forest, X, output=-1):
    if hasattr(forest, "classes_"):
        return forest.predict_proba(X)[:, output]
    return forest.predict(X)


def rows_for(forest, data):
    return data[0][:200, : forest.n_features_in_]


# ---------------------------------------------------------------- the definition


def expect(tree, x, coalition, output, node=0):
    """TreeSHAP's conditional expectation, as the paper's algorithm 1 writes it."""
    if tree.children_left[node] < 0:
        value = tree.value[node, 0]
        return value[output] / (value.sum() if len(value) > 1 else 1)
    left, right = tree.children_left[node], tree.children_right[node]
    j = tree.feature[node]
    if j in coalition:
        child = left if np.float32(x[j]) <= tree.threshold[node] else right
        return expect(tree, x, coalition, output, child)
    cover = tree.weighted_n_node_samples
    parts = (expect(tree, x, coalition, output, child) * cover[child] for child in (left, right))
    return sum(parts) / cover[node]


def shapley(trees, x, output):
    """Shapley's formula over all coalitions."""
    p = len(x)
    game = {
        c: np.mean([expect(tree.tree_, x, c, output) for tree in trees])
        for size in range(p + 1)
        for c in itertools.combinations(range(p), size)
    }
    values = np.zeros(p)
    for j in range(p):
        for c in game:
            if j not in c:
                weight = math.factorial(len(c)) * math.factorial(p - len(c) - 1)
                with_j = tuple(sorted((*c, j)))
                values[j] += weight / math.factorial(p) * (game[with_j] - game[c])
    return game[()], values


@pytest.mark.parametrize("output", [0, 1, -1])
def test_values_are_shapleys(data, output):
    X, classes, _ = data
    forest = RandomForestClassifier(3, max_depth=5, random_state=0).fit(X, classes)
    explainer = ForestExplainer(forest, output)
    for x in X[:5]:
        base, values = shapley(forest.estimators_, x, output)
        assert explainer.base == pytest.approx(base, abs=1e-12)
        np.testing.assert_allclose(explainer.shap_values([x])[0], values, rtol=0, atol=1e-12)


def test_base_and_values_add_up_to_the_forests_prediction(forest, data):
    X = rows_for(forest, data)
    explainer = ForestExplainer(forest)
    prediction, values = predict(forest, X), explainer.shap_values(X)
    scale = np.abs(prediction).max()
    np.testing.assert_allclose(
        explainer.base + values.sum(axis=1), prediction, rtol=0, atol=1e-12 * scale
    )
    np.testing.assert_allclose(explainer.predict(X), prediction, rtol=0, atol=1e-12 * scale)


def test_values_are_those_of_shap(forest, data, shap):
    X = rows_for(forest, data)
    oracle = shap.TreeExplainer(forest)
    explainer = ForestExplainer(forest)
    # The class is on the last axis; a regressor has none.
    expected = np.reshape(oracle.shap_values(X), (*X.shape, -1))[..., -1]
    np.testing.assert_allclose(explainer.shap_values(X), expected, rtol=0, atol=1e-9)
    assert explainer.base == pytest.approx(np.ravel(oracle.expected_value)[-1], abs=1e-9)


def test_an_unused_feature_gets_nothing(data):
    X = data[0]
    values = ForestExplainer(FORESTS["binary"](*data)).shap_values(X)
    assert (values[:, 5] == 0).all()
    assert (np.abs(values[:, :5]).max(axis=0) > 0).all()


# ---------------------------------------------------------------- the same answer each way


def test_a_batch_equals_its_rows_and_knows_no_order(data, monkeypatch):
    X = data[0]
    forest = RandomForestRegressor(60, max_depth=4, random_state=0).fit(X, data[2])
    explainer = ForestExplainer(forest)
    assert len(explainer._blocks) == 2
    values = explainer.shap_values(X)
    assert values.shape == X.shape
    assert values.dtype == np.float64
    monkeypatch.setattr(_tables, "_GATHERED", 1)  # row by row
    np.testing.assert_allclose(explainer.shap_values(X), values, rtol=0, atol=1e-14)
    shuffled = np.random.default_rng(0).permutation(len(X))
    np.testing.assert_allclose(
        explainer.shap_values(X[shuffled]), values[shuffled], rtol=0, atol=1e-14
    )
    assert explainer.shap_values(X[:0]).shape == (0, 6)


@pytest.mark.parametrize("questions", [1, 4, 12])
def test_how_leaves_share_tables_changes_nothing(data, monkeypatch, questions):
    forest = FORESTS["best first"](*data)
    values = ForestExplainer(forest).shap_values(data[0])
    monkeypatch.setattr(_tables, "_QUESTIONS", questions)
    np.testing.assert_allclose(
        ForestExplainer(forest).shap_values(data[0]), values, rtol=0, atol=1e-14
    )


def test_thresholds_decide_in_float32(forest, data):
    """At a threshold, and a step of float64 or float32 to either side of it."""
    trees = [tree.tree_ for tree in getattr(forest, "estimators_", [forest])]
    explainer = ForestExplainer(forest)
    X = rows_for(forest, data)
    at = []
    for tree in trees[:5]:
        for j, threshold in zip(tree.feature, tree.threshold, strict=True):
            if j >= 0:
                near = np.float32(threshold)
                for x in (
                    threshold,
                    np.nextafter(threshold, np.inf),
                    near,
                    np.nextafter(near, np.float32(np.inf)),
                    np.nextafter(near, np.float32(-np.inf)),
                ):
                    at.append(X[len(at) % len(X)].copy())
                    at[-1][j] = x
    rows = np.array(at or X[:1])
    np.testing.assert_allclose(explainer.predict(rows), predict(forest, rows), atol=1e-14)


def test_saves_and_loads_without_scikit_learn(data, tmp_path):
    X = data[0][:50]
    explainer = ForestExplainer(FORESTS["three classes"](*data), output=1)
    explainer.save(tmp_path / "forest.npz")
    np.save(tmp_path / "rows.npy", X)
    script = """if True:
        import sys, numpy
        from explainers import ForestExplainer
        explainer = ForestExplainer.load("forest.npz")
        numpy.save("values.npy", explainer.shap_values(numpy.load("rows.npy")))
        print(repr(explainer.base), sorted({"sklearn", "scipy", "shap"} & sys.modules.keys()))
    """
    source = Path(explainers.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(source)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"{explainer.base!r} []\n"
    np.testing.assert_array_equal(np.load(tmp_path / "values.npy"), explainer.shap_values(X))


# ---------------------------------------------------------------- what is refused


def test_trees_with_too_many_features_on_a_path_are_refused():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(2000, 20))
    forest = RandomForestRegressor(20, random_state=0).fit(X, rng.normal(size=2000))
    with pytest.raises(ValueError, match=r"more than memory_limit=.*distinct features; lower max"):
        ForestExplainer(forest)
    shallow = RandomForestRegressor(2, max_depth=3, random_state=0).fit(X, X.sum(axis=1))
    with pytest.raises(ValueError, match="memory_limit=1000"):
        ForestExplainer(shallow, memory_limit=1000)
    ForestExplainer(shallow)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda X, y: GradientBoostingRegressor(n_estimators=2).fit(X, y), TypeError, "explain"),
        (lambda X, y: object(), TypeError, "object is neither a tree nor a forest"),
        (lambda X, y: RandomForestClassifier(), ValueError, "RandomForestClassifier is not fitte"),
        (lambda X, y: DecisionTreeRegressor(), ValueError, "is not fitted; call fit first"),
        (
            lambda X, y: RandomForestRegressor(2).fit(X, np.column_stack([y, y])),
            ValueError,
            "the forest has 2 targets",
        ),
    ],
)
def test_other_models_are_refused(data, make, error, message):
    model = make(data[0], data[2])
    with pytest.raises(error, match=message):
        ForestExplainer(model)


def test_an_output_that_is_none_is_refused(data):
    with pytest.raises(ValueError, match="output=3 is none of the 3 that a tree has"):
        ForestExplainer(FORESTS["three classes"](*data), output=3)


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (np.zeros(6), r"X must have shape \(n, 6\), got \(6,\)"),
        (np.zeros((2, 5)), r"X must have shape \(n, 6\), got \(2, 5\)"),
        ([[0] * 6, [0, 0, np.nan, 0, 0, 0]], "row 1, column 2 is missing, infinite"),
        ([[0, 0, 0, 0, 0, -np.inf]], "row 0, column 5 is"),
        ([[0, 1e39, 0, 0, 0, 0]], "row 0, column 1 is missing, infinite or beyond float32"),
    ],
)
def test_bad_rows_are_refused(data, X, message):
    with pytest.raises(ValueError, match=message):
        ForestExplainer(FORESTS["stump"](*data)).shap_values(X)


def test_doctests():
    assert doctest.testmod(_forest).attempted > 0
    assert doctest.testmod(_forest).failed == 0
