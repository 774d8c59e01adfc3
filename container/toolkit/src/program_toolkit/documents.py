"""Documents: those of a request, and those of a training channel with their labels."""

import codecs
import csv
import io
import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from program_toolkit import payload
from program_toolkit.channels import JobError, find_suffix, is_hidden, read_unpacked
from program_toolkit.delimited import DELIMITERS
from program_toolkit.job import Job
from program_toolkit.table import PayloadError, shorten

TEXT = "text/plain"

# ---------------------------------------------------------------- requests


class Documents(list[str]):
    """The texts of a request.

    Parameters
    ----------
    texts : iterable of str
    parameters : mapping of str to object
        What the request asks for beside them: ``top_k``, a number of labels, and ``explain``,
        true or false.
    by_line : bool
        Whether they came one a line where one JSON value is usual, and are to be answered so.
    """

    def __init__(
        self,
        texts: Iterable[str],
        parameters: Mapping[str, object] | None = None,
        by_line: bool = False,
    ):
        super().__init__(texts)
        self.parameters, self.by_line = parameters or {}, by_line


def read_request(body: bytes | str, content_type: str | None) -> Documents:
    """Read a request's documents.

    text/plain is one document. text/csv is one a record: of a single column, or of the column
    ``text`` where the first record names it (or is said to name the columns, by
    ``header=present``). JSON is a text, a record ``{"text": ...}``, or an array of them, also
    under ``instances`` and beside ``parameters``; in JSON lines, one a line. Bytes that are not
    text in their charset become U+FFFD.

    Raises
    ------
    PayloadError
        If the body is not what its type says, or holds no documents.
    """
    media, parameters, text = payload.open_body(body, content_type, _READERS, errors="replace")
    return _READERS[media](text.removeprefix("\ufeff"), parameters)


def _read_csv(text: str, parameters: Mapping[str, str]) -> Documents:
    records = [record or [""] for record in split_records(text)]
    if not records:  # nothing but a byte order mark
        raise PayloadError("got no documents; send at least one")
    first, header = records[0], payload.read_header_parameter(parameters)
    names = [cell.strip().casefold() for cell in first]
    # Alone in its column and below nothing, "text" may be what pandas calls a column, or a text.
    named = header or (header is None and "text" in names and (len(first) > 1 or len(records) > 1))
    if named and len(first) > 1 and "text" not in names:
        raise PayloadError(f"no column is named 'text'; got {shorten(first)}")
    _check_width(records, len(first) if named else 1, ",")
    column = names.index("text") if len(first) > 1 else 0
    return _to_documents([record[column] for record in records[named:]])


def _read_json(text: str, _: Mapping[str, str]) -> Documents:
    content, by_line = payload.load_json_or_lines(text)
    parameters = {}
    if isinstance(content, dict):
        parameters = read_parameters(payload.read_parameters(content))
        content = content.get("instances", content)
    rows = content if isinstance(content, list) else [content]
    return _to_documents(rows, parameters, by_line)


def _to_documents(
    rows: list, parameters: Mapping[str, object] | None = None, by_line: bool = False
) -> Documents:
    if not rows:
        raise PayloadError("got no documents; send at least one")
    texts: list[Any] = [
        row.get("text") if isinstance(row, dict)
        else row[0] if isinstance(row, list) and len(row) == 1  # of a table of one column
        else row
        for row in rows
    ]  # fmt: skip
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise PayloadError(
                f'document {number} is {shorten(rows[number])}; send a text or {{"text": "..."}}'
            )
    return Documents(texts, parameters, by_line)


_READERS: dict[str, Callable[[str, Mapping[str, str]], Documents]] = {
    TEXT: lambda text, _: Documents([text]),
    payload.CSV: _read_csv,
    payload.JSON: _read_json,
    payload.JSONLINES: lambda text, _: _to_documents(payload.load_lines(text)),
}


def read_parameters(given: Mapping[str, object]) -> dict[str, object]:
    """Check what a request or an Accept header asks for.

    Parameters
    ----------
    given : mapping of str to object
        ``top_k``, a whole number or its digits, and ``explain``, true or false, also as text.

    Returns
    -------
    dict
        The same as int and bool.

    Raises
    ------
    PayloadError
        If one has another name or value.
    """
    asked: dict[str, object] = {}
    for name, value in given.items():
        if name == "top_k":
            if isinstance(value, bool) or not re.fullmatch("0*[1-9][0-9]{0,8}", str(value)):
                raise PayloadError(
                    f"top_k={shorten(value)} is not a number of labels; send top_k=3"
                )
            asked[name] = int(str(value))
        elif name == "explain":
            asked[name] = {"true": True, "false": False}.get(str(value).lower())
            if asked[name] is None:
                raise PayloadError(f"explain must be true or false, got {shorten(value)}")
        else:
            raise PayloadError(f"unknown parameter {shorten(name)}; known are top_k and explain")
    return asked


# ---------------------------------------------------------------- delimited lines


def split_records(text: str, delimiter: str = ",") -> list[list[str]]:
    """Return the cells of all records, none of a blank line.

    Raises
    ------
    PayloadError
        If quotes are not where they may be.
    """
    # It stops at cells of 128 kB. The limit is the process's, and threads share it: only upwards.
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))
    # NUL is part of no word, and the csv module of Python 3.10 cannot read it.
    lines = io.StringIO(text.replace("\0", " "), newline="")
    try:
        return list(csv.reader(lines, delimiter=delimiter, strict=True))
    except csv.Error as error:
        raise PayloadError(f"not comma-separated values: {error}") from None


