"""One client's connection: its requests in order, and its timeouts."""

import asyncio
import contextlib
import socket
import struct
import time
from collections import deque
from typing import Protocol, cast

from model_server.budget import Budget
from model_server.http1 import Reader, Request, Response, encode

IDLE_LIMIT = 75  # seconds between two requests of a kept-alive connection
LINGER = 5  # seconds for which a refused client may go on sending
PROMPT = 0.002  # seconds; a client whose next request comes this soon may be lent to a worker

TURN = 16  # requests of one client handled before the other clients' are

# Receive buffer shared by all sockets, as its content is used immediately; one per read would have
# to be allocated each time. Data to be parsed are read in smaller pieces, as they take longer.
RECEIVED = memoryview(bytearray(256 * 1024))
PARSED = RECEIVED[: 8 * 1024]

# Fields of Linux's tcp_info: bytes not sent yet, bytes sent, and bytes retransmitted.
_TCP_INFO = struct.Struct("<144xI52xQQ")


class Handler(Protocol):
    """Receiver of requests. It calls each request's `answer` once, immediately or later."""

    draining: bool  # whether connections are closed after their next response

    @property
    def body_limit(self) -> int:
        """Bytes that a body may have."""

    @property
    def budget(self) -> Budget:
        """For the bodies of all requests."""

    @property
    def read_limit(self) -> float:
        """Seconds for a request to arrive, and for an answer to be taken."""

    def handle(self, request: Request) -> None:
        """Handle a complete request."""

    def opened(self, connection: "Connection") -> None:
        """Handle a new connection."""

    def lost(self, connection: "Connection") -> None:
        """Handle the end of a connection."""


