"""What happens in a worker process: the program runs, on one request at a time, and may die of it.

A worker gets a request as a frame over a socket, and its answer goes back as one. A client that
sends the next request as soon as it has its answer is lent to the worker together with its
request: the worker answers this and what follows by itself, without the hop between the two
processes. It gives its clients back when the server recalls them, when they fall silent, and one
of them when it sends anything but one more whole invocation.
"""

import array
import logging
import marshal
import os
import select
import socket
import struct
import sys
import time
from dataclasses import dataclass
from typing import Any

from model_server import codings, kserve
from model_server.http1 import Answer, Reader, Request, encode, refusal
from model_server.ledger import Ledger
from model_server.program import CUSTOM_ATTRIBUTES, Program

logger = logging.getLogger("model_server")

INVOCATIONS = "/invocations"
PAUSE = 50e-6  # seconds for which a single client may be silent
PAUSE_MS = 1  # milliseconds for which several may
RECEIVE = 64 * 1024  # bytes at once
LENGTHS = struct.Struct("<IQ")  # of a frame's two parts: marshalled head, body
# By which file descriptors come. What the program starts in the meantime should not have them.
_ANCILLARY, _CLOEXEC = socket.CMSG_SPACE(4), getattr(socket, "MSG_CMSG_CLOEXEC", 0)


def frame(head: tuple[Any, ...], body: bytes | bytearray, n_more: int = 0) -> bytes:
    """Return what goes over the socket between a worker and the server.

    Of the body so many more bytes follow.
    """
    packed = marshal.dumps(head)
    return LENGTHS.pack(len(packed), len(body) + n_more) + packed + body


@dataclass
class Client:
    """A client that was lent, by its file descriptor."""

    fd: int
    slot: int
    request_id: str  # of the request that came along
    reader: Reader
    count: int = 0  # of requests since


