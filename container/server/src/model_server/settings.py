"""The environment, read once."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Settings:
    """What the server takes from its environment.

    Parameters
    ----------
    program : str
        File name of the program, from SAGEMAKER_PROGRAM.
    code_dir, model_dir : Path
        Where the program and the model lie; below SAGEMAKER_BASE_DIR, which is /opt/ml.
    host, port : str, int
        MODEL_SERVER_HOST (all interfaces) and SAGEMAKER_BIND_TO_PORT (8080).
    accept : str
        SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT, for requests without an Accept header.
    body_limit : int
        MAX_CONTENT_LENGTH in bytes; 25 MiB, SageMaker's own limit for real-time requests.
    """

    program: str
    code_dir: Path
    model_dir: Path
    host: str = "0.0.0.0"
    port: int = 8080
    accept: str = "application/json"
    body_limit: int = 25 * 2**20

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> "Settings":
        """Read the variables that SageMaker and the image set."""
        base = Path(environ.get("SAGEMAKER_BASE_DIR", "/opt/ml"))
        model_dir = base / "model"
        program = environ.get("SAGEMAKER_PROGRAM")
        if not program:
            raise ValueError("SAGEMAKER_PROGRAM is not set; name the program to serve")
        # A program that came with the model wins over the image's.
        packed = model_dir / "code"
        code_dir = Path(environ.get("SAGEMAKER_SUBMIT_DIRECTORY", base / "code"))
        return cls(
            program=program,
            code_dir=packed if (packed / program).is_file() else code_dir,
            model_dir=model_dir,
            host=environ.get("MODEL_SERVER_HOST", cls.host),
            port=_integer(environ, "SAGEMAKER_BIND_TO_PORT", cls.port, at_most=65535),
            accept=environ.get("SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT", cls.accept),
            body_limit=_integer(environ, "MAX_CONTENT_LENGTH", cls.body_limit, at_most=2**40),
        )


def _integer(environ: Mapping[str, str], name: str, default: int, at_most: int) -> int:
    value = environ.get(name, str(default))
    if not (value.isdecimal() and 1 <= int(value) <= at_most):
        raise ValueError(f"{name}={value!r} is not a whole number from 1 to {at_most}")
    return int(value)
