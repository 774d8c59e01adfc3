"""The policies under deploy/iam: IAM's grammar, real actions, nothing wider than it must be."""

import json
import re
from functools import cache
from pathlib import Path

import botocore.session
import pytest

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "deploy" / "iam"
POLICIES = {path.name: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}
TRUST = {"execution-role-trust.json", "lambda-role-trust.json"}
EXAMPLES = {
    str(path.relative_to(ROOT)): json.loads(path.read_text())
    for path in sorted(ROOT.glob("examples/*/iam.json"))
}
STATEMENTS = [
    pytest.param(name, statement, id=f"{name}-{statement['Sid']}")
    for name, policy in (POLICIES | EXAMPLES).items()
    for statement in policy["Statement"]
]

# Actions for which AWS knows no resource narrower than *.
WITHOUT_RESOURCE = {
    "cloudwatch:PutMetricData",
    "ecr:GetAuthorizationToken",
    "events:ListRuleNamesByTarget",
}

# Actions that are the permission for something else than the API operation of their name.
WITHOUT_OPERATION = {
    "execute-api:Invoke",
    "iam:PassRole",
    "lambda:InvokeFunction",
    "lambda:InvokeFunctionUrl",
    "s3:ListBucket",
    *(f"apigateway:{method}" for method in ("DELETE", "GET", "PATCH", "POST", "PUT")),
}

# InvokeEndpoint belongs to an API of its own, but to SageMaker's permissions.
APIS = {"sagemaker": ("sagemaker", "sagemaker-runtime")}

ARN = re.compile(
    r"arn:aws:(?P<service>[a-z0-9-]+):(?P<region>REGION|):(?P<account>ACCOUNT_ID|aws|\*|):(?P<rest>.+)"
)
# Per service: the region in its ARNs, and the resources that we name.
RESOURCES = {
    "apigateway": ("REGION", r"/(apis(/\*)?|restapis)"),
    "cloudformation": (
        "REGION",
        r"stack/credit-(api|explainer\*)/\*|transform/Serverless-2016-10-31",
    ),
    "ecr": ("REGION", r"repository/(REPOSITORY|sagemaker-scikit-learn)"),
    "execute-api": ("REGION", r"\*/\*/POST/invocations"),
    "iam": ("", r"role/(credit-api-\*|[a-z-]+)"),
    "lambda": ("REGION", r"function:credit-(api-|explainer)\*"),
    "logs": (
        "REGION",
        r"log-group:(/aws/sagemaker/\*|/aws/lambda/credit-explainer\*|credit-api-\*|\*)",
    ),
    "s3": ("", r"BUCKET(/(newsgroups/)?\*)?"),
    "sagemaker": (
        "REGION",
        r"(training-job|model|endpoint-config|endpoint)/(\*|newsgroups(-\*)?)",
    ),
}


def as_list(value):
    return [value] if isinstance(value, str) else value


@cache
def operations_of(service):
    session = botocore.session.get_session()
    return {
        operation
        for api in APIS.get(service, (service,))
        for operation in session.get_service_model(api).operation_names
    }


def actions_of(name):
    statements = POLICIES[name]["Statement"]
    return {action for statement in statements for action in as_list(statement["Action"])}


def test_readme_lists_every_policy():
    rows = re.findall(r"^\| `(\S+\.json)`", (FOLDER / "README.md").read_text(), re.MULTILINE)
    assert sorted(rows) == list(POLICIES)


@pytest.mark.parametrize("name", POLICIES | EXAMPLES)
def test_policy_follows_the_grammar(name):
    policy = (POLICIES | EXAMPLES)[name]
    assert policy.keys() == {"Version", "Statement"}
    assert policy["Version"] == "2012-10-17"
    sids = [statement["Sid"] for statement in policy["Statement"]]
    assert all(re.fullmatch("[A-Za-z0-9]+", sid) for sid in sids)
    assert len(set(sids)) == len(sids)
    # IAM's limits: characters of a trust policy and of a managed policy.
    compact = json.dumps(policy, separators=(",", ":"))
    assert len(compact) <= (2048 if name in TRUST else 6144)


@pytest.mark.parametrize(("name", "statement"), STATEMENTS)
def test_statement_follows_the_grammar(name, statement):
    target = "Principal" if name in TRUST else "Resource"
    assert statement.keys() - {"Condition"} == {"Sid", "Effect", "Action", target}
    assert statement["Effect"] == "Allow"
    for operator, keys in statement.get("Condition", {}).items():
        assert operator in {"Bool", "StringEquals", "StringLike"}
        assert all(re.fullmatch(r"[a-z0-9]+:[A-Za-z]+", key) for key in keys)


@pytest.mark.parametrize(("name", "statement"), STATEMENTS)
def test_actions_are_named_in_full_and_exist(name, statement):
    actions = as_list(statement["Action"])
    assert actions == sorted(set(actions))
    for action in actions:
        assert re.fullmatch(r"[a-z0-9-]+:[A-Z][A-Za-z]+", action)
        service, operation = action.split(":")
        assert action in WITHOUT_OPERATION or operation in operations_of(service), action


