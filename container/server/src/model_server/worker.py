"""A worker process, seen from the server: its state and its tasks."""

import asyncio
import contextlib
import enum
import marshal
import os
import signal
import socket
import time
from dataclasses import dataclass
from typing import Protocol, cast

from model_server.connection import RECEIVED
from model_server.desk import LENGTHS, RECEIVE, frame
from model_server.http1 import Request, Response, refusal
from model_server.ledger import SLOTS, Ledger, Record


class State(enum.Enum):
    """What a worker has, and so what it may be given."""

    IDLE = "nothing"
    ANSWERING = "one request, whose client the server keeps"
    LENT = "clients, and it may get more"
    RECALLED = "clients, all of which it was asked to give back"
    REVOKED = "at most one client, after the others were taken from it"
    KILLED = "nothing that it could finish, as a request took too long"


# (state, event) -> the next state. The README draws it. "empty" is the end of the last task.
TRANSITIONS = {
    (State.IDLE, "give"): State.ANSWERING,
    (State.ANSWERING, "empty"): State.IDLE,
    (State.IDLE, "lend"): State.LENT,
    (State.LENT, "lend"): State.LENT,
    (State.LENT, "recall"): State.RECALLED,
    (State.LENT, "revoke"): State.REVOKED,
    (State.RECALLED, "revoke"): State.REVOKED,
    (State.LENT, "empty"): State.IDLE,
    (State.RECALLED, "empty"): State.IDLE,
    (State.REVOKED, "empty"): State.IDLE,
    (State.ANSWERING, "kill"): State.KILLED,
    (State.LENT, "kill"): State.KILLED,
    (State.RECALLED, "kill"): State.KILLED,
    (State.REVOKED, "kill"): State.KILLED,
    (State.KILLED, "empty"): State.KILLED,
}


@dataclass(slots=True)
class Task:
    """A request that a worker has, or a client lent to it with its first request."""

    request: Request
    lent: bool
    out: int = 0  # bytes sent to the client until now; 0 if unknown
    answered: int = 0  # requests whose records were collected


class Owner(Protocol):
    """What happens to a worker's requests, and to the worker."""

    def answer(self, request: Request, answer: Response, seconds: float) -> None:
        """Answer a request; the program took so many seconds."""

    def note(self, request: Request, number: int, record: Record) -> None:
        """Log the request of this number, from 0 on, of the client lent with `request`."""

    def requeue(self, request: Request) -> None:
        """Give a request that was not begun to the next free worker."""

    def release(self, worker: "Worker") -> None:
        """Use a worker that has fewer tasks, perhaps none."""

    def replace(self, worker: "Worker") -> None:
        """Handle the end of a worker's process; its tasks are still to be settled."""


