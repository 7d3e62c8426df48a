"""Writes the files of a restore: two lanes, each with one batch being written and the next being fetched.

A file has one writer, because two threads on one inode only wait for each other's lock; so a lane takes
batches of small files as they come, and a large file whole. Segments are opened by the thread that writes
their bytes, where every chunk is checked against its id. What is opened waits in a small cache for the next
batch, because batches end where segments end, but a deduplicated chunk may lie anywhere.

Memory: two lanes with a batch being written and one fetched, and the cache.

Source: storage.md 4.6 "Order".
"""

import asyncio
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from storage.format.frame import Buffer
from storage.format.keys import BoxKind
from storage.format.limits import MIB, SEGMENT_RAW_BYTES_MAX
from storage.repository.index import ChunkIndex, Place
from storage.repository.reader import CACHE_BYTES, Reader, SealedRun
from storage.repository.threads import Stop, Threads
from storage.repository.together import first_failure
from storage.scan.entry import FileWriter, RestoreFacts
from storage.scan.extract import Extractor

LANES: Final = 2
BATCH_BYTES: Final = 4 * MIB
OPENED_BYTES_MAX: Final = 8 * MIB
"""Opened segments that wait for the next batch of either lane."""

RESTORE_BYTES_MAX: Final = (
    LANES * (2 * (BATCH_BYTES + SEGMENT_RAW_BYTES_MAX) + BATCH_BYTES + SEGMENT_RAW_BYTES_MAX)
    + OPENED_BYTES_MAX
    + CACHE_BYTES
)
"""What a restore holds at once besides its plan: for each lane a fetched batch, the one being opened, and
that one opened (each may overlap one more segment); opened segments; and the reader's cache of metadata.
A test holds it to this."""

SegmentKey = tuple[str, int]
Opened = dict[SegmentKey, Buffer]


@dataclass(slots=True)
class File:
    """A file to be written, with its chunks and where its data goes."""

    path: bytes
    facts: RestoreFacts
    refs: list[tuple[bytes, int]]
    order: SegmentKey
    """Container and segment of its first chunk: files are read as they lie."""


@dataclass(slots=True)
class _Piece:
    """Some neighbouring chunks of one file."""

    file: File
    first_ref: int
    end_ref: int
    start: int
    """Of the data written before; bytes without holes."""
    places: list[Place] = field(default_factory=list)


@dataclass(slots=True)
class _Batch:
    pieces: list[_Piece] = field(default_factory=list)
    sealed: list[SealedRun] = field(default_factory=list)
    opened: Opened = field(default_factory=dict)


