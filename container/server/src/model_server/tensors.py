"""Tensors of KServe's protocol v2: requests to rows, columns to answers, as JSON or binary data.

Binary data are the protocol's own extension: a header says where the JSON of a body ends, and
what follows are the tensors' cells, little-endian and row by row; a text is its length in four
bytes, then UTF-8.
https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md
"""

import io
import itertools
import json
import math
import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

HEADER = "inference-header-content-length"  # where the JSON of a body with binary data ends

_NUMBER, _INTEGER = {int, float, type(None)}, {int}  # null is a number that is missing
_CELLS: dict[str, set[type]] = {
    "BOOL": {bool},
    "BYTES": {str, type(None)},
    **dict.fromkeys(("FP16", "BF16", "FP32", "FP64"), _NUMBER),
    **{f"{kind}{bits}": _INTEGER for kind in ("INT", "UINT") for bits in (8, 16, 32, 64)},
}
# struct's letter of each datatype of a fixed width. Of BF16 it knows nothing but the width.
_LETTERS = dict(zip([name for name in _CELLS if name != "BYTES"], "?eHfdbhiqBHIQ", strict=True))

# What clients of Triton and MLServer add for the server or for themselves, not for the program.
_HINTS = {
    "content_type",
    "priority",
    "sequence_end",
    "sequence_id",
    "sequence_start",
    "timeout",
}


class ProtocolError(ValueError):
    """A request that is not as its protocol has it."""

    status = 400


class Request(NamedTuple):
    """What a request of v2 asks.

    Parameters
    ----------
    id : str or None
    instances : list
        The n rows, as a program reads them: lists, records or, of texts alone, texts.
    parameters : dict
        What is meant for the program.
    explained : bool
        Whether each row's explanation is to come along.
    outputs : list of dict
        The tensors that the client wants; none for all.
    binary : bool
        Whether they are to be binary data, unless they say otherwise themselves.
    """

    id: str | None
    instances: list
    parameters: dict[str, Any]
    explained: bool
    outputs: list[dict[str, Any]]
    binary: bool


# ---------------------------------------------------------------- requests


def read_request(
    body: bytes, json_length: str | None, inputs: Sequence[dict[str, Any]]
) -> Request:
    """Read a request.

    Parameters
    ----------
    body : bytes
    json_length : str or None
        The request's Inference-Header-Content-Length, in bytes; 0 if the body is nothing but the
        data of the model's one input.
    inputs : sequence of dict
        The tensors that the model takes, by its metadata, as far as these are known.

    Raises
    ------
    ProtocolError
        If the request is not as the protocol has it.
    """
    head, data = _split(body, json_length)
    if head or not data:
        content = _load(head)
    else:
        content, data = _complete(data, inputs)
    stream = io.BytesIO(data)
    instances = _read_instances(content, stream, inputs)
    if rest := len(stream.read()):
        raise ProtocolError(
            f"{rest} bytes follow the JSON that no tensor's binary_data_size names"
        )
    parameters = _read_parameters(content, "")
    flags = {
        name: _pop_flag(parameters, name, "")
        for name in ("explain", "binary_data_output", "raw_output")
    }
    outputs = content.get("outputs") or []
    if not isinstance(outputs, list) or not all(isinstance(output, dict) for output in outputs):
        raise ProtocolError('outputs must be an array of objects, as in [{"name": "prediction"}]')
    return Request(
        content.get("id"),
        instances,
        {name: value for name, value in parameters.items() if name not in _HINTS},
        bool(flags["explain"]),
        outputs,
        bool(flags["binary_data_output"] or flags["raw_output"]),
    )


def _split(body: bytes, json_length: str | None) -> tuple[bytes, bytes]:
    if json_length is None:
        return body, b""
    if not (json_length.isascii() and json_length.isdecimal()) or len(json_length) > 18:
        raise ProtocolError(
            f"Inference-Header-Content-Length is {json_length!a:.40}; send a number of bytes"
        )
    end = int(json_length)
    if end > len(body):
        raise ProtocolError(
            f"Inference-Header-Content-Length is {end}, and the body has {len(body)} bytes"
        )
    return body[:end], body[end:]


