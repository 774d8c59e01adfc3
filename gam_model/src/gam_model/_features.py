"""The columns of a table as numbers: categories become codes, missing cells NaN."""

import numpy as np


class Features:
    """
    What `fit` learns of the columns of X, and how any later X is read.

    Parameters
    ----------
    categorical : "from_dtype", None or array-like
        Which columns are categorical: those of a frame whose type says so, none, or a list of
        names or positions, or a mask.

    Attributes
    ----------
    levels : dict of int to list
        Levels of each categorical column, as they stand in the table: those that pandas or polars
        declares in their order, others sorted.
    """

    def __init__(self, categorical="from_dtype"):
        self.categorical = categorical
        self.levels = {}

    def learn(self, X):
        """
        Take in the levels of one table, or of one more chunk of it.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            A pandas or polars frame, or anything that NumPy reads.

        Raises
        ------
        ValueError
            If `categorical` names a column that isn't there.
        """
        columns = _columns(X)
        for j in self._find(X, columns):
            seen = {_plain(value) for value in _values(columns[j])} - {None}
            declared = [level for level in _declared(columns[j]) if level in seen]
            known = self.levels.get(j, declared)
            new = seen.difference(known)
            if new:
                known = sorted(new.union(known), key=lambda level: (isinstance(level, str), level))
            self.levels[j] = known

    def read(self, X):
        """
        Replace the categorical columns by their codes.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            As in `learn`.

        Returns
        -------
        X : array-like
            As it is, if no column is categorical; else float64 of shape (n_samples, n_features),
            with code k for the k-th level, -1 for a level not learned, and NaN for a missing cell.
        """
        if not self.levels:
            return X
        columns = _columns(X)
        if len(columns) <= max(self.levels):
            return X  # which the caller refuses
        read = np.empty((len(columns[0]), len(columns)))
        for j, column in enumerate(columns):
            if j in self.levels:
                codes = {level: code for code, level in enumerate(self.levels[j])}
                codes[None] = np.nan
                read[:, j] = [codes.get(_plain(value), -1) for value in _values(column)]
            else:
                read[:, j] = column
        return read

    def _find(self, X, columns):
        if self.categorical is None:
            return []
        if isinstance(self.categorical, str):
            if self.categorical == "from_dtype":
                frame = hasattr(X, "columns")
                return [j for j, column in enumerate(columns) if frame and _is_category(column)]
            raise ValueError(
                'categorical_features must be "from_dtype", None or a list of columns, '
                f"got categorical_features={self.categorical!r}"
            )
        wanted = list(self.categorical)
        if wanted and all(isinstance(column, (bool, np.bool_)) for column in wanted):
            if len(wanted) != len(columns):
                raise ValueError(
                    f"categorical_features is a mask of {len(wanted)} columns, "
                    f"X has {len(columns)}"
                )
            return np.flatnonzero(wanted).tolist()
        names = [str(name) for name in getattr(X, "columns", [])]
        found = []
        for column in wanted:
            if isinstance(column, str) and column in names:
                found.append(names.index(column))
            elif isinstance(column, (int, np.integer)) and 0 <= column < len(columns):
                found.append(int(column))
            else:
                raise ValueError(
                    f"categorical_features names {column!r}, which is no column of X; there are "
                    + (", ".join(map(repr, names)) or f"{len(columns)}, without names")
                )
        return found


def list_values(X, j):
    """
    Return one column of a table as it is.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        A pandas or polars frame, or anything that NumPy reads.
    j : int
        Position of the column.

    Returns
    -------
    list
        Its cells.
    """
    return _values(_columns(X)[j])


def _columns(X):
    if hasattr(X, "iloc"):  # pandas
        return [X.iloc[:, j] for j in range(X.shape[1])]
    if hasattr(X, "get_columns"):  # polars
        return X.get_columns()
    X = np.asarray(X)
    return list(X.T) if X.ndim == 2 else []


def _values(column):
    return column.to_list() if hasattr(column, "to_list") else column.tolist()


def _is_category(column):
    kind = getattr(column.dtype, "kind", None)
    if kind is None:  # polars
        return str(column.dtype).startswith(("String", "Categorical", "Enum"))
    if kind == "O" and str(column.dtype) == "object":
        return any(isinstance(value, str) for value in _values(column))
    return kind in "OU"


def _declared(column):
    if str(column.dtype).startswith(("category", "Enum")):
        return column.dtype.categories.to_list()
    return []


def _plain(value):
    # A float that is an integer is that integer: a column of codes with holes reads as floats.
    if isinstance(value, str):
        return value
    if value is None or type(value).__name__ == "NAType" or value != value:
        return None
    return int(value) if isinstance(value, float) and value.is_integer() else value
