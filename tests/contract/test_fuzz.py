"""Ten thousand bad requests, and properties that good ones have, against the GAM's own server.

Every answer must be a success or the client's fault, come soon, and give nothing away. What a
case was can be had again from its number: `cases(seed)` is the same everywhere.
"""

import contextlib
import http.client
import importlib.metadata
import io
import json
import random
import re
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

SEEDS = range(8)  # one client each
BODIES, HEADS = 1000, 300  # cases of a client: 10,400 in all
PATIENCE = 20  # seconds; much more than any answer may take

JSON, JSONLINES = "application/json", "application/jsonlines"
NPY, CSV = "application/x-npy", "text/csv"
TYPES = (NPY, CSV, JSON, JSONLINES)


def npy(array, **how) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, **how)
    return stream.getvalue()


GOOD = [
    *(npy(np.ones((3, 1), dtype)) for dtype in ("f8", ">f4", "i2", "?", "f2")),
    *(npy(np.ones(shape)) for shape in ((3,), (1, 3), (0, 1), (2, 1, 1), ())),
    npy(np.array([[{}]]), allow_pickle=True),
    npy(np.array([["1", "x"]])),
    npy(np.ones((1, 1), "c16")),
    b"1\n20\n112.5\n",
    b"x0\r\n1\r\n20\r\n",
    b'"1"\n" 2 "\n',
    b"[[1], [20]]",
    b'{"instances": [[1], [2e1]]}',
    b'[{"x0": 1}, {"x0": null}]',
    b'{"x0": 1}\n{"x0": 2}\n',
    b"[1]\n[2]\n",
]
SPICE = [
    *(b"", b"\0", b"\xff", b"\n", b"\r\n", b",", b'"', b"'", b"{", b"[", b"]", b"}", b":", b"-"),
    *(b"NaN", b"Infinity", b"1e999", b"-0", b"null", b"true", b"1_0", b"\xef\xbb\xbf", b"\\ud800"),
    *(b"9" * 400, b"[" * 2000, b"(" * 300, b"\x93NUMPY", b"\xe2\x82\xac", b"1" * 5000, b" " * 999),
    *(b"__import__('os')", b"%s%n", b"x0", b"instances", b"'descr'", b"'O'", b"'V8'", b"(9, 9)"),
]
CONTENT_TYPES = [
    *TYPES,
    *TYPES,
    *(f"{CSV}; charset={name}" for name in ("utf-8", "utf-16", "idna", "rot13", "", '"', "zip")),
    *(
        "",
        "/",
        ";",
        "text",
        "*/*",
        "multipart/form-data",
        "TEXT/CSV",
        "text/csv;;=;",
        "é",
        "a" * 999,
    ),
]
ACCEPTS = [
    *TYPES,
    *(f"{JSON}; explain=true", f"{JSONLINES};explain=true", f"{CSV};explain=true", f"{NPY};q=0"),
    *("*/*", "text/*;q=.5, */*;q=.1", "q=1", ";", ",", "a/b", f"{CSV};q=nan", "é", ", " * 300),
]


def spoil(rng: random.Random, body: bytes) -> bytes:
    """Change a body a little: cut, repeat, replace, insert."""
    for _ in range(rng.randrange(4)):
        i, j = sorted(rng.choices(range(len(body) + 1), k=2))
        body = rng.choice(
            [
                body[:i] + body[j:],
                body[:j] + body[i:j] * rng.randrange(1, 50) + body[j:],
                body[:i] + rng.randbytes(min(j - i, 50)) + body[j:],
                body[:i] + rng.choice(SPICE) + body[i:],
                body[:i] + rng.choice(SPICE) + body[j:],
            ]
        )[:200_000]
    return body


# ---------------------------------------------------------------- bodies and media types


def cases(seed: int) -> Iterator[tuple[bytes, dict[str, str], bool]]:
    """Yield bodies, headers, and whether the body is to be sent in chunks."""
    rng = random.Random(seed)
    for _ in range(BODIES):
        headers = {"Content-Type": rng.choice(CONTENT_TYPES), "Accept": rng.choice(ACCEPTS)}
        for name in list(headers):
            if rng.random() < 0.1:
                del headers[name]
        yield spoil(rng, rng.choice(GOOD)), headers, rng.random() < 0.2


SECRETS = re.compile(
    "|".join(
        [
            *(r"Traceback \(", r'File "', "site-packages", r"\.py\b", "<module", "0x[0-9a-f]{6}"),
            *(re.escape(text) for text in (sys.prefix, sys.version.split()[0])),
            *(
                rf"\b{re.escape(importlib.metadata.version(name))}\b"
                for name in ("numpy", "scipy", "scikit-learn", "httptools")
            ),
        ]
    )
)


