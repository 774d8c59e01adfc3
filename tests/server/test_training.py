"""The training toolkit's framework module, where it is stopped, and where code lies elsewhere."""

import signal
import socket

import pytest


def send(job, source, program: str) -> None:
    sent = {"sagemaker_program": program, "sagemaker_submit_directory": f"file://{source}"}
    job.configure("hyperparameters", sent)


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "train.py").write_text("print('sent', flush=True)")
    return folder


def test_sigterm_while_requirements_are_installed(training_job, source, monkeypatch):
    (source / "requirements.txt").write_text("no-such-package-of-ours")
    with socket.create_server(("127.0.0.1", 0)) as index:  # takes requests and answers none
        port = index.getsockname()[1]
        monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
        monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{port}/simple")
        monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
        job = training_job({"train/t.csv": "1,2\n"})
        send(job, source, "train.py")
        process = job.start()
        try:
            index.settimeout(60)
            client, _ = index.accept()  # pip
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=20)
            client.close()
        finally:
            process.kill()
            process.communicate()
    assert process.returncode == 1
    assert job.failure == "stopped by SIGTERM before the program was started"


def test_what_is_sent_is_unpacked_elsewhere_where_the_code_folder_is_taken(training_job, source):
    job = training_job({"train/t.csv": "1,2\n"})
    send(job, source, "train.py")
    job.run()
    assert job.exit_code == 0, job.log
    assert "\nsent\n" in job.log
    assert not (job.base / "code" / "train.py").exists()
    assert (job.model_dir / "code" / "train.py").is_file()


@pytest.mark.parametrize("program", ["../code/model_logic.py", "/etc/passwd", "missing.py"])
def test_a_program_outside_of_what_is_sent_is_refused(training_job, source, program):
    job = training_job({"train/t.csv": "1,2\n"})
    send(job, source, program)
    job.run()
    assert job.exit_code == 1
    assert job.failure.startswith(f"no program {program!r} in ")


def test_a_job_may_name_another_program_of_the_images(training_job):
    job = training_job({"train/t.csv": "1,2\n"})
    job.configure("hyperparameters", {"sagemaker_program": "credit_logic.py"})
    job.run()
    assert job.exit_code == 1
    assert "-- credit_logic.py" in job.log
