"""Batch transform: a model answers what lies in S3, file by file."""

import collections
import contextlib
import gzip
import http.client
import itertools
import json
import logging
import tempfile
import threading
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

from local_mode.files import FileError
from local_mode.machine import Machine, Region
from local_mode.records import MB, Processing, RecordError, payloads
from local_mode.serving import ModelServer, ServeFailed
from local_mode.store import MODEL, TRANSFORM_JOB, now
from local_mode.wire import refuse, support

LOG_GROUP = "/aws/sagemaker/TransformJobs"
_SUPPORTED = (
    "TransformJobName ModelName MaxConcurrentTransforms ModelClientConfig MaxPayloadInMB "
    "BatchStrategy Environment TransformInput TransformOutput TransformResources DataProcessing "
    "Tags ExperimentConfig"
)
_DEFAULTS = {"MaxConcurrentTransforms": 1, "BatchStrategy": "MultiRecord", "MaxPayloadInMB": 6}
_STRATEGIES = {"SINGLE_RECORD": "SingleRecord", "MULTI_RECORD": "MultiRecord"}
_TOTAL = 100  # MB that all requests in flight may have, as SageMaker limits them


class TransformFailed(Exception):
    """A file was not transformed, for the reason that the job's FailureReason gives."""


class _Stopped(Exception):
    """The job is being stopped."""


class TransformJobs:
    """The batch transform jobs of one region.

    Parameters
    ----------
    machine : Machine
    region : Region
    """

    def __init__(self, machine: Machine, region: Region):
        self._machine, self._region = machine, region
        self._runs: dict[str, _Run] = {}

    def create(self, request: dict[str, Any]) -> dict[str, Any]:
        """Start a transform job.

        Raises
        ------
        ApiError
            If it asks for what is not supported, or for a model that does not exist.
        """
        _check(request)
        processing = Processing(request)
        with self._region.store.lock:
            model = dict(self._region.store.get(MODEL, request["ModelName"]))
            source = {"CompressionType": "None", "SplitType": "None", **request["TransformInput"]}
            job = self._region.store.add(
                TRANSFORM_JOB,
                request,
                TransformJobStatus="InProgress",
                TransformInput=source,
                TransformOutput={"AssembleWith": "None", **request["TransformOutput"]},
                DataProcessing={
                    "InputFilter": "$",
                    "OutputFilter": "$",
                    "JoinSource": "None",
                    **(request.get("DataProcessing") or {}),
                },
            )
        name = job["TransformJobName"]
        self._runs[name] = _Run(self._machine, self._region, job, model, processing)
        self._runs[name].thread.start()
        return {"TransformJobArn": job["TransformJobArn"]}

    def stop(self, name: str) -> None:
        """Stop a transform job that runs; files that are done stay."""
        with self._region.store.lock:
            job = self._region.store.get(TRANSFORM_JOB, name)
            if job["TransformJobStatus"] not in ("InProgress", "Stopping"):
                raise refuse(
                    "The request was rejected because the transform job is in status "
                    f"{job['TransformJobStatus']}."
                )
            self._region.store.update(job, TransformJobStatus="Stopping")
        self._runs[name].stop()

    def close(self) -> None:
        """Stop all jobs, and wait for their ends."""
        for run in list(self._runs.values()):
            run.stop()
        for run in list(self._runs.values()):
            run.thread.join()


def _check(request: Mapping[str, Any]) -> None:
    support(request, _SUPPORTED)
    source = request["TransformInput"]
    support(source, "DataSource ContentType CompressionType SplitType", "TransformInput.")
    if source.get("SplitType", "None") not in ("None", "Line"):
        raise refuse(
            f"TransformInput.SplitType {source['SplitType']} is not supported on this machine; "
            "use None or Line"
        )
    kind = source["DataSource"]["S3DataSource"]["S3DataType"]
    if kind not in ("S3Prefix", "ManifestFile"):
        raise refuse(
            f"TransformInput.DataSource.S3DataSource.S3DataType {kind} is not supported on this "
            "machine; use S3Prefix or ManifestFile"
        )
    support(
        request["TransformOutput"], "S3OutputPath Accept AssembleWith KmsKeyId", "TransformOutput."
    )
    support(
        request["TransformResources"],
        "InstanceType InstanceCount VolumeKmsKeyId TransformAmiVersion",
        "TransformResources.",
    )
    _check_total(request.get("MaxConcurrentTransforms") or 1, request.get("MaxPayloadInMB") or 0)


