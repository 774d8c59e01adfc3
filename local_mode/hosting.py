"""Models, endpoint configurations and endpoints: made, updated, deleted."""

import contextlib
import threading
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

from botocore.exceptions import ClientError

from local_mode.fleet import Fleet, Variant
from local_mode.machine import Machine, Region
from local_mode.serving import START, ModelServer, ServeFailed
from local_mode.store import ENDPOINT, ENDPOINT_CONFIG, MODEL, now
from local_mode.wire import ApiError, refuse, support

LOG_GROUP = "/aws/sagemaker/Endpoints"


def check_model(request: dict[str, Any], region: Region) -> dict[str, Any]:
    """Check CreateModel, and return its container, which may come from a model package.

    Raises
    ------
    ApiError
        If it asks for what is not supported.
    """
    support(
        request,
        "ModelName PrimaryContainer Containers InferenceExecutionConfig ExecutionRoleArn Tags "
        "VpcConfig EnableNetworkIsolation",
    )
    containers = request.get("Containers") or []
    if bool(containers) == bool(request.get("PrimaryContainer")):
        raise refuse("Name either PrimaryContainer or Containers")
    if len(containers) > 1:
        raise refuse("Containers is not supported on this machine with more than one; send one")
    definition = request.get("PrimaryContainer") or containers[0]
    support(
        definition,
        "ContainerHostname Image ImageConfig Mode ModelDataUrl ModelDataSource Environment "
        "ModelPackageName",
        "PrimaryContainer.",
    )
    if definition.get("ModelPackageName"):
        definition = _unpack(definition, region)
    if definition.get("Mode", "SingleModel") != "SingleModel":
        raise refuse("PrimaryContainer.Mode MultiModel is not supported on this machine")
    if definition.get("ModelDataUrl") and definition.get("ModelDataSource"):
        raise refuse("Name either ModelDataUrl or ModelDataSource")
    if source := definition.get("ModelDataSource"):
        path = "PrimaryContainer.ModelDataSource."
        support(source, "S3DataSource", path)
        support(
            source["S3DataSource"],
            "S3Uri S3DataType CompressionType",
            f"{path}S3DataSource.",
        )
    return definition


def _unpack(definition: dict[str, Any], region: Region) -> dict[str, Any]:
    """Return the container of the model package that a container names, with its environment."""
    name, path = definition["ModelPackageName"], "PrimaryContainer.ModelPackageName"
    for other in ("Image", "ModelDataUrl", "ModelDataSource"):
        if definition.get(other):
            raise refuse(f"Name either {path} or {other}")
    try:
        package = region.registry.describe_model_package(ModelPackageName=name)
    except ClientError as error:
        raise refuse(f"{path}: {error.response['Error']['Message']}") from None
    status = package.get("ModelApprovalStatus")
    if "ModelPackageGroupName" in package and status != "Approved":
        raise refuse(
            f"{path}: the model package {package['ModelPackageArn']} is {status}; approve it first"
        )
    containers = package.get("InferenceSpecification", {}).get("Containers", [])
    if len(containers) != 1:
        raise refuse(
            f"{path}: a model package of {len(containers)} containers is not supported on this "
            "machine; use one of one container"
        )
    environment = {**containers[0].get("Environment", {}), **definition.get("Environment", {})}
    return {**containers[0], "Environment": environment}


def check_config(request: Mapping[str, Any], region: Region) -> None:
    """Check CreateEndpointConfig.

    Raises
    ------
    ApiError
        If it asks for what is not supported, or for a model that does not exist.
    """
    support(
        request,
        "EndpointConfigName ProductionVariants Tags KmsKeyId ExecutionRoleArn VpcConfig "
        "EnableNetworkIsolation",
    )
    names = [variant["VariantName"] for variant in request["ProductionVariants"]]
    if len(set(names)) < len(names):
        raise refuse(f"VariantName must be unique, got {', '.join(names)}")
    for variant in request["ProductionVariants"]:
        path = f"ProductionVariants.{variant['VariantName']}."
        support(
            variant,
            "VariantName ModelName InitialInstanceCount InstanceType InitialVariantWeight "
            "VolumeSizeInGB ModelDataDownloadTimeoutInSeconds "
            "ContainerStartupHealthCheckTimeoutInSeconds EnableSSMAccess RoutingConfig "
            "InferenceAmiVersion",
            path,
        )
        if not variant.get("ModelName"):
            raise refuse(f"{path}ModelName must name a model")
        region.store.get(MODEL, variant["ModelName"])


