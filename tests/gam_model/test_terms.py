"""The frozen model: identities, extrapolation, rounding, and what its artifact holds."""

import copy
import io
import itertools
import json
import math
import pickle
import struct
from dataclasses import FrozenInstanceError
from pathlib import Path

import joblib
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.interpolate import BSpline
from sklearn.model_selection import cross_val_score

from gam_model import GAMRegressor
from gam_model._terms import AdditiveModel, SmoothTerm


@pytest.fixture(scope="module")
def gam(additive):
    X, y, _ = additive
    return GAMRegressor(alpha=1e-3).fit(X, y)


@pytest.fixture(scope="module")
def rows(additive):
    """Rows within and well beyond the training range."""
    X = additive[0]
    return X.mean(axis=0) + 2 * (X[:100] - X.mean(axis=0))


class TestIdentities:
    def test_contributions_and_intercept_sum_to_prediction(self, gam, rows):
        total = gam.intercept_ + gam.contributions(rows).sum(axis=1)
        assert_allclose(gam.predict(rows), total, rtol=1e-13)

    def test_contributions_are_centred_on_the_training_rows(self, gam, additive):
        X = additive[0]
        assert_allclose(gam.contributions(X).mean(axis=0), 0, atol=1e-13)
        assert gam.predict(X).mean() == pytest.approx(gam.intercept_, rel=1e-13)

    def test_contributions_are_shap_values(self, additive):
        """Shapley's sum over all coalitions, absent features averaged over the training rows."""
        X, y, _ = additive
        X, p = X[:, :3], 3
        gam = GAMRegressor(alpha=1e-3).fit(X, y)
        row = X[7]

        def worth(coalition):
            mixed = X.copy()
            mixed[:, coalition] = row[list(coalition)]
            return gam.predict(mixed).mean()

        for j in range(p):
            others = [k for k in range(p) if k != j]
            shap = sum(
                (worth([*coalition, j]) - worth(list(coalition)))
                / (p * math.comb(p - 1, len(coalition)))
                for size in range(p)
                for coalition in itertools.combinations(others, size)
            )
            assert gam.contributions([row])[0, j] == pytest.approx(shap, abs=1e-12)

    def test_batch_equals_its_rows(self, gam, rows):
        assert_array_equal(gam.predict(rows), [gam.predict([row])[0] for row in rows])
        assert_array_equal(gam.contributions(rows), [gam.contributions([r])[0] for r in rows])

    def test_permuted_rows_permute_answers(self, gam, rows):
        order = np.random.default_rng(0).permutation(len(rows))
        assert_array_equal(gam.predict(rows[order]), gam.predict(rows)[order])

    def test_terms_answer_as_the_estimator(self, gam, rows):
        assert_array_equal(gam.terms_.predict(rows), gam.predict(rows))
        assert_array_equal(gam.terms_.contributions(rows), gam.contributions(rows))
        assert gam.terms_.intercept == gam.intercept_

    def test_no_rows(self, gam):
        assert gam.terms_.predict(np.empty((0, 5))).shape == (0,)

    @pytest.mark.parametrize("shape", [(5,), (2, 4), (2, 6), (1, 2, 5)])
    def test_other_shapes_are_refused(self, gam, shape):
        with pytest.raises(ValueError, match=r"shape \(n_samples, 5\), got"):
            gam.terms_.predict(np.zeros(shape))


class TestSmoothTerm:
    @pytest.mark.parametrize("degree", [2, 3, 4, 5])
    def test_equals_its_spline(self, degree):
        rng = np.random.default_rng(degree)
        inner = np.sort(rng.uniform(-1, 3, size=6))
        knots = np.concatenate([[-1] * (degree + 1), inner, [3] * (degree + 1)])
        coef = rng.normal(size=len(knots) - degree - 1)
        x = np.concatenate([rng.uniform(-1, 3, size=200), inner, [-1, 3]])
        assert_allclose(
            SmoothTerm(0, "x", knots, coef)(x), BSpline(knots, coef, degree)(x), atol=1e-12
        )

    def test_is_frozen(self, gam):
        term = gam.terms_.terms[0]
        with pytest.raises(FrozenInstanceError):
            term.coef = term.knots
        with pytest.raises(ValueError, match="read-only"):
            pickle.loads(pickle.dumps(term)).coef[0] = 0.0

    def test_does_not_touch_its_arguments(self):
        knots, coef = np.array([0.0, 0, 0, 1, 1, 1]), np.zeros(3)
        SmoothTerm(0, "x", knots, coef)
        coef[0] = knots[0] = -1.0


@pytest.fixture(scope="module")
def fitted(gauss3):
    return {how: GAMRegressor(extrapolate=how).fit(*gauss3) for how in ("linear", "constant")}


