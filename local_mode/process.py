"""SageMaker's API for one session, implemented by child processes.

`ProcessClient` has the methods of boto3's SageMaker client that jobs and endpoints need, with the
same names, arguments and answers, so the SDK and plain boto3 code use it unchanged. A job runs
the real ``train`` of sagemaker-training, an endpoint the ``serve`` of the image, each with a
private /opt/ml tree.
"""

import contextlib
import datetime
import http.client
import io
import json
import shutil
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import sagemaker
from botocore.exceptions import ClientError
from botocore.response import StreamingBody
from sagemaker.exceptions import UnexpectedStatusException
from sagemaker.utils import create_tar_file, custom_extractall_tarfile, download_folder

from local_mode.container import Container

_ARN = "arn:aws:sagemaker:local:123456789012:"


class ProcessClient:
    """The part of boto3's SageMaker client that training jobs and endpoints need.

    Parameters
    ----------
    session : sagemaker.Session
        Used for S3.
    program : str
        The file of code/ that the "image" runs, unless a request names or sends another program.
    folder : Path
        Root of everything written.
    """

    def __init__(self, session: sagemaker.Session, program: str, folder: Path):
        self._session = session
        self._program = program
        self._folder = folder
        self._training_jobs: dict[str, dict] = {}
        self._models: dict[str, dict] = {}
        self._endpoint_configs: dict[str, dict] = {}
        self._endpoints: dict[str, dict] = {}
        self._containers: dict[str, Container] = {}

    def close(self) -> None:
        """Stop every child process."""
        for name in list(self._containers):
            self._remove(name)

    # ------------------------------------------------------------ training

    def create_training_job(
        self,
        *,
        TrainingJobName: str,
        OutputDataConfig: Mapping[str, str],
        InputDataConfig: list[dict] | None = None,
        HyperParameters: Mapping[str, str] | None = None,
        Environment: Mapping[str, str] | None = None,
        **rest: Any,
    ) -> dict:
        """Run a training job with its output on standard output, and wait for its end.

        Raises
        ------
        UnexpectedStatusException
            If the job failed, with the program's failure message, or was interrupted.
        """
        job = self._training_jobs[TrainingJobName] = {
            "TrainingJobName": TrainingJobName,
            "TrainingJobArn": f"{_ARN}training-job/{TrainingJobName}",
            "TrainingJobStatus": "InProgress",
            "SecondaryStatus": "Training",
            "CreationTime": datetime.datetime.now(datetime.timezone.utc),
            "HyperParameters": dict(HyperParameters or {}),
            "InputDataConfig": InputDataConfig or [],
            "OutputDataConfig": dict(OutputDataConfig),
            "Environment": dict(Environment or {}),
            **rest,
        }
        try:
            job["ModelArtifacts"] = {"S3ModelArtifacts": self._train(job)}
            job["TrainingJobStatus"] = "Completed"
        except Exception as error:
            job |= {"TrainingJobStatus": "Failed", "FailureReason": str(error)[:1024]}
        except KeyboardInterrupt:  # fit() would swallow it and return as if the job had succeeded
            job |= {"TrainingJobStatus": "Stopped", "FailureReason": "interrupted"}
        job["SecondaryStatus"] = status = job["TrainingJobStatus"]
        if status != "Completed":
            raise UnexpectedStatusException(
                f"Error for Training job {TrainingJobName}: {status}. "
                f"Reason: {job['FailureReason']}",
                allowed_statuses=["Completed"],
                actual_status=status,
            )
        return {"TrainingJobArn": job["TrainingJobArn"]}

    def describe_training_job(self, *, TrainingJobName: str) -> dict:
        """Return the description of a training job."""
        return _look_up(self._training_jobs, "training job", TrainingJobName)

    def _train(self, job: Mapping[str, Any]) -> str:
        name = job["TrainingJobName"]
        environment = {"TRAINING_JOB_NAME": name, **job["Environment"]}
        container = self._create(name)
        try:
            self._write_input(container.base, job)
            process = container.start("train", environment)
            for line in process.stdout:
                sys.stdout.write(line)
            exit_code = process.wait()
            failure = container.base / "output/failure"
            if exit_code or failure.exists():
                raise RuntimeError(
                    failure.read_text() if failure.exists() else f"exit code {exit_code}"
                )
            return self._upload_output(container.base, job)
        finally:
            self._remove(name)

    def _write_input(self, base: Path, job: Mapping[str, Any]) -> None:
        """Create /opt/ml as SageMaker does before it starts a training container."""
        for folder in ("input/config", "output/data"):
            (base / folder).mkdir(parents=True)
        channels = {}
        for channel in job["InputDataConfig"]:
            name, source = channel["ChannelName"], channel["DataSource"]
            channels[name] = {"TrainingInputMode": "File", "S3DistributionType": "FullyReplicated"}
            if channel.get("ContentType"):
                channels[name]["ContentType"] = channel["ContentType"]
            uri = (
                source["FileDataSource"]["FileUri"]
                if "FileDataSource" in source
                else source["S3DataSource"]["S3Uri"]
            )
            self._download(uri, base / "input/data" / name)
        configurations = {
            "hyperparameters": job["HyperParameters"],
            "inputdataconfig": channels,
            # Must resolve, or the toolkit waits for it.
            "resourceconfig": {
                "current_host": "localhost",
                "hosts": ["localhost"],
                "network_interface_name": "lo",
            },
        }
        for name, content in configurations.items():
            (base / "input/config" / f"{name}.json").write_text(json.dumps(content))

    def _upload_output(self, base: Path, job: Mapping[str, Any]) -> str:
        path = job["OutputDataConfig"]["S3OutputPath"].rstrip("/")
        destination = f"{path}/{job['TrainingJobName']}/output"
        for source, name in (("model", "model.tar.gz"), ("output/data", "output.tar.gz")):
            files = [str(file) for file in (base / source).iterdir()]
            if files or source == "model":
                self._upload(create_tar_file(files, str(base / name)), destination)
        return f"{destination}/model.tar.gz"

    # ------------------------------------------------------------ models and endpoints

    def create_model(self, *, ModelName: str, PrimaryContainer: dict, **rest: Any) -> dict:
        """Store the description of a model."""
        arn = f"{_ARN}model/{ModelName}"
        description = {"ModelName": ModelName, "ModelArn": arn}
        self._models[ModelName] = description | {"PrimaryContainer": PrimaryContainer} | rest
        return {"ModelArn": arn}

    def describe_model(self, *, ModelName: str) -> dict:
        """Return the description of a model."""
        return _look_up(self._models, "model", ModelName)

    def delete_model(self, *, ModelName: str) -> None:
        """Forget a model."""
        self.describe_model(ModelName=ModelName)
        del self._models[ModelName]

    def create_endpoint_config(
        self, *, EndpointConfigName: str, ProductionVariants: list[dict], **rest: Any
    ) -> dict:
        """Store the configuration of an endpoint."""
        arn = f"{_ARN}endpoint-config/{EndpointConfigName}"
        description = {"EndpointConfigName": EndpointConfigName, "EndpointConfigArn": arn}
        self._endpoint_configs[EndpointConfigName] = (
            description | {"ProductionVariants": ProductionVariants} | rest
        )
        return {"EndpointConfigArn": arn}

    def describe_endpoint_config(self, *, EndpointConfigName: str) -> dict:
        """Return the configuration of an endpoint."""
        return _look_up(self._endpoint_configs, "endpoint configuration", EndpointConfigName)

    def delete_endpoint_config(self, *, EndpointConfigName: str) -> None:
        """Delete the configuration of an endpoint."""
        self.describe_endpoint_config(EndpointConfigName=EndpointConfigName)
        del self._endpoint_configs[EndpointConfigName]

    def create_endpoint(self, *, EndpointName: str, EndpointConfigName: str, **rest: Any) -> dict:
        """Start ``serve`` with the first variant's model and wait until it answers.

        Raises
        ------
        UnexpectedStatusException
            If the server exits, or does not answer ``/ping`` within two minutes.
        """
        configuration = self.describe_endpoint_config(EndpointConfigName=EndpointConfigName)
        variant = configuration["ProductionVariants"][0]
        model = self.describe_model(ModelName=variant["ModelName"])["PrimaryContainer"]
        endpoint = {
            "EndpointName": EndpointName,
            "EndpointArn": f"{_ARN}endpoint/{EndpointName}",
            "EndpointConfigName": EndpointConfigName,
            "EndpointStatus": "InService",
            "ProductionVariants": [{"VariantName": variant["VariantName"]}],
            "Port": free_port(),
            "Log": str(self._folder / f"{EndpointName}.log"),
        }
        try:
            self._serve(endpoint, model)
        except BaseException as error:
            self._remove(EndpointName)
            raise UnexpectedStatusException(
                f"Error hosting endpoint {EndpointName}: Failed. Reason: {error or 'interrupted'}",
                allowed_statuses=["InService"],
                actual_status="Failed",
            ) from None
        self._endpoints[EndpointName] = endpoint
        return {"EndpointArn": endpoint["EndpointArn"]}

    def _serve(self, endpoint: Mapping[str, Any], model: Mapping[str, Any]) -> None:
        port, log = endpoint["Port"], Path(endpoint["Log"])
        container = self._create(endpoint["EndpointName"])
        self._download(model["ModelDataUrl"], container.base / "download")
        for archive in (container.base / "download").iterdir():
            with tarfile.open(archive) as tar:
                custom_extractall_tarfile(tar, str(container.base / "model"))
        environment = {
            "SAGEMAKER_BIND_TO_PORT": str(port),
            "MODEL_SERVER_HOST": "127.0.0.1",
            **model.get("Environment", {}),
        }
        _wait_for_ping(container.start("serve", environment, log), port, log)

    def describe_endpoint(self, *, EndpointName: str) -> dict:
        """Return the state of an endpoint."""
        return _look_up(self._endpoints, "endpoint", EndpointName)

    def delete_endpoint(self, *, EndpointName: str) -> None:
        """Stop an endpoint."""
        self.describe_endpoint(EndpointName=EndpointName)
        self._remove(EndpointName)
        del self._endpoints[EndpointName]

    # ------------------------------------------------------------ containers and files

    def _create(self, name: str) -> Container:
        self._containers[name] = Container(self._folder / name, self._program)
        return self._containers[name]

    def _remove(self, name: str) -> None:
        if name in self._containers:
            self._containers.pop(name).remove()

    def _download(self, uri: str, folder: Path) -> None:
        folder.mkdir(parents=True)
        parsed = urlparse(uri)
        if parsed.scheme == "file":
            source = Path(parsed.netloc + parsed.path)
            copy = shutil.copytree if source.is_dir() else shutil.copy
            copy(source, folder, **({"dirs_exist_ok": True} if source.is_dir() else {}))
        else:
            download_folder(parsed.netloc, parsed.path, str(folder), self._session)
        if not any(folder.iterdir()):
            raise FileNotFoundError(f"data download failed: nothing found at {uri}")

    def _upload(self, file: str, destination: str) -> None:
        parsed = urlparse(destination)
        if parsed.scheme == "file":
            Path(parsed.path).mkdir(parents=True, exist_ok=True)
            shutil.copy(file, parsed.path)
        else:
            self._session.upload_data(file, parsed.netloc, parsed.path.lstrip("/"))


