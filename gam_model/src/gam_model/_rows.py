"""Training rows: blocks as they come, what one pass tells of them, and chunks for the solver."""

from typing import NamedTuple

import numpy as np

CHUNK = 4096  # rows: a chunk's design fits into the cache of a core
SAMPLE = 200_000  # rows of a stream on which knots are placed
_CACHED = 2**23  # values of the basis that are kept for the next pass: 128 MB with their columns


class Block(NamedTuple):
    """Some rows: features of shape (n, p); response, weights and offsets of shape (n,)."""

    X: np.ndarray
    y: np.ndarray
    weight: np.ndarray
    offset: np.ndarray

    def take(self, rows):
        """Return some of the rows."""
        return Block(*(column[rows] for column in self))


class Totals(NamedTuple):
    """
    What one pass tells.

    n_rows is the sum of the weights, n_lines the number of rows, mean that of y; low, high and
    missing describe the columns of X; null_deviance is the deviance of y about its mean, and
    log_base the sum of the family's `log_base`. sample holds all rows, or so many of them.
    """

    n_rows: float
    n_lines: int
    mean: float
    low: np.ndarray
    high: np.ndarray
    missing: np.ndarray
    null_deviance: float
    log_base: float
    sample: Block


def scan(blocks, family, limit=None):
    """
    Pass once over all rows.

    Parameters
    ----------
    blocks : iterable of Block
        The rows.
    family : Family
        Has the say on which y can be.
    limit : int, optional
        Size of the sample at most; each row is as likely in it as any other, and the same rows
        give the same sample.

    Returns
    -------
    Totals

    Raises
    ------
    ValueError
        If there is no row, or the family cannot have such a y.
    """
    rng, keys, sample = np.random.default_rng(0), np.empty(0), None
    n_rows, n_lines, total, generated, log_base = 0.0, 0, 0.0, 0.0, 0.0
    low, high, y_low, y_high = np.inf, -np.inf, np.inf, -np.inf
    missing, centre = False, None
    for block in blocks:
        if not len(block.y):
            continue
        X, y, weight, _ = block
        if centre is None:  # sums of squares of what is far from 0 would lose digits
            centre = float(y.mean()) if family.name == "gaussian" else 0.0
        hole = np.isnan(X)
        low = np.fmin(low, X.min(axis=0, where=~hole, initial=np.inf))
        high = np.fmax(high, X.max(axis=0, where=~hole, initial=-np.inf))
        missing = missing | hole.any(axis=0)
        y_low, y_high = min(y_low, float(y.min())), max(y_high, float(y.max()))
        n_lines += len(y)
        n_rows += float(weight.sum())
        total += float(weight @ (y - centre))
        with np.errstate(invalid="ignore", divide="ignore"):  # of a y that is refused below
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
        raise ValueError("there is no row to fit: every chunk is empty, or every weight is 0")
    if not family.accepts(y_low, y_high):
        raise ValueError(
            f"y of family={family.name!r} must be {family.domain}, "
            f"got values from {y_low:g} to {y_high:g}"
        )
    mean = total / n_rows
    null = 2 * (generated - n_rows * float(family.generator(np.float64(mean))))
    return Totals(
        n_rows, n_lines, mean + centre, low, high, missing, max(null, 0.0), log_base, sample
    )


class Chunk(NamedTuple):
    """Some rows for the solver: the basis where it is not zero, response, weights, offsets."""

    columns: np.ndarray
    values: np.ndarray
    y: np.ndarray
    weight: np.ndarray
    offset: np.ndarray


class Rows:
    """
    All rows, chunk by chunk, as often as asked.

    Parameters
    ----------
    basis : Basis
        Evaluated chunk by chunk, and kept between passes where it is small.
    blocks : iterable of Block
        The rows; each pass begins anew.
    n_rows : float
        Sum of the weights.
    mean : float
        Mean of y.
    centre : float, default=0.0
        Taken off y, so that what is far from 0 loses no digits.
    n_lines : int, optional
        Number of rows, where they lie in memory.
    """

    def __init__(self, basis, blocks, n_rows, mean, centre=0.0, n_lines=np.inf):
        self.basis, self.n_rows, self.mean = basis, n_rows, mean - centre
        self._blocks, self._centre, self._chunks = blocks, centre, None
        slots = sum(term.slots for term in basis.terms)
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
                columns, values = self.basis.evaluate(X)
                yield Chunk(columns, values, y - self._centre, weight, offset)
