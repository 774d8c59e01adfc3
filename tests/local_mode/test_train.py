"""`python -m local_mode train`: a job and an endpoint from one line, by the command itself."""

import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def data(gauss3_split, tmp_path):
    lines = "".join(f"{y},{x}\n" for x, y in gauss3_split.train)
    (tmp_path / "peaks.csv").write_text(f"y,x\n{lines}")
    return tmp_path


def start(folder, *arguments):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "local_mode", "train", *arguments]
    return subprocess.Popen(
        command, cwd=folder, env=environment, text=True, stdout=-1, stderr=subprocess.PIPE
    )


@pytest.mark.parametrize("with_header", [True, False])
def test_the_curl_line_works_and_ctrl_c_leaves_nothing(data, with_header):
    if not with_header:
        (data / "peaks.csv").write_text((data / "peaks.csv").read_text().partition("\n")[2])
    process = start(data, "peaks.csv", "--target", "y" if with_header else "0", "--serve")
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith("Ctrl-C"):
            break
    text = "".join(lines)
    curl = next(line for line in lines if line.startswith("curl "))
    answer = subprocess.run(curl, shell=True, text=True, capture_output=True, check=True).stdout
    process.send_signal(signal.SIGINT)
    _, complaint = process.communicate(timeout=60)
    assert '"prediction":[' in answer
    assert '"shap_values"' in answer
    assert (process.returncode, complaint) == (0, "")
    assert re.search(r"r2_train +0\.99", text)
    assert "sagemaker-training-toolkit" not in text
    assert "SM_HOSTS" not in text
    kept = {path.name for path in (data / "build/peaks").iterdir()}
    assert kept == {"job.log", "model.tar.gz", "page.html", "report.html"}
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(re.search(r"http://\S+", curl)[0].strip("'"), timeout=5)


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["peak.csv"], 1, "peak.csv does not exist; did you mean peaks.csv?"),
        (["peaks.csv", "--target", "z"], 1, "target='z' is not a column; there are 'y', 'x'"),
        (["peaks.csv", "--program", "model_logik.py"], 1, "did you mean model_logic.py"),
        (["peaks.csv", "--output", "."], 1, "--output . is there already"),
        (["peaks.csv", "--hyperparameter", "df"], 2, "'df' is not NAME=VALUE"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(data, arguments, code, told):
    process = start(data, *arguments)
    _, complaint = process.communicate(timeout=60)
    assert process.returncode == code
    assert told in complaint
    assert "Traceback" not in complaint
    assert not (data / "build/peaks").exists()