class Connection(asyncio.BufferedProtocol):
    """One client. Its requests are answered one at a time, in order.

    Parameters
    ----------
    handler : Handler
    """

    def __init__(self, handler: Handler):
        self._handler = handler
        self._reader = Reader(handler.body_limit, handler.budget)
        self._waiting: deque[Request] = deque()  # complete requests after the current one
        self._current: Request | None = None  # being handled
        self._advancing = False
        self._blocked = False  # the client does not read its responses
        self._lent = False
        self.closed = False
        self._since = time.monotonic()  # time of the last progress
        self._answered = 0.0  # when the last response was sent

    # ------------------------------------------------------------ asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:  # noqa: D102
        self._transport = cast(asyncio.Transport, transport)
        self._handler.opened(self)

    def connection_lost(self, error: Exception | None) -> None:  # noqa: D102
        self.closed = True
        for request in self._waiting:
            request.drop()
        self._waiting.clear()
        if self._current and not self._current.given:
            self._current.drop()
        self._reader.close()
        self._handler.budget.forget(self)
        self._handler.lost(self)

    def pause_writing(self) -> None:  # noqa: D102
        self._blocked = True

    def resume_writing(self) -> None:  # noqa: D102
        self._blocked = False
        self._advance()

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: D102
        return PARSED if self._reader.is_parsing else RECEIVED

    def buffer_updated(self, n_bytes: int) -> None:  # noqa: D102
        self._read(RECEIVED[:n_bytes])
        if n_bytes >= len(self.get_buffer(-1)):  # there is more, but other clients come first
            self._pass_turn()

    # ------------------------------------------------------------ in order

    def _read(self, data: bytes | memoryview) -> None:
        budget = self._handler.budget
        budget.forget(self)
        self._take(self._reader.feed(data))
        if self._reader.unfinished and self._reader.unfinished.body:
            budget.note(self)
        if self._reader.awaited and not self._current:
            self._reader.awaited = False
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _take(self, requests: list[Request]) -> None:
        if not requests:
            return
        for request in requests:
            request.connection = self
            request.prompt = request.received - self._answered < PROMPT
            self._since = request.received
            self._waiting.append(request)
        if self._current is None:
            self._advance()
        else:
            self._transport.pause_reading()

    def _pass_turn(self) -> None:
        self._transport.pause_reading()
        asyncio.get_running_loop().call_soon(self._advance)

    def _advance(self) -> None:
        if self._advancing or self._transport.is_closing():  # the handler answered immediately
            return
        self._advancing = True
        for _ in range(TURN):
            if not self._waiting or self._current is not None or self._blocked:
                break
            self._current = self._waiting.popleft()
            self._handler.handle(self._current)
        self._advancing = False
        if not self._waiting and not self._lent:
            self._transport.resume_reading()
        elif self._current is None and not self._blocked:
            self._pass_turn()

    def answer(self, request: Request, answer: Response) -> None:
        """Send the response to the current request, and pass on the next one."""
        request.drop()
        self._current, self._lent = None, False
        if self.closed:
            return
        last = not request.keep_alive or self._handler.draining
        self._transport.write(
            encode(answer, last, head_only=request.method == "HEAD", kept=request.old)
        )
        self._since = self._answered = time.monotonic()
        if not last:
            self._advance()
            return
        self._reader.ended = True
        for other in self._waiting:
            other.drop()
        self._waiting.clear()
        if request.refusal:
            # Closing a socket with unread bytes would reset the connection before the client reads
            # the response. So it is half-closed, and the rest is read for a while.
            with contextlib.suppress(OSError):  # the client closed it first
                self._transport.write_eof()
            self._transport.resume_reading()
        else:
            self._transport.close()

    def refuse(self, status: int, message: str) -> None:
        """Refuse the request that is being read."""
        self._reader.refuse(status, message)
        self._handler.budget.forget(self)
        self._take(self._reader.take())

    # ------------------------------------------------------------ lending

    @property
    def lendable(self) -> bool:
        """Whether a worker may answer the current request, and the client's next ones."""
        request = self._current
        return request is not None and not (
            not request.prompt
            or request.retried
            or request.old
            or self._waiting
            or self._reader.unfinished
            or self._reader.ended
            or self._handler.draining
            or self.closed
            or self._transport.get_write_buffer_size()
        )

    def lend(self) -> int:
        """Stop reading and return the file descriptor, for a worker to use until `take_back`."""
        self._lent = True
        self._transport.pause_reading()
        return int(self._transport.get_extra_info("socket").fileno())

    def count_out(self) -> int:
        """Return the number of bytes written to the socket so far; 0 if it is unknown."""
        link = self._transport.get_extra_info("socket")
        try:
            info = link.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
            waiting, sent, again = _TCP_INFO.unpack(info)
        except (OSError, AttributeError, struct.error):
            return 0
        return int(waiting + sent - again)

    def take_back(self, unread: bytes = b"", unsent: bytes = b"") -> None:
        """Resume after the worker.

        Parameters
        ----------
        unread : bytes
            Bytes that the worker received and did not handle.
        unsent : bytes
            Rest of a response that the client has not received yet.
        """
        self._current, self._lent = None, False
        self._since = self._answered = time.monotonic()
        if self.closed:
            return
        if unsent:
            self._transport.write(unsent)
        if unread:
            self._read(unread)
        self._advance()

    # ------------------------------------------------------------ timeouts

    @property
    def busy(self) -> bool:
        """Whether a request is being answered or a response being sent."""
        return bool(self._current or self._waiting or self._transport.get_write_buffer_size())

    def abort(self) -> None:
        """Close the connection immediately."""
        self._transport.abort()

    def check(self, now: float, idle_limit: float) -> None:
        """Close the connection if its client has made no progress for too long."""
        waited = now - self._since
        if self._current is not None:
            pass  # waiting for the handler, not for the client
        elif self._reader.ended:
            if waited > LINGER and (not self.busy or waited > self._handler.read_limit):
                self.abort()
        elif self.busy:
            if waited > self._handler.read_limit:
                self.abort()
        elif self._reader.unfinished is not None:
            waited = now - self._reader.unfinished.received  # so far, the time of its first byte
            if waited > min(self._handler.read_limit, max(idle_limit, LINGER)):
                self.refuse(408, "the request did not arrive in time")
        elif waited > idle_limit:
            self._transport.close()
