"""The trees of a model as arrays, independent of the library that grew them."""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

# Rows times trees processed at a time.
_WALKED = 2**18


class Trees(NamedTuple):
    """The nodes of all trees, one tree after the other.

    A row begins at each root and goes left at a node if ``row[feature] <= threshold``, or, where
    ``split_set`` is not -1, if ``sets[split_set, code]``, the code being the position of its value
    among the feature's `categories`, or their number if it is not one of them. A missing value
    goes left if ``missing_left``. The prediction is ``offset`` plus the values of the leaves that
    it reaches.

    Parameters
    ----------
    left, right : ndarray of int32, shape (n_nodes,)
        Children; -1 of a leaf.
    feature : ndarray of int32, shape (n_nodes,)
    threshold : ndarray of float64, shape (n_nodes,)
    cover : ndarray of float64, shape (n_nodes,)
        Weight of the training rows that reached a node.
    value : ndarray of float64, shape (n_nodes,)
        What a leaf adds to the prediction.
    roots : ndarray of int32, shape (n_trees,)
    n_features : int32
    missing_left : ndarray of bool, shape (n_nodes,)
    offset : float64
    names : ndarray of str, shape (n_features,) or (0,)
        Names of the features, if the model knows any.
    single : bool
        Whether a row's values are rounded to float32 first; none may then be infinite.
    missing : bool
        Whether a row's values may be missing.
    split_set : ndarray of int32, shape (n_nodes,)
    sets : ndarray of bool, shape (n_sets, n_codes)
    categories : ndarray of float64, shape (n_categories,)
        Of one feature after the other, each feature's in rising order.
    category_feature : ndarray of int32, shape (n_categories,)
    whole : bool
        Whether what follows the decimal point of a category is dropped.
    """

    left: np.ndarray
    right: np.ndarray
    feature: np.ndarray
    threshold: np.ndarray
    cover: np.ndarray
    value: np.ndarray
    roots: np.ndarray
    n_features: np.ndarray
    missing_left: np.ndarray
    offset: np.ndarray
    names: np.ndarray
    single: np.ndarray
    missing: np.ndarray
    split_set: np.ndarray
    sets: np.ndarray
    categories: np.ndarray
    category_feature: np.ndarray
    whole: np.ndarray

    @classmethod
    def make(cls, **arrays: Any) -> "Trees":
        """Make trees of what is given; without more, they split by thresholds as forests do."""
        n = len(arrays["left"])
        defaults = {
            "missing_left": np.zeros(n),
            "offset": 0,
            "names": np.empty(0, str),
            "single": True,
            "missing": False,
            "split_set": np.full(n, -1),
            "sets": np.empty((0, 0)),
            "categories": np.empty(0),
            "category_feature": np.empty(0),
            "whole": False,
        }
        return cls(**{k: np.asarray(v, _TYPES.get(k)) for k, v in (defaults | arrays).items()})

    def fractions(self) -> np.ndarray:
        """Return the fraction of the parent's rows that reached each node; 1 for a root."""
        inner = np.flatnonzero(self.left >= 0)
        pairs = np.column_stack([self.left[inner], self.right[inner]])
        total = self.cover[pairs].sum(axis=1, keepdims=True)
        fraction = np.ones(len(self.left))
        # A node that no row reached has no weight on either side.
        fraction[pairs] = np.divide(
            self.cover[pairs], total, out=np.full(pairs.shape, 0.5), where=total > 0
        )
        return fraction

    def mean(self) -> float:
        """Return the mean prediction over the training rows, as weighted in `cover`."""
        share, fraction = np.ones(len(self.left)), self.fractions()
        for inner in descend(self, self.roots):
            for child in (self.left[inner], self.right[inner]):
                share[child] = share[inner] * fraction[child]
        leaf = self.left < 0
        return float(self.offset + share[leaf] @ self.value[leaf])

    def recode(self, X: np.ndarray) -> np.ndarray:
        """Replace categories by their codes; missing values stay missing."""
        if not len(self.categories):
            return X
        X = X.copy()
        for j in np.unique(self.category_feature):
            known = self.categories[self.category_feature == j]
            column = np.trunc(X[:, j]) if self.whole else X[:, j]
            code = known.searchsorted(column)
            strange = known[np.minimum(code, len(known) - 1)] != column
            X[:, j] = np.where(np.isnan(column), np.nan, np.where(strange, len(known), code))
        return X

    def go_left(self, values: np.ndarray, nodes: np.ndarray) -> np.ndarray:
        """Return whether a row goes left at a node, for many of either.

        Parameters
        ----------
        values : ndarray
            Of the rows, what they have of the nodes' features; codes in the place of categories.
        nodes : ndarray of int
            Of a shape that goes with that of the values; none of them a leaf.
        """
        left = values <= self.threshold[nodes]
        if len(self.sets):
            codes = np.clip(np.nan_to_num(values), 0, self.sets.shape[1] - 1).astype(int)
            choice = self.split_set[nodes]
            left = np.where(choice >= 0, self.sets[choice, codes], left)
        missing = np.isnan(values)
        return np.where(missing, self.missing_left[nodes], left) if missing.any() else left

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Return, of shape (n,), the predictions for rows as `recode` returns them."""
        prediction = np.empty(len(X))
        step = max(1, _WALKED // len(self.roots))
        for i in range(0, len(X), step):
            rows = X[i : i + step]
            node = np.tile(self.roots, (len(rows), 1))
            row, tree = np.nonzero(self.left[node] >= 0)
            while len(row):
                at = node[row, tree]
                left = self.go_left(rows[row, self.feature[at]], at)
                node[row, tree] = at = np.where(left, self.left[at], self.right[at])
                on = self.left[at] >= 0
                row, tree = row[on], tree[on]
            prediction[i : i + step] = self.offset + self.value[node].sum(axis=1)
        return prediction


_TYPES: dict[str, Any] = {
    **dict.fromkeys(("left", "right", "feature", "roots", "n_features"), np.int32),
    **dict.fromkeys(("threshold", "cover", "value", "offset", "categories"), np.float64),
    **dict.fromkeys(("missing_left", "single", "missing", "sets", "whole"), np.bool_),
    **dict.fromkeys(("split_set", "category_feature"), np.int32),
}


def descend(trees: Trees, roots: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the nodes that are not leaves, level by level.

    The children of one level, each node's left one before its right one, are the next level, in
    which those that are leaves are left out.
    """
    level = roots
    while len(level):
        inner = level[trees.left[level] >= 0]
        yield inner
        level = np.column_stack([trees.left[inner], trees.right[inner]]).ravel()


