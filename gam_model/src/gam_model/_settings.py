"""What the user asks of single features: one value for all, one for each, or some by name."""

from numbers import Integral, Real
from typing import NamedTuple

import numpy as np

EXTRAPOLATIONS = ("linear", "constant", "error")


class Setting(NamedTuple):
    """
    What is asked of one feature.

    df, degree, extrapolate, monotonic and convex are as in `GAMRegressor`; alpha is NaN where it
    is chosen from the data; knots are the inner ones or None; cyclic is the period or None; linear
    says whether the feature is a straight line; select whether a term may be shrunk to nothing.
    """

    name: str
    df: int
    alpha: float
    degree: int
    extrapolate: str
    knots: np.ndarray | None
    cyclic: float | None
    linear: bool
    monotonic: int
    convex: int
    select: bool

    @property
    def is_bound(self):
        """Whether the curve's coefficients are under constraints."""
        return bool(self.monotonic or self.convex)

    @property
    def may_pair(self):
        """Whether the feature may be in a pair, which keeps no shape and no period."""
        return not self.is_bound and self.cyclic is None

    @property
    def is_shaped(self):
        """Whether the curve alone must be what is asked, with no atoms beside it."""
        return self.linear or self.is_bound


def _is(kind, value):
    return isinstance(value, kind) and not isinstance(value, (bool, np.bool_))


def _read_alpha(value):
    if isinstance(value, str) and value == "auto":
        return np.nan
    return float(value) if _is(Real, value) and 0 < value < np.inf else None


def _read_degree(value):
    return int(value) if _is(Integral, value) and 2 <= value <= 5 else None


def _read_df(value):
    return int(value) if _is(Integral, value) else None


def _read_extrapolate(value):
    return value if isinstance(value, str) and value in EXTRAPOLATIONS else None


def _read_sign(value):
    value = 0 if value is None else value
    return int(value) if _is(Real, value) and value in (-1, 0, 1) else None


def _read_knots(value):
    try:
        knots = np.atleast_1d(np.asarray(value, dtype=float))
    except (TypeError, ValueError):
        return None
    good = knots.ndim == 1 and np.isfinite(knots).all() and (np.diff(knots) > 0).all()
    return knots if good else None


# How a value is read, what it must be, and what a dict leaves to the others.
_KINDS = {
    "alpha": (_read_alpha, 'a positive finite number, one per feature, or "auto"', "auto"),
    "degree": (_read_degree, "an integer from 2 to 5", 3),
    "df": (_read_df, "an integer of at least degree + 1", 15),
    "extrapolate": (_read_extrapolate, f"one of {EXTRAPOLATIONS}", "linear"),
    "monotonic_cst": (_read_sign, "1 (rising), -1 (falling) or 0", 0),
    "convex_cst": (_read_sign, "1 (convex), -1 (concave) or 0", 0),
}


def check_settings(estimator):
    """
    Raise an error for values that no feature can have, before any row is read.

    Parameters
    ----------
    estimator : AdditiveEstimator
        Has them as parameters.

    Raises
    ------
    ValueError
        If a value is none that its parameter can have.
    """
    for name in _KINDS:
        value = getattr(estimator, name)
        if name == "df" and _is(Integral, estimator.degree) and not _is_several(value):
            _check_df(value, estimator.degree)
        for one in _list(value):
            _read(name, one, value)
    if not isinstance(estimator.select, (bool, np.bool_)):
        raise ValueError(f"select must be True or False, got select={estimator.select!r}")


