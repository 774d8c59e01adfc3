"""Tables: rows and columns as they were sent, and their columns as a model's numbers.

A `Table` doesn't know the model. `Table.select` puts its columns in the model's order, and
`Table.matrix` makes numbers of them: categories become codes, and what cannot be a number is
named. What a client got wrong is a `PayloadError`, whose `status` the server sends as it is.
"""

import functools
import reprlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np


class PayloadError(ValueError):
    """A request or a file that cannot be used, and why.

    Parameters
    ----------
    message : str
        What is wrong, where, and what is expected; shown to the client.
    status : int
        HTTP status of the answer: 400, 406 or 415.
    """

    def __init__(self, message: str, status: int = 400):
        super().__init__(message)
        self.status = status


class FirstLine(NamedTuple):
    """A first line that may be column names or a row; the model's column names decide.

    Parameters
    ----------
    cells : tuple of str
        The line's cells.
    read : callable
        Reads all lines, with the first one as the header if it is given True, else as a row.
    """

    cells: tuple[str, ...]
    read: Callable[[bool], "Table"]

    def is_header(self, features: tuple[str, ...]) -> bool:
        """Return whether most of the features are named in it, in whatever case.

        Raises
        ------
        PayloadError
            If it may be either: all features are named by numbers, and these are the numbers.
        """
        words = _words(features)
        if words:
            return 2 * len(words.intersection(map(str.casefold, self.cells))) > len(words)
        if set(self.cells) == set(features):
            raise PayloadError(
                f"the first line, {shorten(','.join(self.cells))}, may hold the model's column "
                "names or a row; send text/csv; header=present or text/csv; header=absent"
            )
        return False


