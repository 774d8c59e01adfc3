"""Mode process: the SDK's unchanged calls, by child processes, and nothing left behind."""

import contextlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import boto3
import numpy as np
import psutil
import pytest
from botocore.exceptions import ClientError
from sagemaker.deserializers import JSONDeserializer, NumpyDeserializer
from sagemaker.estimator import Estimator
from sagemaker.exceptions import UnexpectedStatusException
from sagemaker.predictor import Predictor
from sagemaker.serializers import JSONSerializer, NumpySerializer

from local_mode import Config, session_for

ROOT = Path(__file__).parents[2]
LINE = b"".join(b"%d,%d\n" % (x, 3 * x + 1) for x in range(40))


@pytest.fixture
def session():
    with session_for(Config()) as session:
        yield session


def upload(session, body: bytes = LINE) -> str:
    key = "data/train/line.csv"
    session.s3_client.put_object(Bucket=session.default_bucket(), Key=key, Body=body)
    return f"s3://{session.default_bucket()}/data/train"


def estimator(session, **hyperparameters) -> Estimator:
    return Estimator(
        image_uri="gam-model",
        role="arn:aws:iam::123456789012:role/local",
        instance_count=1,
        instance_type="local",
        hyperparameters=hyperparameters,
        sagemaker_session=session,
    )


def deploy(trained: Estimator) -> Predictor:
    return trained.deploy(
        1, "local", serializer=NumpySerializer(), deserializer=NumpyDeserializer()
    )


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def served_ports(pid: int | None = None) -> list[int]:
    """Return the ports on which the children of a process listen."""
    ports = []
    for child in psutil.Process(pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            ports += [c.laddr.port for c in child.net_connections() if c.status == "LISTEN"]
    return sorted(set(ports))


def test_fit_deploy_predict_explain_delete(session):
    trained = estimator(session, df=5)
    trained.fit({"train": upload(session)})
    predictor = deploy(trained)
    (port,) = served_ports()

    np.testing.assert_allclose(predictor.predict(np.array([[50.0]])), [151.0], rtol=1e-6)
    explained = Predictor(
        predictor.endpoint_name,
        sagemaker_session=session,
        serializer=JSONSerializer(),
        deserializer=JSONDeserializer(accept="application/json; explain=true"),
    ).predict([{"x0": 2.0}])
    assert explained["shap_base"] + explained["shap_values"]["x0"][0] == pytest.approx(7.0)

    with pytest.raises(ClientError, match=r"Received client error \(400\).*2 columns") as error:
        predictor.predict(np.ones((1, 2)))
    assert error.value.response["Error"]["Code"] == "ModelError"

    predictor.delete_model()
    predictor.delete_endpoint()
    assert not is_listening(port)
    with pytest.raises(ClientError, match=r"Endpoint .* of account \d+ not found"):
        predictor.predict(np.ones((1, 1)))


def test_the_artifact_lies_where_sagemaker_puts_it(session):
    trained = estimator(session, df=5)
    trained.fit({"train": upload(session)})
    bucket, job = session.default_bucket(), trained.latest_training_job.name
    assert trained.model_data == f"s3://{bucket}/{job}/output/model.tar.gz"
    description = session.sagemaker_client.describe_training_job(TrainingJobName=job)
    assert description["TrainingJobStatus"] == "Completed"
    assert description["HyperParameters"] == {"df": "5"}


def test_a_failed_job_raises_with_the_programs_own_message(session):
    failing = estimator(session, dff=5)
    with pytest.raises(
        UnexpectedStatusException, match=r"Failed\. Reason: unknown hyperparameter 'dff'.*'df'"
    ):
        failing.fit({"train": upload(session)})
    job = session.sagemaker_client.describe_training_job(TrainingJobName=failing._current_job_name)
    assert job["TrainingJobStatus"] == "Failed"
    assert job["FailureReason"].startswith("unknown hyperparameter")


def test_a_channel_without_data_is_named(session):
    with pytest.raises(UnexpectedStatusException, match=r"nothing found at s3://.*/empty"):
        estimator(session).fit({"train": f"s3://{session.default_bucket()}/empty"})


def test_a_program_that_is_not_there_fails_with_a_reason():
    with (
        session_for(Config(program="absent_logic.py")) as session,
        pytest.raises(UnexpectedStatusException, match="absent_logic"),
    ):
        estimator(session).fit({"train": upload(session)})


def test_a_broken_model_fails_the_endpoint_with_a_reason(session, tmp_path):
    children = set(psutil.Process().children())  # those of other tests
    archive = tmp_path / "model.tar.gz"
    content = {"format": "gam_model.AdditiveModel", "version": 99}
    (tmp_path / "gam.json").write_text(json.dumps(content))
    subprocess.run(["tar", "-czf", archive, "-C", tmp_path, "gam.json"], check=True)
    uri = session.upload_data(str(archive), session.default_bucket(), "broken")
    client = session.sagemaker_client
    client.create_model(ModelName="m", PrimaryContainer={"ModelDataUrl": uri})
    variants = [{"VariantName": "AllTraffic", "ModelName": "m", "InstanceType": "local"}]
    client.create_endpoint_config(EndpointConfigName="c", ProductionVariants=variants)
    client.create_endpoint(EndpointName="e", EndpointConfigName="c")
    with pytest.raises(UnexpectedStatusException, match="version 99 of the format"):
        session.wait_for_endpoint("e")
    assert client.describe_endpoint(EndpointName="e")["EndpointStatus"] == "Failed"
    assert set(psutil.Process().children()) == children


def test_data_and_models_may_lie_in_folders(session, tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "train/line.csv").write_bytes(LINE)
    trained = estimator(session, df=5)
    trained.output_path = f"file://{tmp_path}/models"
    trained.fit({"train": f"file://{tmp_path}/train"})
    job = trained.latest_training_job.name
    assert (tmp_path / "models" / job / "output" / "model.tar.gz").is_file()


def test_sessions_run_side_by_side():
    with session_for(Config()) as one, session_for(Config()) as two:
        predictors = []
        for session, slope in ((one, 1), (two, -1)):
            body = b"".join(b"%d,%d\n" % (x, slope * x) for x in range(40))
            trained = estimator(session, df=5)
            trained.fit({"train": upload(session, body)})
            predictors.append(deploy(trained))
        answers = [p.predict(np.array([[10.0]]))[0] for p in predictors]
    assert answers == pytest.approx([10, -10])


def test_no_way_leads_to_a_real_account_and_the_environment_is_restored(monkeypatch):
    monkeypatch.setenv("AWS_PROFILE", "production")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "https://example.com")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "secret")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    before = dict(os.environ)
    with session_for(Config()) as session:
        assert "AWS_PROFILE" not in os.environ
        assert "AWS_SESSION_TOKEN" not in os.environ
        for service in ("s3", "sts", "sagemaker", "ecr"):
            endpoint = boto3.client(service).meta.endpoint_url
            assert endpoint.startswith("http://127.0.0.1:"), service
        assert session.boto_session.get_credentials().access_key == "local"
    assert dict(os.environ) == before


