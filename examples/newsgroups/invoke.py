"""Step 3 of 3: send texts to the endpoint. Trains and deploys first, if there is none yet."""

import functools
import json
import time

from train import train, wait
from upload import (
    PREFIX,
    Aws,
    Config,
    StepFailed,
    connect,
    find,
    in_one_sentence,
    load_config,
    make_parser,
)

NAME = PREFIX  # of the model, the endpoint's configuration and the endpoint
BUSY = {"Creating", "Updating", "SystemUpdating", "RollingBack", "Deleting"}
SAMPLE = "The shuttle has reached its orbit, and the crew will repair the telescope."


def deploy(aws: Aws, config: Config, job: dict, poll: float = 10) -> None:
    """Make sure that the endpoint serves the model of a training job.

    There is one endpoint; what serves another model or runs on other instances is replaced.
    """
    client = aws.sagemaker
    container = {
        "Image": config.image_uri,
        "ModelDataUrl": job["ModelArtifacts"]["S3ModelArtifacts"],
        # What a client gets that accepts anything.
        "Environment": {"SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT": "text/plain"},
    }
    variant = {
        "VariantName": "AllTraffic",
        "ModelName": NAME,
        "InitialInstanceCount": 1,
        "InstanceType": config.serve_instance_type,
    }
    model, endpoint_config, endpoint = describe(aws)
    if (
        (model and not container.items() <= model["PrimaryContainer"].items())
        or (
            endpoint_config
            and not variant.items() <= endpoint_config["ProductionVariants"][0].items()
        )
        or (endpoint and endpoint["EndpointStatus"] in ("Failed", "Deleting"))
    ):
        delete(aws, poll)
        model = endpoint_config = endpoint = None
    if not model:
        client.create_model(
            ModelName=NAME,
            PrimaryContainer=container,
            ExecutionRoleArn=config.role_arn,
            EnableNetworkIsolation=True,
        )
    if not endpoint_config:
        client.create_endpoint_config(EndpointConfigName=NAME, ProductionVariants=[variant])
    if not endpoint:
        print(f"endpoint {NAME}: starting", flush=True)
        client.create_endpoint(EndpointName=NAME, EndpointConfigName=NAME)
    ask = functools.partial(client.describe_endpoint, EndpointName=NAME)
    endpoint = wait(f"endpoint {NAME}", ask, "EndpointStatus", BUSY, poll)
    if endpoint["EndpointStatus"] != "InService":
        raise StepFailed(f"endpoint {NAME}: {endpoint.get('FailureReason', 'not in service')}")


def describe(aws: Aws) -> tuple[dict | None, dict | None, dict | None]:
    """Return what there is of the model, the endpoint's configuration and the endpoint."""
    client = aws.sagemaker
    return (
        find(client.describe_model, ModelName=NAME),
        find(client.describe_endpoint_config, EndpointConfigName=NAME),
        find(client.describe_endpoint, EndpointName=NAME),
    )


def delete(aws: Aws, poll: float = 10) -> None:
    """Delete the endpoint, its configuration and the model, as far as they exist."""
    model, endpoint_config, endpoint = describe(aws)
    if endpoint:
        if endpoint["EndpointStatus"] != "Deleting":
            aws.sagemaker.delete_endpoint(EndpointName=NAME)
            endpoint = find(aws.sagemaker.describe_endpoint, EndpointName=NAME)
        print(f"endpoint {NAME}: Deleting", flush=True)
        while endpoint and endpoint["EndpointStatus"] == "Deleting":
            time.sleep(poll)
            endpoint = find(aws.sagemaker.describe_endpoint, EndpointName=NAME)
        print(f"deleted the endpoint {NAME}")
    if endpoint_config:
        aws.sagemaker.delete_endpoint_config(EndpointConfigName=NAME)
        print(f"deleted the endpoint's configuration {NAME}")
    if model:
        aws.sagemaker.delete_model(ModelName=NAME)
        print(f"deleted the model {NAME}")


def classify(aws: Aws, text: str) -> str:
    """Return the name of the group that a text belongs to."""
    answer = aws.runtime.invoke_endpoint(
        EndpointName=NAME,
        ContentType="text/plain; charset=utf-8",
        Accept="text/plain",
        Body=text.encode(),
    )
    return answer["Body"].read().decode().rstrip("\n")


def ask(aws: Aws, texts: list[str], top_k: int, explain: bool = False) -> dict[str, list]:
    """Return prediction, probability and the top_k likeliest groups of each text, as columns.

    If explained, each of the groups comes with what each term of the text adds to its score.
    """
    answer = aws.runtime.invoke_endpoint(
        EndpointName=NAME,
        ContentType="application/json",
        Accept=f"application/json; top_k={top_k}" + "; explain=true" * explain,
        Body=json.dumps({"instances": texts}).encode(),
    )
    return json.loads(answer["Body"].read())


def main() -> None:
    """Run the command line."""
    parser = make_parser(__doc__)
    parser.add_argument("texts", nargs="*", metavar="TEXT", help=f"default: {SAMPLE!r}")
    parser.add_argument("--explain", action="store_true", help="print likely groups and words")
    parser.add_argument("--delete", action="store_true", help="only delete the endpoint and model")
    arguments = parser.parse_args()
    with in_one_sentence():
        config = load_config(arguments.config)
        with connect(config) as aws:
            if arguments.delete:
                delete(aws)
                return
            deploy(aws, config, train(aws, config, arguments.data))
            for text in arguments.texts or [SAMPLE]:
                print(f"{classify(aws, text)}: {text[:70]}")
                if arguments.explain:
                    show(ask(aws, [text], top_k=3, explain=True))


def show(answer: dict) -> None:
    """Print what an explained answer says about its first text."""
    for likely in answer["top_k"][0]:
        words = list(likely["shap_values"].items())[:8]
        shares = ", ".join(f"{word} {share:+.2f}" for word, share in words)
        print(f"  {likely['probability']:.3f} {likely['label']}: {shares}")


if __name__ == "__main__":
    main()