@dataclass(frozen=True)
class Table:
    """Cells with or without column names.

    Parameters
    ----------
    values : ndarray of float64 or object, shape (n, k) or (k,)
        One row a sample. Float64, with NaN where a cell is empty; or, where any column holds
        text, objects: floats in the columns of numbers, str and None in those of text.
        One-dimensional only where the sender left open whether it is a row or a column.
    names : tuple of str or None
        The k column names, if the sender gave any.
    parameters : mapping of str to object
        What the sender asks for beside the rows.
    lines : sequence of int or None
        Line on which each row begins, for rows that came as lines of text.
    first : FirstLine or None
        A first line of which the sender did not say whether it is a header. `names` tell what it
        was taken for; `select` and `matrix`, which know the model's names, settle it.
    ignore_extra : bool
        Whether columns that the model doesn't know are left out, instead of refused.
    by_line : bool
        Whether the rows came one a line where one JSON value is usual, and are to be answered so.

    Raises
    ------
    PayloadError
        If two columns have the same name.
    """

    values: np.ndarray
    names: tuple[str, ...] | None = None
    parameters: Mapping[str, object] = field(default_factory=dict)
    lines: Sequence[int] | None = None
    first: FirstLine | None = None
    ignore_extra: bool = False
    by_line: bool = False

    def __post_init__(self):
        """Refuse a name that two columns have."""
        if self.names is not None and len(set(self.names)) < len(self.names):
            seen: set[str] = set()
            twice = next(name for name in self.names if name in seen or seen.add(name))
            raise PayloadError(f"two columns are named {shorten(twice)}")

    @classmethod
    def of_columns(
        cls, columns: Sequence[Sequence | np.ndarray], names: tuple[str, ...] | None = None, **more
    ) -> "Table":
        """Put columns side by side.

        Parameters
        ----------
        columns : sequence of (ndarray of float64, shape (n,)), or of (sequence of str and None)
            At least one.
        names, **more
            As in `Table`.
        """
        if any(_is_text(column) for column in columns):
            values = np.empty((len(columns[0]), len(columns)), dtype=object)
            for j, column in enumerate(columns):
                values[:, j] = column
        else:
            values = np.column_stack([np.asarray(column, dtype=np.float64) for column in columns])
        return cls(values, names, **more)

    def text(self) -> list[bool]:
        """Return for each column whether it holds text, or nothing where text was expected."""
        if not self.values.dtype.hasobject:
            return [False] * self.values.shape[1]
        return [_is_text(column) for column in self.values.T]

    def place(self, row: int, column: int) -> str:
        """Return where a cell is, in words."""
        if self.lines is not None:
            name = repr(self.names[column]) if self.names else str(column + 1)
            return f"line {self.lines[row]}, column {name}"
        return f"row {row}, " + (repr(self.names[column]) if self.names else f"column {column}")

    def settle(self, header: bool) -> "Table":
        """Return the table with its first line read as a header or as a row.

        Raises
        ------
        PayloadError
            If the lines cannot be read so.
        """
        if self.first is None or header == (self.names is not None):
            return self
        table = self.first.read(header)
        return replace(table, first=self.first, ignore_extra=self.ignore_extra)

    def select(self, features: Sequence[str]) -> "Table":
        """Return the columns in the model's order, under the model's names.

        A first line of which the sender did not say what it is, is a header if it names most of
        the features, else a row.

        Parameters
        ----------
        features : sequence of str
            The p feature names of the model.

        Returns
        -------
        Table
            At least one row; ``values`` has shape (n, p).

        Raises
        ------
        PayloadError
            If a column is missing or unknown, the number of columns is wrong, or there is no row.
        """
        return self._arrange(features)[1]()

    def _arrange(self, features: Sequence[str]) -> tuple[np.ndarray, Callable[[], "Table"]]:
        """Return the values that `select` returns, and what makes its table of them."""
        if self.first is not None:
            header = self.ignore_extra or self.first.is_header(tuple(features))
            settled = self.settle(header)
            if settled is not self:
                return settled._arrange(features)
        values, p = self.values, len(features)
        if values.ndim == 1:
            values = _as_column(values) if p == 1 else values.reshape(1, -1)
        if self.names is not None:
            values = values[:, _positions(self.names, features, self.ignore_extra)]
        if values.shape[1] != p:
            raise PayloadError(
                f"got {values.shape[1]} columns where the model has {p}: {', '.join(features)}"
                + self._name_delimiter(p)
            )
        if len(values) == 0:
            raise PayloadError("got no rows; send at least one")

        def label() -> Table:
            first = self.first if self.names is None else None  # which is a row, then
            return replace(self, values=values, names=tuple(features), first=first)

        return values, label

    def _name_delimiter(self, p: int) -> str:
        line = ",".join(self.first.cells) if self.first else ""
        for delimiter, name in _DELIMITERS.items():
            if line.count(delimiter) == p - 1 > 0:
                return f"; the cells seem to be separated by {name}, send commas"
        return ""

    def matrix(
        self,
        features: Sequence[str],
        levels: Mapping[str, Sequence[str | float]] | None = None,
        missing: Collection[str] | bool = (),
        unknown: str = "refuse",
        dates: Mapping[str, Callable[[str], float]] | None = None,
        unused: Collection[str] = (),
    ) -> np.ndarray:
        """Return the columns in the model's order, as numbers.

        Parameters
        ----------
        features : sequence of str
            The p feature names of the model.
        levels : mapping of str to sequence of (str or number), optional
            The categories of those features that have some. A cell becomes the code of the level
            that it equals, as text or else as a number: 0 for the first level, and so on.
        missing : collection of str, or bool
            The features that may be missing, NaN in the result; True for all of them.
        unknown : {"refuse", "keep"}
            What to do about a category that is not a level: raise, or give it the code -1.
        dates : mapping of str to callable, optional
            The features that are dates or durations, each with what makes a number of a cell's
            text, or raises ValueError with what is wrong: "is not a date".
        unused : collection of str
            The features of which nothing is read, 0 in the result.

        Returns
        -------
        ndarray of float64, shape (n, p)

        Raises
        ------
        PayloadError
            If the columns or the number of rows do not fit the model, or a cell is text where a
            number is needed, infinite, no known category, no date where one is needed, or missing
            where it may not be.
        """
        values, label = self._arrange(features)
        if levels or dates or unused or values.dtype.hasobject:
            chosen = label()
            numbers = np.zeros(values.shape)
            for j, name in enumerate(features):
                if name in unused:
                    continue
                if levels and name in levels:
                    numbers[:, j] = chosen._codes(j, tuple(levels[name]), unknown)
                elif dates and name in dates:
                    numbers[:, j] = chosen._dates(j, dates[name])
                else:
                    numbers[:, j] = chosen._numbers(j)
            values = numbers
        good = np.isfinite(values)
        if good.all():
            return values
        missing = features if missing is True else missing or ()
        for j, name in enumerate(features):
            if name in missing:
                good[:, j] |= np.isnan(values[:, j])
        for row, column in np.argwhere(~good)[:1]:
            name = features[column]
            cell = "missing" if np.isnan(values[row, column]) else "infinite"
            wanted = "one of its categories" if levels and name in levels else "a finite number"
            wanted = "text in ISO 8601" if dates and name in dates else wanted
            raise PayloadError(f"row {row}, {name!r} is {cell}; send {wanted}")
        return values

    def _numbers(self, column: int) -> np.ndarray:
        cells = self.values[:, column]
        if not any(isinstance(cell, str) for cell in cells):
            return cells.astype(np.float64)  # None becomes NaN
        numbers = np.empty(len(cells))
        for row, cell in enumerate(cells.tolist()):
            number = np.nan if cell is None else cell
            if isinstance(cell, str):
                number = np.nan if is_missing(cell) else _truth_or_number(cell)
            if number is None:
                raise PayloadError(
                    f"{self.place(row, column)}: {shorten(cell)} is not a number"
                    + self._name_header(row)
                )
            numbers[row] = number
        return numbers

    def _name_header(self, row: int) -> str:
        if row or self.first is None:
            return ""
        return f"; if the first line is a header, it does not name {', '.join(self.names)}"

    def _dates(self, column: int, read: Callable[[str], float]) -> list[float]:
        days = []
        for row, cell in enumerate(self.values[:, column].tolist()):
            if cell is None or cell != cell or (isinstance(cell, str) and is_missing(cell)):
                days.append(np.nan)
                continue
            try:
                days.append(read(cell if isinstance(cell, str) else format(cell, ".15g")))
            except ValueError as error:
                shown = shorten(cell) if isinstance(cell, str) else format(cell, "g")
                raise PayloadError(f"{self.place(row, column)}: {shown} {error}") from None
        return days

    def _codes(self, column: int, levels: tuple[str | float, ...], unknown: str) -> np.ndarray:
        code_of = _code_of(levels)
        cells = self.values[:, column].tolist()
        codes = np.array([code_of.get(cell) for cell in cells], dtype=np.float64)
        for row in np.flatnonzero(np.isnan(codes)):
            cell = cells[row]
            number = _truth_or_number(cell) if isinstance(cell, str) else cell
            if cell is None or number != number or (isinstance(cell, str) and is_missing(cell)):
                continue  # a word for a missing cell, where it is not a level
            code = code_of.get(number, -1)
            if code == -1 and unknown == "refuse":
                known = ", ".join(map(shorten, levels[:5]))
                more = f" and {len(levels) - 5} more" if len(levels) > 5 else ""
                raise PayloadError(
                    f"{self.place(row, column)}: "
                    f"{shorten(cell) if isinstance(cell, str) else format(cell, 'g')} "
                    f"is an unknown category; the model knows {known}{more}"
                )
            codes[row] = code
        return codes

    def frame(
        self,
        categories: Collection[str] = (),
        recognize: Callable[[list[str | None]], np.ndarray | None] | None = None,
    ):
        """Return the table as pandas sees it.

        Parameters
        ----------
        categories : collection of str
            Columns that are categories, whatever they hold.
        recognize : callable, optional
            Makes dates or durations of a column of text, None where a cell is missing; or returns
            None if they are neither.

        Returns
        -------
        pandas.DataFrame
            Columns of float64, of text, of categories and of dates; named x0, x1, ... where the
            table has no names.

        Raises
        ------
        PayloadError
            If one of `categories` is not there.
        """
        import pandas  # serving needs none

        names = self.names or tuple(f"x{j}" for j in range(self.values.shape[1]))
        for name in categories:
            if name not in names:
                raise PayloadError(
                    f"there is no column {shorten(name)} to be a category; there are "
                    + ", ".join(map(repr, names))
                )
        columns = {}
        for name, cells, text in zip(names, self.values.T, self.text(), strict=True):
            dates = None
            if text and recognize and name not in categories:
                there = [None if cell is None or is_missing(cell) else cell for cell in cells]
                dates = recognize(there)
            if dates is None:
                dates = pandas.Series(cells, dtype=object if text else np.float64)
            columns[name] = dates
        frame = pandas.DataFrame(columns)
        return frame.astype(dict.fromkeys(categories, "category"))


