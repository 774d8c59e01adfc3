"""SHAP values of shallow trees, looked up instead of computed.

With o and z as in `explainers._forest`, a row enters a leaf's Shapley values by 0s and 1s only,

    phi_j = value * (o_j - z_j) * int_0^1 prod_{k in D - j} ((1 - u) z_k + u o_k) du,

so they are tabulated once, for all of these.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from explainers._quadrature import quadrature
from explainers._trees import Trees

# Leaves share a table while the answers to this many yes-no questions decide all of them.
_QUESTIONS = 8
# Trees to a block: what it keeps for the thresholds grows with the square of them.
_BLOCK = 50
# Numbers gathered at a time: about the size of a core's cache.
_GATHERED = 2**17


def tabulate(trees: Trees, limit: float) -> "list[Tables] | None":
    """Return the tables of all trees, or None if they take more than ``limit`` bytes."""
    blocks, size, fraction = [], 0, trees.fractions()
    for first in range(0, len(trees.roots), _BLOCK):
        block = _Block(trees, first, min(first + _BLOCK, len(trees.roots)) - 1, fraction)
        groups = []
        for root in block.roots:
            for group in block.cut(root):
                size += 8 * int(trees.n_features) * 2 ** len(group.questions)
                if size > limit:
                    return None
                groups.append(group)
        blocks.append((block, groups))
    return [Tables(block, groups, int(trees.n_features)) for block, groups in blocks]


class _Kept(NamedTuple):
    """The condition that one feature sets for keeping to a path.

    It is to be in one of ``bins``, as bits of a number; ``fraction`` of the training rows kept to
    these splits. Among a group's answers, those of ``asked`` say it: they are as in ``wanted``.
    """

    bins: int
    fraction: float = 1.0
    asked: int = 0
    wanted: int = 0


class _Leaf(NamedTuple):
    """One leaf's game."""

    value: float
    path: dict[int, _Kept]


class _Group(NamedTuple):
    """Leaves below one node; a question is whether a row's feature is in one of some bins."""

    questions: list[tuple[int, int]]
    leaves: list[_Leaf]


class _Block:
    """Some trees, and the bins into which their splits divide each feature.

    Bin k holds what is above all earlier edges and not above the k-th, or the category of code k.
    Behind these come a bin for all else and one for missing values.

    Parameters
    ----------
    trees : Trees
    first, last : int
        Positions of the first and of the last of them.
    fraction : ndarray of float64, shape (n_nodes,)
        See `Trees.fractions`.
    """

    def __init__(self, trees: Trees, first: int, last: int, fraction: np.ndarray):
        begin, *_, end = np.append(trees.roots, len(trees.left))[first : last + 2]
        own = slice(begin, end)
        # Lists are faster to index one element at a time.
        self._left = (trees.left[own] - begin).tolist()
        self._right = (trees.right[own] - begin).tolist()
        self._feature = trees.feature[own].tolist()
        self._value = trees.value[own].tolist()
        self._fraction = fraction[own].tolist()
        self.roots = (trees.roots[first : last + 1] - begin).tolist()
        self.edges: dict[int, np.ndarray] = {}
        self._bins: dict[int, int] = {}  # bins that go left at a node, as bits
        inner = begin + np.flatnonzero(trees.left[own] >= 0)
        for j in np.unique(trees.feature[inner]).tolist():
            nodes = inner[trees.feature[inner] == j]
            n_codes = int((trees.category_feature == j).sum())
            edges = np.arange(float(n_codes)) if n_codes else np.unique(trees.threshold[nodes])
            at = edges.searchsorted(trees.threshold[nodes]).tolist()
            for node, k in zip(nodes.tolist(), at, strict=True):
                choice = trees.split_set[node]
                bins = (2 << k) - 1
                if choice >= 0:
                    bins = _to_bits(trees.sets[choice, : n_codes + 1])
                self._bins[node - begin] = bins | int(trees.missing_left[node]) << len(edges) + 1
            self.edges[j] = edges

    def n_bins(self, j: int) -> int:
        """Return the number of a feature's bins."""
        return len(self.edges[j]) + 2

    def cut(self, root: int) -> Iterator[_Group]:
        """Cut a tree into subtrees of few questions: one per feature above, one per split."""
        stack: list[tuple[int, dict[int, _Kept]]] = [(root, {})]
        while stack:
            node, path = stack.pop()
            inside = self._splits(node, _QUESTIONS - len(path))
            if inside is None:
                stack.extend(self._step(node, path))
                continue
            questions = [(j, kept.bins) for j, kept in path.items()]
            questions += [(self._feature[i], self._bins[i]) for i in inside]
            bits = {i: 1 << k for k, i in enumerate(inside, len(path))}
            path = {
                j: kept._replace(asked=1 << k, wanted=1 << k)
                for k, (j, kept) in enumerate(path.items())
            }
            yield _Group(questions, list(self._leaves(node, path, bits)))

    def _splits(self, node: int, room: int) -> list[int] | None:
        """Return the splits at and below a node, or None if there are too many."""
        found, stack = [], [node]
        while stack:
            node = stack.pop()
            if self._left[node] >= 0:
                if len(found) >= room:
                    return None
                found.append(node)
                stack += (self._right[node], self._left[node])
        return found

    def _leaves(self, node: int, path: dict[int, _Kept], bits: dict[int, int]) -> Iterator[_Leaf]:
        if self._left[node] < 0:
            yield _Leaf(self._value[node], path)
            return
        for child, longer in self._step(node, path, bits[node]):
            yield from self._leaves(child, longer, bits)

    def _step(
        self, node: int, path: dict[int, _Kept], bit: int = 0
    ) -> Iterator[tuple[int, dict[int, _Kept]]]:
        """Lengthen a path to either child; ``bit`` is the answer that the row goes left."""
        j, left = self._feature[node], self._bins[node]
        every = (1 << self.n_bins(j)) - 1
        kept = path.get(j, _Kept(every))
        for child, bins, wanted in (
            (self._left[node], left, bit),
            (self._right[node], every & ~left, 0),
        ):
            yield (
                child,
                path
                | {
                    j: _Kept(
                        kept.bins & bins,
                        kept.fraction * self._fraction[child],
                        kept.asked | bit,
                        kept.wanted | wanted,
                    )
                },
            )


