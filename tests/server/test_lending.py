"""Clients that send one request after the other, and so are lent to workers."""

import contextlib
import json
import re
import socket
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from random import Random

import pytest

BODIES = [f"n{i}" for i in range(200)]


class Client:
    """A client that asks for the next answer as soon as it has the one before."""

    def __init__(self, endpoint):
        self.link = socket.create_connection((endpoint.host, endpoint.port), timeout=20)
        self._stream = self.link.makefile("rb")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._stream.close()
        self.link.close()

    def send(self, body: str, path: str = "/invocations", pause: bool = False) -> None:
        """Send a request, at once or in two parts."""
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        request = (head + body).encode()
        if pause:
            self.link.sendall(request[:-2])
            time.sleep(0.002)
            request = request[-2:]
        self.link.sendall(request)

    def receive(self) -> tuple[int, str]:
        status = int(self._stream.readline().split()[1])
        lines = iter(self._stream.readline, b"\r\n")
        self.headers = dict(line.decode().rstrip().lower().split(": ") for line in lines)
        return status, self._stream.read(int(self.headers["content-length"])).decode()

    def ask(self, body: str, pause: bool = False) -> tuple[int, str]:
        self.send(body, pause=pause)
        return self.receive()

    def settle(self) -> None:
        """Ask until the server can tell what kind of client this is."""
        for body in BODIES:
            assert self.ask(body) == (200, body)


@pytest.fixture
def endpoint(start):
    with start(SAGEMAKER_MODEL_SERVER_WORKERS="2") as endpoint:
        yield endpoint


@pytest.fixture
def client(endpoint):
    with Client(endpoint) as client:
        client.settle()
        yield client


def read_log(endpoint, n: int) -> list[dict]:
    """Read what is logged of n requests, a moment after they are answered at most."""
    for _ in range(500):
        lines = [line for line in endpoint.log.splitlines() if line.endswith("}")]
        records = [json.loads(line) for line in lines if line.startswith("{")]
        records = [record for record in records if record["path"] == "/invocations"]
        if len(records) >= n:
            break
        time.sleep(0.01)
    return records


def test_every_answer_is_its_requests_and_noted_down_once(endpoint, wait_until):
    def ask(number: int) -> None:
        with Client(endpoint) as client:
            for i in range(300):
                assert client.ask(f"c{number}n{i}") == (200, f"c{number}n{i}")

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(ask, range(6)))
    wait_until(lambda: endpoint.figure("requests_in_flight") == 0)
    assert endpoint.figure('requests_total{path="/invocations",code="200"}') == 1800
    assert endpoint.figure("request_duration_seconds_count") == 1800
    log = read_log(endpoint, 1800)
    assert len({record["id"] for record in log}) == len(log) == 1800
    assert {(record["status"], record["method"]) for record in log} == {(200, "POST")}
    assert all(0 <= record["program_ms"] <= record["ms"] for record in log)
    assert sorted(record["bytes_in"] for record in log) == sorted(
        len(f"c{number}n{i}") for number in range(6) for i in range(300)
    )
    # A worker names what it answers by itself after what it was given; else this tests nothing.
    assert any("_" in record["id"] for record in log)