class TestExtrapolation:
    @pytest.mark.parametrize(("end", "outwards"), [(1.0, -1), (250.0, 1)])
    def test_linear_follows_the_tangent(self, fitted, end, outwards):
        gam, h = fitted["linear"], 1e-5
        at_end, inside, near, far = gam.predict(
            [[end], [end - outwards * h], [end + outwards * h], [end + outwards * 1000]]
        )
        tangent = (far - at_end) / 1000
        assert (at_end - inside) / h == pytest.approx(tangent, rel=1e-4)
        assert (near - at_end) / h == pytest.approx(tangent, rel=1e-4)

    def test_constant_clips(self, fitted):
        beyond, ends = [[-1e6], [0.999], [250.001], [1e6]], [[1], [1], [250], [250]]
        assert_array_equal(fitted["constant"].predict(beyond), fitted["constant"].predict(ends))

    def test_all_agree_inside(self, fitted, gauss3):
        X, y = gauss3
        strict = GAMRegressor(extrapolate="error").fit(X, y)
        for gam in fitted.values():
            assert_array_equal(gam.predict(X), strict.predict(X))

    @pytest.mark.parametrize("method", ["predict", "contributions"])
    def test_error_names_feature_row_value_and_range(self, gauss3, method):
        gam = GAMRegressor(extrapolate="error").fit(*gauss3)
        with pytest.raises(ValueError, match=r"x0 = 250\.01 in row 1 .* range \[1, 250\]"):
            getattr(gam, method)([[17.0], [250.01], [0.0]])

    def test_error_tolerates_the_rounding_of_float32(self, gauss3):
        X, y = gauss3
        X = X / 3  # not representable in binary
        wide, narrow = X, X.astype(np.float32)
        for train, test in [(wide, narrow), (narrow, wide)]:
            gam = GAMRegressor(extrapolate="error").fit(train, y)
            assert np.isfinite(gam.predict(test)).all()

    def test_cross_validation_of_sorted_rows_is_finite(self, gauss3):
        assert np.isfinite(cross_val_score(GAMRegressor(), *gauss3, cv=5)).all()


class TestFloat32:
    def test_predicts_as_float64(self, gam, rows):
        assert_allclose(gam.predict(rows.astype(np.float32)), gam.predict(rows), rtol=1e-6)

    def test_fits_as_float64(self, additive):
        X, y, _ = additive
        narrow = GAMRegressor(alpha=1e-3).fit(X.astype(np.float32), y.astype(np.float32))
        wide = GAMRegressor(alpha=1e-3).fit(X, y)
        assert_allclose(narrow.predict(X), wide.predict(X), rtol=1e-6)
        assert narrow.predict(X.astype(np.float32)).dtype == np.float64


def dump(estimator):
    file = io.BytesIO()
    joblib.dump(estimator, file)
    return file.getvalue()


class TestArtifact:
    @pytest.mark.parametrize("copied", [lambda m: pickle.loads(pickle.dumps(m)), copy.deepcopy])
    def test_copies_answer_the_same(self, gam, rows, copied):
        assert_array_equal(copied(gam).predict(rows), gam.predict(rows))
        assert isinstance(copied(gam.terms_), AdditiveModel)

    @pytest.mark.parametrize("p", [1, 10])
    def test_size_does_not_depend_on_rows(self, p, tmp_path):
        sizes = []
        for n in (250, 25_000):
            rng = np.random.default_rng(n)
            X = rng.uniform(size=(n, p)) * 100
            y = np.sin(X / 10).sum(axis=1) + rng.normal(scale=0.1, size=n)
            gam = GAMRegressor(alpha=1e-4).fit(X, y)
            gam.terms_.save(tmp_path / "gam.json")
            sizes.append((len(dump(gam)), (tmp_path / "gam.json").stat().st_size))
        assert sizes[0][0] == sizes[1][0]
        assert max(sizes[0][1], sizes[1][1]) < 20_000

    def test_holds_no_training_value_but_knots(self, additive):
        X, y, _ = additive
        blob = dump(GAMRegressor().fit(X, y))
        assert not any(struct.pack("<d", v) in blob or str(v).encode() in blob for v in y)
        for x in X.T:
            assert sum(struct.pack("<d", v) in blob for v in x) <= 13  # inner knots and two ends


class TestJson:
    @pytest.mark.parametrize("link", ["identity", "logit"])
    def test_answers_to_the_last_bit(self, gam, rows, tmp_path, link):
        model = AdditiveModel(gam.intercept_, gam.terms_.terms, gam.terms_.features, link)
        model.save(tmp_path / "gam.json")
        loaded = AdditiveModel.load(str(tmp_path / "gam.json"))
        assert_array_equal(loaded.predict(rows), model.predict(rows))
        assert_array_equal(loaded.contributions(rows), model.contributions(rows))
        loaded.save(tmp_path / "again.json")
        assert (tmp_path / "again.json").read_bytes() == (tmp_path / "gam.json").read_bytes()

    def test_an_old_file_loads(self):
        """Written by version 1 of the format, with what it answered then; never made anew."""
        path = Path(__file__).parent / "artifacts" / "version1.json"
        expected = json.loads(path.read_text())["check"]
        model, rows = AdditiveModel.load(path), np.array(expected["rows"], dtype=float)
        assert model.levels == {"job": ("clerk", "cook", "judge"), "code": (1, 5)}
        assert model.missing == ["age", "job"]
        assert_allclose(model.predict(rows), expected["prediction"], rtol=1e-13)
        assert_allclose(model.contributions(rows), expected["contributions"], atol=1e-13)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("", "is not a model that gam_model saved"),
            ("{}", "is not a model that gam_model saved: KeyError"),
            ("[1]", "is not a model that gam_model saved"),
            ('{"format": "other", "version": 1}', "is not a model that gam_model saved"),
            (
                '{"format": "gam_model.AdditiveModel", "version": 99}',
                "has version 99 of the format, this gam_model reads up to 4; install a newer",
            ),
        ],
    )
    def test_another_file_is_refused(self, tmp_path, content, message):
        path = tmp_path / "gam.json"
        path.write_text(content)
        with pytest.raises(ValueError, match=message) as error:
            AdditiveModel.load(path)
        assert str(path) in str(error.value)
