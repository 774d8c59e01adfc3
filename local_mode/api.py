"""SageMaker's operations: those that this machine does, and those of which it stores the words."""

from collections.abc import Callable, Mapping
from typing import Any

from local_mode.hosting import Endpoints, check_config, check_model
from local_mode.machine import Machine, Region
from local_mode.store import (
    ENDPOINT,
    ENDPOINT_CONFIG,
    MODEL,
    TRAINING_JOB,
    TRANSFORM_JOB,
    TUNING_JOB,
    Kind,
)
from local_mode.training import TrainingJobs
from local_mode.transform import TransformJobs
from local_mode.tuning import TuningJobs

# What moto stores and gives back, and what asks for no work on AWS either.
STORED = frozenset(
    f"{verb}{noun}"
    for noun, verbs in {
        "Experiment": "Create Describe Delete",
        "Experiments": "List",
        "Trial": "Create Describe Delete",
        "Trials": "List",
        "TrialComponent": "Create Describe Update Delete Associate Disassociate",
        "TrialComponents": "List",
        "ModelPackageGroup": "Create Describe",
        "ModelPackageGroups": "List",
        "ModelPackage": "Create Describe Update",
        "ModelPackages": "List",
        "ModelCard": "Create Describe Update Delete",
        "ModelCards": "List",
        "ModelCardVersions": "List",
        "Pipeline": "Create Describe Update Delete",
        "Pipelines": "List",
    }.items()
    for verb in verbs.split()
)
TAGS = frozenset({"AddTags", "ListTags", "DeleteTags"})

Handler = Callable[[dict[str, Any], str], Mapping[str, Any] | None]


class Api:
    """SageMaker in one region.

    Parameters
    ----------
    machine : Machine
    region : Region

    Attributes
    ----------
    operations : dict of str to callable
        By operation's name: takes a request and the program that images were "built" with, and
        returns the answer.
    """

    def __init__(self, machine: Machine, region: Region):
        self.region, self._store = region, region.store
        self.training_jobs = TrainingJobs(machine, region)
        self.tuning_jobs = TuningJobs(region, self.training_jobs)
        self.transform_jobs = TransformJobs(machine, region)
        self.endpoints = Endpoints(machine, region)
        self.operations: dict[str, Handler] = {
            "CreateTrainingJob": self.training_jobs.create,
            "StopTrainingJob": lambda r, _: self.training_jobs.stop(r["TrainingJobName"]),
            "DeleteTrainingJob": lambda r, _: self.training_jobs.delete(r["TrainingJobName"]),
            "CreateTransformJob": lambda r, _: self.transform_jobs.create(r),
            "StopTransformJob": lambda r, _: self.transform_jobs.stop(r["TransformJobName"]),
            "CreateHyperParameterTuningJob": self.tuning_jobs.create,
            "StopHyperParameterTuningJob": lambda r, _: self.tuning_jobs.stop(
                r["HyperParameterTuningJobName"]
            ),
            "DeleteHyperParameterTuningJob": lambda r, _: self.tuning_jobs.delete(
                r["HyperParameterTuningJobName"]
            ),
            "ListTrainingJobsForHyperParameterTuningJob": lambda r, _: (
                self.tuning_jobs.training_jobs(r)
            ),
            "CreateModel": self._create_model,
            "CreateEndpointConfig": self._create_endpoint_config,
            "CreateEndpoint": lambda r, _: self.endpoints.create(r),
            "UpdateEndpoint": lambda r, _: self.endpoints.update(r),
            "UpdateEndpointWeightsAndCapacities": lambda r, _: self.endpoints.update_weights(r),
            "DeleteEndpoint": lambda r, _: self.endpoints.delete(r["EndpointName"]),
        }
        for kind in (TRAINING_JOB, TUNING_JOB, TRANSFORM_JOB, MODEL, ENDPOINT_CONFIG, ENDPOINT):
            self._add_reading(kind)
        for kind in (MODEL, ENDPOINT_CONFIG):
            self._add_deleting(kind)

    def _add_reading(self, kind: Kind) -> None:
        def describe(request: dict[str, Any], _: str) -> dict[str, Any]:
            with self._store.lock:
                return dict(self._store.get(kind, request[f"{kind.name}Name"]))

        def page(request: dict[str, Any], _: str) -> dict[str, Any]:
            return self._store.page(kind, request)

        self.operations[f"Describe{kind.name}"] = describe
        self.operations[f"List{kind.name}s"] = page

    def _add_deleting(self, kind: Kind) -> None:
        def delete(request: dict[str, Any], _: str) -> None:
            self._store.delete(kind, request[f"{kind.name}Name"])

        self.operations[f"Delete{kind.name}"] = delete

    def _create_model(self, request: dict[str, Any], program: str) -> dict[str, Any]:
        served = check_model(request, self.region)
        more = {"EnableNetworkIsolation": request.get("EnableNetworkIsolation", False)}
        return self._store.add(MODEL, request, Program=program, Served=served, **more)

    def _create_endpoint_config(self, request: dict[str, Any], _: str) -> dict[str, Any]:
        check_config(request, self.region)
        return self._store.add(ENDPOINT_CONFIG, request)

    def close(self) -> None:
        """Stop everything that runs."""
        self.tuning_jobs.close()
        self.training_jobs.close()
        self.transform_jobs.close()
        self.endpoints.close()

    # ---------------------------------------------------------------- tags

    def tag(self, operation: str, request: Mapping[str, Any]) -> dict[str, Any] | None:
        """Answer AddTags, ListTags or DeleteTags; None if the resource is stored elsewhere."""
        description = self._store.find(request["ResourceArn"])
        if description is None:
            return None
        if operation == "AddTags":
            return {"Tags": self._store.tag(description, request["Tags"])}
        if operation == "DeleteTags":
            self._store.untag(description, request["TagKeys"])
            return {}
        return {"Tags": description.get("Tags", [])}
