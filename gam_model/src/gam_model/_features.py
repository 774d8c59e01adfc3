"""Encoding of table columns as numbers: codes for categories, days for dates, NaN for missing."""

import re
import warnings

import numpy as np

from gam_model._columns import list_columns
from gam_model.dates import UNITS, read_iso

FEW = 50  # levels that a text column may have regardless of its length
SHARE = 0.5  # levels per cell; above it, most levels occur in a single row
MOST = 200_000  # maximum number of levels of a text column
_WORDS = {
    "number": "numbers",
    "text": "text",
    "category": "categories",
    "date": "dates",
    "duration": "durations",
}
_DATE = re.compile(r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}\b.*|\d{8}T\d{4,6}.*", re.DOTALL)


class Features:
    """
    Column types and levels learned by `fit`, and the encoding of any later X.

    Call `learn` with a table, or with each of its chunks; `settle` at the end of a pass, which
    may request a second one; then `read` encodes any table.

    Parameters
    ----------
    categorical : "from_dtype", None or array-like
        Which columns are categorical: those of a frame whose type says so, none, or a list of
        names or positions, or a mask.

    Attributes
    ----------
    levels : dict of int to list
        Levels of each categorical column, as they stand in the table: those that pandas or polars
        declares in their order, others sorted. If some are text, all are: 1 and 1.0 become "1".
    units : dict of int to str
        Columns that are read as days, each a "date" or a "duration".
    left_out : dict of int to str
        Columns of text with too many levels to learn from, and what they look like.
    empty : set of int
        Columns of a frame whose cells are all missing.
    """

    def __init__(self, categorical="from_dtype"):
        self.categorical = categorical
        self.levels, self.units, self.left_out, self.empty = {}, {}, {}, set()
        self._names, self._kinds = None, []  # per column: kind -> the first chunk that has it
        self._declared, self._n_cells = set(), {}
        self._late = (
            None  # in a second pass, the columns that it is for, and whether they are text
        )

    # ---------------------------------------------------------------- learning

    def learn(self, X, weight=None, chunk=None):
        """
        Learn from a table, or from one more chunk of it.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            A pandas or polars frame, a table of pyarrow, or anything that NumPy reads.
        weight : array-like of shape (n_samples,), optional
            A row of weight 0 does not count, and one of weight 2 counts twice.
        chunk : int, optional
            Its number, for messages.

        Returns
        -------
        bool
            Whether further chunks matter; False for numeric arrays.

        Raises
        ------
        ValueError
            If `categorical` names a column that isn't there, a chunk has other columns than those
            before, or a column holds what cannot be read or saved.
        """
        if not _is_list(self.categorical) and _is_plain(X):
            return bool(self._kinds)
        columns, names = list_columns(X)
        self._check_names(names, chunk)
        self._kinds += [{} for _ in columns[len(self._kinds) :]]
        named = self._find(columns)
        counts = _count(weight, len(columns[0]) if columns else 0)
        for j, column in enumerate(columns):
            if self._late is not None:
                if j in self._late:
                    self._collect(j, column, counts)
                continue
            kind = column.kind()
            if kind == "other" and names and j not in (named or []):
                raise ValueError(self._refuse(j, column))
            self._kinds[j].setdefault(kind, chunk)
            if j in named if named is not None else column.is_declared():
                self._declared.add(j)
            if j in self._declared or (named is None and names and kind == "text"):
                self._collect(j, column, counts)
        return True

    def _check_names(self, names, chunk):
        if self._names and names and names != self._names:
            raise ValueError(
                f"chunk {chunk} has the columns {_list(names)} where those before have "
                f"{_list(self._names)}; give all chunks the same columns in the same order"
            )
        self._names = self._names or names

    def _collect(self, j, column, counts):
        cells = column.cells()
        if (self._late and self._late[j]) or any(isinstance(cell, str) for cell in cells):
            cells = _as_text(cells)
        there = np.array([cell is not None for cell in cells], dtype=bool) & (counts > 0)
        self._n_cells[j] = self._n_cells.get(j, 0) + float(counts[there].sum())
        seen = {cells[row] for row in np.flatnonzero(there)}
        if not all(isinstance(level, (str, int)) or _is_finite(level) for level in seen):
            raise ValueError(self._refuse(j, column))
        known = self.levels.get(j, [level for level in column.categories() if level in seen])
        new = seen.difference(known)
        if new and (len(known) <= MOST or j in self._declared):
            known = sorted(new.union(known), key=lambda level: (isinstance(level, str), level))
        self.levels[j] = known

    def settle(self):
        """
        Decide the type of each column, and warn about those that are left out.

        Returns
        -------
        bool
            Whether the chunks must be passed over again: a column is text in some of them, so
            that the levels of the others have to be found.

        Raises
        ------
        ValueError
            If chunks disagree on what a column holds, and it cannot be text throughout.
        """
        late = {}
        for j, kinds in enumerate(self._kinds):
            held = set(kinds) - {"nothing"}
            if not held:
                self.empty.add(j)
                self.levels.pop(j, None)
            elif len(held) == 1 and j not in self.levels:
                self.units.update((j, kind) for kind in held if kind in UNITS)
            elif held & set(UNITS) and len(held) > 1:
                self._settle_dates(j, kinds)
            elif len(held) > 1 and j in self.levels:
                late[j] = any(isinstance(level, str) for level in self.levels[j])
        if late and self._late is None:
            self._late = late
            for j in late:
                del self.levels[j], self._n_cells[j]
            return True
        self._leave_out()
        return False

    def _settle_dates(self, j, kinds):
        """Treat ISO 8601 text as dates where other chunks have dates."""
        texts = self.levels.pop(j, [])
        (unit, chunk), *others = [(kind, kinds[kind]) for kind in UNITS if kind in kinds]
        wrong = next((text for text in texts if not _is_iso(text, unit)), None)
        others += [(kind, kinds[kind]) for kind in ("number", "other") if kind in kinds]
        if wrong is not None:
            others.append(("text", kinds.get("text", kinds.get("category"))))
        if others:
            (kind, where), *_ = others
            cell = f" such as {wrong!r}, which is not ISO 8601," if kind == "text" else ""
            raise ValueError(
                f"column {self._name(j)!r} holds {_WORDS[unit]} in chunk {chunk} and "
                f"{_WORDS.get(kind, 'something else')}{cell} in chunk {where}; use one type in "
                "all chunks"
            )
        self.units[j] = unit

    def _leave_out(self):
        for j in sorted(set(self.levels) - self._declared):
            n_levels = len(self.levels[j])
            if n_levels > max(FEW, min(MOST, SHARE * self._n_cells[j])):
                self.left_out[j] = _describe(self.levels.pop(j))
        if self.left_out:
            columns = ", ".join(f"{self._name(j)!r} ({look})" for j, look in self.left_out.items())
            warnings.warn(
                f"columns of text with nearly as many levels as rows are left out: {columns}. "
                "Read dates with pandas.to_datetime and numbers with pandas.to_numeric; to keep "
                "a column as it is, cast it to a categorical dtype or list it in "
                "categorical_features",
                UserWarning,
                stacklevel=7,
            )

    def _find(self, columns):
        """Return the positions that `categorical` lists; None if the types decide."""
        if self.categorical is None:
            return []
        if isinstance(self.categorical, str):
            if self.categorical == "from_dtype":
                return None
            raise ValueError(
                'categorical_features must be "from_dtype", None or a list of columns, '
                f"got categorical_features={self.categorical!r}"
            )
        wanted, names, found = list(self.categorical), self._names or [], []
        if wanted and all(isinstance(column, (bool, np.bool_)) for column in wanted):
            if len(wanted) != len(columns):
                raise ValueError(
                    f"categorical_features is a mask of {len(wanted)} columns, "
                    f"X has {len(columns)}"
                )
            return np.flatnonzero(wanted).tolist()
        for column in wanted:
            if isinstance(column, str) and column in names:
                found.append(names.index(column))
            elif isinstance(column, (int, np.integer)) and 0 <= column < len(columns):
                found.append(int(column))
            else:
                raise ValueError(
                    f"categorical_features names {column!r}, which is not a column of X; it has "
                    + (", ".join(map(repr, names)) or f"{len(columns)}, without names")
                )
        return found

    # ---------------------------------------------------------------- reading

    def leaves(self, X):
        """Return whether `read` returns X unchanged, so that scikit-learn validates it."""
        if self.levels or self.units or self.left_out:
            return False
        if _is_plain(X):
            return True
        columns, names = list_columns(X)
        return not names and not any(column.kind() in UNITS for column in columns)

    def read(self, X, chunk=None):
        """
        Encode a table as numbers.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            As in `learn`.
        chunk : int, optional
            Its number, for messages.

        Returns
        -------
        X : array-like
            As it is, if it and what was learned are arrays of numbers; else float64 of shape
            (n_samples, n_features): days for dates, code k for the k-th level, -1 for a level not
            learned, 0 in a column that is left out, NaN for a missing cell.

        Raises
        ------
        ValueError
            If a column is a date where `fit` saw numbers, or the other way round, or a cell is
            neither.
        """
        if self.leaves(X):
            return X
        columns, _ = list_columns(X)
        if len(columns) <= max([*self.levels, *self.units, *self.left_out, -1]):
            return X  # rejected by the caller
        read = np.empty((len(columns[0]) if columns else 0, len(columns)))
        for j, column in enumerate(columns):
            if j in self.left_out:
                read[:, j] = 0.0
            elif j in self.empty:
                read[:, j] = np.nan
            elif j in self.levels:
                read[:, j] = self._read_codes(j, column)
            else:
                try:
                    read[:, j] = self._read_numbers(j, column)
                except (TypeError, ValueError) as error:
                    where = f" in chunk {chunk}" if chunk else ""
                    raise ValueError(f"column {self._name(j)!r}{where}: {error}") from None
        return read

    def _read_codes(self, j, column):
        codes, cells = {level: code for code, level in enumerate(self.levels[j])}, column.cells()
        if any(isinstance(level, str) for level in codes):
            cells = _as_text(cells)
        codes[None] = np.nan
        return [codes.get(cell, -1) for cell in cells]

    def _read_numbers(self, j, column):
        unit, kind = self.units.get(j), column.kind()
        if kind == "nothing":
            return np.nan
        if unit is None:
            if kind in UNITS:
                raise ValueError(f"holds {_WORDS[kind]} where fit saw numbers")
            return column.numbers()
        if kind == unit:
            return column.days()
        if kind in ("text", "category"):
            return [
                np.nan if cell is None else _read_cell(row, cell, unit)
                for row, cell in enumerate(column.cells())
            ]
        raise ValueError(
            f"holds {_WORDS.get(kind, 'something else')} where fit saw {_WORDS[unit]}"
        )

    def _name(self, j):
        return self._names[j] if self._names else f"x{j}"

    def _refuse(self, j, column):
        cell = next(
            cell
            for cell in column.cells()
            if not (cell is None or isinstance(cell, (str, int)) or _is_finite(cell))
        )
        return (
            f"column {self._name(j)!r} holds {cell!s} of type {type(cell).__name__}, which is "
            "neither a number nor a date and cannot be saved as a level; convert the column to "
            "text with astype(str), or to numbers or dates"
        )


