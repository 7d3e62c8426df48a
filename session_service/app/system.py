"""Real time and real randomness: the adapters of `ports.clock`. The only place of the service part that
reads either.
"""

import os
import random
import time

from session_service.base.ids import RANDOM_BYTES, new_ulid


class SystemClock:
    """The kernel's clocks, in milliseconds."""

    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def boot_ms(self) -> int:
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000

    def monotonic_ms(self) -> int:
        return time.monotonic_ns() // 1_000_000


class SystemIds:
    """Ids and secrets from the kernel; jitter needs no secrecy."""

    def __init__(self, clock: SystemClock) -> None:
        self._clock = clock
        self._random = random.Random()

    def ulid(self) -> str:
        return new_ulid(self._clock.wall_ms(), os.urandom(RANDOM_BYTES))

    def secret(self) -> bytes:
        return os.urandom(32)

    def jitter(self, low: float, high: float) -> float:
        return self._random.uniform(low, high)
