"""Run SageMaker jobs on this machine, as processes or as containers."""

from local_mode.config import Config, ConfigError, load_config
from local_mode.sessions import session_for

__all__ = ["Config", "ConfigError", "load_config", "session_for"]
