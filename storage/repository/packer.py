"""New chunks on their way into the store: collected into segments, compressed, and sealed into packs or an
entry.

Chunks are put together to 512 KiB and compressed as one frame: a better ratio, ten times fewer calls, and
chunk sizes stay hidden. Up to 1 MiB of new bytes is held back, because a small checkpoint is one object;
beyond that packs of 16 MiB leave one after the other. Metadata goes into segments of its own, at the end of
the last pack. Whatever is sealed is opened, expanded and hashed again before anybody may upload it (restic
learned this after two zstd bugs).

Called by several threads; `emit` may block them, which is the backpressure.

Source: storage.md 4.2.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from storage.errors import ObjectDamaged
from storage.format import names
from storage.format.box import unseal
from storage.format.entries import PackRef
from storage.format.envelope import seal_segments
from storage.format.frame import make_frame, open_frame
from storage.format.header import ObjectType, make_header, open_header
from storage.format.keys import BoxKind, EpochKeys
from storage.format.limits import (
    BOX_OVERHEAD_BYTES,
    HEADER_BYTES,
    INLINE_NEW_BYTES_MAX,
    KIB,
    MIB,
    SEGMENT_RAW_BYTES_MAX,
)
from storage.format.pack import PackBytes, check_pack, make_pack
from storage.format.table import PlannedSegment

SEGMENT_BYTES: Final = 512 * KIB
PACK_BYTES: Final = 16 * MIB
Fresh = Callable[[int], bytes]


class ChunkTaker(Protocol):
    """Takes chunks and names them: `NewChunks` keeps the new ones; a comparison keeps none."""

    def offer(self, kind: BoxKind, content: bytes) -> bytes:
        """Return the id of a chunk."""


@dataclass(slots=True)
class _Filling:
    """Chunks of one class that do not make a segment yet."""

    chunks: list[bytes] = field(default_factory=list)
    ids: list[tuple[bytes, int]] = field(default_factory=list)
    size: int = 0


class NewChunks:
    """Takes chunks of one checkpoint; knows which are stored already and which came twice."""

    def __init__(
        self,
        keys: EpochKeys,
        *,
        stored: Callable[[BoxKind, bytes], bool],
        emit: Callable[[list[PlannedSegment]], None],
        inline_bytes_max: int = INLINE_NEW_BYTES_MAX,
        pack_bytes: int = PACK_BYTES,
    ) -> None:
        self._keys = keys
        self._stored = stored
        self._emit = emit
        self._inline_bytes_max = inline_bytes_max
        self._pack_bytes = pack_bytes
        self._lock = threading.Lock()
        self._new: dict[BoxKind, set[bytes]] = {BoxKind.DATA: set(), BoxKind.META: set()}
        self._filling = {BoxKind.DATA: _Filling(), BoxKind.META: _Filling()}
        self._ready: dict[BoxKind, list[PlannedSegment]] = {BoxKind.DATA: [], BoxKind.META: []}
        self._sizes = {BoxKind.DATA: 0, BoxKind.META: 0}
        self._packing = False
        self.new_raw_bytes = 0

    def offer(self, kind: BoxKind, content: bytes) -> bytes:
        """Return the id of a chunk; keep the chunk if it is new."""
        chunk_id = self._keys.chunk_id(kind, content)
        if self._stored(kind, chunk_id):
            return chunk_id
        with self._lock:
            if chunk_id in self._new[kind]:
                return chunk_id
            self._new[kind].add(chunk_id)
            self.new_raw_bytes += len(content)
            filling = self._filling[kind]
            full = None
            if filling.chunks and filling.size + len(content) > SEGMENT_RAW_BYTES_MAX:
                full, filling = filling, _Filling()
                self._filling[kind] = filling
            filling.chunks.append(content)
            filling.ids.append((chunk_id, len(content)))
            filling.size += len(content)
            if full is None and filling.size >= SEGMENT_BYTES:
                full = filling
                self._filling[kind] = _Filling()
        if full is not None:
            self._close_segment(kind, full)
        return chunk_id

    def finish(self) -> list[PlannedSegment]:
        """Close what is open.

        Return the segments for the entry itself; empty if everything went into packs.
        """
        for kind in (BoxKind.DATA, BoxKind.META):
            filling, self._filling[kind] = self._filling[kind], _Filling()
            if filling.chunks:
                self._close_segment(kind, filling)
        rest = self._ready[BoxKind.DATA] + self._ready[BoxKind.META]
        self._ready = {BoxKind.DATA: [], BoxKind.META: []}
        if not self._packing and sum(self._sizes.values()) <= self._inline_bytes_max:
            return rest
        for group in _groups(rest, self._pack_bytes):
            self._emit(group)
        return []

    def _close_segment(self, kind: BoxKind, filling: _Filling) -> None:
        """Compress outside of the lock; hand a pack over when enough has come together."""
        frame = make_frame(b"".join(filling.chunks))
        segment = PlannedSegment(kind=kind, frame=frame, raw_bytes=filling.size, chunks=tuple(filling.ids))
        emitted: list[PlannedSegment] | None = None
        with self._lock:
            self._ready[kind].append(segment)
            self._sizes[kind] += len(frame) + BOX_OVERHEAD_BYTES
            self._packing = self._packing or sum(self._sizes.values()) > self._inline_bytes_max
            if self._packing and self._sizes[kind] >= self._pack_bytes:
                emitted, self._ready[kind] = self._ready[kind], []
                self._sizes[kind] = 0
        if emitted:
            self._emit(emitted)


def _groups(segments: Sequence[PlannedSegment], pack_bytes: int) -> list[list[PlannedSegment]]:
    """Cut what is left into packs; a remainder below half a pack joins the one before it."""
    groups: list[list[PlannedSegment]] = []
    size = 0
    for segment in segments:
        if not groups or size >= pack_bytes:
            groups.append([])
            size = 0
        groups[-1].append(segment)
        size += len(segment.frame) + BOX_OVERHEAD_BYTES
    if len(groups) > 1 and size < pack_bytes // 2:
        groups[-2] += groups.pop()
    return groups


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedPack:
    """A pack that was decoded again and may be uploaded."""

    name: str
    pack: PackBytes
    ref: PackRef


def seal_pack(keys: EpochKeys, segments: Sequence[PlannedSegment], *, fence: int, fresh: Fresh) -> SealedPack:
    """Seal segments into a pack with a random name, and decode it again."""
    pack_id = fresh(16)
    name = names.pack(fence, pack_id)
    header = make_header(keys, ObjectType.PACK, name, fresh(32))
    sealed = seal_segments(keys, header, segments, [fresh(32) for _ in segments])
    pack = make_pack(keys, header, sealed, fresh=fresh(32))
    footer = check_pack(keys, name, pack.raw)
    if footer.table != pack.table:
        raise ObjectDamaged(object=name, what="decoded otherwise than it was made")
    ref = PackRef(fence, pack_id, len(pack.raw), pack.footer_bytes, pack.footer_digest, pack.table)
    return SealedPack(name=name, pack=pack, ref=ref)


def rename_pack(keys: EpochKeys, sealed: SealedPack, *, fresh: Fresh) -> SealedPack:
    """Seal the same segments under another name: the first was taken by other bytes (a cloned machine)."""
    header = open_header(keys, sealed.pack.raw[:HEADER_BYTES], ObjectType.PACK, sealed.name)
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
    return seal_pack(keys, planned, fence=sealed.ref.fence, fresh=fresh)
