"""What the server and a worker both know of the worker's tasks, in memory that they share."""

import mmap
import os
import struct
import time
from typing import NamedTuple

SLOTS = 256  # tasks that a worker may have at most


class Record(NamedTuple):
    """What became of one request. `status` is 0 until there's an answer, `sent` until it's out.

    `answer_size` is that of the answer's body, `wire_size` that of all of the answer.
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
    """Who has which client, and what a worker does, in memory that it shares with the server.

    So the server knows what to do when the worker dies, and can take clients back from one that
    is slow. Each task has a slot. Whoever has the token may say to whom the slots belong.

    Parameters
    ----------
    n_cells : int
        Numbers that the program counts, see `model_server.program.Counter`.
    """

    _COUNT, _RECORD = struct.Struct("<Q"), struct.Struct("<IdiQQQdd")
    _ANSWER, _SENT = struct.Struct("<iQQQd"), struct.Struct("<d")  # its latter parts
    _NOTED, _RECALLED, _OWNED, _RECORDS = 8, 16, 32, 32 + SLOTS  # offsets; the count is at 0
    _ROOM = 2048  # for so many records, in a ring

    def __init__(self, n_cells: int = 0):
        self._cells = self._RECORDS + self._ROOM * self._RECORD.size
        self._memory = mmap.mmap(-1, self._cells + n_cells * self._COUNT.size)
        self.files = self._token, self._put = os.pipe()  # one byte is in it, or somebody has it
        os.set_blocking(self._token, False)
        os.write(self._put, b"t")

    def close(self) -> None:
        """Free it."""
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
        """Say that what is in this slot is the worker's."""
        self._memory[self._OWNED + slot] = 1

    def recall(self) -> None:
        """Ask for all clients."""
        self._memory[self._RECALLED] = 1

    def seize(self) -> set[int] | None:
        """Take all slots but one that's claimed; return that one. None if that couldn't be now."""
        try:
            os.read(self._token, 1)
        except BlockingIOError:  # the worker is about to claim one
            return None
        pending = self.pending()
        kept = {pending.slot} if pending else set()
        for slot in set(range(SLOTS)) - kept:
            self._memory[self._OWNED + slot] = 0
        os.write(self._put, b"t")
        return kept

    def cells(self) -> list[int]:
        """Return what the program has counted."""
        return [n for (n,) in self._COUNT.iter_unpack(self._memory[self._cells :])]

    def take(self) -> list[Record]:
        """Return the records of answers that are out, once."""
        count, noted = self._counts()
        records = []
        while noted < count and (record := self._read(noted)).sent:
            records.append(record)
            noted += 1
        self._COUNT.pack_into(self._memory, self._NOTED, noted)
        return records

    def pending(self) -> Record | None:
        """Return the record of what the worker is at, or was when it died."""
        count, noted = self._counts()
        record = self._read(count - 1) if count > noted else None
        return record if record and not record.sent else None

    def _read(self, index: int) -> Record:
        return Record._make(self._RECORD.unpack_from(self._memory, self._locate(index)))

    # ------------------------------------------------------------ the worker's side

    @property
    def full(self) -> bool:
        """Whether the server must take records before there can be many more."""
        count, noted = self._counts()
        return count - noted > self._ROOM - SLOTS  # as there may be tasks on their way

    def was_recalled(self) -> bool:
        """Return whether the server has asked for all clients since this was last called."""
        if not self._memory[self._RECALLED]:
            return False
        self._memory[self._RECALLED] = 0
        return True

    def claim(self, slot: int) -> bool:
        """Note that a request is read or answered from now on, unless its slot was seized."""
        while True:
            try:
                os.read(self._token, 1)
                break
            except BlockingIOError:  # the server has it for a moment
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
        """Forget the latest claim: the server goes on with it."""
        self._COUNT.pack_into(self._memory, 0, self._counts()[0] - 1)

    def note_answer(
        self, status: int, size: int, answer_size: int, wire_size: int, seconds: float
    ) -> None:
        """Note an answer, before it goes out."""
        at = self._at + self._RECORD.size - self._SENT.size - self._ANSWER.size
        self._ANSWER.pack_into(self._memory, at, status, size, answer_size, wire_size, seconds)

    def add(self, cell: int, n: int) -> None:
        """Count what the program counts."""
        at = self._cells + cell * self._COUNT.size
        (before,) = self._COUNT.unpack_from(self._memory, at)
        self._COUNT.pack_into(self._memory, at, before + n)

    def note_sent(self) -> None:
        """Note that it's out."""
        at = self._at + self._RECORD.size - self._SENT.size
        self._SENT.pack_into(self._memory, at, time.monotonic())
