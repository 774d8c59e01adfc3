"""The function in front of an endpoint, with moto as SageMaker's runtime; and its template."""

import importlib
import io
import json
import logging
import subprocess
import sys
import threading
from pathlib import Path

import boto3
import numpy as np
import pytest
import yaml
from botocore.config import Config
from moto.moto_server.threaded_moto_server import ThreadedMotoServer
from moto.sagemakerruntime.responses import SageMakerRuntimeResponse

from local_mode import loopback

LAMBDA = Path(__file__).parents[2] / "deploy" / "lambda"

JSON, NPY = "application/json", "application/x-npy"


ATTRIBUTES = "X-Amzn-SageMaker-Custom-Attributes"


class Runtime:
    """What reached SageMaker's runtime, and what it answers next."""

    def __init__(self):
        self.calls, self.attributes = [], []
        self.reply = (200, {"Content-Type": JSON}, '{"prediction": [0.25]}')

    def answer(self, response):
        accept, kind = response.headers.get("Accept"), response.headers.get("Content-Type")
        self.calls.append((response.path, kind, accept, response.body))
        self.attributes.append(response.headers.get(ATTRIBUTES))
        return self.reply() if callable(self.reply) else self.reply

    def fail(self, status, code, **members):
        headers = {"x-amzn-ErrorType": code, "status": status}
        self.reply = (status, headers, json.dumps({"Message": "no", **members}))


@pytest.fixture(scope="module", autouse=True)
def aws():
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # not a line for each request
    host, port = server.get_host_and_port()
    with loopback.environment(f"http://{host}:{port}", "eu-west-1"):
        yield
    server.stop()


@pytest.fixture
def runtime(monkeypatch):
    runtime = Runtime()
    monkeypatch.setattr(SageMakerRuntimeResponse, "use_raw_body", True)  # moto's is text
    monkeypatch.setattr(
        SageMakerRuntimeResponse, "invoke_endpoint", lambda self: runtime.answer(self)
    )
    return runtime


@pytest.fixture
def handler(runtime, lambda_path, monkeypatch):
    monkeypatch.setenv("ENDPOINT_NAME", "credit")
    return importlib.import_module("forward").handler


@pytest.mark.parametrize("version", [1, 2])
def test_passes_a_request_through(handler, runtime, event, version):
    accept = "application/json; explain=false"
    answer = handler(event(version, '[{"age": 41}]', Content_Type=JSON, Accept=accept), None)
    assert answer == {
        "statusCode": 200,
        "headers": {"Content-Type": JSON},
        "isBase64Encoded": False,
        "body": '{"prediction": [0.25]}',
    }
    assert runtime.calls == [("/endpoints/credit/invocations", JSON, accept, b'[{"age": 41}]')]


@pytest.mark.parametrize("version", [1, 2])
def test_passes_bytes_through_both_ways(handler, runtime, event, body_of, version):
    stream = io.BytesIO()
    np.save(stream, np.arange(3.0))
    sent, returned = stream.getvalue(), bytes(range(256))
    runtime.reply = (200, {"Content-Type": NPY}, returned)
    answer = handler(event(version, sent, Content_Type=NPY, Accept=NPY), None)
    assert answer["isBase64Encoded"] is True
    assert answer["headers"] == {"Content-Type": NPY}
    assert body_of(answer) == returned
    assert runtime.calls == [("/endpoints/credit/invocations", NPY, NPY, sent)]


@pytest.mark.parametrize("version", ["alb", "albs"])
def test_a_load_balancer_has_its_headers_read_and_answered(handler, runtime, event, version):
    accept = "application/json; explain=false"
    answer = handler(event(version, "age\n41\n", Content_Type="text/csv", Accept=accept), None)
    assert runtime.calls == [("/endpoints/credit/invocations", "text/csv", accept, b"age\n41\n")]
    single, multiple = {"Content-Type": JSON}, {"Content-Type": [JSON]}
    sent = {"headers": single} if version == "alb" else {"multiValueHeaders": multiple}
    assert (
        answer
        == {
            "statusCode": 200,
            "isBase64Encoded": False,
            "body": '{"prediction": [0.25]}',
        }
        | sent
    )
    refused = handler(event(version, method="PUT"), None)
    assert refused["statusCode"] == 405
    assert refused.keys() == answer.keys()


def test_a_header_that_came_twice_is_read_whole(handler, runtime, event):
    sent = event(1, "[]")
    sent["headers"], sent["multiValueHeaders"] = {"Accept": NPY}, {"Accept": ["text/csv", NPY]}
    assert handler(sent, None)["statusCode"] == 200
    assert runtime.calls[0][2] == f"text/csv, {NPY}"


