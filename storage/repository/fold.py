"""Fold: many small entries become one history and a few packs.

An R with `entries_to` says that entries 1 to that number live on in a history; chunks that lay inside of them
and are still reached were moved into packs, which were read back, as the history was, before the R is placed.
The entries themselves are deleted by a later run (`collect.py`), in ascending order.

A history has every row again, so a fold waits until the log grew by an eighth: then all histories together
take at most nine times the last one, and a cold start reads at most an eighth of the log entry by entry.

Source: storage.md 4.4 rule 6.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from storage.errors import CollectRefused, ObjectDamaged, StoreUnavailable
from storage.format import names
from storage.format.entries import PackRef, Retire
from storage.format.envelope import open_head
from storage.format.header import ObjectType
from storage.format.history import (
    HistoryHead,
    HistoryRow,
    HistorySide,
    chunk_count,
    make_history,
    read_history,
)
from storage.format.keys import EpochKeys
from storage.format.table import PlannedSegment, Table
from storage.repository.collect import Collector, Listing
from storage.repository.index import Container
from storage.repository.log_writer import fitting_refs
from storage.repository.mark import Marks
from storage.repository.packer import Fresh, NewChunks, rename_pack, seal_pack
from storage.repository.prefixed import Prefixed
from storage.repository.reader import Chunks, Reader
from storage.repository.settle import settle_create
from storage.repository.state import LogState
from storage.repository.threads import Threads

ENTRIES_MIN: Final = 64
"""A fold of fewer entries is not worth an object."""
ENTRIES_MAX: Final = 4_096
"""However long the log, so many entries above the last fold are enough."""
SHARE: Final = 8
NAME_TRIES_MAX: Final = 8


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

    def __init__(
        self, *, place: Prefixed, keys: EpochKeys, reader: Reader, threads: Threads, fresh: Fresh
    ) -> None:
        self._place = place
        self._keys = keys
        self._reader = reader
        self._threads = threads
        self._fresh = fresh

    async def run(self, collector: Collector, state: LogState, listing: Listing, marks: Marks) -> Folded:
        """Fold everything up to the log's end.

        Raises:
            CommitContended: the log grew meanwhile; what was uploaded is orphaned, and nothing was decided.
        """
        leaving = [one for one in state.index.containers.values() if _leaves(state, one)]
        refs, moved_bytes = await self._move(state, leaving, marks)
        name = names.history(state.seq, self._fresh(8))
        hash_ = await self._store_history(name, state)
        sides = [one.name for one in leaving if one.object_type is ObjectType.SIDE_CHECKPOINT]
        fields = Retire([], state.seq, sides, fitting_refs(refs), (name, hash_))
        nil = any(ref.table is None for ref in fields.new_packs)
        entries = state.seq - state.folded_to
        await collector.place(listing, fields, tuple(refs) if nil else ())
        return Folded(entries=entries, moved_bytes=moved_bytes, packs=len(refs))

    async def _move(
        self, state: LogState, leaving: Sequence[Container], marks: Marks
    ) -> tuple[list[PackRef], int]:
        """Put reached chunks of objects that leave into packs; upload, read back, compare."""
        full: list[list[PlannedSegment]] = []
        chunks = NewChunks(
            self._keys, stored=lambda kind, chunk_id: False, emit=full.append, inline_bytes_max=0
        )
        refs: list[PackRef] = []
        for container in leaving:
            wanted = [
                segment
                for segment in container.segments
                if any(chunk_id in marks.reached[segment.kind] for chunk_id, _ in segment.chunks)
            ]
            for segment in wanted:
                opened = (await self._reader.read_run(container, [segment]))[segment.index]
                await self._threads.quick(_offer, chunks, state, container, segment.index, opened, marks)
            while full:
                refs.append(await self._store_pack(full.pop(0), state.fence))
        rest = await self._threads.quick(chunks.finish)
        assert not rest, "nothing is held back for an entry"
        while full:
            refs.append(await self._store_pack(full.pop(0), state.fence))
        return refs, chunks.new_raw_bytes

    async def _store_pack(self, segments: Sequence[PlannedSegment], fence: int) -> PackRef:
        sealed = await self._threads.quick(
            partial(seal_pack, self._keys, segments, fence=fence, fresh=self._fresh)
        )
        for _ in range(NAME_TRIES_MAX):
            if await settle_create(self._place, sealed.name, sealed.pack.raw):
                if await self._place.get(sealed.name) != sealed.pack.raw:
                    raise ObjectDamaged(object=sealed.name, what="pack reads back otherwise")
                return sealed.ref
            sealed = rename_pack(self._keys, sealed, fresh=self._fresh)
        raise StoreUnavailable(what="every drawn pack name is taken", name=sealed.name)

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
    rows = [
        HistoryRow(
            row.seq,
            row.hash,
            row.kind,
            row.fence,
            row.time_ms,
            row.session,
            row.checkpoint if state.counts(row) else None,
        )
        for row in state.rows
    ]
    sides = [HistorySide(seq, side.name, side.hash) for seq, side in sorted(state.sides.items())]
    head = HistoryHead(
        state.seq,
        state.fence,
        state.version,
        list(state.key_ids),
        sorted(state.pinned.items()),
        sides,
        list(state.packs.values()),
        Table(b"", b""),
        list(state.histories),
    )
    return head, rows


def _leaves(state: LogState, container: Container) -> bool:
    """Return whether an object goes with the fold: entries, and side checkpoints that were forgotten."""
    if container.object_type is ObjectType.SIDE_CHECKPOINT:
        return all(side.name != container.name for side in state.sides.values())
    return container.object_type is ObjectType.LOG_ENTRY


def _offer(
    chunks: NewChunks, state: LogState, container: Container, number: int, opened: Chunks, marks: Marks
) -> None:
    """Hand on the chunks of one segment that are reached and found here."""
    segment = container.segments[number]
    start = 0
    for chunk_id, length in segment.chunks:
        if chunk_id in marks.reached[segment.kind]:
            if state.index.place(segment.kind, chunk_id).container is container:
                given = chunks.offer(segment.kind, opened[start])
                assert given == chunk_id, "the id secret is the same in all epochs"
        start += length
