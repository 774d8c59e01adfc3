"""The contract's own tests against the image, as SageMaker starts it and in a sandbox."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.docker

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def model(tmp_path_factory, lay_out, image, train) -> Path:
    job = lay_out(tmp_path_factory.mktemp("contract"))
    result = train(image, job)
    assert result.returncode == 0, result.stdout
    return job.model


def test_the_image_keeps_the_contract(image, model):
    command = [sys.executable, "-m", "pytest", "tests/contract/test_contract.py"]
    result = subprocess.run(
        [*command, f"--image={image}", f"--model={model}"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert result.returncode == 0, result.stdout
