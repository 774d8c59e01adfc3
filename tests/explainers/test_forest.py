"""SHAP values of forests: the definition, scikit-learn's predictions, and `shap` as the oracle."""

import doctest
import itertools
import math
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest
from scipy import sparse
from sklearn.ensemble import (
    ExtraTreesClassifier,
    GradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
    RandomTreesEmbedding,
)
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor, ExtraTreeRegressor

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
    "deep": lambda X, c, y: RandomForestClassifier(5, random_state=0).fit(X, c),
    "deep, weighted": lambda X, c, y: ExtraTreesClassifier(5, random_state=0).fit(
        X, c > 1, sample_weight=WEIGHT
    ),
    "missing": lambda X, c, y: RandomForestClassifier(20, **SMALL).fit(lose(X), c),
    "deep, missing": lambda X, c, y: RandomForestRegressor(5, random_state=0).fit(lose(X), y),
    "stump": lambda X, c, y: DecisionTreeRegressor(max_depth=1).fit(X, y),
    "leaf": lambda X, c, y: DecisionTreeRegressor().fit(X, np.full(len(X), 3.5)),
}


def lose(X):
    """Lose some values, large ones more often, so that it matters that they are missing."""
    X = X.copy()
    at = np.random.default_rng(2).uniform(size=len(X))
    X[at < 0.2, 0] = np.nan
    X[(at > 0.5) & (X[:, 3] > 0), 3] = np.nan
    return X


@pytest.fixture(scope="module", params=FORESTS)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def forest(name, data):
    return FORESTS[name](*data)


@pytest.fixture(scope="module")
def rows(name, forest, data):
    X = data[0][:200, : forest.n_features_in_]
    return lose(X) if "missing" in name else X


@pytest.fixture(scope="module", params=[2**26, 0], ids=["tables", "computed"])
def explainer(request, forest):
    explainer = ForestExplainer(forest, memory_limit=request.param)
    assert explainer.tabulated == (request.param > 0)
    return explainer


def predict(forest, X, output=-1):
    if hasattr(forest, "classes_"):
        return forest.predict_proba(X)[:, output]
    return forest.predict(X)


# ---------------------------------------------------------------- the definition


def expect(tree, x, coalition, target, output, node=0):
    """TreeSHAP's conditional expectation, as the paper's algorithm 1 writes it."""
    if tree.children_left[node] < 0:
        value = tree.value[node, target]
        return value[output] / (value.sum() if len(value) > 1 else 1)
    left, right = tree.children_left[node], tree.children_right[node]
    j = tree.feature[node]
    if j in coalition:
        goes_left = np.float32(x[j]) <= tree.threshold[node]
        if np.isnan(x[j]):
            goes_left = tree.missing_go_to_left[node]
        return expect(tree, x, coalition, target, output, left if goes_left else right)
    cover = tree.weighted_n_node_samples
    return (
        sum(
            expect(tree, x, coalition, target, output, child) * cover[child]
            for child in (left, right)
        )
        / cover[node]
    )


def shapley(trees, x, output, target=0):
    """Return the base, Shapley's formula and that of interactions, over all coalitions."""
    p = len(x)
    game = {
        c: np.mean([expect(tree.tree_, x, c, target, output) for tree in trees])
        for size in range(p + 1)
        for c in itertools.combinations(range(p), size)
    }

    def value(*features):
        return game[tuple(sorted(features))]

    values, pairs = np.zeros(p), np.zeros((p, p))
    for c in game:
        for i in set(range(p)) - set(c):
            weight = math.factorial(len(c)) * math.factorial(p - len(c) - 1) / math.factorial(p)
            values[i] += weight * (value(*c, i) - value(*c))
            for j in set(range(p)) - {*c, i}:
                weight = math.factorial(len(c)) * math.factorial(p - len(c) - 2)
                weight /= 2 * math.factorial(p - 1)
                pairs[i, j] += weight * (value(*c, i, j) - value(*c, i) - value(*c, j) + value(*c))
    pairs[range(p), range(p)] = values - pairs.sum(axis=1)
    return value(), values, pairs


def assert_shapleys(explainer, trees, rows, output, target=0):
    for x in rows:
        base, values, pairs = shapley(trees, x, output, target)
        assert explainer.base == pytest.approx(base, abs=1e-12)
        np.testing.assert_allclose(explainer.shap_values([x])[0], values, rtol=0, atol=1e-12)
        np.testing.assert_allclose(
            explainer.shap_interaction_values([x])[0], pairs, rtol=0, atol=1e-12
        )


