"""Step 2 of 3: train the classifier. Uploads the posts first, if they are not there."""

import functools
import hashlib
import itertools
import json
import time
from collections.abc import Callable, Collection
from pathlib import Path

from upload import (
    PREFIX,
    Aws,
    Channel,
    Config,
    StepFailed,
    connect,
    find,
    in_one_sentence,
    load_config,
    make_parser,
    upload,
)

METRICS = ("macro_f1_train", "accuracy_train", "macro_f1_test", "accuracy_test")


def make_request(config: Config, bucket: str, channels: dict[str, Channel]) -> dict:
    """Return what create_training_job is asked for, all but the name."""
    return {
        "AlgorithmSpecification": {
            "TrainingImage": config.image_uri,
            "TrainingInputMode": "File",
            "MetricDefinitions": [{"Name": name, "Regex": f"{name}=(.*?);"} for name in METRICS],
        },
        "RoleArn": config.role_arn,
        "InputDataConfig": [
            {
                "ChannelName": name,
                "ContentType": "application/jsonlines",
                "DataSource": {
                    "S3DataSource": {
                        "S3DataType": "S3Prefix",
                        "S3Uri": channel.uri,
                        "S3DataDistributionType": "FullyReplicated",
                    }
                },
            }
            for name, channel in channels.items()
        ],
        "OutputDataConfig": {"S3OutputPath": f"s3://{bucket}/{PREFIX}/models"},
        "ResourceConfig": {
            "InstanceType": config.train_instance_type,
            "InstanceCount": 1,
            "VolumeSizeInGB": 10,
        },
        "StoppingCondition": {"MaxRuntimeInSeconds": 3600},
        "HyperParameters": {name: str(value) for name, value in config.hyperparameters.items()},
        "EnableNetworkIsolation": True,
    }


def train(aws: Aws, config: Config, data: Path | None = None, poll: float = 10) -> dict:
    """Make sure that a job has trained with this data and this config; return its description.

    The job's name ends in a digest of both, so the same job is never paid for twice. After one
    that failed or was stopped, the next has a number of its own.
    """
    channels = upload(aws, data)
    request = make_request(config, aws.bucket, channels)
    told = json.dumps([request, channels], sort_keys=True)
    base = f"{PREFIX}-{hashlib.sha256(told.encode()).hexdigest()[:8]}"
    for attempt in itertools.count(1):
        name = f"{base}-{attempt}"
        job = find(aws.sagemaker.describe_training_job, TrainingJobName=name)
        if job is None:
            print(f"training job {name}: starting", flush=True)
            aws.sagemaker.create_training_job(TrainingJobName=name, **request)
        if job is None or job["TrainingJobStatus"] in ("InProgress", "Completed"):
            break
    describe = functools.partial(aws.sagemaker.describe_training_job, TrainingJobName=name)
    job = wait(
        f"training job {name}", describe, "TrainingJobStatus", {"InProgress", "Stopping"}, poll
    )
    if job["TrainingJobStatus"] != "Completed":
        raise StepFailed(f"training job {name}: {job.get('FailureReason', 'stopped')}")
    for metric in job.get("FinalMetricDataList", []):
        print(f"{metric['MetricName']}={metric['Value']:.4f}")
    print(f"the model is {job['ModelArtifacts']['S3ModelArtifacts']}")
    return job


def wait(
    what: str, describe: Callable[[], dict], key: str, running: Collection[str], poll: float
) -> dict:
    """Ask until a status is none of those running, and return the last answer.

    Each new status is printed, and an old one once a minute.
    """
    start = told = time.monotonic()
    last = None
    while True:
        answer = describe()
        status, now = answer.get("SecondaryStatus", answer[key]), time.monotonic()
        if status != last or now - told >= 60:
            print(f"{what}: {status} after {now - start:.0f} s", flush=True)
            last, told = status, now
        if answer[key] not in running:
            return answer
        time.sleep(poll)


def main() -> None:
    """Run the command line."""
    arguments = make_parser(__doc__).parse_args()
    with in_one_sentence():
        config = load_config(arguments.config)
        with connect(config) as aws:
            train(aws, config, arguments.data)


if __name__ == "__main__":
    main()
