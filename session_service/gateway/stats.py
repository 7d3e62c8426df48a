"""Counters of the gateway as plain numbers, ready to be shown as metrics; every series is there before its
first event.

Not a metrics library: whoever serves `/metrics` reads these. Nothing here is per user or per session.
"""

from bisect import bisect_left
from dataclasses import dataclass, field, fields
from math import isfinite
from typing import Final

from session_service.core.close_codes import Close
from session_service.core.records import LossCause

RESUMES: Final = ("replay", "resync", "refused")
CAUSES: Final = tuple(cause.value for cause in LossCause)
NO_CAUSE: Final = "none"
"""No loss was recorded: a link was replaced by another one, or the attempt was refused."""
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
REPLAY_BOUNDS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)
"""The same from a proof to the first replayed byte."""
STALL_BOUNDS_S: Final = (0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1.0, 5.0)
"""The same of how late the loop was, looked at twenty times a second."""


def resume_key(outcome: str, cause: str) -> str:
    """Return where a resume is counted."""
    return f"{outcome} {cause}"


def _resumes() -> dict[str, int]:
    keys = [resume_key(outcome, cause) for outcome in RESUMES[:2] for cause in (*CAUSES, NO_CAUSE)]
    return dict.fromkeys((*keys, resume_key("refused", NO_CAUSE)), 0)


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
    back_frames: list[int] = field(default_factory=lambda: [0] * (len(FIRST_FRAME_BOUNDS_S) + 1))
    back_frame_sum_s: float = 0.0
    replays: list[int] = field(default_factory=lambda: [0] * (len(REPLAY_BOUNDS_S) + 1))
    replay_sum_s: float = 0.0
    loop_stalls: list[int] = field(default_factory=lambda: [0] * (len(STALL_BOUNDS_S) + 1))
    loop_stall_sum_s: float = 0.0
    loop_stall_longest_s: float = 0.0
    resumes: dict[str, int] = field(default_factory=_resumes)
    """Attempts to resume by outcome, and by the cause of the loss that they ended (`resume_key`)."""
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
        self.first_frames[bisect_left(FIRST_FRAME_BOUNDS_S, seconds)] += 1

    def back_frame(self, seconds: float) -> None:
        """Count the time from a proof to the first picture of the new stream that it led to."""
        self.back_frame_sum_s += seconds
        self.back_frames[bisect_left(FIRST_FRAME_BOUNDS_S, seconds)] += 1

    def replayed(self, seconds: float) -> None:
        """Count the time from a proof to the first byte of its replay."""
        self.replay_sum_s += seconds
        self.replays[bisect_left(REPLAY_BOUNDS_S, seconds)] += 1

    def loop_late(self, seconds: float) -> None:
        """Count how late the loop was at one of the ticker's looks."""
        self.loop_stall_sum_s += seconds
        self.loop_stalls[bisect_left(STALL_BOUNDS_S, seconds)] += 1
        self.loop_stall_longest_s = max(self.loop_stall_longest_s, seconds)


def believed(told: GatewayStats) -> GatewayStats:
    """Return what another process may have counted: no series but ours, no number that a counter cannot have.

    What it says becomes labels of metrics and is added to what others counted; a process that was taken over
    through the network must neither make series without end nor break the sum.
    """
    kept = GatewayStats()
    for each in fields(GatewayStats):
        ours, theirs = getattr(kept, each.name), getattr(told, each.name)
        if isinstance(ours, dict):
            setattr(kept, each.name, {key: max(0, theirs.get(key, 0)) for key in ours})
        elif isinstance(ours, list):
            if len(theirs) == len(ours):
                setattr(kept, each.name, [max(0, count) for count in theirs])
        elif isfinite(theirs):
            setattr(kept, each.name, max(ours, theirs))
    return kept
