"""How many bytes of request bodies the server holds at once."""

import contextlib
import ctypes
import time
from typing import TYPE_CHECKING

from model_server.settings import MB

if TYPE_CHECKING:
    from model_server.connection import Connection

MUCH = 16 * MB  # bytes of bodies whose memory is worth to be given back
SILENCE = 1  # seconds after which a client that sends a body may lose its place to another


class Budget:
    """What all request bodies in this process may take together.

    A body counts from its first byte until it is answered: while it is coming in, while it waits
    for a worker, and while a worker has it. Where there is no room for more bytes, clients that
    have stopped in the middle of a body are refused, the longest silent one first, and if there
    are none the one that has sent them. So nothing ever waits for room.

    Parameters
    ----------
    limit : int
        In bytes.
    """

    def __init__(self, limit: int):
        self.limit = limit
        self.used = 0
        self._freed = 0  # bytes since memory was last given back
        # Those who have sent a part of a body, and when; the longest silent one comes first.
        self._senders: dict[Connection, float] = {}

    def take(self, n_bytes: int) -> bool:
        """Count more bytes, if there is room for them or room can be made."""
        while self.used + n_bytes > self.limit:
            sender = next(iter(self._senders), None)
            if sender is None or time.monotonic() - self._senders[sender] < SILENCE:
                return False
            del self._senders[sender]
            sender.refuse(503, "the body did not go on, and others need its room; try again")
        self.used += n_bytes
        return True

    def free(self, n_bytes: int) -> None:
        """Count fewer bytes."""
        self.used -= n_bytes
        self._freed += n_bytes

    def trim(self) -> None:
        """Give the memory of bodies that are gone back to the system, if it's much."""
        # Glibc keeps what large blocks have taken, and the more the larger they were.
        if self._freed > MUCH and self.used < MB:
            self._freed = 0
            with contextlib.suppress(AttributeError):  # another libc
                ctypes.CDLL(None).malloc_trim(0)

    def note(self, sender: "Connection") -> None:
        """Note that a client has just sent a part of a body, of which there is more to come."""
        self._senders[sender] = time.monotonic()

    def forget(self, sender: "Connection") -> None:
        """Don't refuse this client: it's done, or not silent."""
        self._senders.pop(sender, None)