class Tables:
    """The tables of some trees.

    Parameters
    ----------
    block : _Block
    groups : list of _Group
    n_features : int
    """

    def __init__(self, block: _Block, groups: list[_Group], n_features: int):
        sizes = [2 ** len(group.questions) for group in groups]
        self._starts = np.cumsum([0, *sizes[:-1]])
        self._table = np.zeros((sum(sizes), n_features))
        kind = np.min_scalar_type(max(sizes) - 1)
        answers = {j: np.zeros((block.n_bins(j), len(groups)), kind) for j in block.edges}
        for g, (group, start, size) in enumerate(zip(groups, self._starts, sizes, strict=True)):
            for leaf in group.leaves:
                self._table[start : start + size, list(leaf.path)] += _tabulate(leaf, size)
            for k, (j, bins) in enumerate(group.questions):
                answers[j][_to_mask(bins, block.n_bins(j)), g] |= 1 << k
        # Per feature: what divides its values into bins, and the answers that hold in each.
        self._bins = [(j, edges, answers[j]) for j, edges in block.edges.items()]
        self._kind = kind

    def add_to(self, values: np.ndarray, X: np.ndarray) -> None:
        """Add these trees' SHAP values of some rows, (n, n_features)."""
        step = max(1, _GATHERED // (len(self._starts) * values.shape[1]))
        any_missing = np.isnan(X).any()
        for i in range(0, len(X), step):
            rows = X[i : i + step]
            found = np.zeros((len(rows), len(self._starts)), self._kind)
            for j, edges, answers in self._bins:
                bins = edges.searchsorted(rows[:, j])  # missing values sort after all others
                found |= answers[bins + np.isnan(rows[:, j]) if any_missing else bins]
            values[i : i + step] += self._table[self._starts + found].sum(axis=1)


def _to_bits(mask: np.ndarray) -> int:
    return int.from_bytes(np.packbits(mask, bitorder="little").tobytes(), "little")


def _to_mask(bits: int, n: int) -> np.ndarray:
    octets = np.frombuffer(bits.to_bytes(-(-n // 8), "little"), np.uint8)
    return np.unpackbits(octets, count=n, bitorder="little").astype(bool)


def _tabulate(leaf: _Leaf, size: int) -> np.ndarray:
    """Return a leaf's SHAP values for every combination of answers, (size, its features)."""
    path = leaf.path.values()
    asked = np.array([kept.asked for kept in path], int)
    wanted = np.array([kept.wanted for kept in path], int)
    z = np.array([kept.fraction for kept in path])
    o = (np.arange(size)[:, None] & asked) == wanted
    integral = np.zeros(o.shape)
    for u, weight in quadrature(len(z) // 2 + 1):
        factors = (1 - u) * z + u * o
        others = factors.prod(axis=1, keepdims=True)
        # A factor is 0 where neither the row nor any other kept to the path: a feature without
        # effect, which takes it from all others.
        integral += weight * np.divide(others, factors, out=np.zeros(o.shape), where=factors > 0)
    return leaf.value * (o - z) * integral