def check(status: int, head: str, body: bytes, base, case: object) -> None:
    assert 200 <= status < 500, (status, body, case)
    if status >= 400:
        error = json.loads(body)["error"]
        assert error.keys() == {"type", "message"}, case
        assert len(error["message"]) < 3000, (error, case)
    text = head + body.decode("utf-8", "replace")
    found = SECRETS.search(text) or re.search(re.escape(str(base)), text)
    assert not found, (found, text, case)


def test_no_body_breaks_it(server, base):
    def ask(seed: int) -> int:
        link = http.client.HTTPConnection("localhost")
        answered = 0
        for number, (body, headers, chunked) in enumerate(cases(seed)):
            case = (seed, number, body[:200], headers)
            if link.sock is None:
                link.sock = server.connect()
                link.sock.settimeout(PATIENCE)
            link.putrequest("POST", "/invocations")
            for name, value in headers.items():
                link.putheader(name, value.encode("latin-1"))
            if chunked:
                link.putheader("Transfer-Encoding", "chunked")
                link.endheaders([body[:7], body[7:]] if body else [], encode_chunked=True)
            else:
                link.putheader("Content-Length", str(len(body)))
                link.endheaders(body)
            answer = link.getresponse()
            check(answer.status, str(answer.headers), answer.read(), base, case)
            answered += 1
        link.close()
        return answered

    with ThreadPoolExecutor(len(SEEDS)) as pool:
        assert sum(pool.map(ask, SEEDS)) == BODIES * len(SEEDS)
    assert server.request("GET", "/ping").status == 200


# ---------------------------------------------------------------- headers and framing

ASK = b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: text/csv\r\n"
WHOLE = ASK + b"Content-Length: 2\r\n\r\n1\n"
CHUNKED = ASK + b"Transfer-Encoding: chunked\r\n\r\n"

# What must be refused, as two servers in a row might read it in two ways.
SMUGGLING = [
    ASK + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n1\n",
    ASK + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n1\n",
    ASK + b"Content-Length: 2, 2\r\n\r\n1\n",
    ASK + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ASK + b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n0\r\n\r\n",
    ASK + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    ASK + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    ASK + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    ASK + b"Content-Length: +2\r\n\r\n1\n",
    ASK + b"Content-Length: -2\r\n\r\n1\n",
    ASK + b"Content-Length: 0x2\r\n\r\n1\n",
    ASK + b"Content-Length: 99999999999999999999999\r\n\r\n1\n",
    ASK + b"X: a\rContent-Length: 2\r\n\r\n1\n",
    ASK + b"X: a\0b\r\n\r\n",
    ASK + b" folded: x\r\nContent-Length: 2\r\n\r\n1\n",
    CHUNKED + b"g\r\n1\n\r\n0\r\n\r\n",
    CHUNKED + b"-2\r\n1\n\r\n0\r\n\r\n",
    CHUNKED + b"2 2\r\n1\n\r\n0\r\n\r\n",
    CHUNKED + b"2\r\n1\nx\r\n0\r\n\r\n",
    CHUNKED + b"ffffffffffffffffff\r\n1\n",
    b"GET /ping HTTP/1.1 x\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"GET /ping HTTP/9.9\r\n\r\n",
    b"FROB /ping HTTP/1.1\r\n\r\n",
]
# What may be answered as it likes, but neither by a 5xx nor never.
ODD = [
    b"GET /ping\r\n\r\n",
    b"GET  /ping HTTP/1.1\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
    b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET http://x/ping HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /ping?" + b"x" * 5000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /ping/../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /%70ing HTTP/1.0\r\n\r\n",
    b"HEAD /ping HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /ping HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    ASK + b"Upgrade: h2c\r\nConnection: Upgrade\r\nContent-Length: 2\r\n\r\n1\n",
    ASK + b"Expect: 200-maybe\r\nContent-Length: 2\r\n\r\n1\n",
    CHUNKED + b"1;x=" + b"y" * 5000 + b"\r\n1\r\n0\r\nContent-Length: 9\r\n\r\n",
    CHUNKED + b"001\r\n1\r\n1\r\n\n\r\n0\r\n\r\n",
    ASK + b"X: " + b"x" * 70_000 + b"\r\nContent-Length: 2\r\n\r\n1\n",
    ASK + b"".join(b"X%d: y\r\n" % i for i in range(9000)) + b"\r\n",
    WHOLE * 50,
    b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n" * 500,
    b"\r\n\r\n" + WHOLE,
]


