"""Bytes to tables and answers to bytes: the media types that every program speaks.

Reading (`decode`) and writing (`encode`) are tables from media type to a pure function. A
`Table` doesn't know the model yet; `Table.matrix` puts its columns in the model's order. What a
client got wrong is a `PayloadError`, whose `status` the server sends as it is.
"""

import csv
import io
import json
import reprlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

NPY = "application/x-npy"
CSV = "text/csv"
JSON = "application/json"
JSONLINES = "application/jsonlines"

# Some of Python's other codecs take quadratic time (punycode) or are no encodings of text at all.
CHARSETS = ("utf-8", "utf8", "us-ascii", "iso-8859-1", "windows-1252", "utf-16")


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


# ---------------------------------------------------------------- tables


@dataclass(frozen=True)
class Table:
    """Numbers with or without column names.

    Parameters
    ----------
    values : ndarray of float64, shape (n, k) or (k,)
        One row a sample; NaN where a cell is empty. One-dimensional only where the sender left
        open whether it is a row or a column.
    names : tuple of str or None
        The k column names, if the sender gave any.

    Raises
    ------
    PayloadError
        If two columns have the same name.
    """

    values: np.ndarray
    names: tuple[str, ...] | None = None

    def __post_init__(self):
        """Refuse a name that would leave open which column is meant."""
        if self.names is not None and len(set(self.names)) < len(self.names):
            seen: set[str] = set()
            twice = next(name for name in self.names if name in seen or seen.add(name))
            raise PayloadError(f"two columns are named {_shorten(twice)}")

    def matrix(self, features: Sequence[str]) -> np.ndarray:
        """Return the columns in the model's order, with every cell present and finite.

        Parameters
        ----------
        features : sequence of str
            The p feature names of the model.

        Returns
        -------
        ndarray of float64, shape (n, p)

        Raises
        ------
        PayloadError
            If a column is missing or unknown, the number of columns is wrong, there is no row,
            or a cell is empty or infinite.
        """
        values, p = self.values, len(features)
        if values.ndim == 1:
            values = values.reshape(-1, 1) if p == 1 else values.reshape(1, -1)
        if self.names is not None:
            values = values[:, _positions(self.names, features)]
        if values.shape[1] != p:
            raise PayloadError(
                f"got {values.shape[1]} columns where the model has {p}: {', '.join(features)}"
            )
        if len(values) == 0:
            raise PayloadError("got no rows; send at least one")
        finite = np.isfinite(values)
        if not finite.all():
            row, column = np.argwhere(~finite)[0]
            cell = "missing" if np.isnan(values[row, column]) else "infinite"
            raise PayloadError(f"row {row}, {features[column]!r} is {cell}; send a finite number")
        return values


def _positions(names: Sequence[str], features: Sequence[str]) -> list[int]:
    at = {name: position for position, name in enumerate(names)}
    missing = [name for name in features if name not in at]
    extra = [name for name in names if name not in features]
    if missing or extra:
        complaints = [
            f"{what} {', '.join(map(repr, columns))}"
            for what, columns in (("missing", missing), ("unknown", extra))
            if columns
        ]
        raise PayloadError(
            f"columns do not match the model: {'; '.join(complaints)}; "
            f"the model has {', '.join(map(repr, features))}"
        )
    return [at[name] for name in features]


# ---------------------------------------------------------------- reading


def decode(body: bytes | str, content_type: str | None) -> Table:
    """Read a request body.

    Parameters
    ----------
    body : bytes or str
        AWS's own server hands text types over as str.
    content_type : str or None
        The Content-Type header; JSON where it is absent.

    Returns
    -------
    Table

    Raises
    ------
    PayloadError
        415 for a type that is not spoken here, 400 for a body that is not what its type says.
    """
    media, parameters = parse_media_type(content_type or JSON)
    if media not in _DECODERS:
        raise PayloadError(
            f"Content-Type {content_type!r} is not supported; send one of " + ", ".join(_DECODERS),
            status=415,
        )
    if not body:
        raise PayloadError("the body is empty")
    if media == NPY:
        return parse_npy(body)
    if isinstance(body, bytes):
        charset = parameters.get("charset", "utf-8")
        if charset not in CHARSETS:
            raise PayloadError(
                f"unknown charset {charset!r}; send one of " + ", ".join(CHARSETS), status=415
            )
        try:
            body = body.decode(charset)
        except UnicodeDecodeError as error:
            raise PayloadError(f"the body is not {charset} text: {error.reason}") from None
    return _DECODERS[media](body)


def parse_media_type(header: str) -> tuple[str, dict[str, str]]:
    """Split a media type from its parameters, as in ``text/csv; charset=utf-8``."""
    media, *parameters = header.split(";")
    pairs = (parameter.partition("=") for parameter in parameters)
    return media.strip().lower(), {
        key.strip().lower(): value.strip().strip('"').lower() for key, _, value in pairs
    }