def _check_total(concurrent: int, payload: int) -> None:
    if concurrent * payload > _TOTAL:
        raise refuse(
            f"MaxConcurrentTransforms x MaxPayloadInMB must not exceed {_TOTAL} MB, got "
            f"{concurrent} x {payload}"
        )


class _Run:
    """One job, from its start to its end."""

    def __init__(
        self,
        machine: Machine,
        region: Region,
        job: dict[str, Any],
        model: dict[str, Any],
        processing: Processing,
    ):
        self._machine, self._region, self._job, self._model = machine, region, job, model
        self._processing = processing
        self._name = job["TransformJobName"]
        self._stopping = threading.Event()
        self._server: ModelServer | None = None
        self.thread = threading.Thread(target=self._run, name=self._name, daemon=True)

    def stop(self) -> None:
        """Stop the job, without waiting."""
        self._stopping.set()
        if server := self._server:
            server.stop()

    def _run(self) -> None:
        store, changes = self._region.store, {"TransformJobStatus": "Completed"}
        store.update(self._job, TransformStartTime=now())
        stream = f"{self._name}/i-{uuid.uuid4().hex[:17]}"
        try:
            self._transform(stream)
        except _Stopped:
            changes = {"TransformJobStatus": "Stopped"}
        except Exception as error:
            reason = str(error)
            if not isinstance(error, TransformFailed | FileError | RecordError):
                logging.getLogger(__name__).exception("transform job %s failed", self._name)
                reason = f"InternalServerError: {error!r}"  # a fault of ours
            changes = {"TransformJobStatus": "Failed", "FailureReason": reason[:1024]}
            if self._stopping.is_set():
                changes = {"TransformJobStatus": "Stopped"}
        finally:
            if self._server is not None:
                self._server.remove()
        store.update(self._job, TransformEndTime=now(), **changes)

    def _transform(self, stream: str) -> None:
        source = self._job["TransformInput"]["DataSource"]["S3DataSource"]
        files = self._region.files
        find = files.manifest if source["S3DataType"] == "ManifestFile" else files.find
        found = find(source["S3Uri"])
        environment = {"SAGEMAKER_BATCH": "true"}
        for variable, member in (
            ("SAGEMAKER_MAX_CONCURRENT_TRANSFORMS", "MaxConcurrentTransforms"),
            ("SAGEMAKER_MAX_PAYLOAD_IN_MB", "MaxPayloadInMB"),
        ):
            if member in self._job:
                environment[variable] = str(self._job[member])
        for variable, value in _STRATEGIES.items():
            if self._job.get("BatchStrategy") == value:
                environment["SAGEMAKER_BATCH_STRATEGY"] = variable
        environment |= self._job.get("Environment") or {}
        self._server = server = ModelServer(
            self._machine,
            self._region,
            self._name,
            (LOG_GROUP, stream),
            self._model,
            environment,
        )
        try:
            server.start(cancelled=self._stopping.is_set)
        except ServeFailed as error:
            raise TransformFailed(
                f"AlgorithmError: the container did not pass the ping health check: {error}"
            ) from None
        plan = self._plan(server)
        failures = []
        for uri, name in found:
            try:
                self._transform_file(uri, name, plan)
            except (TransformFailed, FileError, RecordError) as error:
                if self._stopping.is_set():
                    raise _Stopped from None
                failures.append(f"{uri}: {error}")
                self._tell(stream, failures[-1])
        if failures:
            more = f" (and {len(failures) - 1} more files)" if failures[1:] else ""
            raise TransformFailed(
                f"ClientError: See job logs for more information. {failures[0][:800]}{more}"
            )

    def _plan(self, server: ModelServer) -> dict[str, Any]:
        """Return what the request leaves open as the container words it, or as usual.

        Raises
        ------
        TransformFailed
            If the container's answer cannot be used.
        """
        told: dict[str, Any] = {}
        with contextlib.suppress(OSError, http.client.HTTPException):
            answer = server.get("/execution-parameters")
            if answer.status == 200:
                try:
                    told = dict(json.loads(answer.body))
                    told["BatchStrategy"] = _STRATEGIES[told.get("BatchStrategy", "MULTI_RECORD")]
                    _check_total(
                        told.get("MaxConcurrentTransforms", 1), told.get("MaxPayloadInMB", 0)
                    )
                except Exception as error:
                    raise TransformFailed(
                        "AlgorithmError: /execution-parameters answered "
                        f"{answer.body[:200]!r}, which cannot be used: {error!r}"
                    ) from None
        plan = _DEFAULTS | {name: told[name] for name in _DEFAULTS if name in told}
        plan |= {name: self._job[name] for name in _DEFAULTS if self._job.get(name) is not None}
        plan["MaxConcurrentTransforms"] = plan["MaxConcurrentTransforms"] or 1  # 0: by the service
        return plan

    def _transform_file(self, uri: str, name: str, plan: Mapping[str, Any]) -> None:
        source, output = self._job["TransformInput"], self._job["TransformOutput"]
        with tempfile.TemporaryDirectory(dir=self._machine.folder) as folder:
            given, made = Path(folder, "in"), Path(folder, "out")
            self._region.files.download([(uri, "in")], Path(folder))
            with _open(given, source["CompressionType"]) as records, made.open("wb") as target:
                parts = payloads(
                    records,
                    source["SplitType"],
                    plan["BatchStrategy"] == "SingleRecord",
                    plan["MaxPayloadInMB"] * MB,
                )
                for answer in self._answers(parts, plan["MaxConcurrentTransforms"], uri):
                    target.write(answer)
                    if output["AssembleWith"] == "Line" and not answer.endswith(b"\n"):
                        target.write(b"\n")
            self._region.files.write(f"{output['S3OutputPath'].rstrip('/')}/{name}.out", made)

    def _answers(self, parts: Iterator[bytes], concurrent: int, uri: str) -> Iterator[bytes]:
        """Ask for several payloads at once, and give the answers in the payloads' order."""
        asked: collections.deque[Future[bytes]] = collections.deque()
        with ThreadPoolExecutor(concurrent) as pool:
            try:
                for part in _readable(parts, uri):
                    asked.append(pool.submit(self._ask, part))
                    if len(asked) > concurrent:
                        yield asked.popleft().result()
                while asked:
                    yield asked.popleft().result()
            finally:
                for future in asked:
                    future.cancel()

    def _ask(self, payload: bytes) -> bytes:
        """Return what is written of one payload; what fails in the container is tried again."""
        client = self._job.get("ModelClientConfig") or {}
        retries = client.get("InvocationsMaxRetries", 3)
        timeout = client.get("InvocationsTimeoutInSeconds", 600)
        headers = {
            header: value
            for header, value in (
                ("Content-Type", self._job["TransformInput"].get("ContentType")),
                ("Accept", self._job["TransformOutput"].get("Accept")),
            )
            if value
        }
        body = self._processing.before(payload)
        failure = ""
        for attempt in itertools.count():
            if self._stopping.is_set():
                raise _Stopped
            try:
                answer = self._server.invoke("/invocations", body, headers, timeout)
            except TimeoutError:
                failure = f"no answer within {timeout} s"
            except (OSError, http.client.HTTPException) as error:
                failure = f"the container does not answer: {error!r}"
            else:
                if answer.status < 400:
                    kind = answer.headers.get("Content-Type", "")
                    return self._processing.after(payload, answer.body, kind)
                failure = f"{answer.status}, {answer.body.decode(errors='replace')}"
                if answer.status < 500:
                    break
            if attempt >= retries or not self._server.is_running():
                break
        raise TransformFailed(failure)

    def _tell(self, stream: str, line: str) -> None:
        log = self._region.logs.open(LOG_GROUP, f"{stream}/data-log")
        log.write(line)
        log.close()


def _open(path: Path, compression: str) -> BinaryIO:
    return gzip.open(path, "rb") if compression == "Gzip" else path.open("rb")  # type: ignore[return-value]


def _readable(parts: Iterator[bytes], uri: str) -> Iterator[bytes]:
    try:
        yield from parts
    except (OSError, EOFError) as error:  # of gzip
        raise FileError(f"{uri} cannot be unpacked: {error}") from None
