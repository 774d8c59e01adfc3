"""The model inside Lambda: a program, asked by events instead of over a connection.

``code/`` and ``model/`` lie beside this file. awslambdaric calls `handler`; Zappa, which has a
handler of its own, calls `application`.
"""

import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import events
from events import Answer, Request
from model_server.program import Program

logger = logging.getLogger("app")
logger.setLevel(logging.INFO)  # a line per request

BODY_LIMIT = 6_000_000  # bytes; Lambda itself refuses much more, but gives no reason


class Application:
    """One program and its model, on the paths that SageMaker's contract has.

    Parameters
    ----------
    program : str
        File name of the program.
    folder : Path
        Where code/ and model/ lie.
    cors : Cors
    """

    def __init__(self, program: str, folder: Path, cors: events.Cors):
        self._cors = cors
        self._program = Program(folder / "code" / program, [], folder / "model")

    def answer(self, request: Request) -> Answer:
        """Answer one request, and log it in one line."""
        start = time.perf_counter()
        answer = self._cors.apply(request, self._try)
        line = {"method": request.method, "path": request.path, "status": answer.status}
        ms = round(1000 * (time.perf_counter() - start), 3)
        logger.info(json.dumps(line | {"bytes_out": len(answer.body), "ms": ms}))
        return answer

    def _try(self, request: Request) -> Answer:
        try:
            return self._route(request)
        except Exception as error:
            status = getattr(error, "status", None)
            if isinstance(status, int) and 400 <= status < 500:
                return events.refuse(status, str(error))
            logger.exception("the program failed")
            return events.refuse(500, "the program failed; its log has the reason")

    def _route(self, request: Request) -> Answer:
        methods = {"/ping": "GET", "/invocations": "POST"}
        if request.path not in methods:
            return events.refuse(404, f"no such path; try {', '.join(methods)}")
        method = methods[request.path]
        if request.method != method:
            return events.refuse(405, f"{request.path} supports only {method}", Allow=method)
        if method == "GET":
            return Answer(200, "text/plain", b"")
        if len(request.body) > BODY_LIMIT:
            return events.refuse(413, f"the body has over {BODY_LIMIT} bytes; send fewer rows")
        accept = request.headers.get("accept", "").strip()
        if accept in ("", "*/*"):  # the client leaves it to us
            accept = "application/json"
        content_type = request.headers.get("content-type", "application/json")
        result = self._program(request.body, content_type, accept, request.headers)
        attributes = result.custom_attributes
        headers = {events.CUSTOM_ATTRIBUTES: attributes} if attributes else {}
        return Answer(200, result.content_type, result.body, {**headers, **result.headers})

    def __call__(
        self, environ: Mapping[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        """Answer one request in WSGI's way."""
        headers = {
            name.removeprefix("HTTP_").replace("_", "-").lower(): value
            for name, value in environ.items()
            if name.startswith("HTTP_") or (name == "CONTENT_TYPE" and value)
        }
        body = environ["wsgi.input"].read()
        path = events.cut_path(environ["PATH_INFO"])
        request = Request(environ["REQUEST_METHOD"], path, headers, body)
        answer = events.fit(self.answer(request))
        start_response(
            f"{answer.status} {'OK' if answer.status < 400 else 'Error'}",
            [("Content-Type", answer.content_type), *answer.headers.items()],
        )
        return [answer.body]


def handler(event: Mapping[str, Any], context: object) -> dict[str, Any]:
    """Answer one event."""
    return events.handle(event, application.answer)


# Lambda imports the module once per process, before the first request: this is its main().
application = Application(
    os.environ["SAGEMAKER_PROGRAM"],
    Path(__file__).parent,
    events.Cors(os.environ.get("CORS_ORIGINS", "")),
)
