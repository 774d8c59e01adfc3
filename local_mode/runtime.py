"""SageMaker's runtime API: invocations of endpoints."""

import http.client
import json
from collections.abc import Mapping
from typing import Any

from local_mode.fleet import Variant
from local_mode.hosting import LOG_GROUP, Endpoints
from local_mode.serving import Answer
from local_mode.store import ACCOUNT
from local_mode.wire import ApiError

LIMIT = 25_000_000  # bytes of a request
_ATTRIBUTES = "X-Amzn-SageMaker-Custom-Attributes"
_PREFIX = "HTTP_X_AMZN_SAGEMAKER_"
_UNSUPPORTED = (
    "TARGET_MODEL",
    "TARGET_CONTAINER_HOSTNAME",
    "INFERENCE_COMPONENT",
    "ENABLE_EXPLANATIONS",
    "SESSION_ID",
)


class ModelError(ApiError):
    """The container's own error, which the client gets with what it said."""

    def __init__(self, endpoint: str, region: str, status: int, message: str):
        side = "server" if status >= 500 or not status else "client"
        group = f"{LOG_GROUP}/{endpoint}"
        super().__init__(
            "ModelError",
            f'Received {side} error ({status}) from primary with message "{message}". '
            f"See the log group {group} in account {ACCOUNT} for more information.",
            424,
            OriginalStatusCode=status,
            OriginalMessage=message,
            LogStreamArn=f"arn:aws:logs:{region}:{ACCOUNT}:log-group:{group}",
        )


def invoke(
    endpoints: Endpoints,
    region: str,
    name: str,
    environ: Mapping[str, Any],
    body: bytes,
) -> tuple[list[tuple[str, str]], bytes]:
    """Answer InvokeEndpoint.

    Parameters
    ----------
    endpoints : Endpoints
    region : str
    name : str
        The endpoint's.
    environ : mapping
        The request, as WSGI has it.
    body : bytes

    Returns
    -------
    headers : list of tuple
    body : bytes

    Raises
    ------
    ApiError
        If there is no such endpoint or variant, or the container answers with an error.
    """
    for header in _UNSUPPORTED:
        if environ.get(_PREFIX + header):
            member = header.title().replace("_", "")
            raise ApiError("ValidationError", f"{member} is not supported on this machine")
    with endpoints.fleet(name) as fleet:
        variant = fleet.choose(environ.get(f"{_PREFIX}TARGET_VARIANT"))
        if len(body) > LIMIT:
            raise ApiError(
                "ValidationError",
                f"the request has {len(body)} bytes, and {LIMIT} is the limit",
                413,
            )
        answer = ask(variant, name, region, environ, body)
    headers = [
        ("Content-Type", answer.headers.get("Content-Type", "")),
        ("x-Amzn-Invoked-Production-Variant", variant.name),
    ]
    if _ATTRIBUTES in answer.headers:
        headers.append((_ATTRIBUTES, answer.headers[_ATTRIBUTES]))
    return headers, answer.body


def ask(
    variant: Variant, name: str, region: str, environ: Mapping[str, Any], body: bytes
) -> Answer:
    """Send a request to a variant, and raise its error, if that is the answer."""
    headers = {"Content-Type": environ.get("CONTENT_TYPE") or "application/octet-stream"}
    for header, key in (
        ("Accept", "HTTP_ACCEPT"),
        (_ATTRIBUTES, f"{_PREFIX}CUSTOM_ATTRIBUTES"),
        ("X-Amzn-SageMaker-Inference-Id", f"{_PREFIX}INFERENCE_ID"),
    ):
        if environ.get(key):
            headers[header] = environ[key]
    try:
        answer = variant.server.invoke("/invocations", body, headers)
    except TimeoutError:
        raise ModelError(
            name, region, 0, "Your invocation timed out while waiting for a response"
        ) from None
    except (OSError, http.client.HTTPException) as error:
        raise ModelError(name, region, 0, f"the container does not answer: {error!r}") from None
    if answer.status >= 400:
        raise ModelError(name, region, answer.status, answer.body.decode(errors="replace"))
    return answer


def render_error(error: ApiError) -> tuple[list[tuple[str, str]], bytes]:
    """Return an error's headers and body as the runtime gives them."""
    headers = [("Content-Type", "application/json"), ("x-amzn-ErrorType", error.code)]
    content = {"ErrorCode": error.code, "Message": error.message, **error.members}
    return headers, json.dumps(content).encode()
