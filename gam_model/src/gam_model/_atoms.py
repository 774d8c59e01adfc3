"""Values that many rows of a numeric column share: how they are found and recognised."""

import numpy as np

_LOOKED_AT = 20_000  # rows that tell whether a column repeats itself
_ENOUGH = 2  # rows that share a value
_MOSTLY, _SHARE = 0.5, 1e-3  # of all rows; see `find_atoms`
_MOST, _ROWS_EACH = 200, 20  # values of one column: so many, and one for so many rows
_SURE = 3.0  # standard deviations that mean squares of atoms exceed those of noise by
_ROUNDING = 2.0**-24  # of float32, relative to the value: numbers that differ by less are the same


def repeats(x):
    """Return whether a column, without missing cells, has some value three times."""
    few = np.sort(x[:: 1 + len(x) // _LOOKED_AT])
    return bool((few[2:] == few[:-2]).any())


def find_distinct(columns):
    """
    Find the distinct rows, as one that is repeated says nothing new of its values.

    Parameters
    ----------
    columns : iterable of ndarray of shape (n_samples,)
        What makes up a row.

    Returns
    -------
    ndarray of shape (n_samples,), bool
        True for the first of each.
    """
    rng, key = np.random.default_rng(0), 0.0
    for column in columns:
        size = np.nanmax(abs(column), initial=0.0) or 1.0
        key = key + np.where(np.isnan(column), 2.0, column / size) * rng.uniform(1, 2)
    first = np.zeros(len(key), dtype=bool)
    first[np.unique(key, return_index=True)[1]] = True
    return first


def find_atoms(x):
    """
    Find the values that many rows share.

    Parameters
    ----------
    x : ndarray of shape (n_samples,)
        The column in distinct rows, without missing cells.

    Returns
    -------
    ndarray of shape (n_atoms,)
        In ascending order: those of most rows, at most 200, and at most one for 20 rows. If they
        hold half of the rows, those of two rows and more, else those of a thousandth of the rows.
        Empty if no value has three rows.

    Examples
    --------
    >>> find_atoms(np.append(np.arange(1000) + 0.5, np.zeros(50)))
    array([0.])
    """
    values, counts = np.unique(x, return_counts=True)
    first = np.argsort(-counts, kind="stable")[: min(_MOST, len(x) // _ROWS_EACH)]
    first = first[counts[first] >= _ENOUGH]
    if counts[first].sum() < _MOSTLY * len(x):  # values that are rare are coincidences
        first = first[counts[first] >= _SHARE * len(x)]
    if not (counts[first] > _ENOUGH).any():
        return np.empty(0)
    atoms = values[np.sort(first)]
    low, high = bracket(atoms)
    return atoms[np.append(True, low[1:] > high[:-1])]


def stand_out(marks, residuals, weight, distinct, n_atoms):
    """
    Return whether the atoms of a column deviate from its curve by more than noise does.

    T = sum_a (sum_i w_i r_i)^2 / (s^2 sum_i w_i), over the rows i of each atom a, has mean n_atoms
    and variance sum_a (2 + kurtosis / n_a) where they deviate by nothing.

    Parameters
    ----------
    marks : ndarray of shape (n_samples,), int
        Atom of each row; -1 for none.
    residuals : ndarray of shape (n_samples,)
        What the curve leaves of y.
    weight : ndarray of shape (n_samples,)
        Weights of the rows.
    distinct : ndarray of shape (n_samples,), bool
        The first of rows that are the same.
    n_atoms : int
        Number of atoms.

    Returns
    -------
    bool
    """
    scale = weight @ residuals**2 / weight.sum()
    if not scale > 0:
        return False
    on = marks >= 0
    rows, total, score = (
        np.bincount(marks[on], column[on], minlength=n_atoms)
        for column in (distinct, weight, weight * residuals)
    )
    there = total > 0
    kurtosis = max(0.0, weight @ residuals**4 / weight.sum() / scale**2 - 3)
    excess = np.sum(score[there] ** 2 / total[there]) / scale - there.sum()
    return bool(excess > _SURE * np.sqrt(np.sum(2 + kurtosis / rows[there])))


def bracket(atoms):
    """
    Return from where to where a number counts as each atom: what float32 makes of it.

    Parameters
    ----------
    atoms : ndarray of shape (n_atoms,)
        In ascending order.

    Returns
    -------
    low, high : ndarray of shape (n_atoms,)
    """
    reach = _ROUNDING * abs(atoms)
    return atoms - reach, atoms + reach


def locate(x, low, high):
    """
    Recognise atoms.

    Parameters
    ----------
    x : ndarray of shape (n_samples,)
        Any numbers, or NaN.
    low, high : ndarray of shape (n_atoms,)
        As `bracket` returns them; at least one.

    Returns
    -------
    ndarray of shape (n_samples,), int
        Position of the atom; -1 for all other numbers.
    """
    at = np.searchsorted(low, x, side="right") - 1
    return np.where((at >= 0) & (x <= high[at]), at, -1)
