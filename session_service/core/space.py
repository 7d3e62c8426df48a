"""What is done when the disk of the homes fills up: a pure decision from free space and how homes grew.

Not an admission of new desktops, and never an end of one: below the limit people are told who grows, below a
quarter of it the applications of the fastest home are stopped, one home at each look, until there is space
again. The screen stays, and so do checkpoints.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

from session_service.base.ids import SessionId

FREEZE_PART: Final = 4
"""Applications are frozen when less than this part of the limit is free: a quarter."""
THAW_PART: Final = 2
"""And thawed when more than this part of it is free: half, so that a thaw does not cause the next freeze."""
NAMED_MAX: Final = 3
"""The homes that an alarm names: who grew most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """How much one home grew in the last minutes, as far as checkpoints and pending files tell."""

    session_id: SessionId
    grown_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What to do now; the next look decides anew."""

    low: bool
    """Less is free than must stay free: the alarm `disk_low`."""
    named: tuple[Growth, ...] = ()
    """Who grew most, the first one most."""
    freeze: SessionId | None = None
    """Stop the applications of this one."""
    thaw: tuple[SessionId, ...] = ()
    """Let these go on: there is space again."""


def decide(
    *, free_mb: int, limit_mb: int, homes: Sequence[Growth], frozen: Collection[SessionId]
) -> Decision:
    """Return what to do.

    Args:
        free_mb: free on the disk of the state folder, MiB.
        limit_mb: what must stay free (room.disk_free_mb_min), MiB; 0 switches the guard off.
        homes: running sessions, frozen ones included.
        frozen: those whose applications were frozen for space.
    """
    grew = sorted(
        (home for home in homes if home.grown_bytes > 0),
        key=lambda home: (-home.grown_bytes, home.session_id),
    )
    low = free_mb < limit_mb
    named = tuple(grew[:NAMED_MAX]) if low else ()
    if free_mb * THAW_PART >= limit_mb:
        return Decision(low=low, named=named, thaw=tuple(sorted(frozen)))
    if free_mb * FREEZE_PART >= limit_mb:
        return Decision(low=low, named=named)
    fastest = next((home.session_id for home in grew if home.session_id not in frozen), None)
    return Decision(low=low, named=named, freeze=fastest)


def keeps_frozen(*, free_mb: int, limit_mb: int) -> bool:
    """Say whether a desktop that is found frozen may be so for want of space, after a restart forgot it."""
    return free_mb * THAW_PART < limit_mb
