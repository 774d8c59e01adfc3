"""Predictions of many rows from an endpoint: batches, patience, refusals."""

import contextlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from program_toolkit import predictor
from program_toolkit.predictor import PredictorError, fetch_predictions

ROWS = [[float(i), "a"] for i in range(7)]


@contextlib.contextmanager
def endpoint(*answers):
    """Serve these (status, content) one after the other, the last one for ever."""
    requests, left = [], list(answers)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            requests.append((self.path, dict(self.headers), json.loads(body)["instances"]))
            status, content = left.pop(0) if len(left) > 1 else left[0]
            if callable(content):
                content = content(requests[-1][2])
            content = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *arguments):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", requests
        finally:
            server.shutdown()
            thread.join()


def echo(key):
    return lambda rows: {key: [row[0] for row in rows]}


@pytest.mark.parametrize("key", ["prediction", "predictions"])
def test_rows_are_sent_in_batches_and_answers_kept_in_order(monkeypatch, key):
    monkeypatch.setattr(predictor, "BATCH", 3)
    with endpoint((200, echo(key))) as (url, requests):
        assert fetch_predictions(f"{url}/v1/models/income:predict", ROWS) == list(range(7))
    assert [len(rows) for _, _, rows in requests] == [3, 3, 1]
    assert [row for _, _, rows in requests for row in rows] == ROWS
    path, headers, _ = requests[0]
    assert path == "/v1/models/income:predict"
    assert headers["Content-Type"] == headers["Accept"] == "application/json"


@pytest.mark.parametrize("status", [408, 424, 429, 500, 503])
def test_a_predictor_that_is_not_ready_is_asked_again(monkeypatch, status, capsys):
    pauses = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    with endpoint(*[(status, b"loading")] * 6, (200, echo("prediction"))) as (url, requests):
        assert fetch_predictions(url, ROWS) == list(range(7))
    assert pauses == [1, 2, 4, 8, 15, 15]
    assert len(requests) == 7
    assert f"asked again in 1 s: {status}: loading" in capsys.readouterr().out


def test_patience_ends(free_port):
    url = f"http://127.0.0.1:{free_port()}/invocations"
    start = time.monotonic()
    with pytest.raises(PredictorError, match=rf"^{url} gives no predictions; at last: .*refused"):
        fetch_predictions(url, ROWS, patience=1.5)
    assert 1 <= time.monotonic() - start < 5


def test_a_silent_predictor_is_not_waited_for(monkeypatch):
    done = threading.Event()
    with endpoint((200, lambda rows: done.wait(5) or b"")) as (url, _):
        with pytest.raises(PredictorError, match="timed out"):
            fetch_predictions(url, ROWS, patience=0, timeout=0.2)
        done.set()


@pytest.mark.parametrize("status", [400, 403, 404, 413])
def test_a_refusal_is_final(status):
    with endpoint((status, b'{"error": "unknown category"}')) as (url, requests):
        with pytest.raises(PredictorError, match=rf"refuses .*: {status}: .*unknown category"):
            fetch_predictions(url, ROWS)
        assert len(requests) == 1


@pytest.mark.parametrize(
    "content", [{"prediction": [1]}, {"answers": [1] * 7}, [1] * 7, b"<html>", {"prediction": 7}]
)
def test_an_answer_without_one_prediction_a_row(content):
    with (
        endpoint((200, content)) as (url, _),
        pytest.raises(PredictorError, match="answers 7 rows without 7 predictions: "),
    ):
        fetch_predictions(url, ROWS)


@pytest.mark.parametrize(
    "url",
    [
        "income.example/invocations",
        "file:///etc/hosts",
        "https://runtime.sagemaker.eu-west-1.amazonaws.com/endpoints/invocations",
    ],
)
def test_addresses_that_cannot_be_one(url):
    with pytest.raises(PredictorError, match="PREDICTOR_URL="):
        fetch_predictions(url, ROWS)


class TestSageMaker:
    URL = "https://runtime.sagemaker.eu-west-1.amazonaws.com/endpoints/income/invocations"

    @pytest.fixture(autouse=True)
    def credentials(self, monkeypatch):
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")

    def test_requests_are_signed(self, monkeypatch):
        with endpoint((200, echo("prediction"))) as (url, requests):
            monkeypatch.setenv("AWS_ENDPOINT_URL", url)
            assert fetch_predictions(self.URL, ROWS) == list(range(7))
        ((path, headers, rows),) = requests
        assert path == "/endpoints/income/invocations"
        assert headers["Authorization"].startswith("AWS4-HMAC-SHA256 Credential=test/")
        assert "/eu-west-1/sagemaker/" in headers["Authorization"]
        assert rows == ROWS

    def test_an_endpoint_in_creation_is_asked_again(self, monkeypatch):
        monkeypatch.setattr(time, "sleep", lambda seconds: None)
        loading = {"message": "loading"}
        with endpoint((424, loading), (200, echo("prediction"))) as (url, requests):
            monkeypatch.setenv("AWS_ENDPOINT_URL", url)
            assert fetch_predictions(self.URL, ROWS) == list(range(7))
        assert len(requests) == 2

    def test_a_refusal_is_final(self, monkeypatch):
        with endpoint((403, {"message": "no such right"})) as (url, _):
            monkeypatch.setenv("AWS_ENDPOINT_URL", url)
            with pytest.raises(
                PredictorError, match=r"refuses the background: 403: .*no such right"
            ):
                fetch_predictions(self.URL, ROWS)

    def test_without_credentials(self, monkeypatch, tmp_path):
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
            monkeypatch.setenv(name, str(tmp_path / "none"))
        with endpoint((200, echo("prediction"))) as (url, requests):
            monkeypatch.setenv("AWS_ENDPOINT_URL", url)
            with pytest.raises(PredictorError, match=r"'income' cannot be asked: .*credentials"):
                fetch_predictions(self.URL, ROWS, patience=0)
        assert not requests

    def test_patience_ends(self, monkeypatch, free_port):
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
        with pytest.raises(PredictorError, match="gives no predictions; at last: Could not conn"):
            fetch_predictions(self.URL, ROWS, patience=0)