def test_whatever_else_a_client_sends_is_the_servers(client, endpoint):
    for _ in range(5):
        client.link.sendall(b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.receive()[0] == 200
        client.settle()
        client.send("fine", "/nowhere")
        assert client.receive()[0] == 404
        client.settle()
        client.link.sendall(
            b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\n\r\nha"
        )
        time.sleep(0.05)
        client.link.sendall(b"lves")
        assert client.receive() == (200, "halves")
        client.settle()
        chunks = b"4\r\nchun\r\n2\r\nks\r\n0\r\n\r\n"
        head = b"POST /invocations HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        client.link.sendall(head + chunks)
        assert client.receive() == (200, "chunks")
        client.settle()
        for i in range(20):
            client.send(f"piped{i}")
        assert [client.receive() for _ in range(20)] == [(200, f"piped{i}") for i in range(20)]
        client.settle()
    client.link.sendall(b"nonsense\r\n\r\n")
    assert client.receive()[0] == 400
    assert client.headers["connection"] == "close"


def test_the_last_request_closes_the_connection(client):
    head = (
        b"POST /invocations HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 4\r\n\r\n"
    )
    client.link.sendall(head + b"last")
    assert client.receive() == (200, "last")
    assert client.link.recv(1) == b""


def test_a_slow_request_holds_up_no_other_client(endpoint):
    slowest = []
    stop = threading.Event()

    def ask() -> None:
        with Client(endpoint) as client:
            client.settle()
            while not stop.is_set():
                start = time.monotonic()
                assert client.ask("fine") == (200, "fine")
                slowest.append(time.monotonic() - start)

    with ThreadPoolExecutor(5) as pool, Client(endpoint) as slow:
        asking = [pool.submit(ask) for _ in range(5)]
        slow.settle()
        slowest.clear()
        assert slow.ask("sleep 2") == (200, "sleep")
        assert len(slowest) > 100
        assert max(slowest) < 1
        stop.set()
        for one in asking:
            one.result()


def test_a_client_that_pauses_is_not_kept_waiting(endpoint):
    # All workers have clients that never pause, and this one comes now and then.
    stop = threading.Event()

    def ask() -> None:
        with Client(endpoint) as client:
            while not stop.is_set():
                assert client.ask("fine") == (200, "fine")

    with ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(ask) for _ in range(4)]
        for _ in range(20):
            time.sleep(0.02)
            start = time.monotonic()
            assert endpoint.invoke("fine").status == 200
            assert time.monotonic() - start < 0.5
        stop.set()
        for one in asking:
            one.result()


@pytest.mark.parametrize("order", ["die", "exit"])
def test_a_worker_that_dies_of_a_request_answers_for_it(client, endpoint, wait_until, order):
    status, body = client.ask(order)
    assert status == 500
    request_id = re.search(r"under request (\w+)", body)[1]
    assert client.headers["connection"] == "close"
    assert client.link.recv(1) == b""
    wait_until(lambda: endpoint.figure("workers") == 2, 2)
    assert f"died of request {request_id}\n" in endpoint.log
    log = read_log(endpoint, len(BODIES) + 1)
    assert [record["id"] for record in log if record["status"] == 500] == [request_id]
    assert len(log) == len(BODIES) + 1


@pytest.mark.skipif(sys.platform != "linux", reason="no other system tells what was sent")
def test_a_worker_that_dies_while_it_answers_takes_along_what_it_had_not_said(
    base, program, serve, wait_until
):
    text = """
    import os
    from model_server import connection

    connection.PROMPT = 20  # seconds: every client is lent

    def model_fn(model_dir): return None
    def input_fn(body, content_type): return body.decode()
    def predict_fn(data, model):
        if data in ("none", "some", "all"):
            write = os.write
            def die(fd, answer):
                write(fd, answer[:{"none": 0, "some": 10, "all": None}[data]])
                os._exit(1)
            os.write = die
        return data
    def output_fn(prediction, accept): return prediction, "text/plain"
    """
    with serve(base, program(text), SAGEMAKER_MODEL_SERVER_WORKERS="2") as endpoint:
        with Client(endpoint) as client:
            client.settle()
            assert client.ask("all") == (200, "all")
            wait_until(lambda: endpoint.figure("worker_deaths_total") == 1)
            client.settle()
            assert client.ask("none")[0] == 500
            assert client.headers["connection"] == "close"
        with Client(endpoint) as client:
            client.settle()
            client.send("some")
            assert client.link.recv(100) == b"HTTP/1.1 2"
            with contextlib.suppress(ConnectionResetError):
                assert client.link.recv(100) == b""
        wait_until(lambda: endpoint.figure("worker_deaths_total") == 3)
        log = read_log(endpoint, 3 * len(BODIES) + 3)
        assert len(log) == 3 * len(BODIES) + 3
        assert [record["status"] for record in log].count(500) == 1


def test_a_request_over_the_limit_gets_an_error(start):
    variables = {"SAGEMAKER_MODEL_SERVER_WORKERS": "1", "SAGEMAKER_MODEL_SERVER_TIMEOUT": "1"}
    with start(**variables) as endpoint, Client(endpoint) as client:
        client.settle()
        status, body = client.ask("hold")
        assert (status, json.loads(body)["error"]["type"]) == (504, "Timeout")
        assert endpoint.invoke("fine").body == b"fine"


