"""Packs: header, segment boxes back to back, a sealed footer with the table, and a trailer of 16 bytes.

Trailer: footer length u32, segment count u32, `CKPTPACK`. A pack is written once and whole; its name is
random, so its footer is found from its end, or from the pack reference in a log entry.

Source: storage.md 4.1 "Pack".
"""

import dataclasses
import struct
from dataclasses import dataclass
from typing import Final

from blake3 import blake3

from storage.errors import LimitReached, Malformed, ObjectDamaged
from storage.format.box import seal, seal_into, unseal
from storage.format.encoding import decode, encode
from storage.format.frame import Buffer, make_frame, open_frame, view_frame
from storage.format.header import ObjectType, OpenHeader, open_header
from storage.format.keys import BoxKind, EpochKeys
from storage.format.limits import (
    BOX_OVERHEAD_BYTES,
    FRAME_OVERHEAD_BYTES,
    HEAD_RAW_BYTES_MAX,
    HEADER_BYTES,
    PACK_BYTES_MAX,
    SEALED_EXTRA_BYTES_MAX,
    SEGMENT_RAW_BYTES_MAX,
    SEGMENTS_MAX,
    TRAILER_BYTES,
)
from storage.format.table import (
    PlannedSegment,
    Segment,
    Table,
    area_bytes,
    cut_chunks,
    join_rows,
    make_row,
    open_segment,
    read_table,
    table_decoder,
)

END_MAGIC: Final = b"CKPTPACK"
_TRAILER: Final = struct.Struct("<II8s")


@dataclass(frozen=True, slots=True, kw_only=True)
class PackBytes:
    """A finished pack, with what its reference in a log entry needs."""

    raw: bytearray
    table: Table
    footer_bytes: int
    footer_digest: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Footer:
    """The checked end of a pack."""

    table: Table
    segments: tuple[Segment, ...]
    footer_bytes: int
    footer_digest: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class PackSlot:
    """A place in a pack that was given to one segment."""

    index: int
    offset: int
    sealed_bytes: int


class PackWriter:
    """A pack being made in a buffer of a fixed size, which may have been used before.

    Places are reserved one after the other; what is reserved may be sealed and checked by several threads at
    once. The caller sees to it that nobody seals any more when the pack is finished.
    """

    def __init__(self, keys: EpochKeys, header: OpenHeader, name: str, buffer: bytearray) -> None:
        assert len(buffer) > HEADER_BYTES, "a buffer has room"
        self.name = name
        self._keys = keys
        self._header = header
        self._buffer = buffer
        self._end = HEADER_BYTES
        self._rows: list[tuple[bytes, bytes] | None] = []
        buffer[:HEADER_BYTES] = header.raw

    def reserve(self, frame_bytes: int) -> PackSlot | None:
        """Return a place for the box of a frame, or None if the buffer has no room for it."""
        sealed = frame_bytes + BOX_OVERHEAD_BYTES
        if self._end + sealed > len(self._buffer) or len(self._rows) == SEGMENTS_MAX:
            return None
        slot = PackSlot(index=len(self._rows), offset=self._end, sealed_bytes=sealed)
        self._rows.append(None)
        self._end += sealed
        return slot

    def seal(self, slot: PackSlot, planned: PlannedSegment, *, fresh: bytes) -> None:
        """Seal a segment into its place."""
        with self._room(slot) as room:
            seal_into(self._keys, self._header, planned.kind, slot.index, planned.frame, room, fresh=fresh)
            self._rows[slot.index] = make_row(planned, room)

    def check(self, slot: PackSlot) -> None:
        """Open a sealed segment as a reader will, by what its row says."""
        row = self._rows[slot.index]
        assert row is not None, "sealed before it is checked"
        [segment] = read_table(Table(*row))
        place = dataclasses.replace(segment, index=slot.index, offset=slot.offset - HEADER_BYTES)
        with self._room(slot) as room:
            open_segment(self._keys, self._header, place, room)

    def check_against(self, slot: PackSlot, kind: BoxKind, source: bytearray, raw_bytes: int) -> None:
        """Open a segment that was just sealed, and compare what comes out with what went in.

        That is what a reader does, but for the hashes of box and chunks: they were taken over these very
        bytes a moment ago, in this process, and would only be taken again.

        Args:
            source: the chunks, behind room for the prefix of a frame; untouched since they were compressed.
            raw_bytes: of the chunks.
        """
        with self._room(slot) as room:
            plain = unseal(self._header, kind, slot.index, room)
        frame = view_frame(plain, raw_bytes_max=SEGMENT_RAW_BYTES_MAX)
        stored = isinstance(frame.raw, memoryview)  # then it lies in `plain`, behind the same prefix
        same = source.startswith(plain) if stored else source.startswith(frame.raw, FRAME_OVERHEAD_BYTES)
        if len(frame.raw) != raw_bytes or not same:
            raise ObjectDamaged(object=self.name, what="decoded otherwise than it was made")

    def finish(self, *, fresh: bytes, compress: bool = True) -> PackBytes:
        """Put footer and trailer behind the last segment, and open the footer again.

        The bytes are the buffer itself, cut to the pack's length.
        """
        rows = [row for row in self._rows if row is not None]
        assert len(rows) == len(self._rows), "every reserved place was sealed"
        table = join_rows(rows)
        frame = make_frame(encode(table), compress=compress)
        footer = seal(self._keys, self._header, BoxKind.FOOTER, len(rows), frame, fresh=fresh)
        raw = self._buffer
        del raw[self._end :]
        raw += footer + _TRAILER.pack(len(footer), len(rows), END_MAGIC)
        if len(raw) > PACK_BYTES_MAX:
            raise LimitReached(limit="pack bytes", value=len(raw))
        opened = read_footer(self._header, footer, len(rows), pack_bytes=len(raw), name=self.name)
        if opened.table != table:
            raise ObjectDamaged(object=self.name, what="decoded otherwise than it was made")
        return PackBytes(
            raw=raw, table=table, footer_bytes=len(footer), footer_digest=blake3(footer).digest()
        )

    def _room(self, slot: PackSlot) -> memoryview:
        return memoryview(self._buffer)[slot.offset : slot.offset + slot.sealed_bytes]


