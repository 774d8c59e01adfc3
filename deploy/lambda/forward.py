"""A function in front of a SageMaker endpoint: an HTTP event in, InvokeEndpoint, an answer out."""

import json
import logging
import os
from collections.abc import Mapping
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, ConnectTimeoutError, ReadTimeoutError

import events
from events import CUSTOM_ATTRIBUTES, Answer

logger = logging.getLogger("forward")

# API Gateway waits for 30 s, so there is no time for a second attempt.
PATIENCE = Config(connect_timeout=3, read_timeout=25, retries={"total_max_attempts": 1})

_BUSY = (503, "the endpoint is not ready for more; try again in a moment")
_FAILED = (502, "the endpoint failed; the function's log has the reason")
_SLOW = (504, "the endpoint did not answer in time; send fewer rows at a time")
# What SageMaker itself refuses, by its code. ModelNotReadyException is a model being loaded.
_REFUSALS = {
    "ThrottlingException": (429, "too many requests; try again in a moment"),
    "ServiceUnavailable": _BUSY,
    "ModelNotReadyException": _BUSY,
}


class Forwarder:
    """Lambda handler that passes requests on to one endpoint.

    Body, Content-Type, Accept and custom attributes go to the endpoint as they came, and its own
    attributes come back. Its errors of the 400s come back as they are; any other failure is told
    by its status and logged with its reason.

    Parameters
    ----------
    endpoint_name : str
    cors : Cors
    """

    def __init__(self, endpoint_name: str, cors: events.Cors):
        self._endpoint_name, self._cors = endpoint_name, cors
        self._runtime = boto3.client("sagemaker-runtime", config=PATIENCE)

    def __call__(self, event: Mapping[str, Any], context: object) -> dict[str, Any]:
        """Answer one event."""
        return events.handle(event, lambda request: self._cors.apply(request, self._answer))

    def _answer(self, request: events.Request) -> Answer:
        if request.method != "POST":
            return events.refuse(405, "send rows by POST", Allow="POST")
        optional = {
            "Accept": request.headers.get("accept"),
            "CustomAttributes": request.headers.get(CUSTOM_ATTRIBUTES.lower()),
        }
        attributes = optional["CustomAttributes"] or ""
        if len(attributes) > 1024 or not (attributes.isascii() and attributes.isprintable()):
            message = f"{CUSTOM_ATTRIBUTES} may have up to 1,024 printable characters of ASCII"
            return events.refuse(400, message)
        try:
            response = self._runtime.invoke_endpoint(
                EndpointName=self._endpoint_name,
                ContentType=request.headers.get("content-type", "application/json"),
                Body=request.body,
                **{name: value for name, value in optional.items() if value},
            )
            own = response.get("CustomAttributes")
            headers = {CUSTOM_ATTRIBUTES: own} if own else {}
            return Answer(200, response["ContentType"], response["Body"].read(), headers)
        except (ConnectTimeoutError, ReadTimeoutError) as error:
            return _log_and_refuse(error, *_SLOW)
        except ClientError as error:
            if error.response["Error"]["Code"] == "ModelError":
                return _pass_on(error)
            return _log_and_refuse(error, *_REFUSALS.get(error.response["Error"]["Code"], _FAILED))
        except BotoCoreError as error:
            return _log_and_refuse(error, *_FAILED)


def _pass_on(error: ClientError) -> Answer:
    """Answer for a container that answered with an error, or, by status 0, not at all."""
    status = int(error.response.get("OriginalStatusCode", 500))
    if not 400 <= status < 500:
        return _log_and_refuse(error, *(_SLOW if status == 0 else _FAILED))
    message = error.response.get("OriginalMessage", "")
    try:
        json.loads(message)
    except ValueError:
        return events.refuse(status, message)
    return Answer(status, "application/json", message.encode())


def _log_and_refuse(error: Exception, status: int, message: str) -> Answer:
    logger.error("%s: %s", type(error).__name__, error)
    retry = {"Retry_After": "1"} if status in (429, 503) else {}
    return events.refuse(status, message, **retry)


# Lambda imports the module once per process, before the first request: this is its main().
handler = Forwarder(os.environ["ENDPOINT_NAME"], events.Cors(os.environ.get("CORS_ORIGINS", "")))
