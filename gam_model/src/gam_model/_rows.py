"""Training rows: blocks of input, their totals, and chunks for the solver."""

from typing import NamedTuple

import numpy as np

CHUNK = 4096  # rows: a chunk's design matrix fits in a core's cache
SAMPLE = 200_000  # rows of a stream from which knots are placed
_REACH = 1e40  # largest magnitude; penalties scale with its cube, and are squared
_CACHED = 2**23  # values of the basis that are kept for the next pass: 128 MB with their columns


class Block(NamedTuple):
    """Rows: features of shape (n, p); response, weights and offsets of shape (n,)."""

    X: np.ndarray
    y: np.ndarray
    weight: np.ndarray
    offset: np.ndarray

    def take(self, rows):
        """Return some of the rows."""
        return Block(*(column[rows] for column in self))


class Totals(NamedTuple):
    """
    Totals of one pass over the rows.

    n_rows is the number of rows: the sum of the weights, if they are counts, else that of the
    lines, n_lines. Weights are to be multiplied by unit. weight is the sum of the weights, mean
    that of y; low, high and missing describe the columns of X; null_deviance is the deviance of y
    about its mean, and log_base the sum of the family's `log_base`, both for weights times unit.
    counted says whether the weights are counts. sample holds all rows, or so many of them.
    """

    n_rows: float
    n_lines: int
    unit: float
    counted: bool
    weight: float
    mean: float
    low: np.ndarray
    high: np.ndarray
    missing: np.ndarray
    null_deviance: float
    log_base: float
    sample: Block


def check_reach(name, low, high):
    """Raise an error for numbers that are too large or too close for a fit."""
    if not np.isfinite(low):  # all are missing
        return
    size, spread = max(abs(low), abs(high)), high - low
    if size > _REACH or 0 < spread < 1 / _REACH:
        raise ValueError(
            f"{name} has values from {low:g} to {high:g}, which is beyond the precision of a fit: "
            f"magnitudes must be at most {_REACH:g} and the range at least {1 / _REACH:g}; "
            "multiply the values by a power of ten"
        )


WEIGHTINGS = ("auto", "counts", "precision", "likelihood")