def parse_npy(body: bytes) -> Table:
    """Read one array in NumPy's format, without pickle and never beyond the body's own size."""
    stream = io.BytesIO(body)
    try:
        version = np.lib.format.read_magic(stream)
        read_header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, fortran_order, dtype = read_header(stream)
    except Exception:  # NumPy evaluates the header, which fails in as many ways as Python does
        raise PayloadError("the body is not an array in NumPy's npy format") from None
    if dtype.kind not in "fiub":
        raise PayloadError(f"the array's dtype is {_shorten(dtype)}; send floats or integers")
    if len(shape) not in (1, 2) or min(shape) < 0:
        raise PayloadError(f"the array has shape {_shorten(shape)}; send (n_samples, n_features)")
    size = dtype.itemsize
    for length in shape:  # in Python's integers, which do not overflow
        size *= length
    data = memoryview(body)[stream.tell() :]
    if len(data) != size:
        raise PayloadError(
            f"the array is truncated or has a tail: {size} bytes announced, {len(data)} sent"
        )
    if size == 0:
        raise PayloadError(f"the array is empty: its shape is {_shorten(shape)}")
    values = np.frombuffer(data, dtype).reshape(shape, order="F" if fortran_order else "C")
    with np.errstate(over="ignore"):  # of a longdouble; infinity is refused later, by its place
        return Table(np.ascontiguousarray(values, dtype=np.float64))


def parse_csv(text: str) -> Table:
    """Read comma-separated numbers, with a header line where no cell of the first is a number."""
    lines = io.StringIO(text.removeprefix("\ufeff"), newline=None).readlines()
    first = next((i for i, line in enumerate(lines) if line.strip()), None)
    if first is None:
        raise PayloadError("there are no lines")
    cells = _split(lines[first])
    names = None if any(_is_number(cell) for cell in cells) else tuple(cells)
    start = first + (names is not None)
    if not any(line.strip() for line in lines[start:]):
        raise PayloadError(f"there are no rows below the header {','.join(cells)!r}")
    try:
        values = np.loadtxt(lines[start:], delimiter=",", comments=None, quotechar='"', ndmin=2)
    except ValueError:  # an empty cell, or something wrong that deserves its place named
        values = _read_cells(lines, start, names, len(cells))
    if names is not None and values.shape[1] != len(names):
        raise PayloadError(f"the header has {len(names)} cells, the rows {values.shape[1]}")
    return Table(values, names)


def _read_cells(
    lines: list[str], start: int, names: tuple[str, ...] | None, width: int
) -> np.ndarray:
    rows = []
    for number, line in enumerate(lines[start:], start + 1):
        if not line.strip():
            continue
        cells = _split(line)
        if len(cells) != width:
            raise PayloadError(f"line {number} has {len(cells)} cells where {width} are expected")
        for column, cell in enumerate(cells):
            if cell and not _is_number(cell):
                where = repr(names[column]) if names else str(column + 1)
                raise PayloadError(
                    f"line {number}, column {where}: {_shorten(cell)} is not a number"
                )
        rows.append([float(cell) if cell else np.nan for cell in cells])
    return np.array(rows)


def _split(line: str) -> list[str]:
    try:
        return [cell.strip() for cell in next(csv.reader([line.strip()], skipinitialspace=True))]
    except csv.Error as error:
        raise PayloadError(f"not comma-separated values: {error}") from None


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return "_" not in cell  # float("1_0") is 10 to Python, and to nobody else


def _shorten(value: object) -> str:
    text = reprlib.repr(value)  # which neither recurses deeply nor writes out a whole body
    return text if len(text) <= 40 else text[:37] + "..."


def parse_json(text: str) -> Table:
    """Read an array, records, or either under the key ``instances``."""
    content = _load_json(text)
    if isinstance(content, dict):
        content = content.get("instances", [content])
    return _from_json(content)


def parse_jsonlines(text: str) -> Table:
    """Read one record, array or number a line."""
    rows = [
        _load_json(line, f"line {number}: ")
        for number, line in enumerate(text.split("\n"), 1)
        if line.strip()
    ]
    # A line is a row, even a row of one number.
    return _from_json([row if isinstance(row, (dict, list)) else [row] for row in rows])


def _load_json(text: str, where: str = "") -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise PayloadError(f"{where}not valid JSON: {error}") from None


def _from_json(content: object) -> Table:
    if not isinstance(content, list) or not content:
        raise PayloadError(
            'expected a non-empty array of rows, or {"instances": [...]}; '
            f"got {_shorten(content)}"
        )
    if isinstance(content[0], dict):
        names = tuple(content[0])
        for row, record in enumerate(content):
            if not isinstance(record, dict):
                raise PayloadError(f"row {row} is not a record, as row 0 is")
            if record.keys() != content[0].keys():
                odd = sorted(record.keys() ^ content[0].keys())
                raise PayloadError(f"row {row} and row 0 differ in {', '.join(map(repr, odd))}")
        rows = [[record[name] for name in names] for record in content]
        return Table(_to_floats(rows, names), names)
    return Table(_to_floats(content, None))


_NUMBERS = {int, float, bool, type(None)}


