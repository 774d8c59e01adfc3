import os
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


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


@pytest.fixture(scope="session")
def installed():
    """Install a package that tests alone import, into a folder of its own; return the folder."""

    def install(pin, *options):
        folder = ROOT / "build" / pin
        if not folder.exists():
            folder.parent.mkdir(exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
                target = Path(scratch, "target")
                command = [sys.executable, "-m", "pip", "install", "--target", target, *options]
                done = subprocess.run([*command, pin], capture_output=True, text=True)
                if done.returncode:
                    reason = f"{pin} cannot be installed: {done.stderr.strip().splitlines()[-1]}"
                    required = os.environ.get("REQUIRE_TOOLS") == "1"
                    pytest.fail(reason) if required else pytest.skip(reason)
                if not folder.exists():  # else another process was faster
                    target.replace(folder)
        return folder

    return install


# Does what the body says. `hold` never lets go of Python's lock, as bad C code does.
OBEDIENT = """
import os, time

def model_fn(model_dir): return bytearray(60_000_000)
def input_fn(body, content_type): return body.decode().split()
def predict_fn(data, model):
    order, *number = data
    if order == "sleep": time.sleep(float(number[0]))
    elif order == "hold": sum(range(10**12))
    elif order == "die": os.abort()
    elif order == "exit": os._exit(0)
    elif order == "pid": return str(os.getpid())
    elif order == "big": return "x" * int(number[0])
    elif order == "touch": return str(sum(model[::4096]))
    return order
def output_fn(prediction, accept): return prediction, "text/plain"
"""


@pytest.fixture
def obedient(program):
    """The folder of a program that does as it's told."""
    return program(OBEDIENT)


@pytest.fixture
def start(serve, base, obedient):
    """Start the server with the obedient program."""

    def start(**variables):
        return serve(base, obedient, **variables)

    return start


@pytest.fixture(scope="module")
def gauss3(training_job, gauss3_split):
    """A finished job on NIST's Gauss3."""
    csv = "".join(f"{x},{y}\n" for x, y in gauss3_split.train)
    job = training_job({"train/gauss3.csv": csv}).run()
    assert job.exit_code == 0, job.log
    return job
