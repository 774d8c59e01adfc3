"""The SageMaker session of each mode."""

import atexit
import contextlib
import os
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import boto3
import sagemaker
from botocore.config import Config as ClientConfig
from sagemaker.exceptions import UnexpectedStatusException
from sagemaker.local import LocalSession

from local_mode import loopback
from local_mode.config import Config
from local_mode.docker import DockerClient, free_port
from local_mode.logs import LogReader
from local_mode.server import PROGRAM_HEADER, REGION

LOCAL_BUCKET = "sagemaker-local"
_POLL = 0.3  # s between looks at a job; AWS's take minutes, and the SDK's own pause is 5 to 30 s
_RUNNING = ("InProgress", "Stopping")

# Replaces the user's SDK settings, which may name buckets and roles in an account.
_SDK_CONFIG = {
    "SchemaVersion": "1.0",
    "SageMaker": {"PythonSDK": {"Modules": {"TelemetryOptOut": True}}},
}


def session_for(config: Config) -> sagemaker.Session:
    """Return the SDK session for ``config.mode``.

    Parameters
    ----------
    config : Config

    Returns
    -------
    sagemaker.Session
        In the local modes a context manager. When the last one is closed, or the process exits,
        jobs and endpoints are stopped and the environment is restored.
    """
    if config.mode == "process":
        return ProcessSession(config)
    if config.mode == "docker":
        return DockerSession(config)
    return sagemaker.Session(
        boto3.Session(region_name=config.region), default_bucket=config.default_bucket
    )


class _LoopbackSession(LocalSession):
    """The SDK's local session, with AWS on loopback."""

    def __init__(self, config: Config):
        self._resources = contextlib.ExitStack()
        atexit.register(self.close)
        region = config.region or REGION
        self._resources.enter_context(loopback.aws(region, config.program))
        super().__init__(
            boto_session=boto3.Session(region_name=region),
            default_bucket=config.default_bucket or LOCAL_BUCKET,
            sagemaker_config=_SDK_CONFIG,
        )
        self.default_bucket()  # creates it

    def close(self) -> None:
        """Leave the server, which ends with its last session."""
        atexit.unregister(self.close)
        self._resources.close()

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        self.close()


class ProcessSession(_LoopbackSession):
    """A session on this machine's SageMaker, where jobs and endpoints are processes.

    It is a local session, so that the SDK takes the instance type ``local`` and files of this
    machine, but its clients are boto3's own.
    """

    def __init__(self, config: Config):
        super().__init__(config)

        def add_program(params: dict[str, Any], **_: Any) -> None:
            params["headers"][PROGRAM_HEADER] = config.program

        self.boto_session.events.register("before-call.sagemaker", add_program)
        self.sagemaker_client = self.boto_session.client("sagemaker")
        self.sagemaker_runtime_client = self.boto_session.client(
            "sagemaker-runtime", config=ClientConfig(read_timeout=80)
        )

    def train(self, input_mode, input_config, *arguments: Any, **keywords: Any) -> Any:
        """Create a training job, which may read files of this machine."""
        channels = [_as_s3(channel) for channel in input_config or []] or input_config
        return super().train(input_mode, channels, *arguments, **keywords)

    def create_tuning_job(self, *arguments: Any, **request: Any) -> Any:
        """Create a tuning job, whose training jobs may read files of this machine."""
        config = request.get("training_config")
        if config and config.get("input_config"):
            channels = [_as_s3(channel) for channel in config["input_config"]]
            request["training_config"] = {**config, "input_config": channels}
        return super().create_tuning_job(*arguments, **request)

    # What the SDK waits with.

    def logs_for_job(self, job_name, wait=False, poll=_POLL, log_type="All", timeout=None):
        """Print the log of a training job, and with `wait` follow it to the job's end."""
        description = self._show_log("Training", job_name, wait, poll, timeout)
        if wait and description["TrainingJobStatus"] not in _RUNNING:
            return self.wait_for_job(job_name, 0)  # the SDK's own, for its errors
        return description

    def logs_for_transform_job(self, job_name, wait=False, poll=_POLL):
        """Print the log of a transform job, and with `wait` follow it to the job's end."""
        description = self._show_log("Transform", job_name, wait, poll)
        return self.wait_for_transform_job(job_name, 0) if wait else description

    def _show_log(self, kind, job_name, wait, poll, timeout=None) -> dict[str, Any]:
        describe = getattr(self.sagemaker_client, f"describe_{kind.lower()}_job")
        logs = self.boto_session.client("logs")
        log = LogReader(logs, f"/aws/sagemaker/{kind}Jobs", f"{job_name}/")
        deadline = time.monotonic() + timeout if timeout else None
        try:
            while True:
                # Before the log is read, so that nothing is missed.
                description = describe(**{f"{kind}JobName": job_name})
                for line in log.read():
                    print(line, flush=True)
                running = description[f"{kind}JobStatus"] in _RUNNING
                if not (wait and running) or (deadline and time.monotonic() > deadline):
                    return description
                time.sleep(poll)
        except KeyboardInterrupt:  # fit() would swallow it and return as if the job had succeeded
            getattr(self, f"stop_{kind.lower()}_job")(job_name)
            raise UnexpectedStatusException(
                f"{kind} job {job_name} was interrupted, and is being stopped",
                allowed_statuses=["Completed"],
                actual_status="Stopping",
            ) from None

    def wait_for_job(self, job, poll=_POLL):
        """Wait for the end of a training job."""
        return sagemaker.Session.wait_for_job(self, job, poll)

    def wait_for_tuning_job(self, job, poll=_POLL):
        """Wait for the end of a tuning job."""
        return sagemaker.Session.wait_for_tuning_job(self, job, poll)

    def wait_for_transform_job(self, job, poll=_POLL):
        """Wait for the end of a transform job."""
        return sagemaker.Session.wait_for_transform_job(self, job, poll)

    def wait_for_endpoint(self, endpoint, poll=_POLL, live_logging=False):
        """Wait until an endpoint is in service."""
        return sagemaker.Session.wait_for_endpoint(self, endpoint, poll, live_logging)


def _as_s3(channel: Mapping[str, Any]) -> dict[str, Any]:
    """Return a channel with a file or folder of this machine in S3's place."""
    source = channel["DataSource"]
    if "FileDataSource" not in source:
        return dict(channel)
    distribution = source["FileDataSource"].get("FileDataDistributionType", "FullyReplicated")
    data = {
        "S3DataType": "S3Prefix",
        "S3Uri": source["FileDataSource"]["FileUri"],
        "S3DataDistributionType": distribution,
    }
    return {**channel, "DataSource": {"S3DataSource": data}}


class DockerSession(_LoopbackSession):
    """Jobs and endpoints as containers, by the SDK's own local mode."""

    def __init__(self, config: Config):
        super().__init__(config)
        folder = self._resources.enter_context(
            tempfile.TemporaryDirectory(prefix="sagemaker-", ignore_cleanup_errors=True)
        )
        self.folder = Path(folder).resolve()
        self.sagemaker_client = DockerClient(self, self.folder)
        self.config = {
            "local": {
                "container_root": str(self.folder),
                "serving_port": free_port(),
                # Run as the caller, not as root, so that the container's files can be deleted.
                "container_config": {"user": f"{os.getuid()}:{os.getgid()}"},
            }
        }

    def wait_for_endpoint(self, endpoint: str, poll: int = 0, live_logging: bool = False) -> dict:
        """Return immediately: creating a local endpoint has already waited for it."""
        return super().wait_for_endpoint(endpoint, poll)
