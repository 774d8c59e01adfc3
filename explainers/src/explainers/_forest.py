"""Exact SHAP values of forests of shallow trees, looked up instead of computed.

A tree's game for one row is TreeSHAP's "tree_path_dependent" (Lundberg et al. 2020, Nat. Mach.
Intell. 2, algorithm 1): at a split on a feature outside the coalition S, both branches count, each
by its fraction of the training rows. Leaf by leaf, with D the features on a leaf's path, that is

    v(S) = value * prod_{j in S} o_j * prod_{j in D - S} z_j,

where o_j is 1 if the row keeps to the path at every split on j, else 0, and z_j is the product of
the fractions of rows that kept to it there. Its Shapley values are

    phi_j = value * (o_j - z_j) * int_0^1 prod_{k in D - j} ((1 - u) z_k + u o_k) du,

into which a row enters by 0s and 1s only. So they are tabulated once, for all of these.
"""

import functools
import math
import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

# Leaves share a table while the answers to this many yes-no questions decide all of them.
_QUESTIONS = 8
# Trees to a block: what it keeps for the thresholds grows with the square of them.
_BLOCK = 50
# Numbers gathered at a time: about what a core's own cache holds.
_GATHERED = 2**17


class ForestExplainer:
    """Exact SHAP values of a decision tree, or of a forest of them.

    They are the values of ``shap.TreeExplainer`` without background data, on the scale of what
    the forest averages: a probability, or a regressor's target. For every row

        base + sum of its SHAP values = prediction.

    Parameters
    ----------
    forest : fitted tree or forest of scikit-learn
        Decision trees, extremely randomized ones, and forests of either; of one target.
    output : int
        Column of ``predict_proba`` to explain, by default the last; a regressor has but one.
    memory_limit : int
        Bytes that the tables may take. A leaf's doubles with each distinct feature on its path.

    Attributes
    ----------
    base : float
        Mean prediction over the training rows, as the trees weighted them.
    n_features : int
        Columns that a row has.

    Raises
    ------
    TypeError
        If this is neither tree nor forest.
    ValueError
        If it is not fitted, has several targets, or too many features on the paths to its leaves.

    Examples
    --------
    >>> from sklearn.tree import DecisionTreeRegressor
    >>> tree = DecisionTreeRegressor().fit([[0, 0], [0, 1], [1, 0], [1, 1]], [1, 1, 1, 5])
    >>> explainer = ForestExplainer(tree)
    >>> explainer.base
    2.0
    >>> explainer.shap_values([[1, 1]])
    array([[1.5, 1.5]])
    """

    def __init__(self, forest: Any, output: int = -1, memory_limit: int = 2**26):
        self._tabulate(_read(forest, output), memory_limit)

    @classmethod
    def load(cls, path: str | os.PathLike) -> "ForestExplainer":
        """Read what `save` wrote; needs NumPy alone, and unpickles nothing."""
        with np.load(path, allow_pickle=False) as arrays:
            trees = _Trees(**{name: arrays[name] for name in _Trees._fields})
        explainer = cls.__new__(cls)
        explainer._tabulate(trees, np.inf)
        return explainer

    def save(self, path: str | os.PathLike) -> None:
        """Write the trees, from which the tables are made anew, in NumPy's npz format."""
        with open(path, "wb") as file:  # to a path, NumPy might append an ending
            np.savez_compressed(file, **self._trees._asdict())

    def shap_values(self, X: Any) -> np.ndarray:
        """Split each prediction into what each feature adds to it.

        Parameters
        ----------
        X : array-like, shape (n, n_features)
            Finite numbers. As in scikit-learn, float32 decides at the thresholds.

        Returns
        -------
        ndarray of float64, shape (n, n_features)

        Raises
        ------
        ValueError
            If the shape is wrong, or a value is missing, infinite or beyond float32.
        """
        X = np.asarray(X)
        if X.ndim != 2 or X.shape[1] != self.n_features:
            raise ValueError(f"X must have shape (n, {self.n_features}), got {X.shape}")
        with np.errstate(over="ignore"):  # refused below
            X = X.astype(np.float32)
        if not np.isfinite(X).all():
            row, column = np.argwhere(~np.isfinite(X))[0]
            raise ValueError(f"row {row}, column {column} is missing, infinite or beyond float32")
        values = np.zeros(X.shape)
        for block in self._blocks:
            block.add_to(values, X)
        return values

    def predict(self, X: Any) -> np.ndarray:
        """Predict as the forest does, to rounding.

        Parameters
        ----------
        X : array-like, shape (n, n_features)

        Returns
        -------
        ndarray of float64, shape (n,)
        """
        return self.base + self.shap_values(X).sum(axis=1)

    def _tabulate(self, trees: "_Trees", memory_limit: float) -> None:
        self._trees = trees
        self.n_features = int(trees.n_features)
        self.base, size, groups = 0.0, 0, []
        nodes = _Trees(*(column.tolist() for column in trees))  # lists are quicker to walk
        for root in nodes.roots:
            groups.append(list(_cut(nodes, root, {})))
            size += 8 * self.n_features * sum(2 ** len(group.questions) for group in groups[-1])
            leaves = [leaf for group in groups[-1] for leaf in group.leaves]
            self.base += sum(
                leaf.value * math.prod(kept.fraction for kept in leaf.path.values())
                for leaf in leaves
            )
            if size > memory_limit:
                raise ValueError(
                    f"the tables of {len(groups)} of {len(nodes.roots)} trees take "
                    f"{size / 2**20:,.0f} MiB, more than memory_limit={memory_limit}: on the "
                    f"path to a leaf are up to {max(len(leaf.path) for leaf in leaves)} distinct "
                    "features; lower max_depth, or explain with shap.TreeExplainer"
                )
        self._blocks = [
            _Block([g for tree in groups[i : i + _BLOCK] for g in tree], self.n_features)
            for i in range(0, len(groups), _BLOCK)
        ]


