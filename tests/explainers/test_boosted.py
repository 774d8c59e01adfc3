"""SHAP values of boosted trees: the definition, and each library's own values and predictions."""

import itertools
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, softmax
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from threadpoolctl import threadpool_limits

import explainers
from explainers import ForestExplainer

CATEGORIES = 3  # the column of categories


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Beside other work, threads that wait for one another take minutes instead of seconds."""
    with threadpool_limits(1):
        yield


@pytest.fixture(scope="session")
def xgboost():
    return import_or_skip("xgboost")


@pytest.fixture(scope="session")
def lightgbm():
    return import_or_skip("lightgbm")


def import_or_skip(name):
    try:
        return __import__(name)
    except (ImportError, OSError):  # OSError: without OpenMP
        if os.environ.get("REQUIRE_TOOLS") == "1":
            pytest.fail(f"{name} is not installed")
        pytest.skip(f"{name} is not installed")


@pytest.fixture(scope="module")
def data():
    """Numbers, some of them missing, a column of twelve categories, and three kinds of target."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(800, 5)) * [1, 1e4, 1e-4, 1, 1]
    X[:, CATEGORIES] = rng.integers(0, 12, 800)
    group = np.isin(X[:, CATEGORIES], (1, 4, 5, 9))
    score = X[:, 0] * (1 + group) + group + X[:, 4] ** 2 + rng.normal(size=800) / 2
    X[rng.uniform(size=800) < 0.2, 0] = np.nan
    X[rng.uniform(size=800) < 0.1, CATEGORIES] = np.nan
    return X, np.digitize(score, [0, 2]), score


@pytest.fixture(scope="module")
def rows(data):
    """Rows of the data; then values that are far away, categories that nobody knows, and zeros."""
    strange = np.repeat(data[0][:8], 3, axis=0)
    strange[0:4, CATEGORIES] = (12, 40, np.nan, 7)
    strange[4:8, 1] = (1e30, -1e30, np.nan, 0)
    strange[8:12, 4] = (0, 1e-40, -1e-300, np.nan)
    strange[12:14] = np.array([0] * 5), np.array([np.nan] * 5)
    return np.vstack([data[0][:60], strange])


@pytest.fixture(scope="module", params=[2**26, 0], ids=["tables", "computed"])
def limit(request):
    return request.param


def assert_explains(model, X, margin, limit, output=None):
    """Check that base and values add up to the raw prediction, and predict to the same."""
    explainer = ForestExplainer(model, output, memory_limit=limit)
    assert explainer.tabulated == (limit > 0)
    scale = np.abs(margin).max()
    added = explainer.base + explainer.shap_values(X).sum(axis=1)
    # XGBoost adds up in float32.
    np.testing.assert_allclose(added, margin, rtol=0, atol=1e-5 * scale)
    np.testing.assert_allclose(explainer.predict(X), added, rtol=0, atol=1e-10 * scale)
    return explainer


def assert_contributions(explainer, X, expected, tolerance):
    """Check values and base, which libraries put behind the last feature."""
    scale = np.abs(expected).max()
    values = explainer.shap_values(X)
    np.testing.assert_allclose(values, expected[:, :-1], rtol=0, atol=tolerance * scale)
    np.testing.assert_allclose(explainer.base, expected[:, -1], rtol=0, atol=tolerance * scale)


# ---------------------------------------------------------------- HistGradientBoosting

HIST = {"random_state": 0, "max_iter": 20, "categorical_features": [CATEGORIES]}
HISTS = {
    "regression": lambda X, c, y: HistGradientBoostingRegressor(**HIST).fit(X, y),
    "numbers": lambda X, c, y: HistGradientBoostingRegressor(max_iter=20).fit(X, y),
    "poisson": lambda X, c, y: HistGradientBoostingRegressor(loss="poisson", **HIST).fit(X, c),
    "binary": lambda X, c, y: HistGradientBoostingClassifier(**HIST).fit(X, c > 0),
    "three classes": lambda X, c, y: HistGradientBoostingClassifier(**HIST).fit(X, c),
    "weighted": lambda X, c, y: HistGradientBoostingClassifier(**HIST).fit(
        X, c > 0, sample_weight=np.arange(len(X)) % 3
    ),
    "stopped early": lambda X, c, y: HistGradientBoostingClassifier(
        early_stopping=True, n_iter_no_change=1, **HIST | {"max_iter": 500}
    ).fit(X, c > 0),
    "leaf": lambda X, c, y: HistGradientBoostingRegressor(max_iter=2).fit(X, np.full(len(X), 2.5)),
}


