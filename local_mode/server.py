"""SageMaker's HTTP API on loopback, with the services around it.

SageMaker and its runtime are ours; S3, IAM, STS, ECR, CloudWatch and the rest are moto's.
"""

import io
import json
import logging
import re
import socket
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from moto.moto_server.werkzeug_app import (
    DomainDispatcherApplication,
    MotoRequestHandler,
    create_backend_app,
)
from werkzeug.serving import make_server

from local_mode import iam, runtime, wire
from local_mode.api import STORED, TAGS, Api
from local_mode.machine import Machine, Region

PROGRAM_HEADER = "X-Local-Program"  # which program a client's images were "built" with
_SCOPE = re.compile(r"Credential=[^/,]*/\d{8}/(?P<region>[^/]+)/(?P<service>[^/]+)/aws4_request")
_INVOCATION = re.compile(r"/endpoints/(?P<name>[^/]+)/(?P<way>[a-z-]+)")
_FILTER_LOGS = "Logs_20140328.FilterLogEvents"
_AWS = ".amazonaws.com"  # of clients that take this server for their proxy
REGION = "us-east-1"

Headers = list[tuple[str, str]]


class Server:
    """The server, in threads of this process.

    Parameters
    ----------
    folder : Path
        For what jobs and endpoints write, which is deleted when the server is closed.
    region : str
        Of clients that don't sign their requests.
    program : str
        The file of code/ that images were "built" with, for clients that don't say.
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

    def __init__(
        self, folder: Path, region: str = REGION, program: str = "model_logic.py", port: int = 0
    ):
        logging.getLogger("werkzeug").setLevel(logging.WARNING)  # not a line for each request
        moto = DomainDispatcherApplication(create_backend_app)
        handler = type("Handler", (_Handler,), {"ours": staticmethod(self.answer)})
        with socket.create_server(("127.0.0.1", port)) as listener:
            self._server = make_server(
                *listener.getsockname(),
                moto,
                threaded=True,
                request_handler=handler,
                fd=listener.fileno(),
            )
        self.url = f"http://127.0.0.1:{self._server.port}"
        self._region, self._program = region, program
        self._machine = Machine(folder, self.url)
        self._apis: dict[str, Api] = {}
        self._lock = threading.Lock()
        iam.create_role()
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop jobs and endpoints, and then the server itself."""
        for api in list(self._apis.values()):
            api.close()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        self._machine.remove()

    def api(self, region: str) -> Api:
        """Return SageMaker in one region."""
        with self._lock:
            if region not in self._apis:
                self._apis[region] = Api(self._machine, Region(region, self._machine))
            return self._apis[region]

    # ---------------------------------------------------------------- requests

    def answer(self, environ: dict[str, Any]) -> tuple[int, Headers, bytes] | None:
        """Answer a request of SageMaker's.

        Parameters
        ----------
        environ : dict
            The request, as WSGI has it.

        Returns
        -------
        status, headers, body
            Or None, if the request is one for moto.
        """
        scope = _SCOPE.search(environ.get("HTTP_AUTHORIZATION", ""))
        service = scope["service"] if scope else None
        region = scope["region"] if scope else self._region
        invocation = _INVOCATION.fullmatch(environ["PATH_INFO"])
        if invocation and service in ("sagemaker", None):
            return self._answer_invocation(environ, region, invocation)
        if service == "sagemaker" and environ["PATH_INFO"] == "/":
            return self._answer_operation(environ, region)
        if environ.get("HTTP_X_AMZ_TARGET") == _FILTER_LOGS:
            self._name_streams(environ, region)
        if service == "iam":
            content = _read(environ)
            _replace(environ, content)
            if answer := iam.simulate(content):
                status, body = answer
                return status, [("Content-Type", "text/xml")], body
        return None

    def _name_streams(self, environ: dict[str, Any], region: str) -> None:
        """Name the streams with a prefix, which moto would take for none."""
        request = json.loads(_read(environ))
        prefix = request.pop("logStreamNamePrefix", None)
        if prefix is not None:
            logs = self.api(region).region.logs
            names = logs.find(request["logGroupName"], prefix)
            request["logStreamNames"] = names or [prefix]
        _replace(environ, json.dumps(request).encode())

    def _answer_operation(
        self, environ: dict[str, Any], region: str
    ) -> tuple[int, Headers, bytes] | None:
        content = _read(environ)
        _replace(environ, content)  # for moto
        target = environ.get("HTTP_X_AMZ_TARGET", "")
        headers = [("Content-Type", wire.CONTENT_TYPE)]
        try:
            operation = wire.operation_of(target)
            name = operation.name if operation else target
            api = self.api(region)
            if name not in {*api.operations, *STORED, *TAGS}:
                raise wire.ApiError(
                    "UnknownOperationException",
                    f"{name.rpartition('.')[2] or 'a request without X-Amz-Target'} is not an "
                    "operation of SageMaker's on this machine; see docs/local.md",
                )
            request = wire.read(name, content)
            if name in STORED:
                return None
            if name in TAGS:
                answer = api.tag(name, request)
                if answer is None:
                    return None
            else:
                program = environ.get(_key(PROGRAM_HEADER)) or self._program
                answer = api.operations[name](request, program)
            return 200, headers, wire.write(name, answer)
        except wire.ApiError as error:
            return error.status, headers, wire.write_error(error)
        except Exception as error:
            logging.getLogger(__name__).exception("%s failed", target)
            fault = wire.ApiError("InternalFailure", repr(error), 500)
            return fault.status, headers, wire.write_error(fault)

    def _answer_invocation(
        self, environ: dict[str, Any], region: str, invocation: re.Match
    ) -> tuple[int, Headers, bytes]:
        body = _read(environ)  # before any error, as the connection goes on
        try:
            if invocation["way"] != "invocations":
                raise wire.ApiError(
                    "UnknownOperationException",
                    f"{invocation['way']} is not supported on this machine; see docs/local.md",
                )
            endpoints = self.api(region).endpoints
            headers, answer = runtime.invoke(endpoints, region, invocation["name"], environ, body)
            return 200, headers, answer
        except wire.ApiError as error:
            return error.status, *runtime.render_error(error)
        except Exception as error:
            logging.getLogger(__name__).exception("an invocation failed")
            fault = wire.ApiError("InternalFailure", repr(error), 500)
            return fault.status, *runtime.render_error(fault)


