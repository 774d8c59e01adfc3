"""Bodies as large as batch transform sends them: in order, and in bounded memory."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest

from gam_model import AdditiveModel

JSON, JSONLINES, CSV = "application/json", "application/jsonlines", "text/csv"


@pytest.fixture(scope="module")
def endpoint(serve, gauss3):
    with serve(
        gauss3.base, SAGEMAKER_BATCH="true", SAGEMAKER_MODEL_SERVER_WORKERS="1"
    ) as endpoint:
        yield endpoint


def peak(endpoint) -> int:
    """Return the most memory that the worker ever had, in bytes."""
    (worker,) = psutil.Process(endpoint.process.pid).children()
    status = Path(f"/proc/{worker.pid}/status").read_text()
    return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", status)[1])


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux keeps the peak")
@pytest.mark.parametrize("content_type", [CSV, JSONLINES])
def test_a_large_body_is_answered_in_order_and_in_bounded_memory(endpoint, gauss3, content_type):
    megabytes = endpoint.request("GET", "/execution-parameters").json["MaxPayloadInMB"]
    x = np.round(np.random.default_rng(0).uniform(1, 250, size=megabytes * 2**20 // 13), 3)
    line = "%.3f\n" if content_type == CSV else '{"x0":%.3f}\n'
    body = "".join(line % value for value in x).encode()[: megabytes * 2**20]
    body = body[: body.rfind(b"\n") + 1]
    n = body.count(b"\n")
    before = peak(endpoint)
    for _ in range(2):
        answer = endpoint.invoke(body, content_type, content_type)
        assert answer.status == 200, answer.body
    lines = answer.body.splitlines()
    predictions = [float(a) if content_type == CSV else json.loads(a)["prediction"] for a in lines]
    terms = AdditiveModel.load(gauss3.model_dir / "gam.json")
    np.testing.assert_allclose(predictions, terms.predict(x[:n, None]), rtol=1e-12)
    assert peak(endpoint) - before < 40 * len(body)
