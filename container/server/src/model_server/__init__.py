"""SageMaker's serving contract over the hooks of one program."""

__version__ = "0.1.0"
