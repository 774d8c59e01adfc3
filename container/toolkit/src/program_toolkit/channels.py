"""The files of a channel as one table: in memory, or in chunks, any number of times.

CSV, Parquet and npy are told apart by their ending, or where they have none, as Spark's part
files, by their first bytes. CSV may be compressed. Files lie below one another in the order of
their names; a column that is text in any of them is text in all.
"""

import bz2
import datetime
import gzip
import lzma
import time
import zlib
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from program_toolkit.delimited import find_named, read_blocks
from program_toolkit.payload import read_npy_header
from program_toolkit.table import PayloadError, Table, as_text, read_number, shorten

ROWS = 100_000  # of a chunk: 8 MB with ten columns of numbers


class JobError(Exception):
    """A problem that the job's owner can fix; its message becomes the FailureReason."""


class Channel:
    """The data files of one folder.

    Parameters
    ----------
    name : str
        What messages call it.
    folder : Path
    file : str, optional
        Path of the one file that counts; otherwise all do.
    missing, text : bool
        Whether cells may be missing, and columns may hold text.
    header : bool, optional
        Whether CSV files have a header; by default it's found out.

    Raises
    ------
    JobError
        If there is no such file.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        file: str | None,
        missing: bool,
        text: bool,
        header: bool | None = None,
    ):
        present = sorted(path for path in folder.rglob("*") if path.is_file())
        if file is None:  # .ipynb_checkpoints/, _SUCCESS and the like are not data
            present = [path for path in present if not is_hidden(path.relative_to(folder))]
        listing = ", ".join(str(path.relative_to(folder)) for path in present[:10])
        if file is not None and folder / file not in present:
            raise JobError(f"no file {file!r} in channel {name!r}; it holds: {listing or '-'}")
        if not present:
            raise JobError(f"channel {name!r} holds no file")
        self.folder, self.missing, self.text, self.header = folder, missing, text, header
        self.paths = [folder / file] if file is not None else present

    def size(self) -> int:
        """Return the size of all files in bytes; an estimate if they are compressed."""
        return sum(
            path.stat().st_size * (_UNPACKED if path.suffix.lower() in _PACKED else 1)
            for path in self.paths
        )

    def read(self) -> Table:
        """Return all rows."""
        tables = list(self.stream(ROWS))
        text = _find_text(tables)
        if any(_find_text([table]) != text for table in tables):
            tables = list(self.stream(ROWS, text))
        if len(tables) == 1:
            return Table(tables[0].values, tables[0].names)
        return Table(np.concatenate([table.values for table in tables]), tables[0].names)

    def stream(self, rows: int, text: Collection[int] = ()) -> Iterator[Table]:
        """Pass over the rows, at most `rows` at a time; the columns `text` are text throughout.

        Yields
        ------
        Table
            At least two columns and one row.

        Raises
        ------
        JobError
            If a file cannot be read, or does not fit the others or what the channel may hold.
        """
        first = None
        for path in self.paths:
            name = str(path.relative_to(self.folder))
            row = 0
            for table in _read_file(path, name, rows, text, self.header):
                self._check(table, name, row)
                first = first or table
                if (table.names, table.values.shape[1]) != (first.names, first.values.shape[1]):
                    raise JobError(
                        f"{path.name}: its columns are not those of {self.paths[0].name}"
                    )
                row += len(table.values)
                yield _turn_into_text(table, text)
            if row == 0:
                raise JobError(f"{name} has no rows")

    def _check(self, table: Table, name: str, row: int) -> None:
        text = table.text()
        if any(text) and not self.text:
            raise JobError(f"{name}: {_describe_text(table, text.index(True))}")
        if len(text) < 2:
            raise JobError(
                f"{name} has one column only; expected features and a target, separated by "
                "commas, semicolons or tabs"
            )
        bad = np.isinf if self.missing else _is_not_finite
        if table.values.dtype.hasobject:
            wrong = np.zeros(table.values.shape, dtype=bool)
            for j, cells in enumerate(table.values.T):
                if not text[j]:
                    wrong[:, j] = bad(cells.astype(np.float64))
                elif not self.missing:
                    wrong[:, j] = [cell is None for cell in cells]
        else:
            wrong = bad(table.values)
        if wrong.any():
            i, j = np.argwhere(wrong)[0]
            where = repr(table.names[j]) if table.names else j + 1
            value = table.values[i, j]
            what = "missing" if value is None or value != value else value
            raise JobError(
                f"{name}: row {row + i + 1}, column {where} is {what}; fill or drop it first"
            )


class Chunks:
    """A channel's rows in chunks, any number of times.

    A first pass counts them and finds out which columns are text, so that all chunks are alike.

    Parameters
    ----------
    channel : Channel
    rows : int
        Most rows of a chunk.
    progress : bool
        Whether to print how far each pass is.

    Attributes
    ----------
    names : tuple of str or None
        As in `Table`.
    n_samples : int
        Number of rows.
    """

    def __init__(self, channel: Channel, rows: int = ROWS, progress: bool = False):
        self._channel, self._rows, self._progress = channel, rows, progress
        self._passes = 0
        self._text: list[int] = []
        self.n_samples = 0
        if not self._scan():  # numbers in one chunk were text in another
            self._scan()

    def __iter__(self) -> Iterator[Table]:
        """Pass over all rows."""
        self._passes += 1
        progress = Progress(f"pass {self._passes}", self.n_samples) if self._progress else None
        done = 0
        for table in self._channel.stream(self._rows, self._text):
            yield table
            done += len(table.values)
            if progress:
                progress.show(done)

    def _scan(self) -> bool:
        n_samples, even = 0, True
        found: list[int] | None = None
        for table in self:
            self.names = table.names
            n_samples += len(table.values)
            text = _find_text([table])
            even &= found in (None, text)
            found = sorted({*(found or ()), *text})
        self.n_samples, self._text = n_samples, found or []
        return even


class Progress:
    """Progress lines of a pass over many rows.

    Parameters
    ----------
    label : str
        Which pass.
    total : int
        Number of rows; 0 where it is not known yet.
    every : float
        Fewest seconds between two lines.
    """

    def __init__(self, label: str, total: int, every: float = 10.0):
        self._label, self._total, self._every = label, total, every
        self._said = time.monotonic()

    def show(self, rows: int) -> None:
        """Print a line, if it is time."""
        if time.monotonic() < self._said + self._every:
            return
        self._said = time.monotonic()
        of = f" of {self._total:,}" if self._total else ""
        share = f" ({rows / self._total:.0%})".replace("%", " %") if self._total else ""
        print(f"{self._label}: {rows:,}{of} rows{share}", flush=True)


def is_hidden(path: Path) -> bool:
    """Return whether a path inside a channel is not data, like _SUCCESS."""
    return any(part.startswith((".", "_")) for part in path.parts)


def _is_not_finite(values: np.ndarray) -> np.ndarray:
    return ~np.isfinite(values)


def _find_text(tables: list[Table]) -> list[int]:
    return [j for j, text in enumerate(zip(*(t.text() for t in tables), strict=True)) if any(text)]


def _turn_into_text(table: Table, columns: Collection[int]) -> Table:
    missing = [j for j in columns if not table.text()[j]]  # numbers in a Parquet or npy file
    if not missing:
        return table
    values = table.values.astype(object)
    for j in missing:
        values[:, j] = [as_text(cell) for cell in values[:, j]]
    return Table(values, table.names)


def _describe_text(table: Table, column: int) -> str:
    if table.lines is None:
        return f"column {(table.names or ())[column]!r} is text, not numbers"
    row, column = next(
        (row, column)
        for row, cells in enumerate(table.values)
        for column, cell in enumerate(cells)
        if isinstance(cell, str) and read_number(cell) is None
    )
    return f"{table.place(row, column)}: {shorten(table.values[row, column])} is not a number"


# ---------------------------------------------------------------- files


def _read_file(
    path: Path, name: str, rows: int, text: Collection[int], header: bool | None
) -> Iterator[Table]:
    if path.stat().st_size == 0:
        raise JobError(f"{name} is empty")
    ending = _find_ending(path)
    if ending not in _ENDINGS:
        raise JobError(
            f"{name}: unknown ending; expected one of {', '.join(_ENDINGS)}; of text also with "
            f"{', '.join(_PACKED)}"
        )
    try:
        if ending == ".npy":
            yield from _read_npy(path, rows)
        elif ending == ".parquet":
            yield from _read_parquet(path, rows)
        else:
            with _PACKED.get(_find_packing(path), open)(path, "rt", encoding="utf-8-sig") as file:
                yield from read_blocks(file, rows, text, header, _ENDINGS[ending])
    except UnicodeDecodeError as error:
        raise JobError(
            f"{name} is not UTF-8 text: {error.object[error.start : error.start + 1]!r} is not a "
            "character; save it as UTF-8, for example by iconv -f latin1 -t utf-8"
        ) from None
    except _BROKEN as error:
        raise JobError(f"{name} cannot be unpacked: {error}") from None
    except PayloadError as error:
        raise JobError(f"{name}: {error}") from None


def read_unpacked(path: Path, name: str) -> bytes:
    """Return the bytes of a file, unpacked if they are compressed.

    Raises
    ------
    JobError
        If they cannot be unpacked; it calls the file `name`.
    """
    packing = _find_packing(path) if path.suffix.lower() in _PACKED else ""
    try:
        with _PACKED.get(packing, open)(path, "rb") as file:
            return file.read()
    except _BROKEN as error:
        raise JobError(f"{name} cannot be unpacked: {error}") from None


def find_suffix(path: Path) -> str:
    """Return the ending of a file's name, in lower case and without that of its compression."""
    packed = path.suffix.lower() in _PACKED
    return (path.with_suffix("") if packed else path).suffix.lower()


