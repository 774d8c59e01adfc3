"""HTTP/1.1 on one connection: bytes to requests, answers to bytes, and patience with no client.

llhttp, the parser of Node.js, reads the syntax; this module sets the limits and keeps the order.
"""

import asyncio
import contextlib
import itertools
import json
import os
import time
from collections import deque
from collections.abc import Mapping
from http import HTTPStatus
from typing import Protocol

import httptools

HEAD_LIMIT = 64 * 1024  # bytes of request line and headers
MESSAGE_LIMIT = 1000  # characters of an error's message
IDLE_LIMIT = 75  # seconds between two requests of a kept connection
LINGER = 5  # seconds for which a refused client may go on sending

# What any socket has for us, until it's read a moment later. A buffer for each reading would have
# to be as large, and made anew.
RECEIVED = memoryview(bytearray(256 * 1024))

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
        "received",
        "refusal",
        "retried",
        "sent",
        "size",
    )

    def __init__(self, connection: "Connection"):
        self.connection = connection
        self.id = f"{_START}{next(_numbers):08x}"
        self.method = self.path = ""
        self.headers: dict[str, str] = {}
        self.body, self.size = b"", 0
        self.keep_alive = False
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


class Handler(Protocol):
    """What requests are for. Every request gets one call of its `answer`, now or later."""

    body_limit: int
    read_limit: float  # seconds for a request to arrive, and for an answer to be taken
    draining: bool  # whether answers are the last ones of their connections
    date: str

    def handle(self, request: Request) -> None:
        """Take a complete request."""

    def opened(self, connection: "Connection") -> None:
        """Take note of a new connection."""

    def lost(self, connection: "Connection") -> None:
        """Take note of the end of a connection."""


