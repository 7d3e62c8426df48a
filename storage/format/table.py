"""The table of an object's segments: what each sealed box must be, and which chunks lie in it.

Row, 32 bytes: sealed length u32, raw length u32, chunk count u32, box kind u8, three zero bytes, and the
first 16 bytes of BLAKE3 of the sealed box, so that a scrub needs no data key. Chunk, 20 bytes: id, raw length
u32. No offset is stored: positions are running sums, so overlaps and holes cannot be written down.

Source: storage.md 4.1 "Table".
"""

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
from blake3 import blake3

from storage.errors import LimitReached, Malformed, NotAuthentic
from storage.format.box import unseal
from storage.format.encoding import Body
from storage.format.frame import Buffer, view_frame
from storage.format.header import OpenHeader
from storage.format.keys import CHUNK_ID_BYTES, BoxKind, EpochKeys
from storage.format.limits import (
    CHUNK_BYTES_MAX,
    PACK_BYTES_MAX,
    SEALED_EXTRA_BYTES_MAX,
    SEGMENT_RAW_BYTES_MAX,
    SEGMENTS_MAX,
)

ROW_BYTES: Final = 32
CHUNK_BYTES: Final = CHUNK_ID_BYTES + 4
DIGEST_BYTES: Final = 16
_ROW: Final = struct.Struct("<IIIBBH16s")
_CHUNK: Final = struct.Struct("<16sI")
_LENGTH: Final = struct.Struct("<16xI")


class Table(Body, frozen=True):
    """`[rows, chunks]`, as it lies in footers, heads and pack references."""

    rows: bytes
    chunks: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """One checked row, with its place: offsets are from the first byte of the segment area."""

    index: int
    kind: BoxKind
    offset: int
    sealed_bytes: int
    raw_bytes: int
    digest: bytes
    refs: bytes
    """Its chunks in order, packed: there are as many as files in a home, and this is kept."""

    @property
    def chunks(self) -> tuple[tuple[bytes, int], ...]:
        """(id, raw length) in order; made at each call."""
        return tuple(checked_chunk_refs(self.refs))


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedSegment:
    """A segment before it is sealed: the frame of its chunks, and what they are."""

    kind: BoxKind
    frame: Buffer
    raw_bytes: int
    chunks: tuple[tuple[bytes, int], ...]


def digest(box: Buffer) -> bytes:
    """Return what a row says about a sealed box."""
    return blake3(box).digest(length=DIGEST_BYTES)


def make_row(planned: PlannedSegment, box: Buffer) -> tuple[bytes, bytes]:
    """Return what a table says of a segment: its row, and its packed chunk references."""
    row = (len(box), planned.raw_bytes, len(planned.chunks), planned.kind, 0, 0, digest(box))
    return _ROW.pack(*row), pack_chunk_refs(planned.chunks)


def join_rows(made: Sequence[tuple[bytes, bytes]]) -> Table:
    """Return the table of rows in the order in which their segments lie."""
    if len(made) > SEGMENTS_MAX:
        raise LimitReached(limit="segments", value=len(made))
    return Table(b"".join(row for row, _ in made), b"".join(chunks for _, chunks in made))


def make_table(segments: Iterable[tuple[PlannedSegment, bytes]]) -> Table:
    """Return the table of (planned segment, its sealed box), in the order they lie."""
    return join_rows([make_row(planned, box) for planned, box in segments])