def exchange(server, sent: bytes, pieces: int = 1) -> bytes:
    """Send bytes, and return all that comes back until the server closes or waits for more."""
    received = b""
    with contextlib.closing(server.connect()) as client, contextlib.suppress(ConnectionError):
        size = -(-len(sent) // pieces) or 1
        for start in range(0, len(sent), size):
            client.sendall(sent[start : start + size])
        # One more, upon whose answer the server closes, unless it takes it for a body's part.
        client.sendall(b"GET /ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        client.settimeout(0.5)
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            try:
                data = client.recv(65536)
            except TimeoutError:
                if b"HEAD" in sent or answers_in(received) is not None:
                    break
                continue
            if not data:
                break
            received += data
    return received


def answers_in(received: bytes) -> list[tuple[int, str, bytes]] | None:
    """Split what came back; None if the last answer is not whole."""
    answers, stream = [], io.BytesIO(received)
    while line := stream.readline():
        status = re.fullmatch(rb"HTTP/1\.1 (\d{3}) [\w -]+\r\n", line)
        head = b"".join(iter(stream.readline, b"\r\n")).decode("latin-1")
        length = re.search(r"content-length: (\d+)\r\n", head)
        if status and int(status[1]) == 100:
            continue
        if not status or not length:
            return None
        body = stream.read(int(length[1]))
        if len(body) < int(length[1]):
            return None
        answers.append((int(status[1]), head, body))
    return answers


@pytest.mark.parametrize("sent", SMUGGLING, ids=range(len(SMUGGLING)))
def test_what_could_be_read_in_two_ways_is_refused(server, base, sent):
    (answer,) = answers_in(exchange(server, sent))
    check(*answer, base, sent)
    assert answer[0] == 400
    assert "connection: close" in answer[1]


def heads(seed: int) -> Iterator[tuple[bytes, int]]:
    """Yield what is sent, and in how many pieces."""
    rng = random.Random(seed)
    for _ in range(HEADS):
        sent = rng.choice([WHOLE, CHUNKED + b"2\r\n1\n\r\n0\r\n\r\n", *SMUGGLING, *ODD])
        if rng.random() < 0.7:
            sent = spoil(rng, sent)
        yield sent, rng.choice([1, 1, 2, 30])


def test_no_head_breaks_it(server, base):
    def ask(seed: int) -> None:
        for number, (sent, pieces) in enumerate(heads(seed)):
            received = exchange(server, sent, pieces)
            if b"HEAD" not in sent:  # whose answers say a length and have none
                answers = answers_in(received)
                assert answers is not None, (received, seed, number, sent[:300])
                for answer in answers:
                    check(*answer, base, (seed, number, sent[:300]))

    with ThreadPoolExecutor(len(SEEDS)) as pool:
        list(pool.map(ask, SEEDS))
    assert server.request("GET", "/ping").status == 200


# ---------------------------------------------------------------- properties of good requests

few = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
columns = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30)


def encode(values: list[float], content_type: str) -> bytes:
    rows = [[value] for value in values]
    return {
        NPY: lambda: npy(np.array(rows)),
        CSV: lambda: "".join(f"{value!r}\n" for value in values).encode(),
        JSON: lambda: json.dumps(rows).encode(),
        JSONLINES: lambda: "".join(f"{json.dumps(row)}\n" for row in rows).encode(),
    }[content_type]()


def decode(body: bytes, content_type: str) -> list[float]:
    return {
        NPY: lambda: np.load(io.BytesIO(body), allow_pickle=False).tolist(),
        CSV: lambda: [float(line) for line in body.splitlines()],
        JSON: lambda: json.loads(body)["prediction"],
        JSONLINES: lambda: [json.loads(line)["prediction"] for line in body.splitlines()],
    }[content_type]()


def predict(server, values, content_type=JSON, accept=JSON) -> list[float]:
    headers = {"Content-Type": content_type, "Accept": accept}
    answer = server.request("POST", "/invocations", encode(values, content_type), headers)
    assert answer.status == 200, answer.body
    return decode(answer.body, accept)


@few
@given(values=columns, content_type=st.sampled_from(TYPES), accept=st.sampled_from(TYPES))
def test_every_media_type_says_the_same(server, values, content_type, accept):
    expected = predict(server, values)
    assert predict(server, values, content_type, accept) == pytest.approx(expected, rel=1e-12)


@few
@given(values=columns)
def test_rows_are_answered_in_order_and_each_for_itself(server, values):
    one_by_one = [predict(server, [value])[0] for value in values[:3]]
    assert predict(server, values)[:3] == pytest.approx(one_by_one, rel=1e-12)
    assert predict(server, values[::-1])[::-1] == pytest.approx(predict(server, values), rel=1e-12)


@few
@given(data=st.data())
def test_a_request_may_arrive_in_any_pieces(server, data):
    cuts = data.draw(st.lists(st.integers(1, len(WHOLE) - 1), max_size=6, unique=True))
    with contextlib.closing(server.connect()) as client:
        client.settimeout(PATIENCE)
        for start, end in zip([0, *sorted(cuts)], [*sorted(cuts), len(WHOLE)], strict=True):
            client.sendall(WHOLE[start:end])
        assert client.recv(65536).startswith(b"HTTP/1.1 200 OK\r\n")
