"""Rules over binned rows: counting all of them, searching among too many, choosing one.

A rule takes at most one range of bins of each feature and holds for the rows inside them all. It
is written as one number per feature: 0 for no range, i for the feature's i-th candidate.
"""

import numpy as np

# Cells of an axis summed in one BLAS call: small axes are merged up to this size.
_AXIS = 32


def count_all(bins, agrees, candidates):
    """
    Count the rows under every rule that the candidates allow.

    Rows that no candidate tells apart fall into one cell of an array with one axis per feature.
    Summing every axis over its candidates' cells turns counts of cells into counts of rules, so
    the rows are passed once, whatever the number of rules.

    Parameters
    ----------
    bins : ndarray of shape (n_features, n_samples), integer
        Bin of each row, feature by feature.
    agrees : ndarray of shape (n_samples,), bool
        Rows that have the answer, counted separately.
    candidates : list of n_features lists of (int, int)
        First and last bin of the ranges that a rule may take.

    Returns
    -------
    n, k : ndarray of shape (n_rules,), int64
        Rows under each rule, and those of them that agree.
    shape : tuple of int
        Rules are in the order of an array of this shape, indexed by the rule.
    """
    cell = agrees.astype(np.intp)
    sums = []
    for codes, ranges in zip(bins, candidates, strict=True):
        if ranges:
            low, high = np.array(ranges).T[..., None]
            every_bin = np.arange(codes.max() + 1)
            inside = (every_bin >= low) & (every_bin <= high)
            inside, cell_of_bin = np.unique(inside, axis=1, return_inverse=True)
            matrix = np.vstack([np.ones(inside.shape[1]), inside])
            if sums and sums[-1].shape[1] * matrix.shape[1] <= _AXIS:
                sums[-1] = np.kron(sums[-1], matrix)  # of two small axes, one
            else:
                sums.append(matrix)
            cell *= inside.shape[1]
            cell += cell_of_bin.ravel()[codes]
    table = np.bincount(cell, minlength=2 * int(np.prod([m.shape[1] for m in sums])))
    # For BLAS; counts are exact in it.
    table = table.astype(np.float32 if len(agrees) < 2**24 else np.float64)
    for inside in reversed(sums):  # the last axis is summed, and goes to the front
        table = (table.reshape(-1, inside.shape[1]) @ inside.T.astype(table.dtype)).T.ravel()
    others, k = table.reshape(-1, 2).T.astype(np.int64)
    return others + k, k, tuple(1 + len(ranges) for ranges in candidates)