class Desk:
    """The program, and what it takes to answer requests by it.

    Parameters
    ----------
    program : Program
    link : socket
        Where tasks come from.
    ledger : Ledger
    accept : str
        For requests that leave the answer's type open.
    body_limit : int
        In bytes.
    """

    def __init__(
        self, program: Program, link: socket.socket, ledger: Ledger, accept: str, body_limit: int
    ):
        self._program, self._link, self._ledger = program, link, ledger
        program.add = ledger.add
        self._accept, self._body_limit = accept, body_limit
        self._clients: dict[int, Client] = {}  # by file descriptor
        self._poll = select.poll()
        self._poll.register(link, select.POLLIN)

    def work(self) -> None:
        """Answer requests, until the server closes its end."""
        while True:
            ready = self._wait()
            for fd, _ in ready:
                if fd in self._clients:
                    self._hear(self._clients[fd])
                elif not self._do_task():
                    return
            if self._clients and (not ready or self._ledger.full or self._ledger.was_recalled()):
                self._give_back(list(self._clients.values()))

    def _wait(self) -> list[tuple[int, int]]:
        if len(self._clients) != 1:
            return self._poll.poll(PAUSE_MS if self._clients else None)
        # Asleep, it would be woken too late: that takes about as long as a small request.
        until = time.monotonic() + PAUSE
        while not (ready := self._poll.poll(0)) and time.monotonic() < until:
            os.sched_yield()
        return ready

    def _do_task(self) -> bool:
        lengths, ancillary, *_ = self._link.recvmsg(LENGTHS.size, _ANCILLARY, _CLOEXEC)
        if not lengths:
            return False
        # No byte more is read, as a file descriptor may come with it.
        head, body = (
            self._link.recv(n, socket.MSG_WAITALL) if n else b"" for n in LENGTHS.unpack(lengths)
        )
        request = Request()
        slot, request.id, request.path, request.headers = marshal.loads(head)
        request.body = body
        client = None
        if ancillary:
            (fd,) = array.array("i", ancillary[0][2])
            client = Client(fd, slot, request.id, Reader(self._body_limit))
            self._clients[fd] = client
            self._poll.register(fd, select.POLLIN)
        claimed = self._ledger.claim(slot)
        if client is None:  # and only clients are taken back
            answer, seconds = self._answer(request)
            self._ledger.withdraw()
            answered = (slot, answer.status, answer.content_type, answer.headers, seconds)
            self._link.sendall(frame(answered, answer.body))
        elif claimed:
            self._reply(client, request)
        else:
            self._give_back([client])
        return True

    def _answer(self, request: Request) -> tuple[Answer, float]:
        start = time.perf_counter()
        try:
            answer = self._run(request)
        except BaseException as error:  # even SystemExit only fails the request
            answer = _describe(error, request.id)
        sys.stdout.flush()  # what the program printed
        return answer, time.perf_counter() - start

    def _run(self, request: Request) -> Answer:
        headers, body = request.headers, bytes(request.body)
        if coding := headers.pop("content-encoding", ""):
            body = codings.decode(body, coding, self._body_limit)
        if request.path == INVOCATIONS:
            content_type = headers.get("content-type", "application/json")
            accept = headers.get("accept", "").strip()
            accept = self._accept if accept in ("", "*/*") else accept
            result = self._program(body, content_type, accept, headers)
        else:
            result = kserve.call(self._program, request.path, body, headers)
        content, content_type, custom_attributes, further = result
        if custom_attributes:
            further = {CUSTOM_ATTRIBUTES: custom_attributes, **further}
        return Answer(200, content, content_type, further)

    # ------------------------------------------------------------ clients

    def _hear(self, client: Client) -> None:
        if not self._ledger.claim(client.slot):
            self._give_back([client])
            return
        data = _read(client.fd)
        requests = client.reader.feed(data) if data else []
        if client.reader.unfinished or len(requests) != 1 or not _is_invocation(requests[0]):
            self._ledger.withdraw()
            self._give_back([client], data)
            return
        request = requests[0]
        client.count += 1
        request.id = f"{client.request_id}_{client.count}"
        self._reply(client, request)

    def _reply(self, client: Client, request: Request) -> None:
        answer, seconds = self._answer(request)
        data = encode(answer)
        sizes = len(request.body), len(answer.body), len(data)
        self._ledger.note_answer(answer.status, *sizes, seconds)
        try:
            n_bytes = os.write(client.fd, data)
        except BlockingIOError:
            n_bytes = 0
        except OSError:  # the client left
            n_bytes = len(data)
            self._ledger.note_answer(499, *sizes, seconds)
        self._ledger.note_sent()
        if n_bytes < len(data):
            self._give_back([client], data[n_bytes:], unsent=True)

    def _give_back(self, clients: list[Client], rest: bytes = b"", unsent: bool = False) -> None:
        for client in clients:
            self._poll.unregister(client.fd)
            os.close(client.fd)
            del self._clients[client.fd]
        self._link.sendall(frame(([client.slot for client in clients], unsent), rest))


def _read(client: int) -> bytes:
    try:
        return os.read(client, RECEIVE)
    except OSError:  # the server will see it, too
        return b""


def _is_invocation(request: Request) -> bool:
    return (
        request.refusal is None
        and request.keep_alive
        and not request.old
        and request.method == "POST"
        and request.path == INVOCATIONS
    )


def _describe(error: BaseException, request_id: str) -> Answer:
    status = getattr(error, "status", None)
    if isinstance(status, int) and 400 <= status < 500:
        headers = error.headers if isinstance(error, codings.CodingError) else None
        return refusal(status, str(error), headers)
    logger.error("request %s failed", request_id, exc_info=error)
    if isinstance(error, MemoryError):
        return refusal(503, "there was not enough memory for the request; send fewer rows")
    message = f"the program failed; its log has the reason under request {request_id}"
    return refusal(500, message)