def table_of(segments: Sequence[Segment]) -> Table:
    """Return the table that checked segments were read from."""
    rows = [
        _ROW.pack(one.sealed_bytes, one.raw_bytes, len(one.refs) // CHUNK_BYTES, one.kind, 0, 0, one.digest)
        for one in segments
    ]
    return join_rows([(row, one.refs) for row, one in zip(rows, segments, strict=True)])


def read_table(table: Table) -> tuple[Segment, ...]:
    """Return the checked rows of a table. All sums come out exactly, or it is refused."""
    rows, chunks = table.rows, table.chunks
    if len(rows) % ROW_BYTES or len(chunks) % CHUNK_BYTES or len(rows) // ROW_BYTES > SEGMENTS_MAX:
        raise Malformed(rule="table lengths")
    found: list[Segment] = []
    offset = at = 0
    for index, (sealed, raw, count, kind, zero, zeros, box_digest) in enumerate(_ROW.iter_unpack(rows)):
        if zero or zeros or kind not in (BoxKind.DATA, BoxKind.META):
            raise Malformed(rule="table row")
        if not 0 < raw <= SEGMENT_RAW_BYTES_MAX or sealed > raw + SEALED_EXTRA_BYTES_MAX:
            raise Malformed(rule="segment lengths")
        end = at + count * CHUNK_BYTES
        if end > len(chunks):
            raise Malformed(rule="chunks of a row")
        refs = chunks[at:end]
        if chunk_refs_bytes(refs) != raw:
            raise Malformed(rule="sum of chunks")
        found.append(
            Segment(
                index=index,
                kind=BoxKind(kind),
                offset=offset,
                sealed_bytes=sealed,
                raw_bytes=raw,
                digest=box_digest,
                refs=refs,
            )
        )
        offset, at = offset + sealed, end
    if at != len(chunks) or offset > PACK_BYTES_MAX:
        raise Malformed(rule="sum of the table")
    return tuple(found)


def read_chunk_refs(packed: bytes) -> list[tuple[bytes, int]]:
    """Return (id, raw length) of packed 20 byte chunk references."""
    if len(packed) % CHUNK_BYTES:
        raise Malformed(rule="chunk references")
    refs = checked_chunk_refs(packed)
    for _, length in refs:
        if not 0 < length <= CHUNK_BYTES_MAX:
            raise Malformed(rule="chunk length")
    return refs


def chunk_refs_bytes(packed: bytes) -> int:
    """Return how long the chunks of packed references are together; checked as by `read_chunk_refs`."""
    if len(packed) % CHUNK_BYTES:
        raise Malformed(rule="chunk references")
    total = 0
    for (length,) in _LENGTH.iter_unpack(packed):
        if not 0 < length <= CHUNK_BYTES_MAX:
            raise Malformed(rule="chunk length")
        total += length
    return total


def checked_chunk_refs(packed: bytes) -> list[tuple[bytes, int]]:
    """As `read_chunk_refs`, for references that were checked already, with the entry they stand in."""
    return list(_CHUNK.iter_unpack(packed))


def pack_chunk_refs(refs: Iterable[tuple[bytes, int]]) -> bytes:
    """Return the packed form of (id, raw length) pairs."""
    return b"".join([_CHUNK.pack(chunk_id, length) for chunk_id, length in refs])


def area_bytes(segments: Sequence[Segment]) -> int:
    """Return how many bytes the segments of an object take."""
    return segments[-1].offset + segments[-1].sealed_bytes if segments else 0


def open_segment(
    keys: EpochKeys, header: OpenHeader, segment: Segment, box: Buffer, *, room: memoryview | None = None
) -> Buffer:
    """Return the chunks in a sealed segment back to back, each checked against its id.

    Args:
        room: as `unseal`; what is returned may lie in it.

    Raises:
        NotAuthentic: the box is not the one of the row, or does not open.
        Malformed: it opens, and what is in it is not what the table says.
    """
    if len(box) != segment.sealed_bytes or digest(box) != segment.digest:
        raise NotAuthentic(box_kind=int(segment.kind), index=segment.index, digest="differs")
    plain = unseal(header, segment.kind, segment.index, box, room=room)
    frame = view_frame(plain, raw_bytes_max=SEGMENT_RAW_BYTES_MAX)
    if len(frame.raw) != segment.raw_bytes or frame.kind:
        raise Malformed(rule="segment raw length")
    raw = memoryview(frame.raw)
    at = 0
    for chunk_id, length in segment.chunks:
        if keys.chunk_id(segment.kind, raw[at : at + length]) != chunk_id:
            raise Malformed(rule="chunk id")
        at += length
    return frame.raw


def cut_chunks(segment: Segment, raw: Buffer) -> list[bytes]:
    """Return the chunks of an opened segment, each as bytes of its own."""
    chunks: list[bytes] = []
    at = 0
    for _, length in segment.chunks:
        chunks.append(bytes(raw[at : at + length]))
        at += length
    return chunks


table_decoder: Final = msgspec.msgpack.Decoder(Table)
