"""What the server does when a request, a worker, a client or the model goes wrong."""

import contextlib
import http.client
import json
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

SCRIPTS = Path(sys.executable).parent


def seconds_of(call) -> float:
    start = time.monotonic()
    call()
    return time.monotonic() - start


# ---------------------------------------------------------------- busy, late and dead workers


@pytest.mark.parametrize("order", ["sleep 60", "hold"])
def test_ping_answers_while_every_worker_is_busy(start, wait_until, order):
    with start(SAGEMAKER_MODEL_SERVER_WORKERS="2") as endpoint, ThreadPoolExecutor(4) as pool:
        kept = http.client.HTTPConnection(endpoint.host, endpoint.port, timeout=5)
        with contextlib.closing(kept):
            kept.request("GET", "/ping")
            kept.getresponse().read()
            for _ in range(4):
                pool.submit(endpoint.invoke, order)
            wait_until(lambda: endpoint.figure("requests_in_flight") == 4)
            assert endpoint.figure("requests_queued") == 2
            for _ in range(20):
                assert seconds_of(lambda: endpoint.request("GET", "/ping")) < 2
            kept.request("GET", "/ping")
            assert kept.getresponse().status == 200
        os.kill(endpoint.process.pid, 9)  # what it has left to do would take minutes
        endpoint.process.wait()
        endpoint.process.returncode = 0


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process in a long call")
def test_a_dead_servers_workers_end_too(start, wait_until):
    with (
        start(SAGEMAKER_MODEL_SERVER_WORKERS="3") as endpoint,
        socket.create_connection((endpoint.host, endpoint.port)) as client,
    ):
        client.sendall(b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nhold")
        wait_until(lambda: endpoint.figure("requests_in_flight") == 1)
        workers = psutil.Process(endpoint.process.pid).children()
        assert len(workers) == 3
        endpoint.process.kill()
        endpoint.process.wait()
        endpoint.process.returncode = 0
        wait_until(lambda: not any(worker.is_running() for worker in workers))


@pytest.mark.parametrize("order", ["sleep 60", "hold"])
def test_a_request_over_the_limit_gets_an_error_and_frees_its_worker(start, order):
    variables = {"SAGEMAKER_MODEL_SERVER_WORKERS": "1", "SAGEMAKER_MODEL_SERVER_TIMEOUT": "1"}
    with start(**variables) as endpoint:
        answers = []
        assert seconds_of(lambda: answers.append(endpoint.invoke(order))) < 3
        assert answers[0].status == 504
        assert answers[0].json["error"]["type"] == "Timeout"
        assert "longer than 1 s" in answers[0].json["error"]["message"]
        assert endpoint.invoke("fine").body == b"fine"


def test_a_request_that_waits_for_too_long_gets_an_error(start, wait_until):
    variables = {"SAGEMAKER_MODEL_SERVER_WORKERS": "1", "SAGEMAKER_MODEL_SERVER_TIMEOUT": "1"}
    with start(**variables) as endpoint, ThreadPoolExecutor(2) as pool:
        for _ in range(2):
            pool.submit(endpoint.invoke, "sleep 0.8")
        wait_until(lambda: endpoint.figure("requests_queued") == 1)
        answer = endpoint.invoke("never begun")
        assert (answer.status, answer.json["error"]["type"]) == (503, "ServiceUnavailable")


@pytest.mark.parametrize("order", ["die", "exit"])
def test_a_worker_that_dies_is_replaced_and_takes_one_request_along(start, wait_until, order):
    with start(SAGEMAKER_MODEL_SERVER_WORKERS="2") as endpoint:
        with ThreadPoolExecutor(8) as pool:
            orders = [order if i == 20 else f"n{i}" for i in range(60)]
            answers = list(pool.map(endpoint.invoke, orders))
        assert [a.status for a in answers] == [500 if i == 20 else 200 for i in range(60)]
        assert "the program's process died" in answers[20].json["error"]["message"]
        wait_until(lambda: endpoint.figure("workers") == 2, 2)
        assert endpoint.figure("worker_deaths_total") == 1
        assert re.search(r"^worker \d+ died of request \w+$", endpoint.log, re.MULTILINE)


class Load:
    """Clients that ask for as long as it takes, on kept connections."""

    def __init__(self, endpoint, clients: int, order: str = "fine"):
        self.statuses: list[int] = []
        self.broken: list[Exception] = []
        self._endpoint, self._order = endpoint, order
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(clients)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join(30)

    def _ask(self) -> None:
        host, port = self._endpoint.host, self._endpoint.port
        link = http.client.HTTPConnection(host, port, timeout=30)
        while not self._stop.is_set():
            try:
                link.connect()
            except OSError:  # the server is gone, as it should be by then
                return
            try:
                kept = True
                while kept and not self._stop.is_set():
                    link.request("POST", "/invocations", self._order)
                    answer = link.getresponse()
                    answer.read()
                    self.statuses.append(answer.status)
                    kept = not answer.will_close
            except (OSError, http.client.HTTPException) as error:
                self.broken.append(error)
            finally:
                link.close()


@pytest.mark.parametrize("clients", [4, 64])
def test_killing_a_worker_under_load_fails_only_the_request_it_held(start, wait_until, clients):
    with start(SAGEMAKER_MODEL_SERVER_WORKERS="2") as endpoint:
        with Load(endpoint, clients) as load:
            wait_until(lambda: len(load.statuses) > 500)
            victim = int(endpoint.invoke("pid").body)
            os.kill(victim, 9)
            wait_until(lambda: endpoint.figure("worker_deaths_total") == 1, 2)
            wait_until(lambda: endpoint.figure("workers") == 2, 2)
            n = len(load.statuses)
            wait_until(lambda: len(load.statuses) > n + 500)
        assert load.broken == []
        assert len([status for status in load.statuses if status != 200]) <= 1


def test_a_request_that_a_killed_worker_had_not_read_goes_to_another(start, wait_until):
    with start(SAGEMAKER_MODEL_SERVER_WORKERS="1") as endpoint, ThreadPoolExecutor(1) as pool:
        victim = int(endpoint.invoke("pid").body)
        os.kill(victim, signal.SIGSTOP)
        answer = pool.submit(endpoint.invoke, "fine")
        wait_until(lambda: endpoint.figure("requests_in_flight") == 1)
        os.kill(victim, signal.SIGKILL)
        assert {endpoint.request("GET", "/ping").status for _ in range(20)} == {200}
        assert answer.result().status == 200
        assert endpoint.figure("worker_deaths_total") == 1


@pytest.mark.parametrize(("clients", "order"), [(64, "sleep 0.01"), (4, "fine")])
def test_sigterm_under_load_answers_every_request(start, wait_until, clients, order):
    with start(SAGEMAKER_MODEL_SERVER_WORKERS="2") as endpoint:
        with Load(endpoint, clients, order) as load:
            wait_until(lambda: len(load.statuses) > 200)
            endpoint.process.terminate()
            assert endpoint.process.wait(30) == 0
        assert load.broken == []
        assert set(load.statuses) == {200}
        answered = sum('"path": "/invocations"' in line for line in endpoint.log.splitlines())
        assert answered == len(load.statuses)


def test_sigterm_waits_for_an_idle_client_for_a_moment_only(start):
    with start() as endpoint, socket.create_connection((endpoint.host, endpoint.port)) as client:
        client.sendall(b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.recv(1000).startswith(b"HTTP/1.1 200 OK")
        endpoint.process.terminate()
        time.sleep(0.3)
        client.sendall(b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n")  # on its way when it was told
        last = client.recv(1000)
        assert last.startswith(b"HTTP/1.1 200 OK")
        assert b"connection: close" in last
        assert endpoint.process.wait(5) == 0


def test_what_cannot_be_finished_in_time_is_refused(start, wait_until):
    answers = []
    with start(SAGEMAKER_MODEL_SERVER_WORKERS="1") as endpoint:
        clients = [
            threading.Thread(target=lambda: answers.append(endpoint.invoke("hold")))
            for _ in range(2)
        ]
        for client in clients:
            client.start()
        wait_until(lambda: endpoint.figure("requests_in_flight") == 2)
        endpoint.process.terminate()
        assert endpoint.process.wait(30) == 0
        for client in clients:
            client.join()
    assert [answer.status for answer in answers] == [503, 503]


# ---------------------------------------------------------------- clients


def test_slow_and_half_open_clients_hold_up_nobody(start):
    beginnings = [
        b"",
        b"POST /invoc",
        b"POST /invocations HTTP/1.1\r\nHost: x\r\nX-Name: ",
        b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nx",
        b"POST /invocations HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3e8\r\nx",
    ]
    with (
        start(SAGEMAKER_MODEL_SERVER_WORKERS="1", SAGEMAKER_MODEL_SERVER_TIMEOUT="1") as endpoint,
        contextlib.ExitStack() as stack,
    ):
        clients = []
        for beginning in beginnings * 40:
            client = socket.create_connection((endpoint.host, endpoint.port))
            clients.append(stack.enter_context(client))
            client.sendall(beginning)
        assert seconds_of(lambda: endpoint.request("GET", "/ping")) < 1
        assert seconds_of(lambda: endpoint.invoke("fine")) < 1
        for beginning, client in zip(beginnings, clients, strict=False):
            client.settimeout(5)
            if beginning:  # a request that has begun must end
                assert client.recv(1000).startswith(b"HTTP/1.1 408 Request Timeout")


def test_a_client_that_takes_no_answer_is_left(start, wait_until):
    with start(SAGEMAKER_MODEL_SERVER_TIMEOUT="1") as endpoint:
        client = socket.create_connection((endpoint.host, endpoint.port))
        with client:
            ask = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
            with contextlib.suppress(OSError):
                for _ in range(1000):
                    client.sendall(ask * 100)
            assert psutil.Process(endpoint.process.pid).memory_info().rss < 200e6
        assert endpoint.is_up()


def test_a_client_that_left_is_not_computed_for(start, wait_until):
    with start(SAGEMAKER_MODEL_SERVER_WORKERS="1") as endpoint, ThreadPoolExecutor(1) as pool:
        busy = pool.submit(endpoint.invoke, "sleep 1")
        wait_until(lambda: endpoint.figure("requests_in_flight") == 1)
        with socket.create_connection((endpoint.host, endpoint.port)) as client:
            client.sendall(
                b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Length: 8\r\n\r\nsleep 60"
            )
            wait_until(lambda: endpoint.figure("requests_queued") == 1)
        assert busy.result().status == 200
        assert endpoint.invoke("fine").body == b"fine"
        assert '"status": 499' in endpoint.log


@pytest.mark.skipif(not shutil.which("prlimit"), reason="prlimit is Linux's")
def test_more_clients_than_open_files_leave_room_for_the_next(base, obedient, serve):
    prefix = ("prlimit", "--nofile=256:256")
    with (
        serve(base, obedient, prefix) as endpoint,
        contextlib.ExitStack() as stack,
    ):
        for _ in range(400):
            client = socket.create_connection((endpoint.host, endpoint.port))
            stack.enter_context(client)
            client.sendall(b"POST /")
        assert seconds_of(lambda: endpoint.request("GET", "/ping")) < 1
        assert endpoint.invoke("fine").body == b"fine"


def test_pipelined_requests_are_answered_in_order(start):
    with start(SAGEMAKER_MODEL_SERVER_WORKERS="2") as endpoint:
        bodies = [b"sleep 0.2", *(b"n%d" % i for i in range(3000))]
        asks = b"".join(
            b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s"
            % (len(body), body)
            for body in bodies
        )
        with socket.create_connection((endpoint.host, endpoint.port)) as client:
            threading.Thread(target=client.sendall, args=[asks]).start()
            stream = client.makefile("rb")
            for body in bodies:
                assert stream.readline() == b"HTTP/1.1 200 OK\r\n"
                headers = dict(line.split(b": ") for line in iter(stream.readline, b"\r\n"))
                answer = stream.read(int(headers[b"content-length"]))
                assert answer == body.split()[0]


# ---------------------------------------------------------------- memory


def processes(endpoint) -> list[psutil.Process]:
    server = psutil.Process(endpoint.process.pid)
    return [server, *server.children(recursive=True)]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what is shared")
def test_workers_share_the_model(start):
    with start(SAGEMAKER_MODEL_SERVER_WORKERS="8") as endpoint:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(endpoint.invoke, ["touch"] * 200))
        total = sum(process.memory_full_info().pss for process in processes(endpoint))
        assert total < 60e6 + 60e6  # of which the model takes 60


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what is a file's")
def test_memory_is_level(start, wait_until):
    def heaps() -> int:
        status = (Path(f"/proc/{p.pid}/status").read_text() for p in processes(endpoint))
        return sum(1024 * int(re.search(r"RssAnon:\s+(\d+)", text)[1]) for text in status)

    with start(SAGEMAKER_MODEL_SERVER_WORKERS="2") as endpoint, Load(endpoint, 4) as load:
        wait_until(lambda: len(load.statuses) >= 4_000, 60)
        before = heaps()
        wait_until(lambda: len(load.statuses) >= 24_000, 60)
        assert heaps() - before < 1e6  # 50 bytes a request


# ---------------------------------------------------------------- a model that cannot be served


def truncate(folder: Path) -> None:
    path = folder / "gam.json"
    path.write_bytes(path.read_bytes()[:-100])


def garble(folder: Path) -> None:
    (folder / "gam.json").write_bytes(bytes(range(256)) * 100)


def empty(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


def age(folder: Path) -> None:
    path = folder / "gam.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": 99}))


