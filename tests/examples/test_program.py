"""A program of one's own, as docs/your-own-program.md starts it."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("code", "container", "examples", "tests", "docs")
MADE = [
    "code/churn_logic.py",
    "container/requirements/churn_logic.in",
    "container/requirements/churn_logic.apt",
    "tests/code/test_churn_logic.py",
    "examples/churn.json",
]


@pytest.fixture
def project(tmp_path):
    for folder in FOLDERS:
        ignored = shutil.ignore_patterns("__pycache__", "build", "*.egg-info")
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=ignored)
    for file in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / file, tmp_path / file)
    return tmp_path


def make(project, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["make", "--no-print-directory", *arguments],
        cwd=project,
        env={name: value for name, value in os.environ.items() if "MAKE" not in name},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_a_program_starts_from_one_that_works(project):
    made = make(project, "program", "NAME=churn")
    assert made.returncode == 0, made.stdout
    assert made.stdout.split() == MADE
    texts = [(project / name).read_text() for name in MADE]
    assert not any("skeleton" in text.lower() for text in texts)

    command = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/code/test_churn_logic.py"]
    tested = subprocess.run(
        [sys.executable, *command],
        cwd=project,
        env={name: value for name, value in os.environ.items() if "PYTEST" not in name},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert tested.returncode == 0, tested.stdout
    assert re.search(r"^5 passed", tested.stdout, re.MULTILINE), tested.stdout

    again = make(project, "program", "NAME=churn")
    assert again.returncode != 0
    assert "code/churn_logic.py is there already" in again.stdout
    assert [(project / name).read_text() for name in MADE] == texts


@pytest.mark.parametrize("name", ["", "Churn", "my-churn", "1st", "a b", "../x"])
def test_other_names_are_refused(project, name):
    made = make(project, "program", f"NAME={name}")
    assert made.returncode != 0
    assert "make program NAME=churn" in made.stdout
    assert len(list((project / "code").iterdir())) == 4


def test_pins_that_are_missing_are_named(project):
    script = project / "container" / "install_missing.py"
    command = [sys.executable, script, "churn_logic.txt"]
    ended = subprocess.run(command, cwd=project, capture_output=True, text=True)
    assert ended.returncode == 1
    assert "no container/requirements/churn_logic.txt" in ended.stderr
    assert "make lock PROGRAM=churn" in ended.stderr


def test_the_page_names_what_is_made():
    page = (ROOT / "docs" / "your-own-program.md").read_text()
    for name in MADE:
        assert f"| `{name}` |" in page
