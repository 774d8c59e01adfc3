"""Train on a file of this machine: one job of SageMaker's API on loopback, from a shell.

What the job leaves (model, report, page and its whole log) is kept in a folder.
"""

import argparse
import contextlib
import difflib
import itertools
import json
import re
import shlex
import shutil
import signal
import sys
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import boto3
from botocore.exceptions import ClientError

from local_mode import loopback
from local_mode.container import CODE_DIR
from local_mode.files import unpack
from local_mode.logs import LogReader
from local_mode.server import REGION
from program_toolkit.channels import Channel, JobError
from program_toolkit.job import split_target

_IMAGE = "local:latest"  # on this machine a name only
_ROLE = "arn:aws:iam::123456789012:role/local"
_POLL = 0.2  # s between looks at a job
_SAMPLE = 1000  # rows that tell which columns are text
_METRIC = re.compile(r"([A-Za-z_]\w*)=([-+.\w]+);")  # as job.log_metrics prints them
_TOOLKIT = re.compile(r"\d{4}-\d\d-\d\d [\d:,]+ sagemaker-training-toolkit (\w+)")
_JSON, _EXPLAINED = "application/json", "application/json; explain=true"


class TrainError(Exception):
    """What keeps the command from its work, in one sentence."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    parser = _make_parser()
    chosen = parser.parse_args(arguments)
    names = [name for name, _ in chosen.hyperparameter] + ["target"] * (chosen.target is not None)
    if len(set(names)) < len(names):
        parser.error(f"a hyperparameter is given twice, got {', '.join(names)}")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        _check(chosen)
        with _claim(chosen.output, chosen.data) as folder, loopback.aws(REGION, chosen.program):
            try:
                _train(chosen, folder)
                if chosen.serve:
                    _serve(chosen, folder)
            finally:  # nothing may keep the server from stopping what it started
                signal.signal(signal.SIGINT, signal.SIG_IGN)
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
    except (TrainError, OSError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1
    except ClientError as error:
        print(f"{parser.prog}: {error.response['Error']['Message']}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{parser.prog}: interrupted", file=sys.stderr)
        return 130
    return 0


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m local_mode train", description=__doc__.splitlines()[0]
    )
    parser.add_argument("data", type=Path, help="a file that the program reads: CSV, Parquet, npy")
    parser.add_argument(
        "--target", help="name or index of its column (default: as the program has it)"
    )
    parser.add_argument("--test", type=Path, help="a file with rows to test the model on")
    parser.add_argument(
        "--program", default="model_logic.py", help="a file of code/ (default: %(default)s)"
    )
    parser.add_argument(
        "--hyperparameter",
        type=_read_pair,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="of the program; may be given again",
    )
    parser.add_argument(
        "--channels",
        type=lambda names: names.split(","),
        default=["train", "test"],
        metavar="TRAIN,TEST",
        help="what the program calls the two files' channels (default: train,test)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        help="a new folder for what the job leaves (default: build/ and the data's name; where "
        "there is one, with a number)",
    )
    parser.add_argument(
        "--serve", action="store_true", help="then deploy the model, and stay until Ctrl-C"
    )
    parser.add_argument(
        "-v", "--verbose", action="store_true", help="print the training toolkit's lines, too"
    )
    return parser


def _read_pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value


def _check(chosen: argparse.Namespace) -> None:
    """Refuse what cannot work, before anything is started."""
    for path in filter(None, (chosen.data, chosen.test)):
        if not path.is_file():
            what = "is no file" if path.exists() else "does not exist"
            there = [near.name for near in path.parent.glob("*") if near.is_file()]
            raise TrainError(f"{path} {what}{_suggest(path.name, there)}")
    programs = [path.name for path in CODE_DIR.glob("*_logic.py")]
    if not (CODE_DIR / Path(chosen.program).name).is_file() or "/" in chosen.program:
        raise TrainError(
            f"--program {chosen.program} is not in {CODE_DIR}{_suggest(chosen.program, programs)}"
        )


def _suggest(name: str, there: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, there)
    return f"; did you mean {' or '.join(near)}?" if near else ""


@contextlib.contextmanager
def _claim(folder: Path | None, data: Path) -> Iterator[Path]:
    """Make the folder of the results, which is removed where there are none."""
    if folder is None:
        name = data.name.partition(".")[0] or "data"
        others = (Path("build", f"{name}-{k}") for k in itertools.count(2))
        folder = next(
            path for path in itertools.chain([Path("build", name)], others) if not path.exists()
        )
    elif folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise TrainError(f"--output {folder} is there already; name another, or delete it first")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield folder
    finally:
        with contextlib.suppress(OSError):  # not empty
            folder.rmdir()


# ---------------------------------------------------------------- the job


def _train(chosen: argparse.Namespace, folder: Path) -> None:
    """Run the job, and say what came of it."""
    sagemaker, name = boto3.client("sagemaker"), _make_name(chosen.data)
    hyperparameters = dict(chosen.hyperparameter)
    if chosen.target is not None:
        hyperparameters["target"] = json.dumps(chosen.target)  # or true would become True
    given = dict(zip(chosen.channels, filter(None, (chosen.data, chosen.test)), strict=False))
    with tempfile.TemporaryDirectory(prefix="train-") as results:
        sagemaker.create_training_job(
            TrainingJobName=name,
            AlgorithmSpecification={"TrainingImage": _IMAGE, "TrainingInputMode": "File"},
            RoleArn=_ROLE,
            HyperParameters=hyperparameters,
            InputDataConfig=[_make_channel(channel, path) for channel, path in given.items()],
            OutputDataConfig={"S3OutputPath": results},
            ResourceConfig={"InstanceType": "local", "InstanceCount": 1, "VolumeSizeInGB": 1},
            StoppingCondition={"MaxRuntimeInSeconds": 28 * 86400},
        )
        print(f"{chosen.program} trains on {chosen.data}", flush=True)
        metrics: dict[str, str] = {}
        with (folder / "job.log").open("w", encoding="utf-8") as log:
            reader = _follow(sagemaker, name)
            for line, is_shown in _mark(reader):
                print(line, file=log)
                if found := _METRIC.fullmatch(line):
                    metrics[found[1]] = found[2]
                    is_shown = False  # below
                if is_shown or chosen.verbose:
                    print(line, flush=True)
        job = sagemaker.describe_training_job(TrainingJobName=name)
        if metrics:
            width = max(map(len, metrics))
            print("\nmetrics", *(f"  {key:{width}}  {metrics[key]}" for key in metrics), sep="\n")
        if job["TrainingJobStatus"] != "Completed":
            (folder / "job.log").unlink()
            raise TrainError(f"training failed: {job['FailureReason']}")
        archive = Path(job["ModelArtifacts"]["S3ModelArtifacts"])
        shutil.move(archive, folder)
        data = archive.with_name("output.tar.gz")
        if data.exists():
            with data.open("rb") as stream:
                unpack(stream, folder, str(data))
    _list(folder)


def _make_name(data: Path) -> str:
    stem = re.sub("[^a-zA-Z0-9]+", "-", data.name.partition(".")[0]).strip("-")[:40]
    return f"{stem or 'data'}-{uuid.uuid4().hex[:8]}"


def _make_channel(name: str, path: Path) -> dict[str, Any]:
    source = {
        "S3DataType": "S3Prefix",
        "S3Uri": str(path.resolve()),
        "S3DataDistributionType": "FullyReplicated",
    }
    return {"ChannelName": name, "DataSource": {"S3DataSource": source}}


def _follow(sagemaker: Any, name: str) -> Iterator[str]:
    """Yield the lines of a job's log until its end."""
    log = LogReader(boto3.client("logs"), "/aws/sagemaker/TrainingJobs", f"{name}/")
    running = True
    while running:
        # Asked before the log is read, so that nothing is missed.
        job = sagemaker.describe_training_job(TrainingJobName=name)
        running = job["TrainingJobStatus"] in ("InProgress", "Stopping")
        yield from log.read()
        if running:
            time.sleep(_POLL)


