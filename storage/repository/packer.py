"""New chunks on their way into the store: collected into segments, compressed, and sealed into packs or an
entry.

Chunks are put together to 512 KiB and compressed as one frame: a better ratio, ten times fewer calls, and
chunk sizes stay hidden. Up to 1 MiB of new bytes is held back, because a small checkpoint is one object;
beyond that segments are sealed straight into packs of 16 MiB, which leave one after the other. Metadata goes
into segments of its own, behind the data. Whatever is sealed is opened and expanded again, and compared with
the bytes that it was made from, before anybody may upload it (restic learned this after two zstd bugs).

Called by several threads. A chunk is copied once, into a reused buffer; a segment is compressed, sealed and
checked by the thread that filled it, outside of every lock. Waiting for a pack's buffer is the backpressure.

Source: storage.md 4.2.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

import zstandard

from storage.errors import LimitReached
from storage.format import names
from storage.format.box import unseal
from storage.format.entries import PackRef
from storage.format.frame import ZSTD_LEVEL_LITTLE, Buffer, frame_in_place, new_compressor, open_frame
from storage.format.header import ObjectType, make_header, open_header
from storage.format.keys import BoxKind, EpochKeys
from storage.format.limits import (
    BOX_OVERHEAD_BYTES,
    CHUNK_BYTES_MAX,
    FRAME_OVERHEAD_BYTES,
    HEADER_BYTES,
    INLINE_NEW_BYTES_MAX,
    KIB,
    MIB,
    PACK_BYTES_MAX,
    SEGMENT_RAW_BYTES_MAX,
)
from storage.format.pack import PackBytes, PackSlot, PackWriter, check_pack
from storage.format.table import PlannedSegment
from storage.repository.turn import Turn

SEGMENT_BYTES: Final = 512 * KIB
SEGMENT_CHUNKS_MAX: Final = 4_096
"""A segment of very short files ends here, so that tables stay small beside what they describe."""
SEGMENT_BUFFER_BYTES: Final = FRAME_OVERHEAD_BYTES + SEGMENT_BYTES + CHUNK_BYTES_MAX
PACK_BYTES: Final = 16 * MIB
META_HELD_BYTES_MAX: Final = 4 * MIB
"""Sealed metadata waits up to this, to lie together behind the data; a usual home has less in all."""
Fresh = Callable[[int], bytes]


class ChunkTaker(Protocol):
    """Takes chunks and names them: `NewChunks` keeps the new ones; a comparison keeps none."""

    def offer(self, kind: BoxKind, content: Buffer) -> bytes:
        """Return the id of a chunk. What is kept of it is copied."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedPack:
    """A pack that was decoded again and may be uploaded."""

    name: str
    pack: PackBytes
    ref: PackRef


class Packs(Protocol):
    """Where packs go."""

    def buffer(self) -> bytearray:
        """Return a buffer for a pack; wait while too many packs are on their way."""

    def emit(self, sealed: SealedPack) -> None:
        """Take a pack; its buffer is given back when it is stored."""


class _Filling:
    """Chunks of one class that do not make a segment yet, in a buffer that is used again and again."""

    __slots__ = ("_room", "buffer", "ids", "size")

    def __init__(self) -> None:
        self.buffer = bytearray(SEGMENT_BUFFER_BYTES)
        self._room = memoryview(self.buffer)  # a bytearray copies what is put into a part of it twice
        self.ids: list[tuple[bytes, int]] = []
        self.size = 0

    def take(self, chunk_id: bytes, content: Buffer) -> None:
        at = FRAME_OVERHEAD_BYTES + self.size
        self._room[at : at + len(content)] = content
        self.ids.append((chunk_id, len(content)))
        self.size += len(content)

    @property
    def full(self) -> bool:
        return self.size >= SEGMENT_BYTES or len(self.ids) == SEGMENT_CHUNKS_MAX


@dataclass(slots=True)
class _Class:
    """What came of one class of chunks."""

    new: set[bytes] = field(default_factory=set)
    filling: _Filling | None = None
    held: list[PlannedSegment] = field(default_factory=list)
    """Segments for the entry itself, as long as they may fit into it; metadata also later."""


@dataclass(slots=True, kw_only=True)
class _OpenPack:
    """A pack that segments are sealed into; whoever is last to leave a closed one hands it over."""

    writer: PackWriter
    pack_id: bytes
    busy: int = 0
    closed: bool = False


