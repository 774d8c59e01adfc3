"""All workers: the assignment of requests and clients to them, and their replacement.

Workers are forked from the process that has loaded the model, so they share its memory.
"""

import asyncio
import contextlib
import ctypes
import logging
import os
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import NoReturn

from model_server.desk import INVOCATIONS, RECEIVE, Desk
from model_server.http1 import Request, Response, refusal
from model_server.ledger import Ledger, Record
from model_server.program import Program
from model_server.worker import Worker

logger = logging.getLogger("model_server")

_PR_SET_PDEATHSIG = 1  # prctl's option: signal on the parent's death
SLOW = 0.01  # seconds after which a request is too slow to let other clients wait


def _open_files() -> set[int]:
    def is_open(fd: int) -> bool:
        try:
            os.fstat(fd)
        except OSError:  # the descriptor of the listing itself
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
        Content type of the response if the request has no preference.
    answer : callable
        Takes each request with its `Response` and the seconds that the program took.
    note : callable
        Takes a request whose client was lent, and for each that the worker has answered its
        number, from 0 on, and its `Record`.
    body_limit : int
        In bytes.
    """

    def __init__(
        self,
        program: Program,
        size: int,
        timeout: float,
        accept: str,
        answer: Callable[[Request, Response, float], None],
        note: Callable[[Request, int, Record], None],
        body_limit: int,
    ):
        self._program, self._size = program, size
        self._timeout, self._accept, self._body_limit = timeout, accept, body_limit
        self._answer, self._note = answer, note
        self._workers: set[Worker] = set()
        self._idle: list[Worker] = []
        self._queue: deque[Request] = deque()
        self._starts: set[asyncio.Task[None]] = set()
        self._kept = _open_files()
        self._lending = True  # False once the system turns out not to support it
        self._watching = False  # whether `_watch` is scheduled
        self._replacing = False  # a worker that had served, so its successor should work, too
        self.deaths = 0
        self._n_cells = sum(len(counter.values) for counter in program.counters.values())
        self._counted = [0] * self._n_cells  # counts of workers that have died
        self.closing = False

    @property
    def healthy(self) -> bool:
        """Whether there is a worker, or one is about to start."""
        return bool(self._workers) or self._replacing

    @property
    def alive(self) -> int:
        """Number of workers."""
        return len(self._workers)

    @property
    def queued(self) -> int:
        """Number of requests waiting for a worker."""
        return len(self._queue)

    def count_in_flight(self) -> int:
        """Collect the workers' records, and return the number of unanswered requests."""
        for worker in self._workers:
            self._note_down(worker)
        return len(self._queue) + sum(worker.unanswered for worker in self._workers)

    def count_cells(self) -> list[int]:
        """Return the program's counts, for all values of all its counters."""
        return self._add_up(self._workers)

    def _add_up(self, workers: Iterable[Worker]) -> list[int]:
        return list(
            map(sum, zip(self._counted, *(w.ledger.cells() for w in workers), strict=True))
        )

    async def start(self) -> None:
        """Start all workers."""
        for _ in range(self._size):
            await self._start_worker()

    async def _start_worker(self) -> None:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        ledger = Ledger(self._n_cells)
        pid = os.fork()
        if pid == 0:
            self._be_worker(theirs, ledger)
        theirs.close()
        _, worker = await asyncio.get_running_loop().connect_accepted_socket(
            lambda: Worker(self, pid, ours, ledger), ours
        )
        self._workers.add(worker)
        self._idle.append(worker)
        self._dispatch()

    def _be_worker(self, link: socket.socket, ledger: Ledger) -> NoReturn:
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            with contextlib.suppress(OSError, AttributeError):  # Linux only
                # A stuck worker would not notice that the server has exited.
                ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            # The server stops workers by closing the socket; Ctrl-C reaches the whole group.
            for signum in (signal.SIGTERM, signal.SIGINT):
                signal.signal(signum, signal.SIG_IGN)
            # Close the descriptors inherited from the server: a client would not see the end
            # of a connection that is still open here.
            for fd in _open_files() - self._kept - {link.fileno(), *ledger.files}:
                os.close(fd)
            Desk(self._program, link, ledger, self._accept, self._body_limit).work()
            code = 0
        except BrokenPipeError:  # the server has exited
            pass
        except BaseException:
            logger.exception("a worker failed")
        finally:
            sys.stdout.flush()
            os._exit(code)  # never return to the server's event loop

    # ------------------------------------------------------------ requests

    def submit(self, request: Request) -> None:
        """Queue a request for the next free worker."""
        self._queue.append(request)
        self._dispatch()

    def _dispatch(self) -> None:
        while self._queue:
            request = self._queue[0]
            if request.abandoned:
                self._answer(self._queue.popleft(), refusal(499, "the client left"), 0)
                continue
            lent = self._may_lend(request)
            if self._idle:
                # The last one to become idle has the warmest caches.
                worker = self._idle[-1]
            else:
                joinable = [worker for worker in self._workers if lent and worker.can_join]
                if not joinable:
                    self._recall_one()
                    return
                worker = min(joinable, key=lambda worker: len(worker.requests))
            request.sent = time.monotonic()
            try:
                worker.give(request, lent)
            except BlockingIOError:
                self._recall(worker)
                return
            except OSError as error:
                logger.warning("clients cannot be lent to workers: %s", error)
                self._lending = False
                continue
            self._queue.popleft()
            if self._idle:
                self._idle.pop()
            if lent and not self._watching:
                self._watching = True
                asyncio.get_running_loop().call_later(SLOW, self._watch)

    def _requeue(self, request: Request) -> None:
        request.given = False
        self._queue.appendleft(request)

    def _may_lend(self, request: Request) -> bool:
        return (
            request.prompt
            and self._lending
            and request.path == INVOCATIONS
            and not (request.retried or request.old)
            and len(request.body) <= RECEIVE
            and request.connection.lendable
        )

    def finish(self, worker: Worker, request: Request, answer: Response, seconds: float) -> None:
        """Handle a worker's response: give the worker the next request, then send the response."""
        self._release(worker)
        self._answer(request, answer, seconds)

    def _release(self, worker: Worker) -> None:
        if worker.idle and not worker.late:
            worker.recalled, worker.revoked = False, 0.0
            self._idle.append(worker)
        self._dispatch()

    # ------------------------------------------------------------ clients

    def take_back(self, worker: Worker, slots: Iterable[int], rest: bytes, unsent: bool) -> None:
        """Take clients back; `rest` is unhandled input, or the unsent output, of a single one."""
        self._note_down(worker)
        back = []
        for slot in slots:
            if slot not in worker.revoked_clients:
                back.append((worker.requests.pop(slot), worker.answered[slot]))
                continue
            request = worker.revoked_clients.pop(slot)  # already taken back
            if rest:  # the server may already have read later bytes of the client
                request.connection.abort()
        for request, n_answered in back:
            if not n_answered:
                self._requeue(request)
            elif unsent:
                request.connection.take_back(unsent=rest)
            else:
                request.connection.take_back(unread=rest)
        if worker.recalled and worker.requests:  # these were sent before the worker saw the recall
            worker.ledger.recall()
        self._release(worker)

    def stop_lending(self) -> None:
        """Recall all clients and lend none from now on."""
        self._lending = False
        for worker in self._workers:
            self._recall(worker)

    def _recall(self, worker: Worker) -> None:
        if worker.lent and worker.requests and not worker.recalled:
            worker.recalled = True
            worker.ledger.recall()

    def _recall_one(self) -> None:
        lenders = [w for w in self._workers if w.lent and w.requests and not w.revoked]
        if lenders and not any(worker.recalled for worker in lenders):
            self._recall(min(lenders, key=lambda worker: len(worker.requests)))

    def _watch(self) -> None:
        # Take clients from workers that are busy with a slow request, so that the others need not
        # wait for it, and balance the number of clients between workers.
        lenders = [w for w in self._workers if w.lent and not (w.idle or w.revoked or w.late)]
        now = time.monotonic()
        for worker in lenders:
            self._note_down(worker)
            since = worker.since
            if since is not None and now - since > SLOW:
                self._revoke(worker)
        numbers = {worker: len(worker.requests) for worker in lenders}
        fewest = 0 if self._idle else min(numbers.values(), default=0)
        if numbers and max(numbers.values()) > fewest + 1:
            self._recall(max(numbers, key=numbers.__getitem__))
        self._watching = bool(lenders)
        if self._watching:
            asyncio.get_running_loop().call_later(SLOW, self._watch)
        self._dispatch()

    def _revoke(self, worker: Worker) -> None:
        kept = worker.ledger.revoke()
        if kept is None:
            return  # it is just about to start a request
        worker.revoked = time.monotonic()
        worker.ledger.recall()
        self._note_down(worker)
        for slot in worker.requests.keys() - kept:
            request = worker.revoked_clients[slot] = worker.requests.pop(slot)
            if worker.answered[slot]:
                request.connection.take_back()
            else:
                self._requeue(request)

    def _note_down(self, worker: Worker) -> None:
        for record in worker.ledger.collect_sent():
            self._note(worker.requests[record.slot], worker.answered[record.slot], record)
            worker.note(record)

    # ------------------------------------------------------------ the end of a worker

    def handle_exit(self, worker: Worker) -> None:
        """Replace a worker that has died, and answer or requeue its requests."""
        self._workers.discard(worker)
        if worker in self._idle:
            self._idle.remove(worker)
        if not self.closing:
            self.deaths += 1
            # One that died before any request would probably die again immediately.
            self._replacing = worker.served
            self._start_soon(0 if worker.served else 1)
            if worker.late:
                message = f"the program took longer than {self._timeout:g} s; send fewer rows"
                failed = self._settle(worker, 504, message)
            else:
                message = "the program's process died; its log may say why under request {}"
                failed = self._settle(worker, 500, message)
            logger.error("worker %d died%s", worker.pid, f" of request {failed}" if failed else "")
            self._dispatch()
        self._counted = self._add_up([worker])
        worker.ledger.close()

    def _settle(self, worker: Worker, status: int, message: str) -> str | None:
        """Finish, requeue or fail a dead worker's requests; return the id of one that failed."""
        self._note_down(worker)
        pending, now, failed = worker.ledger.pending(), time.monotonic(), None
        for slot, request in worker.requests.items():
            n = worker.answered[slot]
            current = pending if pending and pending.slot == slot else None
            out = worker.is_out(current) if current and current.status else False
            if current and out is not False:
                self._note(request, n, current._replace(sent=now))
                request.drop()
                if out:
                    request.connection.take_back()
                else:
                    request.connection.abort()
            elif n and not current:
                request.connection.take_back()
            elif current or request.retried or self.closing or (worker.late and not pending):
                if worker.lent:
                    request.keep_alive = False  # it may be unread, and be read again
                if n and current:
                    request.id = f"{request.id}_{n}"
                    request.received = request.sent = current.received
                failed = request.id
                failure = refusal(status, message.format(request.id))
                self._answer(request, failure, now - request.sent)
            else:
                request.retried = True  # not started, so another worker can handle it
                self._requeue(request)
        worker.requests.clear()
        return failed

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
        self._starts.add(task)  # the loop keeps only weak references
        task.add_done_callback(self._starts.discard)

    def check(self, now: float) -> None:
        """Fail requests that take too long, and kill the workers that handle them."""
        while self._queue and now - self._queue[0].received > self._timeout:
            message = f"no worker was free within {self._timeout:g} s; send fewer requests at once"
            self._answer(self._queue.popleft(), refusal(503, message), 0)
        for worker in self._workers:
            since = None if worker.late else worker.since
            if since is not None and now - since > self._timeout:
                worker.late = True
                worker.kill()
        self._reap()

    def _reap(self) -> None:
        # All children, as PID 1 of a container also inherits orphans.
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                for worker in [worker for worker in self._workers if worker.pid == ended[0]]:
                    worker.leave()  # a child of the worker may keep the socket open

    def close(self) -> None:
        """Kill all workers and fail their requests."""
        self.closing = True
        message = "the server is stopping"
        while self._queue:
            self._answer(self._queue.popleft(), refusal(503, message), 0)
        for worker in list(self._workers):
            worker.end()
            self._settle(worker, 503, message)
