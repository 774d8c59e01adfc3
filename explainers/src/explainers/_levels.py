"""SHAP values and interactions of trees of any depth, computed level by level.

With o and z as in `explainers._forest`, a leaf's Shapley values are integrals of polynomials,

    phi_j = int_0^1 product(u) g_j(u) du,    product(u) = value * prod_{k in D} f_k(u),
    f_k(u) = (1 - u) z_k + u o_k,            g_k(u) = (o_k - z_k) / f_k(u),

which Gauss and Legendre's rule sums exactly at half as many u as there are features in D. At one
u, a walk down the tree multiplies f along all paths, a walk up adds what the leaves have, and
every edge adds to its feature the sum below it times what it changes of g. Interactions are

    phi_ij = 1/2 int_0^1 product(u) g_i(u) g_j(u) du,

leaf by leaf. Time and memory are proportional to the nodes times the distinct features on a path.
(The walk is that of Linear TreeSHAP: Yu et al. 2022, NeurIPS 35.)
"""

from collections.abc import Iterator

import numpy as np

from explainers._quadrature import quadrature
from explainers._trees import Trees

# Nodes per block: enough to amortize a NumPy call per level, even for a single row.
_NODES = 2**15
# Numbers computed at a time: about the size of a core's cache.
_COMPUTED = 2**18


def divide(trees: Trees) -> "Iterator[Levels]":
    """Yield blocks of whole trees."""
    sizes = np.diff(np.append(trees.roots, len(trees.left)))
    block = (np.cumsum(sizes) - 1) // _NODES
    for i in np.unique(block):
        yield Levels(trees, trees.roots[block == i])


class Levels:
    """Some trees, the nodes of which are in the order of their levels, all roots first.

    Parameters
    ----------
    trees : Trees
    roots : ndarray of int
        Trees to include.
    """

    def __init__(self, trees: Trees, roots: np.ndarray):
        self._trees = trees
        fraction = trees.fractions()
        # Per node: of the edge that leads to it, the feature, the share of rows that kept to the
        # path at all splits on this feature, and the node of the last such edge above; where
        # there is none, node 0, a root, which has nothing of its own.
        start, level = 0, roots
        nodes, features = [roots], [np.zeros(len(roots), int)]
        z, above, distinct = (np.full(len(roots), fill) for fill in (1.0, 0, 0))
        last = np.zeros((len(roots), trees.n_features), np.int32)
        self._levels: list[tuple[int, int, np.ndarray]] = []
        splits = []
        while True:
            inner = np.flatnonzero(trees.left[level] >= 0)
            if not len(inner):
                break
            split = level[inner]
            splits.append(split)
            inner, start = inner + start, start + len(level)
            level = np.column_stack([trees.left[split], trees.right[split]]).ravel()
            self._levels.append((start, start + len(level), inner))
            j = np.repeat(trees.feature[split], 2)
            last = np.repeat(last[inner - (start - len(last))], 2, axis=0)
            row = np.arange(len(level))
            up = last[row, j]
            last[row, j] = start + row
            nodes.append(level)
            features.append(j)
            z = np.append(z, z[up] * fraction[level])
            above = np.append(above, up)
            distinct = np.append(distinct, np.repeat(distinct[inner], 2) + (up == 0))
        self._nodes = np.concatenate(nodes)
        self._splits = np.concatenate([np.empty(0, int), *splits])
        self._feature = np.concatenate(features)
        self._n_roots, self._z, self._above = len(roots), z, above
        self._fraction = fraction[self._nodes]
        self._value = np.where(trees.left[self._nodes] < 0, trees.value[self._nodes], 0.0)
        self._rule = quadrature((int(distinct.max()) + 1) // 2) if self._levels else []
        edges = self._feature[self._n_roots :]
        self._by_feature = self._n_roots + np.argsort(edges, kind="stable")
        self._features, self._starts = np.unique(np.sort(edges), return_index=True)

    def add_to(self, values: np.ndarray, X: np.ndarray) -> None:
        """Add these trees' SHAP values of some rows, (n, n_features)."""
        if not self._rule:
            return
        tables = [self._weigh(*rule) for rule in self._rule]
        step = max(1, _COMPUTED // len(self._nodes))
        for i in range(0, len(X), step):
            _, state = self._keep(X[i : i + step])
            total = np.zeros(state.shape)
            for ratio, change in tables:
                product = self._multiply(ratio[state])
                for low, high, inner in reversed(self._levels):
                    product[inner] = product[low:high:2] + product[low + 1 : high : 2]
                product *= change[state]
                total += product
            sums = np.add.reduceat(total[self._by_feature], self._starts)
            values[i : i + step, self._features] += sums.T

    def add_interactions_to(self, values: np.ndarray, X: np.ndarray) -> None:
        """Add these trees' interactions of some rows, (n, n_features, n_features).

        The diagonal is meaningless.
        """
        if not self._rule:
            return
        leaf, last = self._paths()
        z = self._z[:, None]
        both = np.ix_(self._features, self._features)
        step = max(1, _COMPUTED // last.size)
        for i in range(0, len(X), step):
            kept, state = self._keep(X[i : i + step])
            found = 0.0
            for u, weight in self._rule:
                product = self._multiply(self._weigh(u, weight)[0][state])[leaf]
                g = np.where(kept, (1 - z) / ((1 - u) * z + u), -1 / (1 - u))
                g = g.T[:, last]
                found = found + (g * (weight / 2 * product.T)[..., None]).transpose(0, 2, 1) @ g
            values[(slice(i, i + step), *both)] += found

    def _paths(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the leaves, and for each the node below its last split on each feature."""
        column = np.searchsorted(self._features, self._feature)
        last = np.zeros((self._n_roots, len(self._features)), np.int32)
        leaves, lasts, begin = [], [], 0
        for low, high, inner in [*self._levels, (len(self._nodes),) * 2 + (np.empty(0, int),)]:
            here = np.ones(low - begin, bool)
            here[inner - begin] = False
            leaves.append(begin + np.flatnonzero(here))
            lasts.append(last[here])
            last = np.repeat(last[~here], 2, axis=0)
            last[np.arange(high - low), column[low:high]] = np.arange(low, high)
            begin = low
        return np.concatenate(leaves), np.concatenate(lasts)

    def _keep(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return whether rows keep to the path at all splits on a node's feature, (n_nodes, n).

        And where in the tables of `_weigh` they are: in row 0 if they have kept to it neither
        here nor above, in row 1 if no longer, in row 2 if still.
        """
        values = X.T[self._trees.feature[self._splits]]
        left = self._trees.go_left(values, self._splits[:, None])
        kept = np.ones((len(self._nodes), len(X)), bool)
        kept[self._n_roots :: 2], kept[self._n_roots + 1 :: 2] = left, ~left
        for low, high, _ in self._levels:
            kept[low:high] &= kept[self._above[low:high]]
        state = kept + kept[self._above].astype(np.intp)
        state *= len(self._nodes)
        state += np.arange(len(self._nodes))[:, None]
        return kept, state

    def _weigh(self, u: float, weight: float) -> tuple[np.ndarray, np.ndarray]:
        """Return what each edge multiplies the product by, and its weighted change of g."""
        rest, weighted = (1 - u) * self._z, weight * (1 - self._z)
        f = rest + u
        g = weighted / f
        f_above, g_above = f[self._above], g[self._above]
        ratio, change = np.empty((3, len(f))), np.zeros((3, len(f)))
        ratio[0] = self._fraction
        np.divide(rest, f_above, out=ratio[1])
        np.divide(f, f_above, out=ratio[2])
        np.subtract(-weight / (1 - u), g_above, out=change[1])
        np.subtract(g, g_above, out=change[2])
        return ratio.ravel(), change.ravel()

    def _multiply(self, ratio: np.ndarray) -> np.ndarray:
        """Multiply the ratios of shape (n_nodes, n) along each path, at leaves by the value."""
        for low, high, inner in self._levels:
            pairs = ratio[low:high].reshape(len(inner), 2, -1)
            pairs *= ratio[inner][:, None]
        ratio *= self._value[:, None]
        return ratio
