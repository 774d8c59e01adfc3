"""HTTP as clients speak it that nobody here chose."""

import functools
import gzip
import http.client
import json
import socket
import zlib

import pytest

from model_server.codings import CodingError, decode
from model_server.http1 import Reader

ASK = b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n"
PING = b"GET /ping HTTP/1.1\r\n"

PROGRAM = """
import json

class Array(MemoryError): pass

def model_fn(model_dir): return None
def transform_fn(model, body, content_type, accept, context):
    assert type(body) is bytes
    if body == b"fail": raise MemoryError
    if body == b"numb": raise Array("Unable to allocate 1. EiB for an array")
    return body, "text/plain"
"""


@pytest.fixture(scope="module")
def endpoint(serve, tmp_path_factory):
    """A server that answers what it is asked, of 100,000 bytes at most."""
    base = tmp_path_factory.mktemp("http") / "ml"
    (base / "model").mkdir(parents=True)
    (base / "code").mkdir()
    (base / "code" / "model_logic.py").write_text(PROGRAM)
    variables = {"MAX_CONTENT_LENGTH": "100000", "KSERVE_MODEL_NAME": "m"}
    with serve(base, base / "code", SAGEMAKER_MODEL_SERVER_WORKERS="1", **variables) as endpoint:
        yield endpoint


@pytest.fixture(params=["a new client", "a lent client"])
def client(request, endpoint):
    """A connection; one whose client never pauses is answered by the worker itself."""
    with socket.create_connection((endpoint.host, endpoint.port), timeout=10) as client:
        for _ in range(100 if request.param == "a lent client" else 0):
            assert ask(client, ASK + b"\r\nfine")[1] == b"fine"
        yield client


def ask(client, sent: bytes) -> tuple[http.client.HTTPResponse, bytes]:
    client.sendall(sent)
    answer = http.client.HTTPResponse(client, method="HEAD" if sent[:4] == b"HEAD" else "POST")
    answer.begin()
    return answer, answer.read()


def refused(client, sent: bytes) -> tuple[int, str]:
    """Return the status and the message of a refusal."""
    answer, body = ask(client, sent)
    return answer.status, json.loads(body)["error"]["message"]


# ---------------------------------------------------------------- attributes and memory


@pytest.mark.parametrize("value", [b"a\tb", b"a\x85b", "à".encode(), b"\xa0x", b"\x80", b"a\xadb"])
def test_custom_attributes_that_no_header_can_hold_are_refused(client, endpoint, value):
    sent = ASK + b"X-Amzn-SageMaker-Custom-Attributes: " + value + b"\r\n\r\nfine"
    status, message = refused(client, sent)
    assert status == 400
    assert message.startswith("X-Amzn-SageMaker-Custom-Attributes holds '")
    assert message.isascii()
    assert "Traceback" not in endpoint.log
    assert ask(client, ASK + b"\r\nfine")[1] == b"fine"


@pytest.mark.parametrize("value", [b"trace=1; x", "é".encode("latin-1"), b"", b"  x \t"])
def test_other_custom_attributes_come_back(client, value):
    answer, _ = ask(
        client, ASK + b"X-Amzn-SageMaker-Custom-Attributes: " + value + b"\r\n\r\nfine"
    )
    assert answer.status == 200
    given_back = answer.headers.get("X-Amzn-SageMaker-Custom-Attributes", "")
    assert given_back.encode("latin-1") == value.strip(b" \t")


@pytest.mark.parametrize("body", [b"fail", b"numb"])
def test_a_program_that_has_too_little_memory_asks_for_patience(client, body):
    answer, content = ask(client, ASK + b"\r\n" + body)
    assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
    assert json.loads(content)["error"]["type"] == "ServiceUnavailable"
    assert "memory" in json.loads(content)["error"]["message"]
    assert ask(client, ASK + b"\r\nfine")[1] == b"fine"


def test_a_server_that_has_too_little_memory_asks_for_patience(monkeypatch):
    def fail(*_):
        raise MemoryError

    monkeypatch.setattr(Reader, "on_body", fail)
    (request,) = Reader(100).feed(ASK + b"\r\nfine")
    assert request.refusal.status == 503


# ---------------------------------------------------------------- codings


def raw(data: bytes) -> bytes:
    deflater = zlib.compressobj(wbits=-15)
    return deflater.compress(data) + deflater.flush()


