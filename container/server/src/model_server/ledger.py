"""Shared memory in which a worker records its tasks for the server."""

import mmap
import os
import struct
import time
from typing import NamedTuple

SLOTS = 256  # maximum number of tasks of a worker


class Record(NamedTuple):
    """Progress of one request. `status` is 0 until it is answered, `sent` until that is sent.

    `answer_size` is the size of the response's body, `wire_size` that of the whole response.
    """

    slot: int
    received: float
    status: int
    size: int
    answer_size: int
    wire_size: int
    program_seconds: float
    sent: float


class Ledger:
    """Owners of a worker's slots, and records of its requests, in memory shared with the server.

    From it the server knows the state of each request when the worker dies, and can take clients
    back from a slow one. Each task has a slot. The token is a lock on the owners of the slots.

    Parameters
    ----------
    n_cells : int
        Number of cells of the program's counters, see `model_server.program.Counter`.
    """

    _COUNT, _RECORD = struct.Struct("<Q"), struct.Struct("<IdiQQQdd")
    _ANSWER, _SENT = struct.Struct("<iQQQd"), struct.Struct("<d")  # the last fields of a record
    _NOTED, _RECALLED, _OWNED, _RECORDS = 8, 16, 32, 32 + SLOTS  # offsets; the count is at 0
    _ROOM = 2048  # records in the ring buffer

    def __init__(self, n_cells: int = 0):
        self._cells = self._RECORDS + self._ROOM * self._RECORD.size
        self._memory = mmap.mmap(-1, self._cells + n_cells * self._COUNT.size)
        # The pipe holds one byte while the lock is free.
        self.files = self._token, self._put = os.pipe()
        os.set_blocking(self._token, False)
        os.write(self._put, b"t")

    def close(self) -> None:
        """Free the memory and the token."""
        self._memory.close()
        for fd in self.files:
            os.close(fd)

    def _locate(self, index: int) -> int:
        return self._RECORDS + index % self._ROOM * self._RECORD.size

    def _counts(self) -> tuple[int, int]:
        (count,) = self._COUNT.unpack_from(self._memory)
        return count, self._COUNT.unpack_from(self._memory, self._NOTED)[0]

    # ------------------------------------------------------------ the server's side

    def lend(self, slot: int) -> None:
        """Make the worker the owner of this slot."""
        self._memory[self._OWNED + slot] = 1

    def recall(self) -> None:
        """Ask the worker to give all its clients back."""
        self._memory[self._RECALLED] = 1

    def revoke(self) -> set[int] | None:
        """Take all slots except a claimed one, and return that; None if the lock is taken."""
        try:
            os.read(self._token, 1)
        except BlockingIOError:  # the worker is claiming a slot
            return None
        pending = self.pending()
        kept = {pending.slot} if pending else set()
        for slot in set(range(SLOTS)) - kept:
            self._memory[self._OWNED + slot] = 0
        os.write(self._put, b"t")
        return kept

    def cells(self) -> list[int]:
        """Return the program's counts."""
        return [n for (n,) in self._COUNT.iter_unpack(self._memory[self._cells :])]

    def collect_sent(self) -> list[Record]:
        """Return and forget the records of responses that were sent."""
        count, noted = self._counts()
        records = []
        while noted < count and (record := self._read(noted)).sent:
            records.append(record)
            noted += 1
        self._COUNT.pack_into(self._memory, self._NOTED, noted)
        return records

    def pending(self) -> Record | None:
        """Return the record of the request that the worker is or, if it died, was handling."""
        count, noted = self._counts()
        record = self._read(count - 1) if count > noted else None
        return record if record and not record.sent else None

    def _read(self, index: int) -> Record:
        return Record._make(self._RECORD.unpack_from(self._memory, self._locate(index)))

    # ------------------------------------------------------------ the worker's side

    @property
    def full(self) -> bool:
        """Whether the server must collect records before the worker adds many more."""
        count, noted = self._counts()
        return count - noted > self._ROOM - SLOTS  # leaves room for tasks already sent

    def was_recalled(self) -> bool:
        """Return whether the server has recalled the clients since the last call."""
        if not self._memory[self._RECALLED]:
            return False
        self._memory[self._RECALLED] = 0
        return True

    def claim(self, slot: int) -> bool:
        """Record the start of a request, unless its slot was revoked; return whether it wasn't."""
        while True:
            try:
                os.read(self._token, 1)
                break
            except BlockingIOError:  # the server holds it briefly
                os.sched_yield()
        owned = bool(self._memory[self._OWNED + slot])
        if owned:
            count, _ = self._counts()
            self._at = self._locate(count)
            record = (slot, time.monotonic(), 0, 0, 0, 0, 0.0, 0.0)
            self._RECORD.pack_into(self._memory, self._at, *record)
            self._COUNT.pack_into(self._memory, 0, count + 1)
        os.write(self._put, b"t")
        return owned

    def withdraw(self) -> None:
        """Delete the record of the latest claim, which the server handles."""
        self._COUNT.pack_into(self._memory, 0, self._counts()[0] - 1)

    def note_answer(
        self, status: int, size: int, answer_size: int, wire_size: int, seconds: float
    ) -> None:
        """Record a response before it is sent."""
        at = self._at + self._RECORD.size - self._SENT.size - self._ANSWER.size
        self._ANSWER.pack_into(self._memory, at, status, size, answer_size, wire_size, seconds)

    def add(self, cell: int, n: int) -> None:
        """Add n to a cell of the program's counters."""
        at = self._cells + cell * self._COUNT.size
        (before,) = self._COUNT.unpack_from(self._memory, at)
        self._COUNT.pack_into(self._memory, at, before + n)

    def note_sent(self) -> None:
        """Record that the response was sent."""
        at = self._at + self._RECORD.size - self._SENT.size
        self._SENT.pack_into(self._memory, at, time.monotonic())
