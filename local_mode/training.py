"""Training jobs: each runs in a thread, on one container or several."""

import contextlib
import math
import re
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from local_mode import checkpoints, files, inputs
from local_mode.checkpoints import Checkpoints
from local_mode.container import Container
from local_mode.machine import Machine, Region
from local_mode.metrics import Metrics
from local_mode.store import TRAINING_JOB, now
from local_mode.wire import refuse, support

GRACE = 120  # seconds between SIGTERM and SIGKILL, as SageMaker stops a job
_LOG_GROUP = "/aws/sagemaker/TrainingJobs"
_STOPPING = {"MaxRuntimeInSeconds": 86400}  # by default
_SUPPORTED = (
    "TrainingJobName HyperParameters AlgorithmSpecification RoleArn InputDataConfig "
    "OutputDataConfig ResourceConfig VpcConfig StoppingCondition Tags EnableNetworkIsolation "
    "EnableInterContainerTrafficEncryption EnableManagedSpotTraining CheckpointConfig "
    "DebugHookConfig ProfilerConfig Environment RetryStrategy SessionChainingConfig "
    "InfraCheckConfig"
)
_MESSAGES = {
    "Starting": "Preparing the instances for training",
    "Downloading": "Downloading input data",
    "Training": "Training in-progress",
    "Uploading": "Uploading generated training model",
    "Stopping": "Stopping the training job",
    "Completed": "Training job completed",
    "Stopped": "Training job stopped",
    "MaxRuntimeExceeded": "Training job runtime exceeded MaxRuntimeInSeconds provided",
}


class JobFailed(Exception):
    """A job failed, for the reason that its FailureReason gives."""


class TrainingJobs:
    """The training jobs of one region.

    Parameters
    ----------
    machine : Machine
    region : Region
    """

    def __init__(self, machine: Machine, region: Region):
        self._machine, self._region = machine, region
        self._runs: dict[str, _Run] = {}

    def create(self, request: dict[str, Any], program: str, **more: Any) -> dict[str, Any]:
        """Start a training job.

        Parameters
        ----------
        request : dict
            Of CreateTrainingJob.
        program : str
            The file of code/ that the image was "built" with.
        **more
            Further members of the job's description.
        """
        _check(request)
        algorithm = request["AlgorithmSpecification"]
        output = request["OutputDataConfig"]
        folder = f"{output['S3OutputPath'].rstrip('/')}/{request['TrainingJobName']}/output"
        packed = output.get("CompressionType") != "NONE"
        job = self._region.store.add(
            TRAINING_JOB,
            request,
            TrainingJobStatus="InProgress",
            SecondaryStatus="Starting",
            SecondaryStatusTransitions=[],
            ModelArtifacts={"S3ModelArtifacts": f"{folder}/model{'.tar.gz' if packed else '/'}"},
            AlgorithmSpecification={"EnableSageMakerMetricsTimeSeries": False, **algorithm},
            OutputDataConfig={"KmsKeyId": "", "CompressionType": "GZIP", **output},
            EnableNetworkIsolation=request.get("EnableNetworkIsolation", False),
            EnableManagedSpotTraining=request.get("EnableManagedSpotTraining", False),
            EnableInterContainerTrafficEncryption=request.get(
                "EnableInterContainerTrafficEncryption", False
            ),
            StoppingCondition={**_STOPPING, **request.get("StoppingCondition", {})},
            **more,
        )
        run = self._runs[job["TrainingJobName"]] = _Run(
            self._machine, self._region, job, program, folder
        )
        run.start()
        return {"TrainingJobArn": job["TrainingJobArn"]}

    def stop(self, name: str, at_once: bool = False) -> None:
        """Stop a training job that runs; at once, its programs get a few seconds only."""
        job = self._region.store.get(TRAINING_JOB, name)
        if job["TrainingJobStatus"] not in ("InProgress", "Stopping"):
            raise refuse(
                "The request was rejected because the training job is in status "
                f"{job['TrainingJobStatus']}."
            )
        self._runs[name].stop("Stopped", at_once)

    def delete(self, name: str) -> None:
        """Forget a training job that has ended."""
        job = self._region.store.get(TRAINING_JOB, name)
        if job["TrainingJobStatus"] in ("InProgress", "Stopping"):
            raise refuse(
                f"Training job {name} is in status {job['TrainingJobStatus']}; stop it first"
            )
        self._region.store.delete(TRAINING_JOB, name)
        self._runs.pop(name, None)

    def wait(self, name: str) -> dict[str, Any]:
        """Wait for the end of a training job; return its description."""
        self._runs[name].thread.join()
        return self._region.store.get(TRAINING_JOB, name)

    def close(self) -> None:
        """Stop all jobs, and wait for their ends."""
        for run in list(self._runs.values()):
            run.stop("Stopped", at_once=True)
        for run in list(self._runs.values()):
            run.thread.join()


