"""Emulation of a container by a process with a private /opt/ml tree."""

import contextlib
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

CODE_DIR = Path(__file__).resolve().parents[1] / "code"
_SUPERVISOR = Path(__file__).with_name("supervisor.py")


class Container:
    """``docker run IMAGE train`` or ``docker run IMAGE serve`` without Docker.

    Parameters
    ----------
    folder : Path
        Root of everything that the container writes.
    program : str
        The file of code/ that the image was "built" with.
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
        self, command: str, environment: Mapping[str, str], log: Path | None = None
    ) -> subprocess.Popen:
        """Start the command.

        Parameters
        ----------
        command : {"train", "serve"}
        environment : mapping of str to str
            Additions to the image's environment.
        log : Path, optional
            File for the output; by default it goes to the returned process's ``stdout``.
        """
        scripts = Path(sys.executable).parent
        executable = shutil.which(command, path=str(scripts))
        if executable is None:
            raise RuntimeError(f"no {command!r} in {scripts}; run 'make setup' first")
        # As the ENV of the image, with this machine's paths.
        image = {
            "PATH": f"{scripts}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
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
        output = {"stdout": subprocess.PIPE, "encoding": "utf-8", "errors": "replace"}
        with contextlib.ExitStack() as files:
            if log is not None:
                output = {"stdout": files.enter_context(log.open("wb"))}
            self._process = subprocess.Popen(
                [sys.executable, "-IS", str(_SUPERVISOR), executable],
                stdin=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                cwd=self._folder,
                env={**os.environ, **image, **environment},
                start_new_session=True,  # the caller handles Ctrl-C
                **output,
            )
        return self._process

    def remove(self) -> None:
        """Stop the command if it is still running, and delete its files."""
        if self._process is not None:
            self._process.stdin.close()  # the supervisor then stops the command
            self._process.wait()
            if self._process.stdout is not None:
                self._process.stdout.close()
        shutil.rmtree(self._folder, ignore_errors=True)
