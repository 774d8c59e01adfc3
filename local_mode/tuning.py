"""Automatic tuning of hyperparameters: training jobs, side by side, and the best of them."""

import contextlib
import logging
import threading
import time
import uuid
from collections.abc import Mapping
from typing import Any

from local_mode.machine import Region
from local_mode.search import Search, make_search
from local_mode.store import TRAINING_JOB, TUNING_JOB, now
from local_mode.training import TrainingJobs
from local_mode.wire import SERVICE, ApiError, refuse, select, support

_RUNNING = ("InProgress", "Stopping")
_PAUSE = 0.1  # s between looks at the training jobs
_OBJECTIVE = "_tuning_objective_metric"  # a hyperparameter that SageMaker adds
_RESOURCES = "HyperParameterTuningResourceConfig"
_MOST = 750  # training jobs of one tuning job, if it names no number


class TuningJobs:
    """The tuning jobs of one region.

    Parameters
    ----------
    region : Region
    training_jobs : TrainingJobs
    """

    def __init__(self, region: Region, training_jobs: TrainingJobs):
        self._region, self._training_jobs = region, training_jobs
        self._runs: dict[str, _Run] = {}

    def create(self, request: dict[str, Any], program: str) -> dict[str, Any]:
        """Start a tuning job.

        Raises
        ------
        ApiError
            If it asks for what is not supported, or its training jobs would.
        """
        search = _check(request)
        definition = request["TrainingJobDefinition"]
        objective = request["HyperParameterTuningJobConfig"]["HyperParameterTuningJobObjective"]
        static = dict(definition.get("StaticHyperParameters", {}))
        static[_OBJECTIVE] = objective["MetricName"]
        job = self._region.store.add(
            TUNING_JOB,
            request,
            HyperParameterTuningJobStatus="InProgress",
            TrainingJobDefinition={**definition, "StaticHyperParameters": static},
            Strategy=request["HyperParameterTuningJobConfig"]["Strategy"],
            ResourceLimits=request["HyperParameterTuningJobConfig"]["ResourceLimits"],
            **_count([]),
        )
        name = job["HyperParameterTuningJobName"]
        run = _Run(self._region, self._training_jobs, job, search, program)
        try:
            run.begin()
        except ApiError:
            self._region.store.delete(TUNING_JOB, name)
            raise
        self._runs[name] = run
        run.thread.start()
        return {"HyperParameterTuningJobArn": job["HyperParameterTuningJobArn"]}

    def stop(self, name: str) -> None:
        """Stop a tuning job that runs, with its training jobs."""
        with self._region.store.lock:
            job = self._region.store.get(TUNING_JOB, name)
            if job["HyperParameterTuningJobStatus"] not in _RUNNING:
                raise refuse(
                    "The request was rejected because the hyperparameter tuning job is in status "
                    f"{job['HyperParameterTuningJobStatus']}."
                )
            self._region.store.update(job, HyperParameterTuningJobStatus="Stopping")
        self._runs[name].stop()

    def delete(self, name: str) -> None:
        """Forget a tuning job that has ended; its training jobs stay."""
        job = self._region.store.get(TUNING_JOB, name)
        if job["HyperParameterTuningJobStatus"] in _RUNNING:
            raise refuse(f"Hyperparameter tuning job {name} is running; stop it first")
        self._region.store.delete(TUNING_JOB, name)
        self._runs.pop(name, None)

    def training_jobs(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """List the training jobs of one tuning job."""
        job = self._region.store.get(TUNING_JOB, request["HyperParameterTuningJobName"])
        arn = job["HyperParameterTuningJobArn"]
        with self._region.store.lock:
            found = [
                summarize(item, job)
                for item in self._region.store.all(TRAINING_JOB)
                if item.get("TuningJobArn") == arn
            ]
        if request.get("StatusEquals"):
            found = [i for i in found if i["TrainingJobStatus"] == request["StatusEquals"]]
        order = request.get("SortBy", "Name")
        if order == "FinalObjectiveMetricValue":  # without those that have none, as AWS's
            metric = "FinalHyperParameterTuningJobObjectiveMetric"
            found = [item for item in found if metric in item]
            found.sort(key=lambda item: item[metric]["Value"])
        else:
            member = {"Status": "TrainingJobStatus", "CreationTime": "CreationTime"}
            found.sort(key=lambda item: item[member.get(order, "TrainingJobName")])
        if request.get("SortOrder") == "Descending":
            found.reverse()
        return self._region.store.cut("TrainingJobSummaries", found, request)

    def close(self) -> None:
        """Stop all jobs with their training jobs, and wait for their ends."""
        for run in list(self._runs.values()):
            run.stop(at_once=True)
        for run in list(self._runs.values()):
            run.thread.join()


def _check(request: Mapping[str, Any]) -> Search:
    support(
        request,
        "HyperParameterTuningJobName HyperParameterTuningJobConfig TrainingJobDefinition Tags",
    )
    config, path = request["HyperParameterTuningJobConfig"], "HyperParameterTuningJobConfig."
    support(
        config,
        "Strategy HyperParameterTuningJobObjective ResourceLimits ParameterRanges "
        "TrainingJobEarlyStoppingType TuningJobCompletionCriteria RandomSeed",
        path,
    )
    if config.get("TrainingJobEarlyStoppingType") == "Auto":
        raise refuse(
            f"{path}TrainingJobEarlyStoppingType Auto is not supported on this machine; use Off"
        )
    support(
        config.get("TuningJobCompletionCriteria", {}),
        "TargetObjectiveMetricValue",
        f"{path}TuningJobCompletionCriteria.",
    )
    limits = config["ResourceLimits"]
    parallel = limits["MaxParallelTrainingJobs"]
    most = limits.get("MaxNumberOfTrainingJobs", _MOST)
    if parallel > most:
        raise refuse(
            f"{path}ResourceLimits: MaxParallelTrainingJobs is {parallel}, more than "
            f"MaxNumberOfTrainingJobs, {most}"
        )
    definition, path = request.get("TrainingJobDefinition"), "TrainingJobDefinition."
    if not definition or not config.get("HyperParameterTuningJobObjective"):
        raise refuse(
            "TrainingJobDefinition and HyperParameterTuningJobConfig."
            "HyperParameterTuningJobObjective must be given"
        )
    support(
        definition,
        "DefinitionName StaticHyperParameters AlgorithmSpecification RoleArn InputDataConfig "
        "VpcConfig OutputDataConfig ResourceConfig StoppingCondition EnableNetworkIsolation "
        "EnableInterContainerTrafficEncryption EnableManagedSpotTraining CheckpointConfig "
        "RetryStrategy Environment HyperParameterTuningResourceConfig",
        path,
    )
    support(
        definition.get(_RESOURCES, {}),
        "InstanceType InstanceCount VolumeSizeInGB VolumeKmsKeyId",
        f"{path}{_RESOURCES}.",
    )
    wanted = config["HyperParameterTuningJobObjective"]["MetricName"]
    metrics = definition["AlgorithmSpecification"].get("MetricDefinitions", [])
    if wanted not in {item["Name"] for item in metrics}:
        raise refuse(
            f"The objective metric {wanted!r} is not one of {path}AlgorithmSpecification."
            f"MetricDefinitions: {', '.join(item['Name'] for item in metrics) or 'none'}"
        )
    search = make_search(config)
    if twice := search.names & set(definition.get("StaticHyperParameters", {})):
        raise refuse(
            f"hyperparameters cannot be both static and tuned: {', '.join(sorted(twice))}"
        )
    return search


class _Run:
    """One tuning job, from its start to its end."""

    def __init__(
        self,
        region: Region,
        training_jobs: TrainingJobs,
        job: dict[str, Any],
        search: Search,
        program: str,
    ):
        self._region, self._training_jobs, self._job = region, training_jobs, job
        self._search, self._program = search, program
        self._name = job["HyperParameterTuningJobName"]
        self._config = job["HyperParameterTuningJobConfig"]
        self._limits = self._config["ResourceLimits"]
        self._deadline = time.monotonic() + self._limits.get("MaxRuntimeInSeconds", 2592000)
        self._stem = f"{self._name}-{{:03d}}-{uuid.uuid4().hex[:8]}"
        self._jobs: list[dict[str, Any]] = []  # the training jobs' descriptions
        self._pending: dict[str, Mapping[str, str]] = {}  # what they try, by job
        self._stopping = threading.Event()
        self._is_exhausted = self._at_once = False
        self.thread = threading.Thread(target=self._run, name=self._name, daemon=True)

    def stop(self, at_once: bool = False) -> None:
        """Stop the job, without waiting; at once, its programs get a few seconds only."""
        self._at_once = at_once
        self._stopping.set()

    def begin(self) -> None:
        """Start the first training jobs, as many as may run at once."""
        limit = self._limits.get("MaxNumberOfTrainingJobs", _MOST)
        while (
            len(self._pending) < self._limits["MaxParallelTrainingJobs"]
            and len(self._jobs) < limit
            and not self._is_exhausted
        ):
            tried = self._search.ask()
            if tried is None:
                self._is_exhausted = True
                return
            self._start(tried)

    def _start(self, tried: Mapping[str, str]) -> None:
        definition = dict(self._job["TrainingJobDefinition"])
        static = definition.pop("StaticHyperParameters")
        definition.pop("DefinitionName", None)
        if _RESOURCES in definition:
            definition["ResourceConfig"] = definition.pop(_RESOURCES)
        name = self._stem.format(len(self._jobs) + 1)
        self._training_jobs.create(
            {**definition, "TrainingJobName": name, "HyperParameters": {**static, **tried}},
            self._program,
            TuningJobArn=self._job["HyperParameterTuningJobArn"],
            TunedHyperParameters=dict(tried),
        )
        self._jobs.append(self._region.store.get(TRAINING_JOB, name))
        self._pending[name] = tried

    def _run(self) -> None:
        status, changes = "Completed", {}
        try:
            while self._pending and not self._stopping.is_set():
                self._look()
                if self._is_reached() or time.monotonic() > self._deadline:
                    break
                self.begin()
                self._stopping.wait(_PAUSE)
            status = "Stopped" if self._stopping.is_set() else status
        except Exception as error:  # a fault of ours, which must not leave the job InProgress
            logging.getLogger(__name__).exception("tuning job %s failed", self._name)
            status, changes = "Failed", {"FailureReason": f"InternalServerError: {error!r}"[:1024]}
        for name in self._pending:
            with contextlib.suppress(ApiError):  # it has ended
                self._training_jobs.stop(name, self._at_once)
        for name in list(self._pending):
            self._training_jobs.wait(name)
        self._look()
        if status == "Completed" and "BestTrainingJob" not in self._job:
            reason = self._jobs[0].get("FailureReason", "its log has no line with the metric")
            status = "Failed"
            changes = {
                "FailureReason": "No training job has ended with the objective metric; of the "
                f"first, {self._jobs[0]['TrainingJobName']}: {reason}"[:1024]
            }
        self._region.store.update(
            self._job,
            HyperParameterTuningJobStatus=status,
            HyperParameterTuningEndTime=now(),
            **changes,
        )

    def _look(self) -> None:
        """See which training jobs have ended, and tell."""
        with self._region.store.lock:
            for job in self._jobs:
                name = job["TrainingJobName"]
                if name in self._pending and job["TrainingJobStatus"] not in _RUNNING:
                    self._search.tell(self._pending.pop(name), objective(job, self._job))
            summaries = [summarize(job, self._job) for job in self._jobs]
            changes = _count(summaries)
            if best := find_best(summaries):
                changes["BestTrainingJob"] = best
            self._region.store.update(self._job, **changes)

    def _is_reached(self) -> bool:
        target = self._config.get("TuningJobCompletionCriteria", {}).get(
            "TargetObjectiveMetricValue"
        )
        best = self._job.get("BestTrainingJob")
        if target is None or best is None:
            return False
        metric = best["FinalHyperParameterTuningJobObjectiveMetric"]
        reached = metric["Value"] >= target
        return reached if metric["Type"] == "Maximize" else metric["Value"] <= target


def objective(job: Mapping[str, Any], tuning: Mapping[str, Any]) -> float | None:
    """Return the objective that a training job has ended with, if it has completed."""
    wanted = tuning["HyperParameterTuningJobConfig"]["HyperParameterTuningJobObjective"]
    if job["TrainingJobStatus"] == "Completed":
        for item in job.get("FinalMetricDataList", []):
            if item["MetricName"] == wanted["MetricName"]:
                return item["Value"]
    return None


def summarize(job: Mapping[str, Any], tuning: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a tuning job tells of a training job."""
    summary = select(SERVICE.shape_for("HyperParameterTrainingJobSummary"), job)
    if name := tuning["TrainingJobDefinition"].get("DefinitionName"):
        summary["TrainingJobDefinitionName"] = name
    value = objective(job, tuning)
    if value is not None:
        wanted = tuning["HyperParameterTuningJobConfig"]["HyperParameterTuningJobObjective"]
        summary["FinalHyperParameterTuningJobObjectiveMetric"] = {**wanted, "Value": value}
    running = job["TrainingJobStatus"] in _RUNNING
    failed = "Pending" if running else "Failed"
    return {**summary, "ObjectiveStatus": failed if value is None else "Succeeded"}


def find_best(summaries: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the training job with the best objective, the first of equals, if one has any."""
    best = None
    for summary in summaries:
        metric = summary.get("FinalHyperParameterTuningJobObjectiveMetric")
        if metric is None:
            continue
        value = metric["Value"] if metric["Type"] == "Maximize" else -metric["Value"]
        if best is None or value > best[0]:
            best = value, summary
    return best[1] if best else None


def _count(summaries: list[dict[str, Any]]) -> dict[str, Any]:
    statuses = [summary["TrainingJobStatus"] for summary in summaries]
    objectives = [summary["ObjectiveStatus"] for summary in summaries]
    return {
        "TrainingJobStatusCounters": {
            "Completed": statuses.count("Completed"),
            "InProgress": sum(status in _RUNNING for status in statuses),
            "RetryableError": 0,
            "NonRetryableError": statuses.count("Failed"),
            "Stopped": statuses.count("Stopped"),
        },
        "ObjectiveStatusCounters": {
            status: objectives.count(status) for status in ("Succeeded", "Pending", "Failed")
        },
    }