def _complete(data: bytes, inputs: Sequence[dict[str, Any]]) -> tuple[dict[str, Any], bytes]:
    """Return the whole request that a body of one tensor's data, and no JSON, stands for."""
    if len(inputs) != 1:
        raise ProtocolError(
            "a body without JSON is for models of one input; say in "
            "Inference-Header-Content-Length where the JSON ends"
        )
    tensor = {"name": inputs[0]["name"], "datatype": inputs[0]["datatype"]}
    n = 1
    if tensor["datatype"] == "BYTES":  # one text, as it is
        data = len(data).to_bytes(4, "little") + data
    else:
        n = max(1, len(data) // struct.calcsize(_LETTERS[tensor["datatype"]]))
    tensor |= {"shape": [n], "parameters": {"binary_data_size": len(data)}}
    return {"inputs": [tensor], "parameters": {"binary_data_output": True}}, data


def _load(head: bytes) -> dict[str, Any]:
    try:
        request = json.loads(head)
    except ValueError:
        raise ProtocolError("the body is not valid JSON") from None
    if not isinstance(request, dict):
        raise ProtocolError('the body is not an object; send {"inputs": [...]}')
    if not isinstance(request.get("id"), str | None):
        raise ProtocolError(f"id must be a string, got {request['id']!r}")
    return request


def _read_parameters(owner: dict[str, Any], where: str) -> dict[str, Any]:
    parameters = owner.get("parameters") or {}
    if not isinstance(parameters, dict):
        raise ProtocolError(f"{where}parameters must be an object")
    return dict(parameters)


def _pop_flag(parameters: dict[str, Any], name: str, where: str) -> bool | None:
    flag = parameters.pop(name, None)
    if not isinstance(flag, bool | None):
        raise ProtocolError(f"{where}{name} must be true or false, got {json.dumps(flag)[:40]}")
    return flag


def _read_instances(
    request: dict[str, Any], stream: io.BytesIO, inputs: Sequence[dict[str, Any]]
) -> list:
    """Return the rows of a request: of one tensor (n, p), or of tensors that are a column each."""
    given = request.get("inputs")
    if not isinstance(given, list) or not given:
        raise ProtocolError("inputs must be an array of tensors, at least one")
    tensors = [_read_tensor(tensor, stream) for tensor in given]
    first = tensors[0]
    if len(tensors) == 1 and _holds_texts(first, inputs):
        return first.cells
    if len(tensors) == 1 and len(first.shape) == 2:
        p = first.shape[1]
        return [first.cells[start : start + p] for start in range(0, len(first.cells), p)]
    columns: dict[str, list] = {}
    n = first.shape[0]
    for tensor in tensors:
        if tensor.shape[1:] not in ([], [1]):
            raise ProtocolError(
                f"tensor {tensor.name!r} has shape {tensor.shape}; of several tensors each is one "
                "column, of shape [n] or [n, 1]"
            )
        if tensor.name in columns:
            raise ProtocolError(f"two tensors are named {tensor.name!r}")
        if tensor.shape[0] != n:
            raise ProtocolError(
                f"tensor {tensor.name!r} has {tensor.shape[0]} rows, the first one {n}"
            )
        columns[tensor.name] = tensor.cells
    rows = zip(*columns.values(), strict=True)
    return [dict(zip(columns, row, strict=True)) for row in rows]


class _Tensor(NamedTuple):
    name: str
    shape: list[int]
    datatype: str
    cells: list  # row by row


def _holds_texts(tensor: _Tensor, inputs: Sequence[dict[str, Any]]) -> bool:
    """Tell whether a request's only tensor is n texts, rather than a column that has a name."""
    if tensor.datatype != "BYTES" or tensor.shape[1:] not in ([], [1]):
        return False
    return len(tensor.shape) == 2 or [one["datatype"] for one in inputs] == ["BYTES"]


def _read_tensor(tensor: Any, stream: io.BytesIO) -> _Tensor:
    """Check a tensor, whose binary data are next in a stream if it has any."""
    if not isinstance(tensor, dict) or not isinstance(tensor.get("name"), str):
        raise ProtocolError("every tensor of inputs must be an object with a name")
    name, shape, datatype, cells = map(tensor.get, ("name", "shape", "datatype", "data"))
    where = f"tensor {name!r}"
    if not isinstance(datatype, str) or datatype not in _CELLS:
        raise ProtocolError(f"{where}: datatype {datatype!r} is none of {', '.join(_CELLS)}")
    if (
        not isinstance(shape, list)
        or len(shape) not in (1, 2)
        or not all(type(length) is int and length > 0 for length in shape)
    ):
        raise ProtocolError(f"{where} has shape {shape!r}; send [n] or [n, p], without zeros")
    size = _read_parameters(tensor, f"{where}: ").get("binary_data_size")
    if size is not None and cells is not None:
        raise ProtocolError(f"{where} has both data and a binary_data_size; send one of them")
    if size is not None:
        cells = _unpack(where, datatype, shape, _take(where, size, stream))
    if not isinstance(cells, list):
        raise ProtocolError(f"{where} has no array of data")
    if len(shape) == 2 and set(map(type, cells)) == {list}:
        if len(cells) != shape[0] or set(map(len, cells)) != {shape[1]}:
            raise ProtocolError(f"{where}: the rows of its data do not have its shape {shape}")
        cells = list(itertools.chain.from_iterable(cells))
    if len(cells) != math.prod(shape):
        raise ProtocolError(
            f"{where} of shape {shape} has {len(cells)} values, not {math.prod(shape)}"
        )
    _check_cells(where, datatype, cells)
    if _CELLS[datatype] is _NUMBER:  # of which JSON has no NaN
        cells = [None if cell != cell else cell for cell in cells]
    return _Tensor(name, shape, datatype, cells)


def _take(where: str, size: Any, stream: io.BytesIO) -> bytes:
    if type(size) is not int or size < 0:
        raise ProtocolError(
            f"{where}: binary_data_size must be a number of bytes, got {json.dumps(size)[:40]}"
        )
    data = stream.read(min(size, 2**62))
    if len(data) < size:
        raise ProtocolError(
            f"{where} has a binary_data_size of {size}, but {len(data)} bytes are left; "
            "Inference-Header-Content-Length must say where the JSON ends"
        )
    return data


def _unpack(where: str, datatype: str, shape: list[int], data: bytes) -> list:
    if datatype == "BYTES":
        return _unpack_texts(where, data)
    n = math.prod(shape)
    letter = _LETTERS[datatype]
    if len(data) != n * struct.calcsize(letter):
        raise ProtocolError(
            f"{where} of shape {shape} has {len(data)} bytes of {datatype}, "
            f"not {n * struct.calcsize(letter)}"
        )
    if datatype == "BOOL" and max(data) > 1:
        raise ProtocolError(f"{where}: a byte of BOOL is 0 or 1, got {max(data)}")
    cells = struct.unpack(f"<{n}{letter}", data)
    if datatype == "BF16":  # the upper half of an FP32
        halves = struct.pack(f"<{n}I", *(cell << 16 for cell in cells))
        cells = struct.unpack(f"<{n}f", halves)
    return list(cells)


def _unpack_texts(where: str, data: bytes) -> list[str]:
    texts, start = [], 0
    while start < len(data):
        end = start + 4 + int.from_bytes(data[start : start + 4], "little")
        texts.append(data[start + 4 : end])
        start = end
    if start > len(data):
        raise ProtocolError(
            f"{where}: its last text is cut off; each is four bytes of its length, then the text"
        )
    try:
        return [text.decode() for text in texts]
    except UnicodeDecodeError as error:
        raise ProtocolError(f"{where} holds bytes that are not UTF-8: {error.reason}") from None


def _check_cells(where: str, datatype: str, cells: list) -> None:
    allowed = _CELLS[datatype]
    if not set(map(type, cells)) <= allowed:
        wrong = next(cell for cell in cells if type(cell) not in allowed)
        raise ProtocolError(f"{where}: {json.dumps(wrong)[:40]} is no {datatype}")
    if allowed is _NUMBER and (math.inf in cells or -math.inf in cells):
        raise ProtocolError(f"{where} holds an infinite number; send finite ones")
    if allowed is _INTEGER:
        low, high = _find_bounds(datatype)
        for cell in (min(cells), max(cells)):
            if not low <= cell <= high:
                raise ProtocolError(f"{where}: {cell} is beyond {datatype}")


def _find_bounds(datatype: str) -> tuple[int, int]:
    bits = int(datatype.partition("INT")[2])
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if datatype[0] == "I" else (0, 2**bits - 1)


# ---------------------------------------------------------------- answers


def write_outputs(
    columns: dict[str, Any], n: int, request: Request
) -> tuple[list[dict[str, Any]], bytes]:
    """Return a program's answer as tensors of shape (n,).

    Parameters
    ----------
    columns : dict
        ``prediction`` and other columns; those that no tensor can hold are left out.
    n : int
        Rows of the request.
    request : Request

    Returns
    -------
    outputs : list of dict
    data : bytes
        The binary data of those that have them, one after the other.
    """
    datatypes = {
        name: _find_datatype(column)
        for name, column in columns.items()
        if isinstance(column, list) and len(column) == n
    }
    datatypes = {name: datatype for name, datatype in datatypes.items() if datatype}
    outputs, data = [], b""
    for wanted in request.outputs or [{"name": name} for name in datatypes]:
        name = wanted.get("name")
        if not isinstance(name, str) or name not in datatypes:
            raise ProtocolError(
                f"outputs must name some of {', '.join(datatypes)}, as in "
                '{"outputs": [{"name": "prediction"}]}'
            )
        where = f"output {name!r}: "
        binary = _pop_flag(_read_parameters(wanted, where), "binary_data", where)
        datatype, column = datatypes[name], columns[name]
        output = {"name": name, "shape": [n], "datatype": datatype}
        if request.binary if binary is None else binary:
            packed = _pack(datatype, column)
            data += packed
            outputs.append(output | {"parameters": {"binary_data_size": len(packed)}})
        else:
            outputs.append(output | {"data": column})
    return outputs, data


def _find_datatype(column: list) -> str:
    types = set(map(type, column))
    for datatype in ("BOOL", "INT64", "FP64", "BYTES"):
        if types <= _CELLS[datatype] - {type(None)}:
            if datatype == "INT64":
                low, high = _find_bounds(datatype)
                if not low <= min(column) <= max(column) <= high:
                    continue
            return datatype
    return ""


def _pack(datatype: str, column: list) -> bytes:
    if datatype == "BYTES":
        texts = [text.encode(errors="replace") for text in column]
        return b"".join(len(text).to_bytes(4, "little") + text for text in texts)
    return struct.pack(f"<{len(column)}{_LETTERS[datatype]}", *column)
