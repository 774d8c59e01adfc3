"""KServe's protocols, v1 and v2 (Open Inference Protocol), over a program that speaks JSON.

To the program a request is as if it had come to /invocations: ``{"instances": [...],
"parameters": {...}}`` goes in; ``{"prediction": [...], ...}`` or, where answers are explained, one
such object a line comes out. https://kserve.github.io/website/docs/concepts/architecture/data-plane
"""

import importlib.metadata
import itertools
import json
import math
from typing import Any

from model_server.http1 import Answer
from model_server.program import Program, Result

JSON = "application/json"

_NUMBER, _INTEGER = {int, float, type(None)}, {int}  # null is a number that is missing
_CELLS: dict[str, set[type]] = {
    "BOOL": {bool},
    "BYTES": {str, type(None)},
    **{f"FP{bits}": _NUMBER for bits in (16, 32, 64)},
    **{f"{kind}{bits}": _INTEGER for kind in ("INT", "UINT") for bits in (8, 16, 32, 64)},
}


class ProtocolError(ValueError):
    """A request that is not as its protocol has it."""

    status = 400


def list_facts(model: str) -> dict[str, Any]:
    """Return what a server that can answer says of itself and its model: path -> JSON."""
    v2 = f"/v2/models/{model}"
    version = importlib.metadata.version("model-server")
    return {
        "/": {"status": "alive"},  # KServe's own client asks for it, in v1
        "/v1/models": {"models": [model]},
        f"/v1/models/{model}": {"name": model, "ready": True},
        "/v2": {"name": "model-server", "version": version, "extensions": []},
        "/v2/health/live": {"live": True},
        "/v2/health/ready": {"ready": True},
        # What a model takes its program knows, and no hook of SageMaker's says.
        v2: {"name": model, "platform": "sagemaker", "inputs": [], "outputs": []},
        f"{v2}/ready": {"name": model, "ready": True},
    }


def list_calls(model: str) -> list[str]:
    """Return the paths to POST to, whose requests the program answers."""
    return [
        f"/v1/models/{model}:predict",
        f"/v1/models/{model}:explain",
        f"/v2/models/{model}/infer",
    ]


def refuse(path: str, answer: Answer) -> Answer:
    """Return an error as the protocol of its path words it: in v2 as a string."""
    if not path.startswith("/v2"):
        return answer
    message = json.loads(answer.body)["error"]["message"]
    content = json.dumps({"error": message}).encode()
    return Answer(answer.status, content, headers=answer.headers)


def call(program: Program, path: str, body: bytes, headers: dict[str, str]) -> Result:
    """Have a program answer a request to one of the paths that call it.

    Raises
    ------
    ProtocolError
        If the request is not as the protocol has it. Whatever the program raises goes through.
    """
    if path.endswith(":predict"):
        result = program(body, JSON, f"{JSON}; explain=false", headers)
        answer: dict[str, Any] = {"predictions": json.loads(result.body)["prediction"]}
    elif path.endswith(":explain"):
        # A line is a row: in JSON each program lays its columns out as it likes.
        result = program(body, JSON, "application/jsonlines; explain=true", headers)
        explanations = [json.loads(line) for line in result.body.splitlines()]
        predictions = [explanation.pop("prediction") for explanation in explanations]
        answer = {"predictions": predictions, "explanations": explanations}
    else:
        if "inference-header-content-length" in headers:
            raise ProtocolError("binary tensor data is not supported; send all tensors as JSON")
        try:
            request = _load(body)
            content = json.dumps(read_tensors(request)).encode()
        except RecursionError:
            raise ProtocolError("the body is nested too deeply") from None
        result = program(content, JSON, f"{JSON}; explain=false", headers)
        answer = {"model_name": path.split("/")[3]}
        if request.get("id") is not None:
            answer["id"] = request["id"]
        answer["outputs"] = write_tensors(json.loads(result.body), request.get("outputs"))
    return result._replace(body=json.dumps(answer).encode(), content_type=JSON)


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


