"""The processes that run the program: each has one request at a time, and may die of it.

They are forked off the process that has loaded the model, so they share its memory. What goes
over the socket between the two is one frame for a request and one for its answer.
"""

import asyncio
import contextlib
import ctypes
import logging
import marshal
import os
import signal
import socket
import struct
import sys
import time
from collections import deque
from collections.abc import Callable
from typing import NoReturn

from model_server import kserve
from model_server.http1 import RECEIVED, Answer, Request, refusal
from model_server.program import CUSTOM_ATTRIBUTES, Program

logger = logging.getLogger("model_server")

_PR_SET_PDEATHSIG = 1  # prctl's option: the signal that a parent's end sends
_LENGTHS = struct.Struct("<IQ")  # of a frame's two parts: marshalled head, body


def _frame(head: tuple, body: bytes) -> bytes:
    packed = marshal.dumps(head)
    return _LENGTHS.pack(len(packed), len(body)) + packed + body


# ---------------------------------------------------------------- the worker's side


def work(program: Program, link: socket.socket) -> None:
    """Answer requests until the other end closes."""
    with link.makefile("rb") as stream:
        while lengths := stream.read(_LENGTHS.size):
            n_head, n_body = _LENGTHS.unpack(lengths)
            (request_id, path, *types), body = (
                marshal.loads(stream.read(n_head)),
                stream.read(n_body),
            )
            start = time.perf_counter()
            try:
                answer = _run(program, path, body, *types)
            except BaseException as error:  # even SystemExit is but a failed request
                answer = _describe(error, request_id)
            seconds = time.perf_counter() - start
            head = (answer.status, answer.content_type, answer.headers, seconds)
            link.sendall(_frame(head, answer.body))
            sys.stdout.flush()  # what the program printed
            del body, answer  # or they would stay until the next request


def _run(
    program: Program, path: str, body: bytes, content_type: str, accept: str, headers: dict
) -> Answer:
    if path == "/invocations":
        result = program(body, content_type, accept, headers)
    else:
        result = kserve.call(program, path, body, headers)
    content, content_type, custom_attributes = result
    further = {CUSTOM_ATTRIBUTES: custom_attributes} if custom_attributes else None
    return Answer(200, content, content_type, further)


def _describe(error: BaseException, request_id: str) -> Answer:
    status = getattr(error, "status", None)
    if isinstance(status, int) and 400 <= status < 500:
        return refusal(status, str(error))
    logger.error("request %s failed", request_id, exc_info=error)
    message = f"the program failed; its log has the reason under request {request_id}"
    return refusal(500, message)


# ---------------------------------------------------------------- the server's side


class Worker(asyncio.BufferedProtocol):
    """One worker process, seen from the server."""

    def __init__(self, pool: "Pool", pid: int):
        self._pool, self.pid = pool, pid
        self._received = bytearray()
        self.request: Request | None = None
        self.served = False  # whether it ever got a request
        self._gone = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # noqa: D102
        self._transport = transport

    def give(self, request: Request, accept: str) -> None:
        """Hand over a request."""
        self.request, self.served = request, True
        headers = request.headers
        content_type = headers.get("content-type", "application/json")
        head = (request.id, request.path, content_type, accept, headers)
        self._transport.write(_frame(head, request.body))

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: D102
        return RECEIVED

    def buffer_updated(self, n_bytes: int) -> None:  # noqa: D102
        received = self._received
        received += RECEIVED[:n_bytes]
        if len(received) < _LENGTHS.size:
            return
        n_head, n_body = _LENGTHS.unpack_from(received)
        start = _LENGTHS.size + n_head
        if len(received) < start + n_body:
            return
        status, content_type, headers, seconds = marshal.loads(received[_LENGTHS.size : start])
        answer = Answer(status, bytes(received[start:]), content_type, headers)
        received.clear()
        request, self.request = self.request, None
        if request is not None:  # nobody waits for what comes after the time limit
            self._pool.finish(self, request, answer, seconds)

    def connection_lost(self, error: Exception | None) -> None:  # noqa: D102
        self.kill()  # had it but closed its socket
        # A reset says that it left something unread.
        self._pool.bury(self, unread=isinstance(error, ConnectionError))

    def leave(self) -> None:
        """Hear from it no more, once what it has said is read: the process is gone."""
        self._gone = True
        asyncio.get_running_loop().call_later(0.1, self._transport.abort)

    def kill(self) -> None:
        """End it, whatever it does."""
        if not self._gone:  # or its number may be another's by now
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)


def _open_files() -> set[int]:
    def is_open(fd: int) -> bool:
        try:
            os.fstat(fd)
        except OSError:  # the listing's own
            return False
        return True

    return set(filter(is_open, map(int, os.listdir("/dev/fd"))))


