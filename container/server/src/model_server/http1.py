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

if TYPE_CHECKING:
    from model_server.connection import Connection

HEAD_LIMIT = 64 * 1024  # bytes of request line and headers
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


def refusal(status: int, message: str) -> Answer:
    """Return an error in the form that all errors have."""
    # A program may repeat all that it was sent.
    message = message if len(message) <= MESSAGE_LIMIT else message[:MESSAGE_LIMIT] + "..."
    error = {"type": _TYPES.get(status, "ClientError"), "message": message}
    return Answer(status, json.dumps({"error": error}).encode())


def encode(answer: Answer, last: bool = False, head_only: bool = False) -> bytes:
    """Write an answer, which may be the ``last`` one of its connection."""
    head = [
        f"HTTP/1.1 {answer.status} {_REASONS.get(answer.status, 'Error')}\r\n"
        f"content-type: {answer.content_type}\r\ncontent-length: {len(answer.body)}\r\n"
        f"date: {_write_date(int(time.time()))}\r\n"
    ]
    if answer.headers:
        head += [f"{name}: {value}\r\n" for name, value in answer.headers.items()]
    head.append("connection: close\r\n\r\n" if last else "\r\n")
    return "".join(head).encode("latin-1") + (b"" if head_only else answer.body)


@functools.lru_cache(1)
def _write_date(seconds: int) -> str:
    return formatdate(seconds, usegmt=True)


_START, _numbers = os.urandom(4).hex(), itertools.count(1)


class Request:
    """One request as it came in."""

    __slots__ = (
        "body",
        "connection",
        "headers",
        "id",
        "keep_alive",
        "method",
        "path",
        "prompt",
        "received",
        "refusal",
        "retried",
        "sent",
        "size",
    )

    connection: "Connection"  # which has read it

    def __init__(self):
        self.id = f"{_START}{next(_numbers):08x}"
        self.method = self.path = ""
        self.headers: dict[str, str] = {}
        self.body, self.size = b"", 0
        self.keep_alive = False
        self.prompt = False  # sent as soon as the answer before it was there
        self.refusal: Answer | None = None  # decided while it was read
        self.retried = False  # given to a second worker, as the first one never read it
        self.received = self.sent = time.monotonic()  # its last byte; when a worker got it

    def answer(self, answer: Answer) -> None:
        """Answer it."""
        self.connection.answer(self, answer)

    @property
    def abandoned(self) -> bool:
        """Whether the client has left."""
        return self.connection.closed


class Reader:
    """Bytes to requests. Its ``on_`` methods are llhttp's to call.

    Parameters
    ----------
    body_limit : int
        In bytes.
    """

    def __init__(self, body_limit: int):
        self._parser = httptools.HttpRequestParser(self)
        self._body_limit = body_limit
        self._requests: list[Request] = []
        self.unfinished: Request | None = None
        self._complete = False  # whether its headers are
        self._chunks: list[bytes] = []
        self._head = 0  # bytes of its names and values
        self._size = 0  # bytes that came since its head began, then bytes of its body
        self.awaited = False  # whether the client wants a word before it sends the body
        self.ended = False  # nothing more is read: refused, or there was a last request

    def feed(self, data: bytes | memoryview) -> list[Request]:
        """Read on, and return the requests that are complete now, or refused."""
        if self.ended:  # what a refused client still sends
            return []
        unfinished = None if self._complete else self.unfinished
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:  # not taken up; the request has been, as it is
            pass
        except httptools.HttpParserError:
            if not self.ended:  # by a last request, or another refusal
                self.refuse(400, "this is not HTTP/1.1 as RFC 9112 has it")
        if unfinished and unfinished is self.unfinished and not self._complete:
            self._size += len(data)
            if self._size > HEAD_LIMIT:
                self._refuse_head()
        return self.take()

    def take(self) -> list[Request]:
        """Return what is complete or refused, once."""
        requests, self._requests = self._requests, []
        return requests

    def refuse(self, status: int, message: str) -> None:
        """Have the request that is being read refused, and read no further."""
        request, self.unfinished = self.unfinished or Request(), None
        request.refusal, self._chunks, self.ended = refusal(status, message), [], True
        self._finish(request)

    def _refuse_head(self) -> None:
        self.refuse(431, f"request line and headers exceed {HEAD_LIMIT} bytes")

    def _refuse_body(self) -> None:
        limit = self._body_limit
        self.refuse(413, f"the body is larger than {limit} bytes; send fewer rows")

    def _finish(self, request: Request) -> None:
        if request.path:  # else it's no request at all
            request.method = self._parser.get_method().decode("latin-1")
        request.path = request.path.partition("?")[0]
        request.size = self._size if self._complete else 0
        request.received = request.sent = time.monotonic()
        self._requests.append(request)

    def on_message_begin(self) -> None:  # noqa: D102
        if self.ended:
            return
        self.unfinished, self._complete = Request(), False
        self._chunks, self._size, self._head = [], 0, 0

    def on_url(self, url: bytes) -> None:  # noqa: D102
        if not self.ended:
            self.unfinished.path += url.decode("latin-1")  # it may come in pieces
            self._head += len(url)

    def on_header(self, name: bytes, value: bytes) -> None:  # noqa: D102
        if self.ended or self._complete:  # trailers are nobody's business
            return
        self._head += len(name) + len(value)
        headers, key = self.unfinished.headers, name.decode("latin-1").lower()
        text = value.decode("latin-1")
        headers[key] = f"{headers[key]}, {text}" if key in headers else text

    def on_headers_complete(self) -> None:  # noqa: D102
        if self.ended:
            return
        self._complete, self._size = True, 0
        headers = self.unfinished.headers
        if self._head > HEAD_LIMIT:
            self._refuse_head()
        elif int(headers.get("content-length", 0)) > self._body_limit:
            self._refuse_body()
        else:
            self.awaited = headers.get("expect", "").lower() == "100-continue"

    def on_body(self, chunk: bytes) -> None:  # noqa: D102
        if self.ended:
            return
        self._chunks.append(chunk)
        self._size += len(chunk)
        if self._size > self._body_limit:
            self._refuse_body()

    def on_message_complete(self) -> None:  # noqa: D102
        if self.ended:
            return
        request, self.unfinished = self.unfinished, None
        request.body = b"".join(self._chunks)
        self._chunks, self.awaited = [], False
        request.keep_alive = self._parser.should_keep_alive() and not self._parser.should_upgrade()
        self.ended = not request.keep_alive
        self._finish(request)
