"""One client's connection: its requests in their order, and patience with no client."""

import asyncio
import contextlib
import socket
import struct
import time
from collections import deque
from typing import Protocol, cast

from model_server.budget import Budget
from model_server.http1 import Answer, Reader, Request, encode

IDLE_LIMIT = 75  # seconds between two requests of a kept connection
LINGER = 5  # seconds for which a refused client may go on sending
PROMPT = 0.002  # seconds; a client whose next request comes so soon waits for nothing else

TURN = 16  # requests of one client that are handled before others have their turn

# What any socket has for us, until it's read a moment later. A buffer for each reading would have
# to be as large, and made anew. Of what must be parsed less is read at once, as it takes longer.
RECEIVED = memoryview(bytearray(256 * 1024))
PARSED = RECEIVED[: 8 * 1024]

# Of Linux's tcp_info: bytes that are still to be sent, that were sent, and of these again.
_TCP_INFO = struct.Struct("<144xI52xQQ")


class Handler(Protocol):
    """What requests are for. Every request gets one call of its `answer`, now or later."""

    draining: bool  # whether answers are the last ones of their connections

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
        self._reader = Reader(handler.body_limit, handler.budget)
        self._waiting: deque[Request] = deque()  # complete, and behind another one
        self._current: Request | None = None  # in the handler's hands
        self._advancing = False
        self._blocked = False  # the client doesn't take its answers
        self._lent = False
        self.closed = False
        self._since = time.monotonic()  # the latest step forward
        self._answered = 0.0  # when the latest answer went out

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
        if n_bytes >= len(self.get_buffer(-1)):  # there is more, but it's the others' turn
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
        if self._advancing or self._transport.is_closing():  # the handler answered at once
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

    def answer(self, request: Request, answer: Answer) -> None:
        """Write the answer to the request that the handler has, and hand it the next one."""
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
            # If the socket were closed with bytes unread, the client would see no answer but a
            # reset. So it's half closed, and the rest is read, for a while.
            with contextlib.suppress(OSError):  # the client was faster
                self._transport.write_eof()
            self._transport.resume_reading()
        else:
            self._transport.close()

    def refuse(self, status: int, message: str) -> None:
        """Refuse the request that is being read."""
        self._reader.refuse(status, message)
        self._handler.budget.forget(self)
        self._take(self._reader.take())

    # ------------------------------------------------------------ in other hands

    @property
    def lendable(self) -> bool:
        """Whether there is nothing here of the client but the request that is being answered."""
        return not (
            self._waiting
            or self._reader.unfinished
            or self._reader.ended
            or self._handler.draining
            or self.closed
            or self._transport.get_write_buffer_size()
        )

    def lend(self) -> int:
        """Leave the client to another process, by this file descriptor, until it's given back."""
        self._lent = True
        self._transport.pause_reading()
        return int(self._transport.get_extra_info("socket").fileno())

    def count_out(self) -> int:
        """Return how many bytes the system has taken for the client so far; 0 if it can't say."""
        link = self._transport.get_extra_info("socket")
        try:
            info = link.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
            waiting, sent, again = _TCP_INFO.unpack(info)
        except (OSError, AttributeError, struct.error):
            return 0
        return int(waiting + sent - again)

    def take_back(self, unread: bytes = b"", unsent: bytes = b"") -> None:
        """Go on where the other process has stopped.

        Parameters
        ----------
        unread : bytes
            What it has received and not understood.
        unsent : bytes
            What the client hasn't taken yet.
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
        waited = now - self._since
        if self._current is not None:
            pass  # it's the handler that takes its time
        elif self._reader.ended:
            if waited > LINGER and (not self.busy or waited > self._handler.read_limit):
                self.abort()
        elif self.busy:
            if waited > self._handler.read_limit:
                self.abort()
        elif self._reader.unfinished is not None:
            waited = now - self._reader.unfinished.received  # its first byte, as yet
            if waited > min(self._handler.read_limit, max(idle_limit, LINGER)):
                self.refuse(408, "the request did not arrive in time")
        elif waited > idle_limit:
            self._transport.close()
