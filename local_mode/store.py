"""What SageMaker remembers: resources by kind and name, described, listed, tagged and deleted."""

import base64
import dataclasses
import datetime
import re
import threading
from collections.abc import Callable, Mapping
from typing import Any

from local_mode.wire import SERVICE, ApiError, refuse, select

ACCOUNT = "123456789012"


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of resource, in the words of SageMaker's API.

    Parameters
    ----------
    name : str
        As in ``Describe<name>``; ``<name>Name`` and ``<name>Arn`` identify a resource.
    arn : str
        The part of the ARN that says the kind.
    noun : str
        As messages name it.
    summaries : str
        The member of the answer to ``List<name>s`` that has the resources.
    status : str
        The member with the resource's status, if it has one.
    """

    name: str
    arn: str
    noun: str
    summaries: str
    status: str = ""

    @property
    def is_job(self) -> bool:
        """Whether resources of this kind are jobs."""
        return self.name.endswith("Job")


TRAINING_JOB = Kind(
    "TrainingJob", "training-job", "training job", "TrainingJobSummaries", "TrainingJobStatus"
)
TRANSFORM_JOB = Kind(
    "TransformJob", "transform-job", "transform job", "TransformJobSummaries", "TransformJobStatus"
)
TUNING_JOB = Kind(
    "HyperParameterTuningJob",
    "hyper-parameter-tuning-job",
    "hyperparameter tuning job",
    "HyperParameterTuningJobSummaries",
    "HyperParameterTuningJobStatus",
)
MODEL = Kind("Model", "model", "model", "Models")
ENDPOINT_CONFIG = Kind(
    "EndpointConfig", "endpoint-config", "endpoint configuration", "EndpointConfigs"
)
ENDPOINT = Kind("Endpoint", "endpoint", "endpoint", "Endpoints", "EndpointStatus")
KINDS = (TRAINING_JOB, TRANSFORM_JOB, TUNING_JOB, MODEL, ENDPOINT_CONFIG, ENDPOINT)


def now() -> datetime.datetime:
    """Return the time, to the millisecond, as SageMaker has it."""
    time = datetime.datetime.now(datetime.timezone.utc)
    return time.replace(microsecond=time.microsecond // 1000 * 1000)


class Store:
    """The resources of one region.

    Parameters
    ----------
    region : str

    Attributes
    ----------
    lock : threading.RLock
        Held while a resource is read or changed.
    """

    def __init__(self, region: str):
        self.region = region
        self.lock = threading.RLock()
        self._tables: dict[Kind, dict[str, dict[str, Any]]] = {kind: {} for kind in KINDS}

    def arn(self, kind: Kind, name: str) -> str:
        """Return the ARN of a resource."""
        return f"arn:aws:sagemaker:{self.region}:{ACCOUNT}:{kind.arn}/{name}"

    def add(self, kind: Kind, request: Mapping[str, Any], **more: Any) -> dict[str, Any]:
        """Add a resource and return its description, which its owner may change.

        Raises
        ------
        ApiError
            If there is one of that name.
        """
        name = request[f"{kind.name}Name"]
        arn = self.arn(kind, name)
        with self.lock:
            if name in self._tables[kind]:
                if kind.is_job:
                    raise ApiError(
                        "ResourceInUse",
                        "Job name must be unique within an AWS account and region, and a "
                        f"{kind.noun} with this name already exists ({arn})",
                    )
                raise refuse(f'Cannot create already existing {kind.noun} "{arn}".')
            time = now()
            times = {"CreationTime": time, "LastModifiedTime": time}
            self._tables[kind][name] = {**request, f"{kind.name}Arn": arn, **times, **more}
            return self._tables[kind][name]

    def get(self, kind: Kind, name: str) -> dict[str, Any]:
        """Return the description of a resource.

        Raises
        ------
        ApiError
            If there is none of that name.
        """
        with self.lock:
            if name not in self._tables[kind]:
                if kind.is_job:
                    raise refuse("Requested resource not found.")
                raise refuse(f'Could not find {kind.noun} "{self.arn(kind, name)}".')
            return self._tables[kind][name]

    def update(self, description: dict[str, Any], **changes: Any) -> None:
        """Change members of a resource."""
        with self.lock:
            description.update(changes, LastModifiedTime=now())

    def delete(self, kind: Kind, name: str) -> None:
        """Forget a resource."""
        with self.lock:
            self.get(kind, name)
            del self._tables[kind][name]

    def all(self, kind: Kind) -> list[dict[str, Any]]:
        """Return the descriptions of all resources of a kind, the oldest first."""
        with self.lock:
            return list(self._tables[kind].values())

    # ---------------------------------------------------------------- lists

    def page(
        self,
        kind: Kind,
        request: Mapping[str, Any],
        keep: Callable[[dict], bool] = lambda _: True,
    ) -> dict[str, Any]:
        """Answer ``List<kind>s``: filtered, sorted, a page at a time."""
        name, status = f"{kind.name}Name", kind.status
        with self.lock:
            found = [
                dict(item)
                for item in self._tables[kind].values()
                if keep(item) and _passes(item, request, name, status)
            ]
        key = {"Name": name, "Status": status or name}.get(request.get("SortBy", ""))
        found.sort(key=lambda item: item[key or "CreationTime"])
        usual = "Ascending" if kind in (TRAINING_JOB, TUNING_JOB) else "Descending"
        if request.get("SortOrder", usual) == "Descending":
            found.reverse()
        operation = SERVICE.operation_model(f"List{kind.name}s")
        shape = operation.output_shape.members[kind.summaries]
        answer = self.cut(kind.summaries, found, request)
        return {**answer, kind.summaries: select(shape, answer[kind.summaries])}

    def cut(
        self, member: str, found: list[dict[str, Any]], request: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return the page of a list that a request asks for, and the token of the next."""
        start = _position(request.get("NextToken"))
        end = start + request.get("MaxResults", 10)
        answer: dict[str, Any] = {member: found[start:end]}
        if end < len(found):
            answer["NextToken"] = base64.b64encode(b"%d" % end).decode()
        return answer

    # ---------------------------------------------------------------- tags

    def find(self, arn: str) -> dict[str, Any] | None:
        """Return the description of the resource with an ARN, if it is one of these kinds."""
        resource = arn.partition(f":{ACCOUNT}:")[2]
        for kind in KINDS:
            if resource.startswith(f"{kind.arn}/"):
                return self.get(kind, resource.partition("/")[2])
        return None

    def tag(self, description: dict[str, Any], tags: list[dict[str, str]]) -> list[dict[str, str]]:
        """Add tags to a resource, or change their values; return all."""
        with self.lock:
            merged = {tag["Key"]: tag for tag in [*description.get("Tags", []), *tags]}
            description["Tags"] = list(merged.values())
            return description["Tags"]

    def untag(self, description: dict[str, Any], keys: list[str]) -> None:
        """Remove tags from a resource."""
        with self.lock:
            kept = [tag for tag in description.get("Tags", []) if tag["Key"] not in keys]
            description["Tags"] = kept


def _passes(item: dict, request: Mapping[str, Any], name: str, status: str) -> bool:
    if request.get("NameContains", "").lower() not in item[name].lower():
        return False
    if "StatusEquals" in request and item.get(status) != request["StatusEquals"]:
        return False
    for member in ("CreationTime", "LastModifiedTime"):
        time = item[member].timestamp()
        after, before = request.get(f"{member}After"), request.get(f"{member}Before")
        if (after is not None and time <= _seconds(after)) or (
            before is not None and time >= _seconds(before)
        ):
            return False
    return True


def _seconds(time: float | str) -> float:
    if isinstance(time, str):
        return datetime.datetime.fromisoformat(re.sub("Z$", "+00:00", time)).timestamp()
    return time


def _position(token: str | None) -> int:
    if token is None:
        return 0
    try:
        return int(base64.b64decode(token))
    except ValueError:
        raise refuse(f"NextToken {token!r} is not one that a list has given") from None