# ---------------------------------------------------------------- the trees


class _Trees(NamedTuple):
    """The nodes of all trees. A leaf's children are -1; values are shares of the forest's mean."""

    left: np.ndarray
    right: np.ndarray
    feature: np.ndarray
    threshold: np.ndarray
    cover: np.ndarray
    value: np.ndarray
    roots: np.ndarray
    n_features: np.ndarray


def _read(forest: Any, output: int) -> _Trees:
    ancestors = {ancestor.__name__ for ancestor in type(forest).__mro__}
    if not ancestors & {"BaseForest", "BaseDecisionTree"}:
        raise TypeError(
            f"{type(forest).__name__} is neither a tree nor a forest of scikit-learn; explain it "
            "with shap"
        )
    attribute = "estimators_" if "BaseForest" in ancestors else "tree_"
    if not hasattr(forest, attribute):
        raise ValueError(f"this {type(forest).__name__} is not fitted; call fit first")
    if forest.n_outputs_ != 1:
        raise ValueError(f"the forest has {forest.n_outputs_} targets; one can be explained")
    trees = [tree.tree_ for tree in getattr(forest, "estimators_", [forest])]
    roots = np.cumsum([0] + [tree.node_count for tree in trees])

    def join(name: str) -> np.ndarray:
        return np.concatenate([getattr(tree, name) for tree in trees])

    def link(name: str) -> np.ndarray:
        links = [getattr(tree, name) for tree in trees]
        parts = [np.where(to < 0, -1, to + root) for to, root in zip(links, roots, strict=False)]
        return np.concatenate(parts).astype(np.int32)

    value = join("value")[:, 0, :]
    if not -value.shape[1] <= output < value.shape[1]:
        raise ValueError(f"output={output} is none of the {value.shape[1]} that a tree has")
    if hasattr(forest, "classes_"):
        value = value / value.sum(axis=1, keepdims=True)  # counts, before scikit-learn 1.3
    return _Trees(
        left=link("children_left"),
        right=link("children_right"),
        feature=join("feature").astype(np.int32),
        threshold=join("threshold"),
        cover=join("weighted_n_node_samples"),
        value=value[:, output] / len(trees),
        roots=roots[:-1].astype(np.int32),
        n_features=np.int32(forest.n_features_in_),
    )


class _Kept(NamedTuple):
    """What keeping to a path means for one feature.

    It is ``low < x <= high``, as ``fraction`` of the training rows had it at these splits. Among
    a group's answers, as bits of a number, those of ``asked`` say it: they are as in ``wanted``.
    """

    low: float = -np.inf
    high: float = np.inf
    fraction: float = 1.0
    asked: int = 0
    wanted: int = 0


class _Leaf(NamedTuple):
    """One leaf's game."""

    value: float
    path: dict[int, _Kept]


class _Group(NamedTuple):
    """Leaves below one node; question k is whether ``low < x[feature] <= high``."""

    questions: list[tuple[int, float, float]]
    leaves: list[_Leaf]


def _cut(trees: _Trees, node: int, path: dict[int, _Kept]) -> Iterator[_Group]:
    """Cut a tree into subtrees of few questions: one per feature above, one per split inside."""
    inside = _splits(trees, node)
    if inside and len(path) + len(inside) > _QUESTIONS:
        for child, longer in _step(trees, node, path):
            yield from _cut(trees, child, longer)
        return
    questions = [(j, kept.low, kept.high) for j, kept in path.items()]
    questions += [(trees.feature[i], -np.inf, trees.threshold[i]) for i in inside]
    bits = {i: 1 << k for k, i in enumerate(inside, len(path))}
    path = {
        j: kept._replace(asked=1 << k, wanted=1 << k) for k, (j, kept) in enumerate(path.items())
    }
    yield _Group(questions, list(_leaves(trees, node, path, bits)))


