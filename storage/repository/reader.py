"""Reads chunks, folders and files of a repository. Everything read is checked before it is handed on.

A repository is hostile until it opened, and its content after that too: sizes and digests first, then the
seal, then frame, zstd and chunk ids; trees are walked with a list, never by recursion, and whoever walks one
counts what he meets against what the checkpoint announced.

Source: storage.md 4.6.
"""

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from storage.errors import (
    FormatError,
    KeyMissing,
    Malformed,
    NotAuthentic,
    ObjectDamaged,
    ObjectMissing,
    ObjectNotFound,
    StorageError,
    StoreUnavailable,
)
from storage.format import lists, tree
from storage.format.extras import Extent, unpack_extents
from storage.format.frame import Buffer
from storage.format.header import OpenHeader, header_key_id, open_header
from storage.format.keys import BoxKind, EpochKeys
from storage.format.limits import EXTENTS_INLINE_MAX, HEADER_BYTES, MIB
from storage.format.table import Segment, cut_chunks, digest, open_segment, read_chunk_refs
from storage.format.tree import Child, Content, Entry, NodeRef
from storage.repository.damage import Damage, damage_of
from storage.repository.index import Container, Place, Places
from storage.repository.prefixed import Prefixed
from storage.repository.slots import ReopenKeys, RepositoryKeys, newer_keys
from storage.repository.threads import Threads
from storage.repository.together import together

CACHE_BYTES: Final = 16 * MIB
"""Opened segments kept; neighbours of a chunk are usually wanted next."""
READS_AT_ONCE: Final = 8
HEADERS_MAX: Final = 1_024
NOBODYS_MAX: Final = 64
"""Keys without a slot that are looked for; headers that name more of them are damaged by the dozen."""

WRONG_PLACE: Final = "place of a chunk"
"""The rule that is broken where an index says that a chunk lies where another one does."""

