"""A model behind an endpoint: what an explainer in a container of its own asks once, at start."""

import functools
import http.client
import json
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Sequence

BATCH = 2000  # rows a request: far below SageMaker's limits of 6 MB and 60 s
RETRIED = {408, 424, 429}  # beside all of 5xx; SageMaker says 424 while a model loads


class PredictorError(RuntimeError):
    """The endpoint did not answer with one prediction per row."""


def fetch_predictions(
    url: str, rows: Sequence[Sequence], patience: float = 240, timeout: float = 60
) -> list:
    """Ask an endpoint for the predictions of many rows.

    A predictor that is not up yet, or has too much to do, is asked again after 1, 2, 4, ... and at
    most 15 seconds. One that refuses a request is not: it would refuse it again.

    Parameters
    ----------
    url : str
        Where to post ``{"instances": [...]}``: ``/invocations`` of our server or of SageMaker's
        runtime (whose requests are signed with boto3's credentials), or ``:predict`` of KServe.
        Answers are read from ``prediction`` or ``predictions``.
    rows : sequence of sequence of (float or str)
        The rows, as JSON is to have them.
    patience : float
        Seconds after which to give up asking again.
    timeout : float
        Seconds to wait for one answer.

    Returns
    -------
    list of (float or str)
        One prediction a row.

    Raises
    ------
    PredictorError
        With the endpoint and its last words.
    """
    post = _find_client(url, timeout)
    deadline = time.monotonic() + patience
    predictions: list = []
    for start in range(0, len(rows), BATCH):
        batch = rows[start : start + BATCH]
        body = json.dumps({"instances": batch}, allow_nan=False).encode()
        answer = _ask_until(deadline, url, functools.partial(post, body))
        predictions += _read(answer, url, len(batch))
    return predictions


class _RefusedError(Exception):
    def __init__(self, status: int, body: bytes):
        super().__init__(f"{status}: {body.decode(errors='replace')[:300]}")
        self.passing = status in RETRIED or status >= 500


def _ask_until(deadline: float, url: str, ask: Callable[[], bytes]) -> bytes:
    pause = 1.0
    while True:
        try:
            return ask()
        except (OSError, http.client.HTTPException) as error:  # of the connection
            reason: Exception = error
        except _RefusedError as error:
            reason = error
            if not error.passing:
                raise PredictorError(f"{url} refuses the background: {error}") from None
        if time.monotonic() + pause > deadline:
            raise PredictorError(f"{url} gives no predictions; at last: {reason}") from None
        print(f"predictor: {url} is asked again in {pause:g} s: {reason}", flush=True)
        time.sleep(pause)
        pause = min(2 * pause, 15)


def _find_client(url: str, timeout: float) -> Callable[[bytes], bytes]:
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise PredictorError(f"PREDICTOR_URL={url!r} is not an http or https address")
    sagemaker = re.fullmatch(
        r"runtime\.sagemaker\.([a-z0-9-]+)\.amazonaws\.com(?:\.cn)?", parts.netloc
    )
    if not sagemaker:
        return lambda body: _post(url, body, timeout)
    named = re.fullmatch(r"/endpoints/([^/]+)/invocations", parts.path)
    if not named:
        raise PredictorError(f"PREDICTOR_URL={url!r} does not end in /endpoints/NAME/invocations")
    return _sagemaker_client(sagemaker[1], named[1], timeout)


def _post(url: str, body: bytes, timeout: float) -> bytes:
    headers = {"Content-Type": "application/json", "Accept": "application/json"}
    try:
        request = urllib.request.Request(url, body, headers)
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            return answer.read()
    except urllib.error.HTTPError as error:
        with error:
            raise _RefusedError(error.code, error.read()) from None


def _sagemaker_client(region: str, endpoint: str, timeout: float) -> Callable[[bytes], bytes]:
    import boto3  # no other endpoint needs it
    import botocore.config
    import botocore.exceptions

    config = botocore.config.Config(read_timeout=timeout, retries={"total_max_attempts": 1})
    client = boto3.Session().client("sagemaker-runtime", region_name=region, config=config)

    def post(body: bytes) -> bytes:
        try:
            answer = client.invoke_endpoint(
                EndpointName=endpoint,
                Body=body,
                ContentType="application/json",
                Accept="application/json",
            )
            return answer["Body"].read()
        except botocore.exceptions.ClientError as error:
            status = error.response["ResponseMetadata"]["HTTPStatusCode"]
            raise _RefusedError(status, str(error).encode()) from None
        except (botocore.exceptions.HTTPClientError, botocore.exceptions.ConnectionError) as error:
            raise OSError(str(error)) from None
        except botocore.exceptions.BotoCoreError as error:  # no credentials, for one
            raise PredictorError(f"endpoint {endpoint!r} cannot be asked: {error}") from None

    return post


def _read(answer: bytes, url: str, n: int) -> list:
    try:
        content = json.loads(answer)
        predictions = content.get("prediction", content.get("predictions"))
    except (ValueError, AttributeError):
        predictions = None
    if not isinstance(predictions, list) or len(predictions) != n:
        start = answer[:100].decode(errors="replace")
        raise PredictorError(f"{url} answers {n} rows without {n} predictions: {start}")
    return predictions