def _to_floats(rows: list, names: tuple[str, ...] | None) -> np.ndarray:
    flat = not any(isinstance(row, list) for row in rows)
    table = [rows] if flat else rows
    # Before NumPy sees them: it would pad every cell to the longest text among them.
    for row, cells in enumerate(table):
        if not isinstance(cells, list):
            raise PayloadError(f"row {row}: {_shorten(cells)} is not an array, as other rows are")
        if len(cells) != len(table[0]):
            raise PayloadError(f"row {row} has {len(cells)} cells where row 0 has {len(table[0])}")
        if not _NUMBERS.issuperset(map(type, cells)):
            column = next(i for i, cell in enumerate(cells) if type(cell) not in _NUMBERS)
            where = repr(names[column]) if names else f"column {column}"
            raise PayloadError(f"row {row}, {where}: {_shorten(cells[column])} is not a number")
    try:
        values = np.array(table, dtype=np.float64)  # None becomes NaN
    except OverflowError:
        raise PayloadError("an integer is too large for a float") from None
    return values[0] if flat else values


_DECODERS: dict[str, Callable] = {
    NPY: parse_npy,
    CSV: parse_csv,
    JSON: parse_json,
    JSONLINES: parse_jsonlines,
}


# ---------------------------------------------------------------- writing


@dataclass(frozen=True)
class Explanation:
    """Why each prediction is what it is: ``base + sum of values = prediction``, row by row.

    Parameters
    ----------
    base : float
        The mean prediction over the training rows.
    values : dict of str to ndarray of float64, shape (n,)
        SHAP values of each feature.
    scale : {"response", "link"}
        The scale on which the sum holds.
    """

    base: float
    values: dict[str, np.ndarray]
    scale: str = "response"


@dataclass(frozen=True)
class Answer:
    """Predictions, and the explanation for those who ask.

    Parameters
    ----------
    prediction : ndarray of float64, shape (n,)
    explain : callable
        Returns the `Explanation`; called only if the client accepts one.
    """

    prediction: np.ndarray
    explain: Callable[[], Explanation]


def encode(answer: Answer, accept: str | None) -> tuple[bytes, str]:
    """Write an answer in the best media type that the client accepts.

    Parameters
    ----------
    answer : Answer
    accept : str or None
        The Accept header; JSON where it is absent. The parameter ``explain=true`` asks for the
        explanation, which JSON and JSON lines can carry.

    Returns
    -------
    body : bytes
    content_type : str

    Raises
    ------
    PayloadError
        406 if nothing that the client accepts can be written here.
    """
    media, parameters = _choose(accept or JSON)
    explained = parameters.get("explain") == "true"
    if explained and media not in (JSON, JSONLINES):
        raise PayloadError(
            f"{media} cannot carry an explanation; accept {JSON}; explain=true", status=406
        )
    return _ENCODERS[media](answer, answer.explain() if explained else None), media


def _choose(accept: str) -> tuple[str, dict[str, str]]:
    choices = [parse_media_type(choice) for choice in accept.split(",")]
    refused = {choice[0] for choice in choices if _quality(choice) == 0}
    for media, parameters in sorted(choices, key=_quality, reverse=True):
        for offered in _ENCODERS:
            kind = offered.partition("/")[0]
            if media in {offered, f"{kind}/*", "*/*", ""} - refused and offered not in refused:
                return offered, parameters
    raise PayloadError(
        f"Accept {accept!r} cannot be met; accept one of " + ", ".join(_ENCODERS), status=406
    )


def _quality(choice: tuple[str, dict[str, str]]) -> float:
    try:
        quality = float(choice[1].get("q", 1))
    except ValueError:
        return 0
    return quality if 0 <= quality <= 1 else 0


def _to_npy(answer: Answer, _: None) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, answer.prediction, allow_pickle=False)
    return stream.getvalue()


def _to_csv(answer: Answer, _: None) -> bytes:
    return _lines(map(repr, answer.prediction.tolist()))


def _to_json(answer: Answer, explanation: Explanation | None) -> bytes:
    content = {"prediction": answer.prediction.tolist()}
    if explanation:
        content |= {
            "shap_base": explanation.base,
            "shap_values": {k: v.tolist() for k, v in explanation.values.items()},
            "scale": explanation.scale,
        }
    return json.dumps(content, allow_nan=False).encode()


def _to_jsonlines(answer: Answer, explanation: Explanation | None) -> bytes:
    rows = [{"prediction": value} for value in answer.prediction.tolist()]
    if explanation:
        columns = {name: values.tolist() for name, values in explanation.values.items()}
        for i, row in enumerate(rows):
            row["shap_base"] = explanation.base
            row["shap_values"] = {name: column[i] for name, column in columns.items()}
            row["scale"] = explanation.scale
    return _lines(json.dumps(row, allow_nan=False) for row in rows)


def _lines(lines: Iterable[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()


# In the order in which a wildcard chooses.
_ENCODERS: dict[str, Callable[[Answer, Explanation | None], bytes]] = {
    JSON: _to_json,
    CSV: _to_csv,
    JSONLINES: _to_jsonlines,
    NPY: _to_npy,
}