def shorten(value: object) -> str:
    """Return how a message shows a value: what it is, and no whole body."""
    text = reprlib.repr(value)  # which does not recurse deeply either
    return text if len(text) <= 40 else text[:37] + "..."


def read_number(cell: str) -> float | None:
    """Return the number that a cell spells, or None."""
    try:
        number = float(cell)
    except ValueError:
        return None
    return None if "_" in cell else number  # float("1_0") is 10 in Python, and nowhere else


_DELIMITERS = {";": "semicolons", "\t": "tabs", "|": "vertical bars"}


def is_missing(cell: str) -> bool:
    """Return whether a cell is empty, or spells that it is, as R, pandas and SQL write it."""
    return cell.strip().lower() in _MISSING


_MISSING = {"", "na", "n/a", "#n/a", "nan", "null", "none"}


def as_text(cell: float | str | None) -> str | None:
    """Return a cell as it stands in a column of text, where a sender mixed both."""
    if isinstance(cell, str):
        return cell
    if cell is None or cell != cell:
        return None
    return str(cell).lower().removesuffix(".0")  # true, as JSON has it


def _is_text(column: Sequence | np.ndarray) -> bool:
    # A column of numbers has NaN where a cell is missing, a column of text None.
    return len(column) > 0 and (column[0] is None or isinstance(column[0], str))


