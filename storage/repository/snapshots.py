"""Index snapshots of a log: when one is due, what it says, and whether it says what the chain says.

A pure cache: it makes the cold start of a long log short, and nothing is decided by it. It is believed only
if the chain has its last entry under its hash (`log.py`); one that is damaged, foreign or missing costs
reading. Collecting and everything that deletes reads the chain itself, and refuses to run where a snapshot
contradicts it (rule 8). Outdated ones are named by an R and go with the next run (`collect.py`).

Source: storage.md 4.1 "index snapshot", 4.4 rules 5 and 8.
"""

import contextlib
from typing import Final

from storage.errors import StorageError
from storage.format import names
from storage.format.history import HistoryRow
from storage.format.keys import EpochKeys
from storage.format.limits import MIB
from storage.format.snapshot import SnapshotHead, SnapshotObject, make_snapshot, object_of
from storage.format.table import CHUNK_BYTES, Table, table_of
from storage.repository.log import CommitLog
from storage.repository.packer import Fresh
from storage.repository.prefixed import Prefixed
from storage.repository.retold import history_rows, live_sides, pin_words
from storage.repository.state import LogState
from storage.repository.threads import Threads

ENTRIES: Final = 64
"""So many entries after the last snapshot a new one is written: a cold start reads no more of them."""
COMPARED: Final = (
    "fence",
    "version",
    "key_ids",
    "pinned",
    "told_ms",
    "dropped",
    "packs",
    "histories",
    "folded_to",
    "fold_at",
)
ROWS_BYTES: Final = 1 * MIB
"""So many bytes of new chunk rows do the same: after a first checkpoint of 50,000 chunks, say."""


def is_due(state: LogState, *, last: int, chunks_then: int) -> bool:
    """Return whether a snapshot is worth writing.

    Args:
        last: number of the newest snapshot that is known; 0 if there is none.
        chunks_then: how many chunks it had.
    """
    if state.seq - last >= ENTRIES or (state.seq > last and last < state.fold_at):
        return True  # what a fold left is read with the footer of every pack
    return state.seq > last and (sum(state.index.counts()) - chunks_then) * CHUNK_BYTES >= ROWS_BYTES


async def write_if_due(
    log: CommitLog, *, place: Prefixed, keys: EpochKeys, threads: Threads, fresh: Fresh
) -> bool:
    """Write a snapshot of what a log knows, if one is due; return whether it was written.

    The caller holds the workspace's lock. That it cannot be written hinders nobody.
    """
    state = log.state
    if (
        state.damaged
        or state.collectors_stop
        or state.unopened_side()
        or state.writers_stop is not None
        or not state.seq
    ):
        return False
    if not is_due(state, last=log.snapshot_seq or state.snapshot_at, chunks_then=log.snapshot_chunks):
        return False
    with contextlib.suppress(StorageError):
        if log.snapshot_seq is None:
            log.snapshot_seq = await _newest(place)
            if not is_due(state, last=log.snapshot_seq, chunks_then=sum(state.index.counts())):
                return False
        raw = await threads.quick(_made, state, keys, fresh)
        log.snapshot_seq, log.snapshot_chunks = state.seq, sum(state.index.counts())
        await place.create(names.index_snapshot(state.seq), raw)
        return True
    return False


async def _newest(place: Prefixed) -> int:
    found = [names.snapshot_seq(info.name) async for info in place.list(names.INDEX_PREFIX)]
    return max(found, default=0)


def _made(state: LogState, keys: EpochKeys, fresh: Fresh) -> bytes:
    head, rows, objects = snapshot_of(state)
    return make_snapshot(keys, head, rows, objects, fresh=fresh)


def snapshot_of(state: LogState) -> tuple[SnapshotHead, list[HistoryRow], list[SnapshotObject]]:
    """Return what a snapshot of the whole log says."""
    state.require_whole()
    head = SnapshotHead(
        state.seq,
        state.fence,
        state.version,
        list(state.key_ids),
        sorted(state.pinned.items()),
        live_sides(state),
        list(state.packs.values()),
        Table(b"", b""),
        list(state.histories),
        state.hash,
        state.folded_to,
        state.fold_at,
        state.retired_at,
        sorted(state.told_ms.items()),
        sorted(state.dropped),
        pin_words(state),
    )
    objects = [
        object_of(one.name, table=table_of(one.segments), area_start=one.area_start, size=one.size)
        for one in state.index.containers.values()
    ]
    return head, history_rows(state), objects


def differing(one: LogState, other: LogState) -> str:
    """Return what two states of the same entries disagree about, or an empty text. Names that were given up
    are no part of it: a snapshot does not have them, and who deletes reads the chain.
    """
    if history_rows(one) != history_rows(other):
        return "rows"
    for what in COMPARED:
        if getattr(one, what) != getattr(other, what):
            return what
    if one.index.containers != other.index.containers or one.retired_at != other.retired_at:
        return "objects"
    if live_sides(one) != live_sides(other):
        return "side branches"
    return "" if [row.void for row in one.rows] == [row.void for row in other.rows] else "what is void"
