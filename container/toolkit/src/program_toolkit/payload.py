"""Bytes to tables: the media types that every program reads.

What a client got wrong is a `PayloadError`, whose `status` the server sends as it is.
"""

import functools
import io
import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, BinaryIO, Literal, cast

import numpy as np

from program_toolkit.delimited import parse_csv
from program_toolkit.table import PayloadError, Table, as_text, shorten

NPY = "application/x-npy"
CSV = "text/csv"
JSON = "application/json"
JSONLINES = "application/jsonlines"

_LONGEST_HEAD = 16_384  # bytes of an npy header; NumPy's own bound is below it

# Some of Python's other codecs take quadratic time (punycode) or are not text encodings.
CHARSETS = ("utf-8", "utf8", "us-ascii", "iso-8859-1", "windows-1252", "utf-16")


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
        415 for an unsupported media type, 400 for a body that is not what its type says.
    """
    media, parameters, content = open_body(body, content_type, _DECODERS)
    if media == CSV:
        table = parse_csv(content, read_header_parameter(parameters))
    else:
        table = _DECODERS[media](content)
    return _ignore_extra(table, parameters) if "ignore_extra" in parameters else table


def open_body(
    body: bytes | str, content_type: str | None, known: Collection[str], errors: str = "strict"
) -> tuple[str, Mapping[str, str], Any]:
    """Check what a request is, and make text of it unless it is an array.

    Parameters
    ----------
    body : bytes or str
    content_type : str or None
        JSON where it is absent.
    known : collection of str
        The media types that can be read.
    errors : {"strict", "replace"}
        What becomes of bytes that are not text in their charset.

    Returns
    -------
    media : str
    parameters : mapping of str to str
    content : bytes or str
        Bytes for npy.

    Raises
    ------
    PayloadError
        415 for another media type or charset, 400 for an empty body or one that is not text.
    """
    media, parameters = parse_media_type(content_type or JSON)
    if media not in known:
        raise PayloadError(
            f"Content-Type {shorten(content_type)} is not supported; send one of "
            + ", ".join(known),
            status=415,
        )
    if not body:
        raise PayloadError("the body is empty")
    if media == NPY or isinstance(body, str):
        return media, parameters, body
    charset = parameters.get("charset", "utf-8")
    if charset not in CHARSETS:
        raise PayloadError(
            f"unknown charset {shorten(charset)}; send one of " + ", ".join(CHARSETS), status=415
        )
    try:
        return media, parameters, body.decode(charset, errors)
    except UnicodeDecodeError as error:
        raise PayloadError(f"the body is not {charset} text: {error.reason}") from None


def _ignore_extra(table: Table, parameters: Mapping[str, object]) -> Table:
    """Allow columns that the model doesn't know, if the sender asks for it."""
    ignore = {"true": True, "false": False}.get(str(parameters["ignore_extra"]).lower())
    if ignore is None:
        given = shorten(parameters["ignore_extra"])
        raise PayloadError(f"ignore_extra must be true or false, got {given}")
    return replace(table, ignore_extra=ignore)


def read_header_parameter(parameters: Mapping[str, str]) -> bool | None:
    """Return whether the first line of text/csv is a header, if the sender says so."""
    header = parameters.get("header")
    if header not in (None, "present", "absent"):
        raise PayloadError(
            f"unknown header={header} of text/csv; send header=present or header=absent",
            status=415,
        )
    return None if header is None else header == "present"


@functools.lru_cache(maxsize=64)
def parse_media_type(header: str) -> tuple[str, Mapping[str, str]]:
    """Split a media type from its parameters, as in ``text/csv; charset=utf-8``."""
    media, *parameters = header.split(";")
    pairs = (parameter.partition("=") for parameter in parameters)
    return media.strip().lower(), MappingProxyType(
        {key.strip().lower(): value.strip().strip('"').lower() for key, _, value in pairs}
    )


