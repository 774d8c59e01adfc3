"""The metrics that a job prints."""

import contextlib
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from local_mode.machine import Region
from local_mode.store import now

_NAMESPACE = "/aws/sagemaker/TrainingJobs"


class Metrics:
    """The metrics that a job prints.

    Parameters
    ----------
    definitions : sequence of mapping
        MetricDefinitions: names, and regular expressions with a group for the value.
    """

    def __init__(self, definitions: Sequence[Mapping[str, str]]):
        self._patterns = {item["Name"]: re.compile(item["Regex"]) for item in definitions}
        self._found: list[dict[str, Any]] = []

    def look(self, line: str) -> None:
        """Look for metrics in a line of the log."""
        for name, pattern in self._patterns.items():
            if match := pattern.search(line):
                with contextlib.suppress(ValueError, TypeError):
                    value = float(match[1])
                    if math.isfinite(value):
                        self._found.append(
                            {"MetricName": name, "Value": value, "Timestamp": now()}
                        )

    def final(self) -> list[dict[str, Any]]:
        """Return the last value of each metric."""
        return list({item["MetricName"]: item for item in self._found}.values())

    def publish(self, region: Region, job: str) -> None:
        """Put all values into CloudWatch, where the SDK's analytics look for them."""
        dimensions = [{"Name": "TrainingJobName", "Value": job}]
        data = [{**item, "Dimensions": dimensions} for item in self._found]
        for start in range(0, len(data), 1000):
            region.cloudwatch.put_metric_data(
                Namespace=_NAMESPACE, MetricData=data[start : start + 1000]
            )
