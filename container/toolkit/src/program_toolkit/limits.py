"""Rows unlike all that a model was trained on: values far outside, levels that it doesn't know."""

import functools
import math
import operator
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from program_toolkit.table import Table, shorten

if TYPE_CHECKING:
    from gam_model import AdditiveModel

FAR = 1.0  # widths of the training range that a value may lie beyond either of its ends


def find_far(X: np.ndarray, model: "AdditiveModel") -> dict[str, np.ndarray]:
    """Find values beyond the training range by more than `FAR` times its width.

    Parameters
    ----------
    X : ndarray of float64, shape (n, p)
        As the model reads it, NaN where a cell is missing.
    model : AdditiveModel

    Returns
    -------
    dict of str to ndarray of bool, shape (n,)
        For those features that have some, by name, in which rows.
    """
    found = {}
    for term in model.terms:
        if term.name not in model.levels and term.extrapolate != "cyclic":
            low, high = term.range
            reach = FAR * (high - low)
            x = X[:, term.feature]
            far = (x < low - reach) | (x > high + reach)
            if far.any():
                found[term.name] = far
    return found


def find_unknown(X: np.ndarray, model: "AdditiveModel") -> dict[str, np.ndarray]:
    """Find levels not seen in training; parameters and result as in `find_far`."""
    codes = {term.name: X[:, term.feature] for term in model.terms if term.name in model.levels}
    return {name: x < 0 for name, x in codes.items() if (x < 0).any()}


# What /metrics tells of the answers of a model, see `count_outside`.
_COUNTER = "gam_rows_outside_training_total"


def name_counters(model: "AdditiveModel") -> dict[str, dict[str, Any]]:
    """Return what a program's ``counters_fn`` does, for `count_outside`."""
    return {
        _COUNTER: {
            "help": "Rows with a value outside of its range in training, or an unknown level.",
            "label": "feature",
            "values": model.features,
        }
    }


def count_outside(X: np.ndarray, model: "AdditiveModel", context: Any) -> None:
    """Count the rows outside the training range by feature, however slightly outside.

    Parameters
    ----------
    X : ndarray of float64, shape (n, p)
        As the model reads it, NaN where a cell is missing.
    model : AdditiveModel
    context : object
        The server's; where it counts nothing, as on AWS's own servers, this does nothing.
    """
    count = getattr(context, "count", None)
    if count and not _is_inside(X, model):
        low, high = _read_ranges(model)
        outside = np.less(X, low) | np.greater(X, high)
        for j in np.flatnonzero(outside.any(axis=0)):
            count(_COUNTER, model.features[j], int(outside[:, j].sum()))


def _is_inside(X: np.ndarray, model: "AdditiveModel") -> bool:
    """Return whether no value is outside its training range, nor a level unknown."""
    low, high = _read_ranges(model)
    if len(X) == 1:  # NumPy takes longer than the comparisons
        row = X[0].tolist()
        return not (any(map(operator.lt, row, low)) or any(map(operator.gt, row, high)))
    return not (np.less(X, low) | np.greater(X, high)).any()


@functools.lru_cache(maxsize=4)
def _read_ranges(model: "AdditiveModel") -> tuple[list[float], list[float]]:
    """Return the lowest and the highest known value of each feature."""
    low, high = ([end] * len(model.features) for end in (-math.inf, math.inf))
    for term in model.terms:
        if term.name in model.levels:
            low[term.feature] = 0  # and -1 stands for a level that training has not seen
        else:
            start, end = term.range
            rounding = float(np.finfo(np.float32).eps) * max(abs(start), abs(end))
            low[term.feature], high[term.feature] = start - rounding, end + rounding
    return low, high


def warn_of_rows(table: Table, X: np.ndarray, model: "AdditiveModel") -> Mapping[str, np.ndarray]:
    """Describe why an answer should be used with care.

    Parameters
    ----------
    table : Table
        The request.
    X : ndarray of float64, shape (n, p)
        Its rows as the model reads them.
    model : AdditiveModel

    Returns
    -------
    mapping of str to ndarray of bool, shape (n,)
        At most one warning of a kind, and the rows that it is about.
    """
    warnings: dict[str, np.ndarray] = {}
    if _is_inside(X, model):
        return warnings
    if far := find_far(X, model):
        ranges = {term.name: term.range for term in model.terms if term.name in far}
        places = []
        for name, rows in far.items():
            row, (low, high) = int(rows.argmax()), ranges[name]
            value = X[row, model.features.index(name)]
            places.append(
                f"{name!r} is {value:g} in {count_rows(rows)}, "
                f"and was {low:g} to {high:g} in training"
            )
        text = f"far outside the training range, and so extrapolated: {'; '.join(places)}"
        warnings[text] = np.any(list(far.values()), axis=0)
    if unknown := find_unknown(X, model):
        cells, places = table.select(model.features).values, []
        for name, rows in unknown.items():
            cell = cells[int(rows.argmax()), model.features.index(name)]
            places.append(f"{name!r} is {shorten(cell)} in {count_rows(rows)}")
        text = f"unknown in training, and so without an effect: {'; '.join(places)}"
        warnings[text] = np.any(list(unknown.values()), axis=0)
    return warnings


def count_rows(rows: np.ndarray) -> str:
    """Return the first of the marked rows, and how many more there are.

    Parameters
    ----------
    rows : ndarray of bool, shape (n,)
        At least one is true.
    """
    more = int(rows.sum()) - 1
    return f"row {int(rows.argmax())}" + (f" and {more} more" if more else "")
