"""Routing and logging of requests, and the life of the server."""

import asyncio
import contextlib
import functools
import json
import logging
import resource
import socket
import sys
import time
from collections.abc import Callable

from model_server import kserve
from model_server.budget import Budget
from model_server.connection import IDLE_LIMIT, Connection
from model_server.desk import INVOCATIONS
from model_server.http1 import Request, Response, refusal
from model_server.ledger import Record
from model_server.metrics import Metrics, write_counters
from model_server.pool import Pool
from model_server.program import Program
from model_server.settings import MB, Settings

logger = logging.getLogger("model_server")

TICK = 0.2  # seconds between checks for timeouts
GRACE = 1  # seconds after SIGTERM before idle connections are closed
BACKLOG = 1024  # length of the listen queue
# Of the page, whose own policy allows its own script and style, and requests to where it is from.
PAGE_HEADERS = {
    "Content-Security-Policy": "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
STOP = 26  # seconds after SIGTERM for running requests; SIGKILL follows after 30


class App:
    """SageMaker's contract over one loaded program.

    Parameters
    ----------
    program : Program
    settings : Settings
    """

    def __init__(self, program: Program, settings: Settings):
        self._settings = settings
        self.body_limit, self.read_limit = settings.body_limit, settings.timeout
        self.budget = Budget(settings.body_budget)
        self.draining = False
        self._pool = Pool(program, settings, self._answer, self._note_lent)
        self._metrics, self._counters = Metrics(), program.counters
        self._connections: dict[Connection, None] = {}  # an ordered set, oldest first
        self._lines: list[str] = []
        parameters = {
            "MaxConcurrentTransforms": min(settings.workers, 100),
            "BatchStrategy": "MULTI_RECORD",
            # AWS's default, which keeps a worker busy; more would only cost memory.
            # All concurrent payloads together may not exceed 100 MB.
            "MaxPayloadInMB": max(1, min(6, settings.body_limit // MB, 100 // settings.workers)),
        }
        self._parameters = json.dumps(program.execution_parameters(parameters)).encode()
        # By path: its method, and what answers it if that is not the program.
        self._routes: dict[str, tuple[str, Callable[[], Response] | None]] = {
            "/ping": ("GET", functools.partial(self._vouch, Response(200, b"", "text/plain"))),
            INVOCATIONS: ("POST", None),
            "/execution-parameters": ("GET", lambda: Response(200, self._parameters)),
            "/metrics": ("GET", self._report),
        }
        if settings.page:
            page = Response(200, program.page().encode(), "text/html; charset=utf-8", PAGE_HEADERS)
            self._routes["/"] = ("GET", lambda: page)
        self._probes, self._calls = {"/ping"}, {INVOCATIONS}
        self._model = settings.kserve_model
        if self._model:
            for path, content in kserve.list_facts(self._model, program.signature()).items():
                answer = Response(200, json.dumps(content).encode())
                self._routes[path] = ("GET", functools.partial(self._vouch, answer))
                self._probes.add(path)
            self._calls.update(kserve.list_calls(self._model))
            self._routes |= dict.fromkeys(self._calls, ("POST", None))

    # ------------------------------------------------------------ requests

    def handle(self, request: Request) -> None:
        """Answer a request, directly or by a worker."""
        path, method = request.path, request.method
        if request.refusal:
            self._answer(request, request.refusal)
        elif path not in self._routes:
            known = ", ".join(self._routes)
            self._answer(request, refusal(404, f"no such path; try {known}"))
        elif self._routes[path][0] != ("GET" if method == "HEAD" else method):
            allowed = {"GET": "GET, HEAD", "POST": "POST"}[self._routes[path][0]]
            message = f"{path} supports only {allowed}"
            self._answer(request, refusal(405, message, {"allow": allowed}))
        elif answer := self._routes[path][1]:
            self._answer(request, answer())
        else:
            self._pool.submit(request)

    def _vouch(self, answer: Response) -> Response:
        # Independent of the workers, so it is answered however busy they are.
        return answer if self._pool.healthy else refusal(503, "no worker")

    def _report(self) -> Response:
        text = self._metrics.text(*self._pool.count(), self.budget.used)
        text += write_counters(self._counters, self._pool.count_cells())
        return Response(200, text.encode(), "text/plain; version=0.0.4; charset=utf-8")

    def _answer(self, request: Request, answer: Response, program_seconds: float = 0) -> None:
        if self._model and answer.status >= 400:
            answer = kserve.refuse(request.path, answer)
        status = 499 if request.abandoned else answer.status
        request.answer(answer)
        record = Record(
            slot=0,
            received=request.received,
            status=status,
            size=request.size,
            answer_size=len(answer.body),
            wire_size=0,  # not used
            program_seconds=program_seconds,
            sent=time.monotonic(),
        )
        self._note(request, request.id, request.sent - request.received, record)

    def _note_lent(self, request: Request, k: int, record: Record) -> None:
        if k:
            self._note(request, f"{request.id}_{k}", 0, record)
        else:
            queue_seconds = request.sent - request.received
            record = record._replace(received=request.received)
            self._note(request, request.id, queue_seconds, record)

    def _note(
        self, request: Request, request_id: str, queue_seconds: float, record: Record
    ) -> None:
        path, status, seconds = request.path, record.status, record.sent - record.received
        self._metrics.add(path if path in self._routes else "other", status)
        if path in self._calls and request.refusal is None and request.method == "POST":
            self._metrics.add_invocation(seconds)
        # Health checks arrive every few seconds, KServe's too; log them only if they fail.
        level = logging.DEBUG if path in self._probes and status == 200 else logging.INFO
        if level >= self._settings.log_level:
            path = json.dumps(path[:200])  # the only field that the client controls
            self._log(
                f'{{"id": "{request_id}", "method": "{request.method}", "path": {path}, '
                f'"status": {status}, "bytes_in": {record.size}, '
                f'"bytes_out": {record.answer_size}, '
                f'"queue_ms": {1000 * queue_seconds:.3f}, '
                f'"program_ms": {1000 * record.program_seconds:.3f}, '
                f'"ms": {1000 * seconds:.3f}}}\n'
            )

    def _log(self, line: str) -> None:
        if not self._lines:  # one write per iteration of the event loop
            asyncio.get_running_loop().call_soon(self._flush)
        self._lines.append(line)

    def _flush(self) -> None:
        lines, self._lines = self._lines, []
        sys.stdout.write("".join(lines))
        sys.stdout.flush()

    # ------------------------------------------------------------ connections

    def opened(self, connection: Connection) -> None:
        """Accept a client, closing an idle connection if the limit of open files is reached."""
        self._connections[connection] = None
        if len(self._connections) > self._room:
            oldest = next((c for c in self._connections if not c.busy), None)
            if oldest is not None:
                self.lost(oldest)
                oldest.abort()

    def lost(self, connection: Connection) -> None:
        """Forget a client."""
        self._connections.pop(connection, None)

    # ------------------------------------------------------------ from start to end

    async def serve(self, listener: socket.socket, stop: asyncio.Event) -> None:
        """Serve until ``stop`` is set, then finish the requests in progress."""
        loop = asyncio.get_running_loop()
        # The rest is for connections being accepted, and for the program.
        self._room = raise_file_limit() - 128
        await self._pool.start()
        # Accept a few at a time, so that idle clients are closed before open files run out.
        server = await loop.create_server(lambda: Connection(self), sock=listener, backlog=16)
        listener.listen(BACKLOG)
        while not stop.is_set():
            self._check(IDLE_LIMIT)
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(stop.wait(), TICK)

        # Accept and answer connections already in the listen queue before closing the socket.
        accepted = []
        with contextlib.suppress(BlockingIOError):
            while True:
                accepted.append(listener.accept()[0])
        server.close()
        for client in accepted:
            await loop.connect_accepted_socket(lambda: Connection(self), client)
        await self._drain()

    async def _drain(self) -> None:
        in_flight, *_ = self._pool.count()
        print(f"serve: stopping; {in_flight} requests to finish", flush=True)
        self.draining = True
        self._pool.stop_lending()
        start = time.monotonic()
        await asyncio.sleep(0.02)  # until the last connections are accepted
        while self._connections and (elapsed := time.monotonic() - start) < STOP:
            self._check(IDLE_LIMIT if elapsed < GRACE else 0)
            await asyncio.sleep(0.02)
        self._pool.close()
        await asyncio.sleep(0.1)  # for the last responses to be sent

    def _check(self, idle_limit: float) -> None:
        now = time.monotonic()
        self._pool.check(now)
        self.budget.trim()
        for connection in list(self._connections):
            try:
                connection.check(now, idle_limit)
            except Exception:  # an error of one client must not stop the server
                logger.exception("a connection failed")
                connection.abort()


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket with TCP_NODELAY, so small responses are sent immediately."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, port), family=family)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # accepted sockets inherit it
    return listener


def raise_file_limit() -> int:
    """Raise the limit of open files, and so of clients, as far as allowed and useful."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 16384 if hard == resource.RLIM_INFINITY else min(hard, 16384)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted
