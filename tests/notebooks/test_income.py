"""examples/income.ipynb in mode process, on UCI's own files."""

import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "examples" / "income.ipynb"


def run(**environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "local_mode.notebook", NOTEBOOK],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
    )


def test_process_mode():
    folders = [Path(os.environ.get("DATA_DIR", "data")), ROOT / ".." / "shared" / "data"]
    folder = next((folder for folder in folders if (folder / "adult.tar.xz").exists()), None)
    if folder is None:
        pytest.skip(f"no adult.tar.xz in DATA_DIR or {folders[-1]}")
    picture = ROOT / "build" / "income_anchors.png"
    picture.unlink(missing_ok=True)
    process = run(DATA_DIR=str(folder.resolve()))
    assert process.returncode == 0, process.stdout + process.stderr
    *_, last = process.stdout.splitlines()
    match = re.fullmatch(
        r"income: mode=process accuracy=(\S+) auc=(\S+) "
        r"found_90=(\S+) found_95=(\S+) found_99=(\S+)",
        last,
    )
    accuracy, auc, found_90, found_95, _ = map(float, match.groups())
    assert accuracy >= 0.845
    assert auc >= 0.9
    assert found_90 >= 0.8
    assert found_95 >= 0.75
    assert "among held-out rows:" in process.stdout
    assert "the explainer alone gives the same 50 anchors" in process.stdout
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_without_the_data_it_says_where_to_get_them(tmp_path):
    nowhere = "http://127.0.0.1:1"
    process = run(
        DATA_DIR=str(tmp_path), https_proxy=nowhere, HTTPS_PROXY=nowhere, no_proxy="127.0.0.1"
    )
    assert process.returncode == 1
    message = f"There is no adult.data in {tmp_path}, and UCI cannot be reached"
    assert message in process.stderr
    assert "let DATA_DIR name their folder" in process.stderr


def test_it_is_committed_without_output():
    for cell in nbformat.read(NOTEBOOK, as_version=4).cells:
        assert not cell.get("outputs")
