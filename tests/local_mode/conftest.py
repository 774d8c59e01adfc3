"""local_mode goes first: without it, the SDK announces its successor at import."""

from local_mode import Config, session_for

import boto3  # isort: skip
import pytest  # isort: skip


@pytest.fixture(scope="module")
def session():
    """Return a session of SageMaker's API on this machine, one for each module."""
    with session_for(Config()) as session:
        yield session


@pytest.fixture(scope="module")
def client(session):
    return boto3.client("sagemaker")


@pytest.fixture(scope="module")
def s3(session):
    return boto3.client("s3")


@pytest.fixture(scope="module")
def runtime(session):
    return boto3.client("sagemaker-runtime")
