"""The notebook in Docker mode, and `make demo` on a machine that has Python and make only."""

import json
import os
import re
import shutil
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

pytestmark = pytest.mark.docker

ROOT = Path(__file__).parents[2]


def assert_demo_line(line: str, mode: str) -> None:
    match = re.fullmatch(rf"demo: mode={mode} r2_train=(\S+) r2_test=(\S+)", line)
    assert match, line
    assert float(match[1]) >= 0.99
    assert float(match[2]) >= 0.99


@pytest.fixture
def compose(docker, need):
    """What the SDK's local mode runs containers with."""
    version = docker("compose", "version", check=False).stdout
    need(
        shutil.which("docker-compose") or "v2" in version,
        "there is neither docker-compose nor version 2 of docker compose",
    )


@pytest.fixture
def notebook_image(docker, image):
    """A name of the image's that only this test uses, to know its containers by."""
    name = f"gam-model-test-notebook:{uuid.uuid4().hex[:12]}"
    docker("tag", image, name)
    yield name
    ours = [container for container, _ in containers_of(docker, name)]
    if ours:
        docker("rm", "--force", *ours)
    docker("image", "rm", name)


def containers_of(docker, image: str) -> list[tuple[str, str]]:
    """Return id and state of every container that was started by this name of an image."""
    listing = docker("ps", "--all", "--format", "{{.ID}} {{.State}} {{.Image}}").stdout
    rows = (line.split() for line in listing.splitlines())
    return [(container, state) for container, state, name in rows if name == image]


def test_notebook_runs_in_containers_and_leaves_none(docker, compose, notebook_image, tmp_path):
    config = json.loads((ROOT / "config.json").read_text())
    file = tmp_path / "config.json"
    file.write_text(json.dumps({**config, "mode": "docker", "image_uri": notebook_image}))
    result = subprocess.run(
        [sys.executable, "-m", "local_mode.notebook", "example.ipynb"],
        cwd=ROOT,
        env={**os.environ, "CONFIG": str(file)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert_demo_line(result.stdout.splitlines()[-1], "docker")
    states = [state for _, state in containers_of(docker, notebook_image)]
    assert states == ["exited"] * 2  # one that trained, one that served


MAKE_DEMO = """
command -v make || { apt-get update && apt-get install -y --no-install-recommends make; } || exit
! command -v cc || exit
make demo
"""


def test_demo_in_a_fresh_clone(docker, containers, checkout, python_image, tmp_path):
    container = containers("--workdir=/project", python_image, "sleep", "infinity")
    docker("cp", f"{checkout}/.", f"{container}:/project")
    result = docker("exec", container, "sh", "-c", MAKE_DEMO, check=False)
    assert result.returncode == 0, result.stdout
    assert_demo_line(result.stdout.splitlines()[-1], "process")
    docker("cp", f"{container}:/project/build/gauss3_fitted.png", str(tmp_path))
    assert (tmp_path / "gauss3_fitted.png").read_bytes().startswith(b"\x89PNG")