@pytest.fixture(scope="module", params=HISTS)
def hist(request, data):
    return HISTS[request.param](*data)


def test_histogram_models_are_explained_on_the_raw_scale(hist, rows, limit):
    # A category that nobody knows counts as missing, and so does a missing one.
    margin = hist._raw_predict(rows)
    outputs = margin.shape[1]
    for output in range(outputs):
        named = None if outputs == 1 else output
        explainer = assert_explains(hist, rows, margin[:, output], limit, named)
    assert explainer.base == pytest.approx(ForestExplainer(hist).base)
    if hasattr(hist, "classes_") and outputs == 1:
        p = hist.predict_proba(rows)
        for output in (0, 1):
            predicted = expit(ForestExplainer(hist, output, limit).predict(rows))
            np.testing.assert_allclose(predicted, p[:, output], rtol=1e-9)
    elif hasattr(hist, "classes_"):
        raws = [ForestExplainer(hist, k, limit).predict(rows) for k in range(outputs)]
        np.testing.assert_allclose(softmax(raws, axis=0).T, hist.predict_proba(rows), rtol=1e-9)


def expect(predictor, x, coalition, node=0):
    """TreeSHAP's conditional expectation, as the paper's algorithm 1 writes it."""
    at = predictor.nodes[node]
    if at["is_leaf"]:
        return at["value"]
    j = at["feature_idx"]
    if j in coalition:
        if np.isnan(x[j]):
            left = at["missing_go_to_left"]
        elif at["is_categorical"]:
            words = predictor.raw_left_cat_bitsets[at["bitset_idx"]]
            left = words[int(x[j]) // 32] >> np.uint32(x[j] % 32) & 1
        else:
            left = x[j] <= at["num_threshold"]
        return expect(predictor, x, coalition, at["left" if left else "right"])
    return (
        sum(
            expect(predictor, x, coalition, at[side]) * predictor.nodes[at[side]]["count"]
            for side in ("left", "right")
        )
        / (at["count"])
    )


@pytest.mark.parametrize("name", ["regression", "binary", "three classes"])
def test_values_and_interactions_are_shapleys(data, name, limit):
    """By his formula over all coalitions; inside, the column of categories comes first."""
    X = data[0]
    model = HISTS[name](*data)
    predictors = [trees[-1] for trees in model._predictors[:4]]
    model._predictors = model._predictors[:4]
    order = [CATEGORIES, 0, 1, 2, 4]
    explainer, p = ForestExplainer(model, memory_limit=limit), 5
    with_categories = 0
    for x in X[:6]:
        with_categories += not np.isnan(x[CATEGORIES])
        game = {
            c: model._baseline_prediction[0, -1]
            + sum(expect(predictor, x[order], c) for predictor in predictors)
            for size in range(p + 1)
            for c in itertools.combinations(range(p), size)
        }
        values, pairs = np.zeros(p), np.zeros((p, p))
        for c in game:
            for i in set(range(p)) - set(c):
                one = game[tuple(sorted((*c, i)))] - game[c]
                share = math.factorial(len(c)) * math.factorial(p - len(c) - 1)
                values[order[i]] += share / math.factorial(p) * one
                for j in set(range(p)) - {*c, i}:
                    both = game[tuple(sorted((*c, i, j)))] - game[tuple(sorted((*c, j)))]
                    share = math.factorial(len(c)) * math.factorial(p - len(c) - 2)
                    share /= 2 * math.factorial(p - 1)
                    pairs[order[i], order[j]] += share * (both - one)
        pairs[range(p), range(p)] = values - pairs.sum(axis=1)
        assert explainer.base == pytest.approx(game[()], abs=1e-12)
        np.testing.assert_allclose(explainer.shap_values([x])[0], values, rtol=0, atol=1e-12)
        np.testing.assert_allclose(
            explainer.shap_interaction_values([x])[0], pairs, rtol=0, atol=1e-12
        )
    assert with_categories > 3


@pytest.mark.parametrize("name", ["numbers", "binary"])
def test_values_are_those_of_shap(data, rows, name, limit, shap):
    X, classes, _ = data
    model = HISTS["numbers"](*data)
    if name == "binary":
        model = HistGradientBoostingClassifier(max_iter=20).fit(X, classes > 0)
    oracle = shap.TreeExplainer(model, feature_perturbation="tree_path_dependent")
    explainer = ForestExplainer(model, memory_limit=limit)
    X = X[:50]
    np.testing.assert_allclose(explainer.shap_values(X), oracle.shap_values(X), rtol=0, atol=1e-9)
    assert explainer.base == pytest.approx(np.ravel(oracle.expected_value)[-1], abs=1e-9)


def test_categories_of_a_frame(data, tmp_path):
    """Numbers of any kind are explained; text is refused, as a row of numbers has none."""
    X, classes, _ = data
    frame = pd.DataFrame(X, columns=[*"abcde"])
    frame["d"] = (frame["d"] * 2.5 - 3).astype("category")
    model = HistGradientBoostingClassifier(max_iter=10).fit(frame, classes > 0)
    assert model.is_categorical_[CATEGORIES]
    explainer = ForestExplainer(model)
    assert explainer.feature_names == [*"abcde"]
    numbers = frame.astype(float)
    np.testing.assert_allclose(
        explainer.predict(numbers), model._raw_predict(frame)[:, 0], rtol=0, atol=1e-12
    )
    with pytest.raises(ValueError, match="column 'd' is categorical; pass its codes"):
        explainer.predict(frame)
    with pytest.raises(ValueError, match="must be those of the model, in the same order"):
        explainer.predict(numbers[[*"edcba"]])
    explainer.save(tmp_path / "model.npz")
    again = ForestExplainer.load(tmp_path / "model.npz")
    np.testing.assert_array_equal(again.shap_values(numbers), explainer.shap_values(numbers))

    frame["d"] = np.where(classes > 1, "much", "little")
    model = HistGradientBoostingClassifier(max_iter=10, categorical_features=["d"]).fit(
        frame.astype({"d": "category"}), classes > 0
    )
    with pytest.raises(ValueError, match=r"'d' has categories of text, such as 'little'; fit the"):
        ForestExplainer(model)


def test_a_model_that_is_not_fitted_or_has_no_such_output_is_refused(data):
    with pytest.raises(ValueError, match="this HistGradientBoostingRegressor is not fitted"):
        ForestExplainer(HistGradientBoostingRegressor())
    for name, outputs in (("binary", 2), ("three classes", 3), ("regression", 1)):
        with pytest.raises(ValueError, match=f"output=3 is not one of the {outputs}"):
            ForestExplainer(HISTS[name](*data), 3)


# ---------------------------------------------------------------- XGBoost


def typed(X):
    """Name the columns' kinds, as XGBoost takes categories."""
    return {"feature_types": ["c" if j == CATEGORIES else "q" for j in range(X.shape[1])]}


XGBOOST = {"nthread": 1, "max_depth": 4, "seed": 0, "max_cat_to_onehot": 4, "eta": 0.2}
OBJECTIVES = {
    "reg:squarederror": {},
    "reg:absoluteerror": {},
    "binary:logistic": {},
    "count:poisson": {},
    "reg:gamma": {},
    "multi:softprob": {"num_class": 3},
    "rank:pairwise": {},
    "binary:logitraw": {"booster": "dart", "rate_drop": 0.3},
    "reg:tweedie": {"grow_policy": "lossguide", "max_leaves": 20, "max_depth": 0},
}


@pytest.fixture(scope="module", params=OBJECTIVES)
def booster(request, data, xgboost):
    X, classes, y = data
    name = request.param
    label = {"reg:squarederror": y, "reg:absoluteerror": y, "multi:softprob": classes}
    label = label.get(name, classes > 0 if "binary" in name else classes + 0.5)
    given = {"label": label, "weight": 1 + np.arange(len(X)) % 3}
    if name == "rank:pairwise":
        given = {"label": classes, "group": [400, 400]}
    if name == "count:poisson":
        given["label"] = classes
    matrix = xgboost.DMatrix(X, **given, **typed(X), enable_categorical=True)
    parameters = XGBOOST | OBJECTIVES[name] | {"objective": name}
    return xgboost.train(parameters, matrix, num_boost_round=12)


def test_xgboost_is_explained_by_its_own_values(booster, rows, xgboost, limit, tmp_path):
    matrix = xgboost.DMatrix(rows, **typed(rows), enable_categorical=True)
    margin = booster.predict(matrix, output_margin=True)
    values = booster.predict(matrix, pred_contribs=True)
    pairs = booster.predict(matrix, pred_interactions=True)
    booster.save_model(tmp_path / "model.json")
    several = margin.ndim == 2
    for output in range(margin.shape[1]) if several else (None,):
        pick = (slice(None), output) if several else slice(None)
        explainer = assert_explains(booster, rows, margin[pick], limit, output)
        assert_contributions(explainer, rows, values[pick], 1e-5)
        np.testing.assert_allclose(
            explainer.shap_interaction_values(rows),
            pairs[pick][:, :-1, :-1],
            rtol=0,
            atol=1e-5 * np.abs(values).max(),
        )
        dumped = ForestExplainer(tmp_path / "model.json", output, memory_limit=limit)
        np.testing.assert_array_equal(dumped.shap_values(rows), explainer.shap_values(rows))


def test_xgboost_thresholds_decide_in_float32(data, xgboost):
    X, _, y = data
    booster = xgboost.train(XGBOOST, xgboost.DMatrix(X, y), num_boost_round=3)
    at = []
    for tree in json.loads(bytes(booster.save_raw("json")))["learner"]["gradient_booster"][
        "model"
    ]["trees"]:
        for j, condition, left in zip(
            tree["split_indices"], tree["split_conditions"], tree["left_children"], strict=True
        ):
            near = np.float32(condition)
            for x in (near, np.nextafter(near, -np.float32(np.inf)), float(near) * (1 - 1e-9)):
                if left >= 0:
                    at.append(X[len(at) % 50].copy())
                    at[-1][j] = x
    rows = np.array(at)
    assert len(rows) > 50
    expected = booster.predict(xgboost.DMatrix(rows), output_margin=True)
    np.testing.assert_allclose(ForestExplainer(booster).predict(rows), expected, atol=1e-5)


def test_xgboosts_estimators(data, xgboost):
    X, classes, y = data
    frame = pd.DataFrame(np.nan_to_num(X), columns=[*"abcde"])
    model = xgboost.XGBClassifier(n_jobs=1, n_estimators=10, max_depth=3).fit(frame, classes > 0)
    explainer = ForestExplainer(model)
    assert explainer.feature_names == [*"abcde"]
    for output in (0, 1):
        predicted = expit(ForestExplainer(model, output).predict(frame))
        np.testing.assert_allclose(predicted, model.predict_proba(frame)[:, output], atol=1e-6)
    with pytest.raises(ValueError, match="in the same order"):
        explainer.shap_values(frame[[*"bacde"]])
    model = xgboost.XGBRFRegressor(n_jobs=1, n_estimators=10, max_depth=3).fit(frame, y)
    np.testing.assert_allclose(
        ForestExplainer(model).predict(frame), model.predict(frame), atol=1e-5
    )
    model = xgboost.XGBRegressor(n_jobs=1, missing=-1.0, n_estimators=2).fit(frame, y)
    with pytest.raises(ValueError, match=r"this XGBRegressor treats -1.0 as missing; put NaN"):
        ForestExplainer(model)


def test_xgboost_that_stopped_early_is_explained_as_it_predicts(data, xgboost, tmp_path):
    X, _, y = data
    model = xgboost.XGBRegressor(n_jobs=1, n_estimators=300, early_stopping_rounds=3, eta=0.5)
    model.fit(X[:400], y[:400], eval_set=[(X[400:], y[400:])], verbose=False)
    assert model.best_iteration < model.get_booster().num_boosted_rounds() - 1
    np.testing.assert_allclose(ForestExplainer(model).predict(X), model.predict(X), atol=1e-5)
    booster = model.get_booster()
    booster.save_model(tmp_path / "model.json")
    for source in (booster, tmp_path / "model.json"):
        with pytest.warns(UserWarning, match="XGBoost stopped early at best_iteration=") as seen:
            explainer = ForestExplainer(source)
        assert seen[0].filename == __file__
        expected = booster.predict(xgboost.DMatrix(X))
        np.testing.assert_allclose(explainer.predict(X), expected, atol=1e-5)


def test_xgboost_of_several_targets(data, xgboost):
    X, _, y = data
    both = np.column_stack([y, 10 - y])
    model = xgboost.XGBRegressor(n_jobs=1, n_estimators=5).fit(X, both)
    for target in (0, 1):
        np.testing.assert_allclose(
            ForestExplainer(model, target).predict(X), model.predict(X)[:, target], atol=1e-4
        )
    model = xgboost.XGBRegressor(n_jobs=1, n_estimators=5, multi_strategy="multi_output_tree").fit(
        X, both
    )
    with pytest.raises(ValueError, match="leaves of several values"):
        ForestExplainer(model)


def test_what_xgboost_has_beside_trees_is_refused(data, xgboost):
    X, _, y = data
    linear = xgboost.train(
        {"booster": "gblinear", "nthread": 1}, xgboost.DMatrix(np.nan_to_num(X), y)
    )
    with pytest.raises(ValueError, match="XGBoost's booster 'gblinear' does not consist of trees"):
        ForestExplainer(linear)


# ---------------------------------------------------------------- LightGBM

LIGHTGBM = {"verbose": -1, "num_leaves": 15, "seed": 0, "num_threads": 1, "min_data_per_group": 5}
GOALS = {
    "regression": {},
    "binary": {},
    "multiclass": {"num_class": 3},
    "multiclassova": {"num_class": 3},
    "poisson": {},
    "cross_entropy": {},
    "dart": {"boosting": "dart", "objective": "regression"},
    "forest": {
        "boosting": "rf",
        "objective": "regression",
        "bagging_freq": 1,
        "bagging_fraction": 0.6,
    },
    "no missing": {"objective": "regression", "use_missing": False},
}


@pytest.fixture(scope="module", params=GOALS)
def light(request, data, lightgbm):
    X, classes, y = data
    goal = request.param
    label = {"multiclass": classes, "multiclassova": classes, "poisson": classes}.get(goal, y)
    if goal in ("binary", "cross_entropy"):
        label = classes > 0
    return lightgbm.train(
        LIGHTGBM | {"objective": goal} | GOALS[goal],
        lightgbm.Dataset(X, label, categorical_feature=[CATEGORIES]),
        num_boost_round=12,
    )


def test_lightgbm_is_explained_by_its_own_values(light, rows, limit, tmp_path):
    margin = light.predict(rows, raw_score=True)
    values = light.predict(rows, pred_contrib=True)
    if light.params.get("boosting") == "rf":  # whose trees are averaged, but not in these
        np.testing.assert_allclose(light.predict(rows), margin / light.num_trees())
        margin, values = margin / light.num_trees(), values / light.num_trees()
    light.save_model(tmp_path / "model.txt")
    n_outputs = margin.shape[1] if margin.ndim == 2 else 1
    for output in range(n_outputs):
        named = output if n_outputs > 1 else None
        expected = values.reshape(len(rows), n_outputs, -1)[:, output]
        explainer = assert_explains(
            light, rows, margin.reshape(len(rows), -1)[:, output], limit, named
        )
        assert_contributions(explainer, rows, expected, 1e-9)
        dumped = ForestExplainer(tmp_path / "model.txt", named, memory_limit=limit)
        np.testing.assert_array_equal(dumped.shap_values(rows), explainer.shap_values(rows))


def test_lightgbms_estimators(data, lightgbm):
    X, classes, y = data
    frame = pd.DataFrame(X, columns=[*"abcde"])
    model = lightgbm.LGBMClassifier(n_jobs=1, n_estimators=10, verbose=-1).fit(frame, classes > 0)
    assert ForestExplainer(model).feature_names == [*"abcde"]
    for output in (0, 1):
        predicted = expit(ForestExplainer(model, output).predict(frame))
        np.testing.assert_allclose(predicted, model.predict_proba(frame)[:, output], atol=1e-9)
    with pytest.raises(ValueError, match="in the same order"):
        ForestExplainer(model).shap_values(frame[[*"bacde"]])
    model = lightgbm.LGBMRegressor(n_jobs=1, n_estimators=10, verbose=-1).fit(X, y)
    explainer = ForestExplainer(model)
    assert explainer.feature_names is None
    np.testing.assert_allclose(explainer.predict(X), model.predict(X), rtol=0, atol=1e-9)


def test_lightgbm_that_stopped_early_is_explained_as_it_predicts(data, lightgbm):
    X, _, y = data
    training, rest = (lightgbm.Dataset(X[part], y[part]) for part in np.split(np.arange(800), 2))
    light = lightgbm.train(
        LIGHTGBM | {"learning_rate": 0.5},
        training,
        num_boost_round=300,
        valid_sets=[rest],
        callbacks=[lightgbm.early_stopping(3, verbose=False)],
        keep_training_booster=True,  # else it forgets the trees after the best
    )
    assert light.best_iteration < light.current_iteration()
    np.testing.assert_allclose(ForestExplainer(light).predict(X), light.predict(X), atol=1e-9)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"zero_as_missing": True}, "LightGBM treats zeros as missing values"),
        ({"linear_tree": True}, "LightGBM's leaves are linear models"),
    ],
)
def test_what_lightgbm_has_beside_such_trees_is_refused(data, lightgbm, parameters, message):
    X, _, y = data
    X = np.where(np.abs(X) < 0.3, 0, X)
    light = lightgbm.train(LIGHTGBM | parameters, lightgbm.Dataset(X, y), num_boost_round=3)
    with pytest.raises(ValueError, match=message):
        ForestExplainer(light)


