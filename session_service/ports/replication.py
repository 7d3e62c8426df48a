"""The contract of a second store: copying to it, saying how far it is, and taking the main one's place.

Not saving: no checkpoint and no close waits for it unless a policy says so. Every call may be repeated.
"""

from typing import Protocol

import msgspec

from session_service.ports.checkpoints import WorkspaceName


class ReplicaLook(msgspec.Struct, frozen=True, kw_only=True):
    """How far the second copy of one workspace is.

    state: in_step, behind, away (a store does not answer), refused (the second store may not be written),
    diverged (it holds other bytes; nothing is overwritten), damaged (the main store lacks objects), erased,
    none (nothing to copy yet).
    """

    state: str
    main_seq: int = 0
    replica_seq: int | None = None
    """Everything up to this entry stands there; None while unknown."""
    behind_entries: int = 0
    behind_bytes: int = 0
    oldest_ms: int | None = None
    """When the oldest entry that is not there was written; None if there is none."""
    copied_objects: int = 0
    copied_bytes: int = 0
    removed_objects: int = 0
    faults: tuple[str, ...] = ()
    error: str = ""


class SecondStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What the second store last showed, and which objects had to be read from it."""

    url: str
    usable: bool
    error: str = ""
    verdict: tuple[tuple[str, bool, str], ...] = ()
    spared: tuple[tuple[str, str], ...] = ()
    """(object, what was wrong with the main copy), until a repair."""


class SecondProof(msgspec.Struct, frozen=True, kw_only=True):
    """What a check of the second store found, without the first. newest: the newest complete checkpoint."""

    seq: int
    newest_seq: int | None
    newest_scan_ms: int | None
    faults: tuple[str, ...]


class Repaired(msgspec.Struct, frozen=True, kw_only=True):
    """What came back into the main store; left: what could not, with the reason."""

    objects: tuple[str, ...]
    left: tuple[str, ...]


class SecondCopies(Protocol):
    """Copies of everything in a second store."""

    async def replicate(
        self, workspace: WorkspaceName, *, whole: bool = False, receipts: tuple[str, ...] = ()
    ) -> ReplicaLook:
        """Bring one workspace's copy up to date; a second store that is away is told, not raised.

        Args:
            whole: compare listings of both stores, instead of copying what came since the last time.
            receipts: sessions whose receipts were written since.
        """
        ...

    async def second_status(self, *, probe: bool = False) -> SecondStatus: ...

    async def verify_second(self, workspace: WorkspaceName, *, level: str) -> SecondProof:
        """Check the copy of one workspace as if it were the only one."""
        ...

    async def repair(self, workspace: WorkspaceName) -> Repaired:
        """Bring back into the main store what it lacks and the second one has whole."""
        ...

    async def promote(self, *, actor: str, reason: str) -> str:
        """Name the second store the main one; the old one is refused from then on. Returns its address."""
        ...