def scan(blocks, family, limit=None, weighting="auto"):
    """
    Pass once over all rows.

    Parameters
    ----------
    blocks : iterable of Block
        The rows.
    family : Family
        Determines which y are valid.
    limit : int, optional
        Size of the sample at most; each row is as likely in it as any other, and the same rows
        give the same sample.
    weighting : {"auto", "counts", "precision", "likelihood"}
        What the weights mean, as in `GAMRegressor`.

    Returns
    -------
    Totals

    Raises
    ------
    ValueError
        If there is no row, or the family cannot have such a y.
    """
    rng, keys, sample = np.random.default_rng(0), np.empty(0), None
    all_weight, n_lines, total, generated, log_base, log_weight = 0.0, 0, 0.0, 0.0, 0.0, 0.0
    whole, whole_y = True, True
    low, high, y_low, y_high = np.inf, -np.inf, np.inf, -np.inf
    missing, centre = False, None
    for block in blocks:
        if not len(block.y):
            continue
        X, y, weight, _ = block
        if centre is None:  # avoids cancellation in sums of squares
            centre = float(y.mean()) if family.location else 0.0
        is_missing = np.isnan(X)
        low = np.fmin(low, X.min(axis=0, where=~is_missing, initial=np.inf))
        high = np.fmax(high, X.max(axis=0, where=~is_missing, initial=-np.inf))
        missing = missing | is_missing.any(axis=0)
        y_low, y_high = min(y_low, float(y.min())), max(y_high, float(y.max()))
        n_lines += len(y)
        all_weight += float(weight.sum())
        whole = whole and bool((weight == np.floor(weight)).all())
        whole_y = whole_y and bool((y == np.floor(y)).all())
        log_weight += float(np.log(weight).sum())
        total += float(weight @ (y - centre))
        # Overflow is possible for a y that is rejected below.
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            generated += float(weight @ family.generator(y - centre))
            log_base += float(weight @ family.log_base(y))
        if sample is not None:
            block = Block(*(np.concatenate(pair) for pair in zip(sample, block, strict=True)))
        sample = block
        if limit is not None:
            keys = np.append(keys, rng.random(len(y)))
        if len(keys) > (limit or np.inf):
            least = np.sort(np.argpartition(keys, limit)[:limit])
            keys, sample = keys[least], sample.take(least)
    if sample is None:
        raise ValueError("there are no rows to fit: every chunk is empty, or every weight is 0")
    if not family.accepts(y_low, y_high):
        raise ValueError(
            f"y of family={family.name!r} must be {family.domain}, "
            f"got values from {y_low:g} to {y_high:g}"
        )
    check_reach("y", y_low, y_high)
    mean = total / all_weight
    if family.two_outcomes and mean in (0, 1):
        raise ValueError(
            f"y is {mean:g} in every row with a positive weight; fit rows of both classes"
        )
    if weighting == "auto":
        # A rate with an integer number of trials is a single row, not repeated rows.
        counted = whole and (whole_y or not family.is_rate)
        # Labels 0 and 1 have no trials: their weights are boosting or survey weights.
        labels = family.two_outcomes and whole_y
        relative = not whole and (labels or not family.is_rate)
    else:
        counted, relative = weighting == "counts", weighting == "precision"
    unit = n_lines / all_weight if relative else 1.0
    null = 2 * (generated - all_weight * float(family.generator(np.float64(mean))))
    log_base *= unit
    if relative and family.location:
        log_base += (log_weight + n_lines * np.log(unit)) / 2
    return Totals(
        n_rows=all_weight if counted else float(n_lines),
        n_lines=n_lines,
        unit=unit,
        counted=counted,
        weight=unit * all_weight,
        mean=mean + centre,
        low=low,
        high=high,
        missing=missing,
        null_deviance=unit * max(null, 0.0),
        log_base=log_base,
        sample=sample,
    )


class Chunk(NamedTuple):
    """
    Some rows for the solver: the basis where it is not zero, response, weights, offsets.

    columns, values, marks and levels are those of `Basis.evaluate`.
    """

    columns: np.ndarray
    values: np.ndarray
    marks: np.ndarray
    levels: np.ndarray | None
    y: np.ndarray
    weight: np.ndarray
    offset: np.ndarray


class Rows:
    """
    All rows in chunks, for repeated passes.

    Parameters
    ----------
    basis : Basis
        Evaluated chunk by chunk, and kept between passes where it is small.
    blocks : iterable of Block
        The rows; each pass begins anew.
    n_rows : float
        Number of rows.
    weight : float
        Sum of their weights times `unit`.
    unit : float, default=1.0
        Multiplies the weights.
    centre : float, default=0.0
        Subtracted from y, to avoid cancellation.
    n_lines : int, optional
        Number of rows, where they lie in memory.
    """

    exact = True  # one step solves linear equations

    def __init__(self, basis, blocks, n_rows, weight, unit=1.0, centre=0.0, n_lines=np.inf):
        self.basis, self.n_rows, self.weight = basis, n_rows, weight
        self._blocks, self._unit, self._centre, self._chunks = blocks, unit, centre, None
        slots = sum(term.slots + (term.n_marks > 0) for term in basis.terms)
        self._kept = n_lines * slots <= _CACHED

    def __iter__(self):
        """Pass over all rows."""
        if self._kept and self._chunks is None:
            self._chunks = list(self._evaluate())
        return iter(self._chunks) if self._kept else self._evaluate()

    def _evaluate(self):
        for block in self._blocks:
            for start in range(0, len(block.y), CHUNK):
                X, y, weight, offset = block.take(slice(start, start + CHUNK))
                basis = self.basis.evaluate(X)
                yield Chunk(*basis, y - self._centre, weight * self._unit, offset)