class Worker(asyncio.BufferedProtocol):
    """One worker process, and the requests and clients assigned to it.

    Parameters
    ----------
    owner : Owner
    pid : int
    link : socket
        Socket to the process.
    ledger : Ledger
    """

    def __init__(self, owner: Owner, pid: int, link: socket.socket, ledger: Ledger):
        self._owner, self.pid, self._link, self.ledger = owner, pid, link, ledger
        self._received = bytearray()
        self.state = State.IDLE
        self.served = False  # whether it ever got a task
        self._tasks: dict[int, Task] = {}  # by slot
        self._revoked: set[int] = set()  # slots taken from it, until it confirms
        self._revoked_at = 0.0
        self._exited = False

    def _enter(self, event: str) -> None:
        self.state = TRANSITIONS[self.state, event]

    # ------------------------------------------------------------ what it has

    @property
    def n_tasks(self) -> int:
        """Number of its requests or clients."""
        return len(self._tasks)

    @property
    def can_join(self) -> bool:
        """Whether it has clients and can be lent one more."""
        return (
            self.state is State.LENT
            and len(self._tasks) < SLOTS
            and not self._transport.get_write_buffer_size()  # pending frames must go first
        )

    @property
    def unanswered(self) -> int:
        """Number of its unanswered requests."""
        pending = self.ledger.pending()
        begun = {pending.slot} if pending else set()
        return len(begun.union(slot for slot, task in self._tasks.items() if not task.answered))

    @property
    def since(self) -> float | None:
        """Time since which it has been busy with its current request, or has had it."""
        if pending := self.ledger.pending():
            return pending.received
        given = [task.request.sent for task in self._tasks.values() if not task.answered]
        return min(given, default=self._revoked_at if self._revoked else None)

    def give(self, request: Request, lent: bool) -> None:
        """Hand over a request, or it and its client.

        Raises
        ------
        BlockingIOError
            If its socket's buffer is full.
        OSError
            If the system does not support passing file descriptors.
        """
        slot = next(n for n in range(SLOTS) if n not in self._tasks and n not in self._revoked)
        head = slot, request.id, request.path, request.headers
        task = Task(request, lent)
        self.ledger.lend(slot)
        if lent:
            task.out = request.connection.count_out()
            message = frame(head, request.body)
            n_bytes = socket.send_fds(self._link, [message], [request.connection.lend()])
            if n_bytes < len(message):
                self._transport.write(message[n_bytes:])
        elif len(request.body) <= RECEIVE:
            self._transport.write(frame(head, request.body))
        else:  # avoids copying the body
            self._transport.write(frame(head, b"", len(request.body)))
            self._transport.write(request.body)
        self._tasks[slot] = task
        request.given = self.served = True
        self._enter("lend" if lent else "give")

    # ------------------------------------------------------------ what it says

    def connection_made(self, transport: asyncio.BaseTransport) -> None:  # noqa: D102
        self._transport = cast(asyncio.Transport, transport)

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
            kind, *head = marshal.loads(received[LENGTHS.size : start])
            body = bytes(received[start : start + n_body])
            del received[: start + n_body]
            if kind == "answer":
                self._finish(body, *head)
            else:
                self._take_back(body, *head)

    def connection_lost(self, error: Exception | None) -> None:  # noqa: D102
        self.end()
        self._owner.replace(self)

    def _finish(
        self,
        body: bytes,
        slot: int,
        status: int,
        content_type: str,
        headers: dict[str, str],
        seconds: float,
    ) -> None:
        request = self._tasks.pop(slot).request
        self._release()  # give it the next request before sending the response
        self._owner.answer(request, Response(status, body, content_type, headers), seconds)

    def _release(self) -> None:
        if not (self._tasks or self._revoked):
            self._enter("empty")
        self._owner.release(self)

    def collect(self) -> None:
        """Log the responses that it has sent itself."""
        for record in self.ledger.collect_sent():
            task = self._tasks[record.slot]
            self._owner.note(task.request, task.answered, record)
            if not task.answered:
                task.request.drop()
            task.answered += 1
            if task.out:
                task.out += record.wire_size

    # ------------------------------------------------------------ clients

    def _take_back(self, rest: bytes, slots: list[int], unsent: bool) -> None:
        # `rest` is unhandled input, or the unsent output, of a single client.
        self.collect()
        tasks = [self._tasks.pop(slot) for slot in slots if slot not in self._revoked]
        self._revoked.difference_update(slots)
        for task in tasks:
            self._resume(task, **{"unsent" if unsent else "unread": rest})
        if self.state is State.RECALLED and self._tasks:  # sent before it saw the recall
            self.ledger.recall()
        self._release()

    def _resume(self, task: Task, **rest: bytes) -> None:
        if task.answered:
            task.request.connection.take_back(**rest)
        else:
            self._owner.requeue(task.request)

    def recall(self) -> None:
        """Ask it to give all its clients back, if it has any."""
        if self.state is State.LENT and self._tasks:
            self._enter("recall")
            self.ledger.recall()

    def revoke(self) -> None:
        """Take all clients from it, except one that it is answering."""
        slots = self.ledger.revoke()
        if slots is None:
            return  # it is just about to start a request
        self._enter("revoke")
        self._revoked_at = time.monotonic()
        self.ledger.recall()
        self.collect()
        self._revoked = slots & self._tasks.keys()
        for task in [self._tasks.pop(slot) for slot in self._revoked]:
            self._resume(task)

    # ------------------------------------------------------------ its end

    def kill(self) -> None:
        """Kill the process, as a request takes too long."""
        self._enter("kill")
        self._kill()

    def _kill(self) -> None:
        if not self._exited:  # otherwise the pid may have been reused
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def leave(self) -> None:
        """Close the socket soon, after reading its last messages: the process has exited."""
        self._exited = True
        asyncio.get_running_loop().call_later(0.1, self._transport.abort)

    def end(self) -> None:
        """Kill the process and wait for its exit, even if it has only closed its socket."""
        self._kill()
        if not self._exited:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self.pid, 0)
            self._exited = True

    def settle(self, status: int, message: str, retry: bool = True) -> str | None:
        """Finish, requeue or fail its tasks after its end; return the id of one that failed.

        Parameters
        ----------
        status : int
            Of the requests that fail.
        message : str
            For these; `{}` stands for the request's id.
        retry : bool
            Whether requests that it had not begun go to another worker.
        """
        self.collect()
        pending, now, failed = self.ledger.pending(), time.monotonic(), None
        if self.state is State.KILLED and not pending:
            retry = False  # they have waited long enough
        for slot, task in self._tasks.items():
            request, n = task.request, task.answered
            current = pending if pending and pending.slot == slot else None
            out = _is_out(task, current) if current and current.status else False
            if current and out is not False:
                self._owner.note(request, n, current._replace(sent=now))
                request.drop()
                if out:
                    request.connection.take_back()
                else:
                    request.connection.abort()
            elif n and not current:
                request.connection.take_back()
            elif current or request.retried or not retry:
                if task.lent:
                    request.keep_alive = False  # it may be unread, and be read again
                if n and current:
                    request.id = f"{request.id}_{n}"
                    request.received = request.sent = current.received
                failed = request.id
                failure = refusal(status, message.format(request.id))
                self._owner.answer(request, failure, now - request.sent)
            else:
                request.retried = True
                self._owner.requeue(request)
        self._tasks.clear()
        return failed


def _is_out(task: Task, record: Record) -> bool | None:
    # Whether the pending response was sent in full; None if partly or unknown.
    written = task.request.connection.count_out() - task.out
    return {0: False, record.wire_size: True}.get(written) if task.out else None
