"""SageMaker's serving contract over the hooks of one program."""
