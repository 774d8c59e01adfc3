"""deploy/kubernetes: what is rendered is valid, strict, the same each time, and fits together."""

import copy
import io
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import boto3
import kubernetes_validate
import pytest
import yaml
from jsonschema import Draft202012Validator, ValidationError
from kubernetes_validate import utils
from moto.server import ThreadedMotoServer
from referencing import Registry, Resource

ROOT = Path(__file__).parents[2]
KUBERNETES = ROOT / "deploy" / "kubernetes"
FETCH_MODEL = KUBERNETES / "fetch_model" / "fetch_model.py"
OVERLAYS = ["overlays/local", "overlays/production", "kserve"]


def render(overlay: str, target: Path, folder: Path = ROOT) -> bytes:
    if not (shutil.which("kustomize") or shutil.which("kubectl")):
        reason = "neither kustomize nor kubectl is installed"
        pytest.fail(reason) if os.environ.get("REQUIRE_TOOLS") == "1" else pytest.skip(reason)
    done = subprocess.run(
        ["make", "--no-print-directory", "manifests", f"OVERLAY={overlay}", f"MANIFESTS={target}"],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return target.read_bytes()


@pytest.fixture(scope="module")
def rendered(tmp_path_factory) -> dict[str, list[dict]]:
    folder = tmp_path_factory.mktemp("manifests")
    return {
        overlay: list(yaml.safe_load_all(render(overlay, folder / "one.yaml")))
        for overlay in OVERLAYS
    }


def find(manifests, kind):
    return [manifest for manifest in manifests if manifest["kind"] == kind]


def pods(manifests):
    """Yield every pod's spec: the Deployment's, or the InferenceService's two."""
    for manifest in find(manifests, "Deployment"):
        yield manifest["spec"]["template"]["spec"]
    for manifest in find(manifests, "InferenceService"):
        yield from manifest["spec"].values()


@pytest.fixture(scope="module")
def validate():
    """Refuse a manifest with an unknown or a wrong field, as `kubernetes-validate --strict` does.

    For an InferenceService the schema is KServe's, and the pods in it are Kubernetes'.
    """
    latest = kubernetes_validate.latest_version()
    definitions = utils.schema_contents(
        f"kubernetes-json-schema/v{latest}-local-strict/_definitions.json", latest
    )
    kserve = json.loads((Path(__file__).parent / "kserve" / "inferenceservice.json").read_text())
    registry = Resource.from_contents(definitions) @ Registry()
    inference_service = Draft202012Validator(kserve, registry=registry)

    def check(manifest: dict, version: str = latest) -> None:
        if manifest["kind"] == "InferenceService":
            inference_service.validate(manifest)
        else:
            kubernetes_validate.validate(manifest, version, strict=True)

    return check


class TestSchema:
    @pytest.mark.parametrize("version", ["1.27", "latest"])
    @pytest.mark.parametrize("overlay", OVERLAYS)
    def test_every_field_is_known(self, rendered, validate, overlay, version):
        for manifest in rendered[overlay]:
            validate(manifest, *([] if version == "latest" else [version]))

    @pytest.mark.parametrize("overlay", OVERLAYS)
    def test_any_misspelt_field_is_found(self, rendered, validate, overlay):
        """Every field of every manifest, one after the other, but for free-form maps."""
        free = {"data", "labels", "annotations", "matchLabels", "limits", "requests", "selector"}

        def paths(node, at=()):
            if isinstance(node, dict):
                for key, value in node.items():
                    yield (*at, key)
                    if key not in free:
                        yield from paths(value, (*at, key))
            if isinstance(node, list):
                for i, value in enumerate(node):
                    yield from paths(value, (*at, i))

        tried = 0
        for manifest in rendered[overlay]:
            for *parents, key in paths(manifest):
                if parents == [] and key in ("kind", "apiVersion"):
                    continue
                broken = copy.deepcopy(manifest)
                node = broken
                for step in parents:
                    node = node[step]
                node[f"{key}x"] = node.pop(key)
                with pytest.raises(ValidationError):
                    validate(broken)
                tried += 1
        assert tried > 80


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_same_bytes_each_time(tmp_path, overlay):
    first = render(overlay, tmp_path / "first.yaml")
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(KUBERNETES, elsewhere / "deploy" / "kubernetes")
    shutil.copy(ROOT / "Makefile", elsewhere)
    assert render(overlay, tmp_path / "second.yaml", elsewhere) == first


@pytest.mark.parametrize("overlay", ["overlays/local", "overlays/production"])
def test_another_program_takes_two_values(tmp_path, overlay):
    shutil.copytree(KUBERNETES, tmp_path / "deploy" / "kubernetes")
    shutil.copy(ROOT / "Makefile", tmp_path)
    before = render(overlay, tmp_path / "before.yaml", tmp_path).decode()
    path = tmp_path / "deploy" / "kubernetes" / overlay / "kustomization.yaml"
    text = re.sub(r"newName: \S+", "newName: registry.example/income", path.read_text())
    text = re.sub(r"MODEL_URI=\S+", "MODEL_URI=s3://bucket/income/model.tar.gz", text)
    path.write_text(text)
    after = render(overlay, tmp_path / "after.yaml", tmp_path).decode()

    (deployment,) = find(yaml.safe_load_all(after), "Deployment")
    pod = deployment["spec"]["template"]["spec"]
    images = {c["image"].rpartition(":")[0] for c in pod["initContainers"] + pod["containers"]}
    assert images == {"registry.example/income"}
    changed = [
        line
        for line, other in zip(after.splitlines(), before.splitlines(), strict=True)
        if line != other
    ]
    # Two images, the URI, and its ConfigMap's new name where it is defined and where it is used.
    assert len(changed) == 5


class TestPods:
    @pytest.mark.parametrize("overlay", OVERLAYS)
    def test_they_may_do_nothing_that_they_need_not(self, rendered, overlay):
        found = list(pods(rendered[overlay]))
        assert len(found) == (2 if overlay == "kserve" else 1)
        for pod in found:
            assert pod["automountServiceAccountToken"] is False
            assert pod["securityContext"]["runAsNonRoot"] is True
            assert pod["securityContext"]["runAsUser"] > 0
            assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
            writable = {volume["name"] for volume in pod["volumes"] if "emptyDir" in volume}
            for container in pod["initContainers"] + pod["containers"]:
                assert container["securityContext"] == {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]},
                }
                assert container["resources"]["requests"].keys() == {"cpu", "memory"}
                assert "memory" in container["resources"]["limits"]
                for mount in container["volumeMounts"]:
                    assert mount.get("readOnly") or mount["name"] in writable

    @pytest.mark.parametrize("overlay", OVERLAYS)
    def test_they_serve_what_they_fetched(self, rendered, overlay):
        for pod in pods(rendered[overlay]):
            (fetch,), (serve,) = pod["initContainers"], pod["containers"]
            (model,) = (m for m in serve["volumeMounts"] if m["mountPath"] == "/opt/ml/model")
            assert model["name"] in {m["name"] for m in fetch["volumeMounts"]}
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                if probe in serve:
                    assert serve[probe]["httpGet"]["path"] == "/ping"
            assert "readinessProbe" in serve

    @pytest.mark.parametrize("overlay", OVERLAYS)
    def test_references_meet_what_is_rendered(self, rendered, overlay):
        """kustomize renames a ConfigMap with its content; a reference left behind dangles."""
        made = {m["metadata"]["name"] for m in find(rendered[overlay], "ConfigMap")}
        secrets = {m["metadata"]["name"] for m in find(rendered[overlay], "Secret")}
        for pod in pods(rendered[overlay]):
            named = {v["configMap"]["name"] for v in pod["volumes"] if "configMap" in v}
            for source in itertools.chain(*(c.get("envFrom", []) for c in pod["initContainers"])):
                if "configMapRef" in source:
                    named.add(source["configMapRef"]["name"])
                elif secrets:
                    assert source["secretRef"]["name"] in secrets
                else:  # made by hand, and absent where the cluster has another way
                    assert source["secretRef"] == {"name": "model-store", "optional": True}
            assert named == made

    def test_tags_name_a_version_in_production(self, rendered):
        for overlay in ("overlays/production", "kserve"):
            for pod in pods(rendered[overlay]):
                for container in pod["initContainers"] + pod["containers"]:
                    assert not container["image"].endswith(":latest")