OnLost = Callable[[Damage], None]
Chunks = dict[bytes, bytes]
"""Chunks of one segment by their ids: who asks in the wrong segment gets nothing, never another chunk."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedRun:
    """Neighbouring segments of one container as they were fetched: not opened, not believed."""

    keys: EpochKeys
    header: OpenHeader
    container: Container
    run: Sequence[Segment]
    raw: bytes

    def opened(self) -> "Iterator[tuple[Segment, Buffer]]":
        """Open one segment after the other: CPU work, for a thread."""
        for segment in self.run:
            yield segment, self.open_one(segment)

    def open_one(self, segment: Segment, room: memoryview | None = None) -> Buffer:
        """Open one of these segments; in `room`, if there is one, until the next is opened there."""
        at = segment.offset - self.run[0].offset
        box = memoryview(self.raw)[at : at + segment.sealed_bytes]
        try:
            return open_segment(self.keys, self.header, segment, box, room=room)
        except FormatError as exc:
            exc.facts.setdefault("object", self.container.name)
            raise

    def check(self) -> None:
        """Compare every segment with its row: that alone tells a damaged copy from a whole one."""
        view = memoryview(self.raw)
        first = self.run[0].offset
        for segment in self.run:
            at = segment.offset - first
            if digest(view[at : at + segment.sealed_bytes]) != segment.digest:
                raise NotAuthentic(object=self.container.name, index=segment.index, digest="differs")


@dataclass(frozen=True, slots=True, kw_only=True)
class Spare:
    """A second place with the same objects, asked for one that is missing or damaged in the first."""

    place: Callable[[], Awaitable[Prefixed]]
    told: Callable[[str, str, str], None]
    """Called with prefix, object and what was wrong with the first copy, after the second one was used."""


class SegmentCache:
    """Opened segments of all repositories of a process, the least recently used dropped first."""

    def __init__(self, bytes_max: int = CACHE_BYTES) -> None:
        self._bytes_max = bytes_max
        self._segments: OrderedDict[tuple[str, str, int], Chunks] = OrderedDict()
        self._bytes = 0

    def get(self, key: tuple[str, str, int]) -> Chunks | None:
        """Return the chunks of a segment, if they are here."""
        chunks = self._segments.get(key)
        if chunks is not None:
            self._segments.move_to_end(key)
        return chunks

    def keep(self, key: tuple[str, str, int], chunks: Chunks) -> None:
        """Keep the chunks of a segment."""
        if key in self._segments:
            return  # another call was faster
        self._segments[key] = chunks
        self._bytes += sum(map(len, chunks.values()))
        while self._bytes > self._bytes_max and len(self._segments) > 1:
            _, dropped = self._segments.popitem(last=False)
            self._bytes -= sum(map(len, dropped.values()))

    def forget(self, prefix: str) -> None:
        """Drop every segment of one repository: it was erased."""
        for key in [key for key in self._segments if key[0] == prefix]:
            self._bytes -= sum(map(len, self._segments.pop(key).values()))


class Reader:
    """Reads through the index of one repository. One per workspace; calls may overlap."""

    def __init__(
        self,
        place: Prefixed,
        keys: RepositoryKeys,
        threads: Threads,
        cache: SegmentCache | None = None,
        spare: Spare | None = None,
        *,
        reopen: ReopenKeys | None = None,
    ) -> None:
        """Take the parts.

        Args:
            reopen: reads the slots anew; asked before a key that is not known is called missing.
        """
        self._place = place
        self._keys = keys
        self._threads = threads
        self._spare = spare
        self._reopen = reopen
        self._nobodys: set[bytes] = set()
        """Ids of keys that no slot has: damage of the headers that name them."""
        self._cache = cache if cache is not None else SegmentCache()
        self._headers: OrderedDict[str, tuple[EpochKeys, OpenHeader]] = OrderedDict()

    @property
    def piece_bytes(self) -> int:
        """How much one request of a long read asks for."""
        return self._place.piece_bytes

    async def chunk(self, index: Places, kind: BoxKind, chunk_id: bytes) -> bytes:
        """Return one chunk, from wherever it was moved to meanwhile, and from whichever copy is whole."""
        while True:
            looks, place = index.looks, None
            try:
                place = index.place(kind, chunk_id)
                chunks = await self._opened(place)
            except StorageError as exc:
                if isinstance(exc, ObjectMissing) and await index.look_again(looks):
                    continue
                name = "" if place is None else place.container.name
                if damage_of(exc, name=name) is None:
                    raise
                unreadable = {} if place is None else {(name, place.segment): exc}
                if not await index.look_elsewhere(kind, [chunk_id], unreadable):
                    raise
            else:
                chunk = chunks.get(chunk_id)
                if chunk is None or len(chunk) != place.length:
                    raise Malformed(rule=WRONG_PLACE, object=place.container.name, chunk=chunk_id.hex())
                return chunk

    async def _opened(self, place: Place) -> Chunks:
        key = (self._place.prefix, place.container.name, place.segment)
        chunks = self._cache.get(key)
        if chunks is None:
            segment = place.container.segments[place.segment]
            chunks = (await self.read_run(place.container, [segment]))[place.segment]
            self._cache.keep(key, chunks)
        return chunks

    async def fetch(self, wanted: Iterable[tuple[Container, Segment]]) -> list[SealedRun]:
        """Fetch segments, each once, neighbours with one request."""
        todo: dict[str, tuple[Container, dict[int, Segment]]] = {}
        for container, segment in wanted:
            todo.setdefault(container.name, (container, {}))[1][segment.index] = segment
        calls = [
            self.fetch_run(container, run)
            for container, segments in todo.values()
            for run in _runs([segments[index] for index in sorted(segments)], self.piece_bytes)
        ]
        return await together(calls, at_once=READS_AT_ONCE)

    async def read_run(self, container: Container, run: Sequence[Segment]) -> dict[int, Chunks]:
        """Read neighbouring segments of one container and open them."""
        return await self._threads.quick(_open_run, await self.fetch_run(container, run))

    async def fetch_run(self, container: Container, run: Sequence[Segment]) -> SealedRun:
        """Fetch neighbouring segments of one container; from the second place where the first has no whole
        copy of them.
        """
        if self._spare is None:
            return await self._fetched(self._place, container, run)
        try:
            sealed = await self._fetched(self._place, container, run)
            await self._threads.quick(sealed.check)
            return sealed
        except (FormatError, KeyMissing, ObjectDamaged, StoreUnavailable) as exc:
            self._headers.pop(container.name, None)
            return await self._from_spare(self._spare, container, run, exc)

    async def _from_spare(
        self, spare: Spare, container: Container, run: Sequence[Segment], failure: StorageError
    ) -> SealedRun:
        """Fetch from the second place; what was wrong with the first counts if that does not help."""
        try:
            sealed = await self._fetched(await spare.place(), container, run)
            await self._threads.quick(sealed.check)
        except StorageError as exc:
            raise failure from exc
        spare.told(self._place.prefix, container.name, str(failure))
        return sealed

    async def _fetched(self, place: Prefixed, container: Container, run: Sequence[Segment]) -> SealedRun:
        try:
            keys, header = await self._header(place, container)
        except FormatError as exc:
            exc.facts.setdefault("object", container.name)
            raise
        start = container.area_start + run[0].offset
        length = run[-1].offset + run[-1].sealed_bytes - run[0].offset
        try:
            raw = await place.get(container.name, start=start, length=length)
        except ObjectNotFound as exc:
            raise ObjectMissing(object=container.name, what="missing") from exc
        if len(raw) != length:
            raise ObjectDamaged(object=container.name, what="cut short")
        return SealedRun(keys=keys, header=header, container=container, run=run, raw=raw)

    def is_data_chunk(self, chunk_id: bytes, content: Buffer) -> bool:
        """Return whether these bytes are the chunk of that id. Ids are the same in every key epoch."""
        return self._keys.newest.chunk_id(BoxKind.DATA, content) == chunk_id

    async def key_id(self, container: Container) -> bytes:
        """Return which key a container's header names."""
        return (await self._header(self._place, container))[0].key_id

    @property
    def keys(self) -> RepositoryKeys:
        """Return the keys that it reads with by now."""
        return self._keys

    def know(self, keys: RepositoryKeys) -> None:
        """Read with the keys of another opening of the same repository from now on."""
        self._keys = keys

    async def _of_header(self, raw: bytes, name: str) -> EpochKeys:
        """Return the keys that a header names; whoever rotated meanwhile has left them in a slot."""
        try:
            return self._keys.of_header(raw, name)
        except KeyMissing:
            named = header_key_id(raw, name)
            if named in self._nobodys or len(self._nobodys) == NOBODYS_MAX:
                raise
            self._keys = await newer_keys(self._reopen, self._keys) or self._keys
            if named not in self._keys.epochs:
                self._nobodys.add(named)
            return self._keys.of_header(raw, name)

    async def _header(self, place: Prefixed, container: Container) -> tuple[EpochKeys, OpenHeader]:
        known = self._headers.get(container.name)
        if known is None:
            raw = await place.find(container.name, length=HEADER_BYTES)
            if raw is None:
                raise ObjectMissing(object=container.name, what="missing")
            keys = await self._of_header(raw, container.name)
            known = keys, open_header(keys, raw, container.object_type, container.name)
            self._headers[container.name] = known
            if len(self._headers) > HEADERS_MAX:
                self._headers.popitem(last=False)
        return known

    async def folder(
        self, index: Places, ref: NodeRef, *, start: bytes = b"", lost: OnLost | None = None
    ) -> AsyncIterator[Entry]:
        """Yield the entries of a folder, ascending by name over all of its nodes."""
        async for entries in self.nodes(index, ref, start=start, lost=lost):
            for entry in entries:
                yield entry

    async def nodes(
        self, index: Places, ref: NodeRef, *, start: bytes = b"", lost: OnLost | None = None
    ) -> AsyncIterator[list[Entry]]:
        """Yield the entries of a folder as `folder` does, those of one node at a time.

        Args:
            start: the lowest name that is wanted. Nodes with lower names alone are not read.
            lost: called for each node that cannot be read, with all that is beneath it; then the others
                follow. Without it the first one is an error.
        """
        todo: list[tuple[bytes, int, bytes | None, bytes | None]] = [(ref[0], ref[1], None, None)]
        while todo:
            node_id, level, first, behind = todo.pop()
            try:
                children, entries = await self.node(index, (node_id, level), first=first)
                if entries and behind is not None and entries[-1].name >= behind:
                    raise Malformed(rule="names ascend over nodes")  # in a node they do: its decoder looked
            except StorageError as exc:
                damage = damage_of(exc)
                if lost is None or damage is None:
                    raise
                lost(damage)
                continue
            if children:
                ends = [*(child.first for child in children[1:]), behind]
                low = max(bisect_right(children, start, key=_first_name) - 1, 0)
                todo += [
                    (child.id, level - 1, child.first, end)
                    for child, end in zip(reversed(children[low:]), reversed(ends[low:]), strict=True)
                ]
                continue
            if entries and entries[0].name < start:
                entries = [entry for entry in entries if entry.name >= start]
            if entries:
                yield entries

    async def node(
        self, index: Places, ref: NodeRef, *, first: bytes | None
    ) -> tuple[list[Child], list[Entry]]:
        """Return the children of a node, or its entries if it is one of level 0.

        Args:
            first: the name with which it must begin; None where nobody told one.
        """
        node_id, level = ref
        raw = await self.chunk(index, BoxKind.META, node_id)
        if level:
            children = tree.decode_children(raw, level)
            if first not in (None, children[0].first):
                raise Malformed(rule="first name of a node")
            return children, []
        entries = tree.decode_entries(raw)
        if first is not None and (not entries or entries[0].name != first):
            raise Malformed(rule="first name of a node")
        return [], entries

    async def refs(self, index: Places, content: Content) -> AsyncIterator[tuple[bytes, int]]:
        """Yield the chunks of a content, in order."""
        async for refs in self.ref_lists(index, content):
            for ref in refs:
                yield ref

    async def ref_lists(self, index: Places, content: Content) -> AsyncIterator[Sequence[tuple[bytes, int]]]:
        """Yield the chunks of a content, in order, as many at a time as lie in one place."""
        if content is None:
            return
        if isinstance(content, bytes):
            yield read_chunk_refs(content)
            return
        if not isinstance(content[0], bytes):
            raise Malformed(rule="list reference")
        todo: list[tuple[bytes, int, int | None]] = [(content[0], content[1], None)]
        while todo:
            list_id, level, size = todo.pop()
            items = lists.decode_list(await self.chunk(index, BoxKind.META, list_id), level)
            if size is not None and sum(length for _, length in items) != size:
                raise Malformed(rule="bytes of a list node")
            if level:
                todo += [(item_id, level - 1, length) for item_id, length in reversed(items)]
                continue
            yield items

    async def extents(self, index: Places, entry: Entry) -> tuple[Extent, ...] | None:
        """Return the data extents of a file; None where it has no holes."""
        extras = tree.entry_extras(entry)
        if extras.extents_content is None:
            return extras.extents
        parts: list[bytes] = []
        size = 0
        async for chunk_id, length in self.refs(index, extras.extents_content):
            parts.append(await self.chunk(index, BoxKind.META, chunk_id))
            size += length
            if size > EXTENTS_INLINE_MAX * EXTENTS_INLINE_MAX * 16:
                raise Malformed(rule="content of extents")
        return unpack_extents(b"".join(parts), size=entry.size)


def _first_name(child: Child) -> bytes:
    return child.first


def _runs(segments: Sequence[Segment], bytes_max: int) -> Iterable[list[Segment]]:
    """Cut segments into neighbours that one request asks for; a larger one is asked for alone."""
    run: list[Segment] = []
    for segment in segments:
        apart = run and segment.index != run[-1].index + 1
        if run and (apart or segment.offset + segment.sealed_bytes - run[0].offset > bytes_max):
            yield run
            run = []
        run.append(segment)
    if run:
        yield run


def _open_run(sealed: SealedRun) -> dict[int, Chunks]:
    found: dict[int, Chunks] = {}
    for segment, opened in sealed.opened():
        ids = (chunk_id for chunk_id, _ in segment.chunks)
        found[segment.index] = dict(zip(ids, cut_chunks(segment, opened), strict=True))
    return found