@pytest.mark.parametrize("output", [0, 1, -1])
def test_values_are_shapleys(data, output):
    X, classes, _ = data
    forest = RandomForestClassifier(3, max_depth=5, random_state=0).fit(X, classes)
    assert_shapleys(ForestExplainer(forest, output), forest.estimators_, X[:5], output)


def test_values_and_interactions_are_shapleys_for_every_forest(forest, rows, explainer):
    trees = getattr(forest, "estimators_", [forest])
    if len(trees) > 5:  # the formula takes long
        forest.estimators_, kept = trees[:5], forest.estimators_
        explainer = ForestExplainer(forest, memory_limit=explainer._memory_limit)
        trees, forest.estimators_ = forest.estimators_, kept
    assert_shapleys(explainer, trees, rows[:3], -1)


def test_base_and_values_add_up_to_the_forests_prediction(forest, rows, explainer):
    prediction, values = predict(forest, rows), explainer.shap_values(rows)
    scale = np.abs(prediction).max()
    np.testing.assert_allclose(
        explainer.base + values.sum(axis=1), prediction, rtol=0, atol=1e-12 * scale
    )
    np.testing.assert_allclose(explainer.predict(rows), prediction, rtol=0, atol=1e-12 * scale)


def test_values_are_those_of_shap(forest, rows, explainer, shap):
    oracle = shap.TreeExplainer(forest)
    # The class is on the last axis; a regressor has none.
    expected = np.reshape(oracle.shap_values(rows), (*rows.shape, -1))[..., -1]
    np.testing.assert_allclose(explainer.shap_values(rows), expected, rtol=0, atol=1e-9)
    assert explainer.base == pytest.approx(np.ravel(oracle.expected_value)[-1], abs=1e-9)


def test_interactions_are_those_of_shap_and_add_up(forest, rows, explainer, shap):
    pairs = explainer.shap_interaction_values(rows[:20])
    np.testing.assert_allclose(
        pairs.sum(axis=2), explainer.shap_values(rows[:20]), rtol=0, atol=1e-12
    )
    np.testing.assert_allclose(pairs, pairs.transpose(0, 2, 1), rtol=0, atol=1e-14)
    expected = shap.TreeExplainer(forest).shap_interaction_values(rows[:20])
    expected = np.reshape(expected, (*pairs.shape, -1))[..., -1]
    np.testing.assert_allclose(pairs, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("limit", [2**26, 0])
def test_any_of_several_targets_can_be_explained(data, limit):
    X, classes, y = data
    both = np.column_stack([y, X[:, 0] - y])
    forest = RandomForestRegressor(3, max_depth=5, random_state=0).fit(X, both)
    for target in (0, 1):
        explainer = ForestExplainer(forest, target, memory_limit=limit)
        np.testing.assert_allclose(explainer.predict(X), forest.predict(X)[:, target], atol=1e-12)
        assert_shapleys(explainer, forest.estimators_, X[:2], 0, target)
    both = np.column_stack([classes, y > 0])  # of three classes and of two
    forest = RandomForestClassifier(3, max_depth=5, random_state=0).fit(X, both)
    for target, output in ((0, 0), (0, 2), (1, 1), (1, -1)):
        explainer = ForestExplainer(forest, (target, output), memory_limit=limit)
        expected = forest.predict_proba(X)[target][:, output]
        np.testing.assert_allclose(explainer.predict(X), expected, atol=1e-12)
        trees = forest.estimators_
        assert_shapleys(explainer, trees, X[:2], output if output >= 0 else 1, target)


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


def test_thresholds_decide_in_float32(forest, rows, explainer):
    """At a threshold, and a step of float64 or float32 to either side of it."""
    trees = [tree.tree_ for tree in getattr(forest, "estimators_", [forest])]
    X = rows
    at = []
    for tree in trees[:5]:
        for j, threshold in zip(tree.feature[:200], tree.threshold[:200], strict=True):
            if j >= 0 and np.isfinite(threshold):  # else, only missing values go right
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


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda X, y: GradientBoostingRegressor(n_estimators=2).fit(X, y), TypeError, "explain"),
        (lambda X, y: object(), TypeError, "object is neither a tree nor a forest"),
        (
            lambda X, y: RandomTreesEmbedding(2).fit(X),
            TypeError,
            "RandomTreesEmbedding is neither",
        ),
        (lambda X, y: RandomForestClassifier(), ValueError, "RandomForestClassifier is not fitte"),
        (lambda X, y: DecisionTreeRegressor(), ValueError, "is not fitted; call fit first"),
        (
            lambda X, y: RandomForestRegressor(2).fit(X, np.column_stack([y, y])),
            ValueError,
            "the forest has 2 targets; name one: output=target",
        ),
        (
            lambda X, y: RandomForestClassifier(2).fit(X, np.column_stack([y > 0, y > 1])),
            ValueError,
            r"the forest has 2 targets; name one: output=\(target, class\)",
        ),
    ],
)
def test_other_models_are_refused(data, make, error, message):
    model = make(data[0], data[2])
    with pytest.raises(error, match=message):
        ForestExplainer(model)


