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
    back from a slow one. Each task has a slot. The token is a lock on the owners of the slots; it
    makes claiming a slot and revoking one exclude each other.

    Each side reads what the other may be writing. So numbers that change are whole words: `struct`
    would write them byte by byte, after setting them to 0.

    Parameters
    ----------
    n_cells : int
        Number of cells of the program's counters, see `model_server.program.Counter`.
    """

    _RECORD, _ANSWER = struct.Struct("<IdiQQQdd"), struct.Struct("<iQQQd")
    _STATUS, _SENT = 12, 48  # offsets in a record
    _COUNT, _NOTED, _CLAIMS = range(3)  # words: records, those the server has collected, claims
    _RECALLED, _OWNED, _RECORDS = 24, 32, 32 + SLOTS  # offsets
    _ROOM = 2048  # records in the ring buffer

    def __init__(self, n_cells: int = 0):
        self._n_cells = n_cells
        end = self._RECORDS + self._ROOM * self._RECORD.size
        self._memory = mmap.mmap(-1, end + 8 * n_cells)
        self._words = memoryview(self._memory).cast("Q")
        self._times = memoryview(self._memory).cast("d")
        self._cells = end // 8
        # The pipe holds one byte while the lock is free.
        self.files = self._token, self._put = os.pipe()
        os.set_blocking(self._token, False)
        os.write(self._put, b"t")

    def close(self) -> None:
        """Free the memory and the token."""
        self._words.release()
        self._times.release()
        self._memory.close()
        for fd in self.files:
            os.close(fd)

    def _locate(self, index: int) -> int:
        return self._RECORDS + index % self._ROOM * self._RECORD.size

    # ------------------------------------------------------------ the server's side

    def lend(self, slot: int) -> None:
        """Make the worker the owner of this slot."""
        self._memory[self._OWNED + slot] = 1

    def recall(self) -> None:
        """Ask the worker to give all its clients back."""
        self._memory[self._RECALLED] = 1

    def revoke(self) -> set[int] | None:
        """Take all slots that the worker owns except a claimed one, and return them.

        None if the worker is just claiming one. A slot that the worker has released is not among
        them: its client is on its way back.
        """
        try:
            os.read(self._token, 1)
        except BlockingIOError:
            return None
        pending = self.pending()
        owned = self._memory[self._OWNED : self._OWNED + SLOTS]
        taken = {slot for slot in range(SLOTS) if owned[slot]} - {pending.slot if pending else -1}
        for slot in taken:
            self._memory[self._OWNED + slot] = 0
        os.write(self._put, b"t")
        return taken

    def cells(self) -> list[int]:
        """Return the program's counts."""
        return self._words[self._cells : self._cells + self._n_cells].tolist()

    def collect_sent(self) -> list[Record]:
        """Return and forget the records of responses that were sent."""
        count, noted = self._words[self._COUNT], self._words[self._NOTED]
        records = []
        while noted < count and (record := self._read(noted)).sent:
            records.append(record)
            noted += 1
        self._words[self._NOTED] = noted
        return records

    def pending(self) -> Record | None:
        """Return the record of the request that the worker is or, if it died, was handling."""
        while True:
            claims = self._words[self._CLAIMS]  # before the count, which a claim raises last
            count = self._words[self._COUNT]
            if count <= self._words[self._NOTED]:
                return None
            record = self._read(count - 1)
            if self._words[self._CLAIMS] == claims:  # otherwise it may be half written
                return None if record.sent else record

    def _read(self, index: int) -> Record:
        while True:
            claims = self._words[self._CLAIMS]
            record = Record._make(self._RECORD.unpack_from(self._memory, self._locate(index)))
            if self._words[self._CLAIMS] == claims:  # otherwise it may have changed meanwhile
                return record

    # ------------------------------------------------------------ the worker's side

    @property
    def full(self) -> bool:
        """Whether the server must collect records before the worker adds many more."""
        n_records = self._words[self._COUNT] - self._words[self._NOTED]
        return n_records > self._ROOM - SLOTS  # leaves room for tasks already sent

    def was_recalled(self) -> bool:
        """Return whether the server has recalled the clients since the last call."""
        if not self._memory[self._RECALLED]:
            return False
        self._memory[self._RECALLED] = 0
        return True

    def claim(self, slot: int) -> bool:
        """Record the start of a request, unless its slot was revoked; return whether it wasn't."""
        count = self._words[self._COUNT]
        self._words[self._CLAIMS] += 1
        self._at = self._locate(count)
        record = (slot, time.monotonic(), 0, 0, 0, 0, 0.0, 0.0)
        self._RECORD.pack_into(self._memory, self._at, *record)
        while True:
            try:
                os.read(self._token, 1)
                break
            except BlockingIOError:  # the server holds it briefly
                os.sched_yield()
        owned = bool(self._memory[self._OWNED + slot])
        if owned:
            self._words[self._COUNT] = count + 1
        os.write(self._put, b"t")
        return owned

    def release(self, slot: int) -> None:
        """Give up a slot, before the record of its last request is withdrawn or complete."""
        self._memory[self._OWNED + slot] = 0

    def withdraw(self) -> None:
        """Delete the record of the latest claim, which the server handles."""
        self._words[self._COUNT] -= 1

    def note_answer(
        self, status: int, size: int, answer_size: int, wire_size: int, seconds: float
    ) -> None:
        """Record a response before it is sent."""
        answer = status, size, answer_size, wire_size, seconds
        self._ANSWER.pack_into(self._memory, self._at + self._STATUS, *answer)

    def add(self, cell: int, n: int) -> None:
        """Add n to a cell of the program's counters."""
        self._words[self._cells + cell] += n

    def note_sent(self) -> None:
        """Record that the response was sent."""
        self._times[(self._at + self._SENT) // 8] = time.monotonic()
