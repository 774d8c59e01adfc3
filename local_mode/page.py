"""A page in front of an endpoint, served on this machine.

It asks for each answer with its explanation, as `gam_model.endpoint_page` says. The endpoint may
be one of this machine's, one in AWS, or a server at an address.
"""

import argparse
import io
import json
import signal
import sys
import tarfile
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import boto3
from botocore.exceptions import BotoCoreError, ClientError

from gam_model.endpoint_page import render_endpoint_page

PORT = 4601
LIMIT = 25_000_000  # bytes of a request
_JSON = "application/json"
_FILE = "model.json"
_HEADERS = {
    "Content-Security-Policy": "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class PageError(Exception):
    """What keeps the page from being shown, in one sentence."""


class Answer(NamedTuple):
    """What an endpoint answers."""

    status: int
    body: bytes


Invoke = Callable[[bytes, str], Answer]  # from a body in JSON, and Accept


class PageServer:
    """The page and the way to its endpoint, in threads of this process.

    Only requests of the page itself are passed on: a web page of another site names its own site
    in Origin, or, where its name was made to mean this machine, in Host.

    Parameters
    ----------
    page : str
        HTML.
    invoke : callable
        Asks the endpoint.
    port : int
        Port of loopback; 0 for a free one.

    Attributes
    ----------
    url : str

    Raises
    ------
    OSError
        If the port cannot be used.
    """

    def __init__(self, page: str, invoke: Invoke, port: int = 0):
        parts = {"page": page.encode(), "invoke": staticmethod(invoke)}
        self._server = ThreadingHTTPServer(
            ("127.0.0.1", port), type("Handler", (_Handler,), parts)
        )
        self.url = f"http://127.0.0.1:{self._server.server_port}/"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    page: bytes
    invoke: Invoke

    def do_GET(self) -> None:
        if self._is_foreign():
            self._send_error(403, "only the page itself is answered")
        elif self.path == "/":
            self._send(200, self.page, "text/html; charset=utf-8", _HEADERS)
        else:
            self._send_error(404, "no such path; the page is at /")

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if self._is_foreign():
            self._send_error(403, "only the page itself is answered")
        elif self.path != "/invocations":
            self._send_error(404, "no such path; the endpoint is at /invocations")
        elif self.headers.get_content_type() != _JSON:
            self._send_error(415, f"send {_JSON}")
        elif not length.isdecimal() or int(length) > LIMIT:
            self._send_error(413, f"send a Content-Length of at most {LIMIT} bytes")
        else:
            body = self.rfile.read(int(length))
            answer = self.invoke(body, self.headers.get("Accept", _JSON))
            self._send(answer.status, answer.body, _JSON)

    def _is_foreign(self) -> bool:
        host, origin = self.headers.get("Host", ""), self.headers.get("Origin")
        name, _, port = host.partition(":")
        is_here = name in ("127.0.0.1", "localhost") and port == str(self.server.server_port)
        return not is_here or origin not in (None, f"http://{host}")

    def _send_error(self, status: int, message: str) -> None:
        self.close_connection = True  # a body may not have been read
        self._send(status, _word("ClientError", message), _JSON)

    def _send(
        self, status: int, body: bytes, content_type: str, headers: Mapping[str, str] | None = None
    ) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": content_type, **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass  # not a line for each change of a slider


def _word(kind: str, message: str) -> bytes:
    return json.dumps({"error": {"type": kind, "message": message}}).encode()


# ---------------------------------------------------------------- endpoints


def open_page(endpoint: str, session: Any = None, port: int = 0, **words: Any) -> PageServer:
    """Serve the page of an endpoint, and print where.

    Parameters
    ----------
    endpoint : str
        Its name.
    session : sagemaker.Session, optional
        Whose endpoint it is, in any mode; by default that of boto3's environment.
    port : int
        Port of loopback; 0 for a free one.
    **words
        What the page says, as in `gam_model.page.write_page`.

    Returns
    -------
    PageServer
        Which serves until it is closed, or the process ends.

    Raises
    ------
    PageError
        If there is no such endpoint, or its model does not say what the page needs to know.
    """
    boto = session.boto_session if session else boto3.Session()
    try:
        control = session.sagemaker_client if session else boto.client("sagemaker")
        runtime = session.sagemaker_runtime_client if session else None
        runtime = runtime or boto.client("sagemaker-runtime")
        described = _find_description(endpoint, control, boto.client("s3"))
    except (BotoCoreError, ClientError) as error:
        raise PageError(f"the endpoint {endpoint!r} cannot be shown: {error}") from None
    server = PageServer(
        _render(described, endpoint, words),
        lambda body, accept: _invoke_endpoint(runtime, endpoint, body, accept),
        port,
    )
    print(f"The page of {endpoint}: {server.url}", flush=True)
    return server


def _render(described: dict[str, Any], name: str, words: Mapping[str, Any]) -> str:
    try:
        return render_endpoint_page(described, name, **words)
    except (TypeError, ValueError) as error:
        raise PageError(str(error)) from None


def _find_description(endpoint: str, sagemaker: Any, s3: Any) -> dict[str, Any]:
    """Return the model.json of the endpoint's first variant."""
    config = sagemaker.describe_endpoint(EndpointName=endpoint)["EndpointConfigName"]
    variants = sagemaker.describe_endpoint_config(EndpointConfigName=config)["ProductionVariants"]
    model = sagemaker.describe_model(ModelName=variants[0]["ModelName"])
    container = model.get("PrimaryContainer") or model["Containers"][0]
    source = container.get("ModelDataSource", {}).get("S3DataSource", {})
    uri = container.get("ModelDataUrl") or source.get("S3Uri")
    if not uri:
        raise PageError(f"the model of endpoint {endpoint!r} has no data in S3 to describe it")
    is_folder = source.get("CompressionType") == "None"
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    key = f"{key.rstrip('/')}/{_FILE}" if is_folder else key
    content = s3.get_object(Bucket=bucket, Key=key)["Body"].read()
    return json.loads(content) if is_folder else _read_archive(content, uri)


def _read_archive(content: bytes, where: object) -> dict[str, Any]:
    try:
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            for member in archive:
                if member.name.removeprefix("./") == _FILE and (
                    file := archive.extractfile(member)
                ):
                    return json.load(file)
    except (tarfile.TarError, ValueError) as error:
        raise PageError(f"{where} cannot be read: {error}") from None
    raise PageError(f"{where} holds no {_FILE}, which says what the page needs to know")


def _invoke_endpoint(runtime: Any, name: str, body: bytes, accept: str) -> Answer:
    try:
        answer = runtime.invoke_endpoint(
            EndpointName=name, Body=body, ContentType=_JSON, Accept=accept
        )
    except ClientError as error:
        if "OriginalStatusCode" in error.response:
            status = error.response["OriginalStatusCode"] or 502
            return Answer(status, str(error.response.get("OriginalMessage", "")).encode())
        return Answer(502, _word("EndpointError", str(error)))
    except BotoCoreError as error:
        return Answer(502, _word("EndpointError", str(error)))
    content = answer["Body"]  # in mode docker of urllib3, which raises nothing for a status
    return Answer(getattr(content, "status", 200), content.read())


def _invoke_address(address: str, body: bytes, accept: str) -> Answer:
    headers = {"Content-Type": _JSON, "Accept": accept}
    try:
        request = urllib.request.Request(address, body, headers)
        with urllib.request.urlopen(request, timeout=70) as answer:
            return Answer(answer.status, answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return Answer(error.code, error.read())
    except OSError as error:
        return Answer(502, _word("EndpointError", f"{address} does not answer: {error}"))


# ---------------------------------------------------------------- the command


def main(arguments: list[str] | None = None) -> str | None:
    """Run the command line; return what was wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m local_mode page", description=__doc__.splitlines()[0]
    )
    parser.add_argument(
        "endpoint",
        help="the endpoint's name, found by boto3's environment (AWS_ENDPOINT_URL for this "
        "machine's), or the address of a server, such as http://127.0.0.1:8080",
    )
    parser.add_argument(
        "--model",
        type=Path,
        help=f"of a server at an address: its model.tar.gz, or the {_FILE} in it",
    )
    parser.add_argument("--words", type=Path, help="JSON with what the page says, see write_page")
    parser.add_argument(
        "--port", type=int, default=PORT, help="0 for a free one (default: %(default)s)"
    )
    chosen = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        words = json.loads(chosen.words.read_text(encoding="utf-8")) if chosen.words else {}
        if not isinstance(words, dict):
            raise PageError(f"{chosen.words} must hold a JSON object")
        if chosen.endpoint.startswith(("http://", "https://")):
            server = _open_address(chosen.endpoint, chosen.model, chosen.port, words)
        else:
            server = open_page(chosen.endpoint, None, chosen.port, **words)
    except (PageError, OSError, ValueError) as error:
        return f"{parser.prog}: {error}"
    try:
        signal.pause()
    except KeyboardInterrupt:
        server.close()
    return None


def _open_address(
    address: str, model: Path | None, port: int, words: Mapping[str, Any]
) -> PageServer:
    if model is None:
        raise PageError(f"name the model of {address} by --model, a model.tar.gz or its {_FILE}")
    content = model.read_bytes()
    described = json.loads(content) if model.name == _FILE else _read_archive(content, model)
    address = address.rstrip("/").removesuffix("/invocations")
    server = PageServer(
        _render(described, address, words),
        lambda body, accept: _invoke_address(f"{address}/invocations", body, accept),
        port,
    )
    print(f"The page of {address}: {server.url}", flush=True)
    return server


if __name__ == "__main__":
    sys.exit(main())
