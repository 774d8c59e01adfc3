"""Real tables: names, categories, missing cells, columns that repeat one another."""

import warnings

import numpy as np
import pandas as pd
import polars as pl
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from gam_model import GAMClassifier, GAMRegressor

EFFECTS = {"clerk": -1.0, "cook": 0.0, "judge": 2.0}


@pytest.fixture(scope="module")
def columns():
    rng = np.random.default_rng(0)
    n = 1500
    age = rng.uniform(20, 70, size=n)
    job = rng.choice(list(EFFECTS), size=n, p=[0.5, 0.3, 0.2])
    eta = np.sin(age / 10) + np.vectorize(EFFECTS.get)(job)
    holes = rng.uniform(size=n) < 0.1
    return {
        "age": np.where(holes, np.nan, age),
        "job": job,
        "rate": rng.normal(size=n),
        "y": eta + 3 * holes * (1 - np.sin(age / 10) / 3) + rng.normal(scale=0.1, size=n),
    }


@pytest.fixture(params=["pandas text", "pandas category", "polars text", "polars enum"])
def frame(columns, request):
    table = {name: columns[name] for name in ("age", "job", "rate")}
    library, kind = request.param.split()
    if library == "pandas":
        table = pd.DataFrame(table)
        return table.astype({"job": "category"}) if kind == "category" else table
    table = pl.DataFrame(table)
    return (
        table.with_columns(pl.col("job").cast(pl.Enum(list(EFFECTS)))) if kind == "enum" else table
    )


class TestFrames:
    def test_levels_and_holes_are_found(self, frame, columns):
        gam = GAMRegressor().fit(frame, columns["y"])
        assert list(gam.feature_names_in_) == ["age", "job", "rate"]
        curves = gam.terms()
        jobs = curves["job"].set_index("x")["contribution"]
        assert list(jobs.index) == list(EFFECTS)
        assert_allclose(jobs - jobs["cook"], list(EFFECTS.values()), atol=0.05)
        assert (curves["job"]["lower"] < curves["job"]["contribution"]).all()
        age = curves["age"]
        assert np.isnan(age["x"].iloc[-1])
        assert_allclose(
            age["contribution"] - age["contribution"].iloc[-1],
            [*(np.sin(age["x"][:-1] / 10) - 3), 0],
            atol=0.15,
        )

    def test_every_kind_of_frame_is_the_same(self, frame, columns):
        gam = GAMRegressor().fit(frame, columns["y"])
        plain = pd.DataFrame({name: columns[name] for name in ("age", "job", "rate")})
        assert_array_equal(
            gam.predict(frame), GAMRegressor().fit(plain, columns["y"]).predict(plain)
        )
        assert_allclose(gam.contributions(frame).sum(axis=1) + gam.intercept_, gam.predict(frame))

    def test_the_frozen_model_reads_codes(self, frame, columns, tmp_path):
        gam = GAMRegressor().fit(frame, columns["y"])
        assert gam.terms_.levels == {"job": tuple(EFFECTS)}
        assert gam.terms_.missing == ["age"]
        codes = pd.Categorical(columns["job"], categories=list(EFFECTS)).codes
        X = np.column_stack([columns["age"], codes, columns["rate"]])
        gam.terms_.save(tmp_path / "gam.json")
        loaded = type(gam.terms_).load(tmp_path / "gam.json")
        assert_array_equal(loaded.predict(X), gam.predict(frame))
        assert_array_equal([loaded.predict(row[None])[0] for row in X], loaded.predict(X))


def test_an_unseen_level_is_the_base(columns):
    X = pd.DataFrame({"job": columns["job"], "rate": columns["rate"]})
    gam = GAMRegressor().fit(X, columns["y"])
    row = X[:1].assign(job="pilot")
    with pytest.warns(UserWarning, match="column 'job' holds levels that fit has not seen"):
        assert gam.contributions(row)[0, 0] == 0
    with pytest.warns(UserWarning, match="'job'"):
        assert gam.explain(row)["value"]["job"] == "pilot"
    with pytest.warns(UserWarning, match="column 'rate' holds missing cells that fit has not"):
        assert gam.contributions(X[:1].assign(rate=np.nan))[0, 1] == 0


def test_a_rare_level_is_drawn_to_the_base():
    rng = np.random.default_rng(0)
    level = np.repeat(["a", "b", "c", "d", "e", "rare"], [200, 200, 200, 200, 200, 2])
    y = rng.normal(size=6).repeat([200, 200, 200, 200, 200, 2]) + rng.normal(size=1002)
    y[-2:] += 6
    gam = GAMRegressor().fit(pd.DataFrame({"level": level}), y)
    effect = gam.terms()["level"].set_index("x")["contribution"]["rare"]
    assert 0 < effect < 0.97 * (y[-2:].mean() - y.mean())


def test_levels_of_one_mean_have_no_effect():
    rng = np.random.default_rng(0)
    X = pd.DataFrame({"level": rng.choice(list("abcdefgh"), size=2000)})
    gam = GAMRegressor().fit(X, rng.normal(size=2000))
    assert gam.edf_[0] < 3
    assert abs(gam.contributions(X)).max() < 0.1