def parse_npy(body: bytes) -> Table:
    """Read one array in NumPy's format, without pickle and never beyond the body's own size."""
    stream = io.BytesIO(body)
    dtype, shape, order = read_npy_header(stream, len(body))
    values = np.frombuffer(body, dtype, offset=stream.tell()).reshape(shape, order=order)
    with np.errstate(over="ignore"):  # of a longdouble; infinity is refused later, by its place
        return Table(np.ascontiguousarray(values, dtype=np.float64))


def read_npy_header(
    stream: BinaryIO, length: int
) -> tuple[np.dtype, tuple[int, ...], Literal["C", "F"]]:
    """Read what an npy file says of its array, and check it.

    Parameters
    ----------
    stream : binary file
        At its start; afterwards where the array begins.
    length : int
        Bytes in the whole file.

    Returns
    -------
    dtype : numpy.dtype
        Of floats, integers or truth values.
    shape : tuple of int
        One or two lengths, none of which is 0.
    order : {"C", "F"}

    Raises
    ------
    PayloadError
        If this is not such an array, or not as long as it says.
    """
    start = stream.read(12)
    digits = 4 if start[6:7] == b"\x02" else 2  # of the header's length, by the format's version
    rest = 8 + digits + int.from_bytes(start[8 : 8 + digits], "little") - len(start)
    head = start + stream.read(min(max(rest, 0), _LONGEST_HEAD))
    shape, fortran_order, dtype = _evaluate_npy_header(head)
    if dtype.kind not in "fiub":
        raise PayloadError(f"the array's dtype is {shorten(dtype)}; send floats or integers")
    if len(shape) not in (1, 2) or min(shape) < 0:
        raise PayloadError(f"the array has shape {shorten(shape)}; send (n_samples, n_features)")
    size = dtype.itemsize
    for axis in shape:  # in Python's integers, which do not overflow
        size *= axis
    sent = length - stream.tell()
    if sent != size:
        raise PayloadError(
            f"the array is truncated or has a tail: {size} bytes announced, {sent} sent"
        )
    if size == 0:
        raise PayloadError(f"the array is empty: its shape is {shorten(shape)}")
    return dtype, shape, "F" if fortran_order else "C"


# A client's requests differ in their data, not in their headers, whose evaluation takes longer
# than all the rest of a small request.
@functools.lru_cache(maxsize=64)
def _evaluate_npy_header(head: bytes) -> tuple[tuple[int, ...], bool, np.dtype]:
    stream = io.BytesIO(head)
    try:
        read_header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[np.lib.format.read_magic(stream)]
        return read_header(stream)
    except Exception:  # NumPy evaluates the header, which fails in as many ways as Python does
        raise PayloadError("the body is not an array in NumPy's npy format") from None


def parse_json(text: str) -> Table:
    """Read an array, records, or either under the key ``instances``, beside ``parameters``.

    JSON that was encoded twice, and so is a string that holds JSON, is read as what it holds.
    Several lines of JSON, as batches of type MultiRecord are sent, are read as JSON lines, and to
    be answered so.
    """
    content, by_line = load_json_or_lines(text)
    if by_line:
        return replace(_from_lines(cast(list[Any], content)), by_line=True)
    if isinstance(content, str):
        content = load_json(content, "the body is a JSON string; inside it: ")
    if not isinstance(content, dict):
        return _from_json(content)
    if "instances" not in content:
        return _from_json([content])
    parameters = read_parameters(content)
    table = _from_json(content["instances"], parameters)
    if "ignore_extra" not in parameters:
        return table
    table = _ignore_extra(table, parameters)
    return replace(table, parameters={k: v for k, v in parameters.items() if k != "ignore_extra"})


def parse_jsonlines(text: str) -> Table:
    """Read one record, array or number per line."""
    return _from_lines(load_lines(text))


def _from_lines(rows: list) -> Table:
    # A line is a row, even a row of one number.
    return _from_json([row if isinstance(row, (dict, list)) else [row] for row in rows])


def read_parameters(content: Mapping[str, object]) -> dict[str, object]:
    """Return what a JSON request asks for beside its ``instances``."""
    parameters = content.get("parameters")
    if not isinstance(parameters, dict | None):
        raise PayloadError(f"parameters must be an object, got {shorten(parameters)}")
    return parameters or {}