@pytest.mark.parametrize(
    ("sent", "kind", "body"),
    [
        ({"body": "[[41]]"}, JSON, b"[[41]]"),
        ({"body": [[41]]}, JSON, b"[[41]]"),
        ({"body": {"instances": [[41]]}}, JSON, b'{"instances": [[41]]}'),
        ({"body": "41\n", "headers": {"Content-Type": "text/csv"}}, "text/csv", b"41\n"),
        ({"body": "NDE=", "isBase64Encoded": True}, JSON, b"41"),
        ({"data": "13.49,22.3"}, "text/csv", b"13.49,22.3"),
        ({"instances": [[41]]}, JSON, b'{"instances": [[41]]}'),
    ],
)
def test_a_direct_invocation_with_a_body_is_a_request(handler, runtime, sent, kind, body):
    answer = handler(sent, None)
    assert (answer["statusCode"], answer["body"]) == (200, '{"prediction": [0.25]}')
    [(_, *received)] = runtime.calls
    assert received == [kind, None, body]


@pytest.mark.parametrize("version", [1, 2, "albs"])
def test_custom_attributes_go_both_ways(handler, runtime, event, version):
    runtime.reply = (200, {"Content-Type": JSON, ATTRIBUTES: "trace=b"}, "[]")
    sent = event(version, "[]", X_Amzn_SageMaker_Custom_Attributes="trace=a")
    answer = handler(sent, None)
    assert runtime.attributes == ["trace=a"]
    headers = answer.get("headers") or answer["multiValueHeaders"]
    assert headers[ATTRIBUTES] in ("trace=b", ["trace=b"])
    runtime.reply = (200, {"Content-Type": JSON}, "[]")
    assert ATTRIBUTES not in handler(event(2, "[]"), None)["headers"]
    assert runtime.attributes[1] is None


@pytest.mark.parametrize("value", ["a\tb", "à", "a\x85", "a\r\nX-Evil: 1", "a" * 1025])
def test_custom_attributes_that_sagemaker_refuses_are_a_bad_request(
    handler, runtime, event, error_of, value
):
    answer = handler(event(2, "[]", X_Amzn_SageMaker_Custom_Attributes=value), None)
    assert answer["statusCode"] == 400
    assert ATTRIBUTES in error_of(answer)["message"]
    assert runtime.calls == []


class TestCors:
    SHOP = "https://shop.example"

    @pytest.fixture
    def handler(self, runtime, lambda_path, monkeypatch):
        monkeypatch.setenv("ENDPOINT_NAME", "credit")
        monkeypatch.setenv("CORS_ORIGINS", f"https://other.example, {self.SHOP}")
        return importlib.import_module("forward").handler

    @pytest.mark.parametrize("version", [1, 2, "alb"])
    def test_a_preflight_is_answered_and_so_is_what_follows(
        self, handler, runtime, event, version
    ):
        asked = {
            "Origin": self.SHOP,
            "Access_Control_Request_Method": "POST",
            "Access_Control_Request_Headers": "content-type",
        }
        answer = handler(event(version, method="OPTIONS", **asked), None)
        assert (answer["statusCode"], answer["body"]) == (204, "")
        headers = answer["headers"]
        assert headers["Access-Control-Allow-Origin"] == self.SHOP
        assert "POST" in headers["Access-Control-Allow-Methods"]
        assert {"Content-Type", "Accept", "Authorization"} <= set(
            headers["Access-Control-Allow-Headers"].split(", ")
        )
        assert runtime.calls == []
        for body, status in (("[]", 200), ("?", 400)):
            if status == 400:
                runtime.fail(424, "ModelError", OriginalStatusCode=400, OriginalMessage="no")
            answer = handler(event(version, body, Origin=self.SHOP), None)
            assert answer["statusCode"] == status
            assert answer["headers"]["Access-Control-Allow-Origin"] == self.SHOP
            assert answer["headers"]["Vary"] == "Origin"

    def test_a_stranger_gets_no_leave(self, handler, event):
        for method in ("OPTIONS", "POST"):
            answer = handler(event(2, "[]", method=method, Origin="https://evil.example"), None)
            assert "Access-Control-Allow-Origin" not in answer["headers"]

    def test_a_star_is_for_all(self, runtime, lambda_path, monkeypatch, event):
        monkeypatch.setenv("ENDPOINT_NAME", "credit")
        monkeypatch.setenv("CORS_ORIGINS", "*")
        answer = importlib.import_module("forward").handler(event(2, "[]", Origin="null"), None)
        assert answer["headers"]["Access-Control-Allow-Origin"] == "*"