def read_tensors(request: dict[str, Any]) -> dict[str, Any]:
    """Return the rows that a request of v2 holds, as a program reads them.

    Parameters
    ----------
    request : dict
        Its ``inputs`` are either one tensor of shape (n, p), the columns in the model's order, or
        one of shape (n,) or (n, 1) for each column, by name.

    Returns
    -------
    dict
        ``instances``: n lists, or n records; and the request's ``parameters``.
    """
    inputs = request.get("inputs")
    if not isinstance(inputs, list) or not inputs:
        raise ProtocolError("inputs must be an array of tensors, at least one")
    tensors = list(map(_read_tensor, inputs))
    (_, shape, cells), *others = tensors
    if len(shape) == 2 and not others:
        p = shape[1]
        instances: list = [cells[start : start + p] for start in range(0, len(cells), p)]
    else:
        columns: dict[str, list] = {}
        for name, shape, cells in tensors:
            if shape[1:] not in ([], [1]):
                raise ProtocolError(
                    f"tensor {name!r} has shape {shape}; of several tensors each is one column, "
                    "of shape [n] or [n, 1]"
                )
            if name in columns:
                raise ProtocolError(f"two tensors are named {name!r}")
            if shape[0] != (n := tensors[0][1][0]):
                raise ProtocolError(f"tensor {name!r} has {shape[0]} rows, the first one {n}")
            columns[name] = cells
        rows = zip(*columns.values(), strict=True)
        instances = [dict(zip(columns, row, strict=True)) for row in rows]
    return {"instances": instances, "parameters": _read_parameters(request, "")}


def _read_parameters(owner: dict[str, Any], where: str) -> dict[str, Any]:
    parameters = owner.get("parameters") or {}
    if not isinstance(parameters, dict):
        raise ProtocolError(f"{where}parameters must be an object")
    return parameters


def _read_tensor(tensor: Any) -> tuple[str, list[int], list]:
    """Check a tensor; return its name, its shape and its cells, row by row."""
    if not isinstance(tensor, dict) or not isinstance(tensor.get("name"), str):
        raise ProtocolError("every tensor of inputs must be an object with a name")
    name, shape, datatype, cells = map(tensor.get, ("name", "shape", "datatype", "data"))
    where = f"tensor {name!r}"
    if "binary_data_size" in _read_parameters(tensor, f"{where}: "):
        raise ProtocolError(f"{where} is binary, which is not supported; send its data as JSON")
    if not isinstance(datatype, str) or datatype not in _CELLS:
        raise ProtocolError(f"{where}: datatype {datatype!r} is none of {', '.join(_CELLS)}")
    if (
        not isinstance(shape, list)
        or len(shape) not in (1, 2)
        or not all(type(length) is int and length > 0 for length in shape)
    ):
        raise ProtocolError(f"{where} has shape {shape!r}; send [n] or [n, p], without zeros")
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
    return name, shape, cells


def _check_cells(where: str, datatype: str, cells: list) -> None:
    allowed = _CELLS[datatype]
    if not set(map(type, cells)) <= allowed:
        wrong = next(cell for cell in cells if type(cell) not in allowed)
        raise ProtocolError(f"{where}: {json.dumps(wrong)[:40]} is no {datatype}")
    if allowed is _INTEGER:
        bits, signed = int(datatype.partition("INT")[2]), datatype[0] == "I"
        low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
        for cell in (min(cells), max(cells)):
            if not low <= cell <= high:
                raise ProtocolError(f"{where}: {cell} is beyond {datatype}")


def write_tensors(answer: dict[str, Any], wanted: Any = None) -> list[dict[str, Any]]:
    """Return a program's answer as tensors of shape (n,).

    Parameters
    ----------
    answer : dict
        ``prediction`` and other columns; those that no tensor can hold are left out.
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
        return [tensors[output["name"]] for output in wanted]
    except (KeyError, TypeError):
        raise ProtocolError(
            f"outputs must name some of {', '.join(tensors)}, as in "
            '{"outputs": [{"name": "prediction"}]}'
        ) from None


def _find_datatype(column: list) -> str:
    types = set(map(type, column))
    for datatype in ("BOOL", "INT64", "FP64", "BYTES"):
        if types <= _CELLS[datatype] - {type(None)}:
            return datatype
    return ""
