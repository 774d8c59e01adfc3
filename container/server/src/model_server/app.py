"""What each path answers, and what is noted down of each request."""

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
from model_server.http1 import Answer, Request, refusal
from model_server.ledger import Record
from model_server.metrics import Metrics, write_counters
from model_server.pool import Pool
from model_server.program import Program
from model_server.settings import MB, Settings

logger = logging.getLogger("model_server")

TICK = 0.2  # seconds between two looks at what takes too long
GRACE = 1  # seconds that a client has, after SIGTERM, to find its idle connection closed
BACKLOG = 1024  # connections that the system accepts on our behalf
STOP = 26  # seconds after SIGTERM for what is running; SIGKILL comes after 30


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
        self._pool = Pool(
            program,
            settings.workers,
            settings.timeout,
            settings.accept,
            self._answer,
            self._note_lent,
            settings.body_limit,
        )
        self._metrics, self._counters = Metrics(), program.counters
        self._connections: dict[Connection, None] = {}  # a set in the order of arrival
        self._lines: list[str] = []
        parameters = {
            "MaxConcurrentTransforms": min(settings.workers, 100),
            "BatchStrategy": "MULTI_RECORD",
            # AWS's default, which is enough to keep a worker busy: more would but cost memory.
            # All concurrent ones together may not exceed 100 MB.
            "MaxPayloadInMB": max(1, min(6, settings.body_limit // MB, 100 // settings.workers)),
        }
        self._parameters = json.dumps(program.execution_parameters(parameters)).encode()
        # By path: its method, and what answers it if that is not the program.
        self._routes: dict[str, tuple[str, Callable[[], Answer] | None]] = {
            "/ping": ("GET", functools.partial(self._vouch, Answer(200, b"", "text/plain"))),
            INVOCATIONS: ("POST", None),
            "/execution-parameters": ("GET", lambda: Answer(200, self._parameters)),
            "/metrics": ("GET", self._report),
        }
        self._probes, self._calls = {"/ping"}, {INVOCATIONS}
        self._model = settings.kserve_model
        if self._model:
            for path, content in kserve.list_facts(self._model, program.signature()).items():
                answer = Answer(200, json.dumps(content).encode())
                self._routes[path] = ("GET", functools.partial(self._vouch, answer))
                self._probes.add(path)
            self._calls.update(kserve.list_calls(self._model))
            self._routes |= dict.fromkeys(self._calls, ("POST", None))

    # ------------------------------------------------------------ requests

    def handle(self, request: Request) -> None:
        """Answer a request, or have it answered."""
        path, method = request.path, request.method
        if request.refusal:
            self._answer(request, request.refusal)
        elif path not in self._routes:
            known = ", ".join(self._routes)
            self._answer(request, refusal(404, f"no such path; try {known}"))
        elif self._routes[path][0] != ("GET" if method == "HEAD" else method):
            allowed = {"GET": "GET, HEAD", "POST": "POST"}[self._routes[path][0]]
            message = f"{path} answers {allowed} only"
            self._answer(request, refusal(405, message, {"allow": allowed}))
        elif answer := self._routes[path][1]:
            self._answer(request, answer())
        else:
            self._pool.submit(request)

    def _vouch(self, answer: Answer) -> Answer:
        # Of what the workers do it knows nothing, so it is answered however busy they are.
        return answer if self._pool.healthy else refusal(503, "no worker")

    def _report(self) -> Answer:
        pool = self._pool
        in_flight = pool.count_in_flight()
        text = self._metrics.text(
            in_flight, pool.queued, pool.alive, pool.deaths, self.budget.used
        ) + write_counters(self._counters, pool.count_cells())
        return Answer(200, text.encode(), "text/plain; version=0.0.4; charset=utf-8")

    def _answer(self, request: Request, answer: Answer, program_seconds: float = 0) -> None:
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
            wire_size=0,  # nobody asks
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
        # A healthy /ping is asked for every few seconds, for ever; so is KServe's.
        level = logging.DEBUG if path in self._probes and status == 200 else logging.INFO
        if level >= self._settings.log_level:
            path = json.dumps(path[:200])  # the one thing here that a client words
            self._log(
                f'{{"id": "{request_id}", "method": "{request.method}", "path": {path}, '
                f'"status": {status}, "bytes_in": {record.size}, '
                f'"bytes_out": {record.answer_size}, '
                f'"queue_ms": {1000 * queue_seconds:.3f}, '
                f'"program_ms": {1000 * record.program_seconds:.3f}, '
                f'"ms": {1000 * seconds:.3f}}}\n'
            )

    def _log(self, line: str) -> None:
        if not self._lines:  # one write for all that this turn of the loop answers
            asyncio.get_running_loop().call_soon(self._flush)
        self._lines.append(line)

    def _flush(self) -> None:
        lines, self._lines = self._lines, []
        sys.stdout.write("".join(lines))
        sys.stdout.flush()

    # ------------------------------------------------------------ connections

    def opened(self, connection: Connection) -> None:
        """Take a client in; beyond what the system lets us open, at the expense of an idle one."""
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
        """Answer requests until ``stop`` is set, then finish those that are there."""
        loop = asyncio.get_running_loop()
        self._room = raise_file_limit() - 128  # for clients being let in, and for the program
        await self._pool.start()
        # A few at a time, so that idle clients can be closed before open files run out.
        server = await loop.create_server(lambda: Connection(self), sock=listener, backlog=16)
        listener.listen(BACKLOG)
        while not stop.is_set():
            self._check(IDLE_LIMIT)
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(stop.wait(), TICK)

        # What the system has accepted is ours to answer, before the door is shut.
        accepted = []
        with contextlib.suppress(BlockingIOError):
            while True:
                accepted.append(listener.accept()[0])
        server.close()
        for client in accepted:
            await loop.connect_accepted_socket(lambda: Connection(self), client)
        await self._drain()

    async def _drain(self) -> None:
        print(f"serve: stopping; {self._pool.count_in_flight()} requests to finish", flush=True)
        self.draining = True
        self._pool.stop_lending()
        start = time.monotonic()
        await asyncio.sleep(0.02)  # until the last ones are let in
        while self._connections and (elapsed := time.monotonic() - start) < STOP:
            self._check(IDLE_LIMIT if elapsed < GRACE else 0)
            await asyncio.sleep(0.02)
        self._pool.close()
        await asyncio.sleep(0.1)  # for the last words

    def _check(self, idle_limit: float) -> None:
        now = time.monotonic()
        self._pool.check(now)
        self.budget.trim()
        for connection in list(self._connections):
            try:
                connection.check(now, idle_limit)
            except Exception:  # of one client; the others' server goes on
                logger.exception("a connection failed")
                connection.abort()


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens, and whose clients get small answers at once."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, port), family=family)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # clients' sockets inherit it
    return listener


def raise_file_limit() -> int:
    """Allow this process as many open files, that is clients, as it can get and use."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 16384 if hard == resource.RLIM_INFINITY else min(hard, 16384)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted
