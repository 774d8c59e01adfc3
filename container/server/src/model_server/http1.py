"""HTTP/1.1: bytes to requests, and answers to bytes.

llhttp, the parser of Node.js, handles the syntax; this module enforces the limits.
"""

import functools
import itertools
import json
import os
import time
from collections.abc import Mapping
from email.utils import formatdate
from http import HTTPStatus
from typing import TYPE_CHECKING

import httptools

from model_server.budget import Budget

if TYPE_CHECKING:
    from model_server.connection import Connection

HEAD_LIMIT = 64 * 1024  # bytes of request line and headers; and of chunk framing, beyond:
FRAMING = 16  # bytes of framing per byte of the body; chunks of one byte need 5
HEADERS_LIMIT = 256
MESSAGE_LIMIT = 1000  # characters of an error's message

# Some phrases of HTTPStatus differ between versions of Python.
_TYPES = {
    400: "BadRequest",
    404: "NotFound",
    405: "MethodNotAllowed",
    406: "NotAcceptable",
    408: "RequestTimeout",
    413: "PayloadTooLarge",
    415: "UnsupportedMediaType",
    431: "HeadersTooLarge",
    500: "InternalServerError",
    501: "NotImplemented",
    503: "ServiceUnavailable",
    504: "Timeout",
}
_REASONS = {status.value: status.phrase for status in HTTPStatus}


class Response:
    """A response to a client.

    Parameters
    ----------
    status : int
    body : bytes
    content_type : str
    headers : mapping of str to str
        Further headers.
    """

    __slots__ = ("body", "content_type", "headers", "status")

    def __init__(
        self,
        status: int,
        body: bytes,
        content_type: str = "application/json",
        headers: Mapping[str, str] | None = None,
    ):
        self.status, self.body = status, body
        self.content_type, self.headers = content_type, headers


