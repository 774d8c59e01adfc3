"""HTTP/1.1: bytes to requests, and answers to bytes.

llhttp, the parser of Node.js, reads the syntax; this module sets the limits.
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

HEAD_LIMIT = 64 * 1024  # bytes of request line and headers; and of what frames a body, over:
FRAMING = 16  # bytes for each of the body's own, as chunks of one byte take 5
HEADERS_LIMIT = 256
MESSAGE_LIMIT = 1000  # characters of an error's message

# HTTPStatus words some of them differently from one version of Python to the next.
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


class Answer:
    """What goes back to a client.

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


def refusal(status: int, message: str, headers: Mapping[str, str] | None = None) -> Answer:
    """Return an error in the form that all errors have."""
    # A program may repeat all that it was sent.
    message = message if len(message) <= MESSAGE_LIMIT else message[:MESSAGE_LIMIT] + "..."
    error = {"type": _TYPES.get(status, "ClientError"), "message": message}
    if status == 503:
        headers = {"retry-after": "1", **(headers or {})}
    return Answer(status, json.dumps({"error": error}).encode(), headers=headers)


def encode(
    answer: Answer, last: bool = False, head_only: bool = False, kept: bool = False
) -> bytes:
    """Write an answer.

    Parameters
    ----------
    answer : Answer
    last : bool
        Whether the connection ends with it.
    head_only : bool
        Whether the request was a HEAD.
    kept : bool
        Whether the client must be told that the connection goes on, as HTTP/1.0's must.
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
    """One request as it came in."""

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

    connection: "Connection"  # which has read it

    def __init__(self, budget: Budget | None = None):
        self.id = f"{_START}{next(_numbers):08x}"
        self.method = self.path = ""
        self.headers: dict[str, str] = {}
        self.body: bytes | bytearray = b""
        self.size = 0  # of the body
        self.budget, self.held = budget, 0  # what the body counts for, and with how many bytes
        self.keep_alive = False
        self.old = False  # HTTP/1.0, whose clients must be told that the connection is kept
        self.prompt = False  # sent as soon as the answer before it was there
        self.refusal: Answer | None = None  # decided while it was read
        self.given = False  # to a worker
        self.retried = False  # given to a second worker, as the first one never read it
        self.received = self.sent = time.monotonic()  # its last byte; when a worker got it

    def answer(self, answer: Answer) -> None:
        """Answer it."""
        self.connection.answer(self, answer)

    def drop(self) -> None:
        """Let go of its body, which will not be read any more."""
        if self.budget:
            self.budget.free(self.held)
        self.body, self.held = b"", 0

    @property
    def abandoned(self) -> bool:
        """Whether the client has left."""
        return self.connection.closed


class _Stop(Exception):
    """Ends the parser's work on bytes that will not be read."""


class Reader:
    """Bytes to requests. Its ``on_`` methods are llhttp's to call.

    Parameters
    ----------
    body_limit : int
        In bytes.
    budget : Budget, optional
        What bodies count for, beside those of other readers.
    """

    def __init__(self, body_limit: int, budget: Budget | None = None):
        self._parser = httptools.HttpRequestParser(self)
        self._body_limit, self._budget = body_limit, budget
        self._requests: list[Request] = []
        self.unfinished: Request | None = None
        self._complete = False  # whether its headers are
        self._chunked = self._upgrade = False
        self._head = self._n_headers = 0  # bytes of its names and values, and how many there are
        self._wire = 0  # bytes that came since those with its beginning
        self.awaited = False  # whether the client wants a word before it sends the body
        self.ended = False  # nothing more is read: refused, or there was a last request

    def feed(self, data: bytes | memoryview) -> list[Request]:
        """Read on, and return the requests that are complete now, or refused."""
        if self.ended:  # what a refused client still sends
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
            elif not self.ended:  # by a last request, or a refusal
                self.refuse(400, "this is not HTTP/1.1 as RFC 9112 has it")
        if request and request is self.unfinished:
            self._wire += len(data)
            if self._wire > HEAD_LIMIT + (1 + FRAMING) * len(request.body):
                self._refuse_framing()
        return self.take()

    def take(self) -> list[Request]:
        """Return what is complete or refused, once."""
        requests, self._requests = self._requests, []
        return requests

    def close(self) -> None:
        """Let go of the parser and of what is unfinished.

        The parser holds this reader as the reader holds the parser: else they, and all that they
        have read, would stay until Python looks for such pairs.
        """
        self._parser, self.ended = None, True  # type: ignore[assignment]  # nothing more is fed
        if self.unfinished:
            self.unfinished.drop()

    @property
    def is_parsing(self) -> bool:
        """Whether what comes next takes more than to copy it, or to drop it."""
        in_body = self._complete and not self._chunked and self.unfinished is not None
        return not (in_body or self.ended)

    def refuse(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        """Have the request that is being read refused, and read no further."""
        request, self.unfinished = self.unfinished or Request(), None
        request.refusal, self.ended = refusal(status, message, headers), True
        self._finish(request)
        request.drop()

    def _refuse_framing(self) -> None:
        if self._complete:
            self.refuse(400, "the body comes in too small chunks, or with too much beside them")
        else:
            self._refuse_head()

    def _refuse_head(self) -> None:
        message = f"request line and headers exceed {HEAD_LIMIT} bytes or {HEADERS_LIMIT} headers"
        self.refuse(431, message)

    def _finish(self, request: Request) -> None:
        if request.path:  # else it's no request at all
            request.method = self._parser.get_method().decode("latin-1")
        request.path = request.path.partition("?")[0]
        request.size = len(request.body)
        request.received = request.sent = time.monotonic()
        self._requests.append(request)

    def _parse(self, data: bytes | memoryview) -> memoryview | None:
        # Returns what follows a head that asks for another protocol.
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as pause:
            return memoryview(data)[pause.args[0] :]
        return None

    def _decline_upgrade(self) -> bytes:
        # After such a head llhttp takes all for the other protocol's. Another parser, which sees
        # the head as it would be without the wish, goes on with the body.
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
        self.unfinished.path += url.decode("latin-1")  # it may come in pieces
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
            self.refuse(501, "chunked is the only Transfer-Encoding here; send the body as it is")
        else:
            self.refuse(400, "a Transfer-Encoding must end with chunked, and name it once")

    def on_body(self, chunk: bytes) -> None:  # noqa: D102
        request = self.unfinished
        assert request
        if len(request.body) + len(chunk) > self._body_limit:
            self._refuse_body()
            raise _Stop
        if self._budget:
            if not self._budget.take(len(chunk)):
                self.refuse(503, "there is no room beside the other requests' bodies; try again")
                raise _Stop
            request.held += len(chunk)
        if not request.body:
            request.body = chunk
            return
        # Not a list of chunks, as tiny ones would take fifty times the room of their bytes.
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
        # Else, in HTTP/1.0, it could not be kept.
        request.old = "connection" in request.headers and parser.get_http_version() == "1.0"
        if request.old and self._chunked:  # which HTTP/1.0 doesn't know: it may end elsewhere
            request.keep_alive = False
        self.ended = not request.keep_alive
        self._finish(request)
        if self.ended:
            raise _Stop
