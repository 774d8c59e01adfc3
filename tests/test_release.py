"""What a release is made of: versions, licences, and packages that an index takes."""

import os
import re
import shutil
import subprocess
import sys
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


LOCKS = sorted(
    [*ROOT.glob("container/requirements/*.txt"), ROOT / "container/base/requirements.txt"]
)


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.parent.name + "/" + path.name)
def test_every_pin_has_hashes(lock):
    lines = lock.read_text().replace("\\\n", "").splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert len(pins) > 10
    assert all(re.search(r"^[\w.-]+==\S+ .*--hash=sha256:[0-9a-f]{64}", pin) for pin in pins)


def test_what_an_image_installs_must_have_a_pins_hash(tmp_path):
    """The pin of a package that is not installed here, with a hash that nothing has."""
    lock = tmp_path / "model_logic.txt"
    lock.write_text("colorama-x==1 \\\n    --hash=sha256:" + 64 * "0" + "\n")
    (tmp_path / "index" / "colorama-x").mkdir(parents=True)
    wheel = tmp_path / "index" / "colorama-x" / "colorama_x-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        info = "colorama_x-1.dist-info"
        archive.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: colorama-x\nVersion: 1\n"
        )
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    done = subprocess.run(
        [sys.executable, ROOT / "container/install_missing.py", lock],
        env={**os.environ, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheel.parent)},
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert "THESE PACKAGES DO NOT MATCH THE HASHES" in done.stdout + done.stderr