# ---------------------------------------------------------------- files


def test_files_are_read_without_the_libraries(data, xgboost, lightgbm, tmp_path):
    X, classes, _ = data
    xgboost.train(XGBOOST, xgboost.DMatrix(X, classes)).save_model(tmp_path / "x.json")
    lightgbm.train(LIGHTGBM, lightgbm.Dataset(X, classes)).save_model(tmp_path / "l.txt")
    ForestExplainer(HISTS["three classes"](*data)).save(tmp_path / "h.npz")
    np.save(tmp_path / "rows.npy", X)
    script = """if True:
        import sys, numpy
        from explainers import ForestExplainer
        X = numpy.load("rows.npy")
        for explainer in (
            ForestExplainer("x.json"), ForestExplainer("l.txt"), ForestExplainer.load("h.npz")
        ):
            print(explainer.shap_values(X).shape)
        heavy = {"sklearn", "scipy", "shap", "xgboost", "lightgbm", "pandas"}
        print(sorted(heavy & sys.modules.keys()))
    """
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(explainers.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "(800, 5)\n" * 3 + "[]\n"


@pytest.mark.parametrize("content", [b"", b"{}", b"treeless", b'{"learner": 1}', b"\x80\x04"])
def test_another_file_is_refused(tmp_path, content):
    path = tmp_path / "model"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="model is neither XGBoost's model, saved as"):
        ForestExplainer(path)
    with pytest.raises(ValueError, match="model is not a saved ForestExplainer"):
        ForestExplainer.load(path)


def test_half_a_file_is_refused(data, xgboost, lightgbm, tmp_path):
    X, classes, _ = data
    xgboost.train(XGBOOST, xgboost.DMatrix(X, classes)).save_model(tmp_path / "x.json")
    lightgbm.train(LIGHTGBM, lightgbm.Dataset(X, classes)).save_model(tmp_path / "x.txt")
    for name, message in (
        ("x.json", "x.json is neither"),
        ("x.txt", "truncated before its last tree"),
    ):
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content[: len(content) // 2])
        with pytest.raises(ValueError, match=message):
            ForestExplainer(tmp_path / name)