class _OpenedCache:
    """Opened segments, the least recently used dropped first. Shared by the threads of one restore."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._segments: OrderedDict[SegmentKey, Buffer] = OrderedDict()
        self._bytes = 0

    def get(self, key: SegmentKey) -> Buffer | None:
        with self._lock:
            found = self._segments.get(key)
            if found is not None:
                self._segments.move_to_end(key)
            return found

    def keep(self, key: SegmentKey, raw: Buffer) -> None:
        with self._lock:
            if key in self._segments:
                return
            self._segments[key] = raw
            self._bytes += len(raw)
            while self._bytes > OPENED_BYTES_MAX and len(self._segments) > 1:
                self._bytes -= len(self._segments.popitem(last=False)[1])


class Lanes:
    """Writes files tier by tier. One per restore."""

    def __init__(
        self,
        extractor: Extractor,
        reader: Reader,
        index: ChunkIndex,
        threads: Threads,
        stop: Stop,
        *,
        written: Callable[[int], None],
    ) -> None:
        self._extractor = extractor
        self._reader = reader
        self._index = index
        self._threads = threads
        self._stop = stop
        self._written = written
        self._cache = _OpenedCache()

    async def write(self, files: Iterable[File], *, whole: bool) -> None:
        """Write files.

        Args:
            whole: every file is an item of its own, for one lane; else several make a batch.
        """
        ordered = sorted(files, key=lambda file: file.order)
        work = deque([file] for file in ordered) if whole else deque(_grouped(ordered))
        try:
            async with asyncio.TaskGroup() as group:
                for number in range(LANES):
                    group.create_task(self._lane(work), name=f"restore-lane-{number}")
        except BaseExceptionGroup as failed:
            raise first_failure(failed) from failed

    async def _lane(self, work: deque[list[File]]) -> None:
        """Write one batch while the next is fetched, until there is no work."""
        batches = _batches_of(work)
        writing: _Batch | None = None
        open_file: list[FileWriter] = []
        while True:
            fetching = next(batches, None)
            async with asyncio.TaskGroup() as group:
                if fetching is not None:
                    group.create_task(self._fetch(fetching), name="fetch-batch")
                if writing is not None:
                    await self._threads.run(self._stop, self._write, writing, open_file)
            if fetching is None:
                return
            writing = fetching

    async def _fetch(self, batch: _Batch) -> None:
        wanted = {}
        for piece in batch.pieces:
            for chunk_id, length in piece.file.refs[piece.first_ref : piece.end_ref]:
                place = self._index.place(BoxKind.DATA, chunk_id)
                assert place.length == length, "the index has the lengths of the tables"
                piece.places.append(place)
                key = place.container.name, place.segment
                if key in wanted or key in batch.opened:
                    continue
                opened = self._cache.get(key)
                if opened is not None:
                    batch.opened[key] = opened
                else:
                    wanted[key] = place.container, place.container.segments[place.segment]
        batch.sealed = await self._reader.fetch(wanted.values())

    def _write(self, batch: _Batch, open_file: list[FileWriter]) -> None:
        """Open what was fetched and write it; in a thread."""
        opened = batch.opened
        for sealed in batch.sealed:
            for segment, raw in sealed.opened():
                key = sealed.container.name, segment.index
                opened[key] = raw
                self._cache.keep(key, raw)
                self._stop.check()
        batch.sealed = []
        for piece in batch.pieces:
            self._stop.check()
            self._write_piece(piece, opened, open_file)
        self._written(sum(place.length for piece in batch.pieces for place in piece.places))

    def _write_piece(self, piece: _Piece, opened: Opened, open_file: list[FileWriter]) -> None:
        file = piece.file
        if piece.first_ref == 0:
            assert not open_file, "one file after the other"
            open_file.append(self._extractor.file(file.path, file.facts))
        writer = open_file[0]
        at = piece.start
        for key, start, length in _runs(piece.places):
            data = memoryview(opened[key])[start : start + length]
            if file.facts.extents is None:
                writer.write(at, data)
            else:
                for offset, part in _at_extents(file.facts.extents, at, data):
                    writer.write(offset, part)
            at += length
        if piece.end_ref == len(file.refs):
            open_file.clear()
            writer.close()


def _grouped(files: list[File]) -> Iterator[list[File]]:
    """Cut small files, in the order they lie, into groups of about 4 MiB that end where a segment ends."""
    group: list[File] = []
    size = 0
    for file in files:
        if size >= BATCH_BYTES and file.order != group[-1].order:
            yield group
            group, size = [], 0
        group.append(file)
        size += file.facts.size
    if group:
        yield group


def _batches_of(work: deque[list[File]]) -> Iterator[_Batch]:
    """Take one item of work after the other; a group is one batch, a large file several."""
    while work:
        group = work.popleft()
        batch = _Batch()
        for file in group:
            for piece in _pieces(file):
                if len(group) == 1 and batch.pieces:
                    yield batch
                    batch = _Batch()
                batch.pieces.append(piece)
        yield batch


def _pieces(file: File) -> Iterator[_Piece]:
    """Cut a file into pieces of at most 4 MiB and a chunk; a small one is one piece."""
    first = start = taken = 0
    for at, (_, length) in enumerate(file.refs):
        if taken >= BATCH_BYTES:
            yield _Piece(file, first, at, start)
            first, start, taken = at, start + taken, 0
        taken += length
    yield _Piece(file, first, len(file.refs), start)


def _runs(places: list[Place]) -> Iterator[tuple[SegmentKey, int, int]]:
    """Put neighbouring chunks together: (segment, first raw byte, length)."""
    key: SegmentKey | None = None
    start = length = 0
    for place in places:
        here = place.container.name, place.segment
        if here == key and place.start == start + length:
            length += place.length
            continue
        if key is not None:
            yield key, start, length
        key, start, length = here, place.start, place.length
    if key is not None:
        yield key, start, length


def _at_extents(
    extents: tuple[tuple[int, int], ...], start: int, data: memoryview
) -> Iterator[tuple[int, memoryview]]:
    """Yield (file offset, bytes) of data that begins `start` bytes into the file's data."""
    before = 0
    for offset, length in extents:
        low, high = max(start, before), min(start + len(data), before + length)
        if low < high:
            yield offset + low - before, data[low - start : high - start]
        before += length
        if before >= start + len(data):
            return
