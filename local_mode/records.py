"""Batch transform's records: split, packed into payloads, filtered, joined to their answers."""

import csv
import io
import json
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

from local_mode.jsonpath import Path
from local_mode.wire import refuse

MB = 1024 * 1024  # bytes
_CSV, _JSON, _LINES = "text/csv", "application/json", "application/jsonlines"


class RecordError(Exception):
    """A record or an answer is not what the job needs."""


def payloads(source: BinaryIO, split: str, is_single: bool, limit: int) -> Iterator[bytes]:
    """Read a file's payloads.

    Parameters
    ----------
    source : binary file
    split : str
        ``Line``, or ``None`` for the file in one. An empty line is no record.
    is_single : bool
        Whether a payload is one record, or as many as fit.
    limit : int
        Bytes of a payload; 0 for any number.

    Raises
    ------
    RecordError
        If a record is larger than the limit.
    """
    if split == "None":
        content = source.read()
        if content:
            yield _check_size(content, limit)
        return
    pack, size = [], 0
    for line in source:
        if not line.strip():
            continue
        _check_size(line, limit)
        if pack and (is_single or (limit and size + len(line) > limit)):
            yield b"".join(pack)
            pack, size = [], 0
        pack.append(line)
        size += len(line)
        if not line.endswith(b"\n"):
            break
    if pack:
        yield b"".join(pack)


def _check_size(record: bytes, limit: int) -> bytes:
    if limit and len(record) > limit:
        raise RecordError(
            f"Too much data for max payload size: a record has {len(record)} bytes, and "
            f"MaxPayloadInMB is {limit // MB}"
        )
    return record


class Processing:
    """DataProcessing: what of a record is sent, what is joined, and what is written.

    Parameters
    ----------
    request : mapping
        Of CreateTransformJob.

    Raises
    ------
    ApiError
        If a filter is not one of SageMaker's, or records of such a type cannot be filtered.
    """

    def __init__(self, request: Mapping[str, Any]):
        chosen = request.get("DataProcessing") or {}
        self._input, self._output = (
            Path(chosen.get(name) or "$", f"DataProcessing.{name}")
            for name in ("InputFilter", "OutputFilter")
        )
        self._joins = chosen.get("JoinSource", "None") == "Input"
        self._type = _base(request["TransformInput"].get("ContentType"))
        self._is_line = request["TransformInput"].get("SplitType", "None") == "Line"
        reads = self._joins or not self._input.is_whole
        if reads and self._type not in (_CSV, _JSON, _LINES):
            raise refuse(
                f"DataProcessing needs TransformInput.ContentType {_CSV}, {_JSON} or {_LINES}, "
                f"got {self._type or 'none'}"
            )
        accept = _base(request["TransformOutput"].get("Accept"))
        if self._joins and accept and (accept == _CSV) != (self._type == _CSV):
            raise refuse(
                f"DataProcessing.JoinSource Input needs the same type on both sides, got "
                f"ContentType {self._type} and Accept {accept}"
            )

    def before(self, payload: bytes) -> bytes:
        """Return what the container is sent of a payload.

        Raises
        ------
        RecordError
            If a record cannot be read, or has no such part.
        """
        if self._input.is_whole:
            return payload
        records = self._read(payload, self._type, "the input")
        return _write([self._apply(self._input, record) for record in records], self._type)

    def after(self, payload: bytes, answer: bytes, content_type: str) -> bytes:
        """Return what is written of a payload and its answer.

        Raises
        ------
        RecordError
            If they cannot be read, or the answer has not as many records as the payload.
        """
        if not self._joins and self._output.is_whole:
            return answer
        kind = _base(content_type)
        if kind not in (_CSV, _JSON, _LINES):
            raise RecordError(
                f"an answer of type {kind or 'none'} can be neither filtered nor joined"
            )
        records = self._read(answer, kind, "the answer")
        if self._joins:
            sent = self._read(payload, self._type, "the input")
            if (kind == _CSV) != (self._type == _CSV):
                raise RecordError(
                    f"an answer of type {kind} cannot be joined to an input of type {self._type}; "
                    "name TransformOutput.Accept"
                )
            if len(sent) != len(records):
                raise RecordError(
                    f"{len(records)} records of an answer cannot be joined to {len(sent)} of the "
                    "input; BatchStrategy SingleRecord asks for each by itself"
                )
            records = [_join(*pair, kind) for pair in zip(sent, records, strict=True)]
        return _write([self._apply(self._output, record) for record in records], kind)

    def _apply(self, path: Path, record: Any) -> Any:
        try:
            return path.select(record)
        except ValueError as error:
            raise RecordError(str(error)) from None

    def _read(self, content: bytes, kind: str, what: str) -> list[Any]:
        """Return the records of a payload or an answer; a JSON document is one, unless split."""
        try:
            text = content.decode()
            if kind == _CSV:
                rows = csv.reader(io.StringIO(text, newline=""), strict=True)
                return [row for row in rows if row]
            if kind == _LINES or (self._is_line and what == "the input"):
                return [json.loads(line) for line in text.split("\n") if line.strip()]
            return [json.loads(text)]
        except (ValueError, csv.Error) as error:
            raise RecordError(f"{what} is not of type {kind}: {error}") from None


def _join(record: Any, answer: Any, kind: str) -> Any:
    if kind == _CSV:
        return record + answer
    if isinstance(record, dict):
        return {**record, "SageMakerOutput": answer}
    return {"SageMakerInput": record, "SageMakerOutput": answer}


def _write(records: list[Any], kind: str) -> bytes:
    if kind == _CSV:
        stream = io.StringIO()
        rows = (record if isinstance(record, list) else [record] for record in records)
        csv.writer(stream, lineterminator="\n").writerows(rows)
        return stream.getvalue().encode()
    end = "\n" if kind == _LINES else ""
    return ("\n".join(json.dumps(record, ensure_ascii=False) for record in records) + end).encode()


def _base(content_type: str | None) -> str:
    kind = (content_type or "").partition(";")[0].strip().lower()
    return {"application/x-jsonlines": _LINES, "application/jsonl": _LINES}.get(kind, kind)
