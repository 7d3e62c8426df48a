"""Homes in which nothing has happened since their newest checkpoint: a periodic save of one needs no store.

Only what the kernel's events prove counts, and only for a periodic save of the same session; the store is
asked again once a minute all the same, so that an owner who was outdated meanwhile learns of it.
"""

from collections.abc import Callable
from typing import Final, NamedTuple

import msgspec

from session_service.ports.checkpoints import CheckpointResult, SavePlan

UNASKED_S_MAX: Final = 60.0
"""How long a save may be answered from what is known here."""
HOMES_MAX: Final = 1_000


class _Kept(NamedTuple):
    session_id: str
    fence: int
    result: CheckpointResult
    asked_s: float


class QuietHomes:
    """What the newest save of each home has answered."""

    def __init__(self, *, clock_s: Callable[[], float], wall_ms: Callable[[], int]) -> None:
        self._clock_s = clock_s
        self._wall_ms = wall_ms
        self._kept: dict[str, _Kept] = {}

    def keep(self, plan: SavePlan, result: CheckpointResult) -> None:
        """Remember what the store has answered."""
        self._kept.pop(plan.home, None)
        if len(self._kept) >= HOMES_MAX:
            del self._kept[next(iter(self._kept))]
        self._kept[plan.home] = _Kept(plan.session_id, plan.fence, result, self._clock_s())

    def drop(self, plan: SavePlan) -> None:
        """Rely on nothing: a save is under way, and it may fail."""
        self._kept.pop(plan.home, None)

    def answer(self, plan: SavePlan, clean_since: Callable[[str], bool]) -> CheckpointResult | None:
        """Return the answer to a periodic save of a home in which nothing has happened, else None.

        Args:
            clean_since: is a home certainly as its last save has left it?
        """
        known = self._kept.get(plan.home)
        if known is None or plan.reason != "periodic":
            return None
        if (known.session_id, known.fence) != (plan.session_id, plan.fence):
            return None
        if self._clock_s() - known.asked_s > UNASKED_S_MAX:
            return None
        as_of_ms = self._wall_ms()  # first: what was written before it is told by now
        if not clean_since(plan.home):
            return None
        return msgspec.structs.replace(
            known.result, unchanged=True, saved_as_of_ms=as_of_ms, store_asked=False, scan_s=0.0, total_s=0.0
        )