@pytest.mark.parametrize("spoil", [truncate, garble, empty, age])
def test_a_model_that_cannot_be_loaded_ends_the_server(gauss3, tmp_path, spoil):
    shutil.copytree(gauss3.base, tmp_path / "ml")
    spoil(tmp_path / "ml" / "model")
    environ = {
        **os.environ,
        "SAGEMAKER_BASE_DIR": str(tmp_path / "ml"),
        "SAGEMAKER_PROGRAM": "model_logic.py",
    }
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    ended = subprocess.run(
        [SCRIPTS / "serve"], env=environ, capture_output=True, text=True, timeout=60, check=False
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 10
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert len(ended.stderr.splitlines()) == 1
    assert ended.stderr.startswith("serve: cannot load the model: ")


def test_a_port_in_use_ends_the_server(start, base, obedient):
    with start() as endpoint:
        environ = {
            **os.environ,
            "SAGEMAKER_BASE_DIR": str(base),
            "SAGEMAKER_SUBMIT_DIRECTORY": str(obedient),
            "SAGEMAKER_PROGRAM": "model_logic.py",
            "SAGEMAKER_BIND_TO_PORT": str(endpoint.port),
            "MODEL_SERVER_HOST": endpoint.host,
        }
        ended = subprocess.run(
            [SCRIPTS / "serve"], env=environ, capture_output=True, text=True, timeout=60
        )
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"serve: cannot listen on {endpoint.host}:{endpoint.port}: ")