def _find_ending(path: Path) -> str:
    """Return the ending that says what is in a file; that of CSV where nothing says it."""
    ending = find_suffix(path)
    if ending or path.suffix:
        return ending or ".csv"
    start = _read_start(path)
    return next((ending for ending, magic in _MAGIC.items() if start.startswith(magic)), ".csv")


def _find_packing(path: Path) -> str:
    start = _read_start(path)
    return next((ending for ending, magic in _PACKED_MAGIC.items() if start.startswith(magic)), "")


def _read_start(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(8)


def _read_npy(path: Path, rows: int) -> Iterator[Table]:
    with path.open("rb") as file:
        dtype, shape, order = read_npy_header(file, path.stat().st_size)
        values: np.ndarray = np.memmap(file, dtype, "r", file.tell(), shape, order)
    values = values.reshape(len(values), -1)
    with np.errstate(over="ignore"):  # of a longdouble; infinity is refused by its place
        for start in range(0, len(values), rows):
            yield Table(np.array(values[start : start + rows], dtype=np.float64, order="C"))


def _read_parquet(path: Path, rows: int) -> Iterator[Table]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            # A table that pandas wrote may bring its index, which no to_csv(index=False) would.
            index = (file.schema_arrow.pandas_metadata or {}).get("index_columns", [])
            names = [name for name in file.schema_arrow.names if name not in index]
            if not names:
                raise PayloadError("it has no columns")
            for name in names:
                if names.count(name) > 1:
                    raise PayloadError(f"two columns are named {name!r}")
            names = [names[j] for j in find_named(names)]
            for batch in file.iter_batches(rows, columns=names):
                columns = [_read_arrow(name, batch.column(name)) for name in names]
                yield Table.of_columns(columns, tuple(names))
    except (pyarrow.ArrowException, OSError) as error:
        raise PayloadError(f"not a Parquet file: {error}") from None


def _read_arrow(name: str, column: Any) -> np.ndarray | list[str | None]:
    import pyarrow

    if pyarrow.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if str(column.type) in ("string", "large_string", "string_view"):
        return column.to_pylist()
    if pyarrow.types.is_timestamp(column.type) or pyarrow.types.is_date(column.type):
        return column.cast(pyarrow.string()).to_pylist()  # as a CSV file has them
    if pyarrow.types.is_duration(column.type):
        return [None if cell is None else _write_iso(cell) for cell in column.to_pylist()]
    try:
        return column.cast(pyarrow.float64(), safe=False).to_numpy(zero_copy_only=False)
    except pyarrow.ArrowException:
        raise PayloadError(f"column {name!r} is {column.type}, not numbers or text") from None


def _write_iso(span: datetime.timedelta) -> str:
    return f"P{span.days}DT{span.seconds}.{span.microseconds:06d}S"


# Ending -> delimiter of text, if it says so.
_ENDINGS = {".csv": None, ".npy": None, ".parquet": None, ".tsv": "\t"}
_MAGIC = {".npy": b"\x93NUMPY", ".parquet": b"PAR1"}
_PACKED: dict[str, Callable] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
_PACKED_MAGIC = {".gz": b"\x1f\x8b", ".bz2": b"BZh", ".xz": b"\xfd7zXZ"}
_BROKEN = (EOFError, zlib.error, lzma.LZMAError, OSError)
_UNPACKED = 5  # size of a compressed table of numbers after unpacking, relative, about
