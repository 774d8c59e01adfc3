"""Comma-separated lines to tables, all at once or block by block.

A column whose cells are numbers or empty is one of numbers, any other one of text. The first
line is a header if none of its cells is a number and a name in it stands above numbers; above
text alone it may be either, and the table is ambiguous until `Table.select` knows the names.
"""

import csv
import io
import itertools
from collections.abc import Collection, Iterator, Sequence

import numpy as np

from table import PayloadError, Table, is_missing, read_number, shorten


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
    return _read_first_block(lines, None, header, ())


def read_blocks(file: Iterator[str], rows: int, text: Collection[int] = ()) -> Iterator[Table]:
    """Read lines of comma-separated cells, some at a time; a first line of text is a header.

    Parameters
    ----------
    file : iterator of str
        Its lines.
    rows : int
        Most rows of a table.
    text : collection of int
        Columns that are text, whatever is in them.

    Yields
    ------
    Table
    """
    lines = _Lines(file)
    first = _read_first_block(lines, rows, None, text).headed()
    yield first
    width = first.values.shape[1]
    while block := lines.take(rows):
        if not _is_blank(block):
            yield _read_rows(block, lines, width, text, first.names)


class _Lines:
    """Lines, and the number of the last one read."""

    def __init__(self, lines: Iterator[str]):
        self._lines = lines
        self.number = 0

    def __iter__(self) -> Iterator[str]:
        for line in self._lines:
            self.number += 1
            yield line

    def take(self, n: int | None) -> list[str]:
        return list(itertools.islice(self, n))


def _read_first_block(
    lines: _Lines, rows: int | None, header: bool | None, text: Collection[int]
) -> Table:
    first = next((line for line in lines if line.strip()), None)
    if first is None:
        raise PayloadError("there are no lines")
    cells = _split(first)
    if header is None and any(read_number(cell) is not None for cell in cells):
        header = False
    if header is False:
        block = [first, *lines.take(rows and rows - 1)]
        return _read_rows(block, lines, len(cells), text, None)
    body = lines.take(rows)
    while rows and _is_blank(body) and (more := lines.take(rows)):
        body += more
    block = [first, *body]
    if not text and not _is_blank(body):
        values = _read_numbers(body)
        if values is not None and values.shape[1] != len(cells):
            raise PayloadError(f"the header has {len(cells)} cells, the rows {values.shape[1]}")
        if values is not None:
            return Table(values, tuple(cells))
    return _read_below_text(block, lines, header, text)


def _is_blank(lines: list[str]) -> bool:
    return not any(line.strip() for line in lines)


def _read_below_text(
    block: list[str], lines: _Lines, header: bool | None, text: Collection[int]
) -> Table:
    rows, numbers = _read_records(block, lines)
    first = [cell.strip() for cell in rows[0]]
    below = _read_columns(rows[1:], text)
    if header is None:
        if any(name and _has_number(column) for name, column in zip(first, below, strict=False)):
            header = True
        elif len(set(first)) < len(first):
            header = False
    if header and not below:
        raise PayloadError(f"there are no rows below the header {shorten(','.join(first))}")
    if header:
        return Table.of_columns(below, tuple(first), lines=numbers[1:])
    columns = _read_columns(rows, text)
    return Table.of_columns(columns, lines=numbers, ambiguous=header is None)


def _read_rows(
    block: list[str],
    lines: _Lines,
    width: int,
    text: Collection[int],
    names: tuple[str, ...] | None,
) -> Table:
    if not text:
        values = _read_numbers(block)
        if values is not None and values.shape[1] == width:
            return Table(values, names)
    rows, numbers = _read_records(block, lines, width)
    return Table.of_columns(_read_columns(rows, text), names, lines=numbers)


def _read_numbers(lines: list[str]) -> np.ndarray | None:
    try:
        return np.loadtxt(lines, delimiter=",", comments=None, quotechar='"', ndmin=2)
    except ValueError:  # text, an empty cell, or something wrong that deserves its place named
        return None


def _read_records(
    block: list[str], lines: _Lines, width: int | None = None
) -> tuple[list[list[str]], list[int]]:
    rows, numbers = [], []
    before = lines.number - len(block)
    # Beyond the block it reads only to the end of a quoted cell that spans several lines.
    reader = csv.reader(itertools.chain(block, lines), skipinitialspace=True)
    try:
        while (done := reader.line_num) < len(block):
            cells = next(reader)
            if not any(cells) and not block[done].strip():
                continue
            rows.append(cells)
            numbers.append(before + done + 1)
            width = width or len(cells)
            if len(cells) != width:
                raise PayloadError(
                    f"line {numbers[-1]} has {len(cells)} cells where {width} are expected"
                )
    except csv.Error as error:
        raise PayloadError(f"not comma-separated values: {error}") from None
    return rows, numbers


def _read_columns(rows: list[list[str]], text: Collection[int]) -> list[list]:
    return [
        _read_text(cells) if j in text else _read_column(cells)
        for j, cells in enumerate(zip(*rows, strict=True))
    ]


def _read_column(cells: Sequence[str]) -> list[float] | list[str | None]:
    if "_" not in "".join(cells):  # as in read_number, but in one go
        for spelled in (cells, ("nan" if is_missing(cell) else cell for cell in cells)):
            try:
                return list(map(float, spelled))
            except ValueError:  # a missing cell at first, text the second time
                continue
    return _read_text(cells)


def _read_text(cells: Sequence[str]) -> list[str | None]:
    return [cell.strip() or None for cell in cells]


def _has_number(column: list[float] | list[str | None]) -> bool:
    return isinstance(column[0], float) and any(number == number for number in column)


def _split(line: str) -> list[str]:
    try:
        return [cell.strip() for cell in next(csv.reader([line.strip()], skipinitialspace=True))]
    except csv.Error as error:
        raise PayloadError(f"not comma-separated values: {error}") from None