@pytest.mark.parametrize("slow", [0.01, 0])
def test_whatever_happens_every_client_gets_its_own_answers(start, obedient, wait_until, slow):
    # Fast and slow requests, large answers, pings, halves of requests, and workers that die. If
    # every request counts as slow, clients are taken from their workers all the time.
    with (obedient / "model_logic.py").open("a") as text:
        text.write(f"from model_server import pool\npool.SLOW = {slow}\n")

    def ask(seed: int) -> Counter:
        random, statuses = Random(seed), Counter()
        with contextlib.ExitStack() as stack:
            client = stack.enter_context(Client(endpoint))
            for i in range(1500):
                orders = f"c{seed}n{i}", "sleep 0.02", "big 300000", "die"
                (order,) = random.choices(orders, (1000, 10, 10, 2))
                if random.random() < 0.01:
                    client.link.sendall(b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n")
                    assert client.receive() == (200, "")
                status, body = client.ask(order, pause=random.random() < 0.01)
                statuses[status] += 1
                answer = "x" * 300_000 if order.startswith("big") else order.split()[0]
                assert (status, body) == (200, answer) or (status, order) == (500, "die")
                if client.headers.get("connection") == "close":
                    client = stack.enter_context(Client(endpoint))
        return statuses

    with start(SAGEMAKER_MODEL_SERVER_WORKERS="3") as endpoint, ThreadPoolExecutor(8) as pool:
        statuses = sum(pool.map(ask, range(8)), Counter())
        assert set(statuses) == {200, 500}
        wait_until(lambda: endpoint.figure("workers") == 3)
        wait_until(lambda: endpoint.figure("requests_in_flight") == 0)
        assert endpoint.figure("worker_deaths_total") == statuses[500]
        log = read_log(endpoint, statuses.total())
        assert Counter(record["status"] for record in log) == statuses
        assert len({record["id"] for record in log}) == len(log)


def test_an_answer_that_the_client_does_not_take_at_once_is_whole(client, endpoint):
    client.send("big 20000000")
    time.sleep(0.3)
    assert endpoint.invoke("fine").status == 200
    assert client.receive() == (200, "x" * 20_000_000)
    client.settle()


def test_a_client_that_leaves_is_noted_as_such(client, endpoint):
    client.send("sleep 0.5")
    client.link.shutdown(socket.SHUT_RDWR)
    client.__exit__()
    assert len(read_log(endpoint, len(BODIES) + 1)) == len(BODIES) + 1
    assert endpoint.invoke("fine").status == 200


def test_errors_are_answered_as_ever(base, program, serve):
    text = """
    class Refusal(Exception):
        status = 422

    def model_fn(model_dir): return None
    def input_fn(body, content_type): return body.decode()
    def predict_fn(data, model):
        if data == "refuse": raise Refusal("no such thing")
        if data == "fail": raise RuntimeError("secret")
        return data
    def output_fn(prediction, accept): return prediction, "text/plain"
    """
    with serve(base, program(text)) as endpoint, Client(endpoint) as client:
        for _ in range(20):
            client.settle()
            status, body = client.ask("refuse")
            assert (status, json.loads(body)["error"]["message"]) == (422, "no such thing")
            status, body = client.ask("fail")
            assert status == 500
            assert "secret" not in body
            request_id = re.search(r"under request (\w+)", body)[1]
            assert f"request {request_id} failed\nTraceback" in endpoint.log


def test_a_system_that_passes_no_descriptors_does_without(base, program, serve):
    # The program is loaded in the server's own process.
    text = """
    import socket

    def refuse(*_): raise OSError("not here")
    socket.send_fds = refuse

    def model_fn(model_dir): return None
    def input_fn(body, content_type): return body.decode()
    def predict_fn(data, model): return data
    def output_fn(prediction, accept): return prediction, "text/plain"
    """
    with serve(base, program(text)) as endpoint, contextlib.ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(Client(endpoint)).settle()
        assert endpoint.log.count("clients cannot be lent to workers: not here") == 1
        assert not any("_" in record["id"] for record in read_log(endpoint, 3 * len(BODIES)))