def _mark(lines: Iterable[str]) -> Iterator[tuple[str, bool]]:
    """Yield each line of a job, and whether it is the program's, or a warning.

    The toolkit's own, of which some have no mark, come first and end with the program's command.
    """
    state = "toolkit"
    for line in lines:
        if mark := _TOOLKIT.match(line):
            yield line, mark[1] == "WARNING"
        elif state == "toolkit":
            state = "command" if line.startswith("Invoking script with") else state
            yield line, False
        elif state == "command":
            state = "program" if line.strip() else state
            yield line, False
        elif state == "program" and not line.strip():  # below the command
            yield line, False
        else:
            state = "words"
            # The command's own last sentence says why it failed.
            yield line, not line.startswith("training failed: ")


_FILES = {
    "report.html": "report",
    "page.html": "page, which answers in a browser",
    "model.tar.gz": "model, as SageMaker deploys it",
    "job.log": "the job's whole log",
}


def _list(folder: Path) -> None:
    print(f"\n{folder}")
    for path in sorted(folder.iterdir()):
        print(f"  {folder / path.name}  {_FILES.get(path.name, '')}".rstrip())


# ---------------------------------------------------------------- the endpoint


def _serve(chosen: argparse.Namespace, folder: Path) -> None:
    """Deploy the model, print how to ask it, and stay until Ctrl-C."""
    sagemaker, name = boto3.client("sagemaker"), _make_name(chosen.data)
    container = {"Image": _IMAGE, "ModelDataUrl": str((folder / "model.tar.gz").resolve())}
    sagemaker.create_model(ModelName=name, PrimaryContainer=container, ExecutionRoleArn=_ROLE)
    variant = {
        "VariantName": "AllTraffic",
        "ModelName": name,
        "InstanceType": "local",
        "InitialInstanceCount": 1,
    }
    sagemaker.create_endpoint_config(EndpointConfigName=name, ProductionVariants=[variant])
    sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=name)
    while True:
        endpoint = sagemaker.describe_endpoint(EndpointName=name)
        if endpoint["EndpointStatus"] != "Creating":
            break
        time.sleep(_POLL)
    if endpoint["EndpointStatus"] != "InService":
        raise TrainError(f"the model does not serve: {endpoint['FailureReason']}")
    url = f"{sagemaker.meta.endpoint_url}/endpoints/{name}/invocations"
    print(f"\n{url}")
    try:
        body = _make_request(chosen)
        accept = _find_accept(url, body)
    except (JobError, TrainError) as error:
        print(f"A first row of {chosen.data} is no request: {error}")
    else:
        words = ["curl", url, "-H", f"Content-Type: {_JSON}", "-H", f"Accept: {accept}"]
        print(f"\n{shlex.join([*words, '-d', body])}")
    print("\nCtrl-C ends it", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        signal.pause()


def _make_request(chosen: argparse.Namespace) -> str:
    """Return the data's first row without a missing cell, or else the first one, as JSON."""
    hyperparameters = dict(chosen.hyperparameter)
    header = {"present": True, "absent": False}.get(hyperparameters.get("header", "auto"))
    path = chosen.data.resolve()
    channel = Channel("train", path.parent, path.name, missing=True, text=True, header=header)
    table = next(channel.stream(_SAMPLE))
    target = hyperparameters.get("target", "-1") if chosen.target is None else chosen.target
    table, _ = split_target(table, target, text=True)
    rows = [[None if cell != cell else cell for cell in row] for row in table.values.tolist()]
    row = next((row for row in rows if None not in row), rows[0])
    instance = row if table.names is None else dict(zip(table.names, row, strict=True))
    return json.dumps({"instances": [instance]})


def _find_accept(url: str, body: str) -> str:
    """Return what the model can answer the request with, for which it is asked.

    Raises
    ------
    TrainError
        With the model's complaint.
    """
    for accept in (_EXPLAINED, _JSON):
        headers = {"Content-Type": _JSON, "Accept": accept}
        try:
            with _OPENER.open(urllib.request.Request(url, body.encode(), headers), timeout=70):
                return accept
        except urllib.error.HTTPError as error:
            with error:
                complaint = error.read().decode(errors="replace")
    raise TrainError(complaint)


_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # it is on loopback
