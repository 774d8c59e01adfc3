"""The training toolkit's framework module: runs the program that was sent, or the image's own.

Under ``train`` alone a container with a program of its own runs nothing else: the toolkit unpacks
what was sent only into an empty /opt/ml/code, and believes SAGEMAKER_PROGRAM rather than the job.
It installs requirements into the image, says ``ExitCode 1`` where a program ends with an error,
and never passes SIGTERM on: as a container's first process it doesn't even notice it, and
SageMaker waits two minutes before it kills the job.
"""

import contextlib
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil  # the toolkit's own dependency
from sagemaker_training import entry_point, environment, errors, files, params

from model_server import source

_stopped = threading.Event()


def main() -> None:
    """Run the job's program as the toolkit itself would.

    Raises
    ------
    sagemaker_training.errors.ClientError
        With one sentence, which becomes the job's FailureReason, unless the program wrote one.
    """
    signal.signal(signal.SIGTERM, _forward)
    try:
        program, folder, is_sent = _find_program()
        _prepare(program, folder)
        job = environment.Environment()
        with _last_words() as read:
            _run(job, program, read)
        if is_sent:
            source.pack(folder, program, Path(environment.model_dir))
    except (source.SourceError, OSError) as error:
        raise errors.ClientError(str(error)) from error


def _find_program() -> tuple[str, Path, bool]:
    """Return the job's program, the folder that it lies in, and whether it was sent."""
    sent = environment.read_hyperparameters()
    program = sent.get(params.USER_PROGRAM_PARAM) or os.environ.get(params.USER_PROGRAM_ENV)
    if not program:
        raise source.SourceError("SAGEMAKER_PROGRAM is not set; name the program to run")
    uri = sent.get(params.SUBMIT_DIR_PARAM)
    is_sent = bool(uri)
    uri = uri or os.environ.get(params.SUBMIT_DIR_ENV) or environment.code_dir
    folder = source.fetch(uri, Path(environment.base_dir))
    if not is_sent and not source.is_sent(uri):
        return program, source.locate_own(program, folder), False
    # Otherwise the toolkit would log that it leaves it packed.
    files.logger.addFilter(lambda record: "abandoning unzipping" not in record.getMessage())
    is_package = (folder / "setup.py").is_file()  # its modules may be anywhere
    return program, folder if is_package else source.locate(program, folder), True


def _prepare(program: str, folder: Path) -> None:
    """Tell the toolkit what to run, and with which Python."""
    environment.code_dir = str(folder)
    os.environ[params.USER_PROGRAM_ENV] = program
    if any((folder / name).is_file() for name in (source.REQUIREMENTS, "setup.py")):
        python, site_packages = source.make_python()
        sys.executable = str(python)
        sys.path.insert(0, str(site_packages))  # which becomes the program's PYTHONPATH


def _run(job: environment.Environment, program: str, read: Callable[[], list[str]]) -> None:
    try:
        entry_point.run(environment.code_dir, program, job.to_cmd_args(), job.to_env_vars())
    except errors.ExecuteUserScriptError as error:
        reason = "stopped by SIGTERM" if _stopped.is_set() else None
        reason = reason or _explain_exit(program, int(error.return_code), read())
    except (errors.InstallRequirementsError, errors.InstallModuleError):
        if _stopped.is_set():
            reason = "stopped by SIGTERM before the program was started"
        else:
            reason = source.explain_pip(read())
    else:
        return
    raise errors.ClientError(reason)


def _explain_exit(program: str, code: int, words: list[str]) -> str:
    if code in (-signal.SIGKILL, 128 + signal.SIGKILL):
        return f"{program} was killed by SIGKILL, as happens when memory runs out"
    if code < 0:
        return f"{program} was killed by {signal.Signals(-code).name}"
    return words[-1] if words else f"{program} ended with exit code {code} and gave no reason"


@contextlib.contextmanager
def _last_words() -> Iterator[Callable[[], list[str]]]:
    """Forward the program's stderr, and keep its last lines."""
    stderr = os.dup(2)
    for handler in logging.root.handlers:  # the toolkit's own messages are not the program's
        if isinstance(handler, logging.StreamHandler):
            handler.setStream(os.fdopen(os.dup(stderr), "w", buffering=1))
    ear, mouth = os.pipe()
    os.dup2(mouth, 2)
    os.close(mouth)
    tail = bytearray()

    def listen() -> None:
        while chunk := os.read(ear, 65536):
            os.write(stderr, chunk)
            tail.extend(chunk)
            del tail[:-65536]

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()

    def read() -> list[str]:
        hang_up()
        lines = tail.decode(errors="replace").splitlines()
        return [line.strip() for line in lines if line.strip()]

    def hang_up() -> None:
        os.dup2(stderr, 2)
        listener.join(1)  # processes left behind by the program may keep the pipe open

    try:
        yield read
    finally:
        hang_up()


def _forward(signum: int, frame: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _stopped.set()
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