TEXT = b"".join(b"%d,%d\n" % (i, i * i) for i in range(900))
compress = functools.partial(gzip.compress, mtime=0)  # the same bytes whenever it is called
HALVES = compress(TEXT[:5000]) + compress(b"") + compress(TEXT[5000:])


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        ("gzip", compress(TEXT)),
        ("x-gzip", compress(TEXT, 0)),
        (" GZip ,", compress(TEXT)),
        ("gzip", HALVES),
        ("deflate", zlib.compress(TEXT)),
        ("deflate", raw(TEXT)),
        ("identity", TEXT),
        ("", TEXT),
        ("identity, gzip", compress(TEXT)),
    ],
)
@pytest.mark.parametrize("chunked", [False, True])
def test_a_compressed_body_is_read(client, coding, body, chunked):
    head = f"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Encoding: {coding}\r\n".encode()
    if chunked:
        pieces = [body[i : i + 1000] for i in range(0, len(body), 1000)]
        content = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in [*pieces, b""])
        head += b"Transfer-Encoding: chunked\r\n\r\n"
    else:
        content, head = body, head + b"Content-Length: %d\r\n\r\n" % len(body)
    answer, received = ask(client, head + content)
    assert (answer.status, received) == (200, TEXT)


BOMB = compress(bytes(100_001))
GZIP = compress(TEXT)


@pytest.mark.parametrize(
    ("status", "coding", "body"),
    [
        (413, "gzip", BOMB),
        (413, "gzip", compress(bytes(50_000)) * 3),
        (413, "deflate", zlib.compress(bytes(10_000_000))),
        (413, "deflate", raw(bytes(10_000_000))),
        (415, "gzip, gzip", compress(GZIP)),
        (415, "br", GZIP),
        (415, "zstd", GZIP),
        (415, "compress", GZIP),
        (415, "é", GZIP),
        (400, "gzip", TEXT),
        (400, "gzip", GZIP[:-1]),
        (400, "gzip", GZIP + b"tail"),
        (400, "gzip", GZIP[:-8] + bytes(8)),
        (400, "gzip", b"x"),
        (400, "gzip", b""),
        (400, "gzip", zlib.compress(TEXT)),
        (400, "deflate", zlib.compress(TEXT)[:-5]),
        (400, "deflate", zlib.compress(TEXT) + b"tail"),
        (400, "deflate", TEXT),
        (400, "deflate", b""),
    ],
)
def test_a_compressed_body_that_cannot_be_read_is_the_clients_fault(client, status, coding, body):
    head = f"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Encoding: {coding}\r\n"
    length = f"Content-Length: {len(body)}\r\n\r\n"
    answer, content = ask(client, (head + length).encode("latin-1") + body)
    assert answer.status == status
    expected = {413: "larger than 100000 bytes", 415: "send gzip, deflate or none", 400: "not "}
    assert expected[status] in json.loads(content)["error"]["message"]
    assert answer.headers["Accept-Encoding"] == ("gzip, deflate" if status == 415 else None)
    assert ask(client, ASK + b"\r\nfine")[1] == b"fine"


def test_at_the_limit_a_compressed_body_is_read():
    for body in (bytes(1000), bytes(range(250)) * 4):
        assert decode(compress(body), "gzip", 1000) == body
        assert decode(zlib.compress(body, 0), "deflate", 1000) == body
        with pytest.raises(CodingError, match="larger than 999 bytes") as caught:
            decode(compress(body), "gzip", 999)
        assert caught.value.status == 413


def test_many_empty_members_cost_no_more_than_they_are():
    assert decode(compress(b"") * 100_000 + GZIP, "gzip", 100_000) == TEXT  # 2 MB


@pytest.mark.parametrize(
    ("status", "coding"),
    [
        (501, b"gzip, chunked"),
        (501, b"identity, chunked"),
        (501, b"deflate, chunked"),
        (400, b"gzip"),
        (400, b"chunked, gzip"),
        (400, b"xchunked"),
        (400, b"chunked, chunked"),
        (400, b""),
    ],
)
def test_other_transfer_codings_are_refused(client, status, coding):
    head = b"POST /invocations HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: " + coding + b"\r\n\r\n"
    answer, content = ask(client, head + b"4\r\nfine\r\n0\r\n\r\n")
    assert answer.status == status
    assert answer.headers["Connection"] == "close"
    kind = {501: "NotImplemented", 400: "BadRequest"}[status]
    assert json.loads(content)["error"]["type"] == kind


