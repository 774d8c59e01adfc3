"""How a container runs: as a process with a private /opt/ml tree."""

import contextlib
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

CODE_DIR = Path(__file__).resolve().parents[1] / "code"
_SUPERVISOR = Path(__file__).with_name("supervisor.py")


class Container:
    """``docker run IMAGE COMMAND`` without Docker.

    Parameters
    ----------
    folder : Path
        Root of everything that the container writes, which does not exist yet.
    program : str
        The file of code/ that the image was "built" with.

    Attributes
    ----------
    base : Path
        What the container finds at /opt/ml.
    """

    def __init__(self, folder: Path, program: str):
        self.base = folder / "opt" / "ml"
        self._programs = folder / "opt" / "program"
        self._folder = folder
        self._program = program
        self._process: subprocess.Popen | None = None
        shutil.copytree(CODE_DIR, self._programs, ignore=shutil.ignore_patterns("__pycache__"))
        for empty in ("code", "model"):
            (self.base / empty).mkdir(parents=True)
        (folder / "tmp").mkdir()

    def start(
        self, command: Sequence[str], environment: Mapping[str, str], grace: float
    ) -> subprocess.Popen:
        """Start a command.

        Parameters
        ----------
        command : sequence of str
            ``train``, ``serve`` or any other, with its arguments.
        environment : mapping of str to str
            Additions to the image's environment.
        grace : float
            Seconds between SIGTERM and SIGKILL when it is stopped.

        Returns
        -------
        subprocess.Popen
            With the command's output as text in ``stdout``.
        """
        scripts = Path(sys.executable).parent
        path = f"{scripts}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
        executable = shutil.which(command[0], path=path)
        if executable is None:
            raise RuntimeError(f"no command {command[0]!r} in {path}; run 'make setup' first")
        # As the ENV of the image, with this machine's paths.
        image = {
            "PATH": path,
            "SAGEMAKER_BASE_DIR": str(self.base),
            "SAGEMAKER_PROGRAM": self._program,
            "SAGEMAKER_SUBMIT_DIRECTORY": str(self.base / "code"),
            "SAGEMAKER_TRAINING_MODULE": "model_server.training:main",
            "PYTHONPATH": str(self._programs),
            "TMPDIR": str(self._folder / "tmp"),
            "PYTHONUNBUFFERED": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        if importlib.util.find_spec("gethostname") is None:
            # Stub of the toolkit's compiled MPI helper, which it always imports, but which is
            # unused here and absent without a compiler.
            (self._programs / "gethostname.py").touch()
        supervisor = [sys.executable, "-IS", str(_SUPERVISOR), str(grace), str(self.base)]
        self._process = subprocess.Popen(
            [*supervisor, executable, *command[1:]],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            cwd=self._folder,
            env={**os.environ, **image, **environment},
            start_new_session=True,  # the caller handles Ctrl-C
        )
        return self._process

    def stop(self, at_once: bool = False) -> None:
        """Send the command SIGTERM, and SIGKILL after its grace or a few seconds; don't wait."""
        if self._process is not None and not self._process.stdin.closed:
            with contextlib.suppress(BrokenPipeError):  # it has ended
                if not at_once:
                    self._process.stdin.write("stop")
                self._process.stdin.close()

    def remove(self) -> None:
        """Stop the command if it is still running, wait for its end, and delete its files."""
        if self._process is not None:
            self.stop(at_once=True)
            self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)
