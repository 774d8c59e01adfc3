"""KServe's protocols, v1 and v2 (Open Inference Protocol), over a program that speaks JSON.

To the program a request is as if it had come to /invocations: ``{"instances": [...],
"parameters": {...}}`` goes in; ``{"prediction": [...], ...}`` or, where answers are explained, one
such object a line comes out. https://kserve.github.io/website/docs/concepts/architecture/data-plane
"""

import importlib.metadata
import json
from typing import Any

from model_server import tensors
from model_server.http1 import Answer
from model_server.program import Program, Result
from model_server.tensors import ProtocolError

JSON = "application/json"
BINARY = "application/octet-stream"  # JSON, then binary data
PLAIN = f"{JSON}; explain=false"
# A line is a row: in JSON each program lays its columns out as it likes.
EXPLAINED = "application/jsonlines; explain=true"


def list_facts(model: str, metadata: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Return what a server that can answer says of itself and its model: path -> JSON."""
    v2 = f"/v2/models/{model}"
    version = importlib.metadata.version("model-server")
    extensions = ["binary_tensor_data"]
    return {
        "/": {"status": "alive"},  # KServe's own client asks for it, in v1
        "/v1/models": {"models": [model]},
        f"/v1/models/{model}": {"name": model, "ready": True},
        "/v2": {"name": "model-server", "version": version, "extensions": extensions},
        "/v2/health/live": {"live": True},
        "/v2/health/ready": {"ready": True},
        v2: {"name": model, "platform": "sagemaker", **metadata},
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
        result = program(body, JSON, PLAIN, headers)
        content = json.loads(result.body)
        answer = {"predictions": content["prediction"]}
        if "warnings" in content:
            answer["warnings"] = content["warnings"]
    elif path.endswith(":explain"):
        result = program(body, JSON, EXPLAINED, headers)
        predictions, explanations = _read_lines(result.body)
        answer = {"predictions": predictions, "explanations": explanations}
    else:
        return _infer(program, path.split("/")[3], body, headers)
    return result._replace(body=json.dumps(answer).encode(), content_type=JSON)


def _read_lines(body: bytes) -> tuple[list, list[dict[str, Any]]]:
    explanations = [json.loads(line) for line in body.splitlines()]
    return [explanation.pop("prediction") for explanation in explanations], explanations


def _infer(program: Program, model: str, body: bytes, headers: dict[str, str]) -> Result:
    inputs = program.metadata["inputs"]
    try:
        request = tensors.read_request(body, headers.get(tensors.HEADER), inputs)
        content = {"instances": request.instances, "parameters": request.parameters}
        encoded = json.dumps(content).encode()
    except RecursionError:
        raise ProtocolError("the body is nested too deeply") from None
    result = program(encoded, JSON, EXPLAINED if request.explained else PLAIN, headers)
    warnings: list[str] = []
    if request.explained:
        predictions, explanations = _read_lines(result.body)
        shared = [key for key in explanations[0] if all(key in each for each in explanations)]
        columns = {"prediction": predictions}
        columns |= {key: [each[key] for each in explanations] for key in shared}
        columns["explanation"] = list(map(json.dumps, explanations))
    else:
        columns = json.loads(result.body)
        warnings = columns.pop("warnings", [])
    n = len(request.instances)
    if len(columns["prediction"]) != n:
        raise ProtocolError(
            f"the model read {n} rows as {len(columns['prediction'])}; "
            "send each of its columns as a tensor, by its name"
        )
    outputs, data = tensors.write_outputs(columns, n, request)
    answer: dict[str, Any] = {"model_name": model}
    if request.id is not None:
        answer["id"] = request.id
    if warnings:
        answer["parameters"] = {"warnings": "\n".join(map(str, warnings))}  # they can be no array
    head = json.dumps(answer | {"outputs": outputs}).encode()
    if not any("parameters" in output for output in outputs):
        return result._replace(body=head, content_type=JSON)
    further = result.headers | {tensors.HEADER: str(len(head))}
    return Result(head + data, BINARY, further)
