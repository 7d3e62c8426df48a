"""The contract of a repository's upkeep: forget, pin, collect, compare. Part of the `Checkpoints` port.

Not saving and restoring (`ports/checkpoints.py`), and no schedule: control decides when. Every call may be
repeated.
"""

import msgspec

from session_service.ports.damage import LeftOut


class Upkept(msgspec.Struct, frozen=True, kw_only=True):
    """What one run of upkeep did. `refused` says in words why nothing was collected; empty = it was."""

    forgotten: tuple[int, ...] = ()
    deleted_objects: int = 0
    deleted_bytes: int = 0
    retired_packs: int = 0
    repacked_packs: int = 0
    """Of these, packs whose needed contents lie in new ones."""
    orphans: int = 0
    retired_bytes: int = 0
    """Given up now; deleted by the next run."""
    folded_entries: int = 0
    adopted: int = 0
    """What was saved whole beside a log that could not be used, and counts from now on."""
    refused: str = ""
    contended: bool = False
    """Refused only because others wrote meanwhile; the next run comes."""
    clocks_apart: bool = False
    """Host and store disagree about the time by more than a day, so nothing was forgotten."""


class KeepRule(msgspec.Struct, frozen=True, kw_only=True):
    """How many checkpoints stay when old ones are forgotten; as in `core/policy.py`."""

    keep_last: int = 10
    keep_hourly: int = 24
    keep_daily: int = 14
    keep_weekly: int = 8
    keep_monthly: int = 12
    keep_within_s: float = 3_600.0


class ForeignLook(msgspec.Struct, frozen=True, kw_only=True):
    """An object behind a log's last entry that does not open and stops everybody."""

    seq: int
    hash: bytes
    size: int
    why: str


class PathChange(msgspec.Struct, frozen=True, kw_only=True):
    """One path that differs between two checkpoints. what: added, removed, changed."""

    path: str
    what: str
    size_before: int | None
    size_after: int | None


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """What differs between two checkpoints; `more` says that not every path is named.

    Folders that are left out could not be compared to their end, because an object of the store is damaged.
    """

    changes: tuple[PathChange, ...]
    more: bool = False
    left_out: tuple[LeftOut, ...] = ()