@pytest.mark.parametrize(
    ("name", "statement"), [row for row in STATEMENTS if row.values[0] not in TRUST]
)
def test_resources_are_as_narrow_as_aws_allows(name, statement):
    actions = set(as_list(statement["Action"]))
    if statement["Resource"] == "*":
        assert actions <= WITHOUT_RESOURCE
        return
    assert not actions & WITHOUT_RESOURCE
    services = {action.split(":")[0] for action in actions}
    for resource in as_list(statement["Resource"]):
        arn = ARN.fullmatch(resource)
        assert arn, resource
        assert services == {arn["service"]}
        region, shape = RESOURCES[arn["service"]]
        assert arn["region"] == region
        assert re.fullmatch(shape, arn["rest"]), resource
        # S3's names are global, and API Gateway's have no account. That of AWS's own images
        # differs from region to region.
        account = "" if arn["service"] in ("s3", "apigateway") else "ACCOUNT_ID"
        of_others = {"sagemaker-scikit-learn": "*", "transform/": "aws"}
        others = [owner for word, owner in of_others.items() if word in resource]
        assert arn["account"] == (others[0] if others else account)


def test_only_placeholders_that_the_readme_explains():
    text = re.sub(r"apigateway:[A-Z]+|AWS_IAM|/POST/", "", json.dumps(POLICIES | EXAMPLES))
    words = set(re.findall(r"\b[A-Z]+(?:_[A-Z]+)*\b", text))
    assert words == {"ACCOUNT_ID", "REGION", "BUCKET", "REPOSITORY"}
    readme = (FOLDER / "README.md").read_text()
    assert all(f"`{word}`" in readme for word in words)


def test_builder_can_pull_the_base_and_push_one_repository_but_delete_nothing():
    table = json.loads((FOLDER.parents[1] / "container" / "base_images.json").read_text())
    _, pull, push = POLICIES["build-and-push.json"]["Statement"]
    assert pull["Resource"].endswith(f":repository/{table['repository']}")
    assert push["Resource"].endswith(":ACCOUNT_ID:repository/REPOSITORY")
    assert "ecr:PutImage" not in pull["Action"]
    assert not [a for a in actions_of("build-and-push.json") if "Delete" in a]


def test_user_may_pass_one_role_and_to_sagemaker_only():
    [statement] = [
        s for s in POLICIES["notebook-user.json"]["Statement"] if s["Action"] == "iam:PassRole"
    ]
    assert statement["Condition"] == {
        "StringEquals": {"iam:PassedToService": "sagemaker.amazonaws.com"}
    }
    assert "*" not in statement["Resource"]


def test_user_may_make_every_call_of_the_notebook():
    # What the SageMaker SDK calls for fit, deploy, predict, delete_model and delete_endpoint.
    assert actions_of("notebook-user.json") >= {
        "sagemaker:CreateTrainingJob",
        "sagemaker:DescribeTrainingJob",
        "sagemaker:StopTrainingJob",
        "sagemaker:CreateModel",
        "sagemaker:CreateEndpointConfig",
        "sagemaker:CreateEndpoint",
        "sagemaker:DescribeEndpoint",
        "sagemaker:DescribeEndpointConfig",
        "sagemaker:InvokeEndpoint",
        "sagemaker:DeleteModel",
        "sagemaker:DeleteEndpointConfig",
        "sagemaker:DeleteEndpoint",
        "logs:DescribeLogStreams",
        "logs:GetLogEvents",
        "s3:ListBucket",
        "s3:GetObject",
        "s3:PutObject",
    }


def test_role_writes_metrics_into_sagemakers_namespaces_only():
    [statement] = [
        s
        for s in POLICIES["execution-role.json"]["Statement"]
        if s["Action"] == "cloudwatch:PutMetricData"
    ]
    assert statement["Condition"] == {"StringLike": {"cloudwatch:namespace": "/aws/sagemaker/*"}}


def test_role_trusts_sagemaker_for_one_account():
    [statement] = POLICIES["execution-role-trust.json"]["Statement"]
    assert statement["Principal"] == {"Service": "sagemaker.amazonaws.com"}
    assert statement["Action"] == "sts:AssumeRole"
    assert statement["Condition"] == {"StringEquals": {"aws:SourceAccount": "ACCOUNT_ID"}}


def test_lambdas_role_writes_its_log_and_nothing_else():
    assert actions_of("lambda-role.json") == {
        "logs:CreateLogGroup",
        "logs:CreateLogStream",
        "logs:PutLogEvents",
    }
    [statement] = POLICIES["lambda-role-trust.json"]["Statement"]
    assert statement["Principal"] == {"Service": "lambda.amazonaws.com"}


def test_roles_for_lambda_go_to_lambda_only():
    for name in ("lambda-model.json", "lambda-forward.json"):
        [statement] = [s for s in POLICIES[name]["Statement"] if s["Action"] == "iam:PassRole"]
        assert statement["Condition"] == {
            "StringEquals": {"iam:PassedToService": "lambda.amazonaws.com"}
        }


def test_a_caller_may_call_and_nothing_else():
    assert actions_of("caller.json") == {
        "execute-api:Invoke",
        "lambda:InvokeFunction",
        "lambda:InvokeFunctionUrl",
    }
