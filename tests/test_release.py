"""What a release is made of: versions, licences, and packages that an index takes."""

import re
import shutil
import subprocess
import tarfile
import zipfile
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {
    "gam_model": "gam_model",
    "explainers": "explainers",
    "program_toolkit": "container/toolkit",
    "model_server": "container/server",
}


def test_there_is_one_version():
    versions = {name: import_module(name).__version__ for name in PACKAGES}
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[1]
    assert set(versions.values()) == {newest}, versions


@pytest.mark.parametrize("folder", PACKAGES.values())
def test_every_package_has_the_licence(folder):
    assert (ROOT / folder / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()


def test_packages_are_what_an_index_takes(tmp_path):
    for name in ("Makefile", "LICENSE", *PACKAGES.values()):
        source, target = ROOT / name, tmp_path / name
        if source.is_file():
            shutil.copy(source, target)
        else:
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("build", "*.egg-info"))
    made = subprocess.run(["make", "dist"], cwd=tmp_path, capture_output=True, text=True)
    assert made.returncode == 0, made.stdout + made.stderr  # `twine check --strict` is in it
    files = sorted((tmp_path / "build" / "dist").iterdir())
    assert len(files) == 2 * len(PACKAGES)
    for file in files:
        if file.suffix == ".whl":
            with zipfile.ZipFile(file) as archive:
                names = archive.namelist()
            assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names), file
        else:
            with tarfile.open(file) as archive:
                names = archive.getnames()
            assert any(re.fullmatch(r"[^/]+/LICENSE", name) for name in names), file
            assert not any("tests" in name for name in names), file
