"""Fold: many small entries become one history and a few packs.

An R with `entries_to` says that entries 1 to that number live on in a history; chunks that lay inside of them
and are still reached were moved into packs, which were read back, as the history was, before the R is placed.
The entries themselves are deleted by a later run (`collect.py`), in ascending order.

A history has every row again, so a fold waits until the log grew by an eighth: then all histories together
take at most nine times the last one, and a cold start reads at most an eighth of the log entry by entry.

Source: storage.md 4.4 rule 6.
"""

from dataclasses import dataclass
from typing import Final

from storage.errors import CollectRefused, ObjectDamaged
from storage.format import names
from storage.format.entries import Retire
from storage.format.envelope import open_head
from storage.format.header import ObjectType
from storage.format.history import (
    HistoryHead,
    HistoryRow,
    chunk_count,
    make_history,
    read_history,
)
from storage.format.keys import EpochKeys
from storage.format.table import Table
from storage.repository.collect import Collector, Listing
from storage.repository.guards import raise_guard
from storage.repository.index import Container
from storage.repository.log_writer import fitting_refs
from storage.repository.mark import Marks
from storage.repository.moving import Mover
from storage.repository.packer import Fresh
from storage.repository.prefixed import Prefixed
from storage.repository.retold import history_rows, live_sides, pin_words
from storage.repository.settle import settle_create
from storage.repository.state import LogState

ENTRIES_MIN: Final = 64
"""A fold of fewer entries is not worth an object."""
ENTRIES_MAX: Final = 4_096
"""However long the log, so many entries above the last fold are enough."""
SHARE: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Folded:
    """What a fold did."""

    entries: int = 0
    moved_bytes: int = 0
    packs: int = 0


def is_due(state: LogState) -> bool:
    """Return whether enough entries came since the last fold."""
    wanted = max(ENTRIES_MIN, min(state.folded_to // SHARE, ENTRIES_MAX))
    return state.seq - state.folded_to >= wanted


class Folder:
    """One fold of one repository, with keys that open data."""

    def __init__(self, *, place: Prefixed, keys: EpochKeys, mover: Mover, fresh: Fresh) -> None:
        self._place = place
        self._keys = keys
        self._mover = mover
        self._fresh = fresh

    async def run(self, collector: Collector, state: LogState, listing: Listing, marks: Marks) -> Folded:
        """Fold everything up to the log's end.

        Raises:
            CommitContended: the log grew meanwhile; what was uploaded is orphaned, and nothing was decided.
        """
        await raise_guard(self._place, len(state.histories) + 1)
        leaving = [one for one in state.index.containers.values() if _leaves(state, one)]
        moved = await self._mover.move(state, leaving, marks)
        name = names.history(state.seq, self._fresh(8))
        hash_ = await self._store_history(name, state)
        sides = {one.name for one in leaving if one.object_type is not ObjectType.LOG_ENTRY} | state.dropped
        fields = Retire([], state.seq, sorted(sides), fitting_refs(moved.refs), (name, hash_))
        entries = state.seq - state.folded_to
        await collector.place(listing, fields, moved.refs)
        return Folded(entries=entries, moved_bytes=moved.moved_bytes, packs=len(moved.refs))

    async def _store_history(self, name: str, state: LogState) -> bytes:
        """Upload a history and read it back; return its hash."""
        head, rows = history_of(state)
        fresh = [self._fresh(32) for _ in range(2 + chunk_count(rows))]
        raw = make_history(self._keys, name, head, rows, fresh=fresh)
        hash_ = open_head(self._keys, ObjectType.HISTORY, name, raw).entry_hash
        read_history(self._keys, name, raw, hash_=hash_)
        if not await settle_create(self._place, name, raw):
            raise CollectRefused(what="the name of a history is taken", object=name)
        if await self._place.get(name) != raw:
            raise ObjectDamaged(object=name, what="history reads back otherwise")
        return hash_


def history_of(state: LogState) -> tuple[HistoryHead, list[HistoryRow]]:
    """Return what a history of the whole log says."""
    state.require_whole()
    head = HistoryHead(
        state.seq,
        state.fence,
        state.version,
        list(state.key_ids),
        sorted(state.pinned.items()),
        live_sides(state),
        list(state.packs.values()),
        Table(b"", b""),
        list(state.histories),
        sorted(state.told_ms.items()),
        state.config_told or state.config_hash,
        pin_words(state),
    )
    return head, history_rows(state)


def _leaves(state: LogState, container: Container) -> bool:
    """Return whether an object goes with the fold: entries, and what was forgotten below `b/`."""
    if container.name.startswith(names.SIDE_PREFIX):
        return container.name not in state.side_objects()
    return container.object_type is ObjectType.LOG_ENTRY
