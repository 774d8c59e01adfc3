"""All workers: the assignment of requests and clients to them, and their replacement.

Workers are forked from the process that has loaded the model, so they share its memory.
"""

import asyncio
import contextlib
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterable

from model_server.desk import INVOCATIONS, RECEIVE, Desk, fork, list_open_files
from model_server.http1 import Request, Response, refusal
from model_server.ledger import Ledger, Record
from model_server.program import Program
from model_server.settings import Settings
from model_server.worker import State, Worker

logger = logging.getLogger("model_server")

SLOW = 0.01  # seconds after which a request is too slow to let other clients wait


class Pool:
    """All workers, and the requests that wait for one.

    Parameters
    ----------
    program : Program
    settings : Settings
    answer, note : callable
        What `Owner`'s methods of these names do, see `model_server.worker`.
    """

    def __init__(
        self,
        program: Program,
        settings: Settings,
        answer: Callable[[Request, Response, float], None],
        note: Callable[[Request, int, Record], None],
    ):
        self._program, self._settings, self._timeout = program, settings, settings.timeout
        self.answer, self.note = answer, note
        self._workers: set[Worker] = set()
        self._idle: list[Worker] = []
        self._queue: deque[Request] = deque()
        self._starts: set[asyncio.Task[None]] = set()
        self._kept = list_open_files()
        self._lending = True  # False once the system turns out not to support it
        self._watching = False  # whether `_watch` is scheduled
        self._replacing = False  # a worker that had served, so its successor should work, too
        self._deaths = 0
        self._n_cells = sum(len(counter.values) for counter in program.counters.values())
        self._counted = [0] * self._n_cells  # counts of workers that have died
        self._closing = False

    @property
    def healthy(self) -> bool:
        """Whether there is a worker, or one is about to start."""
        return bool(self._workers) or self._replacing

    def count(self) -> tuple[int, int, int, int]:
        """Return the numbers of unanswered and of queued requests, of workers and of deaths."""
        for worker in self._workers:
            worker.collect()
        n_queued = len(self._queue)
        in_flight = n_queued + sum(worker.unanswered for worker in self._workers)
        return in_flight, n_queued, len(self._workers), self._deaths

    def count_cells(self) -> list[int]:
        """Return the program's counts, for all values of all its counters."""
        return self._add_up(self._workers)

    def _add_up(self, workers: Iterable[Worker]) -> list[int]:
        counts = self._counted, *(worker.ledger.cells() for worker in workers)
        return [sum(cells) for cells in zip(*counts, strict=True)]

    async def start(self) -> None:
        """Start all workers."""
        for _ in range(self._settings.workers):
            await self._start_worker()

    async def _start_worker(self) -> None:
        ledger = Ledger(self._n_cells)
        desk = Desk(self._program, ledger, self._settings.accept, self._settings.body_limit)
        pid, link = fork(desk, self._kept)
        _, worker = await asyncio.get_running_loop().connect_accepted_socket(
            lambda: Worker(self, pid, link, ledger), link
        )
        self._workers.add(worker)
        self._idle.append(worker)
        self._dispatch()

    # ------------------------------------------------------------ requests

    def submit(self, request: Request) -> None:
        """Queue a request for the next free worker."""
        self._queue.append(request)
        self._dispatch()

    def _dispatch(self) -> None:
        while self._queue:
            request = self._queue[0]
            if request.abandoned:
                self.answer(self._queue.popleft(), refusal(499, "the client left"), 0)
                continue
            lent = (
                self._lending
                and request.path == INVOCATIONS
                and len(request.body) <= RECEIVE
                and request.connection.lendable
            )
            if self._idle:
                # The last one to become idle has the warmest caches.
                worker = self._idle[-1]
            else:
                joinable = [worker for worker in self._workers if lent and worker.can_join]
                if not joinable:
                    self._recall_one()
                    return
                worker = min(joinable, key=lambda worker: worker.n_tasks)
            request.sent = time.monotonic()
            try:
                worker.give(request, lent)
            except BlockingIOError:
                worker.recall()
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

    def release(self, worker: Worker) -> None:
        """Use a worker that has fewer tasks, perhaps none."""
        if worker.state is State.IDLE:
            self._idle.append(worker)
        self._dispatch()

    def requeue(self, request: Request) -> None:
        """Give a request that was not begun to the next free worker."""
        request.given = False
        self._queue.appendleft(request)

    # ------------------------------------------------------------ clients

    def stop_lending(self) -> None:
        """Recall all clients and lend none from now on."""
        self._lending = False
        for worker in self._workers:
            worker.recall()

    def _recall_one(self) -> None:
        states = {worker.state for worker in self._workers}
        lenders = [worker for worker in self._workers if worker.state is State.LENT]
        if lenders and State.RECALLED not in states:
            min(lenders, key=lambda worker: worker.n_tasks).recall()

    def _watch(self) -> None:
        # Take clients from workers that are busy with a slow request, so that the others need not
        # wait for it, and balance the number of clients between workers.
        lenders = [w for w in self._workers if w.state in (State.LENT, State.RECALLED)]
        now = time.monotonic()
        for worker in lenders:
            worker.collect()
            since = worker.since
            if since is not None and now - since > SLOW:
                worker.revoke()
        fewest = 0 if self._idle else min((w.n_tasks for w in lenders), default=0)
        fullest = max(lenders, key=lambda worker: worker.n_tasks, default=None)
        if fullest and fullest.n_tasks > fewest + 1:
            fullest.recall()
        self._watching = bool(lenders)
        if self._watching:
            asyncio.get_running_loop().call_later(SLOW, self._watch)
        self._dispatch()

    # ------------------------------------------------------------ the end of a worker

    def replace(self, worker: Worker) -> None:
        """Replace a worker whose process has ended, and settle its tasks."""
        self._workers.discard(worker)
        if worker in self._idle:
            self._idle.remove(worker)
        if not self._closing:
            self._deaths += 1
            # One that died before any request would probably die again immediately.
            self._replacing = worker.served
            self._start_soon(0 if worker.served else 1)
            if worker.state is State.KILLED:
                message = f"the program took longer than {self._timeout:g} s; send fewer rows"
                failed = worker.settle(504, message)
            else:
                message = "the program's process died; its log may say why under request {}"
                failed = worker.settle(500, message)
            logger.error("worker %d died%s", worker.pid, f" of request {failed}" if failed else "")
            self._dispatch()
        self._counted = self._add_up([worker])
        worker.ledger.close()

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
            self.answer(self._queue.popleft(), refusal(503, message), 0)
        for worker in self._workers:
            since = None if worker.state is State.KILLED else worker.since
            if since is not None and now - since > self._timeout:
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
        self._closing = True
        message = "the server is stopping"
        while self._queue:
            self.answer(self._queue.popleft(), refusal(503, message), 0)
        for worker in list(self._workers):
            worker.end()
            worker.settle(503, message, retry=False)