def refusal(status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    """Return an error response in the format shared by all errors."""
    # A program's message may repeat the whole request.
    message = message if len(message) <= MESSAGE_LIMIT else message[:MESSAGE_LIMIT] + "..."
    error = {"type": _TYPES.get(status, "ClientError"), "message": message}
    if status == 503:
        headers = {"retry-after": "1", **(headers or {})}
    return Response(status, json.dumps({"error": error}).encode(), headers=headers)


def encode(
    answer: Response, last: bool = False, head_only: bool = False, kept: bool = False
) -> bytes:
    """Encode a response.

    Parameters
    ----------
    answer : Response
    last : bool
        Whether the connection is closed after it.
    head_only : bool
        Whether the request was a HEAD.
    kept : bool
        Whether to send ``Connection: keep-alive``, which HTTP/1.0 clients need.
    """
    head = [
        f"HTTP/1.1 {answer.status} {_REASONS.get(answer.status, 'Error')}\r\n"
        f"content-type: {answer.content_type}\r\ncontent-length: {len(answer.body)}\r\n"
        f"date: {_write_date(int(time.time()))}\r\n"
    ]
    if answer.headers:
        head += [f"{name}: {value}\r\n" for name, value in answer.headers.items()]
    if last or kept:
        head.append(f"connection: {'close' if last else 'keep-alive'}\r\n")
    head.append("\r\n")
    return "".join(head).encode("latin-1") + (b"" if head_only else answer.body)


@functools.lru_cache(1)
def _write_date(seconds: int) -> str:
    return formatdate(seconds, usegmt=True)


_START, _numbers = os.urandom(4).hex(), itertools.count(1)


class Request:
    """One request as received."""

    __slots__ = (
        "body",
        "budget",
        "connection",
        "given",
        "headers",
        "held",
        "id",
        "keep_alive",
        "method",
        "old",
        "path",
        "prompt",
        "received",
        "refusal",
        "retried",
        "sent",
        "size",
    )

    connection: "Connection"  # that received it

    def __init__(self, budget: Budget | None = None):
        self.id = f"{_START}{next(_numbers):08x}"
        self.method = self.path = ""
        self.headers: dict[str, str] = {}
        self.body: bytes | bytearray = b""
        self.size = 0  # of the body
        self.budget, self.held = budget, 0  # the budget, and bytes of it that the body takes
        self.keep_alive = False
        self.old = False  # HTTP/1.0
        self.prompt = False  # sent immediately after the previous response
        self.refusal: Response | None = None  # set if it was refused while being read
        self.given = False  # to a worker
        self.retried = False  # given to a second worker, as the first died before reading it
        self.received = self.sent = time.monotonic()  # its last byte; when a worker got it

    def answer(self, answer: Response) -> None:
        """Send its response."""
        self.connection.answer(self, answer)

    def drop(self) -> None:
        """Free the body."""
        if self.budget:
            self.budget.free(self.held)
        self.body, self.held = b"", 0

    @property
    def abandoned(self) -> bool:
        """Whether the client has disconnected."""
        return self.connection.closed


class _Stop(Exception):
    """Stops the parser after a refusal."""


class Reader:
    """Parse bytes into requests. llhttp calls the ``on_`` methods.

    Parameters
    ----------
    body_limit : int
        In bytes.
    budget : Budget, optional
        Shared limit on the size of all bodies.
    """

    def __init__(self, body_limit: int, budget: Budget | None = None):
        self._parser = httptools.HttpRequestParser(self)
        self._body_limit, self._budget = body_limit, budget
        self._requests: list[Request] = []
        self.unfinished: Request | None = None
        self._complete = False  # whether its headers are
        self._chunked = self._upgrade = False
        self._head = self._n_headers = 0  # bytes and number of its header lines
        self._wire = 0  # bytes received after those with its beginning
        self.awaited = False  # whether the client expects 100 Continue
        self.ended = False  # stop reading: after a refusal or the last request

    def feed(self, data: bytes | memoryview) -> list[Request]:
        """Parse more bytes, and return the requests that are now complete or refused."""
        if self.ended:  # further bytes of a refused client
            return []
        request = self.unfinished
        try:
            rest = self._parse(data)
            while rest is not None:
                self._parse(self._decline_upgrade())
                rest = self._parse(rest)
        except httptools.HttpParserError as error:
            if isinstance(error.__context__, MemoryError):
                self.refuse(503, "there is not enough memory for the request")
            elif not self.ended:  # after the last request, or a refusal
                self.refuse(400, "the request is not valid HTTP/1.1 (RFC 9112)")
        if request and request is self.unfinished:
            self._wire += len(data)
            if self._wire > HEAD_LIMIT + (1 + FRAMING) * len(request.body):
                self._refuse_framing()
        return self.take()

    def take(self) -> list[Request]:
        """Return and forget the requests that are complete or refused."""
        requests, self._requests = self._requests, []
        return requests

    def close(self) -> None:
        """Free the parser and the unfinished request.

        The parser and this reader refer to each other; without this, they and their data would
        stay in memory until the garbage collector runs.
        """
        self._parser, self.ended = None, True  # type: ignore[assignment]  # nothing more is fed
        if self.unfinished:
            self.unfinished.drop()

    @property
    def is_parsing(self) -> bool:
        """Whether the next bytes must be parsed, rather than just copied or dropped."""
        in_body = self._complete and not self._chunked and self.unfinished is not None
        return not (in_body or self.ended)

    def refuse(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        """Refuse the request being read, and stop reading."""
        request, self.unfinished = self.unfinished or Request(), None
        request.refusal, self.ended = refusal(status, message, headers), True
        self._finish(request)
        request.drop()

    def _refuse_framing(self) -> None:
        if self._complete:
            self.refuse(
                400,
                "the body's chunks are too small or their framing is too long; send larger chunks",
            )
        else:
            self._refuse_head()

    def _refuse_head(self) -> None:
        message = f"request line and headers exceed {HEAD_LIMIT} bytes or {HEADERS_LIMIT} headers"
        self.refuse(431, message)

    def _finish(self, request: Request) -> None:
        if request.path:  # otherwise no request has begun
            request.method = self._parser.get_method().decode("latin-1")
        request.path = request.path.partition("?")[0]
        request.size = len(request.body)
        request.received = request.sent = time.monotonic()
        self._requests.append(request)

    def _parse(self, data: bytes | memoryview) -> memoryview | None:
        # Return the bytes after a head that asks for an upgrade.
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as pause:
            return memoryview(data)[pause.args[0] :]
        return None

    def _decline_upgrade(self) -> bytes:
        # After such a head llhttp stops parsing HTTP. Continue with a new parser, which is fed the
        # head without the Upgrade header.
        request = self.unfinished
        assert request
        method, version = self._parser.get_method(), self._parser.get_http_version()
        lines = [
            f"{name}: {value}" for name, value in request.headers.items() if name != "upgrade"
        ]
        self._parser = httptools.HttpRequestParser(self)
        head = "\r\n".join([f" {request.path} HTTP/{version}", *lines, "", ""])
        return method + head.encode("latin-1")

    # ------------------------------------------------------------ the parser's side

    def on_message_begin(self) -> None:  # noqa: D102
        self.unfinished, self._complete = Request(self._budget), False
        self._head = self._n_headers = self._wire = 0

    def on_url(self, url: bytes) -> None:  # noqa: D102
        assert self.unfinished
        self.unfinished.path += url.decode("latin-1")  # may be called in pieces
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:  # noqa: D102
        self._n_headers += 1
        self._count(len(name) + len(value) + len(": \r\n"))
        if self._complete:  # trailers are ignored
            return
        assert self.unfinished
        headers, key = self.unfinished.headers, name.decode("latin-1").lower()
        text = value.decode("latin-1").strip(" \t")
        if key not in headers:
            headers[key] = text
        elif key == "host":
            self.refuse(400, "the request has two Host headers; send one")
            raise _Stop
        else:
            headers[key] = f"{headers[key]}, {text}"

    def _count(self, n_bytes: int) -> None:
        self._head += n_bytes
        if self._head > HEAD_LIMIT or self._n_headers > HEADERS_LIMIT:
            self._refuse_head()
            raise _Stop

    def on_headers_complete(self) -> None:  # noqa: D102
        assert self.unfinished
        parser, headers = self._parser, self.unfinished.headers
        self._upgrade = parser.should_upgrade() and parser.get_method() != b"CONNECT"
        if self._upgrade:
            return
        self._complete = True
        codings = headers.get("transfer-encoding")
        self._chunked = codings is not None
        if "host" not in headers and parser.get_http_version() not in ("0.9", "1.0"):
            self.refuse(400, "the request has no Host header, which HTTP/1.1 requires")
        elif codings is not None and codings.lower() != "chunked":
            self._refuse_codings(codings.lower())
        elif int(headers.get("content-length", 0)) > self._body_limit:
            self._refuse_body()
        else:
            self.awaited = headers.get("expect", "").lower() == "100-continue"
        if self.ended:
            raise _Stop

    def _refuse_codings(self, codings: str) -> None:
        names = [name.strip() for name in codings.split(",")]
        if names.count("chunked") == 1 and names[-1] == "chunked":
            self.refuse(
                501, "the only supported Transfer-Encoding is chunked; send the body unencoded"
            )
        else:
            self.refuse(400, "Transfer-Encoding must name chunked exactly once, at its end")

    def on_body(self, chunk: bytes) -> None:  # noqa: D102
        request = self.unfinished
        assert request
        if len(request.body) + len(chunk) > self._body_limit:
            self._refuse_body()
            raise _Stop
        if self._budget:
            if not self._budget.take(len(chunk)):
                self.refuse(
                    503, "the memory for request bodies is in use by other requests; try again"
                )
                raise _Stop
            request.held += len(chunk)
        if not request.body:
            request.body = chunk
            return
        # Not a list of chunks: tiny ones would take fifty times their size.
        if isinstance(request.body, bytes):
            request.body = bytearray(request.body)
        request.body += chunk

    def _refuse_body(self) -> None:
        limit = self._body_limit
        self.refuse(413, f"the body is larger than {limit} bytes; send fewer rows")

    def on_message_complete(self) -> None:  # noqa: D102
        if self._upgrade:
            return
        request, self.unfinished = self.unfinished, None
        assert request
        self.awaited = False
        parser = self._parser
        request.keep_alive = parser.should_keep_alive() and not parser.should_upgrade()
        # Otherwise an HTTP/1.0 connection could not be kept alive.
        request.old = "connection" in request.headers and parser.get_http_version() == "1.0"
        if (
            request.old and self._chunked
        ):  # not part of HTTP/1.0, where other parsers may find another end
            request.keep_alive = False
        self.ended = not request.keep_alive
        self._finish(request)
        if self.ended:
            raise _Stop
