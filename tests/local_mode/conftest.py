"""local_mode goes first: without it, the SDK announces its successor at import."""

import local_mode  # noqa: F401
