"""Limit on the total size of the request bodies in memory."""

import contextlib
import ctypes
import time
from typing import TYPE_CHECKING

from model_server.settings import MB

if TYPE_CHECKING:
    from model_server.connection import Connection

MUCH = 16 * MB  # bytes of freed bodies after which memory is returned to the system
SILENCE = 1  # seconds after which a stalled upload may be refused to make room


class Budget:
    """Limit on the total size of the request bodies in this process.

    A body counts from its first byte until its request is answered: while it is received, while it
    waits for a worker, and while a worker has it. If more bytes would exceed the limit, stalled
    uploads are refused, the longest stalled first; if there are none, the request that sent the
    bytes is refused. So no request ever waits for memory.

    Parameters
    ----------
    limit : int
        In bytes.
    """

    def __init__(self, limit: int):
        self.limit = limit
        self.used = 0
        self._freed = 0  # bytes since memory was last given back
        # Clients in the middle of an upload -> time of the last byte, oldest first.
        self._senders: dict[Connection, float] = {}

    def take(self, n_bytes: int) -> bool:
        """Reserve more bytes, refusing stalled uploads if necessary; return whether it worked."""
        while self.used + n_bytes > self.limit:
            sender = next(iter(self._senders), None)
            if sender is None or time.monotonic() - self._senders[sender] < SILENCE:
                return False
            del self._senders[sender]
            sender.refuse(503, "the upload stalled and others needed its memory; try again")
        self.used += n_bytes
        return True

    def free(self, n_bytes: int) -> None:
        """Count fewer bytes."""
        self.used -= n_bytes
        self._freed += n_bytes

    def trim(self) -> None:
        """Return the memory of freed bodies to the system, if it is enough to matter."""
        # glibc keeps freed large blocks, and raises its threshold for doing so with their size.
        if self._freed > MUCH and self.used < MB:
            self._freed = 0
            with contextlib.suppress(AttributeError):  # not glibc
                ctypes.CDLL(None).malloc_trim(0)

    def note(self, sender: "Connection") -> None:
        """Record that a client has just sent part of a body."""
        self._senders[sender] = time.monotonic()

    def forget(self, sender: "Connection") -> None:
        """Forget a client whose upload is complete or ended."""
        self._senders.pop(sender, None)
