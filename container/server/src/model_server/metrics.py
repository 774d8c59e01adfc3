"""Figures for Prometheus, in its text form."""

import collections
from bisect import bisect_left
from collections.abc import Mapping, Sequence

from model_server.program import Counter

# Upper bounds of the histogram, in seconds: from a small prediction to SageMaker's own limit.
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """Totals over all requests since the start."""

    def __init__(self) -> None:
        self._requests: collections.Counter[tuple[str, int]] = collections.Counter()
        self._seconds = [0] * (len(BUCKETS) + 1)
        self._sum = 0.0

    def add(self, path: str, status: int) -> None:
        """Count a request."""
        self._requests[path, status] += 1

    def add_invocation(self, seconds: float) -> None:
        """Record an invocation's latency, from its last byte to its response."""
        self._seconds[bisect_left(BUCKETS, seconds)] += 1
        self._sum += seconds

    def text(self, in_flight: int, queued: int, workers: int, deaths: int, body_bytes: int) -> str:
        """Write all figures.

        Parameters
        ----------
        in_flight : int
            Number of unanswered invocations.
        queued : int
            Number of them waiting for a worker.
        workers, deaths : int
            Number of live workers, and of those that died.
        body_bytes : int
            Bytes of request bodies that the server holds.
        """
        requests = sorted(self._requests.items())
        failed = [(labels, n) for labels, n in requests if labels[1] >= 400]
        total, buckets = 0, []
        for bound, n in zip((*BUCKETS, "+Inf"), self._seconds, strict=True):
            total += n
            buckets.append((f'_bucket{{le="{bound}"}}', total))

        def by_label(counts: list[tuple[tuple[str, int], int]]) -> list[tuple[str, int]]:
            return [(f'{{path="{path}",code="{code}"}}', n) for (path, code), n in counts]

        families: list[tuple[str, str, str, Sequence[tuple[str, float]]]] = [
            ("requests_total", "counter", "Requests answered.", by_label(requests)),
            ("errors_total", "counter", "Requests answered with an error.", by_label(failed)),
            (
                "request_duration_seconds",
                "histogram",
                "Time of an invocation, from its last byte to its answer.",
                [*buckets, ("_sum", round(self._sum, 6)), ("_count", total)],
            ),
            ("requests_in_flight", "gauge", "Invocations not answered yet.", [("", in_flight)]),
            ("requests_queued", "gauge", "Invocations waiting for a worker.", [("", queued)]),
            ("workers", "gauge", "Worker processes.", [("", workers)]),
            ("worker_deaths_total", "counter", "Workers that had to be replaced.", [("", deaths)]),
            ("body_bytes", "gauge", "Bytes of request bodies in memory.", [("", body_bytes)]),
        ]
        lines = []
        for name, kind, sense, samples in families:
            lines += [f"# HELP model_server_{name} {sense}", f"# TYPE model_server_{name} {kind}"]
            lines += [f"model_server_{name}{labels} {value}" for labels, value in samples]
        return "\n".join(lines) + "\n"


def write_counters(counters: Mapping[str, Counter], cells: Sequence[int]) -> str:
    """Format the program's counters.

    Parameters
    ----------
    counters : mapping of str to Counter
        By name.
    cells : sequence of int
        The number for each value of each counter, in their order.
    """
    lines, numbers = [], iter(cells)
    for name, counter in counters.items():
        text = counter.help.replace("\\", r"\\").replace("\n", r"\n")
        lines += [f"# HELP {name} {text}", f"# TYPE {name} counter"]
        for value in counter.values:
            value = value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
            lines.append(f'{name}{{{counter.label}="{value}"}} {next(numbers)}')
    return "".join(f"{line}\n" for line in lines)