def read_trailer(trailer: bytes, *, pack_bytes: int, name: str) -> tuple[int, int]:
    """Return (footer length, segment count) of a pack's last 16 bytes, checked against the pack's size."""
    if len(trailer) != TRAILER_BYTES:
        raise Malformed(rule="pack trailer", object=name)
    footer_bytes, count, magic = _TRAILER.unpack(trailer)
    if magic != END_MAGIC or count > SEGMENTS_MAX:
        raise Malformed(rule="pack trailer", object=name)
    if not BOX_OVERHEAD_BYTES <= footer_bytes <= HEAD_RAW_BYTES_MAX + SEALED_EXTRA_BYTES_MAX:
        raise Malformed(rule="pack footer length", object=name)
    if HEADER_BYTES + footer_bytes + TRAILER_BYTES > pack_bytes or pack_bytes > PACK_BYTES_MAX:
        raise Malformed(rule="pack size", object=name)
    return footer_bytes, count


def read_footer(header: OpenHeader, footer: Buffer, count: int, *, pack_bytes: int, name: str) -> Footer:
    """Open a footer box and check every sum against the size of the pack."""
    frame = open_frame(unseal(header, BoxKind.FOOTER, count, footer), raw_bytes_max=HEAD_RAW_BYTES_MAX)
    if frame.kind:
        raise Malformed(rule="pack footer", object=name)
    table = decode(table_decoder, frame.raw, what="pack footer")
    segments = read_table(table)
    total = HEADER_BYTES + area_bytes(segments) + len(footer) + TRAILER_BYTES
    if len(segments) != count or total != pack_bytes:
        raise Malformed(rule="sum of the pack", object=name)
    return Footer(
        table=table,
        segments=segments,
        footer_bytes=len(footer),
        footer_digest=blake3(footer).digest(),
    )


def read_pack(keys: EpochKeys, name: str, raw: Buffer) -> tuple[Footer, list[list[bytes]]]:
    """Open a whole pack and return its footer and the chunks of every segment."""
    header, footer = _open_pack(keys, name, raw)
    end = len(raw) - TRAILER_BYTES - footer.footer_bytes
    return footer, read_segments(keys, header, footer.segments, raw[HEADER_BYTES:end])


def check_pack(keys: EpochKeys, name: str, raw: Buffer) -> Footer:
    """Open a whole pack as `read_pack` does, one segment after the other, and keep the footer only."""
    header, footer = _open_pack(keys, name, raw)
    view = memoryview(raw)
    for segment in footer.segments:
        at = HEADER_BYTES + segment.offset
        open_segment(keys, header, segment, view[at : at + segment.sealed_bytes])
    return footer


def _open_pack(keys: EpochKeys, name: str, raw: Buffer) -> tuple[OpenHeader, Footer]:
    header = open_header(keys, bytes(raw[:HEADER_BYTES]), ObjectType.PACK, name)
    footer_bytes, count = read_trailer(bytes(raw[-TRAILER_BYTES:]), pack_bytes=len(raw), name=name)
    end = len(raw) - TRAILER_BYTES - footer_bytes
    footer = read_footer(header, raw[end : end + footer_bytes], count, pack_bytes=len(raw), name=name)
    return header, footer


def read_segments(
    keys: EpochKeys, header: OpenHeader, segments: tuple[Segment, ...], area: Buffer
) -> list[list[bytes]]:
    """Open every segment of an area of sealed boxes. The area must hold exactly these."""
    if area_bytes(segments) != len(area):
        raise Malformed(rule="sum of the segments")
    view = memoryview(area)
    opened: list[list[bytes]] = []
    for segment in segments:
        box = view[segment.offset : segment.offset + segment.sealed_bytes]
        opened.append(cut_chunks(segment, open_segment(keys, header, segment, box)))
    return opened
