"""AWS on loopback, served by moto."""

import contextlib
import logging
import os
import threading
from collections.abc import Iterator

from moto.server import ThreadedMotoServer

# AWS settings of the caller that are kept: a certificate bundle gives no access to an account.
_KEPT = {"AWS_CA_BUNDLE"}

_lock = threading.Lock()
_users = 0
_resources = contextlib.ExitStack()


@contextlib.contextmanager
def aws(region: str) -> Iterator[None]:
    """Point this process's AWS clients at a moto server on loopback.

    All open contexts share one server and its buckets. The environment is restored when the last
    one closes.

    Parameters
    ----------
    region : str
        Default region of clients.
    """
    global _users
    with _lock:
        if _users == 0:
            server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
            server.start()
            logging.getLogger("werkzeug").setLevel(
                logging.WARNING
            )  # suppress a log line per request
            _resources.callback(server.stop)
            host, port = server.get_host_and_port()
            _resources.enter_context(_environment(f"http://{host}:{port}", region))
        _users += 1
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if _users == 0:
                _resources.close()


@contextlib.contextmanager
def _environment(endpoint: str, region: str) -> Iterator[None]:
    ours = {
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
