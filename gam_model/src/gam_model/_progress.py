"""Lines that say how far a fit is, if it takes longer than a few seconds."""

import threading
import time
from contextvars import ContextVar

EVERY = 5.0  # seconds between two lines, and before the first one
_CURRENT = ContextVar("progress", default=None)


class Progress:
    """
    A context that prints what was last reported in it, every few seconds.

    Parameters
    ----------
    name : str
        Who is at work.
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
        """Stop it; no line comes later."""
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
    """Note how far the fit is around this call, if there is one: numbers by name."""
    progress = _CURRENT.get()
    if progress is not None:
        progress.facts.update(facts)
