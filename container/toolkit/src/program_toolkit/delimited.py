"""Delimited lines to tables, all at once or block by block.

A column whose cells are numbers or empty is one of numbers, any other one of text. Requests are
separated by commas; whether their first line is a header, `Table.select` finds out, which knows
the model's names. Files of a training job may use other delimiters, and their names are not known:
both are found from their first lines, and what was done in doubt is said by a warning.
"""

import contextlib
import csv
import functools
import io
import itertools
import re
import warnings
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np

from program_toolkit.table import FirstLine, PayloadError, Table, is_missing, read_number, shorten

DELIMITERS = ",;\t|"  # in the order of preference
_SAMPLE = 1000  # lines that tell what a file is like


def parse_csv(text: str, header: bool | None = None) -> Table:
    """Read lines of comma-separated cells.

    Parameters
    ----------
    text : str
    header : bool, optional
        Whether the first line is one, if the sender says so.

    Returns
    -------
    Table
    """
    lines = _Lines(io.StringIO(text.removeprefix("\ufeff"), newline=None))
    first = lines.take_first()
    cells = _split(first, lines.delimiter)
    if header is not None:
        return _read_first_block(first, cells, lines, None, header, ())
    # A guess, which saves reading the lines again if it is right.
    header = len(set(cells)) == len(cells) and not any(
        read_number(cell) is not None or is_missing(cell) for cell in cells
    )
    header = header and any(line.strip() for line in lines.peek(_SAMPLE))
    either = FirstLine(tuple(cells), functools.partial(parse_csv, text))
    return _read_first_block(first, cells, lines, None, header, (), first=either)


def read_blocks(
    file: Iterator[str],
    rows: int,
    text: Collection[int] = (),
    header: bool | None = None,
    delimiter: str | None = None,
) -> Iterator[Table]:
    """Read the lines of a file, some at a time.

    Parameters
    ----------
    file : iterator of str
        Its lines.
    rows : int
        Most rows of a table.
    text : collection of int
        Columns that are text, whatever is in them.
    header : bool, optional
        Whether the first line is one; by default it's found out, with a warning if in doubt.
    delimiter : str, optional
        One of `DELIMITERS`; by default it's found out. Beside semicolons, numbers may have decimal
        commas.

    Yields
    ------
    Table
    """
    lines = _Lines(file)
    first = lines.take_first()
    sample = [first, *lines.peek(_SAMPLE)]
    lines.delimiter = delimiter or _find_delimiter(sample)
    if header is None:
        header = _find_header(_read_sample(sample, lines.delimiter), lines.delimiter)
    cells, kept = _split(first, lines.delimiter), None
    if header:
        kept = find_named(cells, _find_empty(sample[1:], lines.delimiter))
        text = {kept[j] for j in text}
    table = _read_first_block(first, cells, lines, rows, header, text)
    yield _keep(table, kept)
    width = table.values.shape[1]
    while block := lines.take(rows):
        if not lines.is_blank(block):
            yield _keep(_read_rows(block, lines, width, text, table.names), kept)


class _Lines:
    """Lines, the number of the last one read, and what separates their cells."""

    def __init__(self, lines: Iterator[str], delimiter: str = ","):
        self._lines = iter(lines)
        self.number = 0
        self.delimiter = delimiter

    def __iter__(self) -> Iterator[str]:
        for line in self._lines:
            self.number += 1
            yield line

    def take(self, n: int | None) -> list[str]:
        return list(itertools.islice(self, n))

    def take_first(self) -> str:
        for line in self:
            if line.strip():
                return line
        raise PayloadError("there are no lines")

    def peek(self, n: int) -> list[str]:
        sample = list(itertools.islice(self._lines, n))
        self._lines = itertools.chain(sample, self._lines)
        return sample

    def is_blank(self, lines: list[str]) -> bool:
        spaces = " \r\n" if self.delimiter == "\t" else None
        return not any(line.strip(spaces) for line in lines)


def _read_first_block(
    line: str,
    cells: list[str],
    lines: _Lines,
    rows: int | None,
    header: bool,
    text: Collection[int],
    **more: Any,
) -> Table:
    if not header:
        block = [line, *lines.take(rows and rows - 1)]
        if len(block) == 1 and not text and not set(line) & {"_", '"'}:  # a row has no time
            with contextlib.suppress(ValueError):
                return Table(np.array([list(map(float, cells))]), **more)
        return _read_rows(block, lines, len(cells), text, None, **more)
    body = lines.take(rows)
    while rows and lines.is_blank(body) and (further := lines.take(rows)):
        body += further
    if lines.is_blank(body):
        raise PayloadError(f"there are no rows below the header {shorten(','.join(cells))}")
    if not text:
        values = _read_numbers(body, lines.delimiter)
        if values is not None and values.shape[1] != len(cells):
            raise PayloadError(f"the header has {len(cells)} cells, the rows {values.shape[1]}")
        if values is not None:
            return Table(values, tuple(cells), **more)
    # Together, as a name may be quoted and span lines.
    read, numbers = _read_records([line, *body], lines)
    if not read[1:]:
        raise PayloadError(f"there are no rows below the header {shorten(','.join(read[0]))}")
    names = tuple(cell.strip() for cell in read[0])
    columns = _read_columns(read[1:], text, lines.delimiter)
    return Table.of_columns(columns, names, lines=numbers[1:], **more)


