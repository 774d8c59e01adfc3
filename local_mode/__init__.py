"""SageMaker's own API on this machine, and the SDK's sessions in each mode."""

import os
from typing import TYPE_CHECKING

# The SDK announces its successor at import.
os.environ.setdefault("SAGEMAKER_SUPPRESS_V2_WARNING", "1")

from local_mode.config import Config, ConfigError, load_config

if TYPE_CHECKING:
    import sagemaker

__all__ = ["Config", "ConfigError", "load_config", "session_for"]


def session_for(config: Config) -> "sagemaker.Session":
    """Return the SDK session for ``config.mode``, see `local_mode.sessions`."""
    from local_mode import sessions  # the server and SDK v3 do without SDK v2

    return sessions.session_for(config)
