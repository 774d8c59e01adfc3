"""Columns of a table from any supported library: names, kinds and cells."""

import contextlib
import datetime
from decimal import Decimal
from numbers import Number

import numpy as np

from gam_model.dates import to_days

# Kinds of column. A category is declared by its dtype; "nothing" means that all cells are missing.
KINDS = ("number", "text", "category", "date", "duration", "nothing", "other")
_INSTANTS = (datetime.date, np.datetime64)  # datetime.datetime is a subclass of date
_SPANS = (datetime.timedelta, np.timedelta64)


class Column:
    """
    One column of a table.

    Parameters
    ----------
    cells : Series or ndarray of shape (n_samples,)
        Of pandas, polars or NumPy.
    """

    def __init__(self, cells):
        self._cells, self._type, self._list = cells, str(cells.dtype), None

    def __len__(self):
        """Return the number of cells."""
        return len(self._cells)

    def kind(self):
        """Return the kind of its values, one of `KINDS`."""
        kind = getattr(self._cells.dtype, "kind", None)
        if self.is_declared():
            known = "category"
        elif kind is None:
            known = self._polars_kind()
        elif kind in "mM":
            known = "date" if kind == "M" else "duration"
        else:
            known = "number" if kind in "biuf" else "text" if self._is_text() else None
        if known is not None:
            return known if self._is_there() else "nothing"
        kinds = {_kind_of(cell) for cell in self.cells()} - {"nothing"}
        if len(kinds) > 1:
            return "text" if "text" in kinds else "other"
        return kinds.pop() if kinds else "nothing"

    def is_declared(self):
        """Return whether its dtype is categorical."""
        return self._type.startswith(("category", "dictionary", "Categorical", "Enum"))

    def _is_text(self):
        return self._type in ("str", "string") or self._cells.dtype.kind in "SU"

    def _polars_kind(self):
        if self._cells.dtype.is_numeric() or self._type == "Boolean":
            return "number"
        known = {"Date": "date", "Datetime": "date", "Duration": "duration", "String": "text"}
        return known.get(self._type.partition("(")[0])

    def _is_there(self):
        """Return whether any cell is missing."""
        cells = self._cells
        if hasattr(cells, "notna"):
            return bool(cells.notna().any())
        if hasattr(cells, "null_count"):
            nan = cells.dtype.is_float() and cells.is_nan().sum()
            return cells.null_count() + nan < len(cells)
        if cells.dtype.kind in "fmM":
            return not np.isnan(cells).all()
        return len(cells) > 0

    def cells(self):
        """Return the cells as a list of Python objects, None where they are missing."""
        if self._list is None:
            cells = self._cells
            if hasattr(cells, "to_list"):
                values = cells.to_list()
            else:  # NumPy would convert nanoseconds to integers
                values = list(cells) if cells.dtype.kind in "mM" else cells.tolist()
            self._list = [_simplify(value) for value in values]
        return self._list

    def categories(self):
        """Return the categories that its dtype declares, in order; empty for other dtypes."""
        if self._type.startswith(("category", "Enum")):
            return [_simplify(level) for level in self._cells.dtype.categories.to_list()]
        return []

    def numbers(self):
        """
        Return the cells as float64 of shape (n_samples,), NaN where they are missing.

        Raises
        ------
        TypeError, ValueError
            If a cell is not a number.
        """
        if hasattr(self._cells, "iloc"):  # pandas
            return self._cells.to_numpy(dtype=np.float64, na_value=np.nan)
        cells = self._cells.to_numpy() if hasattr(self._cells, "to_numpy") else self._cells
        return np.asarray(cells, dtype=np.float64)

    def days(self):
        """Return the days of dates or durations, as `numbers`."""
        cells = self._cells
        if hasattr(cells, "dt") and hasattr(cells, "iloc"):
            with contextlib.suppress(AttributeError, TypeError):  # naive dates are UTC
                cells = cells.dt.tz_convert(None)
        cells = cells.to_numpy() if hasattr(cells, "to_numpy") else cells
        if cells.dtype.kind in "mM":
            return to_days(cells)
        cells = [_to_numpy(cell) for cell in self.cells()]
        days, units = np.full(len(cells), np.nan), {}
        for row, cell in enumerate(cells):
            if cell is not None:
                units.setdefault(cell.dtype, []).append(row)
        for dtype, rows in units.items():  # NumPy would overflow when converting mixed units
            days[rows] = to_days(np.array([cells[row] for row in rows], dtype))
        return days


def list_columns(X):
    """
    Return the columns of a table.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        A pandas or polars frame, a pyarrow table, or anything that NumPy can convert.

    Returns
    -------
    columns : list of Column
        Empty if X is not two-dimensional.
    names : list of str or None
        None for an array.
    """
    if hasattr(X, "to_pandas") and hasattr(X, "column_names"):  # pyarrow
        import pandas as pd

        X = X.to_pandas(types_mapper=pd.ArrowDtype, ignore_metadata=True)
    if hasattr(X, "iloc"):  # pandas
        series = [X.iloc[:, j] for j in range(X.shape[1])]
    elif hasattr(X, "get_columns"):  # polars
        series = X.get_columns()
    else:
        X = np.asarray(X)
        return [Column(cells) for cells in X.T] if X.ndim == 2 else [], None
    return [Column(cells) for cells in series], [str(name) for name in X.columns]


def _simplify(value):
    """Return a cell as a Python object: None if missing, an integral float as an int."""
    if type(value) in (str, int, bool):  # most are
        return value
    if isinstance(value, str):
        return str(value)
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return None
    if isinstance(value, (np.bool_, np.number)) and not isinstance(value, np.timedelta64):
        value = value.item()
    if isinstance(value, (np.datetime64, np.timedelta64)):
        return None if np.isnat(value) else value
    if isinstance(value, (Number, Decimal)) and value != value:
        return None
    # Integer codes become floats in a column with missing cells.
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _kind_of(cell):
    if cell is None:
        return "nothing"
    if isinstance(cell, str):
        return "text"
    if isinstance(cell, (bool, int, float, Decimal)):
        return "number"
    kinds = {"date": _INSTANTS, "duration": _SPANS}
    return next((kind for kind, types in kinds.items() if isinstance(cell, types)), "other")


def _to_numpy(cell):
    """Return one date or duration as a NumPy scalar, in UTC and in its own unit."""
    if cell is None or isinstance(cell, (np.datetime64, np.timedelta64)):
        return cell
    if hasattr(cell, "asm8"):  # pandas, which may count nanoseconds
        return cell.asm8
    if isinstance(cell, datetime.timedelta):
        return np.timedelta64(cell)
    if isinstance(cell, datetime.datetime) and cell.tzinfo is not None:
        cell = cell.astimezone(datetime.timezone.utc).replace(tzinfo=None)
    return np.datetime64(cell)
