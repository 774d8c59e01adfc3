"""SageMaker's protocol, by botocore's own model: requests read and checked, answers written."""

import datetime
import functools
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from botocore.loaders import Loader
from botocore.model import OperationModel, ServiceModel, Shape

CONTENT_TYPE = "application/x-amz-json-1.1"
SERVICE = ServiceModel(Loader().load_service_model("sagemaker", "service-2"), "sagemaker")

# What this machine has beside SageMaker's own values: folders instead of S3, and no instances.
_LOCAL_URI = re.compile(r"file://.*|/.*", re.DOTALL)
_LOCAL_INSTANCE = "local"


class ApiError(Exception):
    """An error that the client gets, as AWS would give it.

    Parameters
    ----------
    code : str
        The error's name, such as ValidationException.
    message : str
    status : int
        HTTP status.
    members : Any
        Further members of the answer.
    """

    def __init__(self, code: str, message: str, status: int = 400, **members: Any):
        super().__init__(message)
        self.code, self.message, self.status, self.members = code, message, status, members


def refuse(message: str) -> ApiError:
    """Return the error for a request that is wrong, or that asks for what is not supported."""
    return ApiError("ValidationException", message)


def read(operation: str, body: bytes) -> dict[str, Any]:
    """Return an operation's request.

    Raises
    ------
    ApiError
        With every member that is missing, unknown, or not as SageMaker's model has it.
    """
    shape = SERVICE.operation_model(operation).input_shape
    try:
        request = json.loads(body or b"{}")
    except ValueError as error:
        raise ApiError("SerializationException", f"the request is not JSON: {error}") from None
    found = list(_check(shape, request, ""))
    if found:
        plural = "s" * (len(found) > 1)
        raise refuse(f"{len(found)} validation error{plural} detected: {'; '.join(found)}")
    return request


def write(operation: str, answer: Mapping[str, Any] | None) -> bytes:
    """Return an operation's answer, without what SageMaker's model does not have."""
    shape = SERVICE.operation_model(operation).output_shape
    return json.dumps(select(shape, answer or {}) if shape else {}).encode()


def select(shape: Shape, value: Any) -> Any:
    """Return the part of a value that a shape has, with times in seconds since 1970."""
    if shape.type_name == "structure":
        return {
            name: select(member, value[name])
            for name, member in shape.members.items()
            if value.get(name) is not None
        }
    if shape.type_name == "list":
        return [select(shape.member, item) for item in value]
    if shape.type_name == "map":
        return {key: select(shape.value, item) for key, item in value.items()}
    return value.timestamp() if isinstance(value, datetime.datetime) else value


def operation_of(target: str) -> OperationModel | None:
    """Return the operation that a request's X-Amz-Target names, if there is one."""
    name = target.removeprefix(f"{SERVICE.metadata['targetPrefix']}.")
    return SERVICE.operation_model(name) if name in SERVICE.operation_names else None


# ---------------------------------------------------------------- constraints

_TYPES: dict[str, type | tuple[type, ...]] = {
    "structure": dict,
    "map": dict,
    "list": list,
    "string": str,
    "boolean": bool,
    "integer": int,
    "long": int,
    "float": (int, float),
    "double": (int, float),
    "timestamp": (int, float, str),
}


def _check(shape: Shape, value: Any, path: str) -> Iterator[str]:
    expected = _TYPES.get(shape.type_name, object)
    if not isinstance(value, expected) or (isinstance(value, bool) and expected is int):
        yield f"Value at '{path}' must be a {shape.type_name}, got {value!r}"
    elif shape.type_name == "structure":
        yield from _check_structure(shape, value, path)
    elif shape.type_name == "list":
        yield from _check_size(shape, value, path)
        for number, item in enumerate(value, 1):
            yield from _check(shape.member, item, f"{path}.{number}.member")
    elif shape.type_name == "map":
        yield from _check_size(shape, value, path)
        for key, item in value.items():
            yield from _check(shape.key, key, path)
            yield from _check(shape.value, item, f"{path}.{key}.member")
    elif shape.type_name == "string":
        yield from _check_string(shape, value, path)
    elif shape.type_name in ("integer", "long", "float", "double"):
        low, high = shape.metadata.get("min"), shape.metadata.get("max")
        if low is not None and value < low:
            yield _fail(value, path, f"have value greater than or equal to {low}")
        if high is not None and value > high:
            yield _fail(value, path, f"have value less than or equal to {high}")


def _check_structure(shape: Shape, value: dict, path: str) -> Iterator[str]:
    for name in shape.required_members:
        if value.get(name) is None:
            yield _fail(None, _join(path, name), "not be null")
    for name, item in value.items():
        if name not in shape.members:
            yield f"Unknown parameter '{_join(path, name)}'"
        elif item is not None:
            yield from _check(shape.members[name], item, _join(path, name))


def _check_string(shape: Shape, value: str, path: str) -> Iterator[str]:
    pattern = shape.metadata.get("pattern", "")
    if "s3)" in pattern and _LOCAL_URI.fullmatch(value):
        return
    yield from _check_size(shape, value, path)
    if shape.enum and value not in shape.enum:
        if not (shape.name.endswith("InstanceType") and value == _LOCAL_INSTANCE):
            yield _fail(value, path, f"satisfy enum value set: [{', '.join(shape.enum)}]")
    elif not _matches(pattern, value):
        yield _fail(value, path, f"satisfy regular expression pattern: {pattern}")


def _check_size(shape: Shape, value: Any, path: str) -> Iterator[str]:
    low, high = shape.metadata.get("min", 0), shape.metadata.get("max")
    if len(value) < low:
        yield _fail(value, path, f"have length greater than or equal to {low}")
    if high is not None and len(value) > high:
        yield _fail(value, path, f"have length less than or equal to {high}")


def _matches(pattern: str, value: str) -> bool:
    compiled = _compile(pattern)
    return compiled is None or compiled.fullmatch(value) is not None


@functools.cache
def _compile(pattern: str) -> re.Pattern | None:
    try:
        return re.compile(pattern, re.DOTALL) if pattern else None
    except re.error:  # Java's classes, as in [\p{L}], which Python lacks
        return None


def _fail(value: Any, path: str, constraint: str) -> str:
    shown = "null" if value is None else f"'{value}'"
    return f"Value {shown} at '{path}' failed to satisfy constraint: Member must {constraint}"


def _join(path: str, name: str) -> str:
    return f"{path}.{name[:1].lower()}{name[1:]}" if path else f"{name[:1].lower()}{name[1:]}"


def support(value: Mapping[str, Any], names: str, path: str = "") -> None:
    """Check that a structure asks only for what this machine can do.

    Parameters
    ----------
    value : mapping
    names : str
        Members that are supported, by spaces.
    path : str, optional
        Where the structure lies in the request.

    Raises
    ------
    ApiError
        If it has another member, unless that switches something off.
    """
    for name, item in value.items():
        if name not in names.split() and item not in (None, False, [], {}, "", "None", "Disabled"):
            raise refuse(f"{path}{name} is not supported on this machine; leave it out")


def write_error(error: ApiError) -> bytes:
    """Return the answer of an operation that failed."""
    return json.dumps({"__type": error.code, "message": error.message}).encode()
