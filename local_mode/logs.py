"""What containers print, line by line in CloudWatch Logs."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import IO

from botocore.exceptions import ClientError

_LIMIT = 256 * 1024 - 26  # bytes of an event, as CloudWatch Logs has it
_BATCH = 1000  # events of one call
_PAUSE = 0.2  # s between calls


class Logs:
    """CloudWatch Logs.

    Parameters
    ----------
    client : botocore client
    """

    def __init__(self, client):
        self._client = client

    def open(self, group: str, stream: str) -> "LogStream":
        """Make a stream, and its group if there is none of that name."""
        exists = self._client.exceptions.ResourceAlreadyExistsException
        with contextlib.suppress(exists):
            self._client.create_log_group(logGroupName=group)
        with contextlib.suppress(exists):
            self._client.create_log_stream(logGroupName=group, logStreamName=stream)
        return LogStream(self._client, group, stream)

    def find(self, group: str, prefix: str) -> list[str]:
        """Return the names of a group's streams that begin with a prefix."""
        pages = self._client.get_paginator("describe_log_streams").paginate(
            logGroupName=group, logStreamNamePrefix=prefix
        )
        with contextlib.suppress(self._client.exceptions.ResourceNotFoundException):
            return [stream["logStreamName"] for page in pages for stream in page["logStreams"]]
        return []


class LogStream:
    """One container's log.

    Lines are sent by a thread, so that whoever prints need not wait.
    """

    def __init__(self, client, group: str, stream: str):
        self._client = client
        self._names = {"logGroupName": group, "logStreamName": stream}
        self._events: list[dict] = []
        self._tail: list[str] = []
        self._stamp = 0
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._sender = threading.Thread(target=self._send_all, daemon=True)
        self._sender.start()

    def pump(self, output: IO[str], look: Callable[[str], None] = lambda _: None) -> None:
        """Copy a container's output line by line until it ends, and close the stream.

        Parameters
        ----------
        output : text file
        look : callable, optional
            Sees each line, too.
        """
        with output:
            for line in output:
                line = line.rstrip("\r\n")
                look(line)
                self.write(line)
        self.close()

    def write(self, line: str) -> None:
        """Add a line; a very long one becomes several."""
        content = line.encode() or b" "  # an event cannot be empty
        parts = (content[k : k + _LIMIT] for k in range(0, len(content), _LIMIT))
        with self._lock:
            self._stamp = max(self._stamp, int(time.time() * 1000))  # they may never go back
            self._events.extend(
                {"timestamp": self._stamp, "message": part.decode(errors="replace")}
                for part in parts
            )
            self._tail = [*self._tail, line][-3:]

    @property
    def last_lines(self) -> str:
        """The last three lines, in one."""
        with self._lock:
            return " | ".join(self._tail)

    def close(self) -> None:
        """Send what is left."""
        self._closed.set()
        self._sender.join()

    def _send_all(self) -> None:
        while not self._closed.wait(_PAUSE):
            self._send()
        self._send()

    def _send(self) -> None:
        while True:
            with self._lock:
                batch, self._events = self._events[:_BATCH], self._events[_BATCH:]
            size = 0
            for number, event in enumerate(batch):
                size += len(event["message"]) * 4 + 26
                if size > 1_000_000 and number:  # what one call may carry
                    with self._lock:
                        self._events = batch[number:] + self._events
                    batch = batch[:number]
                    break
            if not batch:
                return
            with contextlib.suppress(Exception):  # the server is closing
                self._client.put_log_events(**self._names, logEvents=batch)


class LogReader:
    """The streams of a job's log, each read as far as it has come.

    Parameters
    ----------
    client : botocore client
    group : str
    prefix : str
        Of the streams' names.
    """

    def __init__(self, client, group: str, prefix: str):
        self._client = client
        self._group, self._prefix = group, prefix
        self._tokens: dict[str, str | None] = {}

    def read(self) -> Iterator[str]:
        """Yield the lines that have come since the last call."""
        with contextlib.suppress(ClientError):  # no stream yet
            streams = self._client.describe_log_streams(
                logGroupName=self._group, logStreamNamePrefix=self._prefix
            )
            for stream in streams["logStreams"]:
                self._tokens.setdefault(stream["logStreamName"], None)
        for stream in self._tokens:
            yield from self._read(stream)

    def _read(self, stream: str) -> Iterator[str]:
        while True:
            token = self._tokens[stream]
            page = self._client.get_log_events(
                logGroupName=self._group,
                logStreamName=stream,
                startFromHead=True,
                **({"nextToken": token} if token else {}),
            )
            yield from (event["message"] for event in page["events"])
            self._tokens[stream] = page["nextForwardToken"]
            if not page["events"]:
                return
