"""The availability clock: how long a node could have accepted its users, counted so that no outage of ours
eats a hold.

Not a timer and not a clock reader: readings are arguments, the durable counter is written by
`control/node.py`. A gap is the time since the last answered tick was built; a gap of more than one slice
counts nothing. Source: lifecycle.md section 4.
"""

from dataclasses import dataclass, replace

SLICE_MS_MAX = 5_000
"""A longer gap counts nothing: we were away. A cap instead would still count five seconds per suspend."""

TICK_MS = 2_000
"""How often the counter is written; this write is the node's heartbeat, too."""

LOOP_LAG_MS_MAX = 1_000
"""A loop that lagged longer could not have accepted anybody; the gap it lies in counts nothing."""

ROUNDING_MS = 1
"""Readings are whole milliseconds rounded down; a base is rounded up by this, so that no hold gains the
fraction.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Availability:
    """Where the counter stands, and since when nothing was counted. Each method returns the next value."""

    count_ms: int
    beat: int
    boot_ms: int
    """CLOCK_BOOTTIME at the last answered tick: judges lateness, runs on through a suspend."""
    mono_ms: int
    """CLOCK_MONOTONIC at the last answered tick: what is counted is the smaller of both."""
    accepted: bool = True
    """False once the node could not have accepted a user in the gap so far."""

    def gap_ms(self, *, boot_ms: int, mono_ms: int) -> int:
        """Return what a tick built now would count: 0 when too late or when the node did not accept users."""
        late = boot_ms - self.boot_ms
        counted = min(late, mono_ms - self.mono_ms)
        if not self.accepted or late > SLICE_MS_MAX or counted < 0:
            return 0
        return counted

    def refused_users(self) -> "Availability":
        """Return the clock for a node that drained, failed its own probe, or lagged: the gap so far counts
        nothing.
        """
        return replace(self, accepted=False)

    def next_tick(self, *, boot_ms: int, mono_ms: int) -> "Availability":
        """Return the clock as it is once a tick built now was answered. The caller writes count and beat,
        then keeps it.
        """
        return Availability(
            count_ms=self.count_ms + self.gap_ms(boot_ms=boot_ms, mono_ms=mono_ms),
            beat=self.beat + 1,
            boot_ms=boot_ms,
            mono_ms=mono_ms,
            accepted=True,
        )

    def reading_ms(self, *, boot_ms: int, mono_ms: int) -> int:
        """Return counter plus gap so far: what timers and displays go by. Never decides an expiry."""
        return self.count_ms + self.gap_ms(boot_ms=boot_ms, mono_ms=mono_ms)

    def base_ms(self, *, boot_ms: int, mono_ms: int) -> int:
        """Return the base of a hold whose transaction is built now; never below any tick already on its way.

        The last written value alone would end the hold up to one tick early. The gap is taken whether or not
        it will count, and up to one slice: a tick under way counts at most that.
        """
        late = boot_ms - self.boot_ms
        gap = max(0, min(late, mono_ms - self.mono_ms, SLICE_MS_MAX))
        return self.count_ms + gap + ROUNDING_MS


def remaining_ms(*, deadline_ms: int, reading_ms: int) -> int:
    """Return what is left of a hold, never negative."""
    return max(0, deadline_ms - reading_ms)