def read_settings(estimator, names, levels):
    """
    Read what is asked of each feature.

    Parameters
    ----------
    estimator : AdditiveEstimator
        Has it as parameters: one value, an array, or a dict by name or position.
    names : list of str
        Names of the features.
    levels : collection of int
        Which of them are categorical.

    Returns
    -------
    list of Setting

    Raises
    ------
    ValueError
        If a feature is named that there is not, an array has another length, or a value is none
        that its parameter can have.
    """
    values = {}
    for name in _KINDS:
        given = getattr(estimator, name)
        values[name] = [_read(name, one, given) for one in _spread(name, given, names)]
    knots = dict.fromkeys(range(len(names)))
    if estimator.knots is not None:
        if not isinstance(estimator.knots, dict):
            raise ValueError(
                "knots must be a dict of a feature's inner knots by its name, "
                f"got knots={estimator.knots!r}"
            )
        for key, one in estimator.knots.items():
            j = _find("knots", key, names)
            knots[j] = _read_knots(one)
            if knots[j] is None:
                raise ValueError(
                    f"knots of {names[j]!r} must be finite numbers in ascending order, got {one!r}"
                )
    periods = {}
    if estimator.cyclic is not None:
        if not isinstance(estimator.cyclic, dict):
            raise ValueError(
                "cyclic must be a dict of a feature's period by its name, "
                f"got cyclic={estimator.cyclic!r}"
            )
        for key, one in estimator.cyclic.items():
            if not _is(Real, one) or not 0 < one < np.inf:
                raise ValueError(f"the period of {key!r} must be a positive number, got {one!r}")
            periods[_find("cyclic", key, names)] = float(one)
    lines = estimator.linear
    lines = set() if lines is None else {_find("linear", key, names) for key in _keys(lines)}
    settings = []
    for j, name in enumerate(names):
        one = Setting(
            name,
            *(values[kind][j] for kind in ("df", "alpha", "degree", "extrapolate")),
            knots[j],
            periods.get(j),
            j in lines,
            values["monotonic_cst"][j],
            values["convex_cst"][j],
            bool(estimator.select) and np.isnan(values["alpha"][j]),
        )
        _check_df(one.df, one.degree)
        _check_shape(one, j in levels, knots[j] is not None)
        settings.append(one)
    return settings


def _check_shape(one, categorical, with_knots):
    name = one.name
    if categorical and not one.cyclic and (one.is_shaped or with_knots):
        raise ValueError(
            f"column {name!r} is categorical, and so has no shape or knots; leave it out of "
            "linear, monotonic_cst, convex_cst and knots"
        )
    if one.cyclic and (categorical or one.is_shaped or with_knots):
        raise ValueError(
            f"column {name!r} is cyclic, so it cannot be categorical or have a shape or knots; "
            "leave it out of one of them"
        )
    if one.convex and one.extrapolate == "constant":
        raise ValueError(
            f"column {name!r} cannot be convex or concave and go on as a constant beyond its "
            'range; use extrapolate="linear" or "error"'
        )


def _check_df(df, degree):
    if not _is(Integral, df) or df < degree + 1:
        raise ValueError(
            f"df must be an integer of at least degree + 1 = {degree + 1}, got df={df!r}"
        )


def _list(value):
    """Return the values of a parameter, whichever way they are given."""
    if isinstance(value, dict):
        return list(value.values())
    return list(value) if _is_several(value) else [value]


def _is_several(value):
    return isinstance(value, (dict, list, tuple)) or (isinstance(value, np.ndarray) and value.ndim)


def _keys(lines):
    if isinstance(lines, dict):
        return [key for key, value in lines.items() if value]
    return [lines] if isinstance(lines, (str, Integral)) else list(lines)


def _read(name, value, given):
    read, what, _ = _KINDS[name]
    found = read(value)
    if found is None:
        raise ValueError(f"{name} must be {what}, got {name}={given!r}")
    return found


def _find(name, key, names):
    if isinstance(key, str) and key in names:
        return names.index(key)
    if _is(Integral, key) and 0 <= key < len(names):
        return int(key)
    few = ", ".join(map(repr, names[:8])) + (", ..." if len(names) > 8 else "")
    raise ValueError(f"{name} names the feature {key!r}, but X has the features {few}")


def _spread(name, value, names):
    """Return one value for each feature."""
    if isinstance(value, dict):
        values = [_KINDS[name][2]] * len(names)
        for key, one in value.items():
            values[_find(name, key, names)] = one
        return values
    if not _is_several(value):
        return [value] * len(names)
    values = list(value)
    if len(values) != len(names):
        raise ValueError(
            f"{name} must have one number per feature, {len(names)}, got {name}={value!r}"
        )
    return values