def _is_plain(X):
    """Return whether X is a numeric array or has no columns."""
    if any(hasattr(X, name) for name in ("iloc", "get_columns", "column_names", "tocsr")):
        return hasattr(X, "tocsr")  # sparse, which scikit-learn rejects
    X = np.asarray(X)
    return X.ndim != 2 or X.dtype.kind in "biufc"


def _is_list(categorical):
    return not (categorical is None or isinstance(categorical, str))


def _as_text(cells):
    """Format numbers as text, for a column that also contains text."""
    return [str(cell) if isinstance(cell, (int, float)) else cell for cell in cells]


def _is_finite(level):
    return isinstance(level, float) and np.isfinite(level)


def _is_iso(text, unit):
    try:
        read_iso(text, unit)
    except ValueError:
        return False
    return True


def _read_cell(row, cell, unit):
    try:
        return read_iso(str(cell), unit)
    except ValueError as error:
        raise ValueError(f"{cell!r} in row {row} {error}") from None


def _count(weight, n_rows):
    """Return the multiplicity of each row: integer weights, else 1 for a positive weight."""
    try:
        weight = np.ones(n_rows) if weight is None else np.asarray(weight, dtype=float)
    except (TypeError, ValueError):  # rejected on validation
        weight = np.empty(0)
    if weight.shape != (n_rows,) or not np.isfinite(weight).all():
        return np.ones(n_rows)
    return weight if (weight == np.rint(weight)).all() else (weight > 0).astype(float)


def _describe(levels):
    """Describe what the values of a text column with too many levels look like."""
    few = [str(level) for level in levels[:: 1 + len(levels) // 1000]]
    for look, is_one in (
        ("dates as text", lambda text: _DATE.fullmatch(text)),
        ("numbers as text", _is_number),
        ("free text", lambda text: len(text.split()) > 2),
    ):
        if sum(bool(is_one(text)) for text in few) > 0.9 * len(few):
            return look
    return "identifiers"


def _is_number(text):
    try:
        float(text)
    except ValueError:
        return False
    return True


def _list(names):
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return ", ".join(map(repr, names[:10])) + more