class Choice(NamedTuple):
    """A split on a category: a row whose category is ``listed`` goes left as in ``left``.

    Others go left if ``rest``.
    """

    node: int
    feature: int
    listed: np.ndarray
    left: np.ndarray
    rest: bool


def tabulate_choices(choices: Iterable[Choice], n_nodes: int) -> dict[str, np.ndarray]:
    """Return the arrays of `Trees` for splits on categories."""
    choices = list(choices)
    listed: dict[int, list[np.ndarray]] = {}
    for choice in choices:
        listed.setdefault(choice.feature, []).append(choice.listed)
    known = {j: np.unique(np.concatenate(listed[j])) for j in sorted(listed)}
    split_set = np.full(n_nodes, -1)
    sets = np.zeros((len(choices), 1 + max(map(len, known.values()), default=0)), bool)
    for row, choice in zip(sets, choices, strict=True):
        row[:] = choice.rest
        row[known[choice.feature].searchsorted(choice.listed)] = choice.left
    split_set[[choice.node for choice in choices]] = np.arange(len(choices))
    return {
        "split_set": split_set,
        "sets": sets,
        "categories": np.concatenate([np.empty(0), *known.values()]),
        "category_feature": np.repeat(list(known), [len(own) for own in known.values()]),
    }


def join(trees: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Concatenate trees whose ``left`` and ``right`` count from each tree's root."""
    roots = np.cumsum([0] + [len(tree["left"]) for tree in trees])
    arrays = {name: np.concatenate([tree[name] for tree in trees]) for name in trees[0]}
    shift = np.repeat(roots[:-1], np.diff(roots))
    for name in ("left", "right"):
        arrays[name] = np.where(arrays[name] < 0, -1, arrays[name] + shift)
    return arrays | {"roots": roots[:-1]}


def choose_output(output: int | None, n_outputs: int) -> int:
    """Return the index of the requested output; by default the last."""
    output = -1 if output is None else output
    if output not in range(-n_outputs, n_outputs):
        raise ValueError(f"output={output} is not one of the {n_outputs} outputs of a tree")
    return output % n_outputs


def choose_margin(output: int | None, n_outputs: int, classifier: bool) -> tuple[int, int]:
    """Return the index of the requested raw prediction, and its sign.

    A classifier of two classes has one, the log odds of the second; the first one's are minus it.
    """
    if classifier and n_outputs == 1:
        return 0, 1 if choose_output(output, 2) else -1
    return choose_output(output, n_outputs), 1
