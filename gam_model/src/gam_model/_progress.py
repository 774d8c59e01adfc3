"""Progress output for fits that take longer than a few seconds."""

import threading
import time
from contextvars import ContextVar

EVERY = 5.0  # seconds between two lines, and before the first one
_CURRENT = ContextVar("progress", default=None)


class Progress:
    """
    Context manager that prints the last reported progress every few seconds.

    Parameters
    ----------
    name : str
        Name printed before the progress.
    verbose : int
        0 for no lines.
    """

    def __init__(self, name, verbose):
        self._name, self._verbose, self.facts = name, verbose, {}

    def __enter__(self):
        """Start the clock."""
        self._token, self._done = _CURRENT.set(self), threading.Event()
        self._begin = time.monotonic()
        if self._verbose:
            self._thread = threading.Thread(target=self._tell, daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_):
        """Stop printing."""
        _CURRENT.reset(self._token)
        self._done.set()
        if self._verbose:
            self._thread.join()

    def _tell(self):
        while not self._done.wait(EVERY):
            facts = [f", {name} {value:.6g}" for name, value in list(self.facts.items())]
            took = time.monotonic() - self._begin
            print(f"{self._name}: {took:.0f} s{''.join(facts)}", flush=True)


def report(**facts):
    """Record the progress of the enclosing fit, if any, as numbers by name."""
    progress = _CURRENT.get()
    if progress is not None:
        progress.facts.update(facts)
