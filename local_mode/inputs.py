"""A training job's channels: what they ask for, and how their files come to a host."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from local_mode.files import Files
from local_mode.wire import refuse, support

_MODES = ("File", "FastFile")


def check(channels: Sequence[Mapping[str, Any]], default_mode: str) -> None:
    """Check that every channel asks only for what this machine can do.

    Raises
    ------
    ApiError
        Naming the channel's member that is not supported.
    """
    names = [channel["ChannelName"] for channel in channels]
    if len(set(names)) < len(names):
        raise refuse(f"Duplicate channel names are not allowed, got {', '.join(names)}")
    for channel in channels:
        path = f"InputDataConfig.{channel['ChannelName']}."
        support(
            channel,
            "ChannelName DataSource ContentType InputMode ShuffleConfig",
            path,
        )
        mode = channel.get("InputMode") or default_mode
        if mode not in _MODES:
            raise refuse(
                f"{path}InputMode {mode} is not supported on this machine; use File or FastFile"
            )
        source = channel["DataSource"]
        support(source, "S3DataSource", f"{path}DataSource.")
        if "S3DataSource" not in source:
            raise refuse(f"{path}DataSource must have an S3DataSource")
        source, path = source["S3DataSource"], f"{path}DataSource.S3DataSource."
        support(source, "S3DataType S3Uri S3DataDistributionType", path)
        if source["S3DataType"] not in ("S3Prefix", "ManifestFile"):
            raise refuse(
                f"{path}S3DataType {source['S3DataType']} is not supported on this machine; "
                "use S3Prefix or ManifestFile"
            )


def place(
    files: Files, channels: Sequence[Mapping[str, Any]], folder: Path, host: int, n_hosts: int
) -> None:
    """Copy what one host gets of the channels into its input/data/.

    In mode FastFile, too, the files are all there before the program starts.

    Raises
    ------
    FileError
        If a channel has no data.
    """
    for channel in channels:
        source = channel["DataSource"]["S3DataSource"]
        find = files.manifest if source["S3DataType"] == "ManifestFile" else files.find
        found = find(source["S3Uri"])
        if source.get("S3DataDistributionType") == "ShardedByS3Key":
            found = found[host::n_hosts]
        target = folder / "input/data" / channel["ChannelName"]
        target.mkdir(parents=True, exist_ok=True)
        files.download(found, target)


def configure(
    folder: Path, job: Mapping[str, Any], hosts: Sequence[str], host: str, default_mode: str
) -> None:
    """Write a host's input/config/."""
    channels = {}
    for channel in job.get("InputDataConfig", []):
        distribution = channel["DataSource"]["S3DataSource"].get("S3DataDistributionType")
        channels[channel["ChannelName"]] = {
            "TrainingInputMode": channel.get("InputMode") or default_mode,
            "S3DistributionType": distribution or "FullyReplicated",
            "RecordWrapperType": "None",
        }
        if channel.get("ContentType"):
            channels[channel["ChannelName"]]["ContentType"] = channel["ContentType"]
    configurations = {
        "hyperparameters": job.get("HyperParameters", {}),
        "inputdataconfig": channels,
        "resourceconfig": {
            "current_host": host,
            "current_instance_type": job["ResourceConfig"].get("InstanceType", "local"),
            "hosts": list(hosts),
            "network_interface_name": "lo",
        },
    }
    (folder / "input/config").mkdir(parents=True)
    for name, content in configurations.items():
        (folder / "input/config" / f"{name}.json").write_text(json.dumps(content))