def load_json_or_lines(text: str) -> tuple[object, bool]:
    """Read one JSON value, or several lines of JSON, as batches of type MultiRecord are sent.

    Returns
    -------
    content : object
        The value, or the list of the lines' values.
    by_line : bool
        Whether it is the latter.
    """
    try:
        return json.loads(text), False
    except json.JSONDecodeError as error:
        value = text[: error.pos]
        if error.msg == "Extra data" and "\n" in value[len(value.rstrip()) :]:
            return load_lines(text), True
        raise PayloadError(f"not valid JSON: {error}") from None
    except (ValueError, RecursionError) as error:
        raise PayloadError(f"not valid JSON: {error}") from None


def load_lines(text: str) -> list:
    """Read one JSON value per line."""
    values = []
    for number, line in enumerate(text.split("\n"), 1):
        line = line.strip(" \t\r")
        if not line:
            continue
        try:
            value, end = _scan_json(line, 0)
        except (StopIteration, ValueError, RecursionError):
            end = None
        if end != len(line):
            value = load_json(line, f"line {number}: ")  # which says what is wrong with it
        values.append(value)
    return values


_scan_json = json.JSONDecoder().scan_once  # type: ignore[attr-defined] # what json.loads calls, without its preparations


def load_json(text: str, where: str = "") -> object:
    """Read one JSON value; what is wrong with it is said to be ``where``."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise PayloadError(f"{where}not valid JSON: {error}") from None


def _from_json(content: object, parameters: Mapping[str, object] | None = None) -> Table:
    if not isinstance(content, list) or not content:
        raise PayloadError(
            'expected a non-empty array of rows, or {"instances": [...]}; '
            f"got {shorten(content)}"
        )
    names = None
    if isinstance(content[0], dict):
        names = tuple(content[0])
        for row, record in enumerate(content):
            if not isinstance(record, dict):
                raise PayloadError(f"row {row} is not a record, as row 0 is")
            if record.keys() != content[0].keys():
                odd = sorted(record.keys() ^ content[0].keys())
                raise PayloadError(f"row {row} and row 0 differ in {', '.join(map(repr, odd))}")
        content = [[record[name] for name in names] for record in content]
    return Table(_to_values(content, names), names, parameters or {})


_NUMBERS = {int, float, bool, type(None)}
_CELLS = {str, *_NUMBERS}


def _to_values(rows: list, names: tuple[str, ...] | None) -> np.ndarray:
    flat = not any(isinstance(row, list) for row in rows)
    table = [rows] if flat else rows
    text = False
    # Before NumPy sees them: it would pad every cell to the longest text among them.
    for row, cells in enumerate(table):
        if not isinstance(cells, list):
            raise PayloadError(f"row {row}: {shorten(cells)} is not an array, as other rows are")
        if len(cells) != len(table[0]):
            raise PayloadError(f"row {row} has {len(cells)} cells where row 0 has {len(table[0])}")
        if not _NUMBERS.issuperset(map(type, cells)):
            text = True
            if not _CELLS.issuperset(map(type, cells)):
                column = next(i for i, cell in enumerate(cells) if type(cell) not in _CELLS)
                where = repr(names[column]) if names else f"column {column}"
                raise PayloadError(
                    f"row {row}, {where}: {shorten(cells[column])} is not a number or a text"
                )
    try:
        if text:
            columns = [_to_column(cells) for cells in zip(*table, strict=True)]
            values = Table.of_columns(columns).values
        else:
            values = np.array(table, dtype=np.float64)  # None becomes NaN
    except OverflowError:
        raise PayloadError("an integer is too large for a float") from None
    return values[0] if flat else values


def _to_column(cells: tuple) -> list[float] | list[str | None]:
    if str in set(map(type, cells)):
        return [as_text(cell) for cell in cells]
    return [np.nan if cell is None else float(cell) for cell in cells]


_DECODERS: dict[str, Callable] = {
    NPY: parse_npy,
    CSV: parse_csv,
    JSON: parse_json,
    JSONLINES: parse_jsonlines,
}
