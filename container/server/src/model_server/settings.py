"""Settings, read once from the environment."""

import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

MB = 2**20


@dataclass(frozen=True)
class Settings:
    """The server's settings.

    Parameters
    ----------
    program : str
        File name of the program, from SAGEMAKER_PROGRAM.
    code_uri : str
        Where the program lies, from SAGEMAKER_SUBMIT_DIRECTORY, which is code/ below `base`.
    base : Path
        SAGEMAKER_BASE_DIR, which is /opt/ml; the model lies in model/ below it.
    host, port : str, int
        MODEL_SERVER_HOST (all interfaces) and SAGEMAKER_BIND_TO_PORT (8080).
    workers : int
        SAGEMAKER_MODEL_SERVER_WORKERS; by default one per core that this container may use.
    timeout : int
        SAGEMAKER_MODEL_SERVER_TIMEOUT, in seconds: what a request may take from its last byte to
        its answer. 60, which is all that SageMaker waits; in batch transform 600, as there.
    body_limit : int
        MAX_CONTENT_LENGTH in bytes; 25 MiB, SageMaker's own limit for real-time requests, and in
        batch transform 100 MB, the most that a job may ask for. SAGEMAKER_BATCH tells the two
        apart.
    body_budget : int
        MODEL_SERVER_BODY_BUDGET in bytes: what all requests' bodies may take together in the
        server's process. A quarter of the memory that this container may use, at most 256 MiB, and
        room for one body in any case.
    accept : str
        SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT, for requests without an Accept header.
    log_level : int
        SAGEMAKER_CONTAINER_LOG_LEVEL, a number or a name; 20, which is INFO.
    kserve_model : str
        KSERVE_MODEL_NAME, by which KServe's protocols know the model; without it they are off.
    page : bool
        MODEL_SERVER_PAGE: "true" or "1" for the program's page at /, off without it.
    """

    program: str
    code_uri: str
    base: Path
    host: str = "0.0.0.0"
    port: int = 8080
    workers: int = 1
    timeout: int = 60
    body_limit: int = 25 * MB
    body_budget: int = 256 * MB
    accept: str = "application/json"
    log_level: int = logging.INFO
    kserve_model: str = ""
    page: bool = False

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> "Settings":
        """Read the variables that SageMaker and the image set."""
        base = Path(environ.get("SAGEMAKER_BASE_DIR", "/opt/ml"))
        program = environ.get("SAGEMAKER_PROGRAM")
        if not program:
            raise ValueError("SAGEMAKER_PROGRAM is not set; name the program to serve")
        batch = environ.get("SAGEMAKER_BATCH", "").lower() in ("true", "1")

        def integer(name: str, default: int, at_most: int) -> int:
            value = environ.get(name, str(default))
            if not (value.isdecimal() and 1 <= int(value) <= at_most):
                raise ValueError(f"{name}={value!r} is not a whole number from 1 to {at_most}")
            return int(value)

        body_limit = integer("MAX_CONTENT_LENGTH", (100 if batch else 25) * MB, 2**31)
        budget = max(body_limit, min(256 * MB, count_memory() // 4))
        body_budget = integer("MODEL_SERVER_BODY_BUDGET", budget, 2**50)
        if body_budget < body_limit:
            raise ValueError(
                f"MODEL_SERVER_BODY_BUDGET={body_budget} is less than one body of "
                f"MAX_CONTENT_LENGTH={body_limit} bytes; raise it, or lower that"
            )
        return cls(
            program=program,
            code_uri=environ.get("SAGEMAKER_SUBMIT_DIRECTORY") or str(base / "code"),
            base=base,
            host=environ.get("MODEL_SERVER_HOST", cls.host),
            port=integer("SAGEMAKER_BIND_TO_PORT", cls.port, 65535),
            workers=integer("SAGEMAKER_MODEL_SERVER_WORKERS", count_cores(), 1000),
            timeout=integer("SAGEMAKER_MODEL_SERVER_TIMEOUT", 600 if batch else 60, 86400),
            body_limit=body_limit,
            body_budget=body_budget,
            accept=environ.get("SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT", cls.accept),
            log_level=_log_level(environ.get("SAGEMAKER_CONTAINER_LOG_LEVEL", "INFO")),
            kserve_model=_model_name(environ.get("KSERVE_MODEL_NAME", "")),
            page=_is_wanted("MODEL_SERVER_PAGE", environ.get("MODEL_SERVER_PAGE", "")),
        )


def _is_wanted(name: str, value: str) -> bool:
    if value.lower() not in ("", "0", "1", "false", "true"):
        raise ValueError(f"{name}={value!r} is neither true nor false; set one of them")
    return value.lower() in ("1", "true")


def count_cores() -> int:
    """Return how many cores this process may use, by its affinity and its cgroup's quota."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # Linux only
        return os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return min(cores, max(1, round(int(quota) / int(period))))
    except (OSError, ValueError):  # no cgroup v2, or "max"
        return cores


def count_memory() -> int:
    """Return how many bytes of memory this process may use, by its machine and its cgroup."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for name in ("memory.max", "memory/memory.limit_in_bytes"):  # cgroup v2, v1
        try:
            memory = min(memory, int(Path("/sys/fs/cgroup", name).read_text()))
        except (OSError, ValueError):  # the other version, or "max"
            continue
    return memory


def _log_level(value: str) -> int:
    level = int(value) if value.isdecimal() else logging.getLevelName(value.upper())
    if not isinstance(level, int):
        raise ValueError(
            f"SAGEMAKER_CONTAINER_LOG_LEVEL={value!r} is not a log level; set 20 or INFO, say"
        )
    return level


def _model_name(value: str) -> str:
    if not re.fullmatch(r"[\w.-]*", value, re.ASCII):  # it becomes part of paths
        raise ValueError(
            f"KSERVE_MODEL_NAME={value!r} may contain only letters, digits, . _ and -; rename it"
        )
    return value