# ---------------------------------------------------------------- heads


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/invocations", "POST"),
        ("HEAD", "/invocations", "POST"),
        ("OPTIONS", "/invocations", "POST"),
        ("POST", "/ping", "GET, HEAD"),
        ("DELETE", "/execution-parameters", "GET, HEAD"),
        ("PATCH", "/v1/models/m:predict", "POST"),
        ("GET", "/v2/models/m/infer", "POST"),
        ("POST", "/v2/health/live", "GET, HEAD"),
    ],
)
def test_a_405_names_what_is_allowed(client, method, path, allowed):
    answer, _ = ask(client, f"{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    assert (answer.status, answer.headers["Allow"]) == (405, allowed)


@pytest.mark.parametrize(
    "head",
    [
        PING,
        PING + b"Host: x\r\nHost: x\r\n",
        PING + b"host: x\r\na: b\r\nHOST: y\r\n",
        ASK.replace(b"Host: x\r\n", b""),
        ASK + b"Host: x\r\n",
    ],
)
def test_one_host_is_what_http_1_1_asks_for(client, head):
    status, message = refused(client, head + b"\r\nfine")
    assert status == 400
    assert "Host header" in message


@pytest.mark.parametrize("head", [PING + b"Host:\r\n", b"GET /ping HTTP/1.0\r\n"])
def test_a_host_may_be_empty_and_in_http_1_0_missing(client, head):
    assert ask(client, head + b"\r\n")[0].status == 200


@pytest.mark.parametrize("path", [b"/ping", b"/invocations", b"/nowhere"])
def test_http_1_0_is_told_that_its_connection_is_kept(client, path):
    head = ASK.replace(b"/invocations HTTP/1.1", path + b" HTTP/1.0")
    if path == b"/ping":
        head = head.replace(b"POST", b"GET")
    for _ in range(50):
        answer, _ = ask(client, head + b"Connection: Keep-Alive\r\n\r\nfine")
        assert answer.headers["Connection"] == "keep-alive"
    answer, _ = ask(client, head + b"\r\nfine")
    assert answer.headers["Connection"] == "close"
    assert client.recv(1) == b""


def test_http_1_0_knows_no_chunks(client):
    head = (
        b"POST /invocations HTTP/1.0\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n"
    )
    answer, body = ask(client, head + b"\r\n4\r\nfine\r\n0\r\n\r\n")
    assert (body, answer.headers["Connection"]) == (b"fine", "close")
    assert client.recv(1) == b""


def test_http_1_1_is_not(client):
    answer, _ = ask(client, ASK + b"Connection: keep-alive\r\n\r\nfine")
    assert answer.headers["Connection"] is None


H2C = (
    b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"
)


@pytest.mark.parametrize(
    "rest",
    [
        H2C + b"Content-Length: 9\r\n\r\nfine body",
        b"Content-Length: 9\r\n" + H2C + b"\r\nfine body",
        H2C + b"Transfer-Encoding: chunked\r\n\r\n4\r\nfine\r\n5\r\n body\r\n0\r\n\r\n",
        b"Connection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 9\r\n\r\nfine body",
        H2C + b"Expect: 100-continue\r\nContent-Length: 9\r\n\r\nfine body",
    ],
)
@pytest.mark.parametrize("pieces", [1, 2, 50])
def test_a_wish_for_another_protocol_is_ignored(client, rest, pieces):
    sent = b"POST /invocations?x HTTP/1.1\r\nHost: x\r\n" + rest
    for _ in range(2):
        size = -(-len(sent) // pieces)
        for start in range(0, len(sent), size):
            client.sendall(sent[start : start + size])
        answer, body = ask(client, b"")
        assert (answer.status, body) == (200, b"fine body")
        assert answer.headers["Upgrade"] is None
    assert ask(client, ASK + b"\r\nfine")[1] == b"fine"


def test_wishes_for_another_protocol_may_come_one_after_the_other(client):
    head = b"POST /invocations HTTP/1.1\r\nHost: x\r\n" + H2C + b"Content-Length: 5\r\n\r\n"
    client.sendall(b"".join(head + b"n%04d" % i for i in range(1000)))
    received = b""
    while b"n0999" not in received:
        received += client.recv(65536)
    assert [b"n%04d" % i in received for i in range(1000)] == [True] * 1000
    assert received.count(b"HTTP/1.1 200 OK") == 1000


def test_the_last_request_ends_the_connection_even_if_it_wishes_for_another_protocol(client):
    sent = (
        ASK + b"Connection: Upgrade, close\r\nUpgrade: h2c\r\n\r\nfine" + PING + b"Host: x\r\n\r\n"
    )
    answer, body = ask(client, sent)
    assert (answer.status, body, answer.headers["Connection"]) == (200, b"fine", "close")
    assert client.recv(1) == b""


def test_a_tunnel_is_refused(client):
    answer, _ = ask(client, b"CONNECT x:1 HTTP/1.1\r\nHost: x:1\r\n\r\nwhatever follows")
    assert (answer.status, answer.headers["Connection"]) == (404, "close")
