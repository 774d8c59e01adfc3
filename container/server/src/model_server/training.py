"""The training toolkit's framework module: runs the program, and passes SIGTERM on to it.

Under ``train`` alone SIGTERM never reaches the program: as a container's first process the
toolkit doesn't even notice it, and SageMaker waits two minutes before it kills the job.
"""

import os
import signal
import threading
import time

import psutil  # the toolkit's own dependency
from sagemaker_training import entry_point, environment, files


def main() -> None:
    """Run the program that SAGEMAKER_PROGRAM names, as the toolkit itself would."""
    signal.signal(signal.SIGTERM, _forward)
    job = environment.Environment()
    entry_point.run(job.module_dir, job.user_entry_point, job.to_cmd_args(), job.to_env_vars())


def _forward(signum: int, frame: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # The program shares this process's group. It reports the failure and exits, upon which the
    # toolkit, still waiting for it, reports the job as failed.
    os.killpg(0, signal.SIGTERM)
    threading.Thread(target=_end, daemon=True).start()


def _end() -> None:
    # Where there is no program yet, the toolkit waits for a host's name, and nothing stops it.
    while psutil.Process().children():
        time.sleep(0.1)
    time.sleep(1)
    if not os.path.exists(os.path.join(environment.output_dir, "failure")):
        files.write_failure_file("stopped by SIGTERM before the program was started")
    os._exit(1)
