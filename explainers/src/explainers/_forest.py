"""Exact SHAP values of trees and ensembles of trees.

A tree's game for one row is TreeSHAP's "tree_path_dependent" (Lundberg et al. 2020, Nat. Mach.
Intell. 2, algorithm 1): at a split on a feature outside the coalition S, both branches count, each
by its fraction of the training rows. Leaf by leaf, with D the features on a leaf's path, that is

    v(S) = value * prod_{j in S} o_j * prod_{j in D - S} z_j,

where o_j is 1 if the row keeps to the path at every split on j, else 0, and z_j is the product of
the fractions of rows that kept to it there. Its Shapley values are

    phi_j = value * (o_j - z_j) * int_0^1 prod_{k in D - j} ((1 - u) z_k + u o_k) du.

Those of shallow trees are tabulated (`explainers._tables`), others computed
(`explainers._levels`): the same values of the same game, to rounding.
"""

import os
import warnings
import zipfile
from typing import Any

import numpy as np

from explainers._levels import Levels, divide
from explainers._sources import read
from explainers._tables import Tables, tabulate
from explainers._trees import Trees

MEMORY_LIMIT = 2**26  # bytes


class ForestExplainer:
    """Exact SHAP values of a decision tree, of a forest of them, or of boosted trees.

    They are the values of ``shap.TreeExplainer`` without background data
    (``feature_perturbation="tree_path_dependent"``): what a feature tells is averaged over the
    training rows that came to the same node. They are on the scale of what the trees add up to: a
    probability for a classifier that is a tree or a forest; the raw prediction, such as log odds,
    for boosted trees; a regressor's target. For every row

        base + sum of its SHAP values = prediction.

    Parameters
    ----------
    model : fitted model, or path
        A tree or forest of scikit-learn, its ``HistGradientBoosting`` models, a model of XGBoost
        or LightGBM; or the path of a file that one of the latter two wrote: XGBoost's JSON
        (``save_model("model.json")``) or LightGBM's text (``save_model("model.txt")``), for which
        the libraries need not be installed.
    output : int or (int, int), optional
        Of a classifier, the column of ``predict_proba`` to explain; of a regressor of several
        targets, the column of ``predict``; of a classifier of several, target and column. By
        default the last; with several targets it must be given.
    memory_limit : float
        Bytes that tables may take. Those of a leaf double with each distinct feature on its path,
        so deep trees take more than there is; their values are computed in polynomial time.

    Attributes
    ----------
    base : float
        Mean prediction over the training rows, as the trees weighted them.
    n_features : int
        Columns that a row has.
    feature_names : list of str or None
        Names of the columns if the model knows any. A frame's are checked against them, and
        columns without names are warned of. Set it to None to hand over arrays in silence.

    tabulated : bool
        Whether there are tables. Then the values take no longer than a prediction.

    Raises
    ------
    TypeError
        If the type of the model is not supported.
    ValueError
        If the model is not fitted, has no such output, or has a property that is not supported,
        which the message names.

    Examples
    --------
    >>> from sklearn.tree import DecisionTreeRegressor
    >>> tree = DecisionTreeRegressor().fit([[0, 0], [0, 1], [1, 0], [1, 1]], [1, 1, 1, 5])
    >>> explainer = ForestExplainer(tree)
    >>> explainer.base
    2.0
    >>> explainer.shap_values([[1, 1]])
    array([[1.5, 1.5]])
    >>> explainer.shap_interaction_values([[1, 1]])
    array([[[1. , 0.5],
            [0.5, 1. ]]])
    """

    def __init__(
        self,
        model: Any,
        output: int | tuple[int, int] | None = None,
        memory_limit: float = MEMORY_LIMIT,
    ):
        self._prepare(read(model, output), memory_limit)

    @classmethod
    def load(cls, path: str | os.PathLike) -> "ForestExplainer":
        """Read what `save` wrote; needs NumPy alone, and unpickles nothing.

        Raises
        ------
        ValueError
            If the file is something else.
        """
        try:
            with np.load(path, allow_pickle=False) as content:
                arrays = dict(content)
            limit = float(arrays.pop("memory_limit", MEMORY_LIMIT))
            trees = Trees.make(**arrays)
        except (AttributeError, EOFError, KeyError, TypeError, ValueError, zipfile.BadZipFile):
            raise ValueError(f"{path} is not a saved {cls.__name__}") from None
        explainer = cls.__new__(cls)
        explainer._prepare(trees, limit)
        return explainer

    def save(self, path: str | os.PathLike) -> None:
        """Save the trees in NumPy's npz format; everything else is rebuilt on loading."""
        with open(path, "wb") as file:  # given a path, NumPy may append a suffix
            np.savez_compressed(file, memory_limit=self._memory_limit, **self._trees._asdict())

    def shap_values(self, X: Any) -> np.ndarray:
        """Compute the SHAP values of each row.

        Parameters
        ----------
        X : array-like or frame, shape (n, n_features)
            Numbers, NaN for missing values if the model supports them. A frame's column names
            must be the model's, in the same order, as in scikit-learn. Forests and XGBoost decide
            in float32, as they do themselves; a category of XGBoost or LightGBM is its code.

        Returns
        -------
        ndarray of float64, shape (n, n_features)

        Raises
        ------
        ValueError
            If names, shape or type are wrong, or a value is missing, infinite or beyond float32
            and the model does not support it.
        """
        return self._shap_values(self._read_rows(X))

    def shap_interaction_values(self, X: Any) -> np.ndarray:
        """Split each SHAP value into its main effect and its pairwise interactions.

        They are Shapley interaction values, half of each in either place, as
        ``shap.TreeExplainer`` has them: with the main effects on the diagonal, each row sums up
        to the SHAP value of its feature.

        Parameters
        ----------
        X : array-like or frame, shape (n, n_features)
            As for `shap_values`.

        Returns
        -------
        ndarray of float64, shape (n, n_features, n_features)
            Symmetric, to rounding.
        """
        X = self._read_rows(X)
        values = np.zeros((*X.shape, self.n_features))
        for block in divide(self._trees):
            block.add_interactions_to(values, X)
        own = np.arange(self.n_features)
        values[:, own, own] = 0
        values[:, own, own] = self._shap_values(X) - values.sum(axis=2)
        return values

    def predict(self, X: Any) -> np.ndarray:
        """Predict as the model does, to rounding; boosted trees, on their raw scale.

        Parameters
        ----------
        X : array-like or frame, shape (n, n_features)

        Returns
        -------
        ndarray of float64, shape (n,)
        """
        return self._trees.predict(self._read_rows(X))

    def _prepare(self, trees: Trees, memory_limit: float) -> None:
        self._trees, self._memory_limit = trees, memory_limit
        self.n_features = int(trees.n_features)
        self.feature_names = trees.names.tolist() or None
        self.base = trees.mean()
        tables = tabulate(trees, memory_limit)
        self.tabulated = tables is not None
        self._blocks: list[Tables] | list[Levels]
        self._blocks = list(divide(trees)) if tables is None else tables

    def _shap_values(self, X: np.ndarray) -> np.ndarray:
        values = np.zeros(X.shape)
        for block in self._blocks:
            block.add_to(values, X)
        return values

    def _read_rows(self, X: Any) -> np.ndarray:
        _check_names(_names_of(X), self.feature_names)
        if type(X).__module__.startswith("scipy.sparse"):
            raise ValueError(f"X is sparse, a {type(X).__name__}; pass X.toarray()")
        for name, kind in zip(getattr(X, "columns", ()), getattr(X, "dtypes", ()), strict=False):
            if str(kind).lower().startswith("categor"):
                raise ValueError(f"column {name!r} is categorical; pass its codes")
        try:
            X = np.asarray(X, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise ValueError(f"X must be a table of numbers: {error}") from None
        if X.ndim != 2 or X.shape[1] != self.n_features:
            raise ValueError(f"X must have shape (n, {self.n_features}), got {X.shape}")
        if not self._trees.missing:
            _refuse(np.isnan(X), "missing, and the model does not support missing values")
        X = self._trees.recode(X)
        if self._trees.single:
            with np.errstate(over="ignore"):  # rejected below
                X = X.astype(np.float32)
            _refuse(np.isinf(X), "infinite or beyond float32")
        return X


def _refuse(bad: np.ndarray, what: str) -> None:
    if bad.any():
        row, column = np.argwhere(bad)[0]
        raise ValueError(f"row {row}, column {column} is {what}")


def _names_of(X: Any) -> list[str] | None:
    """Return a frame's column names as in scikit-learn: all strings, or None."""
    columns = list(getattr(X, "columns", ()))
    if not any(isinstance(name, str) for name in columns):
        return None
    if not all(isinstance(name, str) for name in columns):
        raise ValueError(f"some of X's columns have names that are not text: {columns}")
    return columns


def _check_names(given: list[str] | None, known: list[str] | None) -> None:
    if given is None or known is None:
        if given != known:
            has, other = ("no ", "some") if given is None else ("", "none")
            warnings.warn(
                f"X has {has}feature names, but the model has {other}; "
                "the columns are assumed to be the model's, in its order",
                stacklevel=4,
            )
    elif given != known:
        odd = [name for name in given if name not in known]
        lost = [name for name in known if name not in given]
        complaints = [
            f"{what} {names}" for what, names in (("unknown", odd), ("missing", lost)) if names
        ]
        raise ValueError(
            "X's feature names must be those of the model, in the same order: "
            + ("; ".join(complaints) or f"got {given}, the model has {known}")
        )
