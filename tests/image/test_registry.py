"""build_and_push.sh with a real engine and a real registry, and the image that comes back."""

import contextlib
import http.client
import json
import shutil
import subprocess

import pytest

pytestmark = pytest.mark.docker

MANIFESTS = (
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.oci.image.manifest.v1+json",
)
INDEXES = (
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.index.v1+json",
)


def get(host: str, path: str, accept: str = "*/*") -> tuple[int, str, bytes]:
    connection = http.client.HTTPConnection(host, timeout=30)
    with contextlib.closing(connection):
        connection.request("GET", path, headers={"Accept": accept})
        answer = connection.getresponse()
        return answer.status, answer.headers["Content-Type"], answer.read()


def answers(host: str) -> bool:
    with contextlib.suppress(OSError, http.client.HTTPException):
        return get(host, "/v2/")[0] == 200
    return False


@pytest.fixture
def registry(docker, containers, need, wait_for, wait_until, free_port, tmp_path):
    """The address of a registry on loopback: Debian's program, else the one from Docker Hub."""
    port = free_port()
    host = f"127.0.0.1:{port}"
    if not shutil.which("docker-registry"):
        pulled = docker("pull", "registry:2", check=False).returncode == 0
        need(pulled, "docker-registry is not installed, and registry:2 cannot be pulled")
        name = containers(f"--publish={host}:5000", "registry:2")
        wait_for(name, lambda: answers(host))
        yield host
        return
    storage, config, log = (tmp_path / name for name in ("storage", "registry.json", "log.txt"))
    content = {
        "version": 0.1,
        "storage": {"filesystem": {"rootdirectory": str(storage)}},
        "http": {"addr": host},
    }
    config.write_text(json.dumps(content))  # which is YAML too
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["docker-registry", "serve", str(config)], stdout=output, stderr=subprocess.STDOUT
        )
    try:
        wait_until(lambda: answers(host) or process.poll() is not None)
        assert process.poll() is None, log.read_text()
        yield host
    finally:
        process.terminate()
        process.wait(timeout=30)
        shutil.rmtree(storage, ignore_errors=True)


@pytest.fixture
def pushed(docker, registry, base_build, checkout):
    """The URI of an image whose program has a mark of its own; removed here after the push."""
    with (checkout / "code" / "model_logic.py").open("a") as program:
        program.write(f"\n# pushed to {registry}\n")
    for path in checkout.joinpath("code").iterdir():
        path.chmod(0o600)  # as a clone's files are under a strict umask
    result = subprocess.run(
        [
            str(checkout / "build_and_push.sh"),
            *("--registry", registry, "--base-image", base_build.name),
            *("--write-config", "gam-model"),
        ],
        cwd=checkout.parent,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert result.returncode == 0, result.stderr
    uri = result.stdout.splitlines()[-1]
    docker("image", "rm", uri)
    yield uri
    docker("image", "rm", "--force", uri)


def test_pushed_image_comes_back_whole(docker, registry, pushed, checkout, job, check_gauss3):
    assert pushed == f"{registry}/gam-model:latest"
    assert json.loads((checkout / "config.json").read_text())["image_uri"] == pushed

    # SageMaker takes an image, and no index of several.
    path = "/v2/gam-model/manifests/latest"
    status, media_type, _ = get(registry, path, ", ".join(MANIFESTS + INDEXES))
    assert (status, media_type in MANIFESTS) == (200, True), media_type

    assert docker("image", "inspect", pushed, check=False).returncode != 0
    docker("pull", pushed)
    anyone = ("run", "--rm", "--user=1000:0", "--cap-drop=ALL")
    program = docker(*anyone, pushed, "cat", "/opt/program/model_logic.py").stdout
    assert program == (checkout / "code" / "model_logic.py").read_text()
    check_gauss3(pushed, job)