def test_nothing_is_written_outside_the_sessions_folder(tmp_path):
    def files(folder: Path) -> dict[Path, float]:
        return {path: path.stat().st_mtime for path in folder.rglob("*")}

    home, work, temporary = (tmp_path / name for name in ("home", "work", "tmp"))
    for folder in (home, work, temporary):
        folder.mkdir()
    code = """
        import sys
        sys.path[:0] = [ROOT, HERE]
        from test_sessions import Config, deploy, estimator, session_for, upload
        with session_for(Config()) as session:
            trained = estimator(session, df=5)
            trained.fit({"train": upload(session)})
            deploy(trained)
    """
    header = f"ROOT, HERE = {str(ROOT)!r}, {str(Path(__file__).parent)!r}\n"
    before = {folder: files(ROOT / folder) for folder in ("code", "gam_model/src", "container")}
    subprocess.run(
        [sys.executable, "-B", "-c", header + textwrap.dedent(code)],
        cwd=work,
        env={**os.environ, "HOME": str(home), "TMPDIR": str(temporary)},
        check=True,
    )
    assert list(home.rglob("*")) == list(work.rglob("*")) == list(temporary.rglob("*")) == []
    for folder, listing in before.items():
        assert files(ROOT / folder) == listing


CHILD = """
import sys
sys.path[:0] = [ROOT, HERE]
from test_sessions import Config, deploy, estimator, session_for, upload
session = session_for(Config())
trained = estimator(session, **HYPERPARAMETERS)
if MANY:
    import numpy as np
    rows = np.random.default_rng(0).normal(size=(200_000, 6)).round(6)
    body = "\\n".join(",".join(map(str, row)) for row in rows.tolist()).encode()
    print("ready", flush=True)
    trained.fit({"train": upload(session, body)})
else:
    trained.fit({"train": upload(session)})
    predictor = deploy(trained)
    print("\\nserving", flush=True)
    import time
    time.sleep(600)
"""


@contextlib.contextmanager
def started(many: bool, folder: Path) -> Iterator[subprocess.Popen]:
    header = (
        f"ROOT, HERE = {str(ROOT)!r}, {str(Path(__file__).parent)!r}\n"
        f"MANY, HYPERPARAMETERS = {many}, {{'df': {40 if many else 5}}}\n"
    )
    with subprocess.Popen(
        [sys.executable, "-B", "-c", header + CHILD],
        env={**os.environ, "TMPDIR": str(folder)},  # a killed session cannot remove its folder
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def descendants(process: subprocess.Popen) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def is_training(process: subprocess.Popen) -> bool:
    with contextlib.suppress(psutil.Error):  # a child that ends while we look
        return any("model_logic.py" in child.cmdline() for child in descendants(process))
    return False


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_training_leaves_no_process(how, tmp_path, wait_until):
    with started(True, tmp_path) as process:
        wait_until(lambda: is_training(process), 120)
        children = descendants(process)
        process.send_signal(how)
        process.stdout.read()
        assert process.wait(30) != 0
        gone, alive = psutil.wait_procs(children, timeout=10)
    assert not alive
    assert len(gone) >= 3  # the supervisor, the toolkit, the program


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_notebook_leaves_no_endpoint(how, tmp_path):
    with started(False, tmp_path) as process:
        assert any(line == "serving\n" for line in process.stdout)
        (port,) = served_ports(process.pid)
        assert is_listening(port)
        children = descendants(process)
        process.send_signal(how)
        assert process.wait(30) != 0
        _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive
    assert not is_listening(port)


def test_the_jobs_output_is_the_callers_standard_output(session, capsys):
    estimator(session, df=5).fit({"train": upload(session)})
    assert "r2_train=1;" in capsys.readouterr().out


def test_custom_attributes_and_accept_reach_the_program(session):
    trained = estimator(session, df=5)
    trained.fit({"train": upload(session)})
    predictor = deploy(trained)
    answer = session.sagemaker_runtime_client.invoke_endpoint(
        EndpointName=predictor.endpoint_name,
        Body="1\n2\n",
        ContentType="text/csv",
        Accept="text/csv",
        CustomAttributes="trace=1",
    )
    assert answer["ContentType"] == "text/csv"
    values = np.loadtxt(io.BytesIO(answer["Body"].read()))
    np.testing.assert_allclose(values, [4, 7], rtol=1e-6)