class Endpoints:
    """The endpoints of one region.

    Parameters
    ----------
    machine : Machine
    region : Region
    """

    def __init__(self, machine: Machine, region: Region):
        self._machine, self._region, self._store = machine, region, region.store
        self._fleets: dict[str, Fleet] = {}
        self._threads: list[threading.Thread] = []
        self._closed = threading.Event()

    def create(self, request: dict[str, Any]) -> dict[str, Any]:
        """Start an endpoint."""
        support(request, "EndpointName EndpointConfigName Tags DeploymentConfig")
        plan = self._plan(request["EndpointConfigName"])
        endpoint = self._store.add(ENDPOINT, request, EndpointStatus="Creating")
        self._start(self._bring_up, endpoint, plan)
        return {"EndpointArn": endpoint["EndpointArn"]}

    def update(self, request: dict[str, Any]) -> dict[str, Any]:
        """Replace what serves an endpoint; until the new is ready, the old one answers."""
        support(
            request,
            "EndpointName EndpointConfigName RetainAllVariantProperties DeploymentConfig "
            "RetainDeploymentConfig",
        )
        with self._store.lock:
            endpoint = self._idle(request["EndpointName"])
            plan = self._plan(request["EndpointConfigName"])
            if request.get("RetainAllVariantProperties"):
                fleet = self._fleets[request["EndpointName"]]
                weights = {variant.name: variant.weight for variant in fleet.variants}
                plan = [
                    ({**v, "InitialVariantWeight": weights.get(v["VariantName"], 1.0)}, model)
                    for v, model in plan
                ]
            self._store.update(endpoint, EndpointStatus="Updating", FailureReason=None)
        self._start(self._replace, endpoint, plan, request["EndpointConfigName"])
        return {"EndpointArn": endpoint["EndpointArn"]}

    def update_weights(self, request: dict[str, Any]) -> dict[str, Any]:
        """Change the weights of an endpoint's variants."""
        with self._store.lock:
            endpoint = self._idle(request["EndpointName"])
            fleet = self._fleets[request["EndpointName"]]
            for desired in request["DesiredWeightsAndCapacities"]:
                support(
                    desired,
                    "VariantName DesiredWeight DesiredInstanceCount",
                    "DesiredWeightsAndCapacities.",
                )
                variant = fleet.choose(desired["VariantName"])
                variant.weight = desired.get("DesiredWeight", variant.weight)
            self._describe_variants(endpoint, fleet)
        return {"EndpointArn": endpoint["EndpointArn"]}

    def delete(self, name: str) -> None:
        """Stop an endpoint, and forget it."""
        with self._store.lock:
            endpoint = self._idle(name, "InService", "Failed")
            self._store.update(endpoint, EndpointStatus="Deleting")
            fleet = self._fleets.pop(name, Fleet([]))
        thread = self._start(self._take_down, name, fleet)
        thread.join(5)  # usually enough, so that the port is free when the caller goes on

    @contextlib.contextmanager
    def fleet(self, name: str) -> Iterator[Fleet]:
        """Return what serves an endpoint, which stays as long as the context is open.

        Raises
        ------
        ApiError
            If there is no such endpoint, or it is not in service.
        """
        with contextlib.ExitStack() as flight:
            with self._store.lock:
                try:
                    endpoint = self._store.get(ENDPOINT, name)
                except ApiError:
                    account = "account 123456789012"
                    raise ApiError(
                        "ValidationError", f"Endpoint {name} of {account} not found."
                    ) from None
                if name not in self._fleets:
                    raise ApiError(
                        "ValidationError",
                        f"Endpoint {name} is not in service, it is {endpoint['EndpointStatus']}.",
                    )
                fleet = self._fleets[name]
                flight.enter_context(fleet.flight())
            yield fleet

    def close(self) -> None:
        """Remove all endpoints' containers."""
        self._closed.set()
        for thread in self._threads:
            thread.join()
        with self._store.lock:
            fleets, self._fleets = list(self._fleets.values()), {}
        for fleet in fleets:
            for variant in fleet.variants:
                variant.server.stop()
        for fleet in fleets:
            fleet.remove()

    # ---------------------------------------------------------------- in threads

    def _bring_up(self, endpoint: dict[str, Any], plan: list) -> None:
        name = endpoint["EndpointName"]
        try:
            fleet = self._make_fleet(name, plan)
        except ServeFailed as error:
            reason = str(error)[:1024]
            self._store.update(endpoint, EndpointStatus="Failed", FailureReason=reason)
            return
        with self._store.lock:
            self._fleets[name] = fleet
            self._describe_variants(endpoint, fleet)
            self._store.update(endpoint, EndpointStatus="InService")

    def _replace(self, endpoint: dict[str, Any], plan: list, config: str) -> None:
        name = endpoint["EndpointName"]
        try:
            fleet = self._make_fleet(name, plan)
        except ServeFailed as error:
            reason = f"The update failed, and the endpoint serves as before: {error}"[:1024]
            self._store.update(endpoint, EndpointStatus="InService", FailureReason=reason)
            return
        with self._store.lock:
            old, self._fleets[name] = self._fleets[name], fleet
            self._describe_variants(endpoint, fleet)
            self._store.update(endpoint, EndpointConfigName=config, EndpointStatus="InService")
        old.retire()

    def _take_down(self, name: str, fleet: Fleet) -> None:
        fleet.remove()
        self._store.delete(ENDPOINT, name)

    def _make_fleet(self, name: str, plan: list) -> Fleet:
        servers: list[ModelServer] = []
        try:
            for variant, model in plan:
                stream = f"{variant['VariantName']}/i-{uuid.uuid4().hex[:17]}"
                log = (f"{LOG_GROUP}/{name}", stream)
                server = ModelServer(self._machine, self._region, name, log, model)
                servers.append(server)
                timeout = variant.get("ContainerStartupHealthCheckTimeoutInSeconds", START)
                try:
                    server.start(timeout, self._closed.is_set)
                except ServeFailed as error:
                    raise ServeFailed(
                        f"The primary container for production variant {variant['VariantName']} "
                        f"did not pass the ping health check: {error}"
                    ) from None
            return Fleet([Variant(v, s) for (v, _), s in zip(plan, servers, strict=True)])
        except BaseException as error:
            for server in servers:
                server.remove()
            if isinstance(error, ServeFailed):
                raise
            raise ServeFailed(f"InternalServerError: {error!r}") from error

    # ---------------------------------------------------------------- the rest

    def _plan(self, config: str) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        """Return the variants of a configuration with their models, as they are now."""
        with self._store.lock:
            variants = self._store.get(ENDPOINT_CONFIG, config)["ProductionVariants"]
            return [(dict(v), dict(self._store.get(MODEL, v["ModelName"]))) for v in variants]

    def _idle(self, name: str, *statuses: str) -> dict[str, Any]:
        endpoint = self._store.get(ENDPOINT, name)
        if endpoint["EndpointStatus"] not in (statuses or ("InService",)):
            raise refuse(
                f'Cannot update endpoint "{endpoint["EndpointArn"]}" in status '
                f"{endpoint['EndpointStatus']}."
            )
        return endpoint

    def _describe_variants(self, endpoint: dict[str, Any], fleet: Fleet) -> None:
        summaries = []
        for variant in fleet.variants:
            image = variant.server.image
            count = variant.config.get("InitialInstanceCount", 1)
            deployed = {"SpecifiedImage": image, "ResolvedImage": image, "ResolutionTime": now()}
            summaries.append(
                {
                    "VariantName": variant.name,
                    "DeployedImages": [deployed],
                    "CurrentWeight": variant.weight,
                    "DesiredWeight": variant.weight,
                    "CurrentInstanceCount": count,
                    "DesiredInstanceCount": count,
                }
            )
        self._store.update(endpoint, ProductionVariants=summaries)

    def _start(self, target, *arguments: Any) -> threading.Thread:
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()
        return thread
