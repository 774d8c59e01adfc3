"""Runs a command for as long as standard input stays open.

The caller holds the other end. Whatever ends the caller, closes it too, so no child outlives a
notebook that was interrupted or killed: SIGTERM first, SIGKILL to its whole group after a while.

    python supervisor.py COMMAND [ARGUMENT ...]
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading

PATIENCE = 30  # seconds between SIGTERM and SIGKILL, as on a SageMaker endpoint


def main(command: list[str]) -> int:
    """Run the command and return its exit code."""
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    threading.Thread(target=_end_with_stdin, args=[child], daemon=True).start()
    return child.wait()


def _end_with_stdin(child: subprocess.Popen) -> None:
    sys.stdin.read()
    child.terminate()
    try:
        child.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
