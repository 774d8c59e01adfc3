"""Fetch a model.tar.gz from S3, or from anything that speaks S3, and unpack it.

The init container of the pods runs this in the program's own image, so nothing else is pulled.
"""

import os
import sys
import tarfile
import tempfile
import zlib
from pathlib import Path
from urllib.parse import urlsplit

import boto3
import botocore.exceptions


def check(content: tarfile.TarFile, folder: Path) -> None:
    """Raise a TarError unless all members are files and folders that stay in the folder."""
    for member in content:
        if not (member.isfile() or member.isdir()):
            raise tarfile.TarError(f"{member.name!r} is neither a file nor a folder")
        if not (folder / member.name).resolve().is_relative_to(folder.resolve()):
            raise tarfile.TarError(f"{member.name!r} would lie outside of {folder}")


def main() -> None:
    """Fetch MODEL_URI (s3://bucket/key) into the folder MODEL_DIR."""
    uri, folder = os.environ["MODEL_URI"], Path(os.environ.get("MODEL_DIR", "/opt/ml/model"))
    parts = urlsplit(uri)
    if parts.scheme != "s3" or not parts.netloc or not parts.path.endswith(".tar.gz"):
        sys.exit(f"fetch_model: MODEL_URI={uri!r} is not of the form s3://bucket/model.tar.gz")
    store = boto3.client("s3")  # AWS_ENDPOINT_URL, if it is set, leads to MinIO
    with tempfile.TemporaryFile(dir=folder) as archive:
        try:
            store.download_fileobj(parts.netloc, parts.path.lstrip("/"), archive)
        except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError) as error:
            sys.exit(f"fetch_model: cannot fetch {uri}: {error}")
        archive.seek(0)
        try:
            with tarfile.open(fileobj=archive, mode="r:gz") as content:
                if not hasattr(tarfile, "data_filter"):  # Python before 3.10.12 and 3.11.4
                    check(content, folder)
                content.extraction_filter = getattr(tarfile, "data_filter", None)
                content.extractall(folder)
        except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
            sys.exit(f"fetch_model: {uri} cannot be unpacked: {error}")
    print(f"fetch_model: {uri} is unpacked: {sorted(path.name for path in folder.iterdir())}")


if __name__ == "__main__":
    main()