def test_an_output_that_is_none_is_refused(data):
    with pytest.raises(ValueError, match="output=3 is not one of the 3 outputs of a tree"):
        ForestExplainer(FORESTS["three classes"](*data), output=3)
    both = np.column_stack([data[1], data[1]])
    forest = RandomForestRegressor(2, max_depth=2).fit(data[0], both)
    with pytest.raises(ValueError, match="output=2 is not one of the 2"):
        ForestExplainer(forest, output=2)
    forest = RandomForestClassifier(2, max_depth=2).fit(data[0], both)
    for output, message in ((1, "name both: output="), ((0, 3), "output=3 is not one of the 3")):
        with pytest.raises(ValueError, match=message):
            ForestExplainer(forest, output=output)


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (np.zeros(6), r"X must have shape \(n, 6\), got \(6,\)"),
        (np.zeros((2, 5)), r"X must have shape \(n, 6\), got \(2, 5\)"),
        ([[0, 0, 0, 0, 0, -np.inf]], "row 0, column 5 is infinite or beyond float32"),
        ([[0, 1e39, 0, 0, 0, 0]], "row 0, column 1 is infinite or beyond float32"),
        ([["a"] * 6], "X must be a table of numbers: could not convert string to float: 'a'"),
        (sparse.csr_matrix((2, 6)), r"X is sparse, a csr_matrix; pass X.toarray\(\)"),
        (sparse.coo_array((2, 6)), "X is sparse, a coo_array"),
    ],
)
def test_bad_rows_are_refused(data, X, message):
    explainer = ForestExplainer(FORESTS["stump"](*data))
    for explain in (explainer.shap_values, explainer.predict, explainer.shap_interaction_values):
        with pytest.raises(ValueError, match=message):
            explain(X)


@pytest.mark.parametrize("splitter", ["random", "best"])
def test_missing_values_are_refused_where_scikit_learn_takes_none(data, splitter):
    """Where it takes them, it does so even if there were none in training."""
    X, _, y = data
    asked = [[0] * 6, [0, 0, np.nan, 0, 0, 0]]
    tree = ExtraTreeRegressor(splitter=splitter, **SMALL).fit(X, y)
    explainer = ForestExplainer(tree)
    if splitter == "random":
        np.testing.assert_allclose(explainer.predict(asked), tree.predict(asked), rtol=1e-12)
        return
    with pytest.raises(ValueError, match="contains NaN"):
        tree.predict(asked)
    with pytest.raises(ValueError, match="row 1, column 2 is missing, and the model does not"):
        explainer.shap_values(asked)


# ---------------------------------------------------------------- names


NAMES = [f"feature {j}" for j in range(6)]


@pytest.fixture(scope="module", params=["as made", "saved"])
def named(request, data, tmp_path_factory):
    X, classes, _ = data
    explainer = ForestExplainer(
        RandomForestClassifier(5, **SMALL).fit(pd.DataFrame(X, columns=NAMES), classes)
    )
    if request.param == "saved":
        explainer.save(path := tmp_path_factory.mktemp("named") / "forest.npz")
        explainer = ForestExplainer.load(path)
    return explainer


@pytest.mark.parametrize("frame", [pd.DataFrame, pl.DataFrame])
@pytest.mark.parametrize(
    ("names", "message"),
    [
        (NAMES[::-1], r"in the same order: got \['feature 5', .*, the model has \['feature 0', "),
        (["other", *NAMES[1:]], r"unknown \['other'\]; missing \['feature 0'\]"),
        (NAMES[:5], r"in the same order: missing \['feature 5'\]"),
        ([*NAMES, "more"], r"in the same order: unknown \['more'\]"),
    ],
)
def test_a_frame_of_other_columns_is_refused(data, named, frame, names, message):
    wide = np.column_stack([data[0], data[0][:, 0]])[:3, : len(names)]
    table = frame(dict(zip(names, wide.T, strict=True)))
    for explain in (named.shap_values, named.predict, named.shap_interaction_values):
        with pytest.raises(ValueError, match=message) as refused:
            explain(table)
        assert "\n" not in str(refused.value)