def _check(request: Mapping[str, Any]) -> None:
    support(request, _SUPPORTED)
    algorithm = request.get("AlgorithmSpecification")
    if not algorithm:
        raise refuse("AlgorithmSpecification must be given")
    support(
        algorithm,
        "TrainingImage TrainingInputMode MetricDefinitions EnableSageMakerMetricsTimeSeries "
        "ContainerEntrypoint ContainerArguments TrainingImageConfig",
        "AlgorithmSpecification.",
    )
    if not algorithm.get("TrainingImage"):
        raise refuse("AlgorithmSpecification.TrainingImage must name an image")
    for definition in algorithm.get("MetricDefinitions", []):
        try:
            groups = re.compile(definition["Regex"]).groups
        except re.error as error:
            groups, reason = 1, f"is not a regular expression: {error}"
        else:
            reason = "has no group for the metric's value"
            if groups:
                continue
        raise refuse(f"MetricDefinitions.{definition['Name']}: {definition['Regex']!r} {reason}")
    resources = request.get("ResourceConfig") or {}
    support(
        resources,
        "InstanceType InstanceCount VolumeSizeInGB VolumeKmsKeyId KeepAlivePeriodInSeconds",
        "ResourceConfig.",
    )
    count = resources.get("InstanceCount", 0)
    if count < 1:
        raise refuse(f"ResourceConfig.InstanceCount must be 1 or more, got {count}")
    if count > 1 and sys.platform != "linux":
        raise refuse(
            f"ResourceConfig.InstanceCount {count} needs Linux, where each host has a loopback "
            "address of its own; use 1"
        )
    path = (request.get("CheckpointConfig") or {}).get("LocalPath") or checkpoints.FOLDER
    if not Path(path).is_relative_to("/opt/ml") or ".." in Path(path).parts:
        raise refuse(f"CheckpointConfig.LocalPath must lie in /opt/ml on this machine, got {path}")
    inputs.check(request.get("InputDataConfig", []), algorithm["TrainingInputMode"])


