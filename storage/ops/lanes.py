"""Writes the files of a restore: two lanes, each with a load of segments being written and the next fetched.

It goes by segments and not by files: each is fetched and opened once in a tier, by the thread that writes its
bytes, and everything that wants a part of it is served while it is open, checked against its ids. So a file
may be written by both lanes in turn; they meet on an inode for the time of one write, which is little beside
opening a segment. Almost every file lies whole in one segment and is made by one call (`scan/lane.py`).

One lane begins where many small files lie, which is Python's work, and the other where a few large ones do,
which is native: so both cores are busy. Where both write small files they take turns (`turn.py`), and open
segments aside from it.

A load whose objects were moved meanwhile is placed anew by the log as it is then. Of a load with a damaged
object each segment is tried alone, and what it cannot give is taken from another copy, if there is one
(`repository/current.py`). A file that needs what has none is taken back as a whole.

Memory: for each lane a load being written, one being fetched, and one opened segment.

Source: storage.md 4.6 "Order", 4.4 rule 3.
"""

import asyncio
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from mmap import mmap
from typing import Final, NamedTuple

from storage.errors import HostileTree, Malformed, ObjectMissing, StorageError
from storage.format.frame import Buffer
from storage.format.keys import BoxKind
from storage.format.limits import KIB, MIB, SEALED_EXTRA_BYTES_MAX, SEGMENT_RAW_BYTES_MAX
from storage.format.table import Segment
from storage.ops.seeding import BATCH_BYTES, Seeding
from storage.repository.damage import Damage, damage_of
from storage.repository.index import Container, Place, Places
from storage.repository.reader import CACHE_BYTES, WRONG_PLACE, Reader, SealedRun
from storage.repository.threads import Stop, Threads
from storage.repository.together import first_failure
from storage.repository.turn import Turn
from storage.scan.entry import RestoreFacts
from storage.scan.extract import Extractor, OpenFile
from storage.scan.lane import Lane

LANES: Final = 2
LOAD_BYTES: Final = 4 * MIB
"""Sealed segments that a lane fetches at once, at most."""
LOAD_PIECES: Final = 2
"""As many requests are enough at once where a store is better read in small ones (`objects/pieces.py`)."""
SMALL_BYTES: Final = 32 * KIB
"""What is written in pieces below this, on average, costs more in Python than in all else."""
SLOW_FILE_S: Final = 0.000_2
"""Where a small file takes longer the kernel is what is waited for, and may well make two at once."""
WRITERS_OPEN_MAX: Final = 64
"""Files that lie in several segments and are open; the others of them wait closed."""

ROOM_BYTES: Final = SEGMENT_RAW_BYTES_MAX + SEALED_EXTRA_BYTES_MAX
"""What a segment is before it expands, at most."""

RESTORE_BYTES_MAX: Final = (
    LANES * (2 * (LOAD_BYTES + SEGMENT_RAW_BYTES_MAX + SEALED_EXTRA_BYTES_MAX) + 2 * SEGMENT_RAW_BYTES_MAX)
    + LANES * BATCH_BYTES
    + CACHE_BYTES
)
"""What a restore holds at once besides its plan: for each lane a load being written and one fetched (each may
overlap one segment), a segment's plain frame and what it expands to, and what it reads of a seed; and the
reader's cache of metadata. A test holds it to this."""


@dataclass(slots=True)
class File:
    """A file to be written, with its chunks."""

    path: bytes
    facts: RestoreFacts
    refs: list[tuple[bytes, int]]
    left: int = 0
    """Chunks that are not written yet."""
    writer: OpenFile | None = None
    users: int = 0
    """Lanes that are writing it at this moment."""
    lost: bool = False
    """An object that it needs is damaged: it is not written."""


class _Piece(NamedTuple):
    """Neighbouring chunks of one file that are neighbours in one segment, too."""

    file: File
    first: int
    """Number of the first chunk in the file."""
    chunks: int
    data_start: int
    """Bytes of the file's data before it, holes not counted."""
    start: int
    """First raw byte in the segment."""
    length: int

    @property
    def refs(self) -> list[tuple[bytes, int]]:
        """Return its chunks, as the file names them."""
        return self.file.refs[self.first : self.first + self.chunks]


