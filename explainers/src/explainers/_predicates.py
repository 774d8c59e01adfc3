"""Formatting and parsing of a rule's predicates."""

import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np

_NUMBER = r"([-+]?(?:\d+\.?\d*|\.\d+|inf)(?:[eE][-+]?\d+)?)"
_BEFORE = re.compile(rf"(?:{_NUMBER} (<=?) )?")
_AFTER = re.compile(rf" ([<>]=?) {_NUMBER}")
_COMPARE: dict[str, Callable] = {
    "<": np.less,
    "<=": np.less_equal,
    ">": np.greater,
    ">=": np.greater_equal,
}


def describe(name: str, levels: list[str] | None, cuts: np.ndarray, low: int, high: int) -> str:
    """
    Format the predicate that a feature is in one of the bins from low to high.

    Parameters
    ----------
    name : str
        Of the feature.
    levels : list of str or None
        Its categories; the bin behind the last is that of missing values.
    cuts : ndarray
        Or, if it has none, where its bins end; the one behind the last is open, and the next
        one is that of missing values.
    low, high : int
        The first and the last bin.
    """
    if levels is not None:
        return f"{name} = {levels[low]}" if low < len(levels) else f"{name} is missing"
    if low > len(cuts):
        return f"{name} is missing"
    text = name if low == 0 else f"{_format(cuts[low - 1])} < {name}"
    if high < len(cuts):
        return f"{text} <= {_format(cuts[high])}"
    return f"{name} > {_format(cuts[low - 1])}" if low else f"{name} is not missing"


def _format(value: float) -> str:
    """Format a cut so that it parses to the same number."""
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(float(value))


def find_rows(
    text: str, rows: np.ndarray, names: Sequence[str], levels: Mapping[int, list[str]]
) -> np.ndarray:
    """
    Parse a predicate, with arbitrary cuts, and find the rows for which it holds.

    Parameters
    ----------
    text : str
        As `describe` writes it; comparisons may also be ``<`` and ``>=``.
    rows : ndarray of float64, shape (n, n_features)
    names : sequence of str
        Of the features.
    levels : mapping of int to list of str
        Column of a categorical feature -> its categories.

    Returns
    -------
    ndarray of bool, shape (n,)

    Raises
    ------
    ValueError
        If the text is not a predicate on one of these features.
    """
    for j, name in sorted(enumerate(names), key=lambda item: -len(item[1])):
        before, found, after = text.partition(name)
        lower, column = _BEFORE.fullmatch(before), rows[:, j]
        if not found or lower is None:
            continue
        if not before and after in (" is missing", " is not missing"):
            return np.isnan(column) == (after == " is missing")
        if not before and after.startswith(" = ") and j in levels:
            if after[3:] not in levels[j]:
                raise ValueError(
                    f"{name!r} has no category {after[3:]!r}; it has {', '.join(levels[j][:20])}"
                )
            return column == levels[j].index(after[3:])
        upper = _AFTER.fullmatch(after)
        if upper and j not in levels and not (before and upper[1].startswith(">")):
            mask = _COMPARE[upper[1]](column, float(upper[2]))
            return mask & _COMPARE[lower[2]](float(lower[1]), column) if before else mask
    raise ValueError(
        f"{text!r} is not a predicate on a known feature; write it as in 'Age <= 37', "
        "'20 < Age <= 37', "
        "'Job = clerk' or 'Age is missing', numbers for numeric and names for categorical features"
    )
