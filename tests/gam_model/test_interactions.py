"""Pairs of features: recovery, exact contributions, the frozen model, and what is refused."""

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from gam_model import AdditiveModel, GAMClassifier, GAMRegressor
from gam_model._pairs import PairTerm
from gam_model.page import write_page
from gam_model.plots import plot_interactions
from gam_model.report import write_report


def sample(n=4000, seed=0):
    """Two numbers that correlate, one that is partly missing, one of amounts, and two texts."""
    rng = np.random.default_rng(seed)
    a = rng.uniform(size=n)
    frame = pd.DataFrame(
        {
            "a": a,
            "b": 0.5 * a + 0.5 * rng.uniform(size=n),
            "holed": np.where(rng.uniform(size=n) < 0.1, np.nan, rng.uniform(size=n)),
            "amount": np.exp(3 * rng.normal(size=n)),
            "city": rng.choice(["Bern", "Oslo", "Rome"], n, p=[0.6, 0.3, 0.1]),
            "code": rng.choice([f"c{k}" for k in range(70)], n),
        }
    )
    slope = frame["city"].map({"Bern": -1.0, "Oslo": 0.5, "Rome": 3.0})
    truth = (
        np.sin(3 * frame["a"])
        + 6 * (frame["a"] - 0.5) * (frame["b"] - 0.5)
        + slope * frame["holed"].fillna(0.5)
        + np.arcsinh(frame["amount"]) * frame["b"] / 3
    )
    return frame, truth.to_numpy(), truth.to_numpy() + rng.normal(scale=0.3, size=n)


GOLDENS = Path(__file__).with_name("goldens")
PAIRS = [("a", "b"), ("city", "holed"), ("amount", 1), ("city", "code")]


@pytest.fixture(scope="module")
def data():
    return sample()


@pytest.fixture(scope="module")
def gam(data):
    frame, _, y = data
    return GAMRegressor(interactions=PAIRS).fit(frame, y)


def shapley(model, background, row):
    """Sum over all coalitions, absent features averaged over the background."""
    p = len(row)

    def worth(coalition):
        mixed = background.copy()
        mixed[:, list(coalition)] = row[list(coalition)]
        return model.eta(mixed).mean()

    found = np.zeros(p)
    for j in range(p):
        others = [k for k in range(p) if k != j]
        for coalition in itertools.chain.from_iterable(
            itertools.combinations(others, size) for size in range(p)
        ):
            size = len(coalition)
            share = math.factorial(size) * math.factorial(p - 1 - size) / math.factorial(p)
            found[j] += share * (worth((*coalition, j)) - worth(coalition))
    return found