class Pool:
    """All workers, and the requests that wait for one.

    Parameters
    ----------
    program : Program
    size : int
        Number of workers.
    timeout : float
        Seconds that a request may take from its arrival to its answer.
    accept : str
        For requests that leave the answer's type open.
    answer : callable
        Takes each request with its `Answer` and the seconds that the program took.
    """

    def __init__(
        self,
        program: Program,
        size: int,
        timeout: float,
        accept: str,
        answer: Callable[[Request, Answer, float], None],
    ):
        self._program, self._size = program, size
        self._timeout, self._accept, self._answer = timeout, accept, answer
        self._workers: set[Worker] = set()
        self._idle: list[Worker] = []
        self._queue: deque[Request] = deque()
        self._starts: set[asyncio.Task] = set()
        self._kept = _open_files()
        self._replacing = False  # a worker that did its work, so that one more will do, too
        self.deaths = 0
        self.closing = False

    @property
    def healthy(self) -> bool:
        """Whether there is a worker, or will be in a moment."""
        return bool(self._workers) or self._replacing

    @property
    def alive(self) -> int:
        """How many workers there are."""
        return len(self._workers)

    @property
    def queued(self) -> int:
        """How many requests wait for a worker."""
        return len(self._queue)

    async def start(self) -> None:
        """Start all workers."""
        for _ in range(self._size):
            await self._start_worker()

    async def _start_worker(self) -> None:
        ours, theirs = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            self._be_worker(theirs)
        theirs.close()
        _, worker = await asyncio.get_running_loop().connect_accepted_socket(
            lambda: Worker(self, pid), ours
        )
        self._workers.add(worker)
        self._idle.append(worker)
        self._dispatch()

    def _be_worker(self, link: socket.socket) -> NoReturn:
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            with contextlib.suppress(OSError, AttributeError):  # which only Linux has
                # One that is stuck would not notice the server's end.
                ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            # The server says when to end, by closing its end. Ctrl-C goes to all of the group.
            for signum in (signal.SIGTERM, signal.SIGINT):
                signal.signal(signum, signal.SIG_IGN)
            # What the server has open is none of a worker's business: a client would never see
            # the end of a connection whose copy lies here.
            for fd in _open_files() - self._kept - {link.fileno()}:
                os.close(fd)
            work(self._program, link)
            code = 0
        except BrokenPipeError:  # the server is gone
            pass
        except BaseException:
            logger.exception("a worker failed")
        finally:
            sys.stdout.flush()
            os._exit(code)  # and never back into the server's loop

    # ------------------------------------------------------------ requests

    def submit(self, request: Request) -> None:
        """Have a request answered as soon as a worker is free."""
        self._queue.append(request)
        self._dispatch()

    def _dispatch(self) -> None:
        while self._queue and self._idle:
            request = self._queue.popleft()
            if request.abandoned:
                self._answer(request, refusal(499, "the client left"), 0)
                continue
            accept = request.headers.get("accept", "").strip()
            request.sent = time.monotonic()
            # The last one to become idle: what it needs is still in the processor's caches.
            self._idle.pop().give(request, self._accept if accept in ("", "*/*") else accept)

    def finish(self, worker: Worker, request: Request, answer: Answer, seconds: float) -> None:
        """Take a worker's answer, and give it the next request before the answer goes out."""
        self._idle.append(worker)
        self._dispatch()
        self._answer(request, answer, seconds)

    def bury(self, worker: Worker, unread: bool) -> None:
        """Answer for a worker that has died, or have another one answer, and start one."""
        self._workers.discard(worker)
        if worker in self._idle:
            self._idle.remove(worker)
        if self.closing:
            return
        self.deaths += 1
        request = worker.request
        logger.error(
            "worker %d died%s", worker.pid, f" of request {request.id}" if request else ""
        )
        # One that dies of nothing would die again at once.
        self._replacing = worker.served
        self._start_soon(0 if worker.served else 1)
        if request is None:
            return
        if unread and not request.retried:  # it wasn't the request's fault
            request.retried = True
            self._queue.appendleft(request)
            self._dispatch()
        else:
            message = f"the program's process died; its log may say why under request {request.id}"
            self._answer(request, refusal(500, message), 0)

    def _start_soon(self, delay: float) -> None:
        async def start() -> None:
            await asyncio.sleep(delay)
            try:
                await self._start_worker()
            except OSError as error:
                logger.error("cannot start a worker: %s", error)
                self._replacing = False
                self._start_soon(1)

        task = asyncio.get_running_loop().create_task(start())
        self._starts.add(task)  # the loop itself would forget it
        task.add_done_callback(self._starts.discard)

    def check(self, now: float) -> None:
        """Give up requests that take too long, and the workers that hold them."""
        limit = f"{self._timeout:g} s"
        while self._queue and now - self._queue[0].received > self._timeout:
            message = f"no worker was free within {limit}; send fewer requests at once"
            self._answer(self._queue.popleft(), refusal(503, message), 0)
        for worker in list(self._workers):
            request = worker.request
            if request is not None and now - request.sent > self._timeout:
                worker.request = None
                message = f"the program took longer than {limit}; send fewer rows"
                self._answer(request, refusal(504, message), now - request.sent)
                worker.kill()
        self._reap()

    def _reap(self) -> None:
        # All children, as a container's first process has its orphans, too.
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                for worker in [worker for worker in self._workers if worker.pid == ended[0]]:
                    worker.leave()  # its own child may hold the socket open, in its stead

    def close(self) -> None:
        """End all workers, and answer what they had."""
        self.closing = True
        waiting = [*self._queue, *(w.request for w in self._workers if w.request)]
        self._queue.clear()
        for worker in list(self._workers):
            worker.kill()
        for request in waiting:
            self._answer(request, refusal(503, "the server is stopping"), 0)