def search(bins, agrees, candidates, score, threshold, floor, beam):
    """
    Count the rows under the rules visited by a beam search.

    Rules grow by one range at a time. Of each length the search keeps the most precise ones, and
    as many that may come to cover most: an extension that reaches the threshold covers at most
    k / threshold rows. A rule that cannot cover more than one already found is dropped. The rows
    under a rule are bits, and an extension is an "and" of 64 rows at a time.

    Parameters
    ----------
    bins, agrees, candidates
        As for `count_all`.
    score : callable
        From n and k to the rules' scores, none above k / n.
    threshold : float
        Score to reach.
    floor : int
        Rows that a rule must cover.
    beam : int
        Rules to keep from one length to the next.

    Returns
    -------
    n, k : ndarray of shape (n_rules,), int64
        Rows under each rule, and those of them that agree.
    rules : ndarray of shape (n_rules, n_features), int64
        The rules.
    """
    predicates = [(j, i) for j, ranges in enumerate(candidates) for i in range(1, len(ranges) + 1)]
    feature, choice = np.array(predicates).T
    low, high = np.array([candidates[j][i - 1] for j, i in predicates]).T
    masks = np.stack(
        [
            _pack((bins[j] >= a) & (bins[j] <= b))
            for j, a, b in zip(feature, low, high, strict=True)
        ]
    )
    agreeing = _pack(agrees)
    rules = np.zeros((1, len(candidates)), dtype=np.int64)
    covered = _pack(np.ones(len(agrees), dtype=bool))[None]
    n, k = np.array([len(agrees)]), np.array([agrees.sum()])
    seen = [(n, k, rules)]
    while len(rules):
        parent, added, n, k = _extend(masks, agreeing, covered, n, rules[:, feature] > 0, floor)
        rules = rules[parent]
        rules[np.arange(len(rules)), feature[added]] = choice[added]
        rules, first = np.unique(
            rules, axis=0, return_index=True
        )  # the same rule reached in another order
        parent, added, n, k = parent[first], added[first], n[first], k[first]
        seen.append((n, k, rules))

        best = max(n_[score(n_, k_) >= threshold].max(initial=0) for n_, k_, _ in seen)
        reach = np.minimum(n, k / threshold)
        open_ = np.flatnonzero(reach > best)
        widest = open_[np.lexsort((-n[open_], -reach[open_]))][: beam // 2]
        surest = open_[np.lexsort((-n[open_], -k[open_] / n[open_]))][: beam - beam // 2]
        kept = np.union1d(widest, surest)
        covered = covered[parent[kept]] & masks[added[kept]]
        rules, n = rules[kept], n[kept]
    return tuple(map(np.concatenate, zip(*seen, strict=True)))


def _extend(masks, agreeing, covered, n, taken, floor):
    """Count rules longer by one range with fewer but enough rows, some of which agree."""
    parts = []
    for parent, bits in enumerate(covered):
        extended = masks & bits
        n_new, k_new = _count(extended), _count(extended & agreeing)
        useful = (n_new >= floor) & (n_new < n[parent]) & (k_new > 0)
        added = np.flatnonzero(~taken[parent] & useful)
        parts.append((np.full(len(added), parent), added, n_new[added], k_new[added]))
    return map(np.concatenate, zip(*parts, strict=True))


def _pack(mask):
    bits = np.packbits(mask)
    return np.pad(bits, (0, -len(bits) % 8)).view(np.uint64)


def _count(words):
    return np.bitwise_count(words).sum(axis=-1, dtype=np.int64)


def _count_by_table(words):
    table = np.unpackbits(np.arange(2**16, dtype=np.uint16).view(np.uint8))
    table = table.reshape(-1, 16).sum(axis=1, dtype=np.uint8)
    return table[words.view(np.uint16)].sum(axis=-1, dtype=np.int64)


if not hasattr(np, "bitwise_count"):  # NumPy 1
    _count = _count_by_table


def choose(n, k, score, threshold, floor):
    """
    Choose the rule that covers the most rows among those that reach a score, or the best one.

    Of two rules the one that covers no more rows and is no more precise is never better, so only
    the others are scored: a few dozen at most.

    Parameters
    ----------
    n, k : ndarray of shape (n_rules,), int64
        Rows under each rule, and those of them that agree.
    score, threshold, floor
        As for `search`. Some rule covers enough rows. The score grows with k / n, and with n
        where k / n is the same.

    Returns
    -------
    positions : ndarray of int64
        Rules that tie: they have the same n and the same k.
    score : float
        Their score.
    """
    best = np.full(int(n.max()) + 1, -1)
    np.maximum.at(best, n, k)
    n_pair = np.flatnonzero(best >= 0)[::-1]  # most rows first
    n_pair = n_pair[n_pair >= floor]
    k_pair = best[n_pair]
    precision = k_pair / n_pair
    record = np.maximum.accumulate(precision)
    front = np.flatnonzero(precision > np.append(-1.0, record[:-1]))
    scores = score(n_pair[front], k_pair[front])
    reached = scores >= threshold
    chosen = reached.argmax() if reached.any() else scores.argmax()
    pair = front[chosen]
    return np.flatnonzero((n == n_pair[pair]) & (k == k_pair[pair])), float(scores[chosen])


def first_rule(rules):
    """Return the rule with the fewest ranges; of several, the one whose features come first."""
    shortest = rules[(rules > 0).sum(axis=1) == (rules > 0).sum(axis=1).min()]
    late = np.where(shortest > 0, shortest, np.iinfo(np.int64).max)
    return shortest[np.lexsort(late.T[::-1])[0]]