_Wanted = dict[int, tuple[Segment, list[_Piece]]]
"""Pieces of one container by segment."""


@dataclass(slots=True)
class _Load:
    """Segments of one container that are fetched together, with what is written from each."""

    container: Container
    looks: int
    wanted: _Wanted = field(default_factory=dict)
    sealed: list[SealedRun] = field(default_factory=list)
    failed: dict[int, StorageError] = field(default_factory=dict)
    """Segments that could not be read, and why."""


class _Writers:
    """Files that are written piece by piece. Shared by the lanes; a bounded number is open."""

    def __init__(self, extractor: Extractor) -> None:
        self._extractor = extractor
        self._lock = threading.Lock()
        self._open: OrderedDict[int, File] = OrderedDict()

    def take(self, file: File) -> OpenFile | None:
        """Return the writer of a file, which stays open until it is given back; None if it is lost."""
        with self._lock:
            if file.lost:
                return None
            if file.writer is None:
                file.writer = self._extractor.file(file.path, file.facts)
            file.users += 1
            self._open[id(file)] = file
            self._open.move_to_end(id(file))
            if len(self._open) > WRITERS_OPEN_MAX:
                self._rest_one()
            file.writer.wake()
            return file.writer

    def give_back(self, file: File, chunks: int) -> None:
        """Say how many chunks were written; the last ones make the file whole."""
        with self._lock:
            file.users -= 1
            file.left -= chunks
            if file.lost:
                self._take_back(file)
                return
            if file.left:
                return
            del self._open[id(file)]
        assert file.writer is not None
        file.writer.close()
        file.writer = None

    def lose(self, file: File) -> bool:
        """Take back a file of which not all can be given; return False if that is known already."""
        with self._lock:
            known, file.lost = file.lost, True
            self._take_back(file)
            return not known

    def _take_back(self, file: File) -> None:
        """Remove what was written of it, once nobody writes it any more."""
        if file.users:
            return
        self._open.pop(id(file), None)
        inode = None
        if file.writer is not None:
            inode = file.writer.inode
            file.writer.abandon()
            file.writer = None
        self._extractor.take_back(file.path, file.facts, inode=inode)

    def _rest_one(self) -> None:
        for key, file in self._open.items():
            if not file.users and file.writer is not None:
                file.writer.rest()
                del self._open[key]
                return


