"""The SageMaker session of each mode."""

import atexit
import contextlib
import os
import tempfile
from pathlib import Path

# The SDK warns of its successor at import.
os.environ.setdefault("SAGEMAKER_SUPPRESS_V2_WARNING", "1")

import boto3
import sagemaker
from sagemaker.local import LocalSession

from local_mode import loopback
from local_mode.config import Config
from local_mode.docker import DockerClient
from local_mode.process import ProcessClient, ProcessRuntimeClient, free_port

LOCAL_REGION = "us-east-1"
LOCAL_BUCKET = "sagemaker-local"

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
        In the local modes a context manager, which on exit stops endpoints and restores the
        environment; this also happens when the process exits.
    """
    if config.mode == "process":
        return ProcessSession(config)
    if config.mode == "docker":
        return DockerSession(config)
    return sagemaker.Session(
        boto3.Session(region_name=config.region), default_bucket=config.default_bucket
    )


class _LoopbackSession(LocalSession):
    """The SDK's local session, with S3 on loopback and a temporary folder for its files."""

    def __init__(self, config: Config):
        self._resources = contextlib.ExitStack()
        atexit.register(self.close)
        region = config.region or LOCAL_REGION
        self._resources.enter_context(loopback.aws(region))
        folder = self._resources.enter_context(
            tempfile.TemporaryDirectory(prefix="sagemaker-", ignore_cleanup_errors=True)
        )
        self.folder = Path(folder).resolve()
        super().__init__(
            boto_session=boto3.Session(region_name=region),
            default_bucket=config.default_bucket or LOCAL_BUCKET,
            sagemaker_config=_SDK_CONFIG,
        )
        self.default_bucket()  # creates it

    def wait_for_endpoint(self, endpoint: str, poll: int = 0, live_logging: bool = False) -> dict:
        """Return immediately: creating a local endpoint has already waited for it."""
        return super().wait_for_endpoint(endpoint, poll)

    def close(self) -> None:
        """Stop endpoints and jobs of this session, and restore the environment."""
        atexit.unregister(self.close)
        self._resources.close()

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        self.close()


class ProcessSession(_LoopbackSession):
    """Jobs and endpoints as child processes."""

    def __init__(self, config: Config):
        super().__init__(config)
        client = ProcessClient(self, config.program, self.folder)
        self._resources.callback(client.close)
        self.sagemaker_client = client
        self.sagemaker_runtime_client = ProcessRuntimeClient(client)


class DockerSession(_LoopbackSession):
    """Jobs and endpoints as containers, by the SDK's own local mode."""

    def __init__(self, config: Config):
        super().__init__(config)
        self.sagemaker_client = DockerClient(self, self.folder)
        self.config = {
            "local": {
                "container_root": str(self.folder),
                "serving_port": free_port(),
                # Run as the caller, not as root, so that the container's files can be deleted.
                "container_config": {"user": f"{os.getuid()}:{os.getgid()}"},
            }
        }