def _read_rows(
    block: list[str],
    lines: _Lines,
    width: int,
    text: Collection[int],
    names: tuple[str, ...] | None,
    **more: Any,
) -> Table:
    if not text:
        values = _read_numbers(block, lines.delimiter)
        if values is not None and values.shape[1] == width:
            return Table(values, names, **more)
    rows, numbers = _read_records(block, lines, width)
    columns = _read_columns(rows, text, lines.delimiter)
    return Table.of_columns(columns, names, lines=numbers, **more)


def _read_numbers(lines: list[str], delimiter: str) -> np.ndarray | None:
    if sum(line.count('"') for line in lines) % 2:  # NumPy would close a quote itself
        return None
    try:
        return np.loadtxt(lines, delimiter=delimiter, comments=None, quotechar='"', ndmin=2)
    except ValueError:  # text, an empty cell, or something wrong that deserves its place named
        return None


_END = "\ufdd0"  # in no text: it shows where the csv module closes a quote itself


def _read_records(
    block: list[str], lines: _Lines, width: int | None = None
) -> tuple[list[list[str]], list[int]]:
    rows, numbers = [], []
    before = lines.number - len(block)
    # Beyond the block it reads only to the end of a quoted cell that spans several lines.
    reader = _split_all(itertools.chain(block, lines, [_END]), lines.delimiter)
    try:
        while (done := reader.line_num) < len(block):
            cells = next(reader)
            if not any(cells) and lines.is_blank([block[done]]):
                continue
            rows.append(cells)
            numbers.append(before + done + 1)
            if cells and cells[-1].endswith(_END):
                raise PayloadError(f"a quote that line {numbers[-1]} opens is not closed")
            width = width or len(cells)
            if len(cells) != width:
                raise PayloadError(
                    f"line {numbers[-1]} has {len(cells)} cells where {width} are expected"
                )
    except csv.Error as error:
        raise PayloadError(f"not comma-separated values: {error}") from None
    return rows, numbers


def _split_all(lines: Iterator[str], delimiter: str) -> Any:
    # A csv.reader, whose type has no name.
    return csv.reader(lines, delimiter=delimiter, skipinitialspace=True)


def _split(line: str, delimiter: str) -> list[str]:
    try:
        cells = next(_split_all(iter([line.strip(" \r\n\ufeff")]), delimiter))
    except csv.Error as error:
        raise PayloadError(f"not comma-separated values: {error}") from None
    return [cell.strip() for cell in cells]


def _read_columns(rows: list[list[str]], text: Collection[int], delimiter: str) -> list[list]:
    return [
        _read_text(cells) if j in text else _read_column(cells, delimiter)
        for j, cells in enumerate(zip(*rows, strict=True))
    ]


def _read_column(cells: Sequence[str], delimiter: str) -> list[float] | list[str | None]:
    if "_" not in "".join(cells):  # as in read_number, but in one go
        spellings = [cells, ["nan" if is_missing(cell) else cell for cell in cells]]
        if delimiter == ";":
            spellings.append([cell.replace(",", ".") for cell in spellings[1]])
        for spelled in spellings:
            try:
                return list(map(float, spelled))
            except ValueError:  # a missing cell at first, then a decimal comma, text in the end
                continue
    return _read_text(cells)


def _read_text(cells: Sequence[str]) -> list[str | None]:
    return [cell.strip() or None for cell in cells]


# ---------------------------------------------------------------- columns without a name


def find_named(names: Sequence[str], empty: Collection[int] = ()) -> list[int]:
    """Return the columns with data: neither empty nor an index that pandas wrote.

    Parameters
    ----------
    names : sequence of str
    empty : collection of int
        Columns without a value.

    Raises
    ------
    PayloadError
        If another column has no name.
    """
    kept = []
    for j, name in enumerate(names):
        if j == 0 and re.fullmatch(r"|Unnamed: \d+|__index_level_\d+__", name):
            reason = f"is called {name!r}" if name else "has no name"
            _warn(
                f"column 1 {reason}: it was taken for an index that pandas has written, and left "
                "out; give it a name to keep it"
            )
        elif name == "" and j in empty:
            _warn(f"column {j + 1} has neither a name nor a value, and was left out")
        elif name == "":
            raise PayloadError(f"column {j + 1} has no name; name it, or drop it")
        else:
            kept.append(j)
    return kept


