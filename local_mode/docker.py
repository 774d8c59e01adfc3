"""SageMaker's API for one session, implemented by the SDK's local mode in containers."""

import contextlib
import json
import shutil
import socket
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from botocore.exceptions import BotoCoreError, ClientError
from sagemaker.exceptions import UnexpectedStatusException
from sagemaker.local import LocalSession
from sagemaker.local.local_session import LocalSagemakerClient
from sagemaker.utils import custom_extractall_tarfile

_SUBMIT_DIRECTORY = "sagemaker_submit_directory"


class DockerClient(LocalSagemakerClient):
    """The SDK's local client, extended to deliver code to the containers.

    On SageMaker a container downloads its code from S3. This session's S3 is on loopback, which
    containers cannot reach, so the code is unpacked here and mounted like a local folder.

    Parameters
    ----------
    session : LocalSession
        Used for S3.
    folder : Path
        Root of everything written.
    """

    def __init__(self, session: LocalSession, folder: Path):
        super().__init__(session)
        self._folder = folder

    def create_training_job(
        self,
        *,
        TrainingJobName: str,
        OutputDataConfig: Mapping[str, str],
        HyperParameters: Mapping[str, str] | None = None,
        Environment: Mapping[str, str] | None = None,
        **rest: Any,
    ) -> None:
        """Run a training job and wait for its end.

        Raises
        ------
        UnexpectedStatusException
            If the job failed, with the program's failure message.
        """
        hyperparameters, environment = dict(HyperParameters or {}), dict(Environment or {})
        sent = environment.pop(_SUBMIT_DIRECTORY.upper(), None)
        if sent and _SUBMIT_DIRECTORY not in hyperparameters:
            hyperparameters[_SUBMIT_DIRECTORY] = json.dumps(sent)
        try:
            if _SUBMIT_DIRECTORY in hyperparameters:
                uri = self._bring(hyperparameters[_SUBMIT_DIRECTORY].strip('"'))  # maybe quoted
                hyperparameters[_SUBMIT_DIRECTORY] = json.dumps(uri)
            super().create_training_job(
                TrainingJobName=TrainingJobName,
                OutputDataConfig=OutputDataConfig,
                HyperParameters=hyperparameters,
                Environment=environment,
                **rest,
            )
        except RuntimeError as error:  # the SDK reports the exit code, but not the reason
            reason = self._read_failure(TrainingJobName, OutputDataConfig["S3OutputPath"])
            raise UnexpectedStatusException(
                f"Error for Training job {TrainingJobName}: Failed. Reason: {reason or error}",
                allowed_statuses=["Completed"],
                actual_status="Failed",
            ) from error

    def create_model(
        self, *, ModelName: str, PrimaryContainer: Mapping[str, Any], **rest: Any
    ) -> None:
        """Store the description of a model."""
        environment = dict(PrimaryContainer.get("Environment") or {})
        if uri := environment.get(_SUBMIT_DIRECTORY.upper()):
            environment[_SUBMIT_DIRECTORY.upper()] = self._bring(uri)
        container = {**PrimaryContainer, "Environment": environment}
        super().create_model(ModelName, container, **rest)

    def _bring(self, uri: str) -> str:
        """Return a URI of the code at `uri` that the SDK can mount."""
        parsed = urlparse(uri)
        if parsed.scheme not in ("s3", "file"):
            return uri
        folder = tempfile.mkdtemp(prefix="code-", dir=self._folder)
        try:
            if parsed.scheme == "file":  # a copy, as a program may write to its own folder
                ignored = shutil.ignore_patterns(".git", "__pycache__")
                source = Path(parsed.netloc + parsed.path).resolve()
                shutil.copytree(source, folder, ignore=ignored, dirs_exist_ok=True)
            else:
                self._unpack(parsed.netloc, parsed.path.lstrip("/"), folder)
        except Exception as error:  # boto3's, tarfile's, or the file system's
            raise RuntimeError(f"the code at {uri} cannot be unpacked: {error}") from error
        return f"file://{folder}"

    def _unpack(self, bucket: str, key: str, folder: str) -> None:
        with tempfile.TemporaryFile() as file:
            self.sagemaker_session.s3_client.download_fileobj(bucket, key, file)
            file.seek(0)
            with tarfile.open(fileobj=file) as tar:
                custom_extractall_tarfile(tar, folder)

    def _read_failure(self, job: str, output: str) -> str | None:
        """Return the content of the job's failure file, which the SDK put into its output."""
        parsed = urlparse(output)
        prefix = parsed.path.strip("/")
        key = "/".join(filter(None, (prefix, job, "output/output.tar.gz")))
        with (
            tempfile.TemporaryDirectory(dir=self._folder) as folder,
            contextlib.suppress(BotoCoreError, ClientError, OSError, tarfile.TarError),
        ):
            self._unpack(parsed.netloc, key, folder)
            return Path(folder, "failure").read_text()
        return None


def free_port() -> int:
    """Return a free port on loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
