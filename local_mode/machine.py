"""What jobs and endpoints share: a folder, ports, and AWS's other services on loopback."""

import itertools
import shutil
import socket
import threading
from pathlib import Path

import boto3
from botocore.config import Config

from local_mode.container import Container
from local_mode.files import Files
from local_mode.logs import Logs
from local_mode.store import Store


class Machine:
    """The machine on which containers run.

    Parameters
    ----------
    folder : Path
        Root of everything that containers write.
    endpoint : str
        URL of the server.
    """

    def __init__(self, folder: Path, endpoint: str):
        self.folder, self.endpoint = folder, endpoint
        self._numbers = itertools.count()
        self._ports: set[int] = set()
        self._lock = threading.Lock()

    def container(self, name: str, program: str) -> Container:
        """Return a new container."""
        return Container(self.folder / f"{next(self._numbers)}-{name}", program)

    def port(self) -> int:
        """Return a free port of loopback, which no other container has been given."""
        with self._lock:
            while True:
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", 0))
                    port = probe.getsockname()[1]
                if port not in self._ports:
                    self._ports.add(port)
                    return port

    def release(self, port: int) -> None:
        """Give a port back."""
        with self._lock:
            self._ports.discard(port)

    def remove(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)


class Region:
    """What SageMaker has in one region, and AWS's other services there.

    Parameters
    ----------
    name : str
    machine : Machine

    Attributes
    ----------
    store : Store
    files : Files
        S3, and files of this machine.
    logs : Logs
        CloudWatch Logs.
    cloudwatch : botocore client
    registry : botocore client
        SageMaker's, for the model packages that moto stores.
    """

    def __init__(self, name: str, machine: Machine):
        self.name = name
        self.store = Store(name)
        session = boto3.session.Session(
            aws_access_key_id="local", aws_secret_access_key="local", region_name=name
        )
        config = Config(max_pool_connections=50, s3={"addressing_style": "path"})

        def client(service: str):
            return session.client(service, endpoint_url=machine.endpoint, config=config)

        self.files = Files(client("s3"))
        self.logs = Logs(client("logs"))
        self.cloudwatch = client("cloudwatch")
        self.registry = client("sagemaker")
