"""The image of credit_logic.py: what it does without, and what that saves."""

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.docker


@pytest.fixture(scope="module")
def credit(build, base_build):
    return build(
        "gam-model-test-credit",
        *("--file", str(ROOT / "container" / "Dockerfile")),
        *("--build-arg", f"BASE_IMAGE={base_build.name}"),
        *("--build-arg", "PROGRAM=credit_logic.py"),
        str(ROOT),
    ).name


def test_the_image_does_without_shap_and_numba(docker, build, credit):
    size = {}
    with_shap = f"FROM {credit}\nRUN python3 -m pip install --no-cache-dir shap\n"
    for name, image in (
        ("without", credit),
        ("with", build("gam-model-test-credit-shap", "-", input=with_shap).name),
    ):
        size[name] = json.loads(docker("image", "inspect", image).stdout)[0]["Size"]
    print(
        f"image: {size['without'] / 1e6:.0f} MB, with shap {size['with'] / 1e6:.0f} MB "
        f"(+{(size['with'] - size['without']) / 1e6:.0f})"
    )
    assert size["with"] > size["without"]  # by little, since shap no longer brings numba
    script = (
        "import sys, importlib.util as u, credit_logic;"
        "print([n for n in ('shap', 'numba', 'llvmlite') if u.find_spec(n) or n in sys.modules])"
    )
    assert docker("run", "--rm", credit, "python3", "-c", script).stdout.strip() == "[]"