class _Run:
    """One job, from its start to its end."""

    def __init__(
        self, machine: Machine, region: Region, job: dict[str, Any], program: str, output: str
    ):
        self._machine, self._region, self._job = machine, region, job
        self._program, self._output = program, output
        self._name = job["TrainingJobName"]
        self._mode = job["AlgorithmSpecification"]["TrainingInputMode"]
        self._containers: list[Container] = []
        self._end: str | None = None  # the status that it is stopped with
        self._lock = threading.Lock()
        self._metrics = Metrics(job["AlgorithmSpecification"].get("MetricDefinitions", []))
        self.thread = threading.Thread(target=self._run, name=self._name, daemon=True)

    def start(self) -> None:
        """Start the job's thread."""
        self._enter("Starting")
        self.thread.start()

    def stop(self, status: str, at_once: bool = False) -> None:
        """Stop the job, if it still runs; at once, its programs get a few seconds only."""
        with self._lock:
            if self._job["TrainingJobStatus"] not in ("InProgress", "Stopping"):
                return
            if not self._end and status == "Stopped":
                self._enter("Stopping", TrainingJobStatus="Stopping")
            self._end = self._end or status
            containers = list(self._containers)
        for container in containers:
            container.stop(at_once)

    def _run(self) -> None:
        started = now()
        try:
            status, changes = self._train(), {}
        except (JobFailed, files.FileError) as error:
            status, changes = "Failed", {"FailureReason": str(error)[:1024]}
        except Exception as error:  # a fault of ours, which must not leave the job InProgress
            status = "Failed"
            changes = {"FailureReason": f"InternalServerError: {error!r}"[:1024]}
        finally:
            for container in self._containers:
                container.remove()
        seconds = max(1, math.ceil((now() - started).total_seconds()))
        changes |= {
            "TrainingStartTime": started,
            "TrainingEndTime": now(),
            "TrainingTimeInSeconds": seconds,
            "BillableTimeInSeconds": seconds,
            "FinalMetricDataList": self._metrics.final(),
        }
        with contextlib.suppress(Exception):  # the server is closing
            self._metrics.publish(self._region, self._name)
        final = status if status in ("Completed", "Failed") else "Stopped"
        self._enter(
            status,
            message=changes.get("FailureReason"),
            TrainingJobStatus=final,
            **changes,
        )

    def _enter(self, status: str, message: str | None = None, **changes: Any) -> None:
        with self._region.store.lock:
            time, transitions = now(), list(self._job["SecondaryStatusTransitions"])
            if transitions:
                transitions[-1] = {**transitions[-1], "EndTime": time}
            said = {"Status": status, "StartTime": time}
            transitions.append({**said, "StatusMessage": message or _MESSAGES[status]})
            if status in ("Completed", "Failed", "Stopped", "MaxRuntimeExceeded"):
                transitions[-1]["EndTime"] = time
            self._region.store.update(
                self._job,
                SecondaryStatus=status,
                SecondaryStatusTransitions=transitions,
                **changes,
            )

    def _advance(self, status: str) -> None:
        with self._lock:
            if self._end != "Stopped":
                self._enter(status)

    def _train(self) -> str:
        job = self._job
        count = job["ResourceConfig"]["InstanceCount"]
        # Must resolve, or the toolkit waits for them.
        hosts = ["localhost"] if count == 1 else [f"127.0.0.{k}" for k in range(1, count + 1)]
        self._region.store.update(job, TrainingStartTime=now())
        for host in hosts:
            container = self._machine.container(f"{self._name}-{host}", self._program)
            self._containers.append(container)
            inputs.configure(container.base, job, hosts, host, self._mode)
            (container.base / "output/data").mkdir(parents=True)
        self._advance("Downloading")
        for k, container in enumerate(self._containers):
            inputs.place(
                self._region.files, job.get("InputDataConfig", []), container.base, k, count
            )
        saved = Checkpoints(self._region.files, job.get("CheckpointConfig"))
        for container in self._containers:
            saved.restore(container.base)
        if self._end:
            return self._end
        self._advance("Training")
        reason = self._run_containers(saved)
        if reason is None or self._end:
            self._advance("Uploading")
            self._upload_model()
        self._upload_data()
        if reason is not None and not self._end:
            raise JobFailed(reason)
        return self._end or "Completed"

    def _run_containers(self, saved: Checkpoints) -> str | None:
        """Run every host's program to its end; return why the job failed, if it did."""
        environment = {
            "TRAINING_JOB_NAME": self._name,
            "TRAINING_JOB_ARN": self._job["TrainingJobArn"],
            **self._job.get("Environment", {}),
        }
        command = _command(self._job["AlgorithmSpecification"])
        processes, pumps = [], []
        stamp = int(time.time() * 1000)
        for number, container in enumerate(self._containers, 1):
            log = self._region.logs.open(_LOG_GROUP, f"{self._name}/algo-{number}-{stamp}")
            with self._lock:
                if self._end:
                    break
                try:
                    process = container.start(command, environment, GRACE)
                except (RuntimeError, OSError) as error:
                    raise JobFailed(str(error)) from None
            processes.append(process)
            pump = threading.Thread(target=log.pump, args=[process.stdout, self._metrics.look])
            pump.start()
            pumps.append(pump)
        limit = self._job["StoppingCondition"]["MaxRuntimeInSeconds"]
        deadline = time.monotonic() + limit
        reason = None
        while any(process.poll() is None for process in processes):
            time.sleep(0.05)
            if time.monotonic() > deadline:
                self.stop("MaxRuntimeExceeded")
            saved.save(self._containers[0].base)
            if reason is None and (reason := self._find_failure(processes)):
                for container in self._containers:
                    container.stop()
        for pump in pumps:
            pump.join()
        saved.save(self._containers[0].base, at_once=True)
        return reason or self._find_failure(processes)

    def _find_failure(self, processes: Sequence) -> str | None:
        for process, container in zip(processes, self._containers, strict=False):
            code, failure = process.poll(), container.base / "output/failure"
            if code is not None and (code or failure.exists()):
                text = failure.read_text(errors="replace") if failure.exists() else ""
                return text or f"exit code {code}"
        return None

    def _upload_model(self) -> None:
        folder = self._gather("model")
        if self._job["OutputDataConfig"]["CompressionType"] == "NONE":
            self._region.files.upload(folder, f"{self._output}/model")
        else:
            self._upload(folder, "model.tar.gz")

    def _upload_data(self) -> None:
        folder = self._gather("output/data")
        if any(folder.iterdir()):
            self._upload(folder, "output.tar.gz")

    def _gather(self, name: str) -> Path:
        """Return the first host's folder, with what the others have beside it."""
        first, *others = (container.base / name for container in self._containers)
        for other in others:
            for path in sorted(path for path in other.rglob("*") if path.is_file()):
                target = first / path.relative_to(other)
                if not target.exists():
                    target.parent.mkdir(parents=True, exist_ok=True)
                    path.rename(target)
        return first

    def _upload(self, folder: Path, name: str) -> None:
        archive = folder.with_name(name)
        files.pack(folder, archive)
        self._region.files.write(f"{self._output}/{name}", archive)


def _command(algorithm: Mapping[str, Any]) -> list[str]:
    entrypoint, arguments = (
        algorithm.get(name, []) for name in ("ContainerEntrypoint", "ContainerArguments")
    )
    return [*entrypoint, *arguments] or ["train"]
