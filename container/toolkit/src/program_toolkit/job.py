"""What every program's training needs: hyperparameters, channels, metrics, the failure file.

A program hands its arguments and its ``train(job, arguments)`` to `run`, which is then the whole
process: it reads the environment that the training toolkit sets, tells SageMaker in one sentence
why a job failed, and never leaves half a model behind.
"""

import argparse
import difflib
import importlib.metadata
import json
import os
import platform
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np

from program_toolkit.channels import ROWS, Channel, Chunks, JobError
from program_toolkit.table import Table, read_number, shorten


class _Stopped(BaseException):
    """SIGTERM arrived. Not an `Exception`, so that no `except Exception` catches it."""


_STOPPED = "stopped by SIGTERM before the model was finished; nothing was saved"


@dataclass(frozen=True)
class Job:
    """The folders and channels of one training job.

    Parameters
    ----------
    channels : mapping of str to Path
        Folder of each input channel.
    model_dir : Path
        What lies here at the end becomes model.tar.gz.
    output_dir : Path
        Parent of the failure file and of `data_dir`.
    name : str
        What SageMaker calls the job; empty if not given.
    """

    channels: Mapping[str, Path]
    model_dir: Path
    output_dir: Path
    name: str = ""

    @property
    def data_dir(self) -> Path:
        """The folder of what is not the model; it becomes output.tar.gz."""
        folder = self.output_dir / "data"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> "Job":
        """Read the variables that sagemaker-training sets for the program."""
        names = json.loads(environ.get("SM_CHANNELS", "[]"))
        return cls(
            channels={name: Path(environ[f"SM_CHANNEL_{name.upper()}"]) for name in names},
            model_dir=Path(environ.get("SM_MODEL_DIR", "/opt/ml/model")),
            output_dir=Path(environ.get("SM_OUTPUT_DIR", "/opt/ml/output")),
            name=environ.get("TRAINING_JOB_NAME", ""),
        )

    def read(
        self,
        channel: str,
        file: str | None = None,
        *,
        missing: bool = False,
        text: bool = False,
        header: bool | None = None,
    ) -> Table:
        """Read one file of a channel, or all of them below one another.

        Parameters
        ----------
        channel : str
            Name of the channel.
        file : str, optional
            Path of one file inside the channel. CSV, Parquet and npy are told apart as
            `channels` says.
        missing, text : bool
            Whether cells may be missing, and columns may hold text.
        header : bool, optional
            Whether CSV files have a header; by default it's found out, with a warning if in doubt.

        Returns
        -------
        Table
            At least two columns and one row.

        Raises
        ------
        JobError
            If channel or file is absent, a file cannot be read or holds what it may not, or the
            files do not fit together.
        """
        return self._open(channel, file, missing, text, header).read()

    def chunks(
        self,
        channel: str,
        file: str | None = None,
        rows: int = ROWS,
        *,
        missing: bool = False,
        text: bool = False,
        header: bool | None = None,
        progress: bool = False,
    ) -> Chunks:
        """Return the same rows as `read` does, in chunks, for data larger than the memory.

        Parameters
        ----------
        channel, file, missing, text, header
            As in `read`.
        rows : int
            Most rows of a chunk.
        progress : bool
            Whether to print how far each pass is.
        """
        return Chunks(self._open(channel, file, missing, text, header), rows, progress)

    def size(self, channel: str, file: str | None = None) -> int:
        """Return the size in bytes of what `read` and `chunks` would read."""
        return self._open(channel, file, missing=True, text=True).size()

    def files(self, channel: str, file: str | None = None) -> list[Path]:
        """Return the paths of what `read` would read, for a program that reads it otherwise."""
        return self._open(channel, file, missing=True, text=True).paths

    def folder(self, channel: str) -> Path:
        """Return where a channel's files lie.

        A training channel may be called ``training``, as the SDK calls that of ``fit("s3://...")``.

        Raises
        ------
        JobError
            If there is no such channel.
        """
        if channel.startswith("train") and channel not in self.channels:
            channel = "training" if "training" in self.channels else channel
        if channel not in self.channels:
            there = ", ".join(map(repr, self.channels)) or "none"
            raise JobError(f"no channel {channel!r} (channels: {there}); pass it to fit()")
        return self.channels[channel]

    def _open(
        self,
        channel: str,
        file: str | None,
        missing: bool,
        text: bool,
        header: bool | None = None,
    ) -> Channel:
        return Channel(channel, self.folder(channel), file, missing, text, header)

    def log_metrics(self, **metrics: float) -> None:
        """Print one line ``name=value;`` per metric, as in ``r2_test=(.*?);``."""
        for name, value in metrics.items():
            print(f"{name}={value:.6g};", flush=True)

    def write_description(self, libraries: Sequence[str], **content: object) -> None:
        """Write model.json: what a model is, and the versions of what has made it."""
        versions = {name: importlib.metadata.version(name) for name in libraries}
        made_by = {"python": platform.python_version(), **versions}
        self.write_json("model.json", {**content, "libraries": made_by})

    def write_json(self, name: str, content: dict) -> None:
        """Write a JSON file into the model folder."""
        text = json.dumps(content, indent=2, allow_nan=False)
        (self.model_dir / name).write_text(text + "\n", encoding="utf-8")

    def fail(self, reason: str) -> None:
        """Write the failure file, and empty the model folder, as half a model is of no use."""
        print(f"training failed: {reason}", file=sys.stderr, flush=True)
        for path in self.model_dir.glob("*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        self.output_dir.mkdir(parents=True, exist_ok=True)
        (self.output_dir / "failure").write_text(reason, encoding="utf-8", errors="replace")


def read_description(model_dir: Path, *format_versions: int) -> dict:
    """Read the model.json of a model that is of one of these versions.

    Raises
    ------
    ValueError
        If it is of another.
    """
    described = json.loads((model_dir / "model.json").read_text(encoding="utf-8"))
    if described["format_version"] not in format_versions:
        raise ValueError(
            f"model.json has format_version {described['format_version']}, this program reads "
            f"{' and '.join(map(str, format_versions))}; train the model again with this image"
        )
    return described


def split_target(table: Table, target: str, text: bool = False) -> tuple[Table, np.ndarray]:
    """Take the target's column out of a table.

    Parameters
    ----------
    table : Table
        Shape (n, k).
    target : str
        Name of the target's column, or its index; negative ones count from the end.
    text : bool
        Whether the target may be labels.

    Returns
    -------
    X : Table
        The k - 1 other columns; named x0, x1, ... where the table has no names.
    y : ndarray of float64, or of str as objects, shape (n,)

    Raises
    ------
    JobError
        If there is no such column, one of its cells is missing, or it holds text.
    """
    k = table.values.shape[1]
    columns, index = list(table.names or []), _find_index(table, target)
    where = f"the target, column {name_target(table, target)},"
    kinds = table.text()
    labels = kinds.pop(index)
    if labels and not text:
        cells = enumerate(table.values[:, index], 1)
        row, cell = next((i, c) for i, c in cells if c is None or read_number(c) is None)
        raise JobError(f"{where} is text, {shorten(cell)} in row {row}; expected numbers")
    y = table.values[:, index]
    y = y if labels else y.astype(np.float64, copy=False)
    absent = [cell is None for cell in y] if labels else np.isnan(y)
    if any(absent):
        raise JobError(f"{where} is missing in row {list(absent).index(True) + 1}; drop it first")
    features = columns[:index] + columns[index + 1 :] or [f"x{j}" for j in range(k - 1)]
    rest = np.delete(table.values, index, axis=1)
    if not any(kinds):
        rest = rest.astype(np.float64, copy=False)
    return Table(rest, tuple(features)), y


def name_target(table: Table, target: str) -> str:
    """Return the name of the target's column, or its number; raises as `split_target`."""
    index = _find_index(table, target)
    return repr(table.names[index]) if table.names else str(index + 1)


def _find_index(table: Table, target: str) -> int:
    k, columns = table.values.shape[1], list(table.names or [])
    if target in columns:
        return columns.index(target)
    try:
        return range(k)[int(target)]
    except (ValueError, IndexError):
        there = ", ".join(map(repr, columns)) or f"{k}, without names"
        raise JobError(f"target={target!r} is not a column; there are {there}") from None


# ---------------------------------------------------------------- hyperparameters


class HyperparameterParser(argparse.ArgumentParser):
    """An argument parser for what a training job gives: strings, quoted or not.

    ``--train-file`` and ``--train_file`` are the same; an unknown name is answered with the
    closest known one; every complaint is a `JobError`.
    """

    def __init__(self) -> None:
        super().__init__(allow_abbrev=False, add_help=False)

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str]
    ) -> argparse.Namespace:
        """Read the program's arguments, which are pairs of --name and value."""
        joined: list[str] = []
        for token in args:
            if joined and "=" not in joined[-1]:
                joined[-1] += "=" + _unquote(token)
            elif token.startswith("-"):
                name, equals, value = token.partition("=")
                joined.append(name.replace("_", "-") + equals + _unquote(value))
            else:
                self.error(f"unexpected argument {token!r}")
        known, unknown = self.parse_known_args(joined)
        if unknown:
            self._refuse(unknown[0].partition("=")[0])
        return known

    def _refuse(self, name: str) -> NoReturn:
        options = list(self._option_string_actions)
        close = difflib.get_close_matches(name, options, n=1, cutoff=0)
        raise JobError(
            f"unknown hyperparameter {name.lstrip('-')!r}; did you mean {close[0].lstrip('-')!r}? "
            f"(known: {', '.join(sorted(option.lstrip('-') for option in options))})"
        )

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing the usage and exiting with 2."""
        raise JobError(f"hyperparameters: {message}")


def _unquote(value: str) -> str:
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'" else value


# ---------------------------------------------------------------- the process


def run(
    add_arguments: Callable[[argparse.ArgumentParser], None],
    train: Callable[[Job, argparse.Namespace], None],
) -> NoReturn:
    """Run one training job as this process and exit: 0 if a model was written, else 1.

    Parameters
    ----------
    add_arguments : callable
        Adds the program's hyperparameters to a parser.
    train : callable
        Trains and saves a model, from a `Job` and the parsed hyperparameters.
    """
    job = Job.from_environ(os.environ)
    try:
        _heed_sigterm(job)
        parser = HyperparameterParser()
        add_arguments(parser)
        train(job, parser.parse_args(sys.argv[1:]))
    except JobError as error:
        failure = str(error)
    except _Stopped:
        failure = _STOPPED
    except Exception as error:
        traceback.print_exc()
        failure = f"unexpected {type(error).__name__}: {error}"
    else:
        sys.exit(0)
    job.fail(failure)
    sys.exit(1)


def _heed_sigterm(job: Job) -> None:
    # Python runs a handler between two instructions of its own, and LAPACK may be a minute away
    # from the next. So a thread looks after the main one, and ends the process in its stead.
    ear, bell = os.pipe()
    os.set_blocking(bell, False)
    signal.set_wakeup_fd(bell)
    signal.signal(signal.SIGTERM, _stop)
    threading.Thread(target=_end_after_sigterm, args=[ear, job], daemon=True).start()


def _stop(signum: int, frame: object) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # cleaning up follows
    raise _Stopped


def _end_after_sigterm(ear: int, job: Job) -> NoReturn:
    while signal.SIGTERM not in os.read(ear, 1):
        pass
    time.sleep(1)  # time for the main thread to end by itself
    job.fail(_STOPPED)
    os._exit(1)