class TestFit:
    def test_pairs_are_recovered(self, data, gam):
        frame, truth, y = data
        assert gam.interactions_ == [(0, 1), (4, 2), (3, 1), (4, 5)]
        error = np.sqrt(np.mean((gam.predict(frame) - truth) ** 2))
        without = np.sqrt(np.mean((GAMRegressor().fit(frame, y).predict(frame) - truth) ** 2))
        assert error < 0.06 < 0.2 < without

    def test_pair_is_mgcvs_ti(self):
        golden = json.loads((GOLDENS / "pair.json").read_text())
        X = np.column_stack([golden["a"], golden["b"]])
        given = GAMRegressor(golden["k"], golden["alpha"], interactions=[(0, 1)])
        given.fit(X, golden["y"])
        assert_allclose(given.predict(X), golden["given"], atol=1e-6)
        assert given.statistics_.edf == pytest.approx(golden["given_edf"], abs=1e-5)
        chosen = GAMRegressor(golden["k"], interactions=[(0, 1)]).fit(X, golden["y"])
        assert_allclose(chosen.predict(X), golden["chosen"], atol=1e-4)
        assert chosen.statistics_.edf == pytest.approx(golden["chosen_edf"], abs=1e-2)

    def test_table_tells_which_pairs_matter(self, gam):
        table = gam.summary_frame()
        assert (table.loc[["a & b", "city & holed", "amount & b"], "p_value"] < 1e-10).all()
        assert table.loc["city & code", "p_value"] > 0.01
        assert table.loc["city & code", "edf"] < 5
        assert "city & code" in str(gam.summary())
        assert gam.statistics_.edf == pytest.approx(table["edf"].sum() + 1)

    def test_main_effects_stay_as_they_are_where_pairs_are_nothing(self):
        rng = np.random.default_rng(3)
        X = rng.uniform(size=(20_000, 3))
        y = np.sin(5 * X[:, 0]) + X[:, 1] ** 2 + rng.normal(scale=0.3, size=20_000)
        alone = GAMRegressor().fit(X, y)
        both = GAMRegressor(interactions=[(0, 1)]).fit(X, y)
        assert_allclose(both.contributions(X), alone.contributions(X), atol=0.02)

    def test_pairs_are_pure(self, data, gam):
        """Averaged over the training values of either feature, they do not depend on the other."""
        read = gam._validate(data[0])
        for pair in gam.terms_.pairs:
            a, b = (read[:, j] for j in pair.features)
            for one, other in ((a, b), (b, a)):
                fixed = one[:8]
                grids = [np.repeat(fixed, len(other)), np.tile(other, len(fixed))]
                value = pair(*(grids if one is a else grids[::-1]))
                means = value.reshape(len(fixed), -1).mean(axis=1)
                assert_allclose(means, pair.missing, atol=1e-12)

    def test_weights_are_repeated_rows(self, data):
        frame, _, y = data
        frame, y = frame[:800], y[:800]
        weight = np.random.default_rng(1).integers(0, 3, 800)
        weighted = GAMRegressor(interactions=PAIRS[:2]).fit(frame, y, weight)
        repeated = GAMRegressor(interactions=PAIRS[:2]).fit(
            frame.loc[frame.index.repeat(weight)], np.repeat(y, weight)
        )
        assert_allclose(weighted.predict(frame), repeated.predict(frame), atol=1e-4)

    def test_chunks_are_all_rows(self, data, gam):
        frame, _, y = data
        chunks = [(frame[k : k + 1000], y[k : k + 1000]) for k in range(0, 4000, 1000)]
        streamed = GAMRegressor(interactions=PAIRS).fit_chunks(chunks)
        assert_allclose(streamed.predict(frame), gam.predict(frame), atol=1e-6)
        assert_allclose(streamed.contributions(frame).mean(axis=0), 0, atol=1e-9)

    def test_classifier_with_offset(self, data):
        frame, truth, _ = data
        rng = np.random.default_rng(2)
        offset = rng.normal(size=len(frame))
        eta = 2 * (truth - truth.mean()) + offset
        label = rng.uniform(size=len(frame)) < 1 / (1 + np.exp(-eta))
        gam = GAMClassifier(interactions=[("a", "b"), ("city", "holed")])
        gam.fit(frame, label, offset=offset)
        total = gam.intercept_ + gam.contributions(frame).sum(axis=1) + offset
        assert_allclose(gam.decision_function(frame, offset), total, atol=1e-12)
        assert (gam.summary_frame().loc[["a & b", "city & holed"], "p_value"] < 1e-3).all()

    def test_given_alpha_is_that_of_pairs(self, data):
        frame, _, y = data
        stiff = GAMRegressor(alpha=1e12, interactions=[("a", "b")]).fit(frame[["a", "b"]], y)
        assert stiff.summary_frame().loc["a & b", "edf"] == pytest.approx(1, abs=1e-3)


def three_of_fifteen(seed, n=20_000):
    """Fifteen features, two of which correlate, three pairs, and a smooth truth."""
    rng = np.random.default_rng(seed)
    X = rng.uniform(size=(n, 15))
    X[:, 1] = 0.6 * X[:, 0] + 0.4 * X[:, 1]
    alone = np.sin(6 * X[:, 0]) + 2 * X[:, 1] ** 2 + np.exp(X[:, 2]) + X[:, 3]
    together = np.sin(4 * X[:, 4] * X[:, 5]) + 1.5 * (X[:, 6] - 0.5) * np.cos(5 * X[:, 7])
    together += 0.8 * np.exp(-8 * ((X[:, 8] - 0.5) ** 2 + (X[:, 9] - 0.5) ** 2))
    return X, alone, together, rng.normal(scale=0.5, size=n)


