"""SageMaker's inference contract, one fact a test; docs/contract.md has it in words.

They run against any container that serves: see this folder's conftest.py.
"""

import contextlib
import gzip
import json
import re
import time
from concurrent.futures import ThreadPoolExecutor

import pytest


def seconds_of(call) -> float:
    start = time.monotonic()
    call()
    return time.monotonic() - start


def assert_is_an_error(answer, *statuses: int) -> None:
    """It has the status, JSON says what is wrong, and nothing says how the server is made."""
    assert answer.status in statuses, answer.body
    assert answer.headers["content-type"].partition(";")[0] == "application/json"
    error = answer.json["error"]
    assert error.keys() == {"type", "message"}
    assert not re.search(r'Traceback|File "|\.py\b|site-packages|/opt/ml', error["message"])


# ---------------------------------------------------------------- /ping


def seconds_to_ping(server) -> float:
    """Return the seconds to an answer, without those of the way into the container."""
    with contextlib.closing(server.connect()) as connection:
        start = time.monotonic()
        assert server.request_on(connection, "GET", "/ping").status == 200
        return time.monotonic() - start


def test_ping_answers_200_within_two_seconds(server):
    assert seconds_to_ping(server) < 2


def test_ping_answers_while_requests_are_computed(server, sample):
    with ThreadPoolExecutor(16) as pool:
        for _ in range(64):
            pool.submit(server.request, "POST", "/invocations", sample.body, sample.headers)
        assert seconds_to_ping(server) < 2


def test_connections_are_accepted_within_250_ms(server, kind):
    if kind == "sandbox":
        pytest.skip("the way into a container without a network takes longer than that")
    for _ in range(20):
        assert seconds_of(lambda: server.connect().close()) < 0.25


# ---------------------------------------------------------------- /invocations


def test_invocations_answers_a_request(server, sample):
    answer = server.request("POST", "/invocations", sample.body, sample.headers)
    assert answer.status == 200, answer.body
    assert answer.body
    assert answer.headers["content-type"]


def test_the_same_request_gets_the_same_answer_however_it_is_sent(server, sample):
    def ask(body=sample.body, headers=sample.headers, **how):
        answer = server.request("POST", "/invocations", body, headers, **how)
        assert answer.status == 200, answer.body
        return answer.body

    expected = ask()
    assert ask() == expected
    assert ask(headers={k.upper(): v for k, v in sample.headers.items()}) == expected
    assert ask(headers={**sample.headers, "X-Unknown": "x" * 1000}) == expected
    chunked = {**sample.headers, "Transfer-Encoding": "chunked"}
    pieces = (sample.body[i : i + 3] for i in range(0, len(sample.body), 3))
    assert ask(pieces, chunked, encode_chunked=True) == expected
    patient = {**sample.headers, "Expect": "100-continue"}
    assert ask(headers=patient) == expected


def test_a_connection_is_kept(server, sample):
    with contextlib.closing(server.connect()) as connection:
        for _ in range(3):
            assert server.request_on(connection, "GET", "/ping").status == 200
            request = ("POST", "/invocations", sample.body, sample.headers)
            assert server.request_on(connection, *request).status == 200


def test_requests_at_once_are_all_answered(server, sample, kind):
    expected = server.request("POST", "/invocations", sample.body, sample.headers).body
    with ThreadPoolExecutor(4 if kind == "sandbox" else 32) as pool:
        request = ("POST", "/invocations", sample.body, sample.headers)
        answers = [pool.submit(server.request, *request) for _ in range(64)]
        assert {answer.result()[::2] for answer in answers} == {(200, expected)}


def test_custom_attributes_are_taken(server, sample):
    attributes = "trace=" + "x" * 1018  # 1,024 characters, which is all that SageMaker forwards
    headers = {**sample.headers, "X-Amzn-SageMaker-Custom-Attributes": attributes}
    answer = server.request("POST", "/invocations", sample.body, headers)
    assert answer.status == 200, answer.body
    given_back = answer.headers.get("x-amzn-sagemaker-custom-attributes", attributes)
    assert len(given_back) <= 1024
    assert given_back.isascii()


def test_a_wish_for_another_protocol_is_ignored(server, sample):
    """Java's own client, and ``curl --http2``, ask for it with the first request."""
    expected = server.request("POST", "/invocations", sample.body, sample.headers).body
    wish = {
        "Connection": "Upgrade, HTTP2-Settings",
        "Upgrade": "h2c",
        "HTTP2-Settings": "AAMAAABk",
    }
    answer = server.request("POST", "/invocations", sample.body, {**sample.headers, **wish})
    assert (answer.status, answer.body) == (200, expected)


def test_a_compressed_body_is_read_or_refused(server, sample):
    """It is never taken for what it stands for."""
    expected = server.request("POST", "/invocations", sample.body, sample.headers).body
    headers = {**sample.headers, "Content-Encoding": "gzip"}
    answer = server.request("POST", "/invocations", gzip.compress(sample.body), headers)
    if answer.status != 200:
        assert_is_an_error(answer, 415)
    else:
        assert answer.body == expected
        assert_is_an_error(server.request("POST", "/invocations", sample.body, headers), 400)


# ---------------------------------------------------------------- what cannot be answered


def test_a_body_that_is_not_what_its_type_says_is_the_clients_fault(server, sample):
    answer = server.request("POST", "/invocations", b"\xff\xfe\x00 nothing", sample.headers)
    assert_is_an_error(answer, 400, 415, 422)


