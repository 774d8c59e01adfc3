"""All workers: who gets which request or client, when clients come back, and what if one dies.

Workers are forked off the process that has loaded the model, so they share its memory.
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
from model_server.http1 import Answer, Request, refusal
from model_server.ledger import Ledger, Record
from model_server.program import Program
from model_server.worker import Worker

logger = logging.getLogger("model_server")

_PR_SET_PDEATHSIG = 1  # prctl's option: the signal that a parent's end sends
SLOW = 0.01  # seconds that a request takes while others may wait behind it


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
        answer: Callable[[Request, Answer, float], None],
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
        self._lending = True  # until the system turns out not to allow it
        self._watching = False  # over workers that have clients
        self._replacing = False  # a worker that did its work, so that one more will do, too
        self.deaths = 0
        self._n_cells = sum(len(counter.values) for counter in program.counters.values())
        self._counted = [0] * self._n_cells  # by workers that have died
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

    def count_in_flight(self) -> int:
        """Note down what workers have answered, and return how many requests are left."""
        for worker in self._workers:
            self._note_down(worker)
        return len(self._queue) + sum(worker.unanswered for worker in self._workers)

    def count_cells(self) -> list[int]:
        """Return what the program has counted, for all values of all its counters."""
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
            with contextlib.suppress(OSError, AttributeError):  # which only Linux has
                # One that is stuck would not notice the server's end.
                ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            # The server says when to end, by closing its end. Ctrl-C goes to all of the group.
            for signum in (signal.SIGTERM, signal.SIGINT):
                signal.signal(signum, signal.SIG_IGN)
            # A worker must not keep what the server has open: a client would never see
            # the end of a connection whose copy lies here.
            for fd in _open_files() - self._kept - {link.fileno(), *ledger.files}:
                os.close(fd)
            Desk(self._program, link, ledger, self._accept, self._body_limit).work()
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
        while self._queue:
            request = self._queue[0]
            if request.abandoned:
                self._answer(self._queue.popleft(), refusal(499, "the client left"), 0)
                continue
            lent = self._may_lend(request)
            if self._idle:
                # The last one to become idle: what it needs is still in the processor's caches.
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

    def finish(self, worker: Worker, request: Request, answer: Answer, seconds: float) -> None:
        """Take a worker's answer, and give it the next request before the answer goes out."""
        self._release(worker)
        self._answer(request, answer, seconds)

    def _release(self, worker: Worker) -> None:
        if worker.idle and not worker.late:
            worker.recalled, worker.seized = False, 0.0
            self._idle.append(worker)
        self._dispatch()

    # ------------------------------------------------------------ clients

    def take_back(self, worker: Worker, slots: Iterable[int], rest: bytes, unsent: bool) -> None:
        """Take clients back; the rest is what one of them has sent, or hasn't taken yet."""
        self._note_down(worker)
        back = []
        for slot in slots:
            if slot not in worker.taken:
                back.append((worker.requests.pop(slot), worker.answered[slot]))
                continue
            request = worker.taken.pop(slot)  # it's back already
            if rest:  # and what the client sent after this may be here, too
                request.connection.abort()
        for request, n_answered in back:
            if not n_answered:
                self._requeue(request)
            elif unsent:
                request.connection.take_back(unsent=rest)
            else:
                request.connection.take_back(unread=rest)
        if worker.recalled and worker.requests:  # these were on their way
            worker.ledger.recall()
        self._release(worker)

    def stop_lending(self) -> None:
        """Get all clients back, for good."""
        self._lending = False
        for worker in self._workers:
            self._recall(worker)

    def _recall(self, worker: Worker) -> None:
        if worker.lent and worker.requests and not worker.recalled:
            worker.recalled = True
            worker.ledger.recall()

    def _recall_one(self) -> None:
        lenders = [w for w in self._workers if w.lent and w.requests and not w.seized]
        if lenders and not any(worker.recalled for worker in lenders):
            self._recall(min(lenders, key=lambda worker: len(worker.requests)))

    def _watch(self) -> None:
        # Over workers that have clients: one may be slow, which the others' clients should not
        # have to wait for, and one may have many clients where another one has few.
        lenders = [w for w in self._workers if w.lent and not (w.idle or w.seized or w.late)]
        now = time.monotonic()
        for worker in lenders:
            self._note_down(worker)
            since = worker.since
            if since is not None and now - since > SLOW:
                self._seize(worker)
        numbers = {worker: len(worker.requests) for worker in lenders}
        fewest = 0 if self._idle else min(numbers.values(), default=0)
        if numbers and max(numbers.values()) > fewest + 1:
            self._recall(max(numbers, key=numbers.__getitem__))
        self._watching = bool(lenders)
        if self._watching:
            asyncio.get_running_loop().call_later(SLOW, self._watch)
        self._dispatch()

    def _seize(self, worker: Worker) -> None:
        kept = worker.ledger.seize()
        if kept is None:
            return  # it's not that slow
        worker.seized = time.monotonic()
        worker.ledger.recall()
        self._note_down(worker)
        for slot in worker.requests.keys() - kept:
            request = worker.taken[slot] = worker.requests.pop(slot)
            if worker.answered[slot]:
                request.connection.take_back()
            else:
                self._requeue(request)

    def _note_down(self, worker: Worker) -> None:
        for record in worker.ledger.take():
            self._note(worker.requests[record.slot], worker.answered[record.slot], record)
            worker.note(record)

    # ------------------------------------------------------------ the end of a worker

    def bury(self, worker: Worker) -> None:
        """Answer for a worker that has died, or have another one answer, and start one."""
        self._workers.discard(worker)
        if worker in self._idle:
            self._idle.remove(worker)
        if not self.closing:
            self.deaths += 1
            # One that dies of nothing would die again at once.
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
        """Go on with what a dead worker had; return the id of a request that it failed, if any."""
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
                    request.keep_alive = False  # it may be unread, and come once more
                if n and current:
                    request.id = f"{request.id}_{n}"
                    request.received = request.sent = current.received
                failed = request.id
                failure = refusal(status, message.format(request.id))
                self._answer(request, failure, now - request.sent)
            else:
                request.retried = True  # it had not begun, so another one will
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
        self._starts.add(task)  # the loop itself would forget it
        task.add_done_callback(self._starts.discard)

    def check(self, now: float) -> None:
        """Give up requests that take too long, and the workers that hold them."""
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
        # All children, as a container's first process has its orphans, too.
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                for worker in [worker for worker in self._workers if worker.pid == ended[0]]:
                    worker.leave()  # its own child may hold the socket open, in its stead

    def close(self) -> None:
        """End all workers, and answer what they had."""
        self.closing = True
        message = "the server is stopping"
        while self._queue:
            self._answer(self._queue.popleft(), refusal(503, message), 0)
        for worker in list(self._workers):
            worker.end()
            self._settle(worker, 503, message)