class TestScreening:
    @pytest.mark.parametrize("interactions", [3, "auto"])
    def test_pairs_of_a_known_truth_are_found(self, interactions):
        """The error is mgcv's: bam with the same `ti` terms has .0346."""
        X, alone, together, noise = three_of_fifteen(0)
        truth = alone + together
        gam = GAMRegressor(interactions=interactions).fit(X, truth + noise)
        assert set(gam.interactions_) == {(4, 5), (6, 7), (8, 9)}
        assert np.sqrt(np.mean((gam.predict(X) - truth) ** 2)) < 1.03 * 0.0346

    def test_auto_takes_none_where_there_is_none(self):
        for seed in range(3):
            X, alone, _, noise = three_of_fifteen(seed, 5000)
            gam = GAMRegressor(interactions="auto").fit(X, alone + noise)
            assert gam.interactions_ == []
            assert_array_equal(gam.predict(X), GAMRegressor().fit(X, alone + noise).predict(X))

    def test_screening_sees_levels_missing_cells_and_amounts(self, data):
        frame, _, y = data
        found = GAMRegressor(interactions="auto").fit(frame, y)
        assert set(map(frozenset, found.interactions_)) == {
            frozenset({0, 1}), frozenset({2, 4}), frozenset({1, 3})
        }  # fmt: skip
        chunks = [(frame[k : k + 1000], y[k : k + 1000]) for k in range(0, 4000, 1000)]
        streamed = GAMRegressor(interactions="auto").fit_chunks(chunks)
        assert streamed.interactions_ == found.interactions_

    def test_classes_with_weights_and_more_pairs_than_there_are(self, data):
        frame, truth, _ = data
        rng = np.random.default_rng(2)
        label = rng.uniform(size=len(frame)) < 1 / (1 + np.exp(-2 * (truth - truth.mean())))
        X, weight = frame[["a", "b", "holed"]], rng.uniform(size=len(frame))
        gam = GAMClassifier(interactions=9).fit(X, label, weight)
        assert gam.interactions_[0] == (0, 1)
        assert len(gam.interactions_) == 3
        assert GAMClassifier(interactions=9).fit(X[["a"]], label).interactions_ == []
        assert GAMClassifier(interactions=0).fit(X, label).interactions_ == []


class TestContributions:
    def test_are_shap_values(self, data, gam):
        """Exactly, with the training rows as background, missing cells and all."""
        read = gam._validate(data[0])
        values = gam.contributions(data[0])
        for row in (0, 7, int(np.isnan(read[:, 2]).argmax())):
            assert_allclose(values[row], shapley(gam.terms_, read, read[row]), atol=1e-12)

    def test_add_up(self, data, gam):
        frame = data[0]
        eta = gam.terms_.eta(gam._validate(frame))
        values, pairs = gam.contributions(frame), gam.interaction_contributions(frame)
        assert_allclose(gam.intercept_ + values.sum(axis=1), eta, atol=1e-12)
        assert_allclose(values.mean(axis=0), 0, atol=1e-12)
        assert_allclose(pairs.mean(axis=0), 0, atol=1e-12)
        own = values.copy()
        for (j, k), pair in zip(gam.interactions_, pairs.T, strict=True):
            own[:, j] -= pair / 2
            own[:, k] -= pair / 2
        read = gam._validate(frame)
        for term in gam.terms_.terms:
            assert_allclose(own[:, term.feature], term(read[:, term.feature]), atol=1e-12)

    def test_intervals_are_those_of_all_coefficients(self, data, gam):
        """The variance of a contribution, from the covariance of all coefficients, filled in."""
        read, posterior = gam._validate(data[0])[:50], gam._posterior
        basis, covariance = posterior.basis, posterior.covariance.fill()
        assert basis.last is not None  # the levels of `code` are treated apart
        for j in range(read.shape[1]):
            design = np.zeros((len(read), len(covariance)))
            for term, block in zip(basis.terms, basis.blocks, strict=True):
                if j in np.atleast_1d(term.feature):
                    mean = np.append(np.zeros(term.left_out), posterior.means[block])
                    values = term.design(read[:, term.feature], "linear", mean)[:, term.left_out :]
                    share = 1 / np.size(term.feature)
                    design[:, block] = share * (values - posterior.means[block])
            expected = np.einsum("ij,jk,ik->i", design, covariance, design)
            assert_allclose(posterior.feature_variance(j, read), expected, rtol=1e-8)
        explained = gam.explain(data[0][:1])
        assert (explained["upper"] > explained["lower"]).all()


class TestFrozen:
    def test_file_answers_bit_for_bit(self, data, gam, tmp_path):
        read = gam._validate(data[0])[:300]
        read[:100] += np.where(np.isin(np.arange(6), (4, 5)), 0, np.arange(100)[:, None] - 50)
        read[100:120, 4] = -1
        gam.terms_.save(tmp_path / "gam.json")
        model = AdditiveModel.load(tmp_path / "gam.json")
        eta, values = model.eta(read), model.contributions(read)
        assert_array_equal(eta, gam.terms_.eta(read))
        assert_array_equal(eta, np.concatenate([model.eta(row[None]) for row in read]))
        rows = [model.contributions(row[None]) for row in read]
        assert_array_equal(values, np.concatenate(rows))

    def test_version_is_4_only_with_pairs(self, data, gam):
        frame, _, y = data
        content = json.loads(gam.terms_.to_json())
        assert content["version"] == 4
        assert [term["kind"] for term in content["terms"][-4:]] == ["pair"] * 4
        plain = GAMRegressor(atoms=None).fit(frame, y)
        assert json.loads(plain.terms_.to_json())["version"] == 2

    def test_ten_terms_and_five_pairs_are_small(self):
        rng = np.random.default_rng(0)
        X = rng.normal(size=(2000, 10))
        y = (X[:, ::2] * X[:, 1::2]).sum(axis=1) + rng.normal(size=2000)
        pairs = [(j, j + 1) for j in range(0, 10, 2)]
        text = GAMRegressor(interactions=pairs).fit(X, y).terms_.to_json()
        assert len(text) < 60_000

    def test_beyond_the_range_a_pair_is_constant(self):
        line = {"knots": [0, 0, 2, 2], "degree": 1}
        pair = PairTerm((0, 1), ("a", "b"), (line, line), [[1.0, -1.0], [-1.0, 1.0]], 0.0)
        far = pair(np.array([-9.0, 9.0, 9.0]), np.array([-9.0, -9.0, np.nan]))
        assert_array_equal(far, [1.0, -1.0, 0.0])

    def test_page_refuses_it_in_a_sentence(self, gam, tmp_path):
        with pytest.raises(ValueError, match="it has a term of kind 'pair'"):
            write_page(gam, tmp_path / "page.html")


class TestPictures:
    def test_each_pair_has_a_panel_of_its_kind(self, data, gam):
        figure = plot_interactions(gam, data[0])
        panels = {axes.get_title(loc="left"): axes for axes in figure.axes}
        assert list(panels)[0:4:3] == ["a & b", "city & code"]  # by importance
        assert [line.get_label() for line in panels["city & holed"].lines[1:]] == [
            "Bern", "Oslo", "Rome"
        ]  # fmt: skip
        (hull,) = panels["a & b"].lines
        corners = np.column_stack(hull.get_data())
        assert len(corners) > 4
        assert corners.min() >= 0
        assert len(panels["city & code"].texts) == 3 * 12
        ticks = [text.get_text() for text in panels["city & code"].get_yticklabels()]
        assert ticks[-1] == "59 others"
        meshes = [axes.collections[0] for name, axes in panels.items() if "amount" in name]
        pair = gam.terms_.pairs[2]
        value = pair(*np.array([pair.margins[0].range, pair.margins[1].range]))
        array = meshes[0].get_array()
        assert_allclose([array[0, 0], array[-1, -1]], value, atol=1e-9)

    def test_beyond_the_hull_is_pale_only_with_rows(self, gam):
        panels = {axes.get_title(loc="left"): axes for axes in plot_interactions(gam).axes}
        assert not panels["a & b"].patches
        assert not panels["a & b"].lines

    def test_model_without_pairs_has_no_picture(self, data):
        gam = GAMRegressor().fit(data[0][["a"]], data[2])
        with pytest.raises(ValueError, match="the model has no pairs"):
            plot_interactions(gam)

    def test_report_draws_and_lists_them(self, data, gam, tmp_path):
        write_report(tmp_path / "report.html", gam, X=data[0], y=data[2])
        text = (tmp_path / "report.html").read_text()
        assert "and the joint effects of 4 pairs." in text
        assert "effects of pairs of features" in text
        assert "a &amp; b" in text


class TestRefused:
    @pytest.mark.parametrize(
        ("interactions", "message"),
        [
            (True, 'interactions must be None, a number of pairs, "auto" or a list of pairs'),
            (-1, "got interactions=-1"),
            (1.5, "got interactions=1.5"),
            ("all", "got interactions='all'"),
            (["ab"], "each of interactions must be a pair of columns"),
            ([("a", "b", "c")], "each of interactions must be a pair of columns"),
            ([("a", "z")], "'z', which is not a column of X, which has n_features=2: 'a', 'b'"),
            ([("a", 9)], "interactions names 9, which is not a column of X"),
            ([("a", "a")], "interactions pairs 'a' with itself"),
            ([("a", "b"), (1, 0)], "interactions names the pair b & a twice"),
        ],
    )
    def test_what_is_no_pair(self, data, interactions, message):
        frame, _, y = data
        with pytest.raises(ValueError, match=message):
            GAMRegressor(interactions=interactions).fit(frame[["a", "b"]], y)

    def test_what_does_not_go_together(self, data):
        X, y = data[0][["a", "b"]], data[2]
        with pytest.raises(ValueError, match="or one number for all terms"):
            GAMRegressor(alpha=[1.0, 2.0], interactions=[(0, 1)]).fit(X, y)
        with pytest.raises(ValueError, match='solver="statsmodels" has no interactions'):
            GAMRegressor(alpha=1.0, solver="statsmodels", interactions=[(0, 1)]).fit(X, y)

    def test_constant_column_is_left_out_with_a_warning(self, data):
        X, y = data[0][["a", "b"]].assign(c=1.0), data[2]
        with pytest.warns(UserWarning, match="pair a & c is left out, as 'c' was constant"):
            gam = GAMRegressor(interactions=[("a", "c"), ("a", "b")]).fit(X, y)
        assert gam.interactions_ == [(0, 1)]


@pytest.mark.parametrize("shape", [{"monotonic_cst": {"x1": 1}}, {"cyclic": {"x1": 1.0}}])
def test_a_feature_with_a_shape_is_in_no_pair(shape):
    rng = np.random.default_rng(0)
    X = rng.uniform(size=(600, 3))
    y = 4 * X[:, 0] * X[:, 1] + X[:, 2] + rng.normal(size=600) / 10
    with pytest.raises(ValueError, match="'x1' cannot keep its shape in a pair"):
        GAMRegressor(interactions=[("x0", "x1")], **shape).fit(X, y)
    gam = GAMRegressor(interactions="auto", **shape).fit(X, y)
    assert all(1 not in pair for pair in gam.interactions_)
    assert GAMRegressor(interactions="auto").fit(X, y).interactions_ == [(0, 1)]


@pytest.mark.parametrize("seed", [0, 1, 3])
def test_outliers_name_no_pair(seed):
    """Pairs are told from the family's own scores, which for scaled t are bounded."""
    rng = np.random.default_rng(seed)
    X = rng.uniform(size=(2000, 5))
    y = 2 * X[:, 0] + np.sin(6 * X[:, 1]) + 3 * (X[:, 2] - 0.5) * (X[:, 3] - 0.5)
    y += 0.15 * rng.standard_cauchy(2000)
    gam = GAMRegressor(family="scaled_t", interactions=1).fit(X, y)
    assert gam.interactions_ == [(2, 3)]