def test_without_settings_no_origin_is_let_in(handler, event):
    preflight = handler(event(2, method="OPTIONS", Origin="https://shop.example"), None)
    assert (preflight["statusCode"], preflight["headers"]["Allow"]) == (405, "POST")
    answer = handler(event(2, "[]", Origin="https://shop.example"), None)
    assert answer["headers"] == {"Content-Type": JSON}


def test_without_headers_it_is_json_and_the_endpoint_chooses(handler, runtime, event):
    assert handler(event(1, "[]") | {"headers": None}, None)["statusCode"] == 200
    [(_, content_type, accept, _)] = runtime.calls
    assert (content_type, accept) == (JSON, None)


@pytest.mark.parametrize("status", [400, 406, 413, 415, 499])
def test_the_models_own_refusal_comes_back_as_it_is(handler, runtime, event, status):
    message = json.dumps({"error": {"type": "BadRequest", "message": "row 0, 'age': 'x'"}})
    runtime.fail(424, "ModelError", OriginalStatusCode=status, OriginalMessage=message)
    answer = handler(event(2, "[]"), None)
    assert answer["statusCode"] == status
    assert answer["headers"] == {"Content-Type": JSON}
    assert answer["body"] == message


def test_a_refusal_that_is_no_json_is_wrapped(handler, runtime, event, error_of):
    runtime.fail(424, "ModelError", OriginalStatusCode=404, OriginalMessage="<p>no")
    answer = handler(event(2, "[]"), None)
    assert answer["statusCode"] == 404
    assert error_of(answer) == {"type": "NotFound", "message": "<p>no"}


@pytest.mark.parametrize(
    ("http_status", "code", "members", "status", "kind"),
    [
        (424, "ModelError", {"OriginalStatusCode": 500}, 502, "BadGateway"),
        (424, "ModelError", {"OriginalStatusCode": 503}, 502, "BadGateway"),
        (424, "ModelError", {"OriginalStatusCode": 0}, 504, "Timeout"),
        (424, "ModelError", {}, 502, "BadGateway"),
        (400, "ThrottlingException", {}, 429, "TooManyRequests"),
        (429, "ModelNotReadyException", {}, 503, "ServiceUnavailable"),
        (503, "ServiceUnavailable", {}, 503, "ServiceUnavailable"),
        (500, "InternalFailure", {}, 502, "BadGateway"),
        (530, "InternalDependencyException", {}, 502, "BadGateway"),
        (400, "ValidationError", {}, 502, "BadGateway"),  # no such endpoint, as a rule
        (403, "AccessDeniedException", {}, 502, "BadGateway"),
    ],
)
def test_every_failure_has_its_status_and_is_logged(
    handler, runtime, event, error_of, caplog, http_status, code, members, status, kind
):
    runtime.fail(http_status, code, OriginalMessage="a secret of the model's", **members)
    answer = handler(event(2, "[]"), None)
    assert answer["statusCode"] == status
    error = error_of(answer)
    assert error["type"] == kind
    assert "secret" not in error["message"]
    assert ("Retry-After" in answer["headers"]) is (status in (429, 503))
    assert len(runtime.calls) == 1  # no second attempt: there is no time for one
    [record] = caplog.records
    assert code in record.message


def test_an_endpoint_that_takes_too_long_is_a_gateway_timeout(
    handler, runtime, event, error_of, monkeypatch, caplog
):
    patience = importlib.import_module("forward").PATIENCE
    assert (
        patience.connect_timeout + patience.read_timeout < 29
    )  # the function's own, see template
    impatient = boto3.client("sagemaker-runtime", config=patience.merge(Config(read_timeout=0.3)))
    monkeypatch.setattr(handler, "_runtime", impatient)
    released = threading.Event()
    runtime.reply = lambda: (released.wait(10), (200, {}, ""))[1]
    try:
        answer = handler(event(2, "[]"), None)
    finally:
        released.set()
    assert answer["statusCode"] == 504
    assert error_of(answer)["type"] == "Timeout"
    assert "ReadTimeoutError" in caplog.text


def test_an_endpoint_out_of_reach_is_a_bad_gateway(
    lambda_path, monkeypatch, event, error_of, free_port
):
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("ENDPOINT_NAME", "credit")
    answer = importlib.import_module("forward").handler(event(2, "[]"), None)
    assert answer["statusCode"] == 502
    assert error_of(answer)["type"] == "BadGateway"