@pytest.mark.parametrize("overlay", ["overlays/local", "overlays/production"])
class TestSelectors:
    def test_they_select_the_pods(self, rendered, overlay):
        manifests = rendered[overlay]
        (deployment,) = find(manifests, "Deployment")
        labels = deployment["spec"]["template"]["metadata"]["labels"].items()
        (service,) = find(manifests, "Service")
        (budget,) = find(manifests, "PodDisruptionBudget")
        (policy,) = find(manifests, "NetworkPolicy")
        for selector in (
            deployment["spec"]["selector"]["matchLabels"],
            service["spec"]["selector"],
            budget["spec"]["selector"]["matchLabels"],
            policy["spec"]["podSelector"]["matchLabels"],
        ):
            assert selector
            assert selector.items() <= labels
        (scaler,) = find(manifests, "HorizontalPodAutoscaler")
        assert scaler["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
        assert "replicas" not in deployment["spec"]

    def test_only_labelled_clients_may_ask(self, rendered, overlay):
        (policy,) = find(rendered[overlay], "NetworkPolicy")
        assert set(policy["spec"]["policyTypes"]) == {"Ingress", "Egress"}
        (rule,) = policy["spec"]["ingress"]
        for peer in rule["from"]:
            (selector,) = peer.values()
            assert selector == {"matchLabels": {"model-client": "true"}}
        (port,) = rule["ports"]
        (deployment,) = find(rendered[overlay], "Deployment")
        (serve,) = deployment["spec"]["template"]["spec"]["containers"]
        assert port["port"] == serve["ports"][0]["containerPort"]


@pytest.fixture
def rename(tmp_path):
    """Render an overlay over another one."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    shutil.copytree(KUBERNETES, tmp_path / "deploy" / "kubernetes")

    def rename(overlay: str, fields: dict, mine: str = "mine") -> list[dict]:
        folder = tmp_path / "deploy" / "kubernetes" / mine
        folder.mkdir()
        content = {"resources": [f"../{overlay}"], **fields}
        (folder / "kustomization.yaml").write_text(yaml.safe_dump(content))
        return list(yaml.safe_load_all(render(mine, tmp_path / "one.yaml", tmp_path)))

    return rename


@pytest.fixture(
    params=[{}, {"namePrefix": "team-", "nameSuffix": "-v2", "namespace": "other"}],
    ids=["as it is", "renamed"],
)
def kserve(request, rename):
    """The manifests of kserve/, also as another overlay renames them."""
    manifests = rename("kserve", request.param)
    for manifest in manifests:
        name = manifest["metadata"]["name"]
        assert name.startswith(request.param.get("namePrefix", ""))
        assert manifest["metadata"]["namespace"] == request.param.get("namespace", "models")
    return manifests


def read_environment(pod) -> dict[str, str]:
    """Return the variables of a pod's server, with $(NAME) put in as Kubernetes does."""
    (serve,) = pod["containers"]
    values = {}
    for variable in serve["env"]:  # only those that come before are known
        value = re.sub(r"\$\((\w+)\)", lambda name: values[name[1]], variable["value"])
        values[variable["name"]] = value
    return values


def test_kserve_finds_the_model_under_the_services_own_name(kserve):
    """The router asks for /v1/models/<name of the InferenceService>:predict."""
    (service,) = find(kserve, "InferenceService")
    for pod in pods(kserve):
        assert read_environment(pod)["KSERVE_MODEL_NAME"] == service["metadata"]["name"]


def label_pods(kserve) -> list[dict[str, str]]:
    """Return the labels that KServe gives the pods of predictor and explainer."""
    (service,) = find(kserve, "InferenceService")
    name = {"serving.kserve.io/inferenceservice": service["metadata"]["name"]}
    return [name | {"component": component} for component in ("predictor", "explainer")]


def test_the_explainer_finds_the_predictor(kserve):
    predictor, explainer = label_pods(kserve)
    (service,) = find(kserve, "Service")
    (url,) = filter(None, (read_environment(pod).get("PREDICTOR_URL") for pod in pods(kserve)))
    assert url == f"http://{service['metadata']['name']}/invocations"
    assert service["spec"]["selector"].items() <= predictor.items()
    assert not service["spec"]["selector"].items() <= explainer.items()
    (port,) = service["spec"]["ports"]
    assert (port["port"], port["targetPort"]) == (80, 8080)


def test_kserves_pods_talk_to_whom_they_must_and_to_no_other(kserve):
    predictor, explainer = label_pods(kserve)
    (policy,) = find(kserve, "NetworkPolicy")
    spec = policy["spec"]
    selector = spec["podSelector"]["matchLabels"].items()
    assert selector
    assert selector <= predictor.items() & explainer.items()
    assert set(spec["policyTypes"]) == {"Ingress", "Egress"}
    (rule,) = spec["ingress"]
    assert [port["port"] for port in rule["ports"]] == [8080]
    allowed = [peer.get("podSelector", {}).get("matchLabels", {}) for peer in rule["from"]]
    assert any(labels and labels.items() <= explainer.items() for labels in allowed)
    client = {"matchLabels": {"model-client": "true"}}
    assert {"podSelector": client} in rule["from"]
    assert {"namespaceSelector": client} in rule["from"]
    out = {}
    for rule in spec["egress"]:
        for port in rule["ports"]:
            out[port["protocol"], port["port"]] = rule.get("to")
    assert out.keys() == {("UDP", 53), ("TCP", 53), ("TCP", 443), ("TCP", 8080)}
    ((peer,),) = [to for to in out.values() if to]
    assert peer["podSelector"]["matchLabels"].items() <= predictor.items()


def test_kserve_finds_a_secret_that_an_overlay_makes(rename):
    secret = {"name": "model-store", "literals": ["AWS_ENDPOINT_URL=http://minio:9000"]}
    fields = {"namePrefix": "team-", "namespace": "models", "secretGenerator": [secret]}
    manifests = rename("kserve", fields)
    (made,) = find(manifests, "Secret")
    for pod in pods(manifests):
        (fetch,) = pod["initContainers"]
        assert fetch["envFrom"][1]["secretRef"]["name"] == made["metadata"]["name"]


@pytest.mark.parametrize("overlay", ["overlays/local", "overlays/production"])
def test_two_programs_in_one_namespace_keep_apart(rename, overlay):
    labels, selectors = {}, {}
    for mine in ("first", "second"):
        manifests = rename(f"{overlay}", {"namePrefix": f"{mine}-"}, mine)
        (deployment,) = find(manifests, "Deployment")
        template = deployment["spec"]["template"]
        labels[mine] = template["metadata"]["labels"].items()
        spread = template["spec"].get("topologySpreadConstraints", [])
        selectors[mine] = [
            deployment["spec"]["selector"]["matchLabels"],
            find(manifests, "Service")[0]["spec"]["selector"],
            find(manifests, "PodDisruptionBudget")[0]["spec"]["selector"]["matchLabels"],
            find(manifests, "NetworkPolicy")[0]["spec"]["podSelector"]["matchLabels"],
            *(each["labelSelector"]["matchLabels"] for each in spread),
        ]
    for mine, own in selectors.items():
        for selector in own:
            assert [name for name, pods in labels.items() if selector.items() <= pods] == [mine]


def test_local_reaches_its_store(rendered):
    (secret,) = find(rendered["overlays/local"], "Secret")
    (policy,) = find(rendered["overlays/local"], "NetworkPolicy")
    assert "AWS_ENDPOINT_URL" in secret["data"]
    ports = {port["port"] for rule in policy["spec"]["egress"] for port in rule["ports"]}
    assert ports == {53, 443, 9000}


def test_no_secret_is_kept_for_production(rendered):
    assert not find(rendered["overlays/production"] + rendered["kserve"], "Secret")


# ---------------------------------------------------------------- the init container


@pytest.fixture(scope="module")
def store():
    """A server of S3 on loopback, as MinIO is one."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    environ = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "minioadmin",
        "AWS_SECRET_ACCESS_KEY": "minioadmin",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    client = boto3.client(
        "s3",
        endpoint_url=environ["AWS_ENDPOINT_URL"],
        aws_access_key_id="minioadmin",
        aws_secret_access_key="minioadmin",
        region_name="us-east-1",
    )
    client.create_bucket(Bucket="models")

    def put(key: str, body: bytes) -> dict[str, str]:
        client.put_object(Bucket="models", Key=key, Body=body)
        return environ

    yield put
    server.stop()


def archive(**files: str) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name.replace("__", "/"))
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content.encode()))
    return stream.getvalue()


def fetch(environ: dict[str, str], uri: str, folder: Path, command=(FETCH_MODEL,)):
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("AWS_")}
    return subprocess.run(
        [sys.executable, *command],
        env={**inherited, **environ, "MODEL_URI": uri, "MODEL_DIR": str(folder)},
        capture_output=True,
        text=True,
    )


def test_a_model_is_fetched_and_unpacked(store, tmp_path):
    environ = store("a/model.tar.gz", archive(**{"model.json": "{}", "code__x.py": "pass"}))
    done = fetch(environ, "s3://models/a/model.tar.gz", tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "model.json").read_text() == "{}"
    assert (tmp_path / "code" / "x.py").read_text() == "pass"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["code", "model.json"]


@pytest.mark.parametrize(
    ("body", "uri", "complaint"),
    [
        (None, "s3://models/none.tar.gz", "cannot fetch s3://models/none.tar.gz: .*404"),
        (None, "https://models/b.tar.gz", "is not of the form s3://bucket/model.tar.gz"),
        (b"no archive", "s3://models/b.tar.gz", "b.tar.gz cannot be unpacked: not a gzip file"),
        (archive(m="x" * 9999)[:60], "s3://models/b.tar.gz", "b.tar.gz cannot be unpacked: "),
        (archive(**{"..__out": "x"}), "s3://models/b.tar.gz", "cannot be unpacked: .* outside"),
    ],
    ids=["absent", "no S3", "no archive", "truncated", "climbs out"],
)
def test_what_cannot_be_fetched_is_said(store, tmp_path, body, uri, complaint):
    folder = tmp_path / "model"
    folder.mkdir()
    done = fetch(store("b.tar.gz", body or b""), uri, folder)
    assert done.returncode == 1
    assert re.search(f"^fetch_model: .*{complaint}", done.stderr), done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "kind", "complaint"),
    [
        ("../out", tarfile.REGTYPE, "would lie outside of"),
        ("out", tarfile.SYMTYPE, "is neither a file nor a folder"),
        ("code/x.py", tarfile.REGTYPE, None),
    ],
)
def test_an_older_python_lets_nothing_climb_out_either(store, tmp_path, name, kind, complaint):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, "../out" if kind == tarfile.SYMTYPE else ""
        tar.addfile(member)
    old = (
        "import runpy, sys, tarfile; vars(tarfile).pop('data_filter', None); "
        "runpy.run_path(sys.argv[1], run_name='__main__')"
    )
    folder = tmp_path / "model"
    folder.mkdir()
    environ = store("old.tar.gz", stream.getvalue())
    done = fetch(environ, "s3://models/old.tar.gz", folder, ("-c", old, FETCH_MODEL))
    if complaint:
        assert done.returncode == 1
        assert re.search(f"^fetch_model: .*{complaint}", done.stderr), done.stderr
        assert not list(folder.iterdir())
    else:
        assert done.returncode == 0, done.stderr
        assert (folder / name).is_file()
    assert not (tmp_path / "out").exists()
