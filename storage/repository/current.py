"""Where the chunks of a checkpoint lie now, for readers that outlive a garbage collection or a fold, and for
whom one damaged copy of a chunk is not the end of it.

A restore or a download is planned by the log of one moment. Collecting and folding move chunks and give up
the objects they lay in; they wait for no reader, because a reader holds no lock. So who misses an object
reads the log again and goes on from there (rule 3). What the newest log has nowhere else is damage, and a
checkpoint that was forgotten meanwhile is told as that.

Damage is of one copy. A chunk may lie in two objects: two writers stored it at once, a save stored it anew
while its pack was away, a fold or a repack has moved it and the old place was not swept yet. The index keeps
the first place only, so other copies are looked for when damage is met and not before: in the objects that
the log names, then in whatever else lies there (`strays.py`). A copy is as good as any other if it opens:
each chunk is compared with its id, wherever it was found.

Source: storage.md 4.4 rule 3; docs/design/0012-restore.md, "Other copies".
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from storage.errors import NoSuchCheckpoint, ObjectMissing, StorageError
from storage.format.keys import BoxKind
from storage.format.table import Segment
from storage.repository.index import ChunkIndex, Container, Place, Unreadable
from storage.repository.place_table import PlaceTable
from storage.repository.state import LogState, Row
from storage.repository.threads import Threads

LOOKS_MAX: Final = 1_000
"""Folds and collections that one reader survives: hourly ones, for a month."""

ReadLog = Callable[[bool], Awaitable[LogState]]
"""Reads the log to its end; if asked with True without anything that was remembered of it."""
FindStrays = Callable[[ChunkIndex], Awaitable[Sequence[Container]]]
"""Returns objects that may hold chunks and are not in an index."""


class _Copies:
    """Chunks of some segments by their ids: each of many damaged segments asks for all of its own."""

    __slots__ = ("_firsts", "_segments")

    def __init__(self, segments: Iterable[tuple[Container, Segment]]) -> None:
        self._segments = list(segments)
        self._firsts = {BoxKind.DATA: PlaceTable(), BoxKind.META: PlaceTable()}
        for number, (_, segment) in enumerate(self._segments):
            self._firsts[segment.kind].put(number, segment.index, segment.refs)
        for table in self._firsts.values():
            table.settle()

    def find(self, kind: BoxKind, wanted: Iterable[bytes], unreadable: Unreadable) -> dict[bytes, Place]:
        """Return where those of the wanted chunks lie that lie here and can be read, as far as is known."""
        found: dict[bytes, Place] = {}
        further: set[bytes] = set()
        for chunk_id in wanted:
            numbers = self._firsts[kind].get(chunk_id)
            if numbers is None:
                continue
            number, index, start, length = numbers
            container = self._segments[number][0]
            if (container.name, index) in unreadable:
                further.add(chunk_id)
            else:
                found[chunk_id] = Place(container, index, start, length)
        if further:
            found.update(self._further(kind, further, unreadable))
        return found

    def _further(self, kind: BoxKind, wanted: set[bytes], unreadable: Unreadable) -> dict[bytes, Place]:
        """Look through everything for chunks whose first copy here is damaged as well."""
        found: dict[bytes, Place] = {}
        for container, segment in self._segments:
            if segment.kind is not kind or (container.name, segment.index) in unreadable:
                continue
            start = 0
            for chunk_id, length in segment.chunks:
                if chunk_id in wanted and chunk_id not in found:
                    found[chunk_id] = Place(container, segment.index, start, length)
                start += length
        return found


@dataclass(slots=True)
class _Others:
    """Where other copies may lie, by the log of one look; each part is looked for when it is first needed."""

    seconds: _Copies | None = None
    strays: _Copies | None = None


class CurrentPlaces:
    """`Places` of some checkpoints, by the log as it was last looked at."""

    def __init__(
        self,
        state: LogState,
        rows: Sequence[Row],
        read_log: ReadLog,
        *,
        strays: FindStrays,
        threads: Threads,
    ) -> None:
        self._index = state.index
        self._seen = (state.seq, state.hash)
        self._rows = rows
        self._read_log = read_log
        self._find_strays = strays
        self._threads = threads
        self._lock = asyncio.Lock()
        self._looks = 0
        self._read_anew: tuple[int, bytes] | None = None
        """Where the log ended when it was last read from its beginning, and told nothing new."""
        self._unreadable: dict[tuple[str, int], StorageError] = {}
        self._detours: dict[tuple[BoxKind, bytes], Place] = {}
        """Other places of chunks that lie in unreadable segments, or by the index nowhere."""
        self._nowhere: set[tuple[BoxKind, bytes]] = set()
        """Chunks without any place, which were looked for by the log of this look."""
        self._others = _Others()

    @property
    def looks(self) -> int:
        """Return how often the log was looked at again."""
        return self._looks

    @property
    def index(self) -> ChunkIndex:
        """Return the index of the last look."""
        return self._index

    def place(self, kind: BoxKind, chunk_id: bytes) -> Place:
        """Return where a chunk lies by the last look.

        Raises:
            ObjectMissing: nowhere.
            StorageError: only where it cannot be read, and why.
        """
        if not (self._unreadable or self._detours):
            return self._index.place(kind, chunk_id)
        try:
            found = self._index.place(kind, chunk_id)
        except ObjectMissing:
            detour = self._detour(kind, chunk_id)
            if detour is None:
                raise
            return detour
        failure = self._unreadable.get((found.container.name, found.segment))
        if failure is None:
            return found
        detour = self._detour(kind, chunk_id)
        if detour is None:
            raise _anew(failure)
        return detour

    def _detour(self, kind: BoxKind, chunk_id: bytes) -> Place | None:
        found = self._detours.get((kind, chunk_id))
        if found is None or (found.container.name, found.segment) in self._unreadable:
            return None
        return found

    async def look_again(self, looks: int) -> bool:
        """Read the log again; return whether it said anything new since `looks` looks.

        Raises:
            NoSuchCheckpoint: what is being read was forgotten.
        """
        async with self._lock:
            if looks != self._looks:
                return True
            for cold in (False, True):
                if cold and self._read_anew == self._seen:
                    return False  # whoever leaves out what is damaged asks for each object of many
                state = await self._read_log(cold)
                self._require_rows(state)
                if (state.seq, state.hash) != self._seen and self._looks < LOOKS_MAX:
                    self._index, self._seen = state.index, (state.seq, state.hash)
                    self._others, self._nowhere = _Others(), set()
                    self._looks += 1
                    return True
            self._read_anew = self._seen
            return False

    async def look_elsewhere(
        self, kind: BoxKind, chunk_ids: Collection[bytes], unreadable: Unreadable
    ) -> bool:
        """Look for other copies of what is damaged; see `Places`."""
        async with self._lock:
            news = {place: _anew(why) for place, why in unreadable.items() if place not in self._unreadable}
            self._unreadable.update(news)
            wanted = set(self._lying_in(kind, news))
            wanted.update(one for one in chunk_ids if self._is_nowhere(kind, one))
            wanted = {one for one in wanted if not self._has_place(kind, one)}
            if wanted:
                await self._look_for(kind, wanted)
            return any(self._has_place(kind, chunk_id) for chunk_id in chunk_ids)

    def _lying_in(self, kind: BoxKind, unreadable: Unreadable) -> Iterable[bytes]:
        """Yield what lies in some segments: all of it, so that none of it has to be looked for again."""
        if not unreadable:
            return
        detours = {place.container.name: place.container for place in self._detours.values()}
        for name, number in unreadable:
            container = self._index.containers.get(name, detours.get(name))
            segments = () if container is None else container.segments[number : number + 1]
            for segment in segments:
                if segment.kind is kind:
                    yield from (chunk_id for chunk_id, _ in segment.chunks)

    def _is_nowhere(self, kind: BoxKind, chunk_id: bytes) -> bool:
        return not self._index.knows(kind, chunk_id) and (kind, chunk_id) not in self._nowhere

    def _has_place(self, kind: BoxKind, chunk_id: bytes) -> bool:
        try:
            self.place(kind, chunk_id)
        except StorageError:
            return False
        return True

    async def _look_for(self, kind: BoxKind, wanted: set[bytes]) -> None:
        """Find the first readable copy of each wanted chunk; take what is found out of `wanted`."""
        others = self._others
        if others.seconds is None:
            others.seconds = await self._threads.quick(lambda: _Copies(self._index.seconds()))
        await self._threads.quick(self._take, others.seconds, kind, wanted)
        if not wanted:
            return
        if others.strays is None:
            found = await self._find_strays(self._index)
            strays = [(one, segment) for one in found for segment in one.segments]
            others.strays = await self._threads.quick(_Copies, strays)
        await self._threads.quick(self._take, others.strays, kind, wanted)
        self._nowhere.update((kind, one) for one in wanted if not self._index.knows(kind, one))

    def _take(self, copies: _Copies, kind: BoxKind, wanted: set[bytes]) -> None:
        for chunk_id, place in copies.find(kind, wanted, self._unreadable).items():
            wanted.discard(chunk_id)
            self._detours[kind, chunk_id] = place

    def _require_rows(self, state: LogState) -> None:
        for row in self._rows:
            side = state.sides.get(row.seq)
            now = side.row if side is not None else state.row(row.seq)
            if now is None or now.hash != row.hash or (side is None and not state.counts(now)):
                raise NoSuchCheckpoint(seq=row.seq, what="it was forgotten while it was being read")


def _anew(failure: StorageError) -> StorageError:
    """Return the same failure as if it had never been raised. One that is kept would keep what was read in
    memory, and one that is raised for each of a million chunks, the frames of all who were told.
    """
    return type(failure)(**failure.facts)
