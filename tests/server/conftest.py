import textwrap

import pytest


@pytest.fixture
def base(tmp_path):
    """An /opt/ml tree with an empty model."""
    (tmp_path / "ml" / "model").mkdir(parents=True)
    return tmp_path / "ml"


@pytest.fixture
def program(tmp_path):
    """Write a program; return its folder."""

    def write(text, folder=tmp_path / "programs"):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "model_logic.py").write_text(textwrap.dedent(text))
        return folder

    return write
