"""Ten thousand bad requests, and properties that good ones have, against the GAM's own server.

Every answer must be a success or the client's fault, come soon, and give nothing away, and all
the while `/ping` must be quick and memory bounded. What a case was can be had again from its
number: `cases(seed)` is the same everywhere.
"""

import contextlib
import functools
import gzip
import http.client
import importlib.metadata
import io
import json
import random
import re
import statistics
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import psutil
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


ATTRIBUTES = [
    *(b"trace=1", b"", b" x\t", b"a\tb", b"a\x85b", b"\xa0x", b"a\x01b", "à".encode()),
    *("é".encode("latin-1"), b"x" * 1024, b"x" * 1025, b"%0d%0aX-Evil: 1", b"\xff" * 99),
]
compress = functools.partial(gzip.compress, mtime=0)  # the same bytes whenever it is called
ENCODINGS = {
    b"gzip": compress,
    b"GZIP": compress,
    b"x-gzip": compress,
    b"deflate": zlib.compress,
    b"gzip, gzip": lambda body: compress(compress(body)),
    b"identity": bytes,
    **dict.fromkeys(
        [b"br", b"zstd", b"gzip;q=1", b"", b",", b"\xe9", b"gzip\t", b"x" * 999], bytes
    ),
}
BOMB = compress(b"\n" * 30_000_000)  # beyond the limit of a body
ATTRIBUTE = "X-Amzn-SageMaker-Custom-Attributes"
REPEATED = ["X", "Cookie", "Accept", "Content-Type", "Content-Encoding", "Connection", ATTRIBUTE]


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


# ---------------------------------------------------------------- what is watched meanwhile


@pytest.fixture
def watched(server) -> Iterator[None]:
    """Ask for `/ping` and look at memory while a test runs."""
    seconds, peak, done = [], [], threading.Event()

    def memory() -> float:
        """Return the MB that the server and its workers have of their own."""
        front = psutil.Process(server.pid)
        processes, total = [front, *front.children(recursive=True)], 0
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):  # a worker that was replaced
                total += process.memory_info().rss - process.memory_info().shared
        return total / 2**20

    def watch() -> None:
        while not done.wait(0.05):
            start = time.monotonic()
            assert server.request("GET", "/ping").status == 200
            seconds.append(time.monotonic() - start)
            peak.append(memory())

    for content_type, body in [(NPY, GOOD[0]), (CSV, b"1\n"), (JSON, b"[[1]]")]:  # warm up
        server.request("POST", "/invocations", body, {"Content-Type": content_type})
    before = memory()
    with ThreadPoolExecutor(1) as pool:
        watching = pool.submit(watch)
        yield
        done.set()
        watching.result()
    # The clients are threads of this process, so the slowest pings tell of them, too.
    assert statistics.median(seconds) < 0.25, sorted(seconds)
    assert max(seconds) < 2, sorted(seconds)
    assert max(peak) - before < 250, (before, max(peak))
    assert memory() - before < 60, (before, memory())


# ---------------------------------------------------------------- bodies and media types


class Case(NamedTuple):
    """A request."""

    body: bytes
    headers: list[tuple[str, bytes]]
    is_chunked: bool
    missing: int
    """Bytes that are announced and never come, as the client leaves."""


def cases(seed: int) -> Iterator[Case]:
    """Yield requests that are wrong in one way or another, or in none."""
    rng = random.Random(seed)
    for _ in range(BODIES):
        headers = [
            ("Content-Type", rng.choice(CONTENT_TYPES).encode("latin-1")),
            ("Accept", rng.choice(ACCEPTS).encode("latin-1")),
        ]
        headers = [header for header in headers if rng.random() < 0.9]
        body, kind = spoil(rng, rng.choice(GOOD)), rng.random()
        if kind < 0.1:
            headers.append((ATTRIBUTE, rng.choice(ATTRIBUTES)))
        elif kind < 0.25:
            name = rng.choice(list(ENCODINGS))
            headers.append(("Content-Encoding", name))
            body = rng.choice([body, ENCODINGS[name](body), spoil(rng, ENCODINGS[name](body))])
        elif kind < 0.26:
            headers.append(("Content-Encoding", b"gzip"))
            body = BOMB
        elif kind < 0.32:
            value = rng.choice([b"", b"x", *ATTRIBUTES, *(t.encode() for t in TYPES)])
            headers += [(rng.choice(REPEATED), value)] * rng.choice([1, 2, 30, 300])
            rng.shuffle(headers)
        elif kind < 0.35:
            headers.append(("Connection", rng.choice([b"Upgrade, HTTP2-Settings", b"upgrade"])))
            headers.append(("Upgrade", rng.choice([b"h2c", b"websocket", b"", b"h2c, x/1"])))
        missing = 0
        if kind > 0.95:
            missing = rng.choice([1, 1000, 20_000_000])
            if rng.random() < 0.2:
                body *= 5_000_000 // (len(body) or 1)
        yield Case(body, headers, rng.random() < 0.2, missing)


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


@pytest.mark.usefixtures("watched")
def test_no_body_breaks_it(server, base):
    def ask(seed: int) -> int:
        link = http.client.HTTPConnection("localhost")
        answered = 0
        for number, case in enumerate(cases(seed)):
            body = case.body
            if link.sock is None:
                link.sock = server.connect()
                link.sock.settimeout(PATIENCE)
            link.putrequest("POST", "/invocations")
            for name, value in case.headers:
                link.putheader(name, value)
            with contextlib.suppress(ConnectionError if case.missing else ()):
                if case.is_chunked and case.missing:
                    link.putheader("Transfer-Encoding", "chunked")
                    link.endheaders(b"%x\r\n" % (len(body) + case.missing) + body)
                elif case.is_chunked:
                    link.putheader("Transfer-Encoding", "chunked")
                    link.endheaders([body[:7], body[7:]] if body else [], encode_chunked=True)
                else:
                    link.putheader("Content-Length", str(len(body) + case.missing))
                    link.endheaders(body)
            if case.missing:
                link.close()
                continue
            answer = link.getresponse()
            text = (seed, number, body[:200], case.headers[:9])
            check(answer.status, str(answer.headers), answer.read(), base, text)
            answered += 1
        link.close()
        return answered

    with ThreadPoolExecutor(len(SEEDS)) as pool:
        assert sum(pool.map(ask, SEEDS)) > 0.9 * BODIES * len(SEEDS)


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
    ASK
    + b"Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nContent-Length: 2\r\n\r\n1\n" * 9,
    ASK + b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n1\n",
    ASK + b"".join(b"%s: %s\r\n" % (ATTRIBUTE.encode(), a) for a in ATTRIBUTES) + b"\r\n",
    ASK + b"X: y\r\n" * 255 + b"Content-Length: 2\r\n\r\n1\n",
    ASK + b"X:\r\n" * 9000 + b"\r\n",
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


@pytest.mark.usefixtures("watched")
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
