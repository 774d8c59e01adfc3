"""The page in front of an endpoint of this machine's, found by its name or its address."""

import http.client
import io
import json
import tarfile
from urllib.parse import urlsplit

import boto3
import pytest
from sagemaker.estimator import Estimator

from local_mode import Config, page, session_for


@pytest.fixture(scope="module")
def session():
    with session_for(Config()) as session:
        yield session


@pytest.fixture(scope="module")
def endpoint(session, gauss3_split, tmp_path_factory):
    """A deployed GAM of Gauss3; its name and its model's archive."""
    folder = tmp_path_factory.mktemp("train")
    lines = "".join(f"{x},{y}\n" for x, y in gauss3_split.train)
    (folder / "train.csv").write_text(f"x,y\n{lines}")
    estimator = Estimator(
        "gam-model:latest",
        "arn:aws:iam::000000000000:role/SageMakerRole",
        1,
        "local",
        sagemaker_session=session,
    )
    estimator.fit({"train": f"file://{folder}"}, logs=False)
    predictor = estimator.deploy(1, "local")
    yield predictor.endpoint_name, estimator.model_data
    predictor.delete_endpoint()


@pytest.fixture(scope="module")
def served(session, endpoint):
    server = page.open_page(endpoint[0], session, title="Gauss <b>3</b>")
    yield server
    server.close()


def request(server, method, path, body=None, **headers):
    link = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=30)
    link.request(method, path, body, {k.replace("_", "-"): v for k, v in headers.items()})
    answer = link.getresponse()
    content = answer.read()
    link.close()
    return answer.status, content, answer.headers


def test_the_page_asks_the_endpoint(served, endpoint, visit):
    shown = visit(served.url)
    shown.fill("#field-0", "100")
    shown.wait_for_function("() => !answerOrNone(app, app.row).problem")
    runtime = boto3.client("sagemaker-runtime")
    answer = runtime.invoke_endpoint(
        EndpointName=endpoint[0],
        Body=b'{"instances": [{"x": 100}]}',
        ContentType="application/json",
        Accept="application/json",
    )
    expected = json.load(answer["Body"])["prediction"][0]
    assert shown.evaluate("() => app.source.answer(app.row).mean") == expected
    assert shown.inner_text("h1") == "Gauss <b>3</b>"
    assert endpoint[0] in shown.inner_text("footer")


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://example.com"},
        {"Origin": "null"},
        {"Host": "example.com"},
        {"Host": "localhost"},  # of another port
    ],
)
@pytest.mark.parametrize(("method", "path"), [("GET", "/"), ("POST", "/invocations")])
def test_a_web_page_of_another_site_is_not_answered(served, method, path, headers):
    status, content, _ = request(
        served, method, path, b"{}", Content_Type="application/json", **headers
    )
    assert status == 403
    assert json.loads(content)["error"]["message"] == "only the page itself is answered"


def test_only_json_to_its_one_path_is_passed_on(served):
    form = {"Content_Type": "text/plain"}  # what a form of another site could send
    assert request(served, "POST", "/invocations", b"{}", **form)[0] == 415
    as_json = {"Content_Type": "application/json"}
    assert request(served, "POST", "/endpoints", b"{}", **as_json)[0] == 404
    assert request(served, "GET", "/invocations")[0] == 404
    status, _, headers = request(served, "GET", "/")
    assert status == 200
    assert headers["Content-Security-Policy"] == "frame-ancestors 'none'"


def test_the_containers_own_refusal_comes_through(served):
    as_json = {"Content_Type": "application/json", "Accept": "application/json"}
    status, content, _ = request(
        served, "POST", "/invocations", b'{"instances": [{"z": 1}]}', **as_json
    )
    assert status == 400
    assert "missing 'x'" in json.loads(content)["error"]["message"]


def test_an_unknown_endpoint_is_refused_in_a_sentence(session):
    with pytest.raises(page.PageError, match=r"the endpoint 'none' cannot be shown: .*find"):
        page.open_page("none", session)


def test_the_command_shows_a_server_at_an_address(endpoint, tmp_path, monkeypatch, capsys):
    """`served` is such a server; its model is at hand as the archive."""
    bucket, _, key = endpoint[1].removeprefix("s3://").partition("/")
    archive = tmp_path / "model.tar.gz"
    boto3.client("s3").download_file(bucket, key, str(archive))
    asked = []

    def interrupt():
        [server] = servers
        status, content, _ = request(
            server, "POST", "/invocations", b"{}", Content_Type="application/json"
        )
        asked.append((status, json.loads(content)["error"]["message"]))
        raise KeyboardInterrupt

    servers = []

    class Kept(page.PageServer):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            servers.append(self)

    monkeypatch.setattr(page, "PageServer", Kept)
    monkeypatch.setattr(page.signal, "pause", interrupt)
    monkeypatch.setattr(page.signal, "signal", lambda *_: None)
    arguments = ["http://127.0.0.1:9/", "--model", str(archive), "--port", "0"]
    assert page.main(arguments) is None
    assert capsys.readouterr().out.startswith("The page of http://127.0.0.1:9: http://127.0.0.1:")
    status, message = asked[0]
    assert status == 502
    assert message.startswith("http://127.0.0.1:9/invocations does not answer")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["http://127.0.0.1:9"], "name the model of http://127.0.0.1:9 by --model"),
        (["http://127.0.0.1:9", "--model", "{folder}/no.tar.gz"], "No such file"),
        (["http://127.0.0.1:9", "--model", "{folder}/text.tar.gz"], "cannot be read"),
        (["http://127.0.0.1:9", "--model", "{folder}/empty.tar.gz"], "holds no model.json"),
        (["http://127.0.0.1:9", "--model", "{folder}/model.json"], "neither the levels nor min"),
        (["http://127.0.0.1:9", "--words", "{folder}/list.json"], "must hold a JSON object"),
    ],
)
def test_what_cannot_be_shown_is_refused_in_a_sentence(arguments, told, tmp_path, monkeypatch):
    (tmp_path / "text.tar.gz").write_text("text")
    (tmp_path / "model.json").write_text('{"features": [{"name": "a"}]}')
    (tmp_path / "list.json").write_text("[]")
    with tarfile.open(tmp_path / "empty.tar.gz", "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("other"), io.BytesIO())
    monkeypatch.setattr(page.signal, "signal", lambda *_: None)
    complaint = page.main([argument.format(folder=tmp_path) for argument in arguments])
    assert told in complaint
    assert complaint.startswith("python -m local_mode page: ")
