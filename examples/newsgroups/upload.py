"""Step 1 of 3: put the posts into S3, where the training job reads them."""

import argparse
import contextlib
import hashlib
import json
import lzma
import os
import re
import sys
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import boto3
from botocore.exceptions import BotoCoreError, ClientError

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT))

from local_mode import Config, ConfigError, load_config, session_for  # noqa: E402

ARCHIVE = "20news-bydate.tar.xz"
PREFIX = "newsgroups"


class StepFailed(Exception):
    """A job or an endpoint came to a bad end."""


class Aws(NamedTuple):
    """boto3's clients, or what stands in for them on this machine, and the bucket."""

    s3: Any
    sagemaker: Any
    runtime: Any
    bucket: str


@contextlib.contextmanager
def connect(config: Config) -> Iterator[Aws]:
    """Return the clients of config.mode.

    In the local modes S3 is served on loopback and jobs run on this machine, for as long as the
    context is open; then all of it is gone.
    """
    if config.mode == "aws":
        session = boto3.Session(region_name=config.region)
        if config.default_bucket is None:
            raise ConfigError("default_bucket must name a bucket of yours in mode aws")
        clients = map(session.client, ("s3", "sagemaker", "sagemaker-runtime"))
        yield Aws(*clients, config.default_bucket)
        return
    with session_for(config) as session:
        yield Aws(
            boto3.client("s3"),
            session.sagemaker_client,
            session.sagemaker_runtime_client,
            session.default_bucket(),
        )


# ---------------------------------------------------------------- the posts


class Posts(NamedTuple):
    """The texts of some posts, and the newsgroup of each."""

    texts: list[str]
    labels: list[str]


def load_posts(data: Path | None = None) -> dict[str, Posts]:
    """Return the 20 newsgroups by date: 11,314 posts ``train`` and 7,532 posts ``test``.

    Parameters
    ----------
    data : Path, optional
        20news-bydate.tar.xz or the folder that holds it. By default that is looked for in the
        folder that the environment variable DATA_DIR names, then in ../shared/data; where there
        is none, scikit-learn downloads the posts.
    """
    places = [data] if data else [os.environ.get("DATA_DIR"), ROOT.parent / "shared" / "data"]
    for place in map(Path, filter(None, places)):
        archive = place if place.is_file() else place / ARCHIVE
        if archive.is_file():
            return _read_archive(archive)
    if data:
        sys.exit(f"{data} is not {ARCHIVE}, and no folder that holds it")
    return {split: _download(split) for split in ("train", "test")}


def _read_archive(archive: Path) -> dict[str, Posts]:
    posts = {"train": Posts([], []), "test": Posts([], [])}
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                if member.isfile():
                    # 20news-bydate-train/sci.space/59848
                    folder, label, _ = member.name.split("/")
                    part = posts[folder.rpartition("-")[2]]
                    part.texts.append(tar.extractfile(member).read().decode("latin-1"))
                    part.labels.append(label)
    except (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, OSError) as error:
        reason = str(error).partition("\n")[0].rstrip(":")  # tarfile lists all that it has tried
        sys.exit(f"{archive} cannot be unpacked: {reason}; get it anew, or delete it")
    except (ValueError, KeyError):
        sys.exit(f"{archive} is not laid out as {ARCHIVE}: it holds {member.name!r}")
    if missing := [split for split, part in posts.items() if not part.texts]:
        sys.exit(f"{archive} holds no posts of 20news-bydate-{missing[0]}; get it anew")
    return posts


def _download(split: str) -> Posts:
    from sklearn.datasets import fetch_20newsgroups

    bunch = fetch_20newsgroups(subset=split, shuffle=False)
    return Posts(bunch.data, [bunch.target_names[k] for k in bunch.target])


# ---------------------------------------------------------------- the step


class Channel(NamedTuple):
    """Where the posts of a channel are, and a digest of them."""

    uri: str
    sha256: str


def upload(aws: Aws, data: Path | None = None) -> dict[str, Channel]:
    """Make sure that the posts are in the bucket, one JSON object a line; return the channels."""
    channels = {}
    for split, posts in load_posts(data).items():
        lines = (
            json.dumps({"text": text, "label": label}) + "\n"
            for text, label in zip(*posts, strict=True)
        )
        body = "".join(lines).encode()
        digest = hashlib.sha256(body).hexdigest()
        key = f"{PREFIX}/data/{split}/posts.jsonl"
        there = find(aws.s3.head_object, Bucket=aws.bucket, Key=key)
        if there and there["Metadata"].get("sha256") == digest:
            print(f"s3://{aws.bucket}/{key} is there already")
        else:
            print(f"s3://{aws.bucket}/{key}: {len(posts.texts)} posts, {len(body) / 1e6:.1f} MB")
            aws.s3.put_object(Bucket=aws.bucket, Key=key, Body=body, Metadata={"sha256": digest})
        channels[split] = Channel(f"s3://{aws.bucket}/{PREFIX}/data/{split}", digest)
    return channels


def delete(aws: Aws) -> None:
    """Delete the posts, and the models that jobs made of them."""
    pages = aws.s3.get_paginator("list_objects_v2").paginate(
        Bucket=aws.bucket, Prefix=f"{PREFIX}/"
    )
    for page in pages:
        for item in page.get("Contents", []):
            aws.s3.delete_object(Bucket=aws.bucket, Key=item["Key"])
            print(f"deleted s3://{aws.bucket}/{item['Key']}")


def find(describe: Callable[..., dict], **name: str) -> dict | None:
    """Return what AWS says about a resource, or None if there is none of that name."""
    try:
        return describe(**name)
    except ClientError as error:
        code, message = error.response["Error"]["Code"], error.response["Error"]["Message"]
        if code == "404" or re.search("could not find|not found", message, re.IGNORECASE):
            return None
        raise


# ---------------------------------------------------------------- the command line


def make_parser(description: str) -> argparse.ArgumentParser:
    """Return a parser of what all three steps take."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--config",
        type=Path,
        default=os.environ.get("CONFIG", HERE / "config.json"),
        help="where jobs run, and with what (default: config.json beside this script)",
    )
    parser.add_argument("--data", type=Path, help=f"{ARCHIVE}, or the folder that holds it")
    return parser


@contextlib.contextmanager
def in_one_sentence() -> Iterator[None]:
    """End the process with a sentence, not a traceback, if AWS or config.json refuses."""
    from sagemaker.exceptions import UnexpectedStatusException  # of the local modes

    expected = (ConfigError, StepFailed, BotoCoreError, ClientError, UnexpectedStatusException)
    try:
        yield
    except expected as error:
        sys.exit(f"{Path(sys.argv[0]).name}: {error}")


def main() -> None:
    """Run the command line."""
    parser = make_parser(__doc__)
    parser.add_argument("--delete", action="store_true", help="delete posts and models from S3")
    arguments = parser.parse_args()
    with in_one_sentence(), connect(load_config(arguments.config)) as aws:
        delete(aws) if arguments.delete else upload(aws, arguments.data)


if __name__ == "__main__":
    main()