class TestCategoricalFeatures:
    @pytest.mark.parametrize("which", [[1], ["b"], [False, True]])
    def test_a_column_of_numbers(self, which):
        rng = np.random.default_rng(0)
        X = pd.DataFrame({"a": rng.normal(size=300), "b": rng.choice([1, 5, 9], size=300)})
        y = (X["b"] == 5) + rng.normal(scale=0.1, size=300)
        gam = GAMRegressor(categorical_features=which).fit(X, y)
        assert list(gam.terms()["b"]["x"]) == [1, 5, 9]
        assert_allclose(
            gam.predict(pd.DataFrame({"a": [0.0] * 3, "b": [1, 5, 9]})), [0, 1, 0], atol=0.1
        )

    def test_of_an_array(self):
        X = np.repeat([[1.0], [2.0], [7.0]], 50, axis=0)
        y = (X[:, 0] == 2) + np.tile([0.0, 0.1], 75)
        gam = GAMRegressor(categorical_features=[0]).fit(X, y)
        assert_allclose(gam.predict([[1], [2], [7]]), [0.05, 1.05, 0.05], atol=0.01)

    def test_none_refuses_text(self):
        X = pd.DataFrame({"a": ["x", "y"] * 10})
        with pytest.raises(ValueError, match="could not convert string to float"):
            GAMRegressor(categorical_features=None).fit(X, np.arange(20.0))

    @pytest.mark.parametrize(
        ("which", "message"),
        [
            (["c"], "names 'c', which is no column of X; there are 'a', 'b'"),
            ([2], "names 2, which is no column of X"),
            ([True], "mask of 1 columns, X has 2"),
            ("all", 'must be "from_dtype", None or a list of columns'),
        ],
    )
    def test_what_cannot_be(self, which, message):
        X = pd.DataFrame({"a": [0.0, 1.0], "b": [1.0, 0.0]})
        with pytest.raises(ValueError, match=message):
            GAMRegressor(categorical_features=which).fit(X, [0.0, 1.0])


class TestMissingCells:
    def test_a_column_constant_where_it_is_there(self):
        rng = np.random.default_rng(0)
        x = np.where(rng.uniform(size=400) < 0.3, np.nan, 7.0)
        y = np.where(np.isnan(x), 5.0, 1.0) + rng.normal(scale=0.1, size=400)
        gam = GAMRegressor().fit(x[:, None], y)
        assert_allclose(gam.predict([[np.nan], [7.0], [9.0]]), [5, 1, 1], atol=0.05)
        assert_array_equal(gam.terms()["x0"]["x"], [7, np.nan])
        assert gam.contributions(x[:, None]).mean() == pytest.approx(0, abs=1e-12)

    def test_a_column_that_is_nowhere(self, columns):
        X = np.column_stack([columns["rate"], np.full(len(columns["rate"]), np.nan)])
        gam = GAMRegressor().fit(X, columns["y"])
        assert_array_equal(gam.contributions(X)[:, 1], 0)

    def test_among_levels(self, columns):
        job = pd.Series(columns["job"]).where(lambda level: level != "judge", None)
        gam = GAMRegressor().fit(pd.DataFrame({"job": job}), columns["y"])
        curve = gam.terms()["job"]
        assert list(curve["x"][:-1]) == ["clerk", "cook"]
        assert curve["contribution"].iloc[-1] - curve["contribution"].iloc[1] > 1.5

    def test_few_missing_of_one_class_do_not_run_away(self):
        """Three rows say little: a maximum-likelihood effect would be minus infinity."""
        rng = np.random.default_rng(0)
        x = rng.normal(size=1000)
        y = rng.uniform(size=1000) < 0.1
        x[:3], y[:3] = np.nan, False
        gam = GAMClassifier().fit(x[:, None], y)
        assert gam.predict_proba([[np.nan]])[0, 1] > 0.02

    def test_columns_with_the_same_holes(self, columns):
        X = np.column_stack([columns["age"], columns["age"] ** 2])
        gam = GAMRegressor().fit(X, columns["y"])
        assert np.isfinite(gam.predict(X)).all()
        assert gam.score(X, columns["y"]) > 0.3

    def test_nullable_columns(self):
        X = pd.DataFrame(
            {"a": pd.array([1, None, 3] * 20, dtype="Int64"), "b": ["x", None, "z"] * 20}
        )
        gam = GAMRegressor().fit(X, np.tile([1.0, 2.0, 3.0], 20) + np.tile([0.0, 0.1], 30))
        assert_allclose(gam.predict(X[:3]), [1.05, 2.05, 3.05], atol=0.05)


def test_duplicated_columns_share_their_effect_in_equal_parts(additive):
    X, y, _ = additive
    gam = GAMRegressor().fit(np.column_stack([X, X[:, 0]]), y)
    parts = gam.contributions(np.column_stack([X, X[:, 0]]))
    assert_allclose(parts[:, 0], parts[:, -1], atol=1e-6)
    assert_allclose(gam.edf_[0], gam.edf_[-1], rtol=1e-4)


def test_chunks_of_frames_are_the_frame(frame, columns):
    y = columns["y"]
    chunks = [(frame[k : k + 400], y[k : k + 400]) for k in range(0, len(y), 400)]
    gam = GAMRegressor().fit_chunks(chunks)
    assert_allclose(gam.predict(frame), GAMRegressor().fit(frame, y).predict(frame), rtol=1e-9)


def test_names_are_checked(columns):
    X = pl.DataFrame({"age": columns["age"], "rate": columns["rate"]})
    gam = GAMRegressor().fit(X, columns["y"])
    with pytest.raises(ValueError, match="feature names should match"):
        gam.predict(X.select("rate", "age"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gam.predict(X)