class _Handler(MotoRequestHandler):
    """Answers what is ours on connections that stay open, and leaves the rest to moto's WSGI."""

    disable_nagle_algorithm = True
    _environ: dict[str, Any] | None = None
    ours: Callable[[dict[str, Any]], tuple[int, Headers, bytes] | None]

    def run_wsgi(self) -> None:
        self._environ = None
        self._environ = environ = self.make_environ()
        if _is_foreign(self.headers):
            self.send_error(403, "only clients of this machine are answered")
            return
        if self.headers.get("Expect", "").lower() == "100-continue":
            self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            del self.headers["Expect"]
        answer = self.ours(environ)
        if answer is None:
            super().run_wsgi()
            return
        status, headers, body = answer
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def make_environ(self) -> dict[str, Any]:
        return self._environ or super().make_environ()


def _is_foreign(headers: Mapping[str, str]) -> bool:
    """Return whether a web page of another site sent a request.

    A job runs what its request says, and a browser reaches loopback for any page; moto would even
    invite it to. A page names its site in Origin; one whose name was made to mean this machine has
    that name in Host.
    """
    host = urlsplit(f"//{headers.get('Host', '')}").hostname or ""
    is_here = host in ("127.0.0.1", "localhost") or host.endswith((".localhost", _AWS))
    origin = headers.get("Origin")
    return not is_here or (origin is not None and origin != f"http://{headers['Host']}")


def _read(environ: dict[str, Any]) -> bytes:
    length = environ.get("CONTENT_LENGTH")
    if length:
        return environ["wsgi.input"].read(int(length))
    return environ["wsgi.input"].read() if environ.get("wsgi.input_terminated") else b""


def _replace(environ: dict[str, Any], content: bytes) -> None:
    environ["wsgi.input"] = io.BytesIO(content)
    environ["CONTENT_LENGTH"] = str(len(content))


def _key(header: str) -> str:
    return f"HTTP_{header.upper().replace('-', '_')}"
