"""The training toolkit's framework module: runs the program, and passes SIGTERM on to it.

Under ``train`` alone SIGTERM never reaches the program: as a container's first process the
toolkit doesn't even notice it, and SageMaker waits two minutes before it kills the job.
"""

import os
import signal

import psutil  # the toolkit's own dependency
from sagemaker_training import entry_point, environment, files


def main() -> None:
    """Run the program that SAGEMAKER_PROGRAM names, as the toolkit itself would."""
    signal.signal(signal.SIGTERM, _forward)
    job = environment.Environment()
    entry_point.run(job.module_dir, job.user_entry_point, job.to_cmd_args(), job.to_env_vars())


def _forward(signum: int, frame: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if not psutil.Process().children():
        # The toolkit still waits for a host's name, and no exception stops it.
        files.write_failure_file("stopped by SIGTERM before the program was started")
        os._exit(1)
    # The program shares this process's group. It reports the failure and exits, upon which the
    # toolkit, still waiting for it, reports the job as failed.
    os.killpg(0, signal.SIGTERM)
