"""Values that many rows of a numeric column share: how they are found and recognised."""

import numpy as np

_LOOKED_AT = 20_000  # rows that tell whether a column repeats itself
_ENOUGH = 2  # rows that share a value
_MOSTLY, _SHARE = 0.5, 1e-3  # of all rows; see `find_atoms`
_MOST, _ROWS_EACH = 200, 20  # values of one column: so many, and one for so many rows
_SURE = 3.0  # standard deviations that mean squares of atoms exceed those of noise by
_ROUNDING = 2.0**-24  # of float32, relative to the value: numbers that differ by less are the same


def find_atoms(x, weight, n_rows):
    """
    Find the values that many rows share.

    Parameters
    ----------
    x : ndarray of shape (n_samples,)
        The column, without missing cells.
    weight : ndarray of shape (n_samples,) or None
        How often each row occurs.
    n_rows : float
        Number of rows of `x`, or of all where it is a sample.

    Returns
    -------
    ndarray of shape (n_atoms,)
        In ascending order: those of most rows, at most 200, and at most one for 20 rows. If they
        hold half of the rows, those of two rows and more, else those of a thousandth of the rows.

    Examples
    --------
    >>> find_atoms(np.append(np.arange(1000) + 0.5, np.zeros(50)), None, 1050)
    array([0.])
    """
    few = np.sort(x[:: 1 + len(x) // _LOOKED_AT])
    single = weight is None or weight.max() <= 1
    if single and not (few[2:] == few[:-2]).any():  # no value comes three times
        return np.empty(0)
    values, which = np.unique(x, return_inverse=True)
    counts = np.bincount(which, weight)
    most = min(_MOST, int(n_rows / _ROWS_EACH))
    first = np.argsort(-counts, kind="stable")[:most]
    first = first[counts[first] >= _ENOUGH]
    if counts[first].sum() < _MOSTLY * counts.sum():  # values that are rare are coincidences
        first = first[counts[first] >= max(_ENOUGH, _SHARE * counts.sum())]
    if not len(first):
        return np.empty(0)
    atoms = values[np.sort(first)]
    low, high = bracket(atoms)
    return atoms[np.append(True, low[1:] > high[:-1])]


def stand_out(marks, residuals, weight, counts, n_atoms):
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
    counts : ndarray of shape (n_samples,) or None
        How often each row occurs.
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
        for column in (np.ones(len(on)) if counts is None else counts, weight, weight * residuals)
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