class ProcessRuntimeClient:
    """The part of boto3's SageMaker runtime client that predictors need.

    Parameters
    ----------
    client : ProcessClient
        Client that has the endpoints.
    """

    def __init__(self, client: ProcessClient):
        self._client = client

    def invoke_endpoint(
        self,
        *,
        EndpointName: str,
        Body: bytes | str,
        ContentType: str = "application/octet-stream",
        Accept: str | None = None,
        CustomAttributes: str | None = None,
        **_: Any,
    ) -> dict:
        """Send one request to an endpoint.

        Raises
        ------
        ClientError
            With code ModelError and the model's own message, as AWS raises it.
        """
        endpoint = self._client.describe_endpoint(EndpointName=EndpointName)
        headers = {"Content-Type": ContentType}
        if Accept is not None:
            headers["Accept"] = Accept
        if CustomAttributes is not None:
            headers["X-Amzn-SageMaker-Custom-Attributes"] = CustomAttributes
        body = Body.encode() if isinstance(Body, str) else Body
        status, content_type, answer = _request(
            endpoint["Port"], "POST", "/invocations", body, headers
        )
        if status >= 400:
            side, message = ("client", "server")[status >= 500], answer.decode(errors="replace")
            error = {
                "Code": "ModelError",
                "Message": f"Received {side} error ({status}) from primary with message "
                f'"{message}". See {endpoint["Log"]} for more.',
            }
            raise ClientError(
                {"Error": error, "OriginalStatusCode": status, "OriginalMessage": message},
                "InvokeEndpoint",
            )
        return {
            "Body": StreamingBody(io.BytesIO(answer), len(answer)),
            "ContentType": content_type,
            "InvokedProductionVariant": endpoint["ProductionVariants"][0]["VariantName"],
        }


def _look_up(table: Mapping[str, dict], kind: str, name: str) -> dict:
    if name not in table:
        error = {"Code": "ValidationException", "Message": f"Could not find {kind} {name!r}."}
        raise ClientError({"Error": error}, "Describe")
    return table[name]


def _request(
    port: int, method: str, path: str, body: bytes | None = None, headers: dict | None = None
) -> tuple[int, str, bytes]:
    # SageMaker's limit for an invocation is 60 s.
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as link:
        link.request(method, path, body, headers or {})
        response = link.getresponse()
        return response.status, response.headers.get("Content-Type", ""), response.read()


def _wait_for_ping(child: subprocess.Popen, port: int, log: Path) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if child.poll() is not None:
            break
        with contextlib.suppress(OSError, http.client.HTTPException):
            if _request(port, "GET", "/ping")[0] == 200:
                return
        time.sleep(0.05)
    raise RuntimeError(" | ".join(log.read_text(errors="replace").splitlines()[-3:]))


def free_port() -> int:
    """Return a free port on loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