def _splits(trees: _Trees, node: int) -> list[int]:
    left, right = trees.left[node], trees.right[node]
    return [] if left < 0 else [node, *_splits(trees, left), *_splits(trees, right)]


def _leaves(
    trees: _Trees, node: int, path: dict[int, _Kept], bits: dict[int, int]
) -> Iterator[_Leaf]:
    if trees.left[node] < 0:
        yield _Leaf(trees.value[node], path)
        return
    for child, longer in _step(trees, node, path, bits[node]):
        yield from _leaves(trees, child, longer, bits)


def _step(
    trees: _Trees, node: int, path: dict[int, _Kept], bit: int = 0
) -> Iterator[tuple[int, dict[int, _Kept]]]:
    """Lengthen a path to either child; ``bit`` is the answer that the row goes left."""
    j, threshold = trees.feature[node], trees.threshold[node]
    low, high, fraction, asked, wanted = path.get(j, _Kept())
    fraction /= trees.cover[node]
    asked |= bit
    child = trees.left[node]
    kept = _Kept(low, min(high, threshold), fraction * trees.cover[child], asked, wanted | bit)
    yield child, path | {j: kept}
    child = trees.right[node]
    kept = _Kept(max(low, threshold), high, fraction * trees.cover[child], asked, wanted)
    yield child, path | {j: kept}


# ---------------------------------------------------------------- the tables


class _Block:
    """The tables of some trees.

    Parameters
    ----------
    groups : list of _Group
    n_features : int
    """

    def __init__(self, groups: list[_Group], n_features: int):
        sizes = [2 ** len(group.questions) for group in groups]
        self._starts = np.cumsum([0, *sizes[:-1]])
        self._table = np.zeros((sum(sizes), n_features))
        bounds: dict[int, set[float]] = {}
        for group, start, size in zip(groups, self._starts, sizes, strict=True):
            for leaf in group.leaves:
                self._table[start : start + size, list(leaf.path)] += _tabulate(leaf, size)
            for j, *interval in group.questions:
                bounds.setdefault(j, {-np.inf, np.inf}).update(interval)
        edges = {j: sorted(bounds[j]) for j in sorted(bounds)}
        at = {j: {edge: i for i, edge in enumerate(own)} for j, own in edges.items()}
        kind = np.min_scalar_type(max(sizes) - 1)
        answers = {j: np.zeros((len(own) - 1, len(groups)), kind) for j, own in edges.items()}
        for g, group in enumerate(groups):
            for k, (j, low, high) in enumerate(group.questions):
                answers[j][at[j][low] : at[j][high], g] |= 1 << k
        # Per feature: what divides its values into bins, and the answers that hold in each.
        self._bins = [(j, np.array(own[1:-1]), answers[j]) for j, own in edges.items()]
        self._kind = kind

    def add_to(self, values: np.ndarray, X: np.ndarray) -> None:
        """Add these trees' SHAP values of some rows."""
        step = max(1, _GATHERED // (len(self._starts) * values.shape[1]))
        for i in range(0, len(X), step):
            rows = X[i : i + step]
            found = np.zeros((len(rows), len(self._starts)), self._kind)
            for j, edges, answers in self._bins:
                found |= answers[edges.searchsorted(rows[:, j])]
            values[i : i + step] += self._table[self._starts + found].sum(axis=1)


def _tabulate(leaf: _Leaf, size: int) -> np.ndarray:
    """Return a leaf's SHAP values for every combination of answers, (size, its features)."""
    path = leaf.path.values()
    asked = np.array([kept.asked for kept in path], int)
    wanted = np.array([kept.wanted for kept in path], int)
    z = np.array([kept.fraction for kept in path])
    o = (np.arange(size)[:, None] & asked) == wanted
    integral = np.zeros(o.shape)
    for u, weight in _quadrature(len(z) // 2 + 1):
        factors = (1 - u) * z + u * o
        integral += weight * factors.prod(axis=1, keepdims=True) / factors
    return leaf.value * (o - z) * integral


@functools.cache
def _quadrature(n: int) -> list[tuple[float, float]]:
    """Gauss and Legendre's nodes and weights on [0, 1], exact to degree 2 n - 1."""
    nodes, weights = np.polynomial.legendre.leggauss(n)
    return list(zip((nodes + 1) / 2, weights / 2, strict=True))
