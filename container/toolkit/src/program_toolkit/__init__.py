"""What programs share: tables, requests and answers, training jobs."""

__version__ = "0.1.0"