def test_an_unknown_content_type_is_the_clients_fault(server, sample):
    headers = {"Content-Type": "application/x-nobody-knows"}
    answer = server.request("POST", "/invocations", sample.body, headers)
    assert_is_an_error(answer, 400, 415)


def test_an_answer_that_cannot_be_accepted_is_the_clients_fault(server, sample):
    headers = {**sample.headers, "Accept": "application/x-nobody-knows"}
    answer = server.request("POST", "/invocations", sample.body, headers)
    assert_is_an_error(answer, 400, 406)


def test_an_endless_body_is_refused_before_it_is_read(server, sample):
    with contextlib.closing(server.connect()) as connection:
        connection.sendall(
            b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: %s\r\n"
            b"Content-Length: 1000000000000\r\n\r\n" % sample.content_type.encode()
        )
        connection.settimeout(10)
        assert connection.recv(65536).startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize("value", [b"a\tb", b"a\x85b", "à".encode()])
def test_custom_attributes_that_sagemaker_does_not_allow_are_no_fault_of_the_server(
    server, sample, value
):
    headers = {**sample.headers, "X-Amzn-SageMaker-Custom-Attributes": value}
    answer = server.request("POST", "/invocations", sample.body, headers)
    if answer.status != 200:
        assert_is_an_error(answer, 400)
    assert answer.headers.get("x-amzn-sagemaker-custom-attributes", "").isascii()


@pytest.mark.parametrize(
    "head",
    [
        b"Host: x\r\nTransfer-Encoding: gzip, chunked",
        b"Host: x\r\nHost: y\r\nContent-Length: 2",
        b"Content-Length: 2",  # no Host, which HTTP/1.1 requires
        b"Host: x\r\nContent-Length: 2\r\nContent-Length: 3",
    ],
)
def test_what_http_does_not_allow_is_the_clients_fault(server, head):
    with contextlib.closing(server.connect()) as connection:
        connection.sendall(b"POST /invocations HTTP/1.1\r\n" + head + b"\r\n\r\n0\r\n\r\n")
        connection.settimeout(10)
        assert re.match(rb"HTTP/1\.1 (400|501) ", connection.recv(65536))


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/no/such/path", 404), ("GET", "/invocations", 405), ("DELETE", "/ping", 405)],
)
def test_other_paths_and_methods_are_refused(server, method, path, status):
    answer = server.request(method, path)
    assert_is_an_error(answer, status)
    assert ("allow" in answer.headers) == (status == 405)


def test_half_open_clients_hold_up_nobody(server, sample, kind):
    beginnings = [
        b"",
        b"POST /invoc",
        b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nx",
    ]
    with contextlib.ExitStack() as stack:
        for beginning in beginnings * (1 if kind == "sandbox" else 30):
            connection = stack.enter_context(contextlib.closing(server.connect()))
            connection.sendall(beginning)
        assert seconds_to_ping(server) < 2
        answer = server.request("POST", "/invocations", sample.body, sample.headers)
        assert answer.status == 200


def test_uploads_that_are_broken_off_hold_up_nobody(server, sample, kind):
    head = b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Length: 5000000\r\n\r\n"
    for _ in range(2 if kind == "sandbox" else 40):
        with contextlib.closing(server.connect()) as connection:
            connection.sendall(head + b"x" * 4_000_000)
        assert seconds_to_ping(server) < 2
    assert server.request("POST", "/invocations", sample.body, sample.headers).status == 200


# ---------------------------------------------------------------- batch transform


def test_execution_parameters_are_such_as_batch_transform_allows(server):
    answer = server.request("GET", "/execution-parameters")
    if answer.status == 404:
        pytest.skip("the container leaves them to the job, as it may")
    assert answer.status == 200
    parameters = json.loads(answer.body)
    assert parameters["BatchStrategy"] in ("MULTI_RECORD", "SINGLE_RECORD")
    assert parameters["MaxConcurrentTransforms"] >= 1
    assert parameters["MaxPayloadInMB"] >= 1
    assert parameters["MaxConcurrentTransforms"] * parameters["MaxPayloadInMB"] <= 100


# ---------------------------------------------------------------- from start to end


def test_it_listens_on_the_port_that_it_is_told(start, kind):
    if kind != "image":
        pytest.skip("in process mode all tests show it; a sandbox has no ports")
    with start(port=9090, SAGEMAKER_BIND_TO_PORT="9090") as server:
        assert server.request("GET", "/ping").status == 200


def test_sigterm_ends_it_with_0_within_30_seconds_and_no_request_is_lost(start, sample, kind):
    with start() as server, ThreadPoolExecutor(8) as pool:
        # The ways into a sandbox end with it, whatever is still on them.
        connections = [server.connect() for _ in range(0 if kind == "sandbox" else 8)]
        for connection in connections:  # whose way in is open before the end begins
            assert server.request_on(connection, "GET", "/ping").status == 200
        request = ("POST", "/invocations", sample.body, sample.headers)
        answers = [pool.submit(server.request_on, c, *request) for c in connections]
        time.sleep(0.01)
        seconds, code = server.stop()
        assert [answer.result().status for answer in answers] == [200] * len(connections)
        for connection in connections:
            connection.close()
    assert code == 0
    assert seconds < 30


def test_without_a_model_it_ends_and_says_so_in_one_line(fails):
    code, log = fails()
    assert code != 0
    assert len(log.splitlines()) == 1, log
    assert "Traceback" not in log
