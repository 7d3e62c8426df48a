"""Time and randomness as control sees them: given from outside, so that a test can hold for 30 minutes in
a millisecond.
"""

from typing import Protocol


class Clock(Protocol):
    """Three readings of time, all in milliseconds. Only `wall_ms` may be shown; only the other two may be
    counted.
    """

    def wall_ms(self) -> int:
        """UTC wall time, for display and for ids. May step in any direction."""
        ...

    def boot_ms(self) -> int:
        """CLOCK_BOOTTIME: runs on through a suspend; judges lateness."""
        ...

    def monotonic_ms(self) -> int:
        """CLOCK_MONOTONIC: stands still in a suspend; counts."""
        ...


class Ids(Protocol):
    """Fresh identifiers and secrets."""

    def ulid(self) -> str:
        """A new id (ULID)."""
        ...

    def secret(self) -> bytes:
        """32 fresh random bytes."""
        ...

    def jitter(self, low: float, high: float) -> float:
        """A number uniform in [low, high), for pauses between retries."""
        ...
