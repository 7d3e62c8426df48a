"""Identifiers and secrets from a seed, so that the same seed gives the same run."""

import random

from session_service.base.ids import new_ulid
from session_service.ports.clock import Clock


class SeededIds:
    """A `ports.clock.Ids`."""

    def __init__(self, clock: Clock, seed: int = 0) -> None:
        self._clock = clock
        self._random = random.Random(seed)

    def ulid(self) -> str:
        return new_ulid(self._clock.wall_ms(), self._random.randbytes(10))

    def secret(self) -> bytes:
        return self._random.randbytes(32)

    def jitter(self, low: float, high: float) -> float:
        return self._random.uniform(low, high)