def test_names_are_warned_of_where_scikit_learn_does(data, named):
    X = data[0][:3]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        expected = named.shap_values(pd.DataFrame(X, columns=NAMES))
        np.testing.assert_array_equal(
            named.shap_values(pl.DataFrame(X, schema=NAMES, orient="row")), expected
        )
        nameless = ForestExplainer(FORESTS["binary"](*data))
        assert nameless.feature_names is None
        nameless.shap_values(X)
        nameless.shap_values(pd.DataFrame(X))  # whose columns are 0 to 5
    assert named.feature_names == NAMES
    for table in (X, pd.DataFrame(X)):
        with pytest.warns(UserWarning, match="X has no feature names, but the model has") as seen:
            np.testing.assert_array_equal(named.shap_values(table), expected)
        assert seen[0].filename == __file__
    with pytest.warns(UserWarning, match="X has feature names, but the model has none"):
        nameless.shap_values(pd.DataFrame(X, columns=NAMES))
    with pytest.raises(ValueError, match=r"some of X's columns have names that are not text: \["):
        named.shap_values(pd.DataFrame(X, columns=[*NAMES[:5], 5]))


def test_categories_in_a_frame_are_refused_by_name(data, named):
    table = pd.DataFrame(data[0][:3], columns=NAMES).astype({NAMES[2]: "category"})
    with pytest.raises(ValueError, match=f"column '{NAMES[2]}' is categorical"):
        named.shap_values(table)


# ---------------------------------------------------------------- deep forests


def test_trees_too_deep_for_tables_are_computed(shap):
    """As many features as can be on a path, and more than a table could ever have."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(2000, 40))
    forest = RandomForestRegressor(20, random_state=0).fit(
        X, X.sum(axis=1) + rng.normal(size=2000)
    )
    explainer = ForestExplainer(forest)
    assert not explainer.tabulated
    values = explainer.shap_values(X[:50])
    expected = shap.TreeExplainer(forest).shap_values(X[:50])
    np.testing.assert_allclose(values, expected, rtol=0, atol=1e-9)
    shallow = RandomForestRegressor(2, max_depth=3, random_state=0).fit(X, X.sum(axis=1))
    tables, computed = (ForestExplainer(shallow, memory_limit=limit) for limit in (2**26, 1000))
    assert tables.tabulated
    assert not computed.tabulated
    np.testing.assert_allclose(tables.shap_values(X), computed.shap_values(X), atol=1e-14)


@pytest.mark.parametrize("limit", [2**26, 0])
def test_a_chain_of_splits_may_be_longer_than_calls_can_be_nested(tmp_path, limit):
    """A tree of 3,000 levels: at node 2 i, a row of which x[i % 3] <= i leaves."""
    n = 3000
    node = np.arange(2 * n + 1)
    inner = (node % 2 == 0) & (node < 2 * n)
    np.savez(
        tmp_path / "chain.npz",
        left=np.where(inner, node + 1, -1),
        right=np.where(inner, node + 2, -1),
        feature=np.where(inner, node // 2 % 3, -2),
        threshold=node / 2,
        cover=2 * n + 1 - node,
        value=np.where(inner, 0, node),
        roots=[0],
        n_features=3,
        memory_limit=limit,
    )
    explainer = ForestExplainer.load(tmp_path / "chain.npz")
    X = np.array([[100, 200, 2500], [9000, 9000, 9000], [-1, 5, 5], [1000, 1000, 1000]])
    leave = [next((i for i in range(n) if x[i % 3] <= i), None) for x in X.tolist()]
    expected = [2 * n if i is None else 2 * i + 1 for i in leave]
    np.testing.assert_allclose(explainer.predict(X), expected, rtol=1e-12)
    added = explainer.base + explainer.shap_values(X).sum(axis=1)
    np.testing.assert_allclose(added, expected, rtol=1e-12)


def test_doctests():
    assert doctest.testmod(_forest).attempted > 0
    assert doctest.testmod(_forest).failed == 0
