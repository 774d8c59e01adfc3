"""The configuration file, config.json."""

import dataclasses
import difflib
import json
import os
import re
from pathlib import Path
from typing import Any

MODES = ("process", "docker", "aws")

_ROLE = re.compile(r"arn:aws[\w-]*:iam::\d{12}:role/.+")
_ECR_IMAGE = re.compile(r"\d{12}\.dkr\.ecr\.[\w-]+\.amazonaws\.com(\.cn)?/.+")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")


class ConfigError(ValueError):
    """A key of config.json is missing or unknown, or its value is invalid."""


@dataclasses.dataclass(frozen=True)
class Config:
    """The content of config.json.

    Parameters
    ----------
    mode : {"process", "docker", "aws"}
        Where jobs run.
    region : str or None
        AWS region; None for that of the AWS configuration.
    default_bucket : str or None
        S3 bucket for data and models; None for SageMaker's default for account and region.
    role_arn : str or None
        Role of jobs and endpoints. Required only in mode aws.
    image_uri : str
        The image. In mode process it is a name only.
    program : str
        The file of code/ that mode process runs if a job sends no code; the other modes then
        run the program that the image was built with.
    train_instance_type, serve_instance_type : str
        Instance types in mode aws; the other modes run on this machine.
    hyperparameters : dict
        Passed to the program unchanged.
    """

    mode: str = "process"
    region: str | None = None
    default_bucket: str | None = None
    role_arn: str | None = None
    image_uri: str = "gam-model:latest"
    program: str = "model_logic.py"
    train_instance_type: str = "ml.m5.large"
    serve_instance_type: str = "ml.t2.medium"
    hyperparameters: dict[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def from_dict(cls, content: object) -> "Config":
        """Check the content of config.json, key by key.

        Raises
        ------
        ConfigError
            With the key, its value and what is expected.
        """
        if not isinstance(content, dict):
            raise ConfigError("config.json must hold one JSON object")
        fields = {field.name: field for field in dataclasses.fields(cls)}
        for key, value in content.items():
            if key not in fields:
                close = difflib.get_close_matches(key, fields, n=1, cutoff=0)[0]
                raise ConfigError(f"unknown key {key!r}; did you mean {close!r}?")
            if not isinstance(value, _types(fields[key])):
                raise ConfigError(f"{key} must be {_describe(fields[key])}, got {value!r}")
        config = cls(**content)
        config._check()
        return config

    def _check(self) -> None:
        if self.mode not in MODES:
            raise ConfigError(f"mode must be one of {', '.join(MODES)}, got {self.mode!r}")
        if self.default_bucket is not None and not _BUCKET.fullmatch(self.default_bucket):
            raise ConfigError(
                "default_bucket must be a bucket's name, 3 to 63 lower-case letters, digits, dots "
                f"and hyphens, got {self.default_bucket!r}"
            )
        if not self.image_uri:
            raise ConfigError("image_uri must name an image, got ''")
        if self.mode != "aws":
            return
        if self.role_arn is None or not _ROLE.fullmatch(self.role_arn):
            raise ConfigError(
                "role_arn must be the ARN of the jobs' role in mode aws, as in "
                f"arn:aws:iam::123456789012:role/NAME, got {self.role_arn!r}"
            )
        if not _ECR_IMAGE.fullmatch(self.image_uri):
            raise ConfigError(
                "image_uri must be an image in ECR in mode aws; push one with "
                f"./build_and_push.sh --write-config IMAGE; got {self.image_uri!r}"
            )
        for key in ("train_instance_type", "serve_instance_type"):
            if not getattr(self, key).startswith("ml."):
                raise ConfigError(
                    f"{key} must be a SageMaker type such as ml.m5.large in mode aws, "
                    f"got {getattr(self, key)!r}"
                )


def _types(field: dataclasses.Field) -> tuple[type, ...]:
    if field.name == "hyperparameters":
        return (dict,)
    return (str, type(None)) if field.default is None else (str,)


def _describe(field: dataclasses.Field) -> str:
    names = {dict: "an object", str: "a string", type(None): "null"}
    return " or ".join(names[kind] for kind in _types(field))


def load_config(path: str | os.PathLike | None = None) -> Config:
    """Read and check config.json.

    Parameters
    ----------
    path : path-like, optional
        The file; by default what the environment variable CONFIG names, else config.json in the
        working directory.

    Returns
    -------
    Config
        Outside AWS with the instance type ``local`` and a placeholder for the role,
        so that the same SDK calls work in every mode.

    Raises
    ------
    ConfigError
        If the file is missing, is not JSON, or a key is wrong.
    """
    path = Path(path or os.environ.get("CONFIG", "config.json"))
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist; run from the project's folder") from None
    except ValueError as error:
        raise ConfigError(f"{path} is not valid JSON: {error}") from None
    try:
        config = Config.from_dict(content)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    if config.mode == "aws":
        return config
    return dataclasses.replace(
        config,
        role_arn="arn:aws:iam::123456789012:role/local",
        train_instance_type="local",
        serve_instance_type="local",
    )
