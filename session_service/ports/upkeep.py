"""The contract of a repository's upkeep: forget, pin, collect, compare. Part of the `Checkpoints` port.

Not saving and restoring (`ports/checkpoints.py`), and no schedule: control decides when. Every call may be
repeated.
"""

import msgspec


class Upkept(msgspec.Struct, frozen=True, kw_only=True):
    """What one run of upkeep did. `refused` says in words why nothing was collected; empty = it was."""

    forgotten: tuple[int, ...] = ()
    deleted_objects: int = 0
    deleted_bytes: int = 0
    retired_packs: int = 0
    orphans: int = 0
    retired_bytes: int = 0
    """Given up now; deleted by the next run."""
    folded_entries: int = 0
    refused: str = ""


class PathChange(msgspec.Struct, frozen=True, kw_only=True):
    """One path that differs between two checkpoints. what: added, removed, changed."""

    path: str
    what: str
    size_before: int | None
    size_after: int | None


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """What differs between two checkpoints; `more` says that not every path is named."""

    changes: tuple[PathChange, ...]
    more: bool = False
