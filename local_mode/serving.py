"""A container that serves a model: started, asked whether it is ready, invoked."""

import contextlib
import http.client
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from local_mode.files import FileError, unpack
from local_mode.machine import Machine, Region

GRACE = 30  # seconds between SIGTERM and SIGKILL, as on SageMaker
START = 120  # seconds until /ping must answer; SageMaker's own limit is 8 minutes and configurable
TIMEOUT = 60  # seconds for one invocation


class ServeFailed(Exception):
    """A container did not come up, for the reason given."""


class Answer(NamedTuple):
    """A container's answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class ModelServer:
    """A container that serves one model.

    Parameters
    ----------
    machine : Machine
    region : Region
    name : str
        Of the endpoint or job that it serves, for its folder.
    log : tuple of str
        Group and stream of its log.
    model : mapping
        The model's description, with its program and the container that is served.
    environment : mapping of str to str, optional
        Additions to the model's own.
    """

    def __init__(
        self,
        machine: Machine,
        region: Region,
        name: str,
        log: tuple[str, str],
        model: Mapping[str, Any],
        environment: Mapping[str, str] | None = None,
    ):
        self._machine, self._region = machine, region
        self._definition = model["Served"]
        self._environment = environment or {}
        self.image = self._definition.get("Image", "")
        self._port = machine.port()
        self._container = machine.container(name, model["Program"])
        self._log = region.logs.open(*log)
        self._process = None
        self._pump: threading.Thread | None = None
        self._links: list[http.client.HTTPConnection] = []  # idle ones

    def start(self, timeout: float = START, cancelled: Callable[[], bool] = bool) -> None:
        """Bring the model, start ``serve`` and wait until it answers ``/ping``.

        Parameters
        ----------
        timeout : float
            Seconds until it must answer.
        cancelled : callable, optional
            Tells whether to give up.

        Raises
        ------
        ServeFailed
            If it exits or does not answer in time, with the last lines of its log.
        """
        definition = self._definition
        try:
            self._bring(definition)
            environment = {
                "SAGEMAKER_BIND_TO_PORT": str(self._port),
                "MODEL_SERVER_HOST": "127.0.0.1",
                **definition.get("Environment", {}),
                **self._environment,
            }
            self._process = self._container.start(["serve"], environment, GRACE)
        except (FileError, RuntimeError, OSError) as error:
            raise ServeFailed(str(error)) from None
        self._pump = threading.Thread(
            target=self._log.pump, args=[self._process.stdout], daemon=True
        )
        self._pump.start()
        deadline = time.monotonic() + timeout
        while self._process.poll() is None:
            if cancelled():
                raise ServeFailed("stopped before it answered")
            if time.monotonic() > deadline:
                raise ServeFailed(
                    f"it did not answer /ping within {timeout:g} s: {self._log.last_lines}"
                )
            with contextlib.suppress(OSError, http.client.HTTPException):
                if self._ask("GET", "/ping", None, {}, 2).status == 200:
                    return
            time.sleep(0.05)
        self._pump.join(5)
        raise ServeFailed(
            self._log.last_lines or f"it ended with exit code {self._process.returncode}"
        )

    def _bring(self, definition: Mapping[str, Any]) -> None:
        target = self._container.base / "model"
        source = definition.get("ModelDataSource", {}).get("S3DataSource")
        if source and source["CompressionType"] == "None":
            self._region.files.download(self._region.files.find(source["S3Uri"]), target)
            return
        uri = source["S3Uri"] if source else definition.get("ModelDataUrl")
        if not uri:
            return
        for archive, _ in self._region.files.find(uri):
            with self._region.files.open(archive) as stream:
                unpack(stream, target, archive)

    def is_running(self) -> bool:
        """Tell whether the container has not ended."""
        return self._process is not None and self._process.poll() is None

    def invoke(
        self, path: str, body: bytes, headers: Mapping[str, str], timeout: float = TIMEOUT
    ) -> Answer:
        """Send one request by POST.

        Raises
        ------
        OSError, http.client.HTTPException
            If the container does not answer, or not in time.
        """
        return self._ask("POST", path, body, headers, timeout)

    def get(self, path: str) -> Answer:
        """Send one request by GET."""
        return self._ask("GET", path, None, {}, TIMEOUT)

    def _ask(
        self,
        method: str,
        path: str,
        body: bytes | None,
        headers: Mapping[str, str],
        timeout: float,
    ) -> Answer:
        try:
            link, is_new = self._links.pop(), False
        except IndexError:
            link, is_new = http.client.HTTPConnection("127.0.0.1", self._port), True
        link.timeout = timeout
        if link.sock is not None:
            link.sock.settimeout(timeout)
        try:
            link.request(method, path, body, dict(headers))
            response = link.getresponse()
            answer = Answer(response.status, response.headers, response.read())
        except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
            link.close()
            if is_new:
                raise
            # The container has closed the connection meanwhile, and has not read the request.
            return self._ask(method, path, body, headers, timeout)
        except BaseException:
            link.close()
            raise
        self._links.append(link)
        return answer

    def stop(self) -> None:
        """Ask the container to end, without waiting."""
        self._container.stop()

    def remove(self) -> None:
        """Stop the container, and wait for its end."""
        self._container.remove()
        while self._links:
            self._links.pop().close()
        if self._pump is not None:
            self._pump.join()
        else:
            self._log.close()
        self._machine.release(self._port)