class Connection(asyncio.BufferedProtocol):
    """One client. Its requests are answered one by one, in their order.

    Parameters
    ----------
    handler : Handler
    """

    def __init__(self, handler: Handler):
        self._handler = handler
        self._parser = httptools.HttpRequestParser(self)
        self._reading: Request | None = None  # not complete yet
        self._complete = False  # whether its headers are
        self._chunks: list[bytes] = []
        self._head = 0  # bytes of its names and values
        self._size = 0  # bytes that came since its head began, then bytes of its body
        self._waiting: deque[Request] = deque()  # complete, and behind another one
        self._current: Request | None = None  # in the handler's hands
        self._advancing = False
        self._ended = False  # nothing more is read: refused, or the last answer was given
        self._blocked = False  # the client doesn't take its answers
        self.closed = False
        self.since = time.monotonic()  # the latest step forward

    # ------------------------------------------------------------ asyncio's side

    def connection_made(self, transport: asyncio.Transport) -> None:  # noqa: D102
        self._transport = transport
        self._handler.opened(self)

    def connection_lost(self, error: Exception | None) -> None:  # noqa: D102
        self.closed = True
        self._waiting.clear()
        self._handler.lost(self)

    def pause_writing(self) -> None:  # noqa: D102
        self._blocked = True

    def resume_writing(self) -> None:  # noqa: D102
        self._blocked = False
        self._advance()

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: D102
        return RECEIVED

    def buffer_updated(self, n_bytes: int) -> None:  # noqa: D102
        if self._ended:  # what a refused client still sends
            return
        unfinished = None if self._complete else self._reading
        try:
            self._parser.feed_data(RECEIVED[:n_bytes])
        except httptools.HttpParserUpgrade:  # not taken up; the request has been, as it is
            return
        except httptools.HttpParserError:
            if not self._ended:  # by a last request, or another refusal
                self._refuse(400, "this is not HTTP/1.1 as RFC 9112 has it")
        if unfinished and unfinished is self._reading and not self._complete:
            self._size += n_bytes
            if self._size > HEAD_LIMIT:
                self._refuse_head()

    # ------------------------------------------------------------ the parser's side

    def on_message_begin(self) -> None:  # noqa: D102
        if self._ended:
            return
        self._reading, self._complete = Request(self), False
        self._chunks, self._size, self._head = [], 0, 0
        self.since = time.monotonic()

    def on_url(self, url: bytes) -> None:  # noqa: D102
        if not self._ended:
            self._reading.path += url.decode("latin-1")  # it may come in pieces
            self._head += len(url)

    def on_header(self, name: bytes, value: bytes) -> None:  # noqa: D102
        if self._ended or self._complete:  # trailers are nobody's business
            return
        self._head += len(name) + len(value)
        headers, key = self._reading.headers, name.decode("latin-1").lower()
        text = value.decode("latin-1")
        headers[key] = f"{headers[key]}, {text}" if key in headers else text

    def on_headers_complete(self) -> None:  # noqa: D102
        if self._ended:
            return
        self._complete, self._size = True, 0
        headers = self._reading.headers
        if self._head > HEAD_LIMIT:
            self._refuse_head()
        elif int(headers.get("content-length", 0)) > self._handler.body_limit:
            self._refuse_body()
        elif headers.get("expect", "").lower() == "100-continue" and not self._current:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, chunk: bytes) -> None:  # noqa: D102
        if self._ended:
            return
        self._chunks.append(chunk)
        self._size += len(chunk)
        if self._size > self._handler.body_limit:
            self._refuse_body()

    def on_message_complete(self) -> None:  # noqa: D102
        if self._ended:
            return
        request, self._reading = self._reading, None
        request.body = b"".join(self._chunks)
        self._chunks = []
        request.keep_alive = self._parser.should_keep_alive() and not self._parser.should_upgrade()
        self._ended = not request.keep_alive
        self._take(request)

    # ------------------------------------------------------------ in order

    def _refuse_head(self) -> None:
        self._refuse(431, f"request line and headers exceed {HEAD_LIMIT} bytes")

    def _refuse_body(self) -> None:
        limit = self._handler.body_limit
        self._refuse(413, f"the body is larger than {limit} bytes; send fewer rows")

    def _refuse(self, status: int, message: str) -> None:
        request, self._reading = self._reading or Request(self), None
        request.refusal, self._chunks, self._ended = refusal(status, message), [], True
        self._take(request)

    def _take(self, request: Request) -> None:
        if request.path:  # else it's no request at all
            request.method = self._parser.get_method().decode("latin-1")
        request.path = request.path.partition("?")[0]
        request.size = self._size if self._complete else 0
        request.received = request.sent = self.since = time.monotonic()
        self._waiting.append(request)
        if self._current is None:
            self._advance()
        else:
            self._transport.pause_reading()

    def _advance(self) -> None:
        if self._advancing:  # the handler answered at once
            return
        self._advancing = True
        while self._waiting and self._current is None and not self._blocked:
            self._current = self._waiting.popleft()
            self._handler.handle(self._current)
        self._advancing = False
        if not self._waiting:
            self._transport.resume_reading()

    def answer(self, request: Request, answer: Answer) -> None:
        """Write the answer to the request that the handler has, and hand it the next one."""
        if self.closed:
            return
        last = not request.keep_alive or self._handler.draining
        head = [
            f"HTTP/1.1 {answer.status} {_REASONS.get(answer.status, 'Error')}\r\n"
            f"content-type: {answer.content_type}\r\ncontent-length: {len(answer.body)}\r\n"
            f"date: {self._handler.date}\r\n"
        ]
        if answer.headers:
            head += [f"{name}: {value}\r\n" for name, value in answer.headers.items()]
        head.append("connection: close\r\n\r\n" if last else "\r\n")
        body = b"" if request.method == "HEAD" else answer.body
        self._transport.write("".join(head).encode("latin-1") + body)
        self._current, self.since = None, time.monotonic()
        self._ended |= last
        if not last:
            self._advance()
        elif request.refusal:
            # If the socket were closed with bytes unread, the client would see no answer but a
            # reset. So it's half closed, and the rest is read, for a while.
            self._waiting.clear()
            with contextlib.suppress(OSError):  # the client was faster
                self._transport.write_eof()
            self._transport.resume_reading()
        else:
            self._transport.close()

    # ------------------------------------------------------------ patience

    @property
    def busy(self) -> bool:
        """Whether a request is being answered, or an answer being taken."""
        return bool(self._current or self._waiting or self._transport.get_write_buffer_size())

    def abort(self) -> None:
        """End the connection at once."""
        self._transport.abort()

    def check(self, now: float, idle_limit: float) -> None:
        """End the connection if its client has left it where it is for too long."""
        waited = now - self.since
        if self._current is not None:
            pass  # it's the handler that takes its time
        elif self._ended:
            if waited > LINGER and (not self.busy or waited > self._handler.read_limit):
                self.abort()
        elif self.busy:
            if waited > self._handler.read_limit:
                self.abort()
        elif self._reading is not None:
            if waited > min(self._handler.read_limit, max(idle_limit, LINGER)):
                self._refuse(408, "the request did not arrive in time")
        elif waited > idle_limit:
            self._transport.close()
