"""KServe's protocols, v1 and v2 (Open Inference Protocol), over a program that speaks JSON.

The program sees each request as one to /invocations: ``{"instances": [...],
"parameters": {...}}`` goes in; ``{"prediction": [...], ...}`` or, where answers are explained, one
such object a line comes out. https://kserve.github.io/website/docs/concepts/architecture/data-plane
"""

import importlib.metadata
import itertools
import json
import math
import struct
from collections.abc import Mapping
from typing import Any

from model_server.http1 import Response
from model_server.program import Program, Result

JSON = "application/json"

_NUMBER: set[type] = {int, float, type(None)}  # null is a missing number
_INTEGER: set[type] = {int}
_CELLS: dict[str, set[type]] = {
    "BOOL": {bool},
    "BYTES": {str, type(None)},
    **{f"FP{bits}": _NUMBER for bits in (16, 32, 64)},
    **{f"{kind}{bits}": _INTEGER for kind in ("INT", "UINT") for bits in (8, 16, 32, 64)},
}


# Datatype -> its letter in the struct module; values are little-endian, row by row.
_BINARY = {"BOOL": "?", "FP16": "e", "FP32": "f", "FP64": "d"} | {
    f"{kind}{8 << k}": letter
    for kind, letters in (("INT", "bhiq"), ("UINT", "BHIQ"))
    for k, letter in enumerate(letters)
}
_LENGTH = "inference-header-content-length"  # bytes of JSON, which binary tensors follow


class ProtocolError(ValueError):
    """A request that violates its protocol."""

    status = 400


