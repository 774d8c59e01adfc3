"""The worker process's side: it runs the program on one request at a time, and may crash.

A worker receives a request as a frame over a socket and returns the response as one. A client
that sends its next request immediately after a response is lent to the worker together with its
request: the worker answers this and the following requests itself, without the hop between the
processes. It gives all its clients back when the server recalls them or all of them pause, and a
single one when it sends anything other than one complete invocation. The server's README defines
the terms.
"""

import array
import contextlib
import ctypes
import logging
import marshal
import os
import select
import signal
import socket
import struct
import sys
import time
from dataclasses import dataclass
from typing import Any

from model_server import codings, kserve
from model_server.http1 import Reader, Request, Response, encode, refusal
from model_server.ledger import Ledger
from model_server.program import CUSTOM_ATTRIBUTES, Program

logger = logging.getLogger("model_server")

INVOCATIONS = "/invocations"
PAUSE = 50e-6  # seconds that a single client may pause
PAUSE_MS = 1  # milliseconds that several clients may pause
RECEIVE = 64 * 1024  # bytes per read
LENGTHS = struct.Struct("<IQ")  # of a frame's two parts: marshalled head, body
_PR_SET_PDEATHSIG = 1  # prctl's option: signal on the parent's death
# For receiving file descriptors, close-on-exec, so that the program's children don't inherit them.
_ANCILLARY, _CLOEXEC = socket.CMSG_SPACE(4), getattr(socket, "MSG_CMSG_CLOEXEC", 0)


def frame(head: tuple[Any, ...], body: bytes | bytearray, n_more: int = 0) -> bytes:
    """Encode a message between a worker and the server; `n_more` bytes of the body follow it."""
    packed = marshal.dumps(head)
    return LENGTHS.pack(len(packed), len(body) + n_more) + packed + body


@dataclass
class Client:
    """A client lent to this worker."""

    fd: int
    slot: int
    request_id: str  # of the request that it was lent with
    reader: Reader
    count: int = 0  # further requests


class Desk:
    """Loop of a worker process, which answers requests by the program.

    Parameters
    ----------
    program : Program
    ledger : Ledger
    accept : str
        Content type of the response if the request has no preference.
    body_limit : int
        In bytes.
    """

    def __init__(self, program: Program, ledger: Ledger, accept: str, body_limit: int):
        self._program, self.ledger = program, ledger
        self._accept, self._body_limit = accept, body_limit
        self._clients: dict[int, Client] = {}  # by file descriptor
        self._poll = select.poll()

    def work(self, link: socket.socket) -> None:
        """Answer requests until the server closes its end of the socket."""
        self._link = link
        self._poll.register(link, select.POLLIN)
        self._program.add = self.ledger.add
        while True:
            ready = self._wait()
            for fd, _ in ready:
                if fd in self._clients:
                    self._hear(self._clients[fd])
                elif not self._do_task():
                    return
            if self._clients and (not ready or self.ledger.full or self.ledger.was_recalled()):
                self._give_back(list(self._clients.values()))

    def _wait(self) -> list[tuple[int, int]]:
        if len(self._clients) != 1:
            return self._poll.poll(PAUSE_MS if self._clients else None)
        # Busy-wait: waking up would take about as long as a small request.
        until = time.monotonic() + PAUSE
        while not (ready := self._poll.poll(0)) and time.monotonic() < until:
            os.sched_yield()
        return ready

    def _do_task(self) -> bool:
        lengths, ancillary, *_ = self._link.recvmsg(LENGTHS.size, _ANCILLARY, _CLOEXEC)
        if not lengths:
            return False
        # Read exactly one frame, as the next one may carry a file descriptor.
        task, body = (
            self._link.recv(n, socket.MSG_WAITALL) if n else b"" for n in LENGTHS.unpack(lengths)
        )
        request = Request()
        slot, request.id, request.path, request.headers = marshal.loads(task)
        request.body = body
        client = None
        if ancillary:
            (fd,) = array.array("i", ancillary[0][2])
            client = Client(fd, slot, request.id, Reader(self._body_limit))
            self._clients[fd] = client
            self._poll.register(fd, select.POLLIN)
        claimed = self.ledger.claim(slot)
        if client is None:  # and only clients are taken back
            answer, seconds = self._answer(request)
            self.ledger.withdraw()
            head = "answer", slot, answer.status, answer.content_type, answer.headers, seconds
            self._link.sendall(frame(head, answer.body))
        elif claimed:
            self._reply(client, request)
        else:
            self._give_back([client])
        return True

    def _answer(self, request: Request) -> tuple[Response, float]:
        start = time.perf_counter()
        try:
            answer = self._run(request)
        except BaseException as error:  # even SystemExit fails only the request
            answer = _describe(error, request.id)
        sys.stdout.flush()  # output of the program
        return answer, time.perf_counter() - start

    def _run(self, request: Request) -> Response:
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
        return Response(200, content, content_type, further)

    # ------------------------------------------------------------ clients

    def _hear(self, client: Client) -> None:
        if not self.ledger.claim(client.slot):
            self._give_back([client])
            return
        data = _read(client.fd)
        requests = client.reader.feed(data) if data else []
        if client.reader.unfinished or len(requests) != 1 or not _is_invocation(requests[0]):
            self.ledger.release(client.slot)
            self.ledger.withdraw()
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
        self.ledger.note_answer(answer.status, *sizes, seconds)
        try:
            n_bytes = os.write(client.fd, data)
        except BlockingIOError:
            n_bytes = 0
        except OSError:  # the client left
            n_bytes = len(data)
            self.ledger.note_answer(499, *sizes, seconds)
        whole = n_bytes == len(data)
        if not whole:
            self.ledger.release(client.slot)
        self.ledger.note_sent()
        if not whole:
            self._give_back([client], data[n_bytes:], unsent=True)

    def _give_back(self, clients: list[Client], rest: bytes = b"", unsent: bool = False) -> None:
        for client in clients:
            self._poll.unregister(client.fd)
            os.close(client.fd)
            del self._clients[client.fd]
        head = "clients", [client.slot for client in clients], unsent
        self._link.sendall(frame(head, rest))