class NewChunks:
    """Takes chunks of one checkpoint; knows which are stored already and which came twice."""

    def __init__(
        self,
        keys: EpochKeys,
        *,
        fence: int,
        fresh: Fresh,
        stored: Callable[[BoxKind, bytes], bool],
        packs: Packs,
        inline_bytes_max: int = INLINE_NEW_BYTES_MAX,
        beside: bool = False,
    ) -> None:
        """Take the parts.

        Args:
            beside: name packs below `b/`, where no sweep goes: those of a full base.
        """
        self.turn = Turn()
        """Of the threads that offer; a segment is compressed and sealed aside from it."""
        self._beside = beside
        self._keys = keys
        self._fence = fence
        self._fresh = fresh
        self._stored = stored
        self._packs = packs
        self._inline_bytes_max = inline_bytes_max
        self._lock = threading.Lock()
        self._pack_lock = threading.Lock()
        self._data, self._meta = _Class(), _Class()
        self._idle: list[_Filling] = []
        self._held_bytes = 0
        self._packing = False
        self._pack: _OpenPack | None = None
        self._compressors = threading.local()
        self.new_raw_bytes = 0

    def offer(self, kind: BoxKind, content: Buffer) -> bytes:
        """Return the id of a chunk; keep the chunk if it is new."""
        if len(content) > CHUNK_BYTES_MAX:
            raise LimitReached(limit="chunk bytes", value=len(content))
        chunk_id = self._keys.chunk_id(kind, content)
        if self._stored(kind, chunk_id):
            return chunk_id
        kept = self._data if kind is BoxKind.DATA else self._meta
        with self._lock:
            if chunk_id in kept.new:
                return chunk_id
            kept.new.add(chunk_id)
            self.new_raw_bytes += len(content)
            filling = kept.filling
            if filling is None:
                filling = kept.filling = self._idle.pop() if self._idle else _Filling()
            filling.take(chunk_id, content)
            full = filling.full
            if full:
                kept.filling = None
        if full:
            with self.turn.aside():
                self._close_segment(kind, filling)
        return chunk_id

    def finish(self) -> list[PlannedSegment]:
        """Close what is open.

        Return the segments for the entry itself; empty if everything went into packs.
        """
        for kind, kept in ((BoxKind.DATA, self._data), (BoxKind.META, self._meta)):
            filling, kept.filling = kept.filling, None
            if filling is not None:
                self._close_segment(kind, filling, little=not self._packing)
        rest = self._data.held + self._meta.held
        self._data.held, self._meta.held = [], []
        if not self._packing:
            return rest
        for segment in rest:
            self._into_pack(segment)
        last, self._pack = self._pack, None
        if last is not None:
            last.closed = True
            self._hand_over(last)
        return []

    def _close_segment(self, kind: BoxKind, filling: _Filling, *, little: bool = False) -> None:
        """Compress outside of the lock, and find out where the segment goes."""
        assert filling.size <= SEGMENT_RAW_BYTES_MAX
        room = memoryview(filling.buffer)[: FRAME_OVERHEAD_BYTES + filling.size]
        frame = frame_in_place(room, new_compressor(ZSTD_LEVEL_LITTLE) if little else self._compressor())
        segment = PlannedSegment(kind=kind, frame=frame, raw_bytes=filling.size, chunks=tuple(filling.ids))
        for one in self._hold(segment):
            self._into_pack(one, filling.buffer if one is segment else None)
        filling.ids, filling.size = [], 0
        with self._lock:
            self._idle.append(filling)

    def _hold(self, segment: PlannedSegment) -> list[PlannedSegment]:
        """Keep a segment back, and return those that are to go into packs now."""
        with self._lock:
            size = len(segment.frame) + BOX_OVERHEAD_BYTES
            if not self._packing and self._held_bytes + size > self._inline_bytes_max:
                self._packing = True
            release: list[PlannedSegment] = []
            if self._packing and self._data.held:
                release, self._data.held = self._data.held, []
                self._held_bytes -= _sealed_bytes(release)
            is_data = segment.kind is BoxKind.DATA
            if self._packing and is_data:
                return [*release, segment]
            (self._data if is_data else self._meta).held.append(_copied(segment))
            self._held_bytes += size
            if self._packing and self._held_bytes > META_HELD_BYTES_MAX:
                release += self._meta.held
                self._meta.held = []
                self._held_bytes = 0
            return release

    def _into_pack(self, segment: PlannedSegment, source: bytearray | None = None) -> None:
        """Seal a segment into the open pack, and check what was sealed.

        Args:
            source: what the segment was made from; None where that buffer has gone on, and then every chunk
                is hashed again.
        """
        pack, slot = self._reserved(len(segment.frame))
        pack.writer.seal(slot, segment, fresh=self._fresh(32))
        if source is None:
            pack.writer.check(slot)
        else:
            pack.writer.check_against(slot, segment.kind, source, segment.raw_bytes)
        with self._lock:
            pack.busy -= 1
            last = pack.closed and pack.busy == 0
        if last:
            self._hand_over(pack)

    def _reserved(self, frame_bytes: int) -> tuple[_OpenPack, PackSlot]:
        """Return a place in the open pack, or in a new one. Waits here while too many are on their way."""
        with self._pack_lock:
            while True:
                pack = self._pack
                slot = pack.writer.reserve(frame_bytes) if pack is not None else None
                if pack is not None and slot is not None:
                    with self._lock:
                        pack.busy += 1
                    return pack, slot
                if pack is not None:
                    self._pack = None
                    with self._lock:
                        pack.closed = True
                        last = pack.busy == 0
                    if last:
                        self._hand_over(pack)
                buffer = self._packs.buffer()
                self._pack = open_pack(self._keys, self._fence, self._fresh, buffer, beside=self._beside)

    def _hand_over(self, pack: _OpenPack) -> None:
        self._packs.emit(close_pack(pack, self._fence, self._fresh))

    def _compressor(self) -> zstandard.ZstdCompressor:
        """One per thread: they are not safe to share, and making one costs as much as using it."""
        made: zstandard.ZstdCompressor | None = getattr(self._compressors, "one", None)
        if made is None:
            made = self._compressors.one = new_compressor()
        return made