@functools.lru_cache(maxsize=64)
def _words(features: tuple[str, ...]) -> frozenset[str]:
    """Return the names that are not numbers, in lower case."""
    return frozenset(name.casefold() for name in features if read_number(name) is None)


def _as_column(values: np.ndarray) -> np.ndarray:
    if values.dtype.hasobject and any(isinstance(cell, str) for cell in values):
        values = np.array([as_text(cell) for cell in values], dtype=object)
    return values.reshape(-1, 1)


def _positions(names: Sequence[str], features: Sequence[str], ignore_extra: bool) -> list[int]:
    at = {name: position for position, name in enumerate(names)}
    missing = [name for name in features if name not in at]
    extra = [] if ignore_extra else [name for name in names if name not in features]
    if missing or extra:
        complaints = [
            f"{what} {', '.join(map(repr, columns))}"
            for what, columns in (("missing", missing), ("unknown", extra))
            if columns
        ]
        raise PayloadError(
            f"columns do not match the model: {'; '.join(complaints)}; "
            f"the model has {', '.join(map(repr, features))}"
            + ("" if missing else "; ignore_extra=true in Content-Type leaves unknown ones out")
        )
    return [at[name] for name in features]


@functools.lru_cache(maxsize=1024)  # a few hundred categorical features, asked again and again
def _code_of(levels: tuple[str | float, ...]) -> dict[str | float, int]:
    codes: dict[str | float, int] = {}
    for code, level in enumerate(levels):
        codes.setdefault(level if isinstance(level, str) else float(level), code)
    # A level is found by its number too; where two texts spell one, by the shorter ("1", "01").
    texts = [(level, code) for code, level in enumerate(levels) if isinstance(level, str)]
    for level, code in sorted(texts, key=lambda pair: len(pair[0])):
        number = _truth_or_number(level)
        if number is not None:
            codes.setdefault(number, code)
    return codes


def _truth_or_number(cell: str) -> float | None:
    # JSON's true is 1 in a column of numbers, and what pandas writes into a CSV file is "True".
    return {"true": 1.0, "false": 0.0}.get(cell.lower(), read_number(cell))


def describe_numbers(column: np.ndarray) -> dict[str, float | int | bool]:
    """Say what model.json tells of a column of numbers.

    Parameters
    ----------
    column : ndarray of float64, shape (n,)
        NaN where a value is missing; not everywhere.

    Returns
    -------
    dict
        min, median, max; missing, how many values are; whole, whether all others are whole.
    """
    there = column[~np.isnan(column)]
    return {
        "min": float(there.min()),
        "median": float(np.median(there)),
        "max": float(there.max()),
        "missing": len(column) - len(there),
        "whole": bool((there == np.rint(there)).all()),
    }