def _read(client: int) -> bytes:
    try:
        return os.read(client, RECEIVE)
    except OSError:  # the server will get the error, too
        return b""


def _is_invocation(request: Request) -> bool:
    return (
        request.refusal is None
        and request.keep_alive
        and not request.old
        and request.method == "POST"
        and request.path == INVOCATIONS
    )


def _describe(error: BaseException, request_id: str) -> Response:
    status = getattr(error, "status", None)
    if isinstance(status, int) and 400 <= status < 500:
        headers = error.headers if isinstance(error, codings.CodingError) else None
        return refusal(status, str(error), headers)
    logger.error("request %s failed", request_id, exc_info=error)
    if isinstance(error, MemoryError):
        return refusal(503, "there was not enough memory for the request; send fewer rows")
    message = f"the program failed; its log has the reason under request {request_id}"
    return refusal(500, message)


# ---------------------------------------------------------------- the process


def list_open_files() -> set[int]:
    """Return this process's file descriptors."""

    def is_open(fd: int) -> bool:
        try:
            os.fstat(fd)
        except OSError:  # the descriptor of the listing itself
            return False
        return True

    return set(filter(is_open, map(int, os.listdir("/dev/fd"))))


def fork(desk: Desk, kept: set[int]) -> tuple[int, socket.socket]:
    """Fork a process that works at the desk; return its pid and the server's socket to it.

    It closes all file descriptors but these and its own: a client would not see the end of a
    connection that is still open there.
    """
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    pid = os.fork()
    if pid:
        theirs.close()
        return pid, ours
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        with contextlib.suppress(OSError, AttributeError):  # Linux only
            # A stuck worker would not notice that the server has exited.
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        # The server stops workers by closing the socket; Ctrl-C reaches the whole group.
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, signal.SIG_IGN)
        for fd in list_open_files() - kept - {theirs.fileno(), *desk.ledger.files}:
            os.close(fd)
        desk.work(theirs)
        code = 0
    except BrokenPipeError:  # the server has exited
        pass
    except BaseException:
        logger.exception("a worker failed")
    finally:
        sys.stdout.flush()
        os._exit(code)  # never return to the server's event loop
