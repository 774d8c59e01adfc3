"""examples/credit.ipynb in mode process, on the shared data or on made-up rows."""

import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "examples" / "credit.ipynb"


def test_trains_twice_and_draws_both_pictures():
    pictures = [ROOT / "build" / f"credit_{name}.png" for name in ("waterfall", "summary")]
    for picture in pictures:
        picture.unlink(missing_ok=True)
    process = subprocess.run(
        [sys.executable, "-m", "local_mode.notebook", NOTEBOOK],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stdout + process.stderr
    assert process.stdout.count("this program was sent") == 1  # by the second job alone
    last = process.stdout.splitlines()[-1]
    match = re.fullmatch(r"credit: mode=process real=(True|False) auc_test=(\S+)", last)
    if match[1] == "True":
        assert 0.875 <= float(match[2]) <= 0.885
        assert "2000 customers, AUC" in process.stdout
    else:
        assert float(match[2]) > 0.7
    for picture in pictures:
        assert picture.read_bytes().startswith(b"\x89PNG")


def test_the_notebook_is_committed_without_output():
    for cell in nbformat.read(NOTEBOOK, as_version=4).cells:
        assert not cell.get("outputs")
