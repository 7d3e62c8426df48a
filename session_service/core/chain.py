"""Which checkpoint a start begins with: never silently older, never silently empty.

Not reading: the caller has read the log's head (and, where they differ, its history) and the lease. Source:
lifecycle.md section 7; the registry remembers number and hash, never the number alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from session_service.base.errors import OlderOnly
from session_service.core.records import LogPosition


class Listed(Protocol):
    """What is looked at of a checkpoint in the log."""

    @property
    def seq(self) -> int: ...
    @property
    def hash(self) -> bytes: ...
    @property
    def complete(self) -> bool: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Where a start begins: a checkpoint, or None for a first, empty home."""

    start_from: LogPosition | None


def agrees(recorded: LogPosition | None, newest: Listed | None) -> bool:
    """Say whether the newest complete checkpoint alone shows that nothing recorded is missing."""
    if recorded is None:
        return True
    return newest is not None and (newest.seq, newest.hash) == (recorded.seq, recorded.hash)


def choose(
    *,
    recorded: LogPosition | None,
    newest: Listed | None,
    history: Sequence[Listed],
    chosen_seq: int | None,
) -> Choice:
    """Return the checkpoint to restore.

    Args:
        recorded: the newest checkpoint that the registry knows of (a close may have accepted an incomplete
        one).
        newest: the newest complete checkpoint of the log, read after E stands.
        history: the log's checkpoints; needed when `agrees` says no, or when the user chose one.
        chosen_seq: what the user chose, told what is missing.

    Raises:
        OlderOnly: the recorded checkpoint is not in the log, or not the same; what there is, is named.
    """
    if chosen_seq is not None:
        for one in history:
            if one.seq == chosen_seq:
                return Choice(start_from=LogPosition(seq=one.seq, hash=one.hash))
        raise OlderOnly("The chosen checkpoint is not there.", chosen_seq=chosen_seq)
    if recorded is not None and not agrees(recorded, newest):
        if not any((one.seq, one.hash) == (recorded.seq, recorded.hash) for one in history):
            raise OlderOnly(recorded_seq=recorded.seq, newest_seq=newest.seq if newest is not None else None)
        if newest is None or newest.seq < recorded.seq:
            return Choice(start_from=recorded)
    if newest is None:
        return Choice(start_from=None)
    return Choice(start_from=LogPosition(seq=newest.seq, hash=newest.hash))
