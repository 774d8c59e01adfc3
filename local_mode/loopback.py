"""AWS as this process sees it: a server on loopback, to which all its clients are pointed."""

import contextlib
import os
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from local_mode.server import Server

# AWS settings of the caller that are kept: a certificate bundle gives no access to an account.
_KEPT = {"AWS_CA_BUNDLE"}

_lock = threading.Lock()
_users = 0
_server: Server | None = None
_resources = contextlib.ExitStack()


@contextlib.contextmanager
def aws(region: str, program: str) -> Iterator[Server]:
    """Point this process's AWS clients at a server on loopback.

    All open contexts share one server. When the last one closes, it stops its jobs and endpoints,
    and the environment is restored.

    Parameters
    ----------
    region : str
        Default region of clients.
    program : str
        The file of code/ that images were "built" with, for clients that don't say.
    """
    global _users, _server
    with _lock:
        if _users == 0:
            folder = _resources.enter_context(
                tempfile.TemporaryDirectory(prefix="sagemaker-", ignore_cleanup_errors=True)
            )
            _server = Server(Path(folder).resolve(), region, program)
            _resources.enter_context(environment(_server.url, region))
            _resources.callback(_server.close)
        _users += 1
        server = _server
    try:
        yield server
    finally:
        with _lock:
            _users -= 1
            if _users == 0:
                _resources.close()


def variables(endpoint: str, region: str) -> dict[str, str]:
    """Return the environment of a client of the server."""
    return {
        "AWS_ACCESS_KEY_ID": "local",
        "AWS_SECRET_ACCESS_KEY": "local",
        "AWS_DEFAULT_REGION": region,
        "AWS_REGION": region,
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_EC2_METADATA_DISABLED": "true",
        # A profile or an endpoint in the user's files must not override the above.
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }


@contextlib.contextmanager
def environment(endpoint: str, region: str) -> Iterator[None]:
    """Give this process the environment of a client of the server."""
    ours = variables(endpoint, region)
    for name in ("NO_PROXY", "no_proxy"):
        ours[name] = ",".join(filter(None, [os.environ.get(name), "127.0.0.1"]))
    theirs = {name for name in os.environ if name.startswith("AWS_")} - _KEPT
    before = {name: os.environ.get(name) for name in theirs | ours.keys()}
    for name in theirs:
        del os.environ[name]
    os.environ.update(ours)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
