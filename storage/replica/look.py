"""What is known of one workspace's second copy: plain values, for reports, pages and alarms."""

from dataclasses import dataclass, replace
from typing import Literal

ReplicaState = Literal["in_step", "behind", "away", "refused", "diverged", "damaged", "erased", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaLook:
    """How far the second store follows the first.

    state: in_step; behind (work is left); away (one of the two stores does not answer); refused (it is not
    one that may be written to); diverged (it stopped, nothing is overwritten); damaged (objects of the main
    store are missing or broken); erased; none (there is nothing to copy yet).
    """

    state: ReplicaState
    main_seq: int = 0
    """Number of the main log's last entry."""
    replica_seq: int | None = None
    """Everything up to this entry stands on the second store; None while unknown."""
    behind_entries: int = 0
    behind_bytes: int = 0
    """Of objects that are not there yet, as far as the log says their sizes."""
    oldest_ms: int | None = None
    """When the oldest entry that is not on the second store was written; None if there is none."""
    copied_objects: int = 0
    copied_bytes: int = 0
    removed_objects: int = 0
    faults: tuple[str, ...] = ()
    """Object names with what is wrong."""
    error: str = ""

    def stopped(self, state: ReplicaState, error: str) -> "ReplicaLook":
        """Return the same, after a run that failed."""
        return replace(self, state=state, error=error)


@dataclass(frozen=True, slots=True, kw_only=True)
class Repaired:
    """What a repair did. left: what could not be repaired, with the reason."""

    objects: tuple[str, ...]
    left: tuple[str, ...]
