"""Counters of the gateway as plain numbers, ready to be shown as metrics; every series is there before its
first event.

Not a metrics library: whoever serves `/metrics` reads these. Nothing here is per user or per session.
"""

from dataclasses import dataclass, field
from typing import Final

from session_service.core.close_codes import Close
from session_service.core.records import LossCause

RESUMES: Final = ("replay", "resync")
CAUSES: Final = tuple(cause.value for cause in LossCause)
REFUSALS: Final = (
    400,
    403,
    404,
    405,
    426,
    431,
    503,
    505,
    *(int(code) for code in Close if code > Close.GOING_AWAY),
)
FIRST_FRAME_BOUNDS_S: Final = (0.01, 0.025, 0.05, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 10.0)
"""Upper bounds of the buckets of the time to the first frame, in seconds; the last bucket has none."""


@dataclass(slots=True, kw_only=True)
class GatewayStats:
    """What happened since the start, and how many links are open. Bytes are payload, without frame heads."""

    links_opened: int = 0
    links_ended: dict[str, int] = field(default_factory=lambda: dict.fromkeys(CAUSES, 0))
    refusals: dict[int, int] = field(default_factory=lambda: dict.fromkeys(REFUSALS, 0))
    """By HTTP status or close code."""
    bytes_down: int = 0
    bytes_up: int = 0
    waiting_reset: int = 0
    """Sockets without a first message that made room for newer ones."""
    keys_released: int = 0
    """Links whose end let go of keys or buttons."""
    first_frames: list[int] = field(default_factory=lambda: [0] * (len(FIRST_FRAME_BOUNDS_S) + 1))
    first_frame_sum_s: float = 0.0
    loop_stall_longest_s: float = 0.0
    resumes: dict[str, int] = field(default_factory=lambda: dict.fromkeys(RESUMES, 0))
    """Accepted resumes by outcome."""
    unacknowledged_bytes: int = 0
    streams_detached: int = 0
    """Resumable streams that no link carries now."""
    rings_dropped: int = 0
    """Streams that gave up what they could replay, because all rings together were too large."""
    links_open: int = 0
    waiting: int = 0

    def refused(self, code: int) -> None:
        """Count one refusal."""
        self.refusals[code] = self.refusals.get(code, 0) + 1

    def first_frame(self, seconds: float) -> None:
        """Count the time from a client's first request for a picture to the first bytes that answered."""
        self.first_frame_sum_s += seconds
        for number, bound in enumerate(FIRST_FRAME_BOUNDS_S):
            if seconds <= bound:
                self.first_frames[number] += 1
                return
        self.first_frames[-1] += 1
