"""Packs: header, segment boxes back to back, a sealed footer with the table, and a trailer of 16 bytes.

Trailer: footer length u32, segment count u32, `CKPTPACK`. A pack is written once and whole; its name is
random, so its footer is found from its end, or from the pack reference in a log entry.

Source: storage.md 4.1 "Pack".
"""

import struct
from dataclasses import dataclass
from typing import Final

from blake3 import blake3

from storage.errors import LimitReached, Malformed
from storage.format.box import seal, unseal
from storage.format.encoding import decode, encode
from storage.format.frame import make_frame, open_frame
from storage.format.header import ObjectType, OpenHeader, open_header
from storage.format.keys import BoxKind, EpochKeys
from storage.format.limits import (
    BOX_OVERHEAD_BYTES,
    HEAD_RAW_BYTES_MAX,
    HEADER_BYTES,
    PACK_BYTES_MAX,
    SEALED_EXTRA_BYTES_MAX,
    SEGMENTS_MAX,
    TRAILER_BYTES,
)
from storage.format.table import (
    PlannedSegment,
    Segment,
    Table,
    area_bytes,
    make_table,
    open_segment,
    read_table,
    table_decoder,
)

END_MAGIC: Final = b"CKPTPACK"
_TRAILER: Final = struct.Struct("<II8s")


@dataclass(frozen=True, slots=True, kw_only=True)
class PackBytes:
    """A finished pack, with what its reference in a log entry needs."""

    raw: bytes
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


def make_pack(
    keys: EpochKeys,
    header: OpenHeader,
    sealed: list[tuple[PlannedSegment, bytes]],
    *,
    fresh: bytes,
    compress: bool = True,
) -> PackBytes:
    """Return the pack of segments that were sealed under `header` with indexes 0, 1, 2 and so on."""
    table = make_table(sealed)
    frame = make_frame(encode(table), compress=compress)
    footer = seal(keys, header, BoxKind.FOOTER, len(sealed), frame, fresh=fresh)
    trailer = _TRAILER.pack(len(footer), len(sealed), END_MAGIC)
    raw = b"".join((header.raw, *(box for _, box in sealed), footer, trailer))
    if len(raw) > PACK_BYTES_MAX:
        raise LimitReached(limit="pack bytes", value=len(raw))
    return PackBytes(raw=raw, table=table, footer_bytes=len(footer), footer_digest=blake3(footer).digest())


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


def read_footer(header: OpenHeader, footer: bytes, count: int, *, pack_bytes: int, name: str) -> Footer:
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


def read_pack(keys: EpochKeys, name: str, raw: bytes) -> tuple[Footer, list[list[bytes]]]:
    """Open a whole pack and return its footer and the chunks of every segment."""
    header, footer = _open_pack(keys, name, raw)
    end = len(raw) - TRAILER_BYTES - footer.footer_bytes
    return footer, read_segments(keys, header, footer.segments, raw[HEADER_BYTES:end])


def check_pack(keys: EpochKeys, name: str, raw: bytes) -> Footer:
    """Open a whole pack as `read_pack` does, one segment after the other, and keep the footer only."""
    header, footer = _open_pack(keys, name, raw)
    for segment in footer.segments:
        at = HEADER_BYTES + segment.offset
        open_segment(keys, header, segment, raw[at : at + segment.sealed_bytes])
    return footer


def _open_pack(keys: EpochKeys, name: str, raw: bytes) -> tuple[OpenHeader, Footer]:
    header = open_header(keys, raw[:HEADER_BYTES], ObjectType.PACK, name)
    footer_bytes, count = read_trailer(raw[-TRAILER_BYTES:], pack_bytes=len(raw), name=name)
    end = len(raw) - TRAILER_BYTES - footer_bytes
    footer = read_footer(header, raw[end : end + footer_bytes], count, pack_bytes=len(raw), name=name)
    return header, footer


def read_segments(
    keys: EpochKeys, header: OpenHeader, segments: tuple[Segment, ...], area: bytes
) -> list[list[bytes]]:
    """Open every segment of an area of sealed boxes. The area must hold exactly these."""
    if area_bytes(segments) != len(area):
        raise Malformed(rule="sum of the segments")
    return [
        open_segment(keys, header, segment, area[segment.offset : segment.offset + segment.sealed_bytes])
        for segment in segments
    ]
