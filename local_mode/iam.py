"""IAM beside moto's: the role of local jobs, and iam:SimulatePrincipalPolicy, which moto lacks.

SDK v3 asks whether a role may do what its jobs will, before it trains.
"""

import fnmatch
import json
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import parse_qs
from xml.sax.saxutils import escape

from moto.iam.models import IAMBackend, iam_backends

from local_mode.store import ACCOUNT

ROLE = "local"
_NAMESPACE = "https://iam.amazonaws.com/doc/2010-05-08/"


def create_role() -> None:
    """Make the role that the local modes name, which may do everything here."""
    backend: IAMBackend = iam_backends[ACCOUNT]["aws"]
    if any(role.name == ROLE for role in backend.roles.values()):
        return
    trust = {"Effect": "Allow", "Principal": {"Service": "sagemaker.amazonaws.com"}}
    backend.create_role(
        role_name=ROLE,
        assume_role_policy_document=_document({**trust, "Action": "sts:AssumeRole"}),
        path="/",
        permissions_boundary=None,
        description="jobs on this machine",
        tags=[],
        max_session_duration="3600",
    )
    allow = {"Effect": "Allow", "Action": "*", "Resource": "*"}
    backend.put_role_policy(ROLE, "everything", _document(allow))


def _document(statement: Mapping[str, Any]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


def simulate(body: bytes) -> tuple[int, bytes] | None:
    """Answer SimulatePrincipalPolicy; None for any other action.

    Parameters
    ----------
    body : bytes
        The request's form.

    Returns
    -------
    status : int
    answer : bytes
        XML with a decision for each action: allowed, explicitDeny or implicitDeny, from the role's
        policies. The request's own context, policies and boundaries are refused.
    """
    form = parse_qs(body.decode(errors="replace"))
    if form.get("Action") != ["SimulatePrincipalPolicy"]:
        return None
    plain = ("Action", "Version", "PolicySourceArn", "MaxItems", "Marker", "CallerArn")
    for name in form:
        if name not in plain and not name.startswith(("ActionNames.", "ResourceArns.")):
            return _error(400, "InvalidInput", f"{name} is not supported on this machine")
    (arn,) = form.get("PolicySourceArn", [""])
    backend: IAMBackend = iam_backends[ACCOUNT]["aws"]
    role = next((role for role in backend.roles.values() if role.arn == arn), None)
    if role is None:
        return _error(404, "NoSuchEntity", f"The role {arn} cannot be found.")
    documents = [*role.policies.values()]
    documents += [policy.document for policy in role.managed_policies.values()]
    statements = list(_statements(documents))
    actions = [form[name][0] for name in form if name.startswith("ActionNames.")]
    resources = [form[name][0] for name in form if name.startswith("ResourceArns.")] or ["*"]
    results = "".join(
        f"<member><EvalActionName>{escape(action)}</EvalActionName>"
        f"<EvalResourceName>{escape(resource)}</EvalResourceName>"
        f"<EvalDecision>{decide(statements, action, resource)}</EvalDecision></member>"
        for action in actions
        for resource in resources
    )
    return 200, (
        f'<SimulatePrincipalPolicyResponse xmlns="{_NAMESPACE}"><SimulatePrincipalPolicyResult>'
        f"<IsTruncated>false</IsTruncated><EvaluationResults>{results}</EvaluationResults>"
        "</SimulatePrincipalPolicyResult></SimulatePrincipalPolicyResponse>"
    ).encode()


def decide(statements: list[Mapping[str, Any]], action: str, resource: str) -> str:
    """Return IAM's decision on an action, without a context for conditions to look at."""
    decision = "implicitDeny"
    for statement in statements:
        acts = _is_among(statement, "Action", action.lower())
        if acts and _is_among(statement, "Resource", resource) and _is_met(statement):
            if statement["Effect"] == "Deny":
                return "explicitDeny"
            decision = "allowed"
    return decision


def _statements(documents: list[str]) -> Iterator[Mapping[str, Any]]:
    for document in documents:
        found = json.loads(document)["Statement"]
        yield from [found] if isinstance(found, dict) else found


def _is_among(statement: Mapping[str, Any], element: str, value: str) -> bool:
    negated = f"Not{element}" in statement
    patterns = statement.get(f"Not{element}" if negated else element, [])
    patterns = [patterns] if isinstance(patterns, str) else patterns
    if element == "Action":
        patterns = [pattern.lower() for pattern in patterns]
    escaped = (pattern.replace("[", "[[]") for pattern in patterns)
    return any(fnmatch.fnmatchcase(value, pattern) for pattern in escaped) != negated


def _is_met(statement: Mapping[str, Any]) -> bool:
    # Without a context, only conditions that ask for nothing to be there hold.
    operators = statement.get("Condition", {})
    return all(operator.endswith("IfExists") for operator in operators)


def _error(status: int, code: str, message: str) -> tuple[int, bytes]:
    return status, (
        f'<ErrorResponse xmlns="{_NAMESPACE}"><Error><Type>Sender</Type><Code>{code}</Code>'
        f"<Message>{escape(message)}</Message></Error></ErrorResponse>"
    ).encode()
