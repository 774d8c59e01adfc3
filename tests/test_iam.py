"""The policies under deploy/iam: IAM's grammar, real actions, nothing wider than it must be."""

import json
import re
from functools import cache
from pathlib import Path

import botocore.session
import pytest
from cloudsplaining.scan.policy_document import PolicyDocument
from policy_sentry.querying.actions import get_action_data

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "deploy" / "iam"
POLICIES = {path.name: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}
TRUST = {"execution-role-trust.json", "lambda-role-trust.json"}
OF_RESOURCES = TRUST | {"lambda-repository.json"}  # these name who may, not on what
EXAMPLES = {
    str(path.relative_to(ROOT)): json.loads(path.read_text())
    for path in sorted(ROOT.glob("examples/*/iam.json"))
}
STATEMENTS = [
    pytest.param(name, statement, id=f"{name}-{statement['Sid']}")
    for name, policy in (POLICIES | EXAMPLES).items()
    for statement in policy["Statement"]
]

OF_IDENTITIES = {name: p for name, p in (POLICIES | EXAMPLES).items() if name not in OF_RESOURCES}

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
    "s3": ("", r"BUCKET(/((newsgroups|credit|credit-api)/|credit-explainer-)?\*)?"),
    "sagemaker": (
        "REGION",
        r"(training-job|model|endpoint-config|endpoint)/(\*|newsgroups(-\*)?)"
        r"|(hyper-parameter-tuning-job|transform-job|model-package|model-package-group)/\*",
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
    target = "Principal" if name in OF_RESOURCES else "Resource"
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
    ("name", "statement"), [row for row in STATEMENTS if row.values[0] not in OF_RESOURCES]
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


# ---------------------------------------------------------------- no road to more than it says

ROLES = {  # the policy that a role gets by the README, or may get at most
    "sagemaker-execution": "execution-role.json",
    "lambda-execution": "lambda-role.json",
    "credit-api-*": "lambda-forward-boundary.json",
}

# All that a policy may do in IAM. Who could change a boundary, a trust policy or a managed policy
# would not be bounded by them.
OF_IAM = {
    "iam:CreateRole",
    "iam:DeleteRole",
    "iam:DeleteRolePolicy",
    "iam:GetRole",
    "iam:GetRolePolicy",
    "iam:PassRole",
    "iam:PutRolePolicy",
}
BOUNDED = {  # what a policy may do with its roles, and the condition under which alone it may
    "iam:CreateRole": "iam:PermissionsBoundary",
    "iam:PutRolePolicy": "iam:PermissionsBoundary",
    "iam:PassRole": "iam:PassedToService",
}

# What else the linter finds when told to count statements that name their resources. Whoever
# changes a function's code acts as its role: these functions have roles of ROLES. Whoever changes
# a stack acts as its service role: this one has none.
_FUNCTION = {"EditExistingLambdaFunctionWithRole", "UpdateLambdaFunctionAndAddPermission"}
ACCEPTED = {
    "lambda-forward.json": _FUNCTION | {"ExecuteCloudFormationChangeSet"},
    "lambda-model.json": _FUNCTION,
}


def boundary_of(statement):
    """The value of the condition that bounds the statement's roles, or None."""
    keys = {BOUNDED[action] for action in as_list(statement["Action"]) if action in BOUNDED}
    equals = statement.get("Condition", {}).get("StringEquals", {})
    return equals.get(*keys) if len(keys) == 1 else None


def faults(policy):
    """What lets the holder of a policy act as more than ROLES allow, by statement."""
    for statement in policy["Statement"]:
        sid, actions = statement["Sid"], set(as_list(statement["Action"]))
        of_iam = {action for action in actions if action.lower().startswith(("iam:", "*"))}
        if not of_iam:
            continue
        if statement["Effect"] != "Allow" or not of_iam <= OF_IAM:
            yield f"{sid}: {sorted(of_iam - OF_IAM)} may change what bounds a role"
        roles = {arn.partition(":role/")[2] for arn in as_list(statement["Resource"])}
        if not roles <= ROLES.keys():
            yield f"{sid}: {sorted(roles - ROLES.keys())} are not the project's roles"
        if not actions & BOUNDED.keys():
            continue
        boundary = boundary_of(statement)
        if "iam:PassRole" in actions:
            if boundary not in ("lambda.amazonaws.com", "sagemaker.amazonaws.com"):
                yield f"{sid}: passes a role to any service"
        elif {boundary} != {
            f"arn:aws:iam::ACCOUNT_ID:policy/{ROLES.get(r, '')[:-5]}" for r in roles
        }:
            yield f"{sid}: makes or fills roles without a boundary"


@pytest.mark.parametrize("name", OF_IDENTITIES)
def test_no_policy_makes_fills_or_passes_a_role_without_a_boundary(name):
    assert list(faults(OF_IDENTITIES[name])) == []


ROLE = "arn:aws:iam::ACCOUNT_ID:role/credit-api-*"
BOUNDARY = "arn:aws:iam::ACCOUNT_ID:policy/lambda-forward-boundary"


@pytest.mark.parametrize(
    ("action", "resource", "condition"),
    [
        ("iam:CreateRole", ROLE, None),
        ("iam:PutRolePolicy", ROLE, None),
        ("iam:PutRolePolicy", ROLE, ("StringLike", "iam:PermissionsBoundary", "*")),
        ("iam:CreateRole", ROLE, ("StringEquals", "iam:PermissionsBoundary", BOUNDARY[:-3])),
        ("iam:CreateRole", "*", ("StringEquals", "iam:PermissionsBoundary", BOUNDARY)),
        ("iam:AttachRolePolicy", ROLE, None),
        ("iam:PassRole", ROLE, None),
        ("iam:PassRole", "*", ("StringEquals", "iam:PassedToService", "lambda.amazonaws.com")),
        ("iam:PassRole", ROLE, ("StringEquals", "iam:PassedToService", "ec2.amazonaws.com")),
        ("iam:DeleteRolePermissionsBoundary", ROLE, None),
        ("iam:PutRolePermissionsBoundary", ROLE, None),
        ("iam:CreatePolicyVersion", BOUNDARY, None),
        ("iam:UpdateAssumeRolePolicy", ROLE, None),
        ("iam:*", ROLE, None),
        ("*", "*", None),
    ],
)
def test_the_walk_sees_what_would_make_an_administrator(action, resource, condition):
    statement = {"Sid": "S", "Effect": "Allow", "Action": action, "Resource": resource}
    if condition:
        operator, key, value = condition
        statement["Condition"] = {operator: {key: value}}
    assert list(faults({"Statement": [statement]}))


@pytest.mark.parametrize("name", sorted(set(ROLES.values())))
def test_a_role_that_is_passed_changes_no_permissions_and_takes_no_role(name):
    linted = PolicyDocument(POLICIES[name], flag_resource_arn_statements=True)
    assert linted.permissions_management_without_constraints == []
    assert {action.split(":")[0] for action in actions_of(name)}.isdisjoint(
        {"iam", "sts", "lambda"}
    )


@pytest.mark.parametrize("name", OF_IDENTITIES)
def test_the_linter_finds_nothing(name):
    linted = PolicyDocument(OF_IDENTITIES[name])
    assert linted.allows_privilege_escalation == []
    assert linted.permissions_management_without_constraints == []
    assert linted.infrastructure_modification == []
    assert linted.allows_data_exfiltration_actions == []
    assert linted.service_wildcard == []
    assert linted.contains_statement_using_not_action == []
    assert set(linted.credentials_exposure) <= {"ecr:GetAuthorizationToken"}  # to log in to ECR


@pytest.mark.parametrize("name", OF_IDENTITIES)
def test_the_linter_knows_no_road_to_more_but_those_that_are_bounded(name):
    policy = OF_IDENTITIES[name]
    unbounded = [s for s in policy["Statement"] if boundary_of(s) is None]
    linted = PolicyDocument({"Statement": unbounded}, flag_resource_arn_statements=True)
    found = {road["type"] for road in linted.allows_privilege_escalation}
    assert found == ACCEPTED.get(name, set())


@pytest.mark.parametrize(
    ("name", "statement"),
    [
        row
        for row in STATEMENTS
        if row.values[0] not in OF_RESOURCES and "Condition" in row.values[1]
    ],
)
def test_conditions_are_of_keys_that_aws_fills_in_for_the_action(name, statement):
    for action in as_list(statement["Action"]):
        service, operation = action.split(":")
        known = {
            key
            for form in get_action_data(service, operation)[service]
            for key in form["condition_keys"]
        }
        for keys in statement["Condition"].values():
            assert keys.keys() <= known, action


def test_the_readme_makes_every_role_and_boundary_from_its_policy():
    readme = (FOLDER / "README.md").read_text().replace("\\\n", " ")
    for name in ("sagemaker-execution", "lambda-execution"):
        assert re.search(rf"create-role --role-name {name} ", readme)
        assert re.search(rf"put-role-policy --role-name {name} .*{ROLES[name]}", readme)
    assert re.search(
        r"create-policy --policy-name lambda-forward-boundary .*/lambda-forward-boundary\.json",
        readme,
    )


def test_nobody_but_the_role_writes_where_models_lie_unless_he_trains_them():
    # An endpoint runs what lies in a model.tar.gz, as its role.
    for name in ("lambda-forward.json", "lambda-model.json"):
        for statement in POLICIES[name]["Statement"]:
            if {"s3:PutObject", "s3:DeleteObject"} & set(as_list(statement["Action"])):
                assert re.search(r"BUCKET/credit-(api/|explainer-)\*$", statement["Resource"])


def test_who_makes_a_function_of_an_image_cannot_push_one():
    # Whoever may open the repository to himself may push what jobs and endpoints run.
    actions = actions_of("lambda-model.json")
    assert not actions & {"ecr:PutImage", "ecr:SetRepositoryPolicy", "ecr:UploadLayerPart"}
    [statement] = POLICIES["lambda-repository.json"]["Statement"]
    assert statement["Principal"] == {"Service": "lambda.amazonaws.com"}
    assert set(statement["Action"]) == {"ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"}
    assert statement["Condition"]["StringLike"]["aws:SourceArn"].endswith(
        ":ACCOUNT_ID:function:credit-explainer*"
    )


# ---------------------------------------------------------------- what each is for


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