def list_facts(model: str, signature: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    """Return the metadata and readiness responses of a ready server: path -> JSON.

    Parameters
    ----------
    model : str
        Its name.
    signature : mapping
        As `Program.signature` returns it.
    """
    tensors = {
        side: [
            {"name": name, "datatype": datatype, "shape": [-1]}
            for name, datatype in signature.get(side, {}).items()
        ]
        for side in ("inputs", "outputs")
    }
    v2 = f"/v2/models/{model}"
    version = importlib.metadata.version("model-server")
    return {
        "/": {"status": "alive"},  # requested by KServe's own client, in v1
        "/v1/models": {"models": [model]},
        f"/v1/models/{model}": {"name": model, "ready": True},
        "/v2": {"name": "model-server", "version": version, "extensions": ["binary_tensor_data"]},
        "/v2/health/live": {"live": True},
        "/v2/health/ready": {"ready": True},
        v2: {"name": model, "platform": "sagemaker", **tensors},
        f"{v2}/ready": {"name": model, "ready": True},
    }


def list_calls(model: str) -> list[str]:
    """Return the paths of POST requests that the program answers."""
    return [
        f"/v1/models/{model}:predict",
        f"/v1/models/{model}:explain",
        f"/v2/models/{model}/infer",
    ]


def refuse(path: str, answer: Response) -> Response:
    """Return an error in the format of the path's protocol: in v2 as a string."""
    if not path.startswith("/v2"):
        return answer
    message = json.loads(answer.body)["error"]["message"]
    content = json.dumps({"error": message}).encode()
    return Response(answer.status, content, headers=answer.headers)


def call(program: Program, path: str, body: bytes, headers: dict[str, str]) -> Result:
    """Answer a request to one of the paths of `calls` by the program.

    Raises
    ------
    ProtocolError
        If the request violates the protocol. The program's exceptions are not caught.
    """
    if path.endswith(":predict"):
        result = program(body, JSON, f"{JSON}; explain=false", headers)
        columns = json.loads(result.body)
        answer: dict[str, Any] = {"predictions": columns["prediction"]}
        if warnings := columns.get("warnings"):
            answer["warnings"] = warnings
    elif path.endswith(":explain"):
        # JSON lines: one object per row, whereas programs differ in their JSON layout.
        result = program(body, JSON, "application/jsonlines; explain=true", headers)
        explanations = [json.loads(line) for line in result.body.splitlines()]
        predictions = [explanation.pop("prediction") for explanation in explanations]
        answer = {"predictions": predictions, "explanations": explanations}
    else:
        return _infer(program, path.split("/")[3], body, headers)
    return result._replace(body=json.dumps(answer).encode(), content_type=JSON)


def _infer(program: Program, model: str, body: bytes, headers: dict[str, str]) -> Result:
    head, tail = _split_body(body, headers.pop(_LENGTH, None))
    try:
        request = _load(head)
        rows = read_tensors(request, tail)
        content = json.dumps(rows).encode()
    except RecursionError:
        raise ProtocolError("the body is nested too deeply") from None
    own = _read_parameters(request, "")
    if _read_switch(own, "explain"):
        result = program(content, JSON, "application/jsonlines; explain=true", headers)
        explanations = list(map(json.loads, result.body.splitlines()))
        columns = {"prediction": [each.pop("prediction") for each in explanations]}
        columns["explanation"] = list(map(json.dumps, explanations))
    else:
        result = program(content, JSON, f"{JSON}; explain=false", headers)
        columns = json.loads(result.body)
    answer: dict[str, Any] = {"model_name": model}
    if warnings := columns.pop("warnings", None):  # about the whole response, not a column
        answer["parameters"] = {"warnings": warnings}
    if request.get("id") is not None:
        answer["id"] = request["id"]
    wanted = request.get("outputs")
    answer["outputs"] = write_tensors(columns, wanted)
    every = _read_switch(own, "binary_data_output", _read_switch(own, "raw_output"))
    asked = {output["name"]: _read_parameters(output, "outputs: ") for output in wanted or ()}
    data = [
        _to_binary(tensor)
        for tensor in answer["outputs"]
        if _read_switch(asked.get(tensor["name"], {}), "binary_data", every)
    ]
    head = json.dumps(answer).encode()
    if not data:
        return result._replace(body=head, content_type=JSON)
    return result._replace(
        body=b"".join([head, *data]),
        content_type="application/octet-stream",
        headers={_LENGTH: str(len(head))},
    )


def _split_body(body: bytes, length: str | None) -> tuple[bytes, bytes]:
    """Return the JSON of a request and the binary data after it."""
    if length is None:
        return body, b""
    if not (length.isascii() and length.isdigit() and len(length) < 16) or int(length) > len(body):
        raise ProtocolError(
            f"Inference-Header-Content-Length is {length[:40]!r}, and the body has {len(body)} "
            "bytes"
        )
    return body[: int(length)], body[int(length) :]


def _read_switch(parameters: dict[str, Any], name: str, default: bool = False) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise ProtocolError(f"{name} must be true or false")
    return value


def _load(body: bytes) -> dict[str, Any]:
    try:
        request = json.loads(body)
    except ValueError:
        raise ProtocolError("the body is not valid JSON") from None
    if not isinstance(request, dict):
        raise ProtocolError('the body is not an object; send {"inputs": [...]}')
    if not isinstance(request.get("id"), str | None):
        raise ProtocolError(f"id must be a string, got {request['id']!r}")
    return request


# ---------------------------------------------------------------- tensors


def read_tensors(request: dict[str, Any], data: bytes = b"") -> dict[str, Any]:
    """Convert a v2 request to instances, as a program reads them.

    Parameters
    ----------
    request : dict
        Its ``inputs`` are either one tensor of shape (n, p), the columns in the model's order, or
        one of shape (n,) or (n, 1) for each column, by name. Texts alone, of shape (n,) or
        (n, 1), are n rows of one text whatever their name is.
    data : bytes
        Data of the tensors with ``binary_data_size``, in order.

    Returns
    -------
    dict
        ``instances``: n lists, or n records; and the request's ``parameters`` without those that
        are the protocol's, its clients' or the server's own.
    """
    inputs = request.get("inputs")
    if not isinstance(inputs, list) or not inputs:
        raise ProtocolError("inputs must be an array of tensors, at least one")
    rest = memoryview(data)
    tensors = []
    for tensor in inputs:
        name, shape, cells, rest = _read_tensor(tensor, rest)
        tensors.append((name, shape, cells))
    if rest:
        raise ProtocolError(f"{len(rest)} bytes of binary data are left over after all tensors")
    (_, shape, cells), *others = tensors
    texts = inputs[0]["datatype"] == "BYTES" and shape[1:] in ([], [1])
    if (len(shape) == 2 or texts) and not others:
        p = math.prod(shape[1:])
        instances: list[Any] = [cells[start : start + p] for start in range(0, len(cells), p)]
    else:
        columns: dict[str, list[Any]] = {}
        for name, shape, column in tensors:
            if shape[1:] not in ([], [1]):
                raise ProtocolError(
                    f"tensor {name!r} has shape {shape}; of several tensors each is one column, "
                    "of shape [n] or [n, 1]"
                )
            if name in columns:
                raise ProtocolError(f"two tensors are named {name!r}")
            if shape[0] != (n := tensors[0][1][0]):
                raise ProtocolError(f"tensor {name!r} has {shape[0]} rows, the first one {n}")
            columns[name] = column
        rows = zip(*columns.values(), strict=True)
        instances = [dict(zip(columns, row, strict=True)) for row in rows]
    parameters = _read_parameters(request, "")
    further = {name: value for name, value in parameters.items() if name not in _OWN}
    return {"instances": instances, "parameters": further}


_OWN = {"binary_data_output", "explain", "raw_output"} | {
    # Parameters that the clients of Triton and MLServer add by themselves.
    "content_type",
    "priority",
    "sequence_end",
    "sequence_id",
    "sequence_start",
    "timeout",
}


def _read_parameters(owner: dict[str, Any], where: str) -> dict[str, Any]:
    parameters = owner.get("parameters") or {}
    if not isinstance(parameters, dict):
        raise ProtocolError(f"{where}parameters must be an object")
    return parameters


def _read_tensor(tensor: Any, rest: memoryview) -> tuple[str, list[int], list[Any], memoryview]:
    """Validate a tensor; return its name, shape, cells in row order, and the remaining data."""
    if not isinstance(tensor, dict) or not isinstance(tensor.get("name"), str):
        raise ProtocolError("every tensor of inputs must be an object with a name")
    name: str = tensor["name"]
    shape, datatype, cells = map(tensor.get, ("shape", "datatype", "data"))
    where = f"tensor {name!r}"
    size = _read_parameters(tensor, f"{where}: ").get("binary_data_size")
    if not isinstance(datatype, str) or datatype not in _CELLS:
        raise ProtocolError(f"{where}: datatype {datatype!r} is not one of {', '.join(_CELLS)}")
    if (
        not isinstance(shape, list)
        or len(shape) not in (1, 2)
        or not all(type(length) is int and length > 0 for length in shape)
    ):
        raise ProtocolError(f"{where} has shape {shape!r}; send [n] or [n, p], without zeros")
    if size is not None:
        if type(size) is not int or not 0 <= size <= len(rest):
            raise ProtocolError(
                f"{where}: binary_data_size is {json.dumps(size)[:40]}, and {len(rest)} bytes of "
                "binary data are left"
            )
        if cells is not None:
            raise ProtocolError(f"{where} has both data and binary_data_size; send one of them")
        cells = _from_binary(where, datatype, math.prod(shape), rest[:size])
        return name, shape, cells, rest[size:]
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
    return name, shape, cells, rest


def _from_binary(where: str, datatype: str, n: int, data: memoryview) -> list[Any]:
    """Decode n cells: packed numbers, or texts each preceded by its length in 4 bytes."""
    if datatype in _BINARY:
        width = struct.calcsize(f"<{_BINARY[datatype]}")
        if len(data) != n * width:
            raise ProtocolError(f"{where}: {n} values of {datatype} are not {len(data)} bytes")
        cells = struct.unpack(f"<{n}{_BINARY[datatype]}", data)
        return [None if cell != cell else cell for cell in cells]  # NaN is a missing number
    texts: list[str] = []
    try:
        while data:
            (length,) = struct.unpack_from("<I", data)
            if length > len(data) - 4:
                raise ProtocolError(f"{where}: text {len(texts)} extends beyond the data")
            texts.append(str(data[4 : 4 + length], "utf-8"))
            data = data[4 + length :]
    except struct.error:
        raise ProtocolError(f"{where}: the data end within the length of a text") from None
    except UnicodeDecodeError:
        raise ProtocolError(f"{where}: text {len(texts)} is not UTF-8") from None
    if len(texts) != n:
        raise ProtocolError(f"{where} has {len(texts)} texts, not {n}")
    return texts


def _to_binary(tensor: dict[str, Any]) -> bytes:
    """Remove the data from a tensor and return them in binary."""
    cells, datatype = tensor.pop("data"), tensor["datatype"]
    if datatype in _BINARY:
        data = struct.pack(f"<{len(cells)}{_BINARY[datatype]}", *cells)
    else:
        texts = [cell.encode() for cell in cells]
        data = b"".join(struct.pack("<I", len(text)) + text for text in texts)
    tensor["parameters"] = {"binary_data_size": len(data)}
    return data


def _check_cells(where: str, datatype: str, cells: list[Any]) -> None:
    allowed = _CELLS[datatype]
    if not set(map(type, cells)) <= allowed:
        wrong = next(cell for cell in cells if type(cell) not in allowed)
        raise ProtocolError(f"{where}: {json.dumps(wrong)[:40]} is not {datatype}")
    if allowed is _INTEGER:
        bits, signed = int(datatype.partition("INT")[2]), datatype[0] == "I"
        low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
        for cell in (min(cells), max(cells)):
            if not low <= cell <= high:
                raise ProtocolError(f"{where}: {cell} is out of range for {datatype}")


def write_tensors(answer: dict[str, Any], wanted: Any = None) -> list[dict[str, Any]]:
    """Convert a program's response to tensors of shape (n,).

    Parameters
    ----------
    answer : dict
        ``prediction`` and other columns; those that have no tensor type are left out.
    wanted : list of dict, optional
        A request's ``outputs``: the names of the tensors that the client wants, by default all.
    """
    n = len(answer["prediction"])
    tensors = {}
    for name, column in answer.items():
        datatype = _find_datatype(column) if isinstance(column, list) and len(column) == n else ""
        if datatype:
            tensors[name] = {"name": name, "shape": [n], "datatype": datatype, "data": column}
    if not wanted:
        return list(tensors.values())
    try:
        return [dict(tensors[output["name"]]) for output in wanted]  # a name may be listed twice
    except (KeyError, TypeError):
        raise ProtocolError(
            f"outputs must name some of {', '.join(tensors)}, as in "
            '{"outputs": [{"name": "prediction"}]}'
        ) from None


def _find_datatype(column: list[Any]) -> str:
    types = set(map(type, column))
    for datatype in ("BOOL", "INT64", "FP64", "BYTES"):
        if types <= _CELLS[datatype] - {type(None)}:
            if datatype == "INT64" and not -(2**63) <= min(column) <= max(column) < 2**63:
                continue
            return datatype
    return ""
