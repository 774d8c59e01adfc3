"""Run a command for as long as standard input stays open.

The caller holds the other end of the pipe, which closes when the caller exits for any reason, so
no child outlives an interrupted or killed notebook. It gets SIGTERM, then its group SIGKILL.

    python supervisor.py COMMAND [ARGUMENT ...]
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading

GRACE = 30  # seconds between SIGTERM and SIGKILL, as on a SageMaker endpoint


def main(command: list[str]) -> int:
    """Run the command and return its exit code."""
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    threading.Thread(target=_end_with_stdin, args=[child], daemon=True).start()
    return child.wait()


def _end_with_stdin(child: subprocess.Popen) -> None:
    sys.stdin.read()
    child.terminate()
    try:
        child.wait(GRACE)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