def _check_width(records: list[list[str]], width: int, delimiter: str) -> None:
    for number, record in enumerate(records, 1):
        if len(record) != width:
            raise PayloadError(
                f"record {number} has {len(record)} cells where {width} is expected; put a text "
                f"that holds {delimiter!r} into quotes, and double the quotes in it: "
                '"a ""b"", c"'
            )


# ---------------------------------------------------------------- channels


class Corpus(NamedTuple):
    """Documents and the label of each."""

    texts: list[str]
    labels: list[str]


TABLES = (".csv", ".tsv", ".jsonl", ".parquet")
_COLUMNS = ("text", "label")


def read_corpus(job: Job, channel: str) -> Corpus:
    """Read a channel: tables with the columns ``text`` and ``label``, or a folder for each label.

    Tables end in one of `TABLES`, or have no ending and lie beside no label. Any other file is one
    document, whose label is the name of the folder that it lies in. All may be compressed.
    Documents and lines of tables are UTF-8 if they can be, else Latin-1. Labels may be whole
    numbers or truth values, which are taken as text.

    Raises
    ------
    JobError
        If a file cannot be read, or holds something else.
    """
    folder = job.folder(channel)
    texts, labels = [], []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if not path.is_file() or is_hidden(name):
            continue
        suffix, content = find_suffix(path), read_unpacked(path, str(name))
        if suffix in TABLES or (not suffix and name.parent == Path()):
            table = _read_table(content, suffix or _find_kind(content), str(name))
            texts += table.texts
            labels += table.labels
        elif name.parent != Path():
            texts.append(_decode_wide(content) or _decode(content))
            labels.append(name.parent.name)
        else:
            raise JobError(
                f"{name}: unknown ending; expected one of {', '.join(TABLES)}, or documents in "
                "one folder for each label"
            )
    if not texts:
        raise JobError(f"channel {channel!r} holds no document")
    for label in set(labels):
        if not label.isprintable() or label != label.strip() or not label:
            raise JobError(
                f"{shorten(label)} cannot be a label; use one line of printable characters"
            )
    return Corpus(texts, labels)


def _find_kind(content: bytes) -> str:
    if content.startswith(b"PAR1"):
        return ".parquet"
    return ".jsonl" if content.lstrip().startswith(b"{") else ".csv"


def _read_table(content: bytes, suffix: str, name: str) -> Corpus:
    try:
        if suffix == ".parquet":
            columns = _read_frame(content, suffix)
        elif suffix == ".jsonl":
            columns = _read_frame(_decode_lines(content, name).encode(), suffix)
        else:
            columns = _read_records(_decode_lines(content, name))
    except (ValueError, OSError) as error:  # PayloadError is a ValueError
        raise JobError(f"{name} cannot be read: {error}".replace("\n", " ")) from None
    for column in _COLUMNS:
        if column not in columns:
            there = ", ".join(map(repr, columns)) or "none"
            raise JobError(f"{name} has no column {column!r}; its columns are {there}")
    texts, labels = columns["text"], columns["label"]
    for row, (text, label) in enumerate(zip(texts, labels, strict=True), 1):
        if not isinstance(text, str):
            raise JobError(f"{name}: row {row}, column 'text' is {shorten(text)}, not a text")
        whole = isinstance(label, int) or (isinstance(label, float) and label.is_integer())
        if not isinstance(label, str) and not whole:
            raise JobError(
                f"{name}: row {row}, column 'label' is {shorten(label)}, neither a text nor a "
                "whole number"
            )
        if isinstance(label, float):  # pandas has whole numbers as floats
            labels[row - 1] = int(label)
    return Corpus(texts, list(map(str, labels)))


def _read_frame(content: bytes, suffix: str) -> dict[str, list]:
    import pandas

    if suffix == ".jsonl":
        frame = pandas.read_json(io.BytesIO(content), lines=True, dtype=False)
    else:
        frame = pandas.read_parquet(io.BytesIO(content))
    return {name: frame[name].tolist() if name in _COLUMNS else [] for name in frame.columns}


def _read_records(text: str) -> dict[str, list]:
    delimiter = _find_delimiter(text)
    records = [record for record in split_records(text, delimiter) if record]
    if not records:
        raise PayloadError("No columns, as the file is empty")
    _check_width(records, len(records[0]), delimiter)
    names = [name.strip() for name in records[0]]
    for name in _COLUMNS:
        if names.count(name) > 1:
            raise PayloadError(f"two columns are named {name!r}")
    return {name: [record[j] for record in records[1:]] for j, name in enumerate(names)}


def _find_delimiter(text: str) -> str:
    """Return what the two names that must be there stand between."""
    header = text.lstrip("\r\n").partition("\n")[0]
    for delimiter in DELIMITERS:
        names = next(csv.reader([header.strip()], delimiter=delimiter), [])
        if {name.strip() for name in names}.issuperset(_COLUMNS):
            return delimiter
    return ","


def _decode_lines(content: bytes, name: str) -> str:
    wide = _decode_wide(content)
    if wide is not None:
        return wide
    lines = content.removeprefix(codecs.BOM_UTF8).splitlines(keepends=True)
    try:
        return b"".join(lines).decode()
    except UnicodeDecodeError as error:
        warnings.warn(
            f"{name} is not UTF-8 and was read as Latin-1, line by line where it is not, as of "
            f"{error.object[error.start : error.start + 1]!r}; save it as UTF-8 if it is neither",
            UserWarning,
            stacklevel=2,
        )
    return "".join(map(_decode, lines))


def _decode_wide(content: bytes) -> str | None:
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16", "replace")
    return None


def _decode(content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")
