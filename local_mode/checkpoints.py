"""A job's checkpoints, which outlast it in S3."""

import contextlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from local_mode.files import FileError, Files

FOLDER = "/opt/ml/checkpoints"  # unless a job names another


class Checkpoints:
    """The checkpoints of a job, which outlast it in S3.

    Parameters
    ----------
    files : Files
    config : mapping or None
        CheckpointConfig.
    """

    PAUSE = 1.0  # s between looks at the folder

    def __init__(self, files: Files, config: Mapping[str, Any] | None):
        self._files, self._uri = files, (config or {}).get("S3Uri")
        path = Path((config or {}).get("LocalPath") or FOLDER)
        self._path = path.relative_to("/opt/ml")
        self._known: dict[str, Any] = {}
        self._next = 0.0

    def restore(self, base: Path) -> None:
        """Copy what is in S3 into a host's folder."""
        if self._uri is None:
            return
        folder = base / self._path
        folder.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileError):  # none yet
            self._files.download(self._files.find(f"{self._uri.rstrip('/')}/"), folder)

    def save(self, base: Path, at_once: bool = False) -> None:
        """Copy what has changed in a host's folder to S3, now and then."""
        if self._uri is not None and (at_once or time.monotonic() >= self._next):
            with contextlib.suppress(FileNotFoundError):  # the program has replaced a file
                self._files.upload(base / self._path, self._uri, self._known)
            self._next = time.monotonic() + self.PAUSE
