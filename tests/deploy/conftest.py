import base64
import json
import sys
from pathlib import Path

import pytest

LAMBDA = Path(__file__).parents[2] / "deploy" / "lambda"


def make_event(version, body=b"", *, method="POST", path="/invocations", **headers: str):
    """An HTTP event as AWS documents it; bytes go as base64.

    Of API Gateway's version 1 or 2, or of a load balancer: "alb" with single headers, "albs" with
    multi-value headers, which are then the only ones.
    """
    is_binary = isinstance(body, bytes)
    shared = {
        "headers": {name.replace("_", "-"): value for name, value in headers.items()},
        "body": (base64.b64encode(body).decode() if is_binary else body) or None,
        "isBase64Encoded": is_binary,
    }
    if version in ("alb", "albs"):
        group = (
            "arn:aws:elasticloadbalancing:eu-west-1:123456789012:targetgroup/credit/6d0ecf831eec"
        )
        lower = {name.lower(): value for name, value in shared.pop("headers").items()}
        lower["x-forwarded-proto"] = "https"
        single, multiple = (
            ("headers", "queryStringParameters"),
            ("multiValueHeaders", "multiValueQueryStringParameters"),
        )
        names, query = single if version == "alb" else multiple
        return {
            "requestContext": {"elb": {"targetGroupArn": group}},
            "httpMethod": method,
            "path": path,
            query: {},
            names: lower if version == "alb" else {k: [v] for k, v in lower.items()},
            **shared,
            "body": shared["body"] or "",
        }
    if version == 1:
        return {
            "resource": "/{proxy+}",
            "path": path,
            "httpMethod": method,
            "multiValueHeaders": {name: [value] for name, value in shared["headers"].items()},
            "queryStringParameters": None,
            "multiValueQueryStringParameters": None,
            "pathParameters": {"proxy": path[1:]},
            "stageVariables": None,
            "requestContext": {
                "accountId": "123456789012",
                "apiId": "api",
                "httpMethod": method,
                "identity": {"sourceIp": "127.0.0.1"},
                "path": f"/prod{path}",
                "protocol": "HTTP/1.1",
                "requestId": "id",
                "stage": "prod",
            },
            **shared,
        }
    return {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": "",
        **shared,
        "headers": {name.lower(): value for name, value in shared["headers"].items()},
        "requestContext": {
            "accountId": "123456789012",
            "apiId": "api",
            "domainName": "api.lambda-url.eu-west-1.on.aws",
            "http": {
                "method": method,
                "path": path,
                "protocol": "HTTP/1.1",
                "sourceIp": "127.0.0.1",
                "userAgent": "test",
            },
            "requestId": "id",
            "routeKey": "$default",
            "stage": "$default",
            "timeEpoch": 1,
        },
    }


@pytest.fixture(scope="session")
def event():
    return make_event


@pytest.fixture(scope="session")
def body_of():
    """The bytes that a function's answer carries."""

    def read(answer) -> bytes:
        body = answer["body"] or ""
        return base64.b64decode(body) if answer.get("isBase64Encoded") else body.encode()

    return read


@pytest.fixture(scope="session")
def error_of(body_of):
    return lambda answer: json.loads(body_of(answer))["error"]


@pytest.fixture
def lambda_path(monkeypatch):
    """Make the functions' modules importable, as if each test were a process of its own."""
    monkeypatch.syspath_prepend(LAMBDA)
    yield LAMBDA
    for name in ("app", "events", "forward"):
        sys.modules.pop(name, None)
