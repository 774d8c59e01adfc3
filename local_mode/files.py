"""What jobs read and write: objects in S3, or files and folders of this machine."""

import json
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO
from urllib.parse import urlparse

from boto3.exceptions import S3UploadFailedError
from botocore.exceptions import ClientError


class FileError(Exception):
    """A file or an object is not there, or is not what it should be."""


class Files:
    """Access to what URIs name, ``s3://…``, ``file://…`` or a path.

    Parameters
    ----------
    s3 : botocore client
    """

    def __init__(self, s3):
        self._s3 = s3

    def find(self, uri: str) -> list[tuple[str, str]]:
        """Return what a URI names as a prefix: URI and relative path of each file, by name.

        Raises
        ------
        FileError
            If there is none.
        """
        if is_local(uri):
            root = path_of(uri)
            paths = sorted(path for path in root.rglob("*") if path.is_file())
            found = [(str(path), path.relative_to(root).as_posix()) for path in paths]
            if root.is_file():
                found = [(str(root), root.name)]
        else:
            bucket, prefix = split(uri)
            found = [
                (f"s3://{bucket}/{key}", _relative(key, prefix))
                for key in self._keys(bucket, prefix)
            ]
        if not found:
            raise FileError(f"data download failed: nothing found at {uri}")
        return found

    def _keys(self, bucket: str, prefix: str) -> Iterator[str]:
        try:
            pages = self._s3.get_paginator("list_objects_v2").paginate(
                Bucket=bucket, Prefix=prefix
            )
            for page in pages:
                keys = (item["Key"] for item in page.get("Contents", []))
                yield from (key for key in keys if not key.endswith("/"))
        except ClientError as error:
            raise FileError(f"s3://{bucket}/{prefix}: {error}") from None

    def open(self, uri: str) -> BinaryIO:
        """Open one file for reading."""
        try:
            if is_local(uri):
                return path_of(uri).open("rb")
            bucket, key = split(uri)
            return self._s3.get_object(Bucket=bucket, Key=key)["Body"]
        except (OSError, ClientError) as error:
            raise FileError(f"{uri} cannot be read: {error}") from None

    def read(self, uri: str) -> bytes:
        """Return the content of one file."""
        with self.open(uri) as stream:
            return stream.read()

    def download(self, found: list[tuple[str, str]], folder: Path) -> None:
        """Copy files, as `find` gives them, into a folder."""
        for uri, name in found:
            if ".." in PurePosixPath(name).parts:
                raise FileError(f"{uri} leads out of its folder")
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with self.open(uri) as source, path.open("wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)

    def write(self, uri: str, content: bytes | Path) -> None:
        """Write one file."""
        try:
            if is_local(uri):
                path_of(uri).parent.mkdir(parents=True, exist_ok=True)
                if isinstance(content, Path):
                    shutil.copy(content, path_of(uri))
                else:
                    path_of(uri).write_bytes(content)
                return
            bucket, key = split(uri)
            if isinstance(content, Path):
                self._s3.upload_file(str(content), bucket, key)
            else:
                self._s3.put_object(Bucket=bucket, Key=key, Body=content)
        except (OSError, ClientError, S3UploadFailedError) as error:
            raise FileError(f"{uri} cannot be written: {error}") from None

    def upload(self, folder: Path, uri: str, known: dict[str, Any] | None = None) -> None:
        """Write all files of a folder, or those that have changed since `known` was noted."""
        for path in sorted(folder.rglob("*")):
            if not path.is_file():
                continue
            state = path.stat()
            name, mark = path.relative_to(folder).as_posix(), (state.st_mtime_ns, state.st_size)
            if known is None or known.get(name) != mark:
                self.write(f"{uri.rstrip('/')}/{name}", path)
                if known is not None:
                    known[name] = mark

    def manifest(self, uri: str) -> list[tuple[str, str]]:
        """Return what a manifest names, as `find` does.

        Raises
        ------
        FileError
            If it is not a manifest: a prefix, then names or suffixes.
        """
        try:
            head, *names = json.loads(self.read(uri))
            prefix = head["prefix"]
            if not all(isinstance(name, str) for name in names):
                raise ValueError("each further entry must be a string")
        except (ValueError, KeyError, TypeError) as error:
            raise FileError(
                f"{uri} is not a manifest, a JSON list of a prefix and names: {error!r}"
            ) from None
        return [(f"{prefix}{name}", name.lstrip("/")) for name in names]


def is_local(uri: str) -> bool:
    """Tell whether a URI names something on this machine rather than in S3."""
    return uri.startswith(("file://", "/"))


def path_of(uri: str) -> Path:
    """Return the path that a local URI names."""
    parsed = urlparse(uri) if uri.startswith("file://") else None
    return Path(parsed.netloc + parsed.path if parsed else uri)


def split(uri: str) -> tuple[str, str]:
    """Return bucket and key of a URI.

    Raises
    ------
    FileError
        If it is not one of S3's.
    """
    parsed = urlparse(uri, allow_fragments=False)
    if parsed.scheme != "s3" or not parsed.netloc:
        raise FileError(f"{uri} is not supported; name what is in S3 as s3://BUCKET/KEY")
    query = f"?{parsed.query}" if parsed.query else ""
    return parsed.netloc, f"{parsed.path}{query}".lstrip("/")


def _relative(key: str, prefix: str) -> str:
    if key.startswith(prefix) and key[len(prefix) :].startswith("/"):
        return key[len(prefix) :].lstrip("/")
    return key[prefix.rfind("/") + 1 :]


def pack(folder: Path, archive: Path) -> None:
    """Write the content of a folder as tar.gz."""
    with tarfile.open(archive, "w:gz") as tar:
        for path in sorted(folder.iterdir()):
            tar.add(path, arcname=path.name)


def unpack(archive: BinaryIO, folder: Path, uri: str) -> None:
    """Unpack a tar.gz, in which nothing may lead out of the folder."""
    try:
        with tarfile.open(fileobj=archive, mode="r|gz") as tar:
            if hasattr(tarfile, "data_filter"):
                tar.extractall(folder, filter="data")
                return
            for member in tar:  # Python before 3.10.12 and 3.11.4
                _check_member(member, folder.resolve())
                tar.extract(member, folder)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise FileError(f"{uri} cannot be unpacked: {error}") from None


def _check_member(member: tarfile.TarInfo, folder: Path) -> None:
    if not (member.isreg() or member.isdir()):
        raise tarfile.TarError(f"{member.name!r} is neither a file nor a folder")
    if not (folder / member.name).resolve().is_relative_to(folder):
        raise tarfile.TarError(f"{member.name!r} would be outside of the folder")
