"""Moves reached chunks out of objects that are to go, into new packs; nothing is given up here.

What is moved is opened, checked against its ids, sealed anew under the newest key epoch, uploaded, read back
and compared before the caller may place the R that gives the old objects up (rule 3). A chunk is moved from
the one place where the index finds it; ids stay, so no tree changes. Somebody who dies in the middle leaves
packs that no entry names.

Used by folds (`fold.py`) and by repacking (`repack.py`). Needs the data key.

Source: storage.md 4.4 rules 3 and 6, 4.5 "Classes".
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from storage.errors import ObjectDamaged, StoreUnavailable
from storage.format.entries import PackRef
from storage.format.frame import make_frame
from storage.format.keys import BoxKind, EpochKeys
from storage.format.pack import check_pack
from storage.format.table import PlannedSegment, Segment
from storage.repository.index import Container
from storage.repository.mark import Marks
from storage.repository.packer import PACK_BYTES, SEGMENT_BYTES, Fresh, rename_pack, seal_pack
from storage.repository.prefixed import Prefixed
from storage.repository.reader import Chunks, Reader
from storage.repository.settle import settle_create
from storage.repository.state import LogState
from storage.repository.telling import Tell, tell_nobody
from storage.repository.threads import Threads

NAME_TRIES_MAX: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """New packs, each read back, and how many bytes of contents they hold."""

    refs: tuple[PackRef, ...] = ()
    moved_bytes: int = 0


class Mover:
    """Moves chunks of one repository. `keys` are the newest; `reader` opens every epoch."""

    def __init__(
        self,
        *,
        place: Prefixed,
        keys: EpochKeys,
        reader: Reader,
        threads: Threads,
        fresh: Fresh,
        tell: Tell = tell_nobody,
    ) -> None:
        self._place = place
        self._keys = keys
        self._reader = reader
        self._threads = threads
        self._fresh = fresh
        self._tell = tell

    async def move(self, state: LogState, leaving: Sequence[Container], marks: Marks) -> Moved:
        """Put reached chunks of objects that leave into packs; upload, read back, decode."""
        moving = _Moving()
        refs: list[PackRef] = []
        for number, container in enumerate(leaving):
            self._tell("move", number, len(leaving), "objects")
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
        return Moved(refs=tuple(refs), moved_bytes=moving.moved_bytes)

    async def _store_pack(self, moving: "_Moving", fence: int) -> PackRef:
        segments = await self._threads.quick(moving.segments)
        seal = partial(seal_pack, self._keys, segments, fence=fence, fresh=self._fresh)
        sealed = await self._threads.quick(seal)
        for _ in range(NAME_TRIES_MAX):
            raw = bytes(sealed.pack.raw)
            if await settle_create(self._place, sealed.name, raw):
                back = await self._place.get(sealed.name)
                if back != raw:
                    raise ObjectDamaged(object=sealed.name, what="pack reads back otherwise")
                await self._threads.quick(check_pack, self._keys, sealed.name, back)
                return sealed.ref
            sealed = rename_pack(self._keys, sealed, fresh=self._fresh)
        raise StoreUnavailable(what="every drawn pack name is taken", name=sealed.name)


class _Moving:
    """Chunks on their way into the next pack. A pack and one segment are in memory at most."""

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
            yield chunk_id, opened[chunk_id]
        start += length