class Lanes:
    """Writes files tier by tier. One per restore; close it."""

    def __init__(
        self,
        extractor: Extractor,
        reader: Reader,
        places: Places,
        threads: Threads,
        stop: Stop,
        *,
        written: Callable[[int], None],
        seed: Callable[[], Seeding] | None = None,
        lost: Callable[[bytes, Damage], None] | None = None,
    ) -> None:
        """Take what writes and what is read from.

        Args:
            seed: asked for one hand of a seed per lane.
            lost: told each file that is left out because of damage, maybe in a thread; without it the first
                damage is an error.
        """
        self._reader = reader
        self._places = places
        self._threads = threads
        self._stop = stop
        self._written = written
        self._lost = lost
        self._writers = _Writers(extractor)
        self._turn = Turn()
        self._slow = False
        """Whether the small files that were written last took long."""
        self._hands = [Lane(extractor) for _ in range(LANES)]
        # Mapped, because a bytearray is cleared as a whole, and almost no segment is as large as one may be.
        self._rooms = [memoryview(mmap(-1, ROOM_BYTES)) for _ in self._hands]
        self._seeds = [] if seed is None else [seed() for _ in self._hands]
        self.fetched_bytes = 0
        self.seeded_bytes = 0

    async def write(self, files: Iterable[File]) -> None:
        """Write files to their ends."""
        try:
            pieces = [_whole(file) for file in files]
            if self._seeds:
                pieces = await self._seeded(pieces)
            work = deque(_by_ends(await self._placed(pieces)))
            async with asyncio.TaskGroup() as group:
                for number in range(LANES):
                    group.create_task(self._lane(number, work), name=f"restore-lane-{number}")
        except BaseExceptionGroup as failed:
            raise first_failure(failed) from failed

    def close(self) -> None:
        """Give back the folders that the lanes hold open."""
        for hand in self._hands:
            hand.close()
        for seed in self._seeds:
            seed.close()

    async def _seeded(self, pieces: Iterable[_Piece]) -> list[_Piece]:
        """Write what the seed has; return what is left to be fetched."""
        work, left = deque(pieces), list[_Piece]()

        async def lane(hand: Lane, seed: Seeding) -> None:
            had = await self._threads.run(self._stop, self._seed, work, left, hand, seed)
            self.seeded_bytes += had

        async with asyncio.TaskGroup() as group:
            for number, (hand, seed) in enumerate(zip(self._hands, self._seeds, strict=True)):
                group.create_task(lane(hand, seed), name=f"restore-seed-{number}")
        return left

    def _seed(self, work: deque[_Piece], left: list[_Piece], hand: Lane, seed: Seeding) -> int:
        """Take one file after the other; return how many bytes the seed had. In a thread, as another one."""
        total = 0
        while True:
            try:
                whole = work.popleft()
            except IndexError:
                return total
            missing: list[_Piece] = []
            had = self._seed_file(whole.file, missing, hand, seed)
            left += missing if had else [whole]
            total += had

    def _seed_file(self, file: File, missing: list[_Piece], hand: Lane, seed: Seeding) -> int:
        had = 0
        with closing(seed.runs(file.path, file.refs, file.facts.extents)) as runs:
            for run in runs:
                self._stop.check()
                piece = _Piece(file, run.first, run.chunks, run.data_start, 0, 0)
                if run.data is not None:
                    self._write_piece(piece, run.data, hand)
                    had += len(run.data)
                    self._written(len(run.data))
                elif missing and missing[-1].first + missing[-1].chunks == run.first:
                    missing[-1] = missing[-1]._replace(chunks=missing[-1].chunks + run.chunks)
                else:
                    missing.append(piece)
        return had

    async def _placed(self, pieces: Sequence[_Piece]) -> list[_Load]:
        """Find where the chunks of pieces lie now; what lies nowhere where it can be read is lost."""
        sought_by = -1
        while True:
            looks = self._places.looks
            loads, unplaced = await self._threads.run(self._stop, self._loads_of, pieces, looks)
            if not unplaced:
                return loads
            missing = any(isinstance(exc, ObjectMissing) for _, exc in unplaced)
            if missing and await self._places.look_again(looks):
                continue
            if sought_by != looks:
                ids = {chunk_id for piece, _ in unplaced for chunk_id, _ in piece.refs}
                sought_by = looks
                if await self._places.look_elsewhere(BoxKind.DATA, ids, {}):
                    continue
            for piece, exc in unplaced:
                if not self._lose(piece, exc):
                    raise exc
            return loads

    def _loads_of(
        self, pieces: Sequence[_Piece], looks: int
    ) -> tuple[list[_Load], list[tuple[_Piece, StorageError]]]:
        """Find where the chunks of pieces lie now, and put what lies together into loads, as it lies.

        Returns:
            The loads, and the pieces of which a chunk lies nowhere, or where it cannot be read.
        """
        bytes_wanted = min(LOAD_BYTES, LOAD_PIECES * self._reader.piece_bytes)
        by_container: dict[str, tuple[Container, _Wanted]] = {}
        unplaced: list[tuple[_Piece, StorageError]] = []
        for piece in pieces:
            self._stop.check()
            if piece.file.lost:
                continue
            try:
                parts = list(self._parts(piece))
            except StorageError as exc:
                if damage_of(exc) is None:
                    raise
                unplaced.append((piece, exc))
                continue
            for container, number, part in parts:
                wanted = by_container.setdefault(container.name, (container, {}))[1]
                there = wanted.get(number)
                if there is None:
                    wanted[number] = container.segments[number], [part]
                else:
                    there[1].append(part)
        loads = [
            load
            for name in sorted(by_container)
            for load in _cut_loads(*by_container[name], looks=looks, bytes_wanted=bytes_wanted)
        ]
        return loads, unplaced

    def _parts(self, piece: _Piece) -> Iterator[tuple[Container, int, _Piece]]:
        """Cut a piece where its chunks are no neighbours."""
        file, place = piece.file, self._places.place
        at, data_start = piece.first, piece.data_start
        first: Place | None = None
        count = length = 0
        for chunk_id, size in piece.refs:
            here = place(BoxKind.DATA, chunk_id)
            if here.length != size:
                raise HostileTree(path=file.path, rule="length of a chunk")
            if first is None:
                first = here
            elif not (
                here.container is first.container
                and here.segment == first.segment
                and here.start == first.start + length
            ):
                yield first.container, first.segment, _Piece(file, at, count, data_start, first.start, length)
                at, data_start, first, count, length = at + count, data_start + length, here, 0, 0
            count += 1
            length += size
        assert first is not None, "a piece has chunks"
        yield first.container, first.segment, _Piece(file, at, count, data_start, first.start, length)

    async def _lane(self, number: int, work: deque[_Load]) -> None:
        """Write one load while the next is fetched, until there is no work."""
        take = work.pop if number % 2 else work.popleft
        writing: _Load | None = None
        while True:
            fetching = take() if work else None
            async with asyncio.TaskGroup() as group:
                if fetching is not None:
                    group.create_task(self._fetch(fetching, work), name="fetch-load")
                if writing is not None:
                    await self._threads.run(self._stop, self._write, writing, number)
                    await self._elsewhere(writing, work)
            if fetching is None and not work:
                return
            writing = fetching

    async def _fetch(self, load: _Load, work: deque[_Load]) -> None:
        """Fetch a load. If it lies elsewhere by now, what it was to serve becomes work anew."""
        try:
            load.sealed = await self._fetched(load)
        except ObjectMissing as exc:
            if await self._places.look_again(load.looks):
                pieces = [piece for _, served in load.wanted.values() for piece in served]
                work.extendleft(reversed(await self._placed(pieces)))
                load.wanted, load.failed = {}, {}
            else:
                load.failed = dict.fromkeys(load.wanted, exc)
        await self._elsewhere(load, work)
        self.fetched_bytes += sum(len(sealed.raw) for sealed in load.sealed)

    async def _fetched(self, load: _Load) -> list[SealedRun]:
        """Fetch a load; where a segment is damaged each of them alone, and those fail that are.

        Raises:
            ObjectMissing: it lies elsewhere by now, or nowhere.
        """
        try:
            return await self._reader.fetch((load.container, segment) for segment, _ in load.wanted.values())
        except ObjectMissing:
            raise
        except StorageError as exc:
            if damage_of(exc, name=load.container.name) is None:
                raise
        found: list[SealedRun] = []
        for segment, _ in load.wanted.values():
            try:
                found.append(await self._reader.fetch_run(load.container, [segment]))
            except ObjectMissing:
                raise
            except StorageError as exc:
                if damage_of(exc, name=load.container.name) is None:
                    raise
                load.failed[segment.index] = exc
        return found

    async def _elsewhere(self, load: _Load, work: deque[_Load]) -> None:
        """Make new work of what the failed segments of a load were to serve, from wherever else it lies."""
        if not load.failed:
            return
        failed, load.failed = load.failed, {}
        for exc in failed.values():
            exc.facts.setdefault("object", load.container.name)
        unreadable = {(load.container.name, number): exc for number, exc in failed.items()}
        await self._places.look_elsewhere(BoxKind.DATA, (), unreadable)
        pieces = [piece for number in failed for piece in load.wanted.pop(number)[1]]
        work.extendleft(reversed(await self._placed(pieces)))

    def _lose(self, piece: _Piece, exc: StorageError) -> bool:
        """Leave out the file of a piece if an error is damage and that is allowed; return whether."""
        damage = damage_of(exc)
        if damage is None or self._lost is None:
            return False
        if self._writers.lose(piece.file):
            self._lost(piece.file.path, damage)
        return True

    def _write(self, load: _Load, number: int) -> None:
        """Open what was fetched, segment by segment, and write it by one of the lanes; in a thread."""
        hand, room = self._hands[number], self._rooms[number]
        while load.sealed:
            sealed = load.sealed.pop(0)  # so that its bytes go when it is written
            for segment in sealed.run:
                served = load.wanted[segment.index][1]
                try:
                    view = memoryview(sealed.open_one(segment, room))
                except StorageError as exc:
                    if damage_of(exc, name=load.container.name) is None:
                        raise
                    load.failed[segment.index] = exc
                    continue
                pieces = self._rightly_placed(load.container, segment, served)
                self._stop.check()
                size = sum(piece.length for piece in served)
                if size >= len(served) * SMALL_BYTES:
                    self._write_pieces(pieces, view, hand)
                else:
                    self._write_small(pieces, view, hand, slow_s=len(served) * SLOW_FILE_S)
                self._written(size)

    def _write_small(self, pieces: Iterable[_Piece], view: memoryview, hand: Lane, *, slow_s: float) -> None:
        """Write small files in turn, unless the last ones took long."""
        with nullcontext() if self._slow else self._turn:
            began_s = time.perf_counter()
            self._write_pieces(pieces, view, hand)
            self._slow = time.perf_counter() - began_s > slow_s

    def _write_pieces(self, pieces: Iterable[_Piece], view: memoryview, hand: Lane) -> None:
        """Write what lies in one opened segment."""
        for piece in pieces:
            self._write_piece(piece, view[piece.start : piece.start + piece.length], hand)

    def _rightly_placed(
        self, container: Container, segment: Segment, served: Iterable[_Piece]
    ) -> Iterator[_Piece]:
        """Yield the pieces whose files name what the segment was checked against. The others are lost: a
        wrong index gives nobody the bytes of another chunk.
        """
        chunks, numbers, start = segment.chunks, dict[int, int](), 0
        for number, (_, length) in enumerate(chunks):
            numbers[start] = number
            start += length
        for piece in served:
            first = numbers.get(piece.start, -1)
            alone = piece.chunks == 1 and first >= 0  # almost all are
            if alone and chunks[first] == piece.file.refs[piece.first]:
                yield piece
                continue
            if first >= 0 and chunks[first : first + piece.chunks] == tuple(piece.refs):
                yield piece
                continue
            exc = Malformed(rule=WRONG_PLACE, object=container.name, index=segment.index)
            if not self._lose(piece, exc):
                raise exc

    def _write_piece(self, piece: _Piece, data: memoryview, hand: Lane) -> None:
        file, extents = piece.file, piece.file.facts.extents
        if file.lost:
            return
        if piece.chunks == len(file.refs) and extents is None:
            hand.file(file.path, file.facts, data)
            return
        writer = self._writers.take(file)
        if writer is None:
            return
        if extents is None:
            writer.write(piece.data_start, data)
        else:
            for offset, part in _at_extents(extents, piece.data_start, data):
                writer.write(offset, part)
        self._writers.give_back(file, piece.chunks)