@pytest.mark.parametrize(
    ("change", "status", "message"),
    [
        ({"httpMethod": "GET"}, 405, "send rows by POST"),
        ({"body": "?", "isBase64Encoded": True}, 400, "the event's body is not base64"),
    ],
)
def test_a_bad_request_never_reaches_the_endpoint(
    handler, runtime, event, error_of, change, status, message
):
    answer = handler(event(1, "[]") | change, None)
    assert answer["statusCode"] == status
    assert message in error_of(answer)["message"]
    assert runtime.calls == []


@pytest.mark.parametrize(
    "other",
    [
        {},
        {"Records": []},
        {"version": "2.0"},
        {"version": "0", "detail": {}},
        {"age": 41},
        {"data": {"age": 41}},
        {"body": "[]", "headers": ["a"]},
        {"body": "[]", "headers": {"accept": 1}},
        {"httpMethod": "POST", "path": None, "body": "[]"},
        {"httpMethod": "POST", "path": "/invocations", "body": [1]},
        [[41]],
        "[[41]]",
        None,
    ],
)
def test_another_kind_of_event_is_named(handler, error_of, other):
    answer = handler(other, None)
    assert answer["statusCode"] == 400
    assert "not from API Gateway" in error_of(answer)["message"]


def test_an_answer_that_lambda_cannot_carry_is_refused(handler, runtime, event, error_of):
    runtime.reply = (200, {"Content-Type": NPY}, bytes(5 * 2**20))
    answer = handler(event(2, "[]"), None)
    assert answer["statusCode"] == 413
    assert "send fewer rows" in error_of(answer)["message"]


def test_needs_an_endpoints_name_and_nothing_else(lambda_path, monkeypatch):
    monkeypatch.delenv("ENDPOINT_NAME", raising=False)
    with pytest.raises(KeyError, match="ENDPOINT_NAME"):
        importlib.import_module("forward")


# ---------------------------------------------------------------- the template


class Template(yaml.SafeLoader):
    """Reads !Ref X and its like as {"Ref": X}."""


Template.add_multi_constructor("!", lambda loader, tag, node: {tag: node.value})


@pytest.fixture(scope="module")
def template():
    return yaml.load((LAMBDA / "template.yaml").read_text(), Template)


def test_cfn_lint_finds_nothing():
    command = [Path(sys.executable).with_name("cfn-lint"), LAMBDA / "template.yaml"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_the_role_may_invoke_one_endpoint_and_write_its_own_log(template):
    resources = template["Resources"]
    role = resources["Role"]["Properties"]
    assert role.keys() == {"AssumeRolePolicyDocument", "Policies", "PermissionsBoundary"}
    assert role["PermissionsBoundary"]["Sub"].endswith(":policy/lambda-forward-boundary")
    [invoke, log] = [
        statement
        for policy in role["Policies"]
        for statement in policy["PolicyDocument"]["Statement"]
    ]
    assert invoke["Action"] == "sagemaker:InvokeEndpoint"
    assert invoke["Resource"]["Sub"].endswith(":${AWS::AccountId}:endpoint/${EndpointName}")
    assert log["Action"] == ["logs:CreateLogStream", "logs:PutLogEvents"]
    assert log["Resource"] == {"GetAtt": "Log.Arn"}
    boundary = json.loads((LAMBDA.parent / "iam" / "lambda-forward-boundary.json").read_text())
    assert [s["Action"] for s in boundary["Statement"]] == [invoke["Action"], log["Action"]]
    assert resources["Function"]["Properties"]["Role"] == {"GetAtt": "Role.Arn"}


def test_a_browser_may_call_the_api_from_the_origins_named(template):
    resources = template["Resources"]
    condition, cors, nothing = resources["Api"]["Properties"]["CorsConfiguration"]["If"]
    assert template["Parameters"]["AllowOrigins"]["Default"] == ""
    assert condition.value in template["Conditions"]
    settings = {key.value: value for key, value in cors.value}
    assert settings["AllowOrigins"].value == "AllowOrigins"
    assert [method.value for method in settings["AllowMethods"].value] == ["POST"]
    assert {"content-type", "accept"} <= {name.value for name in settings["AllowHeaders"].value}
    assert nothing.value == "AWS::NoValue"


def test_the_template_names_what_is_there(template, handler):
    function = template["Resources"]["Function"]["Properties"]
    module, name = function["Handler"].split(".")
    assert (LAMBDA / function["CodeUri"] / f"{module}.py").is_file()
    assert getattr(importlib.import_module(module), name) is handler
    assert function["Environment"]["Variables"] == {"ENDPOINT_NAME": {"Ref": "EndpointName"}}
    patience = importlib.import_module(module).PATIENCE
    assert patience.connect_timeout + patience.read_timeout < function["Timeout"] < 30
