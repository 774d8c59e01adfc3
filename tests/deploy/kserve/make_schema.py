"""Make inferenceservice.json from the models in KServe's own wheel.

    pip download --no-deps kserve==0.21.0 && python make_schema.py kserve-0.21.0-*.whl

KServe generates these models from the Go types from which its CRD is generated too. Types of
Kubernetes become references to the definitions that kubernetes-validate brings along.
"""

import ast
import json
import re
import sys
import zipfile
from pathlib import Path

PLAIN = {"str": "string", "int": "integer", "bool": "boolean", "float": "number"}
DEFINITIONS = "https://kubernetes.io/api/_definitions.json#/$defs/io.k8s."
KUBERNETES = {
    "V1ObjectMeta": "apimachinery.pkg.apis.meta.v1.ObjectMeta",
    "ResourceQuantity": "apimachinery.pkg.api.resource.Quantity",
    "K8sIoApiAppsV1DeploymentStrategy": "api.apps.v1.DeploymentStrategy",
    "K8sIoApiAutoscalingV2HorizontalPodAutoscalerBehavior": (
        "api.autoscaling.v2.HorizontalPodAutoscalerBehavior"
    ),
}


def read_models(wheel: Path) -> dict:
    """Read each model's fields, as name in the manifest -> type, and the required ones."""
    models = {}
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if not re.fullmatch(r"kserve/models/v1.*\.py", name):
                continue
            text = archive.read(name).decode()
            for node in ast.parse(text).body:
                if isinstance(node, ast.ClassDef):
                    tables = {
                        statement.targets[0].id: ast.literal_eval(statement.value)
                        for statement in node.body
                        if isinstance(statement, ast.Assign)
                        and isinstance(statement.value, ast.Dict)
                    }
                    names = tables["attribute_map"]
                    required = re.findall(r"value for `(\w+)`, must not be `None`", text)
                    models[node.name] = (
                        {names[k]: kind for k, kind in tables["openapi_types"].items()},
                        sorted({names[k] for k in required}),
                    )
    return models


def to_schema(kind: str, models: dict) -> dict:
    """Translate a type of the generator's Python into JSON schema."""
    if match := re.fullmatch(r"list\[(.+)\]", kind):
        return {"type": "array", "items": to_schema(match[1], models)}
    if match := re.fullmatch(r"dict\(str, (.+)\)", kind):
        return {"type": "object", "additionalProperties": to_schema(match[1], models)}
    if kind in PLAIN:
        return {"type": PLAIN[kind]}
    if kind in models:
        return {"$ref": f"#/$defs/{kind}"}
    if kind == "V1beta1MetricQuantity":  # has no model of its own
        return {"type": ["string", "integer"]}
    core = "api.core.v1." + kind.removeprefix("V1")
    return {"$ref": DEFINITIONS + KUBERNETES.get(kind, core)}


def main() -> None:
    """Write the schema of what a manifest may say; a status is not for manifests."""
    wheel = Path(sys.argv[1])
    models = read_models(wheel)
    definitions, todo = {}, ["V1beta1InferenceService"]
    while todo:
        name = todo.pop()
        if name in definitions:
            continue
        fields, required = models[name]
        fields = {key: kind for key, kind in fields.items() if key != "status"}
        definitions[name] = {
            "type": "object",
            "properties": {key: to_schema(kind, models) for key, kind in fields.items()},
            "required": required,
            "additionalProperties": False,
        }
        todo += [
            word for kind in fields.values() for word in re.findall(r"\w+", kind) if word in models
        ]
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$comment": f"By make_schema.py from {wheel.name}, (c) The KServe Authors, Apache-2.0",
        "$ref": "#/$defs/V1beta1InferenceService",
        "$defs": dict(sorted(definitions.items())),
    }
    text = json.dumps(schema, indent=1)
    Path(__file__).with_name("inferenceservice.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
