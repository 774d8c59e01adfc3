"""What every program's training needs: hyperparameters, channels, metrics, the failure file.

A program hands its arguments and its ``train(job, arguments)`` to `run`, which is then the whole
process: it reads the environment that the training toolkit sets, tells SageMaker in one sentence
why a job failed, and never leaves half a model behind.
"""

import argparse
import difflib
import json
import os
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

import payload


class JobError(Exception):
    """Something about the job that its owner can mend; the message becomes FailureReason."""


class _Stopped(BaseException):
    """SIGTERM arrived. No `Exception`, so that no handler on the way takes it for its own."""


_STOPPED = "stopped by SIGTERM before the model was finished; nothing was saved"


@dataclass(frozen=True)
class Job:
    """The places that one training run reads from and writes to.

    Parameters
    ----------
    channels : mapping of str to Path
        Folder of each input channel.
    model_dir : Path
        What lies here at the end becomes model.tar.gz.
    output_dir : Path
        Parent of the failure file.
    """

    channels: Mapping[str, Path]
    model_dir: Path
    output_dir: Path

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> "Job":
        """Read the variables that sagemaker-training sets for the program."""
        names = json.loads(environ.get("SM_CHANNELS", "[]"))
        return cls(
            channels={name: Path(environ[f"SM_CHANNEL_{name.upper()}"]) for name in names},
            model_dir=Path(environ.get("SM_MODEL_DIR", "/opt/ml/model")),
            output_dir=Path(environ.get("SM_OUTPUT_DIR", "/opt/ml/output")),
        )

    def read(self, channel: str, file: str | None = None) -> payload.Table:
        """Read one file of a channel, or all of them below one another.

        Parameters
        ----------
        channel : str
            Name of the channel.
        file : str, optional
            Path of one file inside the channel. CSV (with or without a header), Parquet and npy
            are told apart by their ending.

        Returns
        -------
        payload.Table
            At least two columns and one row, no cell missing.

        Raises
        ------
        JobError
            If channel or file is absent, a file cannot be read, or the files do not fit together.
        """
        if channel not in self.channels:
            there = ", ".join(map(repr, self.channels)) or "none"
            raise JobError(f"no channel {channel!r} (channels: {there}); pass it to fit()")
        folder = self.channels[channel]
        present = sorted(path for path in folder.rglob("*") if path.is_file())
        if file is None:  # .ipynb_checkpoints/, _SUCCESS and their like are no data
            present = [path for path in present if not _is_hidden(path.relative_to(folder))]
        listing = ", ".join(str(path.relative_to(folder)) for path in present[:10])
        if file is not None and folder / file not in present:
            raise JobError(f"no file {file!r} in channel {channel!r}; it holds: {listing or '-'}")
        if not present:
            raise JobError(f"channel {channel!r} holds no file")
        paths = [folder / file] if file is not None else present
        tables = [_read_file(path, str(path.relative_to(folder))) for path in paths]
        for path, table in zip(paths[1:], tables[1:], strict=True):
            if (table.names, table.values.shape[1]) != (
                tables[0].names,
                tables[0].values.shape[1],
            ):
                raise JobError(f"{path.name}: its columns are not those of {paths[0].name}")
        return payload.Table(np.concatenate([t.values for t in tables]), tables[0].names)

    def log_metrics(self, **metrics: float) -> None:
        """Print ``name=value;`` a line, for metric definitions such as ``r2_test=(.*?);``."""
        for name, value in metrics.items():
            print(f"{name}={value:.6g};", flush=True)

    def write_json(self, name: str, content: dict) -> None:
        """Write a JSON file into the model folder."""
        text = json.dumps(content, indent=2, allow_nan=False)
        (self.model_dir / name).write_text(text + "\n", encoding="utf-8")

    def fail(self, reason: str) -> None:
        """Write the failure file, and empty the model folder: half a model is none."""
        print(f"training failed: {reason}", file=sys.stderr, flush=True)
        for path in self.model_dir.glob("*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        self.output_dir.mkdir(parents=True, exist_ok=True)
        (self.output_dir / "failure").write_text(reason, encoding="utf-8", errors="replace")


def _is_hidden(path: Path) -> bool:
    return any(part.startswith((".", "_")) for part in path.parts)


def _read_file(path: Path, name: str) -> payload.Table:
    try:
        reader = _READERS[path.suffix.lower()]
    except KeyError:
        raise JobError(f"{name}: unknown ending; expected one of {', '.join(_READERS)}") from None
    if path.stat().st_size == 0:
        raise JobError(f"{name} is empty")
    try:
        table = reader(path).headed()
    except UnicodeDecodeError:
        raise JobError(f"{name} is not UTF-8 text") from None
    except payload.PayloadError as error:
        raise JobError(f"{name}: {error}") from None
    if table.values.ndim == 2 and any(table.text()):
        row, column = next(
            (row, column)
            for row, cells in enumerate(table.values)
            for column, cell in enumerate(cells)
            if isinstance(cell, str) and payload.read_number(cell) is None
        )
        cell = payload.shorten(table.values[row, column])
        raise JobError(f"{name}: {table.place(row, column)}: {cell} is not a number")
    if table.values.ndim != 2 or table.values.shape[1] < 2:
        raise JobError(f"{name} has one column only; expected features and a target, by commas")
    if len(table.values) == 0:
        raise JobError(f"{name} has no rows")
    if not np.isfinite(table.values).all():
        row, column = np.argwhere(~np.isfinite(table.values))[0]
        where = repr(table.names[column]) if table.names else column + 1
        value = table.values[row, column]
        raise JobError(
            f"{name}: row {row + 1}, column {where} is {'missing' if value != value else value}; "
            "fill or drop it first"
        )
    return table


def _read_csv(path: Path) -> payload.Table:
    return payload.parse_csv(path.read_text(encoding="utf-8"))


def _read_npy(path: Path) -> payload.Table:
    return payload.parse_npy(path.read_bytes())


def _read_parquet(path: Path) -> payload.Table:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            content = file.read()
    except (pyarrow.ArrowException, OSError) as error:
        raise payload.PayloadError(f"not a Parquet file: {error}") from None
    # A table that pandas wrote may bring its index along, which no to_csv(index=False) would.
    index = (content.schema.pandas_metadata or {}).get("index_columns", [])
    columns = {}
    for field, column in zip(content.schema, content.columns, strict=True):
        if field.name in columns:
            raise payload.PayloadError(f"two columns are named {field.name!r}")
        if field.name not in index:
            try:
                columns[field.name] = column.cast(pyarrow.float64(), safe=False).to_numpy()
            except pyarrow.ArrowException:
                raise payload.PayloadError(
                    f"column {field.name!r} is {field.type}, not numbers"
                ) from None
    values = np.column_stack(list(columns.values())) if columns else np.empty((0, 0))
    return payload.Table(values, tuple(columns))


_READERS: dict[str, Callable[[Path], payload.Table]] = {
    ".csv": _read_csv,
    ".npy": _read_npy,
    ".parquet": _read_parquet,
}


def split_target(table: payload.Table, target: str) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Take the target's column out of a table.

    Parameters
    ----------
    table : payload.Table
        Shape (n, k).
    target : str
        Name of the target's column, or its index; negative ones count from the end.

    Returns
    -------
    X : ndarray, shape (n, k - 1)
    y : ndarray, shape (n,)
    features : list of str
        Column names; x0, x1, ... where the files give none.

    Raises
    ------
    JobError
        If there is no such column.
    """
    k = table.values.shape[1]
    columns = list(table.names or [])
    if target in columns:
        index = columns.index(target)
    else:
        try:
            index = range(k)[int(target)]
        except (ValueError, IndexError):
            there = ", ".join(map(repr, columns)) or f"{k}, without names"
            raise JobError(f"target={target!r} is no column; there are {there}") from None
    features = columns[:index] + columns[index + 1 :] or [f"x{j}" for j in range(k - 1)]
    return np.delete(table.values, index, axis=1), table.values[:, index], features


# ---------------------------------------------------------------- hyperparameters


class HyperparameterParser(argparse.ArgumentParser):
    """An argument parser for what a training job gives: strings, quoted or not.

    ``--train-file`` and ``--train_file`` are the same; an unknown name is answered with the
    closest known one; every complaint is a `JobError`.
    """

    def __init__(self):
        super().__init__(allow_abbrev=False, add_help=False)

    def parse_args(self, args: Sequence[str]) -> argparse.Namespace:
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
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough; cleaning up follows
    raise _Stopped


def _end_after_sigterm(ear: int, job: Job) -> NoReturn:
    while signal.SIGTERM not in os.read(ear, 1):
        pass
    time.sleep(1)  # time for the main thread to end by itself
    job.fail(_STOPPED)
    os._exit(1)
