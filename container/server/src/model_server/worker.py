"""A worker process, seen from the server."""

import asyncio
import contextlib
import marshal
import os
import signal
import socket
from collections import Counter
from typing import TYPE_CHECKING, cast

from model_server.connection import RECEIVED
from model_server.desk import LENGTHS, RECEIVE, frame
from model_server.http1 import Request, Response
from model_server.ledger import SLOTS, Ledger, Record

if TYPE_CHECKING:
    from model_server.pool import Pool


class Worker(asyncio.BufferedProtocol):
    """One worker process and the requests and clients assigned to it.

    Parameters
    ----------
    pool : Pool
    pid : int
    link : socket
        Socket to the process.
    ledger : Ledger
    """

    def __init__(self, pool: "Pool", pid: int, link: socket.socket, ledger: Ledger):
        self._pool, self.pid, self._link, self.ledger = pool, pid, link, ledger
        self._received = bytearray()
        self.requests: dict[
            int, Request
        ] = {}  # by slot: its requests, or the first ones of its clients
        self.answered: Counter[int] = Counter()  # by slot: responses of its own that were recorded
        self._out: Counter[int] = Counter()  # by slot: bytes sent to its client, including these
        self.lent = False  # whether its requests came with their clients
        self.recalled = False  # whether they were recalled: it gets no more clients
        self.revoked = 0.0  # when they were taken back without its cooperation
        self.revoked_clients: dict[int, Request] = {}  # by slot: these, until it confirms
        self.late = False  # whether it was killed for a timeout
        self.served = False  # whether it ever got a request
        self._gone = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:  # noqa: D102
        self._transport = cast(asyncio.Transport, transport)

    @property
    def idle(self) -> bool:
        """Whether it has no requests or clients."""
        return not (self.requests or self.revoked_clients)

    @property
    def can_join(self) -> bool:
        """Whether it can be lent one more client."""
        return (
            self.lent
            and len(self.requests) + len(self.revoked_clients) < SLOTS
            and not (self.recalled or self.revoked or self.late)
            and not self._transport.get_write_buffer_size()  # pending frames must go first
        )

    def give(self, request: Request, lent: bool) -> None:
        """Hand over a request, or it and its client.

        Raises
        ------
        BlockingIOError
            If its socket's buffer is full.
        OSError
            If the system does not support passing file descriptors.
        """
        slot = next(
            n for n in range(SLOTS) if n not in self.requests and n not in self.revoked_clients
        )
        head = slot, request.id, request.path, request.headers
        self.ledger.lend(slot)
        if lent:
            self._out[slot] = request.connection.count_out()
            task = frame(head, request.body)
            task = task[socket.send_fds(self._link, [task], [request.connection.lend()]) :]
            if task:
                self._transport.write(task)
        elif len(request.body) <= RECEIVE:
            self._transport.write(frame(head, request.body))
        else:  # avoids copying the body
            self._transport.write(frame(head, b"", len(request.body)))
            self._transport.write(request.body)
        self.requests[slot], self.answered[slot] = request, 0
        request.given = True
        self.lent, self.served = lent, True

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: D102
        return RECEIVED

    def buffer_updated(self, n_bytes: int) -> None:  # noqa: D102
        received = self._received
        received += RECEIVED[:n_bytes]
        while len(received) >= LENGTHS.size:
            n_head, n_body = LENGTHS.unpack_from(received)
            start = LENGTHS.size + n_head
            if len(received) < start + n_body:
                return
            head = marshal.loads(received[LENGTHS.size : start])
            body = bytes(received[start : start + n_body])
            del received[: start + n_body]
            if self.lent:
                slots, unsent = head
                self._pool.take_back(self, slots, body, unsent)
            else:
                slot, status, content_type, headers, seconds = head
                answer = Response(status, body, content_type, headers)
                self._pool.finish(self, self.requests.pop(slot), answer, seconds)

    def connection_lost(self, error: Exception | None) -> None:  # noqa: D102
        self.end()
        self._pool.handle_exit(self)

    def note(self, record: Record) -> None:
        """Record a response that was sent."""
        if not self.answered[record.slot]:
            self.requests[record.slot].drop()
        self.answered[record.slot] += 1
        if self._out[record.slot]:
            self._out[record.slot] += record.wire_size

    def is_out(self, record: Record) -> bool | None:
        """Return whether the pending response was sent in full; None if partly or unknown."""
        before = self._out[record.slot]
        written = self.requests[record.slot].connection.count_out() - before
        return {0: False, record.wire_size: True}.get(written) if before else None

    @property
    def unanswered(self) -> int:
        """Number of its unanswered requests."""
        pending = self.ledger.pending()
        begun = {pending.slot} if pending else set()
        return len(begun.union(slot for slot in self.requests if not self.answered[slot]))

    @property
    def since(self) -> float | None:
        """Time since which it has been busy with its current request, or has had it."""
        if pending := self.ledger.pending():
            return pending.received
        given = [one.sent for slot, one in self.requests.items() if not self.answered[slot]]
        return min(given, default=self.revoked or None)

    def leave(self) -> None:
        """Close the socket soon, after reading its last messages: the process has exited."""
        self._gone = True
        asyncio.get_running_loop().call_later(0.1, self._transport.abort)

    def kill(self) -> None:
        """Kill the process."""
        if not self._gone:  # otherwise the pid may have been reused
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def end(self) -> None:
        """Kill the process and wait for its exit, even if it has only closed its socket."""
        self.kill()
        if not self._gone:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self.pid, 0)
            self._gone = True
