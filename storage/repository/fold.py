"""Fold: many small entries become one history and a few packs.

An R with `entries_to` says that entries 1 to that number live on in a history; chunks that lay inside of them
and are still reached were moved into packs, which were read back, as the history was, before the R is placed.
The entries themselves are deleted by a later run (`collect.py`), in ascending order.

A history has every row again, so a fold waits until the log grew by an eighth: then all histories together
take at most nine times the last one, and a cold start reads at most an eighth of the log entry by entry.

Source: storage.md 4.4 rule 6.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from storage.errors import CollectRefused, ObjectDamaged, StoreUnavailable
from storage.format import names
from storage.format.encoding import encode
from storage.format.entries import PackRef, Retire
from storage.format.envelope import open_head
from storage.format.frame import make_frame
from storage.format.header import ObjectType
from storage.format.history import (
    HistoryHead,
    HistoryRow,
    HistorySide,
    chunk_count,
    make_history,
    read_history,
)
from storage.format.keys import BoxKind, EpochKeys
from storage.format.table import PlannedSegment, Segment, Table
from storage.repository.collect import Collector, Listing
from storage.repository.index import Container
from storage.repository.log_writer import fitting_refs
from storage.repository.mark import Marks
from storage.repository.packer import PACK_BYTES, SEGMENT_BYTES, Fresh, rename_pack, seal_pack
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
        await self._raise_guard(len(state.histories) + 1)
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

    async def _raise_guard(self, number: int) -> None:
        """Tell everybody who does not know this fold yet to read the chain before he believes an entry.

        It stands before the R and for ever. One that was left by a fold that never came costs reading only.
        """
        name = names.fold_guard(number)
        await settle_create(self._place, name, encode(["CKPT", 1, number]))
        if await self._place.head(name) is None:
            raise CollectRefused(what="the guard of the fold is not there", object=name)

    async def _move(
        self, state: LogState, leaving: Sequence[Container], marks: Marks
    ) -> tuple[list[PackRef], int]:
        """Put reached chunks of objects that leave into packs; upload, read back, compare."""
        moving = _Moving()
        refs: list[PackRef] = []
        for container in leaving:
            for segment in container.segments:
                wanted = {chunk_id for chunk_id, _ in segment.chunks} & marks.reached[segment.kind]
                if not wanted:
                    continue
                opened = (await self._reader.read_run(container, [segment]))[segment.index]
                for chunk_id, content in _chunks_of(state, container, segment, opened, wanted):
                    moving.take(segment.kind, chunk_id, content)
            if moving.size >= PACK_BYTES:
                refs.append(await self._store_pack(moving, state.fence))
        if moving.size:
            refs.append(await self._store_pack(moving, state.fence))
        return refs, moving.moved_bytes

    async def _store_pack(self, moving: "_Moving", fence: int) -> PackRef:
        segments = await self._threads.quick(moving.segments)
        seal = partial(seal_pack, self._keys, segments, fence=fence, fresh=self._fresh)
        sealed = await self._threads.quick(seal)
        for _ in range(NAME_TRIES_MAX):
            raw = bytes(sealed.pack.raw)
            if await settle_create(self._place, sealed.name, raw):
                if await self._place.get(sealed.name) != raw:
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


class _Moving:
    """Chunks on their way from entries into the next pack. A pack and one entry are in memory at most."""

    def __init__(self) -> None:
        self._chunks: dict[BoxKind, list[tuple[bytes, bytes]]] = {BoxKind.DATA: [], BoxKind.META: []}
        self.size = 0
        self.moved_bytes = 0

    def take(self, kind: BoxKind, chunk_id: bytes, content: bytes) -> None:
        """Take a chunk; each comes once, because it is found in one place only."""
        self._chunks[kind].append((chunk_id, content))
        self.size += len(content)
        self.moved_bytes += len(content)

    def segments(self) -> list[PlannedSegment]:
        """Return what was taken as segments, data before metadata, and begin anew."""
        taken, self._chunks = self._chunks, {BoxKind.DATA: [], BoxKind.META: []}
        self.size = 0
        planned: list[PlannedSegment] = []
        for kind in (BoxKind.DATA, BoxKind.META):
            part: list[tuple[bytes, bytes]] = []
            size = 0
            for chunk in taken[kind]:
                part.append(chunk)
                size += len(chunk[1])
                if size >= SEGMENT_BYTES:
                    planned.append(_planned(kind, part))
                    part, size = [], 0
            if part:
                planned.append(_planned(kind, part))
        return planned


def _planned(kind: BoxKind, part: Sequence[tuple[bytes, bytes]]) -> PlannedSegment:
    raw = b"".join(content for _, content in part)
    ids = tuple((chunk_id, len(content)) for chunk_id, content in part)
    return PlannedSegment(kind=kind, frame=make_frame(raw), raw_bytes=len(raw), chunks=ids)


def _chunks_of(
    state: LogState, container: Container, segment: Segment, opened: Chunks, wanted: set[bytes]
) -> Iterator[tuple[bytes, bytes]]:
    """Yield the wanted chunks of a segment that are found here and nowhere else."""
    start = 0
    for chunk_id, length in segment.chunks:
        place = state.index.place(segment.kind, chunk_id) if chunk_id in wanted else None
        here = (container.name, segment.index, start)
        if place is not None and (place.container.name, place.segment, place.start) == here:
            yield chunk_id, bytes(opened[start])
        start += length