def _copied(segment: PlannedSegment) -> PlannedSegment:
    """Return a segment whose frame does not lie in a buffer that will be used again."""
    return PlannedSegment(
        kind=segment.kind,
        frame=bytes(segment.frame),
        raw_bytes=segment.raw_bytes,
        chunks=segment.chunks,
    )


def _sealed_bytes(segments: Sequence[PlannedSegment]) -> int:
    return sum(len(one.frame) + BOX_OVERHEAD_BYTES for one in segments)


def open_pack(
    keys: EpochKeys, fence: int, fresh: Fresh, buffer: bytearray, *, beside: bool = False
) -> _OpenPack:
    """Begin a pack with a random name in a buffer."""
    pack_id = fresh(16)
    name = (names.side_pack if beside else names.pack)(fence, pack_id)
    header = make_header(keys, ObjectType.PACK, name, fresh(32))
    return _OpenPack(writer=PackWriter(keys, header, name, buffer), pack_id=pack_id)


def close_pack(pack: _OpenPack, fence: int, fresh: Fresh) -> SealedPack:
    """End a pack whose segments were all sealed and checked."""
    made = pack.writer.finish(fresh=fresh(32))
    ref = PackRef(fence, pack.pack_id, len(made.raw), made.footer_bytes, made.footer_digest, made.table)
    return SealedPack(name=pack.writer.name, pack=made, ref=ref)


def seal_pack(
    keys: EpochKeys,
    segments: Sequence[PlannedSegment],
    *,
    fence: int,
    fresh: Fresh,
    beside: bool = False,
) -> SealedPack:
    """Seal segments into a pack with a random name, and decode it again."""
    size = HEADER_BYTES + _sealed_bytes(segments)
    if size > PACK_BYTES_MAX:
        raise LimitReached(limit="pack bytes", value=size)
    pack = open_pack(keys, fence, fresh, bytearray(size + 1), beside=beside)
    for segment in segments:
        slot = pack.writer.reserve(len(segment.frame))
        assert slot is not None, "the buffer was made for these"
        pack.writer.seal(slot, segment, fresh=fresh(32))
        pack.writer.check(slot)
    return close_pack(pack, fence, fresh)


def rename_pack(keys: EpochKeys, sealed: SealedPack, *, fresh: Fresh) -> SealedPack:
    """Seal the same segments under another name: the first was taken by other bytes (a cloned machine)."""
    header = open_header(keys, bytes(sealed.pack.raw[:HEADER_BYTES]), ObjectType.PACK, sealed.name)
    footer = check_pack(keys, sealed.name, sealed.pack.raw)
    planned: list[PlannedSegment] = []
    for segment in footer.segments:
        at = HEADER_BYTES + segment.offset
        box = sealed.pack.raw[at : at + segment.sealed_bytes]
        frame = unseal(header, segment.kind, segment.index, box)
        assert open_frame(frame, raw_bytes_max=SEGMENT_RAW_BYTES_MAX).kind == 0
        planned.append(
            PlannedSegment(kind=segment.kind, frame=frame, raw_bytes=segment.raw_bytes, chunks=segment.chunks)
        )
    beside = names.is_side_pack(sealed.name)
    return seal_pack(keys, planned, fence=sealed.ref.fence, fresh=fresh, beside=beside)
