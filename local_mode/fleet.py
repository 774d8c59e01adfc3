"""What serves an endpoint: its variants, chosen by their weights, and the requests in flight."""

import contextlib
import random
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from local_mode.serving import ModelServer
from local_mode.wire import ApiError

_DRAIN = 60  # seconds that requests in flight may take when their containers are replaced


class Variant:
    """A production variant in service."""

    def __init__(self, config: Mapping[str, Any], server: ModelServer):
        self.name, self.server = config["VariantName"], server
        self.weight = config.get("InitialVariantWeight", 1.0)
        self.config = config


class Fleet:
    """What serves an endpoint with one configuration, and how many requests are in it."""

    def __init__(self, variants: list[Variant]):
        self.variants = variants
        self._flying = 0
        self._idle = threading.Condition()

    def choose(self, target: str | None) -> Variant:
        """Return the variant that a request names, or one by the weights."""
        if target is not None:
            for variant in self.variants:
                if variant.name == target:
                    return variant
            raise ApiError("ValidationError", f"Variant {target} was not found for this endpoint")
        weights = [variant.weight for variant in self.variants]
        if not any(weights):
            raise ApiError("ValidationError", "every variant of this endpoint has the weight 0")
        return random.choices(self.variants, weights)[0]

    @contextlib.contextmanager
    def flight(self) -> Iterator[None]:
        """Count a request for as long as it is answered."""
        with self._idle:
            self._flying += 1
        try:
            yield
        finally:
            with self._idle:
                self._flying -= 1
                self._idle.notify_all()

    def retire(self) -> None:
        """Let the requests in flight end, and remove the containers."""
        with self._idle:
            self._idle.wait_for(lambda: self._flying == 0, _DRAIN)
        self.remove()

    def remove(self) -> None:
        """Stop all containers at once, and wait for their ends."""
        for variant in self.variants:
            variant.server.stop()
        for variant in self.variants:
            variant.server.remove()
