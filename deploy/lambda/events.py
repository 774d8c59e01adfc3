"""HTTP as Lambda sees it: events of API Gateway and of function URLs, and the answers to them."""

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

# Lambda carries 6 MB, of JSON, in which base64 makes four bytes of three, and quotes take two.
ANSWER_LIMIT = 6 * 2**20 * 3 // 4

# As the model's own server words them; HTTPStatus does it differently from one Python to the next.
_TYPES = {
    400: "BadRequest",
    404: "NotFound",
    405: "MethodNotAllowed",
    406: "NotAcceptable",
    413: "PayloadTooLarge",
    415: "UnsupportedMediaType",
    429: "TooManyRequests",
    500: "InternalServerError",
    502: "BadGateway",
    503: "ServiceUnavailable",
    504: "Timeout",
}


class EventError(ValueError):
    """An event that is no readable HTTP request."""


class Request(NamedTuple):
    """One HTTP request; the names of its headers are in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class Answer(NamedTuple):
    """What goes back to the client."""

    status: int
    content_type: str
    body: bytes
    headers: Mapping[str, str] = {}


def read(event: Mapping[str, Any]) -> Request:
    """Read an event of API Gateway, in version 1 or 2 of its format, or of a function URL.

    Parameters
    ----------
    event : mapping
        Function URLs send version 2.

    Returns
    -------
    Request
        Its path is without the stage.

    Raises
    ------
    EventError
        If this is another kind of event, or its base64 is none.
    """
    try:
        if event.get("version") == "2.0":
            context = event["requestContext"]
            method, path = context["http"]["method"], event["rawPath"]
            stage = f"/{context.get('stage', '$default')}"
            if path == stage or path.startswith(stage + "/"):  # a domain of one's own has none
                path = path[len(stage) :]
        else:
            method, path = event["httpMethod"], event["path"]
    except (AttributeError, KeyError, TypeError):
        raise EventError(
            "the event is not from API Gateway or a function URL; invoke the function by HTTP"
        ) from None
    headers = {name.lower(): value for name, value in (event.get("headers") or {}).items()}
    body = event.get("body") or ""
    if not event.get("isBase64Encoded"):
        return Request(method, path or "/", headers, body.encode())
    try:
        return Request(method, path or "/", headers, base64.b64decode(body, validate=True))
    except binascii.Error as error:
        raise EventError(f"the event's body is not base64: {error}") from None


def write(answer: Answer) -> dict[str, Any]:
    """Return what a function answers to an event of either version; no text goes as base64."""
    answer = fit(answer)
    media = answer.content_type.partition(";")[0].strip().lower()
    is_text = media.startswith(("text/", "application/json"))  # JSON lines, too
    return {
        "statusCode": answer.status,
        "headers": {"Content-Type": answer.content_type, **answer.headers},
        "isBase64Encoded": not is_text,
        "body": answer.body.decode() if is_text else base64.b64encode(answer.body).decode(),
    }


def fit(answer: Answer) -> Answer:
    """Return the answer, or why Lambda cannot carry it."""
    if len(answer.body) <= ANSWER_LIMIT:
        return answer
    return refuse(
        413,
        f"the answer has {len(answer.body)} bytes, and Lambda carries {ANSWER_LIMIT}; send fewer "
        "rows at a time",
    )


def refuse(status: int, message: str, **headers: str) -> Answer:
    """Return an error in the form that all errors have; headers with _ for -."""
    error = {"type": _TYPES.get(status, "ClientError"), "message": message}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status, "application/json", json.dumps({"error": error}).encode(), named)
