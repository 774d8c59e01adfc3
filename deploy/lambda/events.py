"""HTTP as Lambda sees it: the events of its gateways, and the answers to them.

API Gateway (in version 1 or 2 of its format), function URLs (version 2) and load balancers send
events; so does whoever invokes the function directly, with a body and no more.
"""

import base64
import binascii
import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

# Lambda carries 6 MB, of JSON, in which base64 makes four bytes of three, and quotes take two.
ANSWER_LIMIT = 6 * 2**20 * 3 // 4

CUSTOM_ATTRIBUTES = "X-Amzn-SageMaker-Custom-Attributes"

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
    """An event that is not a readable HTTP request."""


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


class Cors:
    """Answers that browsers show to pages of other origins, by the Fetch standard.

    Parameters
    ----------
    origins : str
        The origins, separated by commas; ``*`` for all of them, and nothing for none.
    """

    def __init__(self, origins: str):
        self._origins = {origin.strip().rstrip("/") for origin in origins.split(",")} - {""}

    def apply(self, request: Request, respond: Callable[[Request], Answer]) -> Answer:
        """Answer a request, and by itself what a browser asks before it."""
        if not self._origins:
            return respond(request)
        origin = request.headers.get("origin", "")
        headers = {} if "*" in self._origins else {"Vary": "Origin"}
        if not headers or origin in self._origins:
            headers["Access-Control-Allow-Origin"] = origin if headers else "*"
            headers["Access-Control-Expose-Headers"] = f"Retry-After, {CUSTOM_ATTRIBUTES}"
        if request.method != "OPTIONS":
            answer = respond(request)
            return answer._replace(headers={**answer.headers, **headers})
        headers["Access-Control-Allow-Methods"] = "GET, POST"
        headers["Access-Control-Allow-Headers"] = (
            "Accept, Authorization, Content-Type, X-Amz-Date, X-Amz-Security-Token, X-Api-Key, "
            + CUSTOM_ATTRIBUTES
        )
        headers["Access-Control-Max-Age"] = "3600"
        return Answer(204, "text/plain", b"", headers)


def handle(event: Any, respond: Callable[[Request], Answer]) -> dict[str, Any]:
    """Answer an event by what ``respond`` answers to its request."""
    try:
        answer = respond(read(event))
    except EventError as error:
        answer = refuse(400, str(error))
    # A load balancer with multi-value headers reads no others.
    multiple = isinstance(event, Mapping) and "multiValueHeaders" in event
    return write(answer, multiple and "headers" not in event)


def read(event: Any) -> Request:
    """Read an event.

    Parameters
    ----------
    event : mapping
        Of a gateway; or, from whoever invokes the function directly, ``{"body": ...}``, a text or
        JSON, with ``headers`` if need be; ``{"data": ...}``, a text of CSV; or
        ``{"instances": [...]}``.

    Returns
    -------
    Request
        Its path is the last segment of the event's: a stage and a base path may come before it,
        and a slash behind.

    Raises
    ------
    EventError
        If this is another kind of event, or its base64 is invalid.
    """
    try:
        if event.get("version") == "2.0":
            method, path = event["requestContext"]["http"]["method"], event["rawPath"]
        elif "httpMethod" in event:
            method, path = event["httpMethod"], event["path"]
        else:
            method, path = "POST", "/invocations"
            event = _read_direct(event)
        path = cut_path(path)
        headers = {name.lower(): value for name, value in (event.get("headers") or {}).items()}
        for name, values in (event.get("multiValueHeaders") or {}).items():
            headers[name.lower()] = ", ".join(values)
        body = event.get("body") or ""
        content = body.encode()
        if not all(isinstance(value, str) for value in (method, *headers.values())):
            raise TypeError
    except (AttributeError, KeyError, TypeError):
        raise EventError(
            "the event is not from API Gateway, a load balancer or a function URL; invoke the "
            'function by HTTP, or directly with {"body": ...}'
        ) from None
    if not event.get("isBase64Encoded"):
        return Request(method, path, headers, content)
    try:
        return Request(method, path, headers, base64.b64decode(content, validate=True))
    except binascii.Error as error:
        raise EventError(f"the event's body is not base64: {error}") from None


def _read_direct(event: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a direct invocation as an event with a body."""
    if "instances" in event:
        return {"body": json.dumps(event)}
    if "body" not in event and isinstance(event["data"], str):
        return {"body": event["data"], "headers": {"content-type": "text/csv"}}
    body = event["body"]
    return event if isinstance(body, str) else {**event, "body": json.dumps(body)}


def cut_path(path: str) -> str:
    """Return the last segment of a path, which is all that stages and base paths leave alone."""
    return "/" + path.rstrip("/").rpartition("/")[2]


def write(answer: Answer, multiple: bool = False) -> dict[str, Any]:
    """Return what a function answers to an event; no text goes as base64.

    Parameters
    ----------
    answer : Answer
    multiple : bool
        Whether headers go as ``multiValueHeaders``.
    """
    answer = fit(answer)
    media = answer.content_type.partition(";")[0].strip().lower()
    is_text = media.startswith(("text/", "application/json"))  # JSON lines, too
    headers = {"Content-Type": answer.content_type, **answer.headers}
    return {
        "statusCode": answer.status,
        **(
            {"multiValueHeaders": {name: [value] for name, value in headers.items()}}
            if multiple
            else {"headers": headers}
        ),
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