def _whole(file: File) -> _Piece:
    """Return all of a file, not placed yet."""
    file.left = len(file.refs)
    return _Piece(file, 0, file.left, 0, 0, 0)


def _cut_loads(container: Container, wanted: _Wanted, *, looks: int, bytes_wanted: int) -> Iterator[_Load]:
    load, size = _Load(container, looks), 0
    for number in sorted(wanted):
        if size >= bytes_wanted:
            yield load
            load, size = _Load(container, looks), 0
        load.wanted[number] = wanted[number]
        size += wanted[number][0].sealed_bytes
    yield load


def _by_ends(loads: Iterable[_Load]) -> list[_Load]:
    """Put loads of many small pieces first; those of few come last, in such an order that who takes from the
    end reads forwards, too.
    """
    many: list[_Load] = []
    few: list[_Load] = []
    for load in loads:
        pieces = [piece for _, served in load.wanted.values() for piece in served]
        size = sum(piece.length for piece in pieces)
        (many if size < len(pieces) * SMALL_BYTES else few).append(load)
    return many + few[::-1]


def _at_extents(
    extents: tuple[tuple[int, int], ...], start: int, data: Buffer
) -> Iterator[tuple[int, memoryview]]:
    """Yield (file offset, bytes) of data that begins `start` bytes into the file's data."""
    view = memoryview(data)
    before = 0
    for offset, length in extents:
        low, high = max(start, before), min(start + len(view), before + length)
        if low < high:
            yield offset + low - before, view[low - start : high - start]
        before += length
        if before >= start + len(view):
            return
