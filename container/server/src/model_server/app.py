"""The contract as an ASGI application."""

import asyncio
import json
import logging
import time
import uuid

from model_server.program import Program
from model_server.settings import Settings

logger = logging.getLogger("model_server")

# HTTPStatus words some of them differently from one version of Python to the next.
_TYPES = {
    400: "BadRequest",
    404: "NotFound",
    405: "MethodNotAllowed",
    406: "NotAcceptable",
    413: "PayloadTooLarge",
    415: "UnsupportedMediaType",
    500: "InternalServerError",
}


class RequestError(Exception):
    """A request that is refused before it reaches the program."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status


class App:
    """ASGI application over one loaded program.

    Parameters
    ----------
    program : Program
    settings : Settings
    """

    def __init__(self, program: Program, settings: Settings):
        self._program = program
        self._settings = settings
        self._routes = {
            "/ping": ("GET", self._ping),
            "/invocations": ("POST", self._invocations),
            "/execution-parameters": ("GET", self._execution_parameters),
        }

    async def __call__(self, scope, receive, send) -> None:
        """Answer one request, and log it in one line."""
        request_id, start = uuid.uuid4().hex, time.perf_counter()
        try:
            body, content_type = await self._answer(scope, receive)
            # latin-1 is HTTP's own encoding of header values.
            status, kind = 200, content_type.encode("latin-1")
        except Exception as error:
            status, body = _describe(error, request_id)
            kind = b"application/json"
        headers = [(b"content-type", kind), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})
        if scope["path"] != "/ping" or status != 200:  # asked every few seconds, for ever
            logger.info(
                json.dumps(
                    {
                        "id": request_id,
                        "method": scope["method"],
                        "path": scope["path"],
                        "status": status,
                        "bytes_out": len(body),
                        "ms": round(1000 * (time.perf_counter() - start), 3),
                    }
                )
            )

    async def _answer(self, scope, receive) -> tuple[bytes, str]:
        path = scope["path"]
        if path not in self._routes:
            raise RequestError(404, f"no such path; try {', '.join(self._routes)}")
        method, handler = self._routes[path]
        if scope["method"] != method:
            raise RequestError(405, f"{path} answers {method} only")
        return await handler(scope, receive)

    async def _ping(self, scope, receive) -> tuple[bytes, str]:
        return b"", "text/plain"

    async def _execution_parameters(self, scope, receive) -> tuple[bytes, str]:
        parameters = {
            "MaxConcurrentTransforms": 1,
            "BatchStrategy": "MULTI_RECORD",
            "MaxPayloadInMB": max(1, self._settings.body_limit // 2**20),
        }
        return json.dumps(parameters).encode(), "application/json"

    async def _invocations(self, scope, receive) -> tuple[bytes, str]:
        headers = {k.decode("latin-1"): v.decode("latin-1") for k, v in scope["headers"]}
        body = await self._read(headers, receive)
        content_type = headers.get("content-type", "application/json")
        accept = headers.get("accept", "").strip()
        if accept in ("", "*/*"):  # the client leaves it to us
            accept = self._settings.accept
        # In a thread, so that /ping is answered while a long prediction runs.
        return await asyncio.to_thread(self._run, body, content_type, accept, headers)

    def _run(self, *request) -> tuple[bytes, str]:
        try:
            return self._program(*request)
        except (StopIteration, SystemExit) as error:
            # To asyncio these two mean something else, and the request or the server would hang.
            raise RuntimeError(f"the program raised {type(error).__name__}") from error

    async def _read(self, headers: dict[str, str], receive) -> bytes:
        limit = self._settings.body_limit
        refusal = RequestError(413, f"the body is larger than {limit} bytes; send fewer rows")
        if int(headers.get("content-length", 0)) > limit:
            raise refusal
        chunks, size, more = [], 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise RequestError(400, "the client left before the body was complete")
            chunks.append(message.get("body", b""))
            size += len(chunks[-1])
            if size > limit:
                raise refusal
            more = message.get("more_body", False)
        return b"".join(chunks)


def _describe(error: Exception, request_id: str) -> tuple[int, bytes]:
    status = getattr(error, "status", None)
    if isinstance(status, int) and 400 <= status < 500:
        message = str(error)
    else:
        status = 500
        message = f"the program failed; its log has the reason under request {request_id}"
        logger.error("request %s failed", request_id, exc_info=error)
    kind = _TYPES.get(status, "ClientError")
    return status, json.dumps({"error": {"type": kind, "message": message}}).encode()