def _find_empty(lines: list[str], delimiter: str) -> set[int]:
    columns = zip(*_read_sample(lines, delimiter), strict=True)
    return {j for j, cells in enumerate(columns) if not any(cells)}


def _keep(table: Table, kept: list[int] | None) -> Table:
    if kept is None or len(kept) == table.values.shape[1]:
        return table
    for j in set(range(1, table.values.shape[1])).difference(kept):
        if any(cell == cell and cell is not None for cell in table.values[:, j]):
            raise PayloadError(f"column {j + 1} has no name; name it, or drop it")
    names = tuple((table.names or ())[j] for j in kept)
    text = table.text()
    cells = {j: table.values[:, j] for j in kept}
    columns = [list(x) if text[j] else x.astype(float) for j, x in cells.items()]
    return Table.of_columns(columns, names, lines=table.lines)


def _warn(message: str) -> None:
    warnings.warn(message, UserWarning, stacklevel=2)


# ---------------------------------------------------------------- what a file is like


def _read_sample(lines: list[str], delimiter: str) -> list[list[str]]:
    """Return the cells of those lines that can be read and are not blank."""
    rows: list[list[str]] = []
    try:  # reading the file will name what is wrong
        for cells in _split_all(iter(lines), delimiter):
            if any(cells) or not rows:
                rows.append([cell.strip() for cell in cells])
    except csv.Error:
        pass
    return [row for row in rows if len(row) == len(rows[0])]


def _find_delimiter(lines: list[str]) -> str:
    """Return the delimiter that gives each line equally many cells, and the most numbers."""
    best, most = ",", -1.0
    lines = [line for line in lines[:100] if line.strip()]
    for delimiter in DELIMITERS:
        if delimiter not in lines[0]:
            continue
        try:
            rows = list(_split_all(iter(lines), delimiter))
        except csv.Error:
            continue
        if len({len(row) for row in rows}) == 1 and len(rows[0]) > 1:
            numbers = [_reads_as_number(cell, delimiter) for row in rows for cell in row]
            share = sum(numbers) / len(numbers)
            if share > most:
                best, most = delimiter, share
    return best


def _reads_as_number(cell: str, delimiter: str) -> bool:
    cell = cell.strip()
    if delimiter == ";":
        cell = cell.replace(",", ".")
    return read_number(cell) is not None


def _find_header(rows: list[list[str]], delimiter: str) -> bool:
    """Return whether the first of some rows is a header; warn if it may be otherwise."""
    first, below = rows[0], rows[1:]
    distinct = len(set(first)) == len(first)

    def decide(header: bool, reason: str) -> bool:
        taken, other = ("the header", "absent") if header else ("a row", "present")
        _warn(
            f"the first line, {shorten(delimiter.join(first))}, was taken for {taken}: {reason}; "
            f"header={other} prevents it"
        )
        return header

    counted = first[1:] if first[0] == "" else first
    if len(counted) > 1 and counted == [str(k) for k in range(len(counted))]:
        # As pandas writes columns without names. Two whole numbers may as well be data.
        index = first[0] == "" and [row[0] for row in below[:2]] == ["0", "1"][: len(below)]
        fractions = any(not cell.isdigit() for row in below[:1] for cell in row)
        return decide(len(counted) > 2 or index or fractions, "it only counts the columns")

    columns = list(zip(*below, strict=True)) or [()] * len(first)
    words = [re.search(r"\w", cell) and not _reads_as_number(cell, delimiter) for cell in first]
    above = any(
        word and not is_missing(cell) and _is_of_numbers(column, delimiter)
        for cell, word, column in zip(first, words, columns, strict=True)
    )
    numbers = [cell for cell in first if _reads_as_number(cell, delimiter)]
    again = [
        cell for cell, word, column in zip(first, words, columns, strict=True)
        if word and cell in column
    ]  # fmt: skip
    if numbers:
        if above and distinct and all(cell.isdigit() for cell in numbers):
            return decide(True, "a name stands above numbers")
        return False
    if any(cell and is_missing(cell) for cell in first):
        return False
    if above and again:
        return decide(True, f"a name stands above numbers, though {again[0]!r} stands below again")
    if again:
        return decide(False, f"{again[0]!r} stands below again")
    return above or distinct


def _is_of_numbers(column: Sequence[str], delimiter: str) -> bool:
    filled = [cell for cell in column if not is_missing(cell)]
    return bool(filled) and all(_reads_as_number(cell, delimiter) for cell in filled)
